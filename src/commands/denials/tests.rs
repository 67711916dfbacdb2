use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Log;

const AUDIT: &str = "audit: type=1400 audit(1795678689.160:4): ";

fn log(lines: &[&str]) -> Log {
    let mut log = Log::default();
    log.read(lines.join("\n").as_bytes()).unwrap();
    log
}

fn json(log: &Log) -> Value {
    serde_json::from_str(&log.text(true)).unwrap()
}

/// Of the only denial in `lines`.
#[track_caller]
fn denial(lines: &[&str]) -> Value {
    let document = json(&log(lines));
    let denials = document["denials"].as_array().unwrap();
    assert_eq!(denials.len(), 1, "{lines:?}: {document:#}");
    denials[0].clone()
}

#[track_caller]
fn record(fields: &str) -> Value {
    denial(&[&format!("{AUDIT}apparmor=\"DENIED\" {fields}")])
}

/// The text after `apparmor="DENIED"`, the object, and the rule. The kernel's words are those of 6.1, 6.12
/// and 7.2; of Ubuntu's for `requested=` and `denied=`; of dbus-daemon and dbus-broker for D-Bus.
const RECORDS: [(&str, &str, &str); 45] = [
    (
        r#"operation="open" profile="custom.web" name="/etc/shadow" pid=142 comm="cat" requested_mask="r" denied_mask="r" fsuid=0 ouid=0"#,
        "/etc/shadow",
        "owner /etc/shadow r,",
    ),
    (
        r#"operation="open" class="file" profile="custom.web" name="/etc/shadow" pid=142 comm="cat" requested_mask="wr" denied_mask="wr" fsuid=1000 ouid=0"#,
        "/etc/shadow",
        "/etc/shadow rw,",
    ),
    (
        r#"operation="open" profile="custom.web" name="/log" requested_mask="ra" denied_mask="a" fsuid=1 ouid=2"#,
        "/log",
        "/log a,",
    ),
    (
        r#"operation="file_perm" profile="custom.web" name="/log" requested_mask="wa" denied_mask="wa" fsuid=1 ouid=2"#,
        "/log",
        "/log w,",
    ),
    (
        r#"operation="mknod" profile="custom.web" name="/run/pid" requested_mask="c" denied_mask="c" fsuid=0 ouid=0"#,
        "/run/pid",
        "owner /run/pid w,",
    ),
    // Old kernels do not say whose it is.
    (
        r#"operation="open" profile="custom.web" name="/a" requested_mask="r::" denied_mask="r::""#,
        "/a",
        "/a r,",
    ),
    (
        r#"operation="mkdir" profile="custom.web" name="/run/a/" requested_mask="c" denied_mask="c" fsuid=0 ouid=0"#,
        "/run/a/",
        "owner /run/a/ w,",
    ),
    (
        r#"operation="unlink" profile="custom.web" name="/run/pid" requested_mask="d" denied_mask="d" fsuid=0 ouid=0"#,
        "/run/pid",
        "owner /run/pid w,",
    ),
    (
        r#"operation="rename_src" profile="custom.web" name="/a" requested_mask="wrd" denied_mask="wrd" fsuid=0 ouid=0"#,
        "/a",
        "owner /a rw,",
    ),
    (
        r#"operation="link" profile="custom.web" name="/new" requested_mask="l" denied_mask="l" fsuid=0 ouid=1 target="/old""#,
        "/new /old",
        "link /new -> /old,",
    ),
    (
        r#"operation="file_lock" profile="custom.web" name="/a" requested_mask="wk" denied_mask="k" fsuid=0 ouid=0"#,
        "/a",
        "owner /a k,",
    ),
    (
        r#"operation="file_mmap" profile="custom.web" name="/a" requested_mask="rm" denied_mask="rm" fsuid=0 ouid=0"#,
        "/a",
        "owner /a rm,",
    ),
    (
        r#"operation="exec" profile="custom.web" name="/bin/sh" requested_mask="x" denied_mask="x" fsuid=7 ouid=0"#,
        "/bin/sh",
        "/bin/sh ix,",
    ),
    (
        r#"operation="open" profile="custom.web" name=2F7372762F612062 requested_mask="r" denied_mask="r" fsuid=7 ouid=0"#,
        "/srv/a b",
        "\"/srv/a b\" r,",
    ),
    (
        r#"operation="open" profile="custom.web" name="/a*[b]{c,d}?\^" requested_mask="r" denied_mask="r" fsuid=7 ouid=0"#,
        r"/a*[b]{c,d}?\^",
        r#""/a\*\[b\]\{c,d\}\?\\\^" r,"#,
    ),
    (
        r#"operation="capable" profile="custom.web" pid=9 comm="x" capability=21  capname="sys_admin""#,
        "sys_admin",
        "capability sys_admin,",
    ),
    (
        r#"operation="create" profile="custom.web" family="inet" sock_type="stream" protocol=0 requested_mask="create" denied_mask="create""#,
        "inet stream create",
        "network inet stream,",
    ),
    (
        r#"operation="connect" class="net" profile="custom.web" daddr=192.0.2.1 dest=80 family="inet6" sock_type="dgram" protocol=17 requested="connect" denied="connect""#,
        "inet6 dgram connect",
        "network inet6 dgram,",
    ),
    (
        r#"operation="sendmsg" profile="custom.web" laddr=192.0.2.1 lport=80 family="inet" sock_type="raw" protocol=6"#,
        "inet raw",
        "network inet raw,",
    ),
    (
        r#"operation="create" class="net" profile="custom.web" family="unix" sock_type="stream" protocol=0 requested_mask="create" denied_mask="create""#,
        "unix stream create",
        "network unix stream,",
    ),
    (
        r#"operation="create" class="net" profile="custom.web" family="unix" sock_type="stream" protocol=0 requested_mask="create" denied_mask="create" addr=none"#,
        "unix stream create none",
        "unix (create) type=stream,",
    ),
    (
        r#"operation="bind" class="net" profile="custom.web" family="unix" sock_type="dgram" protocol=0 requested="bind" denied="bind" addr="@a""#,
        "unix dgram bind @a",
        "unix (bind) type=dgram addr=@a,",
    ),
    (
        r#"operation="connect" class="net" profile="custom.web" family="unix" sock_type="stream" protocol=0 requested="send connect" denied="send connect" addr=none peer_addr="@b" peer="custom.db""#,
        "unix stream send connect @b custom.db",
        "unix (send connect) type=stream peer=(addr=@b label=custom.db),",
    ),
    (
        r#"operation="accept" class="net" profile="custom.web" family="unix" sock_type="stream" protocol=0 requested="accept" denied="accept" addr="@a" peer_addr=none peer="unconfined""#,
        "unix stream accept @a unconfined",
        "unix (accept) type=stream addr=@a peer=(label=unconfined),",
    ),
    (
        r#"operation="signal" profile="custom.web" requested_mask="receive" denied_mask="receive" signal=term peer="runc""#,
        "receive term runc",
        "signal (receive) set=(term) peer=runc,",
    ),
    (
        r#"operation="signal" profile="custom.web" requested_mask="send" denied_mask="send" signal=rtmin+5 peer="a//b""#,
        "send rtmin+5 a//b",
        "signal (send) set=(rtmin+5) peer=a//b,",
    ),
    (
        r#"operation="ptrace" profile="custom.web" requested_mask="readby" denied_mask="readby" peer="custom.x""#,
        "readby custom.x",
        "ptrace (readby) peer=custom.x,",
    ),
    (
        r#"operation="mount" info="failed mntpnt match" error=-13 profile="custom.web" name="/mnt/" fstype="tmpfs" srcname="none""#,
        "tmpfs none /mnt/",
        "mount fstype=tmpfs options=(rw) none -> /mnt/,",
    ),
    (
        r#"operation="mount" profile="custom.web" name="/mnt/" srcname="/srv/" flags="rw, rbind""#,
        "rw, rbind /srv/ /mnt/",
        "mount options=(rw, rbind) /srv/ -> /mnt/,",
    ),
    (
        r#"operation="mount" info="failed flags match" error=-13 profile="custom.web" name="/" flags="ro, remount, bind""#,
        "ro, remount, bind /",
        "mount options=(ro, remount, bind) -> /,",
    ),
    (
        r#"operation="umount" profile="custom.web" name="/mnt/""#,
        "/mnt/",
        "umount /mnt/,",
    ),
    (
        r#"operation="pivotroot" profile="custom.web" name="/new/" srcname="/new/old/""#,
        "/new/old/ /new/",
        "pivot_root oldroot=/new/old/ /new/,",
    ),
    (
        r#"operation="change_profile" profile="custom.web" name="custom.db" target="custom.db""#,
        "custom.db",
        "change_profile -> custom.db,",
    ),
    (
        r#"operation="change_onexec" class="file" profile="custom.web" name="custom.db" target="custom.db""#,
        "custom.db",
        "change_profile -> custom.db,",
    ),
    (
        r#"operation="userns_create" class="namespace" profile="custom.web" requested="userns_create" denied="userns_create" execpath="/usr/bin/unshare""#,
        "/usr/bin/unshare",
        "userns create,",
    ),
    (
        r#"operation="uring_sqpoll" class="io_uring" profile="custom.web" requested="sqpoll" denied="sqpoll""#,
        "",
        "io_uring sqpoll,",
    ),
    (
        r#"operation="uring_override" class="io_uring" profile="custom.web" requested="override_creds" denied="override_creds" tcontext="custom.db""#,
        "custom.db",
        "io_uring override_creds label=custom.db,",
    ),
    (
        r#"operation="open" class="posix_mqueue" profile="custom.web" name="/queue" requested="read create" denied="read" fsuid=0 ouid=0"#,
        "read /queue",
        "mqueue (read) type=posix /queue,",
    ),
    (
        r#"operation="sysv_mqueue" class="sysv_mqueue" profile="custom.web" name="123" requested="create" denied="create""#,
        "create 123",
        "mqueue (create) type=sysv 123,",
    ),
    (
        r#"operation="dbus_bind"  bus="system" name="org.example" mask="bind" pid=1 label="custom.web""#,
        "system org.example",
        "dbus bind bus=system name=org.example,",
    ),
    (
        r#"operation="dbus_method_call"  bus="session" path="/org/a" interface="org.a" method="Go" mask="send" name="org.a" pid=1 label="custom.web" peer_pid=2 peer_label="unconfined""#,
        "session send org.a /org/a org.a Go unconfined",
        "dbus send bus=session path=/org/a interface=org.a member=Go peer=(name=org.a label=unconfined),",
    ),
    (
        r#"operation="dbus_signal"  bus="system" path="/org/a" interface="org.a" member="Done" mask="receive" name=":1.5" pid=1 profile="custom.web" peer_profile="custom.db""#,
        "system receive /org/a org.a Done custom.db",
        "dbus (receive) bus=system path=/org/a interface=org.a member=Done peer=(label=custom.db),",
    ),
    (
        r#"operation="dbus_method_call"  bus="session" path="/org/a" mask="eavesdrop" label="custom.web""#,
        "session eavesdrop",
        "dbus eavesdrop bus=session,",
    ),
    (
        r#"operation="getattr" info="Failed name lookup - disconnected path" error=-13 profile="custom.web" name="dev/null" requested_mask="r" denied_mask="r" fsuid=0 ouid=0"#,
        "dev/null",
        "owner /dev/null r, # and the profile needs flags=(attach_disconnected)",
    ),
    (
        r#"operation="exec" info="no new privs" error=-1 profile="custom.web" name="/bin/su" requested_mask="x" denied_mask="x" fsuid=0 ouid=0 target="custom.su""#,
        "custom.su",
        "# no rule can allow this: no_new_privs forbids the change of profile; execute under this one (ix)",
    ),
];

#[test]
fn each_kind_of_record_has_its_object_and_its_rule() {
    for (fields, object, rule) in RECORDS {
        let denial = record(fields);
        assert_eq!(denial["profile"], "custom.web", "{fields}");
        assert_eq!(denial["object"], object, "{fields}");
        assert_eq!(denial["rule"], rule, "{fields}");
    }
}

/// Of the rules, those that parser 3.0 knows; the others are loaded in tests/guest.
#[test]
fn the_compiler_takes_every_rule() {
    let is_newer = |rule: &&str| {
        let class = rule.split(' ').next().unwrap_or_default();
        ["userns", "io_uring", "mqueue"].contains(&class)
    };
    let rules = RECORDS.iter().map(|(_, _, rule)| *rule);
    let rules: Vec<&str> = rules.filter(|rule| !is_newer(rule)).collect();
    assert!(rules.len() > 35);
    let text = format!("profile custom.web {{\n{}\n}}\n", rules.join("\n"));
    let mut parser = Command::new("/sbin/apparmor_parser")
        .args(["-Q", "-K", "-S"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = parser.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = parser.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
}

#[test]
fn a_record_that_says_too_little_has_no_rule() {
    for fields in [
        // Cut in the middle.
        r#"operation="open" profile="custom.web" name="/etc/shadow" pid=142 com"#,
        r#"operation="signal" profile="custom.web" requested_mask="send" denied_ma"#,
        // No names of the kernel's.
        r#"operation="signal" profile="custom.web" denied_mask="send" signal=unknown(99) peer="a""#,
        r#"operation="create" profile="custom.web" family="unknown(46)" sock_type="stream""#,
        // No rule of one clean line.
        r#"operation="open" profile="custom.web" name=2F610A62 denied_mask="r" fsuid=0 ouid=0"#,
        r#"operation="open" profile="custom.web" name=2F61FF denied_mask="r" fsuid=0 ouid=0"#,
        r#"operation="change_hat" info="unconfined" error=-1 profile="custom.web""#,
        r#"operation="setrlimit" profile="custom.web" rlimit=nofile value=4096"#,
    ] {
        let rule = record(fields)["rule"].clone();
        let rule = rule.as_str().unwrap();
        assert!(rule.starts_with("# no rule"), "{fields}: {rule}");
    }
    let two = record(r#"operation="capable" profile="custom.web" capname="a, capability b""#);
    assert_eq!(
        two["rule"], "capability \"a, capability b\",",
        "one name, which is none"
    );
    let cut = r#"operation="open" profile="custom.web" name="/etc/sha"#;
    assert_eq!(record(cut)["object"], "");
}

const FIELDS: &str = r#"apparmor="DENIED" operation="open" class="file" profile="custom.web" name="/a" pid=1 comm="cat" requested_mask="r" denied_mask="r" fsuid=0 ouid=0"#;
const UTC: &str = "2026-11-26T07:38:09Z";

fn quoted(text: &str) -> String {
    text.replace('"', "\\\"")
}

/// The same event in each form, and the time that is known of it.
fn event_in_each_form() -> Vec<(String, &'static str)> {
    let numbered = "audit(1795678689.160:4): ".to_owned() + FIELDS;
    let audit = format!("audit: type=1400 {numbered}");
    vec![
        (format!("[   37.841445] {audit}"), UTC),
        (format!("[Thu Nov 26 07:38:09 2026] {audit}"), UTC),
        (format!("kern  :notice: [   37.8] {audit}"), UTC),
        (format!("5,375,9244116,-;{audit}"), UTC),
        (format!("Nov 26 07:38:09 node kernel: {audit}"), UTC),
        (
            format!("Nov 26 07:38:09 node kernel: [   37.8] {audit}"),
            UTC,
        ),
        (
            format!("2026-11-26T07:38:09.1+01:00 node kernel: [   37.8] type=1400 {numbered}"),
            UTC,
        ),
        (
            format!("type=AVC msg={numbered}\u{1d}FSUID=\"root\" OUID=\"root\""),
            UTC,
        ),
        (format!("type=1400 {numbered}"), UTC),
        (numbered.clone(), UTC),
        (format!("audit.log:type=AVC msg={numbered}"), UTC),
        (format!("MESSAGE={audit}"), UTC),
        (
            format!("Nov 26 07:38:09 node audit[170]: AVC {FIELDS}"),
            "null",
        ),
        (
            format!("2026-11-26T07:38:09Z node audit[170]: AVC {FIELDS}"),
            UTC,
        ),
        (
            format!(
                r#"{{"_TRANSPORT":"kernel","SYSLOG_IDENTIFIER":"kernel","_SOURCE_REALTIME_TIMESTAMP":"1","MESSAGE":"audit: type=1400 {}"}}"#,
                quoted(&numbered)
            ),
            UTC,
        ),
        (
            format!(
                r#"{{"_TRANSPORT":"audit","_SOURCE_REALTIME_TIMESTAMP":"1795678689160123","MESSAGE":"audit: AVC {}"}}"#,
                quoted(FIELDS)
            ),
            UTC,
        ),
        (
            format!(
                "type=USER_AVC msg=audit(1795678689.160:4): pid=3 uid=1 ses=2  msg='{FIELDS} exe=\"/usr/bin/dbus-daemon\" hostname=? addr=? terminal=?'"
            ),
            UTC,
        ),
    ]
}

#[test]
fn each_log_is_read() {
    for (line, time) in event_in_each_form() {
        let denial = denial(&[&line]);
        assert_eq!(denial["object"], "/a", "{line}");
        assert_eq!(denial["rule"], "owner /a r,", "{line}");
        assert_eq!(denial["verdict"], "denied", "{line}");
        let [first, last] = ["first", "last"].map(|key| denial[key].as_str().unwrap_or("null"));
        assert_eq!((first, last), (time, time), "{line}");
    }
}

#[test]
fn records_of_other_kinds_are_passed_over() {
    let log = log(&[
        r#"audit: type=1400 audit(1.2:3): apparmor="STATUS" operation="profile_load" profile="unconfined" name="a""#,
        r#"audit: type=1400 audit(1.2:3): apparmor="AUDIT" operation="open" profile="a" name="/b""#,
        "AppArmor: AppArmor initialized",
        "type=SYSCALL msg=audit(1.2:3): arch=c000003e syscall=257",
        "{\"MESSAGE\":null}",
        "17",
        "",
    ]);
    assert_eq!(log.text(false), "no denial found\n");
}

#[test]
fn the_same_denial_is_counted_and_its_times_are_kept_in_any_order() {
    let line = |seconds: u32, serial: u32| {
        format!(
            r#"audit({seconds}.0:{serial}): apparmor="DENIED" operation="capable" profile="a" capname="kill""#
        )
    };
    let (old, new) = (line(10, 1), line(99, 2));
    let denial = denial(&[&new, &old, &old, &new]);
    assert_eq!(
        denial["count"], 2,
        "the numbers show that there were two events"
    );
    assert_eq!(denial["first"], "1970-01-01T00:00:10Z");
    assert_eq!(denial["last"], "1970-01-01T00:01:39Z");
}

#[test]
fn the_journals_second_copy_is_not_counted() {
    let fields = r#"apparmor="DENIED" operation="capable" profile="a" capname="kill""#;
    let kernel =
        |n: u32| format!("Nov 26 07:38:09 node kernel: audit: type=1400 audit(10.0:{n}): {fields}");
    let copy = format!("Nov 26 07:38:09 node audit[170]: AVC {fields}");
    assert_eq!(denial(&[&kernel(1), &copy, &copy, &kernel(2)])["count"], 2);
    assert_eq!(denial(&[&copy, &copy, &copy])["count"], 3);
}

#[test]
fn an_access_that_complain_mode_allowed_counts_for_the_parent() {
    let line = |verdict: &str, profile: &str| {
        format!(
            r#"{AUDIT}apparmor="{verdict}" operation="open" profile="{profile}" name="/a" denied_mask="r" fsuid=0 ouid=0"#
        )
    };
    let would_be = denial(&[&line("ALLOWED", "custom.web//null-/usr/bin/cat//null-/b")]);
    assert_eq!(would_be["profile"], "custom.web");
    assert_eq!(would_be["verdict"], "would be denied");
    assert_eq!(
        denial(&[&line("DENIED", "custom.web//child")])["profile"],
        "custom.web//child"
    );
    assert_eq!(
        denial(&[&line("KILLED", "custom.web")])["verdict"],
        "killed"
    );
}

#[test]
fn gaps_are_reported_and_hide_no_record() {
    for line in [
        "[    9.1] kauditd_printk_skb: 36 callbacks suppressed",
        "[    9.1] __ratelimit: 36 callbacks suppressed",
        "[    9.1] audit: audit_lost=7 audit_rate_limit=0 audit_backlog_limit=64",
        "[    9.1] ** 12 printk messages dropped **",
    ] {
        let text = log(&[line]).text(false);
        assert!(text.contains("lower bound"), "{line}: {text}");
    }
    let other = log(&["[    9.1] net_ratelimit: 5 callbacks suppressed"]);
    assert_eq!(other.text(false), "no denial found\n");
    let name = record(r#"operation="open" profile="a" name="/audit_lost=7" denied_mask="r""#);
    assert_eq!(name["object"], "/audit_lost=7");
}

#[test]
fn a_record_in_another_programs_words_is_left_out() {
    let record = r#"audit: type=1400 audit(1.2:3): apparmor="DENIED" operation="capable" profile="custom.web" capname="sys_admin""#;
    let json = format!(
        r#"{{"_TRANSPORT":"stdout","SYSLOG_IDENTIFIER":"kernel","MESSAGE":"{}"}}"#,
        record.replace('"', "\\\"")
    );
    for line in [
        format!("Nov 26 07:38:09 node web[7]: {record}"),
        format!("Nov 26 07:38:09 node web[7]: kernel: {record}"),
        json,
    ] {
        let document = super::tests::json(&log(&[&line]));
        assert_eq!(document["denials"].as_array().unwrap().len(), 0, "{line}");
        assert!(
            document["notes"][0]
                .as_str()
                .unwrap()
                .starts_with("skipped"),
            "{line}"
        );
    }
}

#[test]
fn other_policy_namespaces_are_left_out() {
    let line = r#"audit(1.2:3): apparmor="DENIED" operation="open" namespace="root//a" profile="custom.web" name="/a" denied_mask="r""#;
    assert!(
        log(&[line])
            .text(false)
            .starts_with("no denial found\nnote: skipped")
    );
}

#[test]
fn a_value_that_comes_later_does_not_count() {
    let denial = record(
        r#"operation="userns_create" profile="custom.web" denied="userns_create" execpath="/a" operation="capable" capname="sys_admin""#,
    );
    assert_eq!(denial["operation"], "userns_create");
    assert_eq!(denial["rule"], "userns create,");
}

#[test]
fn nothing_that_a_terminal_obeys_is_printed() {
    let name = hex::encode_upper("/\u{1b}[2J\n\u{202e}ü");
    let fields = format!(
        r#"{AUDIT}apparmor="DENIED" operation="open" profile={name} name={name} denied_mask="r" fsuid=0 ouid=0"#
    );
    let text = log(&[&fields]).text(false);
    assert_eq!(text.lines().count(), 3);
    assert!(
        !text
            .replace('\n', "")
            .contains(|c: char| c.is_control() || c == '\u{202e}'),
        "{text:?}"
    );
}

/// Every line, cut at every byte and with every byte changed: no panic, and nothing but clean text.
#[test]
fn any_bytes_are_read() {
    let mut input = Vec::new();
    for (fields, _, _) in RECORDS.iter().step_by(7) {
        let line = format!("type=AVC msg={AUDIT}apparmor=\"DENIED\" {fields}\n").into_bytes();
        for at in 0..line.len() {
            input.extend_from_slice(&line[..at]);
            input.push(b'\n');
            let mut changed = line.clone();
            changed[at] = changed[at]
                .wrapping_mul(7)
                .wrapping_add(u8::try_from(at % 251).unwrap());
            input.extend(changed);
        }
    }
    let mut log = Log::default();
    log.read(input.as_slice()).unwrap();
    assert!(log.denials.len() > 100);
    assert!(
        !log.text(false)
            .contains(|c: char| c.is_control() && c != '\n')
    );
}

/// The time of a line grows with its length, and the part behind the limit is not kept.
#[test]
fn a_line_without_end_is_read_as_far_as_the_limit() {
    let fields = r#"apparmor="DENIED" operation="capable" profile="a" capname="kill" "#;
    let long = format!("{fields}{}\n{fields}\n", "a=b \"=".repeat(500_000));
    assert_eq!(json(&log(&[&long]))["denials"][0]["count"], 2);
}

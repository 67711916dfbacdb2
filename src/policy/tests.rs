use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;

fn tests(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}

/// The compiled policy of `tests/blobs`, by text and parser.
fn blobs() -> Vec<(String, Vec<u8>)> {
    let mut blobs: Vec<_> = fs::read_dir(tests("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            (stem, fs::read(path).unwrap())
        })
        .collect();
    blobs.sort();
    assert!(blobs.len() > 30, "{}", blobs.len());
    blobs
}

/// Those of one text: of several parsers.
fn blobs_of(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut blobs = blobs();
    blobs.retain(|(stem, _)| stem.split('-').next() == Some(text));
    assert!(!blobs.is_empty(), "{text}");
    blobs
}

fn line(member: &Member) -> String {
    let mut line = format!("{} {}", member.name, member.mode);
    if member.attaches {
        line.push_str(" attaches");
    }
    if let Some(namespace) = &member.namespace {
        line.push_str(" in ");
        line.push_str(namespace);
    }
    line
}

#[test]
fn members_of_each_parser_are_read() {
    let expected: &[(&str, &[&str])] = &[
        ("attachment", &["custom.b enforce attaches"]),
        ("based", &["custom.based enforce"]),
        ("classes", &["custom.classes enforce"]),
        ("complain", &["custom.f complain"]),
        (
            "family",
            &[
                "custom.c enforce",
                "custom.c//hat enforce",
                "custom.c//kid enforce",
                "custom.c//other enforce",
                "custom.d enforce",
            ],
        ),
        (
            "files",
            &[
                "custom.files enforce",
                "custom.files//kid enforce",
                "custom.links enforce",
            ],
        ),
        ("kill", &["custom.k kill"]),
        ("logged", &["custom.logged complain"]),
        (
            "names",
            &[
                "custom.with space enforce",
                "custom.{one,two} enforce attaches",
            ],
        ),
        ("namespace", &["custom.ns enforce in ns1"]),
        ("network", &["custom.n enforce"]),
        ("newer", &["custom.newer enforce"]),
        ("newest", &["custom.newest enforce"]),
        ("path", &["/usr/bin/foo enforce attaches"]),
        ("unconfined", &["custom.u unconfined"]),
        ("userns", &["custom.s enforce"]),
        ("xattrs", &["custom.x enforce attaches"]),
    ];
    for (stem, blob) in blobs() {
        let kind = stem.split('-').next().unwrap();
        let (_, lines) = expected.iter().find(|(name, _)| *name == kind).unwrap();
        let mut found: Vec<_> = members(&blob).unwrap().iter().map(line).collect();
        found.sort();
        assert_eq!(&found, lines, "{stem}");
    }
}

#[test]
fn a_truncation_is_refused() {
    for (stem, blob) in blobs() {
        let whole = members(&blob).unwrap();
        for end in (0..blob.len()).step_by(blob.len().div_ceil(150)) {
            // Between two members it is whole again.
            if let Ok(found) = members(&blob[..end]) {
                assert!(found.len() < whole.len(), "{stem} until {end}");
            }
        }
    }
}

#[test]
fn unreadable_policy_is_refused_in_words() {
    let (_, blob) = blobs().swap_remove(0);
    let with = |bytes: &[u8]| {
        let version = b"\x04\x08\0version\0\x02\x09\0\0\0";
        [&version[..], b"\x04\x08\0profile\0\x07", bytes].concat()
    };
    let flags = b"\x05\x02\0x\0\x04\x06\0flags\0\x07\x02\0\0\0\0\x02\0\0\0\0\x02\0\0\0\0\x08";
    let automaton = |length: &[u8], bytes: &[u8]| {
        let magic = b"\x1b\x5e\x78\x3d\0\0\0\x08";
        with(&[flags, &b"\x04\x06\0aadfa\0\x06"[..], length, magic, bytes].concat())
    };
    let mut compressed = vec![0; 8];
    compressed.extend([0x28, 0xb5, 0x2f, 0xfd, 0, 0]);
    for (blob, why) in [
        ([&blob[..], &[0]].concat(), "truncated before byte"),
        (Vec::new(), "truncated"),
        (vec![2; 100], "no version"),
        (vec![8; 100], "no version"),
        (compressed, "is compressed"),
        (with(b""), "truncated"),
        (with(&[7; 1000]), "truncated"),
        (with(b"\x05\x02\0x\0\x08"), "an unknown mode"),
        (with(b"\x08"), "a profile without a name"),
        (with(b"\x0d"), "an unknown kind"),
        (with(b"\x05\x02\0xx"), "an unterminated string"),
        (with(b"\x05\x02\0\xff\0"), "not UTF-8"),
        (automaton(b"\x08\0\0\0", b""), "do not fit together"),
        (
            automaton(b"\x10\0\0\0", b"\0\x01\0\x04\0\0\0\0"),
            "incomplete table",
        ),
    ] {
        let message = members(&blob).unwrap_err();
        assert!(message.contains(why), "{message} is not {why}");
    }
}

/// Asks everything of everything, as far as it can be read.
pub(crate) fn ask_all(blob: &[u8]) -> usize {
    let Ok(profiles) = profiles(blob) else {
        return 0;
    };
    let mut allowed = 0;
    for profile in profiles.iter().take(4) {
        for question in [
            "read /etc/hosts",
            "owner exec /usr/bin/sh",
            "exec /opt/px",
            "link /a /b",
            "capability sys_admin",
            "network inet stream",
            "network unix dgram",
            "signal receive term runc",
            "ptrace readby custom.x",
            "userns",
        ] {
            let words: Vec<&str> = question.split(' ').collect();
            let answer = profile.answer(&Question::parse(&words).unwrap());
            allowed += usize::from(!matches!(answer, Answer::Denied(_)));
        }
    }
    allowed
}

#[test]
fn no_changed_byte_makes_it_panic_or_loop() {
    for (_, mut blob) in blobs() {
        ask_all(&blob);
        for at in (0..blob.len()).step_by(blob.len().div_ceil(25)) {
            for flip in [0xff, 0x01, 0x80] {
                blob[at] ^= flip;
                ask_all(&blob);
                blob[at] ^= flip;
            }
            blob[at] ^= 0x41;
            if at % 8 == 0
                && let Ok(profiles) = profiles(&blob)
            {
                advise(&profiles[0], &profiles, "");
            }
            blob[at] ^= 0x41;
        }
    }
}

#[test]
fn expectations_are_met_by_each_parser() {
    for text in ["files", "classes", "newer", "newest", "logged", "based"] {
        let list = fs::read_to_string(tests("policy").join(format!("{text}.expect"))).unwrap();
        for (stem, blob) in blobs_of(text) {
            let profiles = profiles(&blob).unwrap();
            let name = format!("custom.{text}");
            let profile = profiles.iter().find(|profile| profile.member.name == name);
            let mut lines = 0;
            for line in list.lines() {
                if let Some((allow, question)) = expectation(line).unwrap() {
                    let answer = profile.unwrap().answer(&question);
                    assert_eq!(
                        allow,
                        !matches!(answer, Answer::Denied(_)),
                        "{stem}: {line}: {answer:?}"
                    );
                    lines += 1;
                }
            }
            assert!(lines > 8, "{text}");
        }
    }
}

fn answer(profile: &Profile, question: &str) -> String {
    let words: Vec<&str> = question.split(' ').collect();
    match profile.answer(&Question::parse(&words).unwrap()) {
        Answer::Allowed(text) => text,
        Answer::Denied(text) => text.to_owned(),
        Answer::NotMediated => "not mediated".to_owned(),
    }
}

/// Texts of `tests/policy`, questions, and the answers in words.
const ANSWERS: [(&str, &str, &str); 29] = [
    ("files", "read /etc/hosts", "allowed"),
    ("files", "read /etc/shadow", "denied"),
    (
        "files",
        "owner read /home/me/.ssh/id",
        "denied by a deny rule",
    ),
    ("files", "read /home/me/.ssh/id", "denied by a deny rule"),
    // An audited deny rule leaves no trace.
    ("files", "write /srv/audited", "denied"),
    ("files", "exec /usr/bin/su", "denied by a deny rule"),
    (
        "files",
        "exec /usr/bin/sh",
        "allowed by ix: under the same profile",
    ),
    (
        "files",
        "exec /opt/px",
        "allowed by px -> custom.other: if such a profile is loaded, else denied",
    ),
    (
        "files",
        "exec /opt/Px",
        "allowed by Px -> custom.other: if such a profile is loaded, else denied",
    ),
    (
        "files",
        "exec /opt/pix",
        "allowed by pix -> custom.other: if such a profile is loaded, else under the same profile",
    ),
    (
        "files",
        "exec /opt/pux",
        "allowed by pux -> custom.other: if such a profile is loaded, else unconfined",
    ),
    (
        "files",
        "exec /opt/cx",
        "allowed by px -> custom.files//kid: if such a profile is loaded, else denied",
    ),
    (
        "files",
        "exec /opt/Cix",
        "allowed by Pix -> custom.files//kid: if such a profile is loaded, else under the same profile",
    ),
    ("files", "exec /opt/ux", "allowed by ux: unconfined"),
    (
        "files",
        "exec /opt/stack",
        "allowed by pix -> &custom.other: if such a profile is loaded, else under the same profile",
    ),
    (
        "files",
        "exec /opt/bare",
        "allowed by px: if such a profile is loaded, else denied",
    ),
    (
        "files",
        "exec /opt/child",
        "allowed by cix: if such a profile is loaded, else under the same profile",
    ),
    ("classes", "capability sys_admin", "denied by a deny rule"),
    ("classes", "capability sys_time", "denied"),
    ("classes", "network inet6 dgram", "denied by a deny rule"),
    ("classes", "network inet dgram", "denied"),
    (
        "classes",
        "signal receive usr1 unconfined",
        "denied by a deny rule",
    ),
    (
        "classes",
        "ptrace trace custom.enemy",
        "denied by a deny rule",
    ),
    ("classes", "userns", "not mediated"),
    ("newer", "userns", "denied"),
    (
        "logged",
        "read /etc/passwd",
        "allowed: complain mode logs it",
    ),
    ("logged", "exec /bin/su", "allowed: complain mode logs it"),
    ("logged", "read /etc/shadow", "denied by a deny rule"),
    ("unconfined", "write /etc/passwd", "allowed"),
];

#[test]
fn answers_say_why() {
    for (text, question, expected) in ANSWERS {
        for (stem, blob) in blobs_of(text) {
            let profiles = profiles(&blob).unwrap();
            assert_eq!(
                answer(&profiles[0], question),
                expected,
                "{stem}: {question}"
            );
        }
    }
}

/// They stand in a second profile, whose automata are not aligned in the stream.
#[test]
fn links_are_walked_as_pairs() {
    for (stem, blob) in blobs_of("files") {
        let profiles = profiles(&blob).unwrap();
        let profile = profiles
            .iter()
            .find(|profile| profile.member.name == "custom.links");
        for (question, expected) in [
            ("link /data/a /data/b", "allowed"),
            ("owner link /data/a /other/target", "denied"),
            ("link /data/b /data/target", "allowed"),
            ("link /data/b /data/b", "denied"),
            ("link /data/c /data/target", "allowed"),
            // The name could be written, its target could not. The compiler has only owners tested so.
            ("owner link /data/c /data/target", "allowed"),
            ("owner link /data/c /other/target", "denied"),
            ("link /data/c /other/target", "allowed"),
            ("link /data/d /data/target", "denied"),
            ("link /etc/a /data/b", "denied"),
        ] {
            assert_eq!(
                answer(profile.unwrap(), question),
                expected,
                "{stem}: {question}"
            );
        }
    }
}

#[test]
fn a_wrong_question_names_the_nearest() {
    for (question, why) in [
        (
            "",
            "unknown question \"\": ask one of read PATH; write PATH; ",
        ),
        (
            "reed /x",
            "unknown question \"reed /x\": did you mean `read PATH`?",
        ),
        ("read", "did you mean `read PATH`?"),
        ("read /a /b", "did you mean `read PATH`?"),
        ("owner", "unknown question"),
        ("read x", "\"read x\": a path begins with /"),
        ("read /a//b", "give the resolved path"),
        ("link /a /b/../c", "give the resolved path"),
        ("owner capability chown", "only files have an owner"),
        (
            "capabilty net_admin",
            "unknown question \"capabilty net_admin\": did you mean `capability NAME`?",
        ),
        (
            "capability net_admn",
            "unknown word \"net_admn\": did you mean net_admin?",
        ),
        ("capability CAP_CHOWN", "unknown word \"CAP_CHOWN\""),
        ("network inet5 stream", "did you mean inet?"),
        ("network inet straem", "did you mean stream?"),
        ("signal recieve term x", "did you mean receive?"),
        (
            "signal receive sigterm x",
            "unknown word \"sigterm\": give one of unknown hup int ",
        ),
        ("signal receive rtmin+33 x", "unknown word \"rtmin+33\""),
        (
            "signal receive term",
            "did you mean `signal send|receive SIGNAL PEER`?",
        ),
        ("ptrace tracedb x", "did you mean tracedby?"),
        ("userns x", "did you mean `userns`?"),
        ("signal send term a//&b", "ask about each profile"),
    ] {
        let words: Vec<&str> = question.split_whitespace().collect();
        let message = Question::parse(&words).unwrap_err();
        assert!(message.contains(why), "{message} is not {why}");
    }
    assert_eq!(expectation("  # read").unwrap(), None);
    assert_eq!(expectation("").unwrap(), None);
    let message = expectation("alow read /x").unwrap_err();
    assert_eq!(message, "unknown word \"alow\": did you mean allow?");
    let (allow, question) = expectation("\tdeny\tread  /x#y  # why").unwrap().unwrap();
    assert!(!allow);
    assert_eq!(question, Question::parse(&["read", "/x#y"]).unwrap());
}

/// Compiles `text` with the features of Debian 12's kernel.
fn compiled(text: &str) -> Vec<u8> {
    compiled_for(text, "bookworm")
}

fn compiled_for(text: &str, features: &str) -> Vec<u8> {
    let mut parser = Command::new("apparmor_parser")
        .args(["-Q", "-K", "-S", "-M"])
        .arg(tests("policy/features").join(features))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = parser.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "does not compile: {text}");
    output.stdout
}

fn kinds(text: &str) -> Vec<&'static str> {
    let blob = compiled(text);
    let profiles = profiles(&blob).unwrap();
    let found = profiles
        .iter()
        .flat_map(|profile| advise(profile, &profiles, text));
    found.map(|(kind, _)| kind).collect()
}

/// A text with rules that leave nothing to be found, and `rules`.
fn sound(rules: &str) -> String {
    format!(
        "abi <abi/3.0>,\nprofile custom.x flags=(attach_disconnected) {{\n  signal,\n  / r,\n  {rules}\n}}\n"
    )
}

#[test]
fn each_finding_has_two_sides() {
    for (rules, found) in [
        ("/** rix,", &[][..]),
        ("/bin/{true,false} ix,", &[]),
        ("owner /srv/** ix,", &[]),
        ("/home/*/.Private/x ix, /bin/sh ix,", &[]),
        ("/srv/.Private ix,", &[]),
        ("/** rw,", &["nothing-executable"]),
        ("/** mrix, deny /** x,", &["nothing-executable"]),
        ("owner /home/*/.Private/** mrix,", &["nothing-executable"]),
        ("profile kid { /** ix, }", &["nothing-executable"]),
        ("change_profile /bin/x -> y,", &["nothing-executable"]),
        ("link /a -> /b,", &["nothing-executable"]),
        ("/** ix, /bin/a px -> custom.y,", &["no-new-privs"]),
        ("/** ix, /bin/a Pux -> custom.y,", &["no-new-privs"]),
        ("/** ix, /bin/a px,", &["no-new-privs"]),
        ("/** ix, /bin/a ux,", &["no-new-privs"]),
        (
            "/** ix, /bin/a cx -> kid, profile kid { }",
            &["no-new-privs"],
        ),
        (
            "/** ix, /bin/a cix -> kid, profile kid { }",
            &["no-new-privs"],
        ),
        ("/** ix, /bin/a cix, profile /bin/a { }", &["no-new-privs"]),
        ("/** ix, owner /srv/a px -> y,", &["no-new-privs"]),
        // The program keeps the profile where no such profile is loaded.
        ("/** ix, /bin/a pix -> custom.y,", &[]),
        ("/** ix, /bin/a cix -> kid,", &[]),
        ("/** ix, /bin/a pix,", &[]),
        ("/** ix, /bin/a px -> &custom.y,", &[]),
        ("/** ix, /bin/a px -> y, deny /bin/a x,", &[]),
        ("/** ix, profile kid { /bin/a ux, }", &[]),
        ("/** ix, deny signal,", &["cannot-be-stopped"]),
        (
            "/** ix, deny signal (receive) set=(kill) peer=crun,",
            &["cannot-be-stopped"],
        ),
        ("/** ix, deny signal (receive) set=(hup),", &[]),
        ("/** ix, deny signal (send),", &[]),
    ] {
        assert_eq!(kinds(&sound(rules)), found, "{rules}");
    }
    let stoppable = |rule: &str| sound("/** ix,").replace("signal,", rule);
    for (rule, found) in [
        ("signal (receive) peer={unconfined,runc,crun},", &[][..]),
        ("signal (receive) set=(term, kill),", &[]),
        ("signal (receive) set=(hup),", &["cannot-be-stopped"]),
        ("signal (receive) set=(term),", &["cannot-be-stopped"]),
        ("signal (send),", &["cannot-be-stopped"]),
        ("signal (receive) peer=unconfined,", &["cannot-be-stopped"]),
        ("", &["cannot-be-stopped"]),
    ] {
        assert_eq!(kinds(&stoppable(rule)), found, "{rule}");
    }
    let flags = |flags: &str| sound("/** ix,").replace("flags=(attach_disconnected)", flags);
    for (text, found) in [
        (flags(""), &["no-attach-disconnected"][..]),
        (
            flags("flags=(no_attach_disconnected)"),
            &["no-attach-disconnected"],
        ),
        (flags("flags=(mediate_deleted, attach_disconnected)"), &[]),
        (
            flags("flags=(attach_disconnected, complain)"),
            &["complain-mode"],
        ),
        (
            flags("flags=(complain)").replace("signal,", "deny signal,"),
            &[
                "complain-mode",
                "cannot-be-stopped",
                "no-attach-disconnected",
            ],
        ),
        (flags("flags=(unconfined)"), &[]),
        (
            flags("flags=(attach_disconnected)").replace("abi <", "#abi <"),
            &["no-abi"],
        ),
        (
            flags("flags=(attach_disconnected)").replace("abi <", "  abi<"),
            &[],
        ),
    ] {
        assert_eq!(kinds(&text), found, "{text}");
    }
}

#[test]
fn findings_name_the_line_to_write() {
    let (_, blob) = blobs_of("based").swap_remove(0);
    let profiles = profiles(&blob).unwrap();
    let found = advise(&profiles[0], &profiles, "");
    let lines: Vec<_> = found
        .iter()
        .map(|(kind, message)| format!("{kind}: {message}\n"))
        .collect();
    let text = lines.concat();
    for words in [
        "nothing-executable: no rule allows an execution",
        "add, without a deny rule against it, `signal (receive) peer=runc,` `signal (receive) peer=crun,`\n",
        "add `flags=(attach_disconnected)`",
        "add `abi <abi/3.0>,`",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
    assert!(!text.contains("peer=unconfined"), "{text}");
}

#[test]
fn an_unmediated_class_is_no_finding() {
    let text = sound("/** ix,").replace("  signal,\n", "");
    let blob = compiled_for(&text, "files-only");
    let profiles = profiles(&blob).unwrap();
    assert_eq!(advise(&profiles[0], &profiles, &text), []);
    assert_eq!(
        answer(&profiles[0], "signal receive term runc"),
        "not mediated"
    );
    assert_eq!(answer(&profiles[0], "network inet stream"), "not mediated");
    assert_eq!(answer(&profiles[0], "capability chown"), "denied");
}

/// In the manner of the container runtimes' own profiles.
const RUNTIME: &str = "abi <abi/3.0>,
@{PROC}=/proc/
profile custom.runtime flags=(attach_disconnected, mediate_deleted) {
  capability,
  file,
  network,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send, receive) peer=custom.runtime,
  ptrace (trace, read, tracedby, readby) peer=custom.runtime,
  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

#[test]
fn profiles_as_runtimes_and_tutorials_have_them_raise_no_false_alarm() {
    assert_eq!(kinds(RUNTIME), [""; 0]);
    let blob = compiled(RUNTIME);
    let profiles = profiles(&blob).unwrap();
    for (question, expected) in [
        ("exec /bin/sh", "allowed by ix: under the same profile"),
        ("write /proc/sysrq-trigger", "denied by a deny rule"),
        ("write /proc/12/attr/current", "allowed"),
        ("read /sys/firmware/efi", "denied by a deny rule"),
        ("capability sys_admin", "allowed"),
        ("signal receive kill runc", "allowed"),
        ("signal receive kill custom.other", "denied"),
    ] {
        assert_eq!(answer(&profiles[0], question), expected, "{question}");
    }
    // As older runtimes have it: the runtimes that are confined are missing.
    let older = RUNTIME
        .replace("  signal (receive) peer=runc,\n", "")
        .replace("  signal (receive) peer=crun,\n", "");
    assert_eq!(kinds(&older), ["cannot-be-stopped"]);
    // Kubernetes' documentation: everything but writing. abstractions/base knows unconfined senders only.
    let tutorial = "include <tunables/global>
profile custom.deny-write flags=(attach_disconnected) {
  include <abstractions/base>
  file,
  deny /** w,
}
";
    assert_eq!(kinds(tutorial), ["cannot-be-stopped", "no-abi"]);
    let with_rules = tutorial.replace("  file,", "  file,\n  signal (receive) peer={runc,crun},");
    assert_eq!(kinds(&format!("abi <abi/3.0>,\n{with_rules}")), [""; 0]);
}

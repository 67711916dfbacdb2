//! The kernel's denials of real processes, as `armorer denials` reads them from each log of the node,
//! and whether the rules that it proposes allow just that.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{confined, hold, sh};

const FEATURES: &str = "/sys/kernel/security/apparmor/features";

/// Python's rules, and the capabilities for other users' files and processes.
const BASE: &str = "
  /usr/** rmix, /lib/** rmix, /lib64/** rmix, /etc/ld.so.cache r, /job/{,**} r, /dev/** rw, / r,
  /proc/** r, /proc/*/attr/** w,
  capability chown, capability dac_override, capability dac_read_search, capability fowner,
  capability kill, capability sys_ptrace,
";

/// The kernel's log is one.
fn alone() -> MutexGuard<'static, ()> {
    static LOG: Mutex<()> = Mutex::new(());
    let guard = LOG
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    sh("dmesg -C");
    guard
}

/// Loads `custom.denied`, with every class of rules that the kernel knows enforced.
#[track_caller]
fn load(flags: &str, rules: &str) {
    load_as("custom.denied", flags, rules);
}

#[track_caller]
fn load_as(name: &str, flags: &str, rules: &str) {
    let text = format!(
        "profile custom.other {{ file, signal, }}\nprofile {name} {flags} {{\n{rules}\n}}\n"
    );
    let mut parser = Command::new("apparmor_parser")
        .args(["-qrK", "--policy-features", FEATURES])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    parser
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(parser.wait().unwrap().success(), "{text}");
}

fn kernel_log() -> String {
    sh("dmesg")
}

/// The denials of custom.denied in `log`, as armorer's JSON.
#[track_caller]
fn read(log: &str) -> Value {
    read_of("custom.denied", log)
}

#[track_caller]
fn read_of(name: &str, log: &str) -> Value {
    let mut armorer = Command::new(std::env::var("TESTED_BINARY").unwrap())
        .args(["denials", "--output", "json", "--profile", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    armorer
        .stdin
        .take()
        .unwrap()
        .write_all(log.as_bytes())
        .unwrap();
    let output = armorer.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The values of `key` in all denials, each once.
fn words(document: &Value, key: &str) -> Vec<String> {
    let denials = document["denials"].as_array().unwrap().iter();
    let words = denials.map(|denial| denial[key].as_str().unwrap().to_owned());
    words.collect::<BTreeSet<String>>().into_iter().collect()
}

/// The names of all attempts of attempts.py.
fn attempts() -> Vec<String> {
    let names = sh("python3 -IS /job/attempts.py --names");
    names.split_whitespace().map(str::to_owned).collect()
}

/// Makes `names` ready, and tries them under custom.denied; returns those that could not be done.
#[track_caller]
fn attempt(names: &[String], peer: u32) -> Vec<String> {
    let mut disconnect = "";
    if names.iter().any(|name| name == "disconnected") {
        disconnect = "exec 9</srv/disconnected/mounted; umount -l /srv/disconnected/mounted";
    }
    let names = names.join(" ");
    let script = format!(
        "cd /; python3 -IS /job/attempts.py --prepare {names}; {disconnect}
        exec aa-exec -p custom.denied -- python3 -ISE /job/attempts.py {peer} {names}"
    );
    let said = sh(&format!("unshare -m sh -c '{script}' 2>&1"));
    println!("{said}");
    let left = names
        .split(' ')
        .filter(|name| !said.contains(&format!("{name} ok\n")));
    left.map(str::to_owned).collect()
}

#[test]
fn proposed_rules_allow_the_denied_access_and_no_other() {
    let _log = alone();
    // Outlives the signals that it is sent.
    let script = "trap '' RTMIN+3; exec sleep 1000";
    let mut peer = Command::new("bash").args(["-c", script]).spawn().unwrap();
    let mut left = attempts();
    let mediated = |file: &str| Path::new(FEATURES).join(file).exists();
    if !mediated("io_uring") {
        left.retain(|name| name != "uring");
    }
    if !fs::read_to_string(Path::new(FEATURES).join("namespaces/mask"))
        .is_ok_and(|mask| mask.contains("userns_create"))
    {
        left.retain(|name| name != "userns");
    }
    let (mut flags, mut rules) = (String::new(), Vec::new());
    for round in 0..5 {
        sh("dmesg -C");
        load(&flags, &format!("{BASE}{}\n", rules.join("\n")));
        let failed = attempt(&left, peer.id());
        if round == 0 {
            assert_eq!(failed, left, "allowed without a rule");
            oracle_agrees(&kernel_log());
        }
        left = failed;
        let proposed = words(&read(&kernel_log()), "rule");
        if proposed
            .iter()
            .any(|rule| rule.contains("flags=(attach_disconnected)"))
        {
            "flags=(attach_disconnected)".clone_into(&mut flags);
        }
        rules.extend(proposed.into_iter().filter(|rule| !rule.starts_with('#')));
    }
    let rules = rules.join("\n");
    assert_eq!(left, ["unclean"], "{rules}");
    let beside = ["beside".to_owned()];
    assert_eq!(attempt(&beside, peer.id()), beside, "{rules}");
    peer.kill().unwrap();
    peer.wait().unwrap();
}

/// libapparmor's reading of the same lines: each of its records is one of armorer's, and of files it
/// knows the same letters.
#[track_caller]
fn oracle_agrees(log: &str) {
    fs::write("/tmp/kernel.log", log).unwrap();
    let expected = sh("python3 /job/records.py /tmp/kernel.log");
    let document = read(log);
    let denials = document["denials"].as_array().unwrap();
    let found = |keys: [&str; 2]| -> BTreeSet<String> {
        let line = |denial: &Value| {
            keys.map(|key| denial[key].as_str().unwrap().to_owned())
                .join("\t")
        };
        denials.iter().map(line).collect()
    };
    let (operations, rules) = (
        found(["profile", "operation"]),
        found(["operation", "rule"]),
    );
    let mut compared = 0;
    for line in expected.lines() {
        let (kind, line) = line.split_once('\t').unwrap();
        let found = if kind == "rule" { &rules } else { &operations };
        assert!(found.contains(line), "{kind} {line} is not in {found:#?}");
        compared += 1;
    }
    assert!(compared > 35, "{expected}");
}

#[test]
fn denials_of_accesses_by_others() {
    let _log = alone();
    sh("echo 'profile custom.tracer { file, signal, ptrace, capability, }' | apparmor_parser -qrK");
    let try_both = |pid: u32| {
        let pid_of = Pid::from_raw(pid.cast_signed()).unwrap();
        let signal = kill_process(pid_of, Signal::CONT).is_ok();
        let trace = confined(
            "custom.tracer",
            &["readlink", "-q", &format!("/proc/{pid}/exe")],
        )
        .status()
        .unwrap();
        [signal, trace.success()]
    };
    load("", BASE);
    let held = hold("main", "custom.denied");
    assert_eq!(try_both(held.pid()), [false, false]);
    let rules = words(&read(&kernel_log()), "rule");
    let expected = [
        "ptrace (readby) peer=custom.tracer,",
        "signal (receive) set=(cont) peer=unconfined,",
    ];
    assert_eq!(rules, expected);
    load(
        "",
        &format!("{BASE}{}\n signal (receive) set=(kill),", rules.join("\n")),
    );
    // Kernel 6.12 judges who may trace a process by the version of the profile that it was last asked for.
    drop(held);
    let held = hold("main", "custom.denied");
    assert_eq!(try_both(held.pid()), [true, true], "{}", kernel_log());
}

#[test]
fn complain_mode_counts_for_the_parent_and_its_rules_are_enough_to_enforce() {
    let _log = alone();
    let program = [
        "sh",
        "-c",
        "read x </etc/hostname; cat /etc/passwd >/dev/null",
    ];
    load("flags=(complain)", "");
    assert!(
        confined("custom.denied", &program)
            .status()
            .unwrap()
            .success()
    );
    let log = kernel_log();
    assert!(log.contains("custom.denied//null-"), "{log}");
    let document = read(&log);
    assert_eq!(words(&document, "profile"), ["custom.denied"]);
    assert_eq!(words(&document, "verdict"), ["would be denied"]);
    load("", &words(&document, "rule").join("\n"));
    assert!(
        confined("custom.denied", &program)
            .status()
            .unwrap()
            .success()
    );
    load("", "");
    assert!(
        !confined("custom.denied", &program)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn the_kernel_says_when_it_prints_no_more() {
    let _log = alone();
    load("", BASE);
    sh("echo 5 >/proc/sys/kernel/printk_ratelimit");
    let flood =
        "for i in 1 2 3 4 5 6 7 8; do for j in 1 2 3 4 5; do read x </etc/hostname; done; done";
    let _ = confined("custom.denied", &["sh", "-c", flood])
        .status()
        .unwrap();
    sleep(Duration::from_secs(6));
    let _ = confined("custom.denied", &["sh", "-c", flood])
        .status()
        .unwrap();
    sh("echo 0 >/proc/sys/kernel/printk_ratelimit");
    let document = read(&kernel_log());
    let count = document["denials"][0]["count"].as_u64().unwrap();
    assert!((1..80).contains(&count), "{document:#}");
    assert!(
        document["notes"][0]
            .as_str()
            .unwrap()
            .contains("lower bound"),
        "{document:#}"
    );
}

/// Three denials: in the kernel's log and the journal, and then, once auditd runs, in its log alone.
/// The log of auditd about `deed` in this format.
fn audit_log(format: &str, deed: &dyn Fn()) -> String {
    let _ = fs::remove_file("/var/log/audit/audit.log");
    sh(&format!(
        "sed -i 's/^log_format.*/log_format = {format}/' /etc/audit/auditd.conf"
    ));
    let mut auditd = Command::new("auditd")
        .arg("-n")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(3));
    deed();
    let log = fs::read_to_string("/var/log/audit/audit.log").unwrap();
    sh(&format!("kill {}", auditd.id()));
    auditd.wait().unwrap();
    log
}

#[test]
fn every_log_of_the_node_says_the_same() {
    let _log = alone();
    load_as("custom.logged", "", &format!("{BASE} signal,"));
    fs::write("/srv/a b", "").unwrap();
    let deny = || {
        let script = "read x </etc/hostname; read x <'/srv/a b'; read x </etc/passwd; :";
        let _ = confined("custom.logged", &["sh", "-c", script])
            .status()
            .unwrap();
        sleep(Duration::from_secs(1));
    };
    // Count and rule of each, and the whole lines with their times.
    let said = |log: &str| {
        let document = read_of("custom.logged", log);
        let denials = document["denials"].as_array().unwrap().iter();
        let lines = denials.map(|denial| {
            let counted = format!("{} {}", denial["count"], denial["rule"]);
            let times = format!("{} {}", denial["first"], denial["last"]);
            (counted, times)
        });
        lines.unzip::<_, _, Vec<String>, Vec<String>>()
    };
    // The journal's part of the kernel's log is older than it.
    fs::create_dir_all("/run/systemd").unwrap();
    fs::write(
        "/etc/systemd/journald.conf",
        "[Journal]\nStorage=volatile\nAudit=yes\n",
    )
    .unwrap();
    let mut journald = Command::new("/usr/lib/systemd/systemd-journald")
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(3));
    deny();
    let kernel = said(&kernel_log());
    assert_eq!(kernel.0.len(), 3, "{kernel:?}");
    sh("journalctl --sync || sleep 2");
    for form in [
        "short",
        "short-iso",
        "short-monotonic",
        "json",
        "export",
        "cat",
        "verbose",
    ] {
        let journal = sh(&format!("journalctl --no-pager -o {form}"));
        assert!(
            journal.contains("AVC apparmor="),
            "the journal has no copy of its own: {form}"
        );
        assert_eq!(said(&journal), kernel, "{form}");
    }
    journald.kill().unwrap();
    journald.wait().unwrap();

    for format in ["RAW", "ENRICHED"] {
        let audit = said(&audit_log(format, &deny));
        assert_eq!(audit.0, kernel.0, "{format}");
    }
}

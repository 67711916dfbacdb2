use std::fs;

use super::*;
use crate::tests::Folder;

/// A folder made like /proc. Process 1 is in it from the start.
struct Proc(Folder);

impl Proc {
    fn new() -> Self {
        let proc = Self(Folder::new());
        proc.process(1, "systemd", &["unconfined"]);
        proc.0.write("uptime", "1 2\n");
        proc
    }

    /// A process whose threads, the first one first, have these labels.
    fn process(&self, pid: u32, comm: &str, labels: &[&str]) {
        for (thread, label) in (pid..).zip(labels) {
            let file = format!("{pid}/task/{thread}/attr/apparmor/current");
            self.0.write(&file, format!("{label}\n"));
        }
        self.0.write(&format!("{pid}/attr/apparmor/current"), "");
        self.0.write(&format!("{pid}/comm"), format!("{comm}\n"));
    }

    fn scan(&self) -> Scan {
        scan(self.0.path())
    }
}

fn users(scan: &Scan, profile: &str) -> Vec<u32> {
    scan.users_of(profile).into_keys().collect()
}

#[test]
fn every_thread_is_read_and_each_label_of_a_process_is_there_once() {
    let proc = Proc::new();
    let labels = [
        "unconfined",
        "custom.b (complain)",
        "custom.a (enforce)",
        "custom.a (enforce)",
    ];
    proc.process(10, "app", &labels);
    let scan = proc.scan();
    assert_eq!(scan.incomplete, None);
    let mut labels: Vec<_> = scan.processes.iter().map(|p| p.label.as_str()).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["custom.a (enforce)", "custom.b (complain)"]);
    assert_eq!(users(&scan, "custom.a"), [10]);
}

#[test]
fn children_hats_and_stacks_use_their_profile_and_siblings_do_not() {
    let proc = Proc::new();
    let labels = [
        (20, "custom.a (enforce)"),
        (21, "custom.a//kid (enforce)"),
        (22, "custom.a//null-/bin/sh//null-/bin/ls (complain)"),
        (23, "docker-default//&custom.a (mixed)"),
        (24, "x//&:ns://custom.a//hat (enforce)"),
        (25, ":ns:custom.a (enforce)"),
        // A child that another program loaded, which reads like a stack.
        (26, "custom.a//&custom.z (enforce)"),
        (30, "custom.ab (enforce)"),
        (31, "custom.a b (enforce)"),
        (32, "x (y) (enforce)"),
    ];
    for (pid, label) in labels {
        proc.process(pid, "app", &[label]);
    }
    let scan = proc.scan();
    assert!(users(&scan, "custom.a").into_iter().eq(20..=26));
    assert_eq!(users(&scan, "custom.ab"), [30]);
    assert_eq!(users(&scan, "custom.z"), [26]);
    assert_eq!(users(&scan, "x (y)"), [32]);
    let counts = scan.counts();
    for (name, count) in [
        ("custom.a", 7),
        ("custom.a//kid", 1),
        ("custom.a//null-/bin/sh", 1),
        ("custom.a b", 1),
        ("docker-default", 1),
        ("x", 1),
    ] {
        assert_eq!(counts.get(name), Some(&count), "{name}");
        assert_eq!(users(&scan, name).len(), count, "{name}");
    }
}

#[test]
fn users_are_named_up_to_three() {
    let proc = Proc::new();
    let words = |proc: &Proc| proc.scan().users_in_words("custom.a");
    assert_eq!(words(&proc), None);
    proc.process(20, "sleep", &["custom.a (enforce)"]);
    assert_eq!(words(&proc).unwrap(), "1 process (20 sleep)");
    for pid in 21..25 {
        proc.process(pid, "a\u{1b}[2J", &["custom.a//kid (enforce)"]);
    }
    let words = words(&proc).unwrap();
    assert!(words.starts_with("5 processes (20 sleep, 21 "), "{words}");
    assert!(
        words.ends_with(", …)") && !words.contains(char::is_control),
        "{words}"
    );
}

#[test]
fn an_ended_process_leaves_the_scan_complete() {
    let proc = Proc::new();
    fs::create_dir(proc.0.at("40")).unwrap();
    proc.process(41, "app", &["unconfined"]);
    fs::create_dir(proc.0.at("41/task/42")).unwrap();
    assert_eq!(proc.scan().incomplete, None);
}

#[test]
fn an_unreadable_label_makes_the_scan_incomplete() {
    let proc = Proc::new();
    proc.process(50, "app", &["unconfined"]);
    let label = proc.0.at("50/task/50/attr/apparmor/current");
    fs::remove_file(&label).unwrap();
    fs::create_dir(&label).unwrap();
    let reason = proc.scan().incomplete.unwrap();
    assert!(reason.contains("process 50"), "{reason}");
}

#[test]
fn without_process_1_or_a_folder_the_scan_is_incomplete() {
    let proc = Proc::new();
    fs::remove_dir_all(proc.0.at("1")).unwrap();
    assert!(proc.scan().incomplete.unwrap().contains("process 1"));
    let missing = scan(&proc.0.at("missing"));
    assert!(missing.incomplete.unwrap().contains("missing"));
}

#[test]
fn the_older_attribute_is_read_where_there_is_no_other() {
    let proc = Proc::new();
    proc.process(60, "app", &["custom.a (enforce)"]);
    for (pid, label) in [(1, "unconfined"), (60, "custom.a (enforce)")] {
        fs::remove_dir_all(proc.0.at(&format!("{pid}/attr"))).unwrap();
        let attributes = format!("{pid}/task/{pid}/attr");
        fs::remove_dir_all(proc.0.at(&attributes)).unwrap();
        proc.0.write(&format!("{attributes}/current"), label);
    }
    let scan = proc.scan();
    assert_eq!(scan.incomplete, None);
    assert_eq!(users(&scan, "custom.a"), [60]);
}

#[test]
fn runtimes_at_work_count_as_starting() {
    for comm in [
        "runc:[2:INIT]",
        "runc:[1:CHILD]",
        "runc",
        "crun",
        "crun-wasm",
        "memfd:crun_clon",
        "youki:[2:INIT]",
        "krun",
        "sysbox-runc",
        "lxc-start",
        "(web.service)",
        "(bash)",
    ] {
        assert!(is_runtime(comm), "{comm}");
    }
    for comm in [
        "containerd-shim",
        "truncate",
        "crunchy",
        "runcible",
        "run",
        "",
        "(sd-pam)",
        "(udev-worker)",
        "(open",
    ] {
        assert!(!is_runtime(comm), "{comm}");
    }
}

#[test]
fn a_runtime_started_by_its_descriptor_is_known_by_its_command_line() {
    let proc = Proc::new();
    proc.process(70, "runc:[2:INIT]", &["unconfined"]);
    for (pid, line) in [
        (71, "/usr/bin/crun\0create\0c1\0"),
        (72, "/usr/bin/other\0crun\0"),
    ] {
        proc.process(pid, "3", &["unconfined"]);
        proc.0.write(&format!("{pid}/cmdline"), line);
    }
    // One whose command line cannot be read may be anything.
    proc.process(73, "4", &["unconfined"]);
    proc.process(74, "sh", &["unconfined"]);
    let mut scan = proc.scan();
    scan.starting.sort_unstable();
    let pids: Vec<u32> = scan.starting.iter().map(|(pid, _)| *pid).collect();
    assert_eq!(pids, [70, 71, 73]);
    let words = scan.starting_in_words().unwrap();
    assert!(words.contains("runc:[2:INIT] (pid 70)"), "{words}");
}

#[test]
fn a_mount_that_hides_processes_is_noticed() {
    let root = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
    let check =
        |mounts: &str, path: &str| mount_shows_all(&format!("{root}{mounts}"), Path::new(path));
    let plain = "28 27 0:25 / /proc rw,relatime shared:5 - proc proc rw\n";
    assert_eq!(check(plain, "/proc"), Ok(()));
    for options in ["rw,hidepid=0", "rw,hidepid=off", "rw,gid=4"] {
        let line = format!("28 27 0:25 / /proc rw - proc proc {options}\n");
        assert_eq!(check(&line, "/proc"), Ok(()), "{options}");
    }
    for options in [
        "rw,hidepid=2",
        "rw,hidepid=invisible",
        "hidepid=ptraceable",
        "rw,subset=pid",
    ] {
        let line = format!("41 27 0:34 / /host\\040x/proc ro,relatime - proc proc {options}\n");
        let reason = check(&line, "/host x/proc").unwrap_err();
        assert!(reason.contains(&options[options.len() - 4..]), "{reason}");
        let both = format!("{line}{plain}");
        assert!(check(&both, "/proc").is_ok(), "{options}");
        let above = format!("{plain}50 28 0:40 / /proc rw - proc proc {options}\n");
        assert!(check(&above, "/proc").is_err(), "{options}");
    }
    assert!(check("", "/proc").is_err());
    assert!(check(plain, "/procession").is_err());
}

#[test]
fn a_process_named_like_a_kernel_thread_is_none() {
    assert!(is_kernel_thread("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"));
    assert!(!is_kernel_thread("2 (kthreadd) S 1 2 2 0 -1 4194560 0 0"));
    assert!(!is_kernel_thread(
        "2 (a) S 0 0 0 0 -1 2129984) S 1 2 2 0 -1 4194560 0"
    ));
    assert!(!is_kernel_thread(""));
}

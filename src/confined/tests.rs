use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A folder made like /proc, gone when dropped. Process 1 is in it from the start.
struct Proc(PathBuf);

impl Proc {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let proc = Self(std::env::temp_dir().join(format!(
            "armorer-proc-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        )));
        proc.process(1, "systemd", &["unconfined"]);
        fs::write(proc.0.join("uptime"), "1 2\n").unwrap();
        proc
    }

    /// A process whose threads, the leader first, have these labels.
    fn process(&self, pid: u32, comm: &str, labels: &[&str]) {
        for (tid, label) in (pid..).zip(labels) {
            let folder = self.0.join(format!("{pid}/task/{tid}/attr/apparmor"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("current"), format!("{label}\n")).unwrap();
        }
        fs::create_dir_all(self.0.join(format!("{pid}/attr/apparmor"))).unwrap();
        fs::write(self.0.join(format!("{pid}/comm")), format!("{comm}\n")).unwrap();
    }

    fn scan(&self) -> Scan {
        scan(&self.0)
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_thread_is_read_and_each_label_of_a_process_is_there_once() {
    let proc = Proc::new();
    proc.process(
        10,
        "app",
        &[
            "unconfined",
            "custom.b (complain)",
            "custom.a (enforce)",
            "custom.a (enforce)",
        ],
    );
    let scan = proc.scan();
    assert_eq!(scan.incomplete, None);
    let mut labels: Vec<_> = scan.processes.iter().map(|p| p.label.as_str()).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["custom.a (enforce)", "custom.b (complain)"]);
    assert_eq!(scan.users_of("custom.a"), BTreeSet::from([10]));
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
        (30, "custom.ab (enforce)"),
        (31, "custom.a b (enforce)"),
        (32, "x (y) (enforce)"),
    ];
    for (pid, label) in labels {
        proc.process(pid, "app", &[label]);
    }
    let scan = proc.scan();
    assert_eq!(scan.users_of("custom.a"), (20..=25).collect());
    assert_eq!(scan.users_of("custom.ab"), BTreeSet::from([30]));
    assert_eq!(scan.users_of("x (y)"), BTreeSet::from([32]));
    let counts = scan.counts();
    for (name, count) in [
        ("custom.a", 6),
        ("custom.a//kid", 1),
        ("custom.a//null-/bin/sh", 1),
        ("custom.a b", 1),
        ("docker-default", 1),
        ("x", 1),
    ] {
        assert_eq!(counts.get(name), Some(&count), "{name}");
        assert_eq!(scan.users_of(name).len(), count, "{name}");
    }
}

#[test]
fn a_process_that_has_gone_is_nobody() {
    let proc = Proc::new();
    fs::create_dir_all(proc.0.join("40")).unwrap();
    proc.process(41, "app", &["unconfined"]);
    fs::create_dir_all(proc.0.join("41/task/42")).unwrap();
    assert_eq!(proc.scan().incomplete, None);
}

#[test]
fn an_unreadable_label_makes_the_scan_incomplete() {
    let proc = Proc::new();
    proc.process(50, "app", &["unconfined"]);
    let label = proc.0.join("50/task/50/attr/apparmor/current");
    fs::remove_file(&label).unwrap();
    fs::create_dir(&label).unwrap();
    let why = proc.scan().incomplete.unwrap();
    assert!(why.contains("process 50"), "{why}");
}

#[test]
fn without_process_1_or_a_folder_the_scan_is_incomplete() {
    let proc = Proc::new();
    fs::remove_dir_all(proc.0.join("1")).unwrap();
    assert!(proc.scan().incomplete.unwrap().contains("process 1"));
    let missing = proc.0.join("missing");
    assert!(scan(&missing).incomplete.unwrap().contains("cannot open"));
}

#[test]
fn the_older_attribute_is_read_where_there_is_no_other() {
    let proc = Proc::new();
    proc.process(60, "app", &["custom.a (enforce)"]);
    for (pid, label) in [(1, "unconfined"), (60, "custom.a (enforce)")] {
        fs::remove_dir_all(proc.0.join(format!("{pid}/attr"))).unwrap();
        let attr = proc.0.join(format!("{pid}/task/{pid}/attr"));
        fs::remove_dir_all(attr.join("apparmor")).unwrap();
        fs::write(attr.join("current"), label).unwrap();
    }
    let scan = proc.scan();
    assert_eq!(scan.incomplete, None);
    assert_eq!(scan.users_of("custom.a"), BTreeSet::from([60]));
}

#[test]
fn runtimes_at_work_are_armed() {
    for comm in [
        "runc:[2:INIT]",
        "runc:[1:CHILD]",
        "runc",
        "crun",
        "crun-wasm",
        "memfd:crun_clon",
        "youki:[2:INIT]",
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
    ] {
        assert!(!is_runtime(comm), "{comm}");
    }
    let proc = Proc::new();
    proc.process(70, "runc:[2:INIT]", &["unconfined"]);
    proc.process(71, "3", &["unconfined"]);
    fs::write(proc.0.join("71/cmdline"), "/usr/bin/crun\0create\0c1\0").unwrap();
    proc.process(72, "3", &["unconfined"]);
    fs::write(proc.0.join("72/cmdline"), "/usr/bin/other\0crun\0").unwrap();
    proc.process(73, "sh", &["unconfined"]);
    let mut armed = proc.scan().armed;
    armed.sort_unstable();
    assert_eq!(armed, [(70, "runc:[2:INIT]".into()), (71, "3".into())]);
}

#[test]
fn a_mount_that_hides_processes_is_seen() {
    let root = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
    let check =
        |mounts: &str, path: &str| hides_nobody(&format!("{root}{mounts}"), Path::new(path));
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
        assert!(check(&line, "/host x/proc").is_err(), "{options}");
        assert!(
            check(&format!("{line}{plain}"), "/proc").is_ok(),
            "{options}"
        );
        let over = format!("{plain}50 28 0:40 / /proc rw - proc proc {options}\n");
        assert!(check(&over, "/proc").is_err(), "{options}");
    }
    assert!(check("", "/proc").is_err());
    assert!(check(plain, "/procession").is_err());
}

#[test]
fn the_kernels_own_threads_are_told_from_namesakes() {
    assert!(is_kernel_thread("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"));
    assert!(!is_kernel_thread("2 (kthreadd) S 1 2 2 0 -1 4194560 0 0"));
    assert!(!is_kernel_thread(
        "2 (a) S 0 0 0 0 -1 2129984) S 1 2 2 0 -1 4194560 0"
    ));
    assert!(!is_kernel_thread(""));
}

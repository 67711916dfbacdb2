//! A profile is removed only from under no process: clocks, sightings, runtimes, incomplete scans, force.

use std::mem::MaybeUninit;

use harness::{Node, Run};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use serde_json::json;

const NOW: [&str; 2] = ["--remove-after", "0s"];

/// A node whose custom.b is owned and not desired any more.
fn unwanted() -> Node {
    let node = Node::settled(&["custom.a", "custom.b"]);
    node.take_out("custom.b");
    node
}

#[test]
fn an_unwanted_profile_waits_until_it_was_unused_for_long_enough() {
    let node = unwanted();
    node.reconcile(&[]).assert(0).line(&[
        "… deferred",
        "custom.b",
        "unused",
        "15m",
        "--remove-after 0s",
    ]);
    let run = node.reconcile(&[]).assert(0);
    run.line(&["converged", "1 deferred"]);
    // A loop logs it once.
    node.loop_pass("one", &[]).assert(0);
    assert_eq!(node.loop_pass("one", &[]).assert(0).stderr(), "");
    node.reconcile(&["--remove-after", "never"]).assert(0);
    assert_eq!(node.removed(), "");
    node.reconcile(&NOW)
        .assert(0)
        .line(&["- remove", "custom.b"]);
    assert_eq!(node.removed(), "custom.b");
    assert!(node.set()["owned"]["custom.b"].is_null());
}

#[test]
fn the_clock_of_a_removal_starts_again_when_a_process_is_seen() {
    let node = unwanted();
    node.reconcile(&[]).assert(0);
    let clock = || node.set()["owned"]["custom.b"]["unwanted"].clone();
    assert!(clock()["last_seen_in_use"].is_null());
    node.process(77, "sleep", "custom.b (enforce)");
    node.reconcile(&NOW).assert(0).line(&["1 deferred"]);
    assert!(clock()["last_seen_in_use"].is_object());
    node.remove("proc/77");
    // As if it had been unwanted since the boot.
    node.edit_state(|state| {
        state["sets"]["default"]["owned"]["custom.b"]["unwanted"]["since"]["uptime"] = 0.into();
    });
    node.plan(&["--remove-after", "1h"])
        .assert(0)
        .line(&["… deferred", "custom.b"]);
    assert_eq!(node.removed(), "");
}

#[test]
fn no_clock_outlives_its_boot() {
    let node = unwanted();
    let long_ago = json!({"at": "2026-01-01T00:00:00Z", "uptime": 1_000_000_000});
    node.edit_state(|state| {
        let set = &mut state["sets"]["default"];
        set["owned"]["custom.b"]["unwanted"] = json!({"since": long_ago});
        set["profiles"]["custom.a"]["repairs"] = json!([long_ago, long_ago, long_ago]);
    });
    node.unload("custom.a");
    // In this boot it is contested.
    node.plan(&[]).assert(1).line(&["! contested", "custom.a"]);
    node.write("proc/sys/kernel/random/boot_id", "another\n");
    let run = node.plan(&NOW).assert(0);
    run.line(&["+ load", "custom.a"]);
    // Nor is the earlier boot's profile ours any more.
    run.lacks("custom.b");
}

#[test]
fn a_process_in_a_child_a_stack_or_another_thread_keeps_a_profile() {
    for label in [
        "custom.b (enforce)",
        "custom.b//kid (enforce)",
        "custom.b//null-/bin/sh (complain)",
        "other//&custom.b (mixed)",
        "custom.b//kid//&other (enforce)",
        // A child whose name looks like a stack, of another program.
        "custom.b//&odd (enforce)",
    ] {
        let node = unwanted();
        node.process(77, "sleep", label);
        let run = node.reconcile(&NOW).assert(0);
        run.line(&["… deferred", "custom.b", "1 process (77 sleep)"]);
        assert_eq!(node.removed(), "", "{label}");
    }
    let node = unwanted();
    node.process(77, "sleep", "unconfined");
    node.write(
        "proc/77/task/78/attr/apparmor/current",
        "custom.b (enforce)\n",
    );
    node.reconcile(&NOW).assert(0);
    assert_eq!(node.removed(), "");
}

#[test]
fn a_runtime_that_may_start_a_program_puts_a_removal_off_and_at_last_blocks_it() {
    for comm in [
        "runc:[2:INIT]",
        "crun",
        "youki:[2:INIT]",
        "krun",
        "sysbox-runc",
        "lxc-start",
        "(sleep)",
    ] {
        let node = unwanted();
        node.process(78, comm, "unconfined");
        let run = node.reconcile(&NOW).assert(0);
        run.line(&["… deferred", "custom.b", "pid 78", comm]);
        assert_eq!(node.removed(), "", "{comm}");
    }
    let node = unwanted();
    node.process(78, "runc", "unconfined");
    node.reconcile(&NOW).assert(0);
    node.edit_state(|state| {
        let clock = &mut state["sets"]["default"]["owned"]["custom.b"]["unwanted"];
        assert!(clock["put_off_since"].is_object());
        clock["put_off_since"]["uptime"] = 0.into();
    });
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    if uptime.split('.').next().unwrap().parse::<u64>().unwrap() > 900 {
        let run = node.reconcile(&NOW).assert(1);
        run.line(&[
            "! blocked",
            "custom.b",
            "pid 78",
            "runc",
            "end that process",
        ]);
        assert_eq!(node.removed(), "");
    }
    node.remove("proc/78");
    node.reconcile(&NOW).assert(0);
    assert_eq!(node.removed(), "custom.b");
}

#[test]
fn a_runtime_that_ends_within_two_seconds_puts_nothing_off() {
    let node = unwanted();
    node.process(78, "runc", "unconfined");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(500));
            node.remove("proc/78");
        });
        node.reconcile(&NOW).assert(0);
    });
    assert_eq!(node.removed(), "custom.b");
}

/// The scans of a pass with `arguments`: how often it opened the name of the runtime with pid 78.
fn scans(node: &Node, arguments: &[&str]) -> (Run, usize) {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    // A close between two openings keeps them from being reported as one.
    let events = WatchFlags::OPEN | WatchFlags::CLOSE_NOWRITE;
    inotify::add_watch(&watch, node.path("proc/78/comm"), events).unwrap();
    let run = node.reconcile(&[&NOW[..], arguments].concat());
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let events = std::iter::from_fn(|| Some(events.next().ok()?.events()));
    let count = events.filter(|event| event.contains(ReadFlags::OPEN));
    (run, count.count())
}

/// The pause before each further look is 400 ms.
#[test]
fn the_looks_at_a_runtime_stay_within_the_deadline_and_are_shared_by_all_removals() {
    const NAMES: [&str; 4] = ["custom.a", "custom.b", "custom.c", "custom.d"];
    for (deadline, looks) in [("1s", 3), ("5m", 5)] {
        let node = Node::settled(&NAMES);
        for name in &NAMES[1..] {
            node.take_out(name);
        }
        node.process(78, "runc", "unconfined");
        let (run, scans) = scans(&node, &["--deadline", deadline]);
        for name in &NAMES[1..] {
            run.line(&["… deferred", name, "runc (pid 78)"]);
        }
        run.line(&["3 deferred"]);
        assert_eq!(node.removed(), "");
        // The first decides which profiles are due; each due one is looked for at least once.
        let most = 1 + looks + 2;
        assert!((4..=most).contains(&scans), "{deadline}: {scans}");
        // On a busy machine a deadline leaves room for fewer.
        assert!(deadline == "1s" || scans == most, "{scans}");
    }
}

#[test]
fn where_the_scan_is_incomplete_nothing_is_removed() {
    let node = unwanted();
    node.remove("proc/1");
    let run = node.reconcile(&NOW).assert(1);
    run.line(&["! blocked", "custom.b", "process 1"]);
    node.process(1, "init", "unconfined");
    node.remove("proc/1/task/1/attr/apparmor/current");
    node.folder("proc/1/task/1/attr/apparmor/current");
    let run = node.plan(&NOW).assert(1);
    run.line(&["! blocked", "custom.b", "process 1"]);
    assert_eq!(node.removed(), "");
}

/// armorer with a real /proc, mounted with `options`, on the node.
fn with_proc(node: &Node, options: &str, arguments: &[&str]) -> Run {
    let mount = format!("mount -t proc -o '{options}' proc proc && exec \"$@\"");
    let mut command = node.under(&["unshare", "--mount", "sh", "-c", &mount, "sh"], arguments);
    Run::of(&mut command)
}

#[test]
fn where_proc_hides_processes_nothing_is_removed_and_force_does_not_claim_to_know() {
    let node = Node::with(&["custom.a", "custom.b"]);
    let pass = |options: &str| {
        with_proc(
            &node,
            options,
            &["reconcile", "profiles", "--remove-after", "0s"],
        )
    };
    pass("hidepid=0").assert(0);
    node.take_out("custom.b");
    let run = pass("hidepid=2").assert(1);
    run.line(&["! blocked", "custom.b", "hidepid"]);
    assert_eq!(node.removed(), "");
    let run = with_proc(&node, "hidepid=2", &["remove", "custom.b", "--force"]);
    run.line(&["- remove", "custom.b", "at least", "hidepid"]);
    run.lacks("no process used it");
    assert_eq!(node.removed(), "custom.b");
}

#[test]
fn force_removes_from_under_processes_and_says_how_many() {
    let node = Node::settled(&["custom.a"]);
    node.process(77, "sleep", "custom.a (enforce)");
    node.process(78, "sleep", "custom.a//kid (enforce)");
    node.run(&["remove", "custom.a", "--remove-after", "0s"])
        .assert(1)
        .line(&["… deferred", "2 processes"]);
    assert_eq!(node.removed(), "");
    let run = node.run(&["remove", "custom.a", "--force"]).assert(0);
    run.line(&[
        "- remove",
        "custom.a",
        "2 processes",
        "unconfined",
        "restart",
    ]);
    assert_eq!(node.removed(), "custom.a");
}

#[test]
fn a_removal_of_names_that_the_set_does_not_own_says_so() {
    let node = Node::settled(&["custom.a"]);
    let run = node.run(&["remove", "custom.other"]).assert(1);
    run.line(&["! blocked", "custom.other", "the set default", "--set"]);
    run.line(&["not converged", "1 profile in force", "1 blocked"]);
    // A misspelt name is no profile of the node.
    assert!(!node.run(&["status"]).assert(0).stdout().contains("other"));
    let run = node.run(&["remove", "--all", "--set", "typo"]).assert(0);
    run.line(&["the set typo owns no profile"]);
    node.assert_untouched();
}

#[test]
fn a_removal_by_hand_leaves_no_probe_ready() {
    let node = Node::with(&["custom.a"]);
    node.loop_pass("one", &[]).assert(0);
    node.probe("ready", &[]).assert(0);
    node.run(&[&["remove", "--all"], &NOW[..]].concat())
        .assert(0);
    node.probe("ready", &[]).assert(1);
    node.loop_pass("one", &[]);
    node.probe("ready", &[]).assert(0);
}

#[test]
fn a_removal_by_hand_reports_each_deferred_profile_and_how_to_hasten_it() {
    let node = Node::settled(&["custom.a"]);
    for _ in 0..2 {
        let run = node.run(&["remove", "custom.a"]).assert(1);
        run.line(&["… deferred", "custom.a", "--remove-after 0s"]);
        run.line(&["not converged", "1 deferred"]);
    }
    node.process(77, "sleep", "custom.a (enforce)");
    for _ in 0..2 {
        let run = node.run(&["remove", "--all"]).assert(1);
        run.line(&["… deferred", "custom.a", "1 process (77 sleep)"]);
    }
}

/// While a runtime is looked at again, another program puts its own policy in the place.
#[test]
fn a_profile_that_another_program_replaces_before_its_removal_stays() {
    let node = unwanted();
    node.process(78, "runc", "unconfined");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(500));
            node.load("custom.b", "profile custom.b {\n}\n");
            node.remove("proc/78");
        });
        node.reconcile(&NOW).assert(0);
    });
    assert_eq!(node.removed(), "");
    assert!(node.set()["owned"]["custom.b"].is_null());
}

#[test]
fn a_use_in_between_ends_the_time_that_a_removal_was_put_off() {
    let node = unwanted();
    node.process(78, "runc", "unconfined");
    node.reconcile(&NOW).assert(0);
    let put_off = || node.set()["owned"]["custom.b"]["unwanted"]["put_off_since"].clone();
    assert!(put_off().is_object());
    node.remove("proc/78");
    node.process(77, "sleep", "custom.b (enforce)");
    node.reconcile(&NOW).assert(0);
    assert!(put_off().is_null());
}

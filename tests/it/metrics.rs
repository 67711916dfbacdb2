//! The metrics file: what stands in it after passes of every outcome. That Prometheus reads it
//! is tested in tests/metrics.

use std::os::unix::fs::PermissionsExt;

use crate::node::{Node, profile};

/// A pass that writes `metrics.prom`.
fn pass(node: &Node, code: i32) -> Vec<String> {
    node.reconcile(&["--metrics-file", "/metrics.prom"])
        .assert(code);
    node.read("metrics.prom")
        .lines()
        .map(ToOwned::to_owned)
        .collect()
}

#[track_caller]
fn assert_has(lines: &[String], line: &str) {
    assert!(lines.iter().any(|l| l == line), "{line}: {lines:#?}");
}

#[test]
fn it_is_written_whole_by_each_pass_and_can_be_read_by_others() {
    let node = Node::with(&["custom.a"]);
    pass(&node, 0);
    let first = node.path("metrics.prom").metadata().unwrap();
    assert_eq!(first.permissions().mode() & 0o777, 0o644);
    let inode = |m: &std::fs::Metadata| std::os::unix::fs::MetadataExt::ino(m);
    let lines = pass(&node, 0);
    let second = node.path("metrics.prom").metadata().unwrap();
    assert_ne!(
        inode(&first),
        inode(&second),
        "a reader sees the old or the new"
    );
    assert!(!node.exists("metrics.prom.tmp"));
    let result = "armorer_passes_total{set=\"default\",result=";
    assert_has(&lines, &format!("{result}\"converged\"}} 2"));
    assert_has(
        &lines,
        "armorer_profiles{set=\"default\",state=\"in_force\"} 1",
    );
    assert_has(&lines, "armorer_last_pass_exit_code{set=\"default\"} 0");
}

#[test]
fn nothing_else_is_written_by_a_pass_that_changes_nothing() {
    let node = Node::settled(&["custom.a"]);
    pass(&node, 0);
    let files = || {
        let entries = walkdir::WalkDir::new(node.path("")).into_iter();
        let files = entries
            .map(Result::unwrap)
            .filter(|e| e.file_type().is_file());
        let ours = |name: &std::ffi::OsStr| name == "heartbeat" || name == "metrics.prom";
        let files = files.filter(|entry| !ours(entry.file_name()));
        files
            .map(|entry| {
                (
                    entry.path().to_owned(),
                    entry.metadata().unwrap().modified().unwrap(),
                )
            })
            .collect::<Vec<_>>()
    };
    let before = files();
    pass(&node, 0);
    assert_eq!(files(), before);
}

#[test]
fn a_plan_writes_none() {
    let node = Node::with(&["custom.a"]);
    node.plan(&["--metrics-file", "/metrics.prom"]).assert(0);
    assert!(!node.exists("metrics.prom"));
}

#[test]
fn a_pass_that_could_not_run_is_told_with_what_was_known() {
    let node = Node::with(&["custom.a"]);
    let converged = pass(&node, 0);
    let of = |lines: &[String], name: &str| {
        let line = lines.iter().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {lines:#?}")).clone()
    };
    node.remove("profiles");
    let lines = pass(&node, 3);
    assert_has(&lines, "armorer_last_pass_exit_code{set=\"default\"} 3");
    let result = "armorer_passes_total{set=\"default\",result=";
    assert_has(&lines, &format!("{result}\"failed\"}} 1"));
    for kept in [
        "armorer_last_converged_timestamp_seconds",
        "armorer_profile_info",
    ] {
        assert_eq!(of(&lines, kept), of(&converged, kept));
    }
    // Of an unreadable state nothing is claimed.
    node.write("var/lib/armorer/state.json", "{");
    let lines = pass(&node, 3);
    assert_has(&lines, &format!("{result}\"failed\"}} 2"));
    assert!(
        !lines
            .iter()
            .any(|line| line.starts_with("armorer_profiles"))
    );
}

#[test]
fn a_pass_that_waits_in_vain_for_the_lock_is_told() {
    let node = Node::settled(&["custom.a"]);
    let lock = std::fs::File::open(node.path("var/lib/armorer/lock")).unwrap();
    lock.lock().unwrap();
    let file = ["--metrics-file", "/metrics.prom", "--lock-timeout", "100ms"];
    node.reconcile(&file).assert(3);
    let text = node.read("metrics.prom");
    assert!(
        text.contains("armorer_last_pass_exit_code{set=\"default\"} 3\n"),
        "{text}"
    );
    assert!(
        text.contains("armorer_profile_info{set=\"default\",profile=\"custom.a\""),
        "{text}"
    );
}

#[test]
fn what_cannot_be_written_is_warned_of_and_fails_no_pass() {
    let node = Node::settled(&["custom.a"]);
    let env = [("ARMORER_METRICS_FILE", "/nowhere/metrics.prom")];
    let run = node
        .run_with(&["reconcile", &node.profiles()], &env)
        .assert(0);
    let said = run.stderr();
    assert_eq!(said.lines().count(), 2, "{run}");
    assert!(
        said.contains("warning: the metrics are not written: "),
        "{run}"
    );
    assert!(said.contains("/nowhere/metrics.prom.tmp"), "{run}");
    assert!(said.contains("see --metrics-file"), "{run}");
}

#[test]
fn problems_deferred_removals_and_processes_have_lines_of_their_own() {
    let node = Node::settled(&["custom.a", "custom.old"]);
    node.remove("profiles/custom.old");
    node.want("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node.want("custom.theirs", profile("custom.theirs"));
    node.load("custom.theirs", "profile custom.theirs {\n}\n");
    node.process(77, "sleep", "custom.old (enforce)");
    let lines = pass(&node, 1);
    for (state, count) in [
        ("in_force", 1),
        ("refused", 1),
        ("conflict", 1),
        ("deferred", 1),
        ("missing", 0),
    ] {
        let line = format!("armorer_profiles{{set=\"default\",state=\"{state}\"}} {count}");
        assert_has(&lines, &line);
    }
    let users = "armorer_processes_confined{set=\"default\",profile=";
    assert_has(&lines, &format!("{users}\"custom.old\"}} 1"));
    assert_has(&lines, &format!("{users}\"custom.a\"}} 0"));
    for start in [
        "armorer_profile_problem_timestamp_seconds{set=\"default\",profile=\"custom.bad\",kind=\"refused\"} 1",
        "armorer_profile_problem_timestamp_seconds{set=\"default\",profile=\"custom.theirs\",kind=\"conflict\"} 1",
        "armorer_removal_deferred_timestamp_seconds{set=\"default\",profile=\"custom.old\"} 1",
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(start)),
            "{lines:#?}"
        );
    }
    // Neither it nor its process is there any more.
    node.remove("proc/77");
    let run = ["--metrics-file", "/metrics.prom", "--remove-after", "0s"];
    node.reconcile(&run).assert(1);
    let text = node.read("metrics.prom");
    assert!(!text.contains("custom.old"), "{text}");
    let operation = "armorer_kernel_operations_total{set=\"default\",operation=\"remove\"} 1\n";
    assert!(text.contains(operation), "{text}");
}

#[test]
fn each_set_counts_its_own() {
    let node = Node::settled(&["custom.a"]);
    node.unload("custom.a");
    node.reconcile(&[]).assert(1);
    node.write("web/custom.w", profile("custom.w"));
    node.load("custom.w", &profile("custom.w"));
    node.run(&[
        "reconcile",
        "web",
        "--set",
        "web",
        "--metrics-file",
        "/web.prom",
    ])
    .assert(0);
    let load = "armorer_kernel_operations_total{set=\"web\",operation=\"load\"} 0\n";
    let text = node.read("web.prom");
    assert!(text.contains(load), "{text}");
    assert!(!text.contains("default"), "{text}");
}

#[test]
fn two_passes_at_once_leave_a_whole_file_and_count_both() {
    const EACH: usize = 15;
    let node = Node::settled(&["custom.a"]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    node.reconcile(&["--metrics-file", "/metrics.prom"])
                        .assert(0);
                }
            });
        }
    });
    let text = node.read("metrics.prom");
    let passes = 2 * EACH + 1;
    let line = format!("armorer_passes_total{{set=\"default\",result=\"converged\"}} {passes}\n");
    assert!(text.contains(&line), "{text}");
    assert!(text.ends_with('\n'));
}

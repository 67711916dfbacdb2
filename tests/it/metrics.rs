//! The metrics file after passes of every outcome. That Prometheus reads it is tested in tests/metrics.

use std::os::unix::fs::MetadataExt as _;

use harness::{Node, profile};

const FILE: [&str; 2] = ["--metrics-file", "/metrics.prom"];

/// The lines of metrics.prom after a pass.
#[track_caller]
fn pass(node: &Node, code: i32) -> Vec<String> {
    node.reconcile(&FILE).assert(code);
    node.read("metrics.prom")
        .lines()
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn assert_has(lines: &[String], line: &str) {
    assert!(
        lines.iter().any(|other| other == line),
        "{line}: {lines:#?}"
    );
}

/// The line that begins with `start`.
#[track_caller]
fn line<'a>(lines: &'a [String], start: &str) -> &'a str {
    let line = lines.iter().find(|line| line.starts_with(start));
    line.unwrap_or_else(|| panic!("{start}: {lines:#?}"))
}

#[test]
fn each_pass_replaces_the_file_by_a_whole_one_that_others_may_read() {
    let node = Node::with(&["custom.a"]);
    pass(&node, 0);
    assert_eq!(node.mode("metrics.prom"), 0o644);
    let inode = || node.path("metrics.prom").metadata().unwrap().ino();
    let first = inode();
    let lines = pass(&node, 0);
    assert_ne!(inode(), first, "a reader sees the old file or the new one");
    assert_has(
        &lines,
        "armorer_passes_total{set=\"default\",result=\"converged\"} 2",
    );
    assert_has(
        &lines,
        "armorer_profiles{set=\"default\",state=\"in_force\"} 1",
    );
    assert_has(&lines, "armorer_last_pass_exit_code{set=\"default\"} 0");
    // It is all that an idle pass writes besides the status.
    let before = node.files(&["status.json", "metrics.prom"]);
    pass(&node, 0);
    assert!(node.files(&["status.json", "metrics.prom"]) == before);
}

#[test]
fn a_planted_link_leads_no_write_elsewhere() {
    let node = Node::settled(&["custom.a"]);
    node.write("target", "theirs");
    for planted in ["metrics.prom", "metrics.prom.tmp", "metrics.prom.new"] {
        node.link("target", planted);
    }
    pass(&node, 0);
    assert_eq!(node.read("target"), "theirs");
    assert!(
        node.path("metrics.prom")
            .symlink_metadata()
            .unwrap()
            .is_file()
    );
}

#[test]
fn a_pass_that_could_not_run_is_counted_and_the_rest_stays_known() {
    let node = Node::with(&["custom.a"]);
    let converged = pass(&node, 0);
    node.remove("profiles");
    let lines = pass(&node, 3);
    assert_has(&lines, "armorer_last_pass_exit_code{set=\"default\"} 3");
    assert_has(
        &lines,
        "armorer_passes_total{set=\"default\",result=\"failed\"} 1",
    );
    for kept in [
        "armorer_last_converged_timestamp_seconds",
        "armorer_profile_info",
    ] {
        assert_eq!(line(&lines, kept), line(&converged, kept));
    }
    // Of an unreadable state nothing is claimed.
    node.write("var/lib/armorer/state.json", "{");
    let lines = pass(&node, 3);
    assert_has(
        &lines,
        "armorer_passes_total{set=\"default\",result=\"failed\"} 2",
    );
    assert!(
        !lines
            .iter()
            .any(|line| line.starts_with("armorer_profiles"))
    );
}

#[test]
fn a_pass_that_never_gets_the_lock_is_counted() {
    let node = Node::settled(&["custom.a"]);
    let lock = std::fs::File::open(node.path("var/lib/armorer/lock")).unwrap();
    lock.lock().unwrap();
    node.reconcile(&[&FILE[..], &["--lock-timeout", "100ms"]].concat())
        .assert(3);
    let text = node.read("metrics.prom");
    assert!(
        text.contains("armorer_last_pass_exit_code{set=\"default\"} 3\n"),
        "{text}"
    );
    let file = node.path("profiles/custom.a");
    let sum = std::process::Command::new("sha256sum").arg(file).output();
    let digest = String::from_utf8(sum.unwrap().stdout).unwrap()[..12].to_owned();
    let sample = format!(
        r#"armorer_profile_info{{set="default",profile="custom.a",mode="enforce",digest="{digest}"}} 1"#
    );
    assert!(text.contains(&sample), "{text} lacks {sample}");
}

#[test]
fn a_file_that_cannot_be_written_is_a_warning_and_fails_no_pass() {
    let node = Node::settled(&["custom.a"]);
    let env = [("ARMORER_METRICS_FILE", "/nowhere/metrics.prom")];
    let run = node.run_with(&["reconcile", "profiles"], &env).assert(0);
    assert_eq!(run.stderr().lines().count(), 2, "{run}");
    run.line(&["warning", "/nowhere/metrics.prom", "--metrics-file"]);
}

#[test]
fn problems_deferred_removals_and_processes_have_lines_of_their_own() {
    let node = Node::settled(&["custom.a", "custom.old"]);
    node.take_out("custom.old");
    node.put("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node.put("custom.theirs", profile("custom.theirs"));
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
        assert_has(
            &lines,
            &format!("armorer_profiles{{set=\"default\",state=\"{state}\"}} {count}"),
        );
    }
    for (name, count) in [("custom.old", 1), ("custom.a", 0)] {
        let users = "armorer_processes_confined{set=\"default\",profile=";
        assert_has(&lines, &format!("{users}\"{name}\"}} {count}"));
    }
    for (name, kind) in [("custom.bad", "refused"), ("custom.theirs", "conflict")] {
        let problem = "armorer_profile_problem_timestamp_seconds{set=\"default\",profile=";
        line(&lines, &format!("{problem}\"{name}\",kind=\"{kind}\"}} 1"));
    }
    line(
        &lines,
        "armorer_removal_deferred_timestamp_seconds{set=\"default\",profile=\"custom.old\"} 1",
    );
    // Neither it nor its process is there any more.
    node.remove("proc/77");
    node.reconcile(&[&FILE[..], &["--remove-after", "0s"]].concat())
        .assert(1);
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
    let text = node.read("web.prom");
    assert!(
        text.contains("armorer_kernel_operations_total{set=\"web\",operation=\"load\"} 0\n"),
        "{text}"
    );
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
                    node.reconcile(&FILE).assert(0);
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

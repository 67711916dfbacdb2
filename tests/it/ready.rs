//! Readiness: this loop's last pass read its sources, and desired profiles are in force or refused for their
//! text. Probes and status, and their messages on a node that is not ready.

use harness::{Node, deeds, profile};
use insta::assert_snapshot;

/// A node with one profile in force, after a pass of the loop `one`.
fn ready() -> Node {
    let node = Node::with(&["custom.a"]);
    node.loop_pass("one", &[]).assert(0);
    node
}

#[track_caller]
fn assert_not_ready(node: &Node, words: &[&str]) {
    let run = node.probe("ready", &[]).assert(1);
    run.line(&[&["not ready: "], words].concat());
    assert_eq!(run.stdout().lines().count(), 1, "{run}");
}

#[test]
fn a_compiler_that_could_not_run_leaves_the_node_unready_until_it_can() {
    let node = Node::new();
    node.put("custom.a", deeds("custom.a", &["signal 9"]));
    let parser = node.stand_in();
    let pass = ["--parser", parser.as_str()];
    for _ in 0..2 {
        node.loop_pass("one", &pass).assert(1);
        assert_not_ready(&node, &["0 profiles in force", "custom.a failed"]);
    }
    // The very same text is tried again, and with a compiler that works it is in force.
    node.load("custom.a", "profile custom.a {\n}\n");
    node.loop_pass("one", &[]).assert(0);
    node.probe("ready", &[]).assert(0);
}

#[test]
fn a_pass_that_ran_out_of_time_leaves_the_node_unready() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    node.loop_pass("one", &["--deadline", "0s"]).assert(1);
    assert_not_ready(&node, &["custom.a failed"]);
}

#[test]
fn a_failure_of_the_node_is_no_more_after_a_reboot_than_before() {
    let node = Node::new();
    node.put("custom.a", deeds("custom.a", &["hang"]));
    let parser = node.stand_in();
    let pass = ["--parser", &parser, "--deadline", "500ms"];
    node.reconcile(&pass)
        .assert(1)
        .line(&["✗ failed", "custom.a"]);
    node.write("proc/sys/kernel/random/boot_id", "another\n");
    node.load("custom.a", "profile custom.a {\n}\n");
    node.reconcile(&[]).assert(0);
}

#[test]
fn a_refused_text_or_a_conflict_leaves_the_node_ready_but_not_strictly() {
    let node = Node::with(&["custom.a"]);
    node.put("custom.bad", "bogus");
    node.put("custom.theirs", profile("custom.theirs"));
    node.load("custom.theirs", "profile custom.theirs {\n}\n");
    node.loop_pass("one", &[]).assert(1);
    node.probe("ready", &[]).assert(0).line(&[
        "ready: ",
        "custom.bad refused",
        "custom.theirs conflict",
    ]);
    node.probe("ready", &["--strict"])
        .assert(1)
        .line(&["not ready: "]);
}

#[test]
fn only_a_pass_of_the_loop_that_is_running_makes_a_node_ready() {
    let node = ready();
    node.probe("ready", &[])
        .assert(0)
        .prints(&["ready: converged: 1 profile in force; 1 own"]);
    // Another pod's loop, which has begun its first pass.
    node.beat("two");
    assert_not_ready(&node, &["first pass has not ended"]);
    // A pass by hand is none of it.
    node.reconcile(&[]).assert(0);
    assert_not_ready(&node, &["first pass has not ended"]);
    node.loop_pass("two", &[]).assert(0);
    node.probe("ready", &[]).assert(0);
    // Nor does a loop without identity count.
    node.beat("");
    assert_not_ready(&node, &["first pass has not ended"]);
    node.remove("run/armorer/loop");
    assert_not_ready(&node, &["no heartbeat", "run/armorer/loop"]);
}

#[test]
fn before_the_first_pass_and_after_a_reboot_a_node_is_not_ready() {
    let node = Node::with(&["custom.a"]);
    node.beat("one");
    assert_not_ready(&node, &["no pass has ended"]);
    node.loop_pass("one", &[]).assert(0);
    node.write("proc/sys/kernel/random/boot_id", "another\n");
    assert_not_ready(&node, &["booted"]);
}

#[test]
fn a_pass_that_is_three_polls_and_a_deadline_old_makes_no_node_ready() {
    let node = ready();
    let mut status = node.status();
    let uptime = status["last_pass"]["ended"]["uptime"].as_u64().unwrap();
    if uptime < 130 {
        return;
    }
    status["last_pass"]["ended"]["uptime"] = (uptime - 130).into();
    node.write("var/lib/armorer/status.json", status.to_string());
    node.probe("ready", &["--poll-time", "30", "--deadline", "60s"])
        .assert(0);
    node.probe("ready", &["--poll-time", "30", "--deadline", "30s"])
        .assert(1)
        .line(&["2m"]);
}

#[test]
fn a_source_that_cannot_be_read_leaves_the_node_unready() {
    let node = ready();
    node.remove("profiles");
    node.loop_pass("one", &[]).assert(3);
    assert_not_ready(&node, &["profiles does not exist"]);
}

#[test]
fn an_empty_source_is_ready_and_said_by_pass_probe_and_status() {
    let node = Node::new();
    let words = ["profiles", "holds no profile"];
    for _ in 0..2 {
        node.loop_pass("one", &[]);
        node.reconcile(&[]).assert(0).line(&words);
    }
    node.loop_pass("one", &[]).assert(0);
    node.probe("ready", &[]).assert(0).line(&words);
    node.run(&["status"]).assert(0).line(&words);
    node.plan(&[]).assert(0).line(&words);
    let document = node.plan(&["--output", "json"]).assert(0).json();
    assert_eq!(document["remarks"].as_array().unwrap().len(), 1);
}

#[test]
fn a_file_that_is_passed_over_for_its_name_is_said() {
    let node = Node::with(&["custom.a"]);
    node.put("custom.web.orig", profile("custom.web"));
    node.put("README", "no profile");
    node.put(".hidden", "no profile");
    let run = node.reconcile(&[]).assert(0);
    run.line(&["1 profile in force", "custom.web.orig", "rename"]);
    run.lacks("README");
    run.lacks("hidden");
}

#[test]
fn a_profile_that_another_program_unloaded_is_named_until_the_next_boot() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    node.unload("custom.a");
    let run = node.reconcile(&[]);
    run.line(&[
        "+ load",
        "custom.a",
        "another program unloaded it",
        "restarted",
    ]);
    node.load("custom.a", &profile("custom.a"));
    node.reconcile(&[]).assert(0);
    let words = ["custom.a", "unloaded by another program", "restarted"];
    let run = node.run(&["status"]).assert(0);
    run.line(&words);
    run.lacks("custom.b was unloaded");
    node.write("proc/sys/kernel/random/boot_id", "another\n");
    node.reconcile(&[]).assert(0);
    node.run(&["status"]).assert(0).lacks("unloaded by another");
}

#[test]
fn a_profile_that_another_program_unloaded_is_named_though_its_text_changed_too() {
    let node = Node::settled(&["custom.a"]);
    node.unload("custom.a");
    node.put("custom.a", "profile custom.a {\n}\n");
    let run = node.reconcile(&[]);
    run.line(&["+ load", "custom.a", "another program unloaded it"]);
    node.load("custom.a", "profile custom.a {\n}\n");
    node.run(&["status"])
        .line(&["custom.a was unloaded by another program", "restarted"]);
    // A text that only changed is no repair.
    node.put("custom.a", profile("custom.a"));
    node.plan(&[])
        .assert(0)
        .line(&["~ replace", "custom.a", "changed"]);
}

#[test]
fn a_restore_by_hand_leaves_no_probe_ready() {
    let node = ready();
    node.probe("ready", &[]).assert(0);
    node.run(&["restore"]).assert(0);
    assert_not_ready(&node, &["first pass has not ended"]);
}

/// A program with words of its own, like a compiler of another version that refuses an option.
#[test]
fn a_compiler_that_does_not_know_its_options_leaves_the_node_unready() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    let pass = node.loop_pass("one", &["--parser", "/bin/ls"]).assert(1);
    pass.line(&["✗ failed", "custom.a", "option", "the next pass"]);
    assert_not_ready(&node, &["custom.a failed"]);
}

#[test]
fn a_profile_with_slashes_in_its_name_is_shown_once() {
    let node = Node::new();
    node.put_loaded("custom.a.b", "profile custom.a/b {\n}\n");
    node.unload("custom.a.b");
    let policy = node.compile("profile custom.a/b {\n}\n", &[]);
    node.load_all(&[("custom.a/b", "enforce")], &policy);
    node.reconcile(&["--metrics-file", "/metrics.prom"])
        .assert(0);
    let run = node.run(&["status"]).assert(0);
    run.line(&["custom.a/b", "enforce", "in force"]);
    run.lacks("custom.a.b");
    let metrics = node.read("metrics.prom");
    assert!(metrics.contains("state=\"missing\"} 0\n"), "{metrics}");
}

#[test]
fn the_status_shows_each_profile_its_state_and_the_problems() {
    let node = Node::settled(&["custom.a", "custom.busy", "custom.gone"]);
    node.take_out("custom.busy");
    node.put("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node.put("custom.theirs", profile("custom.theirs"));
    node.load("custom.theirs", "profile custom.theirs {\n}\n");
    node.process(77, "sh", "custom.busy//kid (enforce)");
    node.reconcile(&["--node-name", "node-1"]).assert(1);
    node.unload("custom.gone");
    let run = node.run(&["status"]).assert(1);
    // Ages differ, and this kernel is a folder, whose compiler has another cage.
    let lines = run
        .stdout()
        .lines()
        .filter(|line| !line.contains("Landlock"));
    let text: Vec<String> = lines.map(without_ages).collect();
    assert_snapshot!(text.join("\n"), @r#"
    node-1: last pass AGE ago, not converged: 2 profiles in force; 1 deferred, 1 conflict, 1 refused; problems: custom.bad refused, custom.theirs conflict
    PROFILE        SET      MODE     PROCESSES  CHANGED  STATE
    custom.a       default  enforce  0          AGE       in force
    custom.bad     default  -        -          -        refused
    custom.busy    default  enforce  1          AGE       deferred
    custom.gone    default  -        -          AGE       missing
    custom.theirs  default  enforce  0          -        conflict
    custom.bad: line 2: unknown rule bogus
    custom.theirs is loaded by another program with other contents: rename yours, or take it over with --adopt 'custom.theirs'
    "#);
    let document = node.run(&["status", "--output", "json"]).assert(1).json();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["node"], "node-1");
    let rows = document["profiles"].as_array().unwrap();
    let state =
        |name: &str| rows.iter().find(|row| row["profile"] == name).unwrap()["state"].clone();
    assert_eq!(state("custom.gone"), "missing");
    assert_eq!(state("custom.bad"), "refused");
    assert_eq!(document["last_pass"]["last_pass"]["exit"], 1);
}

/// `line` with each age as AGE.
fn without_ages(line: &str) -> String {
    let is_age = |word: &str| {
        let number = word.trim_end_matches(['s', 'm']);
        number != word && number.parse::<u32>().is_ok()
    };
    let words = line
        .split(' ')
        .map(|word| if is_age(word) { "AGE" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn status_and_probes_need_no_right() {
    let node = ready();
    node.write("proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\n");
    node.run(&["status"]).assert(0);
    node.probe("ready", &[]).assert(0);
    node.probe("live", &[]).assert(0);
}

#[test]
fn where_the_kernel_itself_only_complains_everything_says_so() {
    let node = Node::with(&["custom.a"]);
    node.write("sys/module/apparmor/parameters/mode", "complain\n");
    let words = ["complain", "parameters/mode"];
    for _ in 0..2 {
        node.loop_pass("one", &["--metrics-file", "/metrics.prom"]);
        node.reconcile(&[]).assert(0).line(&words);
    }
    node.plan(&[]).assert(0).line(&words);
    node.run(&["status"]).assert(0).line(&words);
    assert!(
        node.read("metrics.prom")
            .contains("armorer_kernel_enforcing{set=\"default\"} 0\n")
    );
    node.loop_pass("one", &[]).assert(0);
    node.probe("ready", &[]).assert(0).line(&words);
    node.probe("ready", &["--strict"]).assert(1).line(&words);
    node.write("sys/module/apparmor/parameters/mode", "enforce\n");
    let run = node
        .loop_pass("one", &["--metrics-file", "/metrics.prom"])
        .assert(0);
    run.lacks("complain");
    node.probe("ready", &["--strict"]).assert(0);
    assert!(
        node.read("metrics.prom")
            .contains("armorer_kernel_enforcing{set=\"default\"} 1\n")
    );
}

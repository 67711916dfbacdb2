//! A pass that changes one profile passes over the others only where nothing can have changed them.

use harness::{Node, profile};

const NAMES: [&str; 3] = ["custom.a", "custom.b", "custom.c"];

/// `name`, with a rule besides those that `profile` gives it.
fn changed(name: &str) -> String {
    profile(name).replace('}', "  deny /srv/new w,\n}")
}

/// Kind and profile of each line of a plan.
#[track_caller]
fn planned(node: &Node, arguments: &[&str]) -> Vec<String> {
    let run = node
        .plan(&[arguments, &["--output", "json"]].concat())
        .assert(0)
        .json();
    let outcomes = run["outcomes"].as_array().unwrap().iter();
    let word = |outcome: &serde_json::Value, key: &str| outcome[key].as_str().unwrap().to_owned();
    outcomes
        .map(|o| format!("{} {}", word(o, "kind"), word(o, "profile")))
        .collect()
}

const ALL: [&str; 3] = ["replace custom.a", "replace custom.b", "replace custom.c"];

#[test]
fn one_changed_text_is_all_that_is_done() {
    let node = Node::settled(&NAMES);
    node.put("custom.b", changed("custom.b"));
    assert_eq!(planned(&node, &[]), ["replace custom.b"]);
    let before = node.set()["profiles"].clone();
    node.reconcile(&[])
        .assert(1)
        .line(&["2 profiles in force; 1 replace"]);
    let after = node.set()["profiles"].clone();
    for name in ["custom.a", "custom.c"] {
        assert_eq!(before[name], after[name]);
    }
}

#[test]
fn a_text_that_includes_a_changed_file_is_compiled_though_another_text_changed_too() {
    let node = Node::settled(&NAMES);
    node.put("custom.b", changed("custom.b"));
    node.write("base/abstractions/base", "  /lib/** r,\n");
    assert_eq!(planned(&node, &[]), ALL);
}

#[test]
fn other_mount_points_or_jobs_compile_nothing_anew() {
    // As a pass by hand has them, beside a container that has the node's files elsewhere.
    let node = Node::settled(&NAMES);
    let before = node.set();
    node.folder("host");
    node.link(node.path("proc"), "host/proc");
    node.link(node.path("sys/kernel/security"), "host/security");
    let places = ["--proc", "/host/proc", "--securityfs", "/host/security"];
    node.reconcile(&[&places[..], &["--jobs", "1"]].concat())
        .assert(0);
    assert_eq!(node.set()["profiles"], before["profiles"]);
}

#[test]
fn after_a_pass_over_one_bad_text_all_else_is_watched_as_before() {
    let node = Node::settled(&NAMES);
    let before = node.set();
    node.put("custom.bad", "profile custom.bad {");
    node.reconcile(&[]).assert(1).line(&["3 profiles in force"]);
    let after = node.set();
    for field in ["profiles", "owned"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    for field in ["includes", "verifiable", "kernel_revision"] {
        assert_eq!(before["basis"][field], after["basis"][field], "{field}");
    }
    node.write("base/abstractions/base", "  /lib/** r,\n");
    node.plan(&[]).line(&["~ replace", "custom.a", "changed"]);
}

#[test]
fn changes_of_other_programs_are_undone_though_a_text_changed_too() {
    let node = Node::settled(&NAMES);
    node.put("custom.b", changed("custom.b"));
    node.load("custom.a", &changed("custom.a"));
    node.unload("custom.c");
    assert_eq!(
        planned(&node, &[]),
        ["replace custom.a", "replace custom.b", "load custom.c"]
    );
}

#[test]
fn another_option_compiles_all_though_a_text_changed_too() {
    let node = Node::settled(&NAMES);
    node.put("custom.b", changed("custom.b"));
    assert_eq!(planned(&node, &["--complain"]), ALL);
}

#[test]
fn a_new_boot_loads_all_though_a_text_changed_too() {
    let node = Node::settled(&NAMES);
    node.put("custom.b", changed("custom.b"));
    let revision = node.set()["basis"]["kernel_revision"].to_string();
    node.reboot("another");
    // As it was: a new boot counts from anywhere.
    node.write(
        "sys/kernel/security/apparmor/revision",
        format!("{revision}\n"),
    );
    assert_eq!(
        planned(&node, &[]),
        ["load custom.a", "load custom.b", "load custom.c"]
    );
}

#[test]
fn a_file_for_a_name_that_another_file_brought_leaves_the_other_refused() {
    let node = Node::new();
    let both = format!("{}{}", profile("custom.a"), profile("custom.x"));
    node.put("custom.a", &both);
    let members = [("custom.a", "enforce"), ("custom.x", "enforce")];
    node.load_all(&members, &node.compile(&both, &[]));
    node.reconcile(&[]).assert(0);
    node.put("custom.x", profile("custom.x"));
    let run = node.plan(&[]);
    run.line(&["✗ refused", "custom.a", "custom.x", "keep one"]);
}

#[test]
fn a_profile_that_is_desired_again_is_not_removed_though_a_text_changed_too() {
    let node = Node::settled(&NAMES);
    let text = node.read("profiles/custom.a");
    node.take_out("custom.a");
    node.reconcile(&[]).assert(0);
    assert!(node.set()["owned"]["custom.a"]["unwanted"].is_object());
    node.put("custom.a", text);
    node.put("custom.b", changed("custom.b"));
    node.reconcile(&["--remove-after", "0s"]).assert(1);
    assert_eq!(node.removed(), "");
    assert!(node.set()["owned"]["custom.a"]["unwanted"].is_null());
}

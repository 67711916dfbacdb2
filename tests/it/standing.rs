//! A pass that changes one profile passes over the others only where nothing can have changed them.

use crate::node::{Node, profile};

const NAMES: [&str; 3] = ["custom.a", "custom.b", "custom.c"];

/// `name`, with a rule besides what `profile` gives it.
fn changed(name: &str) -> String {
    profile(name).replace('}', "  deny /srv/new w,\n}")
}

/// What a plan says, without its total.
#[track_caller]
fn planned(node: &Node, arguments: &[&str]) -> Vec<String> {
    let run = node.plan(arguments).assert(0);
    let mut lines: Vec<String> = run.stdout().lines().map(str::to_owned).collect();
    lines.pop();
    lines
}

#[test]
fn one_changed_text_is_all_that_is_done() {
    let node = Node::settled(&NAMES);
    node.want("custom.b", changed("custom.b"));
    assert_eq!(planned(&node, &[]), ["~ replace   custom.b: changed"]);
    let run = node.reconcile(&[]).assert(1);
    assert!(
        run.stderr().contains("2 profiles in force; 1 replaced"),
        "{run}"
    );
    let state = node.state();
    let set = &state["sets"]["default"];
    assert_eq!(set["profiles"].as_object().unwrap().len(), 3);
    assert_eq!(set["verifiable"], true);
}

#[test]
fn what_includes_a_changed_file_is_compiled_though_another_text_changed_too() {
    let node = Node::new();
    for name in NAMES {
        let text = profile(name).replace('}', "  include <abstractions/base>\n}");
        node.want(name, &text);
        node.load(name, &text);
    }
    node.reconcile(&[]).assert(0);
    node.want("custom.b", changed("custom.b"));
    node.write("base/abstractions/base", "  /lib/** r,\n");
    let lines =
        ["custom.a", "custom.b", "custom.c"].map(|name| format!("~ replace   {name}: changed"));
    assert_eq!(planned(&node, &[]), lines);
}

#[test]
fn after_a_pass_over_one_bad_text_all_else_is_watched_as_before() {
    let node = Node::settled(&NAMES);
    let text = profile("custom.a").replace('}', "  include <abstractions/base>\n}");
    node.want("custom.a", &text);
    node.load("custom.a", &text);
    node.reconcile(&[]).assert(0);
    let before = node.state();
    node.want("custom.bad", "profile custom.bad {");
    let run = node.reconcile(&[]).assert(1);
    assert!(run.stderr().contains("3 profiles in force"), "{run}");
    let after = node.state();
    for field in [
        "includes",
        "verifiable",
        "kernel_revision",
        "profiles",
        "owned",
    ] {
        let [before, after] = [&before, &after].map(|state| &state["sets"]["default"][field]);
        assert_eq!(before, after, "{field}");
    }
    node.write("base/abstractions/base", "  /lib/** r,\n");
    let run = node.plan(&[]);
    assert!(
        run.stdout().contains("~ replace   custom.a: changed"),
        "{run}"
    );
}

#[test]
fn somebody_elses_change_is_undone_though_a_text_changed_too() {
    let node = Node::settled(&NAMES);
    node.want("custom.b", changed("custom.b"));
    node.load("custom.a", &changed("custom.a"));
    node.unload("custom.c");
    assert_eq!(
        planned(&node, &[]),
        [
            "~ replace   custom.a: replaced by somebody else",
            "~ replace   custom.b: changed",
            "+ load      custom.c: removed by somebody else",
        ]
    );
}

#[test]
fn another_option_compiles_all_though_a_text_changed_too() {
    let node = Node::settled(&NAMES);
    node.want("custom.b", changed("custom.b"));
    let lines =
        ["custom.a", "custom.b", "custom.c"].map(|name| format!("~ replace   {name}: changed"));
    assert_eq!(planned(&node, &["--complain"]), lines);
}

#[test]
fn a_new_boot_loads_all_though_a_text_changed_too() {
    let node = Node::settled(&NAMES);
    node.want("custom.b", changed("custom.b"));
    for name in NAMES {
        node.unload(name);
    }
    // As it was: a new boot counts from anywhere.
    let revision = node.state()["sets"]["default"]["kernel_revision"].to_string();
    node.write(
        "sys/kernel/security/apparmor/revision",
        format!("{revision}\n"),
    );
    node.write("proc/sys/kernel/random/boot_id", "another\n");
    let lines = planned(&node, &[]);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines.iter().all(|line| line.starts_with("+ load")),
        "{lines:?}"
    );
}

#[test]
fn a_file_for_a_name_that_another_brought_is_refused_one_of_them() {
    let node = Node::new();
    let both = format!("{}{}", profile("custom.a"), profile("custom.x"));
    node.want("custom.a", &both);
    node.load_all(
        &[("custom.a", "enforce"), ("custom.x", "enforce")],
        &node.compile(&both, &[]),
    );
    node.reconcile(&[]).assert(0);
    node.want("custom.x", profile("custom.x"));
    let run = node.plan(&[]);
    assert!(
        run.stdout()
            .contains("✗ refused   custom.a: defines \"custom.x\" too"),
        "{run}"
    );
}

#[test]
fn a_profile_that_is_wanted_again_is_not_removed_though_a_text_changed_too() {
    let node = Node::settled(&NAMES);
    let text = node.read("profiles/custom.a");
    node.remove("profiles/custom.a");
    node.reconcile(&[]).assert(0);
    assert!(node.state()["sets"]["default"]["owned"]["custom.a"]["unwanted"].is_object());
    node.want("custom.a", text);
    node.want("custom.b", changed("custom.b"));
    node.reconcile(&["--remove-after", "0s"]).assert(1);
    assert_eq!(node.removed(), "");
    assert!(node.state()["sets"]["default"]["owned"]["custom.a"]["unwanted"].is_null());
}

//! What a plan says, and that it only says it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::node::{Node, profile};

/// Every file below `path`, with what is in it.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in walkdir::WalkDir::new(path) {
        let entry = entry.unwrap();
        let name = entry.path().display().to_string();
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        files.insert(name, bytes);
    }
    files
}

/// A node on which each kind of line is due.
fn everything() -> Node {
    let node = Node::settled(&[
        "custom.deferred",
        "custom.gone",
        "custom.repaired",
        "custom.changed",
        "custom.kept",
    ]);
    node.edit_state(|state| {
        let owned = &mut state["sets"]["default"]["owned"];
        owned["custom.gone"]["unwanted"] = serde_json::json!({
            "unwanted_since": {"at": "2026-01-01T00:00:00Z", "uptime": 0},
            "last_seen_in_use": null,
        });
    });
    node.remove("profiles/custom.deferred");
    node.remove("profiles/custom.gone");
    node.process(77, "sh", "custom.deferred//kid (enforce)");
    node.unload("custom.repaired");
    node.want(
        "custom.changed",
        "profile custom.changed {\n  deny /x w,\n}\n",
    );
    node.want("custom.new", profile("custom.new"));
    node.want("custom.own", profile("custom.own"));
    node.load("custom.own", &profile("custom.own"));
    node.want("custom.theirs", profile("custom.theirs"));
    node.load("custom.theirs", "profile custom.theirs {\n}\n");
    node.want("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node
}

#[test]
fn each_line_says_what_to_whom_and_why_and_the_total_counts_them() {
    // The clock of the removal runs since boot: on a machine just booted it is not due yet.
    let node = everything();
    let run = node.plan(&["--remove-after", "1s"]).assert(1);
    let mut lines: Vec<&str> = run.stdout().lines().collect();
    // How long the machine is up.
    assert!(
        lines[3].starts_with("- remove    custom.gone: unwanted for "),
        "{run}"
    );
    assert!(lines[3].ends_with(" and unused"), "{run}");
    lines.remove(3);
    assert_eq!(
        lines,
        [
            "✗ refused   custom.bad line 3: syntax error, unexpected TOK_CLOSE, expecting TOK_MODE",
            "~ replace   custom.changed: changed",
            "… deferred  custom.deferred: in use by 1 process (77 sh)",
            "+ load      custom.new: new",
            "= own       custom.own: what is loaded is what is wanted",
            "+ load      custom.repaired: removed by somebody else",
            "! conflict  custom.theirs is loaded by somebody else with other contents: rename yours, or take it \
             over with --adopt 'custom.theirs'",
            "2 to load, 1 to replace, 1 own, 1 to remove, 1 deferred, 1 conflict, 1 refused",
        ],
        "{run}"
    );
    assert_eq!(run.stderr(), "");
}

#[test]
fn a_plan_changes_nothing_at_all() {
    let node = everything();
    let before = files(&node.path(""));
    node.plan(&["--remove-after", "0s", "--copy-to", "/copies"])
        .assert(1);
    assert!(files(&node.path("")) == before);
    let node = Node::with(&["custom.a"]);
    node.plan(&[]).assert(0);
    assert!(!node.exists("var"));
}

#[test]
fn a_plan_waits_for_no_lock() {
    let node = Node::settled(&["custom.a"]);
    let lock = std::fs::File::open(node.path("var/lib/armorer/lock")).unwrap();
    lock.lock().unwrap();
    node.plan(&[]).assert(0).prints(&["nothing to do"]);
}

#[test]
fn the_exit_code_of_a_plan_tells_changes_only_when_asked() {
    let node = Node::settled(&["custom.a"]);
    node.plan(&["--exit-code"])
        .assert(0)
        .prints(&["nothing to do"]);
    node.want("custom.b", profile("custom.b"));
    let lines = ["+ load      custom.b: new", "1 to load"];
    node.plan(&["--exit-code"]).assert(4).prints(&lines);
    node.plan(&[]).assert(0).prints(&lines);
    node.remove("profiles/custom.a");
    // A removal that is not due yet is no change.
    node.remove("profiles/custom.b");
    node.want("custom.c", "bogus");
    let run = node.plan(&["--exit-code"]).assert(1);
    assert!(run.stdout().ends_with("1 deferred, 1 refused\n"), "{run}");
    node.remove("profiles/custom.c");
    node.want("custom.a", profile("custom.a"));
    node.remove("sys/kernel/security/apparmor/profiles");
    node.plan(&["--exit-code"]).assert(3);
}

#[test]
fn what_stood_in_the_way_of_the_last_pass_is_in_the_next_plan_too() {
    let node = Node::with(&["custom.a"]);
    node.want("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node.want("custom.theirs", profile("custom.theirs"));
    node.load("custom.theirs", "profile custom.theirs {\n}\n");
    let lines = [
        "✗ refused   custom.bad line 3: syntax error, unexpected TOK_CLOSE, expecting TOK_MODE",
        "! conflict  custom.theirs is loaded by somebody else with other contents: rename yours, or take it \
         over with --adopt 'custom.theirs'",
    ];
    let assert_said = |run: crate::node::Run| {
        let mut said: Vec<&str> = run.stdout().lines().collect();
        assert_eq!(said.pop(), Some("1 conflict, 1 refused"), "{run}");
        assert_eq!(said, lines, "{run}");
    };
    node.reconcile(&[]).assert(1);
    node.reconcile(&[]).assert(1);
    assert_said(node.plan(&[]).assert(1));
    assert_said(node.plan(&["--exit-code"]).assert(1));
    assert_said(node.reconcile(&["--output", "text"]).assert(1));
    let document = node.plan(&["--output", "json"]).assert(1).json();
    assert_eq!(document["changes"].as_array().unwrap().len(), 2);
}

#[test]
fn the_document_has_a_schema_and_everything_that_the_lines_say() {
    let node = everything();
    let run = node
        .plan(&["--remove-after", "1s", "--output", "json"])
        .assert(1);
    let document = run.json();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["result"], "not converged");
    assert_eq!(document["exit"], 1);
    assert_eq!(document["in_force"], 5);
    assert_eq!(document["deferred"], 1);
    let changes = document["changes"].as_array().unwrap();
    let mut actions: Vec<_> = changes
        .iter()
        .map(|change| {
            assert!(!change["reason"].as_str().unwrap().is_empty());
            (
                change["action"].as_str().unwrap(),
                change["profile"].as_str().unwrap(),
            )
        })
        .collect();
    actions.sort_unstable();
    assert_eq!(
        actions,
        [
            ("conflict", "custom.theirs"),
            ("defer", "custom.deferred"),
            ("load", "custom.new"),
            ("load", "custom.repaired"),
            ("own", "custom.own"),
            ("refuse", "custom.bad"),
            ("remove", "custom.gone"),
            ("replace", "custom.changed"),
        ]
    );
    let problems = document["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2);
    assert_eq!(problems[0]["profile"], "custom.bad");
    assert_eq!(problems[0]["kind"], "refused");
    assert_eq!(problems[1]["kind"], "conflict");
    assert!(problems[0]["since"].as_str().unwrap().ends_with('Z'));
    let empty = Node::settled(&["custom.a"]);
    let document = empty.plan(&["--output", "json"]).assert(0).json();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["exit"], 0);
    assert_eq!(document["changes"], serde_json::json!([]));
    assert_eq!(document["problems"], serde_json::json!([]));
}

//! A plan: its lines, and that it only says them.

use harness::{Node, profile};
use insta::assert_snapshot;

/// A node on which each kind of outcome is due that a plan can have.
fn everything() -> Node {
    let node = Node::settled(&[
        "custom.deferred",
        "custom.gone",
        "custom.repaired",
        "custom.changed",
        "custom.kept",
    ]);
    node.edit_state(|state| {
        let set = &mut state["sets"]["default"];
        set["owned"]["custom.gone"]["unwanted"] =
            serde_json::json!({"since": {"at": "2026-01-01T00:00:00Z", "uptime": 0}});
        let repair = serde_json::json!({"at": "2026-01-01T00:00:00Z", "uptime": 1_u64 << 40});
        set["profiles"]["custom.kept"]["repairs"] = serde_json::json!([repair, repair, repair]);
    });
    node.take_out("custom.deferred");
    node.take_out("custom.gone");
    node.process(77, "sh", "custom.deferred//kid (enforce)");
    node.unload("custom.repaired");
    node.unload("custom.kept");
    node.put(
        "custom.changed",
        "profile custom.changed {\n  deny /x w,\n}\n",
    );
    node.put("custom.new", profile("custom.new"));
    node.put_loaded("custom.own", &profile("custom.own"));
    node.put("custom.theirs", profile("custom.theirs"));
    node.load("custom.theirs", "profile custom.theirs {\n}\n");
    node.put("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node
}

/// As long as the machine is up: on one that was just booted it is not due at once.
const SOON: [&str; 2] = ["--remove-after", "1s"];

#[test]
fn each_line_has_sign_kind_profile_and_reason_and_the_total_counts_them() {
    let run = everything().plan(&SOON).assert(1);
    // How long the machine is up.
    let lines = run
        .stdout()
        .lines()
        .map(|line| match line.split_once("unwanted for ") {
            Some((start, _)) => format!("{start}unwanted for TIME and unused"),
            None => line.to_owned(),
        });
    assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
    ✗ refused   custom.bad: line 2: unknown rule bogus
    ~ replace   custom.changed: changed
    … deferred  custom.deferred: in use by 1 process (77 sh)
    - remove    custom.gone: unwanted for TIME and unused
    ! contested custom.kept: another program unloaded it: processes that it confined stay unconfined until restarted, 3 times within 10m: find the program that loads custom.kept, and stop it
    + load      custom.new: new
    = own       custom.own: already loaded with the desired contents
    + load      custom.repaired: another program unloaded it: processes that it confined stay unconfined until restarted
    ! conflict  custom.theirs is loaded by another program with other contents: rename yours, or take it over with --adopt 'custom.theirs'
    2 to load, 1 to replace, 1 own, 1 to remove, 1 deferred, 1 conflict, 1 contested, 1 refused
    "#);
    assert_eq!(run.stderr(), "");
}

#[test]
fn a_plan_changes_nothing_at_all() {
    let node = everything();
    let before = node.files(&[]);
    node.plan(&[
        "--remove-after",
        "0s",
        "--copy-to",
        "/copies",
        "--metrics-file",
        "/metrics.prom",
    ])
    .assert(1);
    assert!(node.files(&[]) == before);
    assert!(!node.exists("copies") && !node.exists("metrics.prom"));
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
fn the_exit_code_of_a_plan_shows_changes_only_when_asked() {
    let node = Node::settled(&["custom.a"]);
    node.plan(&["--exit-code"])
        .assert(0)
        .prints(&["nothing to do"]);
    node.put("custom.b", profile("custom.b"));
    node.plan(&["--exit-code"])
        .assert(4)
        .line(&["+ load", "custom.b"]);
    node.plan(&[]).assert(0).line(&["+ load", "custom.b"]);
    // A removal that is not due yet is no change.
    node.take_out("custom.a");
    node.take_out("custom.b");
    node.put("custom.c", "bogus");
    node.plan(&["--exit-code"])
        .assert(1)
        .line(&["1 deferred, 1 refused"]);
    node.take_out("custom.c");
    node.put("custom.a", profile("custom.a"));
    node.remove("sys/kernel/security/apparmor/profiles");
    node.plan(&["--exit-code"]).assert(3);
}

#[test]
fn a_standing_problem_is_in_the_next_plan_too() {
    let node = Node::with(&["custom.a"]);
    node.put("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node.put("custom.theirs", profile("custom.theirs"));
    node.load("custom.theirs", "profile custom.theirs {\n}\n");
    for _ in 0..2 {
        node.reconcile(&[]).assert(1);
    }
    for run in [
        node.plan(&[]),
        node.plan(&["--exit-code"]),
        node.reconcile(&["--output", "text"]),
    ] {
        let run = run.assert(1);
        run.line(&["✗ refused", "custom.bad", "line 2"]);
        run.line(&["! conflict", "custom.theirs", "--adopt"]);
        assert!(run.stdout().ends_with("\n1 conflict, 1 refused\n"), "{run}");
    }
    let document = node.plan(&["--output", "json"]).assert(1).json();
    assert_eq!(document["outcomes"].as_array().unwrap().len(), 2);
}

#[test]
fn the_document_holds_all_that_the_lines_hold() {
    let node = everything();
    let text = node.plan(&SOON).assert(1);
    let document = node
        .plan(&[&SOON[..], &["--output", "json"]].concat())
        .assert(1)
        .json();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["result"], "not converged");
    assert_eq!(document["exit"], 1);
    assert_eq!(document["in_force"], 5);
    let outcomes = document["outcomes"].as_array().unwrap();
    let mut lines = text.stdout().lines();
    for outcome in outcomes {
        let word = |key: &str| outcome[key].as_str().unwrap();
        let line = lines.next().unwrap();
        for word in [word("kind"), word("profile")] {
            assert!(line.contains(word), "{word} is not in: {line}");
        }
        let refused = word("kind") == "refused";
        assert_eq!(outcome["reason"].is_string(), refused, "{outcome}");
        let severity = match word("kind") {
            "load" | "replace" | "own" | "remove" => "done",
            "deferred" => "waiting",
            _ => "problem",
        };
        assert_eq!(word("severity"), severity);
    }
    assert_eq!(lines.count(), 1, "the total");
    let repair = outcomes
        .iter()
        .find(|outcome| outcome["profile"] == "custom.repaired");
    assert_eq!(repair.unwrap()["repair"], true);
    let node = Node::settled(&["custom.a"]);
    let document = node.plan(&["--output", "json"]).assert(0).json();
    assert_eq!(document["outcomes"], serde_json::json!([]));
}

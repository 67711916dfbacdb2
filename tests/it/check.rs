//! `check`: profiles validated without a kernel, for a laptop or a workflow.

use harness::{Node, profile, run};
use insta::assert_snapshot;

/// A node with a folder `p` of two bad profiles and one with which nothing is wrong.
fn folder() -> Node {
    const GOOD: &str = "abi <abi/3.0>,
profile custom.good flags=(attach_disconnected) {
  include <abstractions/base>
  signal (receive) peer={runc,crun},
  file,
}
";
    let node = Node::new();
    let abi = std::fs::read("/etc/apparmor.d/abi/3.0").expect("of the package apparmor");
    node.write("base/abi/3.0", abi);
    node.write("p/custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node.write("p/custom.good", GOOD);
    node.write("p/custom.name", "profile other {\n}\n");
    node
}

#[test]
fn findings_are_lines_that_an_editor_can_follow() {
    let node = folder();
    let run = node.run(&["check", "p"]).assert(1);
    run.line(&["3 checked", "errors: 2", "warnings: 0"]);
    let shown = run.stdout().replace(&node.arg(""), "");
    let findings: Vec<&str> = shown.lines().take(2).collect();
    assert_snapshot!(findings.join("\n"), @r#"
    p/custom.bad:2: error: unknown rule bogus
    p/custom.name: error: "other" does not start with the prefix "custom."
    "#);
}

#[test]
fn findings_are_annotations_of_a_workflow() {
    let node = folder();
    let run = node.run(&["check", "p", "--output", "github"]).assert(1);
    let shown = run.stdout().replace(&node.arg(""), "");
    assert_snapshot!(shown, @r#"
    ::error file=p/custom.bad,line=2,title=armorer::unknown rule bogus
    ::error file=p/custom.name,title=armorer::"other" does not start with the prefix "custom."
    "#);
}

#[test]
fn findings_are_a_document() {
    let node = folder();
    let document = node
        .run(&["check", "p", "--output", "json"])
        .assert(1)
        .json();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["checked"], 3);
    let findings = document["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 2, "{document:#}");
    assert_eq!(findings[0]["profile"], "custom.bad");
    assert_eq!(findings[0]["line"], 2);
    assert_eq!(findings[0]["level"], "error");
    assert_eq!(findings[1]["kind"], "name");
}

#[test]
fn each_path_is_a_source_of_its_own_and_may_be_a_file() {
    let node = Node::new();
    for folder in ["one", "two"] {
        node.write(&format!("{folder}/custom.a"), profile("custom.a"));
    }
    node.run(&["check", "one", "two"])
        .assert(0)
        .line(&["2 checked"]);
    node.run(&["check", "one/custom.a"])
        .assert(0)
        .line(&["1 checked"]);
}

#[test]
fn an_empty_folder_and_a_missing_one_are_errors() {
    let node = folder();
    node.folder("empty");
    let run = node.run(&["check", "empty", "p/custom.good"]).assert(1);
    run.line(&["empty", "error", "holds no profile"]);
    node.run(&["check", "gone"])
        .fails(3, &["gone does not exist"]);
}

#[test]
fn a_name_that_can_have_no_file_is_said_with_the_way_out() {
    let node = Node::new();
    node.write("p/custom.x", "profile custom.a/b {\n}\n");
    let run = node.run(&["check", "p"]).assert(1);
    run.line(&["custom.x", "\"custom.a/b\"", "/ written as ."]);
    node.remove("p/custom.x");
    node.write("p/custom.a.b", "profile custom.a/b {\n}\n");
    node.run(&["check", "p"]).assert(0);
}

#[test]
fn no_kernel_is_needed() {
    let folder = folder();
    let good = folder.arg("p/custom.good");
    let nowhere = [
        "--base",
        &folder.arg("base"),
        "--securityfs",
        "/nowhere",
        "--proc",
        "/nowhere",
    ];
    run(&[&["check", good.as_str()], &nowhere[..]].concat()).assert(0);
}

#[test]
fn a_file_or_key_that_is_passed_over_is_a_warning() {
    let node = Node::new();
    node.write("p/custom.a", profile("custom.a"));
    node.write("p/custom.web.orig", profile("custom.web"));
    node.run(&["check", "p"]).assert(0).line(&[
        "p/custom.web.orig",
        "warning",
        "skipped",
        "rename",
    ]);
    node.write(
        "map.yaml",
        "kind: ConfigMap\ndata:\n  custom.web.orig: |\n    profile custom.web.orig { file, }\n  custom.a: |\n    profile custom.a { file, }\n",
    );
    let run = node.run(&["check", "map.yaml"]).assert(0);
    run.line(&["map.yaml", "custom.web.orig is skipped"]);
    run.line(&["1 checked"]);
}

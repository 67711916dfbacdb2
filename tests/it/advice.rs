//! `check`'s inputs and findings beyond acceptance: advice, rules that are not enforced, kernels by their
//! features, manifests, standard input. That the advice is right is tested on a kernel (tests/guest).

use std::io::Write as _;
use std::process::Stdio;

use harness::{Node, Run};

const CLEAN: &str = "abi <abi/3.0>,
profile custom.a flags=(attach_disconnected) {
  file,
  signal,
}
";

fn check(node: &Node, arguments: &[&str]) -> Run {
    node.run(&[&["check"], arguments].concat())
}

fn node(text: &str) -> Node {
    let node = Node::new();
    node.write(
        "base/abi/3.0",
        include_str!("../../src/compiler/features-6.12"),
    );
    node.write("custom.a", text);
    node
}

fn kinds(node: &Node, arguments: &[&str]) -> Vec<String> {
    let run = check(
        node,
        &[&["--output", "json", "custom.a"], arguments].concat(),
    );
    let findings = run.json()["findings"].as_array().unwrap().clone();
    let kind = |finding: &serde_json::Value| finding["kind"].as_str().unwrap().to_owned();
    findings.iter().map(kind).collect()
}

#[test]
fn each_kind_of_advice_is_found_and_can_be_acknowledged() {
    let node = node(CLEAN);
    assert!(kinds(&node, &[]).is_empty());
    for (kind, from, to) in [
        ("cannot-be-stopped", "  signal,\n", ""),
        (
            "cannot-be-stopped",
            "signal,",
            "signal, deny signal (receive) peer=crun,",
        ),
        ("nothing-executable", "file,", "/** rw,"),
        ("nothing-executable", "file,", "file, deny /** x,"),
        (
            "no-new-privs",
            "file,",
            "/** rw, /a cx -> b, profile b { /b r, }",
        ),
        ("no-attach-disconnected", " flags=(attach_disconnected)", ""),
        (
            "complain-mode",
            "attach_disconnected",
            "complain, attach_disconnected",
        ),
        ("no-abi", "abi <abi/3.0>,\n", ""),
    ] {
        let text = CLEAN.replacen(from, to, 1);
        node.write("custom.a", &text);
        assert_eq!(kinds(&node, &[]), [kind], "{text}");
        check(&node, &["custom.a"]).assert(0);
        check(&node, &["custom.a", "--strict"]).assert(1);
        node.write("custom.a", format!("# armorer: allow {kind}\n{text}"));
        check(&node, &["custom.a", "--strict"]).assert(0);
    }
    let bad = CLEAN.replace("signal,", "").replace("file,", "/** rw,");
    node.write(
        "custom.a",
        format!("# armorer: allow cannot-be-stopped nothing-executable\n{bad}"),
    );
    assert!(kinds(&node, &[]).is_empty());
    for line in [
        "#armorer: allow cannot-be-stopped",
        "# armorer: allow cannot",
        "# allow cannot-be-stopped",
    ] {
        node.write("custom.a", format!("{line}\n{bad}"));
        assert_eq!(
            kinds(&node, &[]),
            ["cannot-be-stopped", "nothing-executable"],
            "{line}"
        );
    }
    node.write("custom.a", CLEAN);
    assert_eq!(kinds(&node, &["--complain"]), ["complain-mode"]);
}

#[test]
fn many_profiles_in_one_text_are_one_finding_a_kind() {
    let mut text = CLEAN.to_owned();
    for n in 0..50 {
        text += &format!("profile custom.a{n} flags=(attach_disconnected) {{ file, }}\n");
    }
    let node = node(&text);
    let run = check(&node, &["custom.a"]).assert(0);
    run.line(&["custom.a", "TERM and KILL", "49 more"]);
    assert_eq!(kinds(&node, &[]), ["cannot-be-stopped"]);
}

#[test]
fn unenforced_rules_are_reported_by_class() {
    let text = CLEAN.replacen("signal,", "signal,\n  deny dbus,", 1);
    let node = node(&text);
    let run = check(&node, &["custom.a"]).assert(0);
    run.line(&[
        "custom.a",
        "warning",
        "dbus rules are not enforced",
        "kernel lacks",
    ]);
    node.write(
        "with-dbus",
        node.run(&["features"]).assert(0).stdout().to_owned()
            + "dbus {mask {acquire send receive\n}\n}\n",
    );
    let run = check(&node, &["custom.a", "--features", "with-dbus"]).assert(0);
    run.line(&["dbus rules are not enforced", "abi lacks"]);
    node.write("base/abi/3.0", node.read("with-dbus"));
    check(&node, &["custom.a", "--features", "with-dbus"]).lacks("dbus rules");
    // Two kernels: each that lacks the class is reported.
    let run = check(
        &node,
        &[
            "custom.a",
            "--features",
            "with-dbus",
            "--features",
            "base/abi/3.0",
        ],
    );
    run.line(&["1 checked for", "with-dbus", "base/abi/3.0"]);
    node.write("other", "no features");
    check(&node, &["custom.a", "--features", "other"])
        .fails(2, &["other", "no features", "armorer features"]);
}

#[test]
fn a_pass_reports_unenforced_rules_and_records_them() {
    let node = Node::new();
    let text = "profile custom.a {\n  file,\n  deny dbus,\n}\n";
    node.put_loaded("custom.a", text);
    let run = node
        .reconcile(&["--metrics-file", "/metrics.prom"])
        .assert(0);
    run.line(&["converged", "not all rules are enforced: custom.a"]);
    let metric = "armorer_unenforced_rules{set=\"default\",profile=\"custom.a\",class=\"dbus\"} 1";
    assert!(node.read("metrics.prom").contains(metric));
    for _ in 0..2 {
        let json = node.reconcile(&["--output", "json"]).assert(0).json();
        assert_eq!(
            json["unenforced"]["custom.a"][0]["class"], "dbus",
            "{json:#}"
        );
        let status = node.run(&["status"]).assert(0);
        status.line(&["custom.a", "in force*"]);
        status.line(&["* custom.a", "dbus rules are not enforced"]);
        node.reboot("22222222-2222-3333-4444-555555555555");
        node.load("custom.a", text);
    }
    node.put("custom.b", text.replace("custom.a", "custom.b"));
    node.plan(&[])
        .line(&["custom.b", "load", "dbus rules are not enforced"]);
}

/// As `kubectl get configmaps,secrets -o yaml` prints.
const LIST: &str = "apiVersion: v1
kind: List
items:
- kind: ConfigMap
  metadata: {name: profiles}
  data:
    custom.b: |
      profile custom.b {
        /x
      }
- kind: Secret
  data: {custom.secret: 'nonsense'}
";

#[test]
fn standard_input_is_a_file() {
    let node = node(CLEAN);
    for (text, code, words) in [
        (CLEAN, 0, "1 checked"),
        ("profile custom.b {\n  /x\n}\n", 1, "-:2: error"),
        ("", 1, "-: error: holds no profile"),
        (LIST, 1, "-:9: error: "),
    ] {
        let mut command = node.command(&["check", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_manifest_is_its_config_maps_with_their_lines() {
    let node = node(CLEAN);
    let manifest = "apiVersion: v1
kind: Secret
data: {custom.secret: 'nonsense'}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: profiles}
data:
  custom.good: |
    profile custom.good { file, }
  custom.bad: |
    profile custom.bad {
      file,
      /x
    }
";
    node.write("map.yaml", manifest);
    let run = check(&node, &["map.yaml"]).assert(1);
    run.line(&["map.yaml:14: error", "comma"]);
    run.line(&["2 checked"]);
    run.lacks("secret");
    let run = check(&node, &["map.yaml", "--output", "github"]);
    run.line(&["::error file=map.yaml,line=14,"]);
}

#[test]
fn a_workflow_gets_an_annotation_when_check_could_not_run() {
    let node = node(CLEAN);
    let run = check(&node, &["gone", "--output", "github"]).assert(3);
    run.line(&["::error title=armorer::", "gone does not exist"]);
    let folder = node.arg("");
    let arguments = ["check", &*node.arg("custom.a"), "--output", "github"];
    node.write("custom.a", "profile custom.a {\n  /x\n}\n");
    let run = node.run_with(
        &arguments,
        &[("GITHUB_WORKSPACE", folder.trim_end_matches('/'))],
    );
    run.assert(1).line(&["::error file=custom.a,line=2,"]);
}

#[test]
fn invisible_characters_are_named() {
    for text in [
        "\u{feff}profile custom.a { file, }\n",
        "profile custom.a {\n  /x\u{a0}r,\n}\n",
    ] {
        let node = node(text);
        check(&node, &["custom.a"])
            .assert(1)
            .line(&["byte order mark or a no-break space"]);
    }
}

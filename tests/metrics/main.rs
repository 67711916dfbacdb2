//! The metrics file, and the alert rules and the dashboard that come with it, in the hands of the
//! real Prometheus, promtool, `node_exporter` and busybox httpd. Run by tests/metrics/run.

mod stack;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use harness::{Node, eventually, profile};
use serde_json::Value;
use stack::{Manifest, Stack, tool};

fn component(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("kustomize/components/metrics")
        .join(file)
}

/// A node with problems of several kinds, and names that could break a line of metrics.
fn troubled() -> Node {
    let node = Node::settled(&["custom.a", "custom.old"]);
    node.take_out("custom.old");
    node.put("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node.put("custom.theirs", profile("custom.theirs"));
    node.load("custom.theirs", "profile custom.theirs {\n}\n");
    node.put("custom.\"} 1\n\u{1b}[2J\\", "x");
    node.put("custom.\"} 1\t\u{1b}[2J\\", "x");
    node.process(77, "sleep", "custom.a (enforce)");
    node.process(78, "sleep", "custom.old (enforce)");
    node
}

/// A pass that writes the metrics file.
fn pass(node: &Node, code: i32) {
    node.folder("metrics");
    node.reconcile(&["--metrics-file", "/metrics/metrics.prom"])
        .assert(code);
}

#[track_caller]
fn promtool(arguments: &[&str], stdin: &str) -> String {
    let mut child = Command::new(tool("promtool"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}\n{stdin}");
    printed
}

#[test]
fn promtool_finds_no_fault_with_the_file() {
    let node = troubled();
    for (missing, code) in [("", 1), ("profiles", 3), ("var/lib/armorer/state.json", 3)] {
        if !missing.is_empty() {
            node.remove(missing);
        }
        pass(&node, code);
        let findings = promtool(&["check", "metrics"], &node.read("metrics/metrics.prom"));
        assert_eq!(findings, "");
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let rules = component("alerts.yaml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    let tests = component("alerts.test.yaml");
    promtool(&["test", "rules", tests.to_str().unwrap()], "");
    // No alert is without a test.
    let tests = fs::read_to_string(tests).unwrap();
    let rules = fs::read_to_string(rules).unwrap();
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 5);
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert}");
    }
}

#[test]
fn ports_and_paths_fit_together_in_the_manifests() {
    let manifest = Manifest::read("metrics");
    let server = manifest.container("metrics");
    let command = server["command"].as_array().unwrap();
    let after = |option: &str| {
        let at = command.iter().position(|word| word == option).unwrap();
        command[at + 1].as_str().unwrap().to_owned()
    };
    let port = after("-p");
    assert_eq!(server["ports"][0]["containerPort"].to_string(), port);
    let pod = &manifest.object("DaemonSet", "armorer")["spec"]["template"];
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/scrape"], "true");
    assert_eq!(annotations["prometheus.io/port"], *port);
    let monitor = manifest.object("PodMonitor", "armorer");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], server["ports"][0]["name"]);
    assert_eq!(annotations["prometheus.io/path"], endpoint["path"]);
    let file = manifest.env("ARMORER_METRICS_FILE");
    let path = endpoint["path"].as_str().unwrap();
    assert_eq!(file, format!("{}{path}", after("-h")));
    assert_eq!(server["image"], manifest.container("armorer")["image"]);
    let security = &server["securityContext"];
    assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(security["runAsNonRoot"], true);
    // The canary's DaemonSet runs on the same nodes.
    let file = Manifest::read("metrics-textfile").env("ARMORER_METRICS_FILE");
    assert!(file.ends_with("-$(METRICS_NAME).prom"), "{file}");
}

#[test]
fn prometheus_reads_it_from_the_web_server_and_from_node_exporter() {
    let (troubled, calm) = (troubled(), Node::settled(&["custom.a"]));
    pass(&troubled, 1);
    pass(&calm, 0);
    let stack = Stack::start(&troubled, &calm, &component("alerts.yaml"));
    eventually("both targets are up", || {
        let up = stack.query("armorer_last_pass_exit_code and on (job) up == 1");
        (up.len() == 2).then_some(())
    });
    // Prometheus 3 scrapes nothing whose type it does not know.
    let served = ureq::get(&stack.file).call().unwrap();
    let media_type = served.headers()["content-type"].to_str().unwrap();
    assert_eq!(media_type, "text/plain");
    let value = |query: &str| stack.value(query);
    for (query, expected) in [
        ("armorer_last_pass_exit_code{job='armorer'}", 1.0),
        ("armorer_last_pass_exit_code{job='node'}", 0.0),
        ("armorer_profiles{job='armorer',state='refused'}", 3.0),
        ("armorer_profiles{job='armorer',state='conflict'}", 1.0),
        ("armorer_profiles{job='armorer',state='deferred'}", 1.0),
        (
            "count(armorer_profile_problem_timestamp_seconds{kind='refused'})",
            3.0,
        ),
        ("sum(armorer_processes_confined{job='armorer'})", 2.0),
        (
            "count(armorer_profile_info{job='node',mode='enforce',digest=~'[0-9a-f]{12}'})",
            1.0,
        ),
    ] {
        assert_eq!(value(query), Some(expected), "{query}");
    }
    every_panel_has_data(&stack);
    the_rules_work(&stack);

    // A mended problem is gone, and a failure shows.
    troubled.remove("profiles/custom.bad");
    pass(&troubled, 1);
    calm.remove("profiles");
    pass(&calm, 3);
    eventually("the refusal is gone", || {
        let names = stack.query("armorer_profile_problem_timestamp_seconds{profile='custom.bad'}");
        names.is_empty().then_some(())
    });
    eventually("the alert is gone", || {
        let names = stack.alerts("ArmorerProfileRefused");
        (!names.contains(&"custom.bad".to_owned())).then_some(())
    });
    eventually("the failure shows", || {
        (value("armorer_last_pass_exit_code{job='node'}") == Some(3.0)).then_some(())
    });
    let since = "armorer_last_pass_timestamp_seconds{job='node'} \
                 >= armorer_last_converged_timestamp_seconds > 1e9";
    assert!(
        value(since).is_some(),
        "when it last converged is still known"
    );
}

fn every_panel_has_data(stack: &Stack) {
    let dashboard = fs::read_to_string(component("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<&str> = targets
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(queries.len() >= 10);
    for query in queries {
        let query = query.replace("$__rate_interval", "30s");
        eventually(&query, || (!stack.query(&query).is_empty()).then_some(()));
    }
}

fn the_rules_work(stack: &Stack) {
    let groups = stack.get("rules", &[]);
    let rules = groups["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() >= 5);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    eventually("the alerts fire", || {
        let refused = stack.alerts("ArmorerProfileRefused");
        let conflict = stack.alerts("ArmorerProfileConflict");
        let fire = refused.contains(&"custom.bad".to_owned()) && conflict == ["custom.theirs"];
        (fire && !stack.alerts("ArmorerNotConverged").is_empty()).then_some(())
    });
    assert_eq!(stack.alerts("ArmorerPassOverdue"), [""; 0]);
}

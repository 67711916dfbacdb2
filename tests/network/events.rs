//! Events on the node: each change and each new problem.

use harness::profile;
use serde_json::{Value, json};

use crate::cluster::{Cluster, NODE, certificate, map};

const EVENTS: [&str; 5] = ["--events", "--node-name", NODE, "--pod-name", "armorer-x1"];
const MAP: &str = "get configmaps armorer-profiles 200";

fn reasons(cluster: &Cluster) -> Vec<String> {
    let events = cluster.objects("events");
    let mut reasons: Vec<_> = events
        .iter()
        .map(|event| event["reason"].as_str().unwrap().to_owned())
        .collect();
    reasons.sort();
    reasons
}

#[track_caller]
fn event(cluster: &Cluster, reason: &str) -> Value {
    let mut events = cluster.objects("events").into_iter();
    let event = events.find(|event| event["reason"] == reason);
    event.unwrap_or_else(|| panic!("no {reason}: {:?}", reasons(cluster)))
}

/// Has the `ConfigMap` hold a custom.a that does not compile.
fn publish_bad(cluster: &Cluster) {
    let bad = "profile custom.a {\n  bogus\n}\n".to_owned();
    cluster.put(
        "configmaps",
        &map("armorer-profiles", [("custom.a".to_owned(), bad)].into()),
    );
}

#[test]
fn a_refusal_is_an_event_on_the_node_once() {
    let cluster = Cluster::settled(&["custom.a"]);
    publish_bad(&cluster);
    cluster.reconcile(&EVENTS).assert(1);
    assert_eq!(reasons(&cluster), ["ProfileRefused"]);
    let refused = event(&cluster, "ProfileRefused");
    assert_eq!(refused["regarding"]["kind"], "Node");
    assert_eq!(refused["regarding"]["name"], NODE);
    assert_eq!(refused["reportingInstance"], "armorer-x1");
    assert_eq!(refused["type"], "Warning");
    let note = refused["note"].as_str().unwrap();
    assert!(note.starts_with("custom.a: line 2: "), "{note}");
    // It stands: nothing is sent.
    cluster.age_problems();
    cluster.requests();
    cluster.reconcile(&EVENTS).assert(1);
    assert_eq!(cluster.asked(), [MAP]);
}

#[test]
fn each_change_is_an_event() {
    let cluster = Cluster::settled(&["custom.a", "custom.b"]);
    cluster.publish(&["custom.a"]);
    // A removal that waits is no news.
    cluster.reconcile(&EVENTS).assert(0);
    assert_eq!(reasons(&cluster), [""; 0]);
    cluster
        .reconcile(&[&EVENTS[..], &["--remove-after", "0s"]].concat())
        .assert(0);
    assert_eq!(cluster.node.removed(), "custom.b");
    assert_eq!(reasons(&cluster), ["ProfileRemove"]);
    assert_eq!(event(&cluster, "ProfileRemove")["type"], "Normal");
    // The snapshot of a kernel does not load it, which is an event too.
    cluster.publish(&["custom.a", "custom.c"]);
    cluster.reconcile(&EVENTS).assert(1);
    assert_eq!(
        reasons(&cluster),
        ["ProfileFailed", "ProfileLoad", "ProfileRemove"]
    );
}

#[test]
fn a_repair_is_a_warning() {
    let cluster = Cluster::settled(&["custom.a"]);
    cluster.node.unload("custom.a");
    cluster.reconcile(&EVENTS).assert(1);
    let repaired = event(&cluster, "ProfileRepaired");
    assert_eq!(repaired["type"], "Warning");
    let note = repaired["note"].as_str().unwrap();
    assert!(
        note.contains("custom.a") && note.contains("another program"),
        "{note}"
    );
}

#[test]
fn a_pass_writes_25_events_at_most_problems_first() {
    let cluster = Cluster::settled(&["custom.a"]);
    let bad = (0..40).map(|n| (format!("custom.{n}"), "bogus".to_owned()));
    let texts = bad.chain([("custom.new".to_owned(), profile("custom.new"))]);
    cluster.put("configmaps", &map("armorer-profiles", texts.collect()));
    cluster.reconcile(&EVENTS).assert(1);
    let reasons = reasons(&cluster);
    assert_eq!(reasons.len(), 25);
    assert_eq!(
        reasons
            .iter()
            .filter(|reason| *reason == "ProfileRefused")
            .count(),
        24
    );
    let note = event(&cluster, "MoreOutcomes")["note"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(note.contains("armorer status"), "{note}");
}

#[test]
fn an_event_that_cannot_be_written_fails_no_pass() {
    let cluster = Cluster::settled(&["custom.a"]);
    cluster.node.write("folder/custom.a", profile("custom.a"));
    let folder = cluster.node.arg("folder");
    let (token, ca) = (cluster.node.arg("token"), certificate("authority.pem"));
    for (n, (url, words)) in [
        (
            cluster.fault("403"),
            "403 Forbidden: configmaps is forbidden",
        ),
        (cluster.fault("html"), "unexpected answer"),
        ("https://127.0.0.1:1".to_owned(), "refused"),
    ]
    .into_iter()
    .enumerate()
    {
        // A new problem for each server.
        cluster.node.write(&format!("folder/custom.{n}"), "bogus");
        let pass = ["reconcile", &folder, "--take-over", "--api-server", &url];
        let access = ["--token-file", &token, "--ca-file", &ca];
        let run = cluster
            .node
            .run(&[&pass[..], &access[..], &EVENTS[..]].concat());
        // 1 for the refusal, with or without events.
        run.assert(1)
            .line(&["warning", "cannot write all Events", words]);
    }
}

#[test]
fn a_pass_that_could_not_run_is_one_event_where_the_server_can_be_reached() {
    let cluster = Cluster::settled(&["custom.a"]);
    let gone = json!({"do": "delete", "plural": "configmaps", "namespace": "armorer",
        "name": "armorer-profiles"});
    cluster.ask(&gone);
    for _ in 0..2 {
        cluster.reconcile(&EVENTS).assert(3);
        assert_eq!(reasons(&cluster), ["PassFailed"]);
    }
    let note = event(&cluster, "PassFailed")["note"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(note.contains("not found"), "{note}");
}

#[test]
fn without_the_nodes_name_or_a_server_nothing_is_done() {
    let cluster = Cluster::start();
    cluster.publish(&[]);
    for options in [
        &["--events"][..],
        &["--label-node"],
        &["--clear-taint", "a/b"],
    ] {
        cluster
            .reconcile(options)
            .fails(2, &[options[0], "NODE_NAME"]);
        let pass = [&["reconcile", "profiles", "--node-name", NODE], options].concat();
        cluster
            .node
            .run(&pass)
            .fails(2, &[options[0], "--api-server"]);
    }
    let wrong = ["--clear-taint", "a b", "--node-name", NODE];
    cluster
        .reconcile(&wrong)
        .fails(2, &["--clear-taint", "\"a b\""]);
    assert_eq!(cluster.requests().len(), 0);
}

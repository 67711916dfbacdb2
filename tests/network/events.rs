//! Events on the node: what a pass says there.

use serde_json::{Value, json};

use crate::cluster::{Cluster, NODE, map};
use crate::node::profile;

const EVENTS: [&str; 5] = ["--events", "--node-name", NODE, "--pod-name", "armorer-x1"];

fn reasons(cluster: &Cluster) -> Vec<(String, u64)> {
    let count = |event: &Value| event["series"]["count"].as_u64().unwrap_or(1);
    let events = cluster.objects("events");
    let reason = |event: &Value| (event["reason"].as_str().unwrap().to_owned(), count(event));
    let mut reasons: Vec<_> = events.iter().map(reason).collect();
    reasons.sort();
    reasons
}

fn event(cluster: &Cluster, reason: &str) -> Value {
    let events = cluster.objects("events");
    events
        .into_iter()
        .find(|event| event["reason"] == reason)
        .unwrap()
}

fn told(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs
        .iter()
        .map(|(reason, n)| ((*reason).to_owned(), *n))
        .collect()
}

#[test]
fn what_is_refused_is_an_event_on_the_node_once() {
    let cluster = Cluster::settled(&["custom.a"]);
    let bad = [(
        "custom.a".to_owned(),
        "profile custom.a {\n  bogus\n}\n".to_owned(),
    )];
    cluster.put("configmaps", map("armorer-profiles", bad.into()));
    cluster.reconcile(&EVENTS).assert(1);
    assert_eq!(reasons(&cluster), told(&[("ProfileRefused", 1)]));
    let refused = event(&cluster, "ProfileRefused");
    assert_eq!(refused["regarding"]["kind"], "Node");
    assert_eq!(refused["regarding"]["name"], NODE);
    assert_eq!(refused["reportingInstance"], "armorer-x1");
    assert_eq!(refused["type"], "Warning");
    let note = refused["note"].as_str().unwrap();
    assert!(note.starts_with("custom.a line 3: syntax error"), "{note}");
    cluster.requests();
    // It stands: nothing is said again, and nothing more is asked.
    cluster.reconcile(&EVENTS).assert(1);
    assert_eq!(cluster.asked(), ["get configmaps armorer-profiles 200"]);
}

#[test]
fn repairs_are_counted_up_in_one_event() {
    let cluster = Cluster::settled(&["custom.a"]);
    for n in 1..=3 {
        // The snapshot of a kernel does not load it, which is an event too.
        cluster.node.unload("custom.a");
        cluster.reconcile(&EVENTS).assert(1);
        let repaired = event(&cluster, "ProfileRepaired");
        let count = repaired["series"]["count"].as_u64().unwrap_or(1);
        assert_eq!(count, n, "{repaired}");
        assert_eq!(repaired["note"], "custom.a: removed by somebody else");
    }
    cluster.reconcile(&EVENTS).assert(1);
    let wanted = [
        ("ProfileContested", 1),
        ("ProfileFailed", 1),
        ("ProfileRepaired", 3),
    ];
    assert_eq!(reasons(&cluster), told(&wanted));
}

#[test]
fn an_event_that_the_server_forgot_is_written_anew() {
    let cluster = Cluster::settled(&["custom.a"]);
    cluster.node.unload("custom.a");
    cluster.reconcile(&EVENTS).assert(1);
    let name = event(&cluster, "ProfileRepaired")["metadata"]["name"].clone();
    // kmock has no group in this command's key: as the server does, by a new world.
    let fresh = Cluster::start();
    fresh.want(&["custom.a"]);
    let run = cluster.pass(&fresh.url(), &EVENTS).assert(1);
    let again = event(&fresh, "ProfileRepaired");
    assert_ne!(again["metadata"]["name"], name, "{run}");
    assert!(
        fresh
            .asked()
            .iter()
            .any(|asked| asked.starts_with("patch events") && asked.ends_with("404"))
    );
}

#[test]
fn what_is_put_off_and_done_is_told() {
    let cluster = Cluster::settled(&["custom.a", "custom.b"]);
    cluster.want(&["custom.a"]);
    cluster.reconcile(&EVENTS).assert(0);
    assert_eq!(reasons(&cluster), told(&[("RemovalDeferred", 1)]));
    let now = [&EVENTS[..], &["--remove-after", "0s"]].concat();
    cluster.reconcile(&now).assert(0);
    assert_eq!(cluster.node.removed(), "custom.b");
    assert_eq!(event(&cluster, "ProfileRemoved")["type"], "Normal");
}

#[test]
fn a_pass_writes_25_events_at_most() {
    let cluster = Cluster::start();
    let bad = (0..40).map(|n| (format!("custom.{n}"), "bogus".to_owned()));
    cluster.put("configmaps", map("armorer-profiles", bad.collect()));
    cluster.reconcile(&EVENTS).assert(1);
    assert_eq!(cluster.objects("events").len(), 25);
    assert_eq!(
        event(&cluster, "MoreChanges")["note"],
        "16 more: see armorer status on the node, or its log"
    );
}

#[test]
fn what_keeps_an_event_from_being_written_fails_no_pass() {
    let cluster = Cluster::settled(&["custom.a"]);
    let bad = [
        ("custom.a".to_owned(), profile("custom.a")),
        ("custom.z".to_owned(), "bogus".to_owned()),
    ];
    let folder = cluster.node.arg("folder");
    for (name, text) in &bad {
        cluster.node.write(&format!("folder/{name}"), text);
    }
    let (token, ca) = (
        cluster.node.arg("token"),
        crate::cluster::certificate("authority.pem"),
    );
    for (url, words) in [
        (
            cluster.fault("403"),
            "may not create events in the namespace \"default\"",
        ),
        (cluster.fault("html"), "makes no sense"),
        ("https://127.0.0.1:1".to_owned(), "refused"),
    ] {
        let pass = ["reconcile", &folder, "--take-over", "--api-server", &url];
        let access = ["--token-file", &token, "--ca-file", &ca];
        let run = cluster
            .node
            .run(&[&pass[..], &access[..], &EVENTS[..]].concat());
        // 1 for the refusal, with or without events.
        assert_eq!(run.code(), 1, "{run}");
        let warned: Vec<&str> = run
            .stderr()
            .lines()
            .filter(|l| l.contains("events are written"))
            .collect();
        assert_eq!(warned.len(), 1, "{run}");
        assert!(warned[0].contains(words), "{run}");
    }
}

#[test]
fn a_pass_that_could_not_run_is_told_where_the_server_can_be_told() {
    let cluster = Cluster::settled(&["custom.a"]);
    let gone = json!({"do": "delete", "plural": "configmaps", "namespace": "armorer",
        "name": "armorer-profiles"});
    cluster.ask(&gone);
    cluster.reconcile(&EVENTS).assert(3);
    let failed = event(&cluster, "PassFailed");
    assert!(
        failed["note"]
            .as_str()
            .unwrap()
            .contains("there are no configmaps"),
        "{failed}"
    );
}

#[test]
fn without_the_nodes_name_nothing_is_done() {
    let cluster = Cluster::start();
    cluster.want(&[]);
    for flags in [
        &["--events"][..],
        &["--check-pods"],
        &["--clear-taint", "a/b"],
    ] {
        cluster.reconcile(flags).fails(2, &[flags[0], "NODE_NAME"]);
    }
    let flags = ["--clear-taint", "a b", "--node-name", NODE];
    cluster
        .reconcile(&flags)
        .fails(2, &["--clear-taint is \"a b\""]);
    let pass = ["reconcile", "profiles", "--events", "--node-name", NODE];
    cluster
        .node
        .run(&pass)
        .fails(2, &["--events needs an API server"]);
    assert_eq!(cluster.requests().len(), 0);
}

//! The start-up taint: taken once, when the node is ready for the first time.

use serde_json::{Value, json};

use crate::cluster::{Cluster, NODE};

const KEY: &str = "example.com/armorer-starting";
const CLEAR: [&str; 4] = ["--clear-taint", KEY, "--node-name", NODE];
const MAP: &str = "get configmaps armorer-profiles 200";

fn taint(key: &str, effect: &str) -> Value {
    json!({"key": key, "effect": effect})
}

fn put_node(cluster: &Cluster, taints: &[Value]) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "uid": "uid-of-node-1", "labels": {"a": "b"}},
        "spec": {"podCIDR": "10.0.0.0/24", "taints": taints},
    });
    cluster.put("nodes", node);
}

fn taints(cluster: &Cluster) -> Value {
    cluster.objects("nodes")[0]["spec"]["taints"].clone()
}

#[test]
fn only_our_taint_goes_and_only_once() {
    let cluster = Cluster::settled(&["custom.a"]);
    let [a, b] = [taint("a", "NoSchedule"), taint("b", "NoExecute")];
    let ours = [taint(KEY, "NoSchedule"), taint(KEY, "NoExecute")];
    put_node(
        &cluster,
        &[a.clone(), ours[0].clone(), b.clone(), ours[1].clone()],
    );
    let run = cluster.reconcile(&CLEAR).assert(0);
    assert!(
        run.stderr().contains("is taken from the node node-1"),
        "{run}"
    );
    assert_eq!(taints(&cluster), json!([a, b]));
    assert_eq!(
        cluster.asked(),
        [MAP, "get nodes node-1 200", "patch nodes node-1 200"]
    );
    // Set by a person later, it stays, and nobody asks.
    put_node(&cluster, &ours);
    cluster.reconcile(&CLEAR).assert(0);
    assert_eq!(cluster.asked(), [MAP]);
    // A new pod looks whether it is a new node, and this is not.
    let new_pod = [&CLEAR[..], &["--pod-name", "armorer-x2"]].concat();
    cluster.reconcile(&new_pod).assert(0);
    assert_eq!(cluster.asked(), [MAP, "get nodes node-1 200"]);
    assert_eq!(taints(&cluster), json!(ours));
    cluster.reconcile(&new_pod).assert(0);
    assert_eq!(cluster.asked(), [MAP]);
}

#[test]
fn a_taint_of_somebody_else_that_comes_meanwhile_is_not_lost() {
    let cluster = Cluster::settled(&["custom.a"]);
    let [other, ours] = [taint("other", "NoExecute"), taint(KEY, "NoSchedule")];
    put_node(&cluster, &[ours.clone()]);
    // Between our look and our change, another taint comes before ours.
    let race = json!({"spec": {"taints": [other, ours]}});
    cluster.ask(&json!({"do": "set", "races": [race]}));
    cluster.reconcile(&CLEAR).assert(0);
    assert_eq!(taints(&cluster), json!([other]));
    let [get, patch] = ["get nodes node-1 200", "patch nodes node-1 200"];
    assert_eq!(
        cluster.asked(),
        [MAP, get, "patch nodes node-1 422", get, patch]
    );
}

#[test]
fn a_node_that_is_not_ready_keeps_it() {
    let cluster = Cluster::start();
    put_node(&cluster, &[taint(KEY, "NoSchedule")]);
    // The snapshot of a kernel does not load it: not in force.
    cluster.want(&["custom.a"]);
    cluster.reconcile(&CLEAR).assert(1);
    assert_eq!(taints(&cluster)[0]["key"], KEY);
    assert_eq!(cluster.asked(), [MAP]);
    cluster
        .node
        .load("custom.a", &crate::node::profile("custom.a"));
    cluster.reconcile(&CLEAR).assert(0);
    assert_eq!(taints(&cluster), json!([]));
}

#[test]
fn where_it_cannot_be_taken_the_pass_says_so_and_tries_again() {
    let cluster = Cluster::settled(&["custom.a"]);
    // There is no such node.
    let run = cluster.reconcile(&CLEAR).assert(1);
    assert_eq!(run.stderr().lines().count(), 1, "{run}");
    for words in [
        "not converged: 1 profile in force",
        "the taint example.com/armorer-starting stays",
        "404",
    ] {
        assert!(run.stderr().contains(words), "{run}");
    }
    let heartbeat = cluster.node.read("var/lib/armorer/heartbeat");
    assert!(heartbeat.contains("\"ready\":true"), "{heartbeat}");
    put_node(&cluster, &[taint(KEY, "NoSchedule")]);
    cluster.reconcile(&CLEAR).assert(0);
    assert_eq!(taints(&cluster), json!([]));
}

#[test]
fn a_plan_takes_nothing() {
    let cluster = Cluster::settled(&["custom.a"]);
    put_node(&cluster, &[taint(KEY, "NoSchedule")]);
    let url = cluster.url();
    let plan = [
        "plan",
        crate::cluster::SOURCE,
        "--api-server",
        &url,
        "--events",
    ];
    cluster.run(&[&plan[..], &CLEAR[..]].concat()).assert(0);
    assert_eq!(cluster.asked(), [MAP]);
    assert_eq!(taints(&cluster)[0]["key"], KEY);
}

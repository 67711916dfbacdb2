//! The node's object: the start-up taint, taken once, when the node is ready for the first time; and the
//! labels that describe the profiles in force.

use harness::{deeds, profile};
use serde_json::{Value, json};

use crate::cluster::{Cluster, NODE, certificate, map};

const KEY: &str = "example.com/armorer-starting";
const CLEAR: [&str; 4] = ["--clear-taint", KEY, "--node-name", NODE];
const MAP: &str = "get configmaps armorer-profiles 200";

fn taint(key: &str, effect: &str) -> Value {
    json!({"key": key, "effect": effect})
}

fn put_node(cluster: &Cluster, taints: &[Value]) {
    put_object(cluster, "uid-of-node-1", taints);
}

fn put_object(cluster: &Cluster, uid: &str, taints: &[Value]) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "uid": uid, "labels": {"a": "b"}},
        "spec": {"podCIDR": "10.0.0.0/24", "taints": taints},
    });
    cluster.put("nodes", &node);
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
    run.line(&["taint", KEY, NODE]);
    assert_eq!(taints(&cluster), json!([a, b]));
    assert_eq!(
        cluster.asked(),
        [MAP, "get nodes node-1 200", "patch nodes node-1 200"]
    );
    // Set by a person later, it stays, and is not asked for.
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
fn another_taint_that_comes_meanwhile_is_not_lost() {
    let cluster = Cluster::settled(&["custom.a"]);
    let [other, ours] = [taint("other", "NoExecute"), taint(KEY, "NoSchedule")];
    put_node(&cluster, std::slice::from_ref(&ours));
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
    cluster.publish(&["custom.a"]);
    cluster.reconcile(&CLEAR).assert(1);
    assert_eq!(taints(&cluster)[0]["key"], KEY);
    assert_eq!(cluster.asked(), [MAP]);
    cluster.node.load("custom.a", &profile("custom.a"));
    cluster.reconcile(&CLEAR).assert(0);
    assert_eq!(taints(&cluster), json!([]));
}

#[test]
fn a_node_whose_compiler_cannot_run_keeps_its_taint() {
    let cluster = Cluster::start();
    put_node(&cluster, &[taint(KEY, "NoSchedule")]);
    let killed = deeds("custom.a", &["signal 9"]);
    cluster.put(
        "configmaps",
        &map("armorer-profiles", [("custom.a".to_owned(), killed)].into()),
    );
    let parser = cluster.node.stand_in();
    let pass = [&CLEAR[..], &["--parser", &parser]].concat();
    cluster
        .reconcile(&pass)
        .assert(1)
        .line(&["✗ failed", "custom.a"]);
    assert_eq!(taints(&cluster)[0]["key"], KEY);
    // A text that is refused for itself keeps no node closed.
    let bad = ("custom.a".to_owned(), "bogus".to_owned());
    cluster.put("configmaps", &map("armorer-profiles", [bad].into()));
    cluster
        .reconcile(&CLEAR)
        .assert(1)
        .line(&["✗ refused", "custom.a"]);
    assert_eq!(taints(&cluster), json!([]));
}

#[test]
fn a_taint_that_cannot_be_taken_fails_the_pass_and_is_tried_again() {
    let cluster = Cluster::settled(&["custom.a"]);
    // There is no such node.
    let run = cluster.reconcile(&CLEAR).assert(1);
    assert_eq!(run.stderr().lines().count(), 1, "{run}");
    run.line(&[
        "not converged: 1 profile in force",
        "cannot remove the taint",
        KEY,
        "404",
    ]);
    assert_eq!(cluster.node.status()["last_pass"]["ready"], true);
    put_node(&cluster, &[taint(KEY, "NoSchedule")]);
    cluster.reconcile(&CLEAR).assert(0);
    assert_eq!(taints(&cluster), json!([]));
}

const LABEL: [&str; 3] = ["--label-node", "--node-name", NODE];

fn labels(cluster: &Cluster) -> Value {
    cluster.objects("nodes")[0]["metadata"]["labels"].clone()
}

#[test]
fn labels_say_the_state_and_the_profiles_and_are_written_when_they_differ() {
    let cluster = Cluster::settled(&["custom.a"]);
    put_node(&cluster, &[]);
    cluster.reconcile(&LABEL).assert(0);
    assert_eq!(cluster.asked(), [MAP, "patch nodes node-1 200"]);
    let first = labels(&cluster);
    assert_eq!(
        (&first["a"], &first["armorer/state"]),
        (&json!("b"), &json!("converged"))
    );
    cluster.reconcile(&LABEL).assert(0);
    assert_eq!(cluster.asked(), [MAP]);
    // Another node with the same profiles has the same label, another set of profiles another one.
    let other = Cluster::settled(&["custom.a"]);
    put_node(&other, &[]);
    other.reconcile(&LABEL).assert(0);
    assert_eq!(labels(&other), first);
    other.publish(&["custom.a", "custom.b"]);
    other.node.load("custom.b", &profile("custom.b"));
    other.reconcile(&LABEL).assert(0);
    assert_ne!(
        labels(&other)["armorer/profiles"],
        first["armorer/profiles"]
    );
    // A new pod writes them again, since the node may be a new one.
    cluster
        .reconcile(&[&LABEL[..], &["--pod-name", "armorer-x2"]].concat())
        .assert(0);
    assert_eq!(cluster.asked(), [MAP, "patch nodes node-1 200"]);
}

#[test]
fn a_node_that_joined_anew_in_the_same_boot_is_labelled_and_loses_its_taint() {
    let cluster = Cluster::settled(&["custom.a"]);
    let ours = [taint(KEY, "NoSchedule")];
    let pass =
        |pod| cluster.reconcile(&[&CLEAR[..], &["--label-node", "--pod-name", pod]].concat());
    put_node(&cluster, &ours);
    pass("armorer-x1").assert(0);
    put_object(&cluster, "uid-of-node-2", &ours);
    pass("armorer-x2").assert(0);
    assert_eq!(labels(&cluster)["armorer/state"], "converged");
    assert_eq!(taints(&cluster), json!([]));
    // The labels come first where the node is not ready in the pod's first pass.
    cluster.publish(&["custom.a", "custom.b"]);
    put_object(&cluster, "uid-of-node-3", &ours);
    pass("armorer-x3").assert(1);
    assert_eq!(labels(&cluster)["armorer/state"], "failed");
    assert_eq!(taints(&cluster), json!(ours));
    cluster.node.load("custom.b", &profile("custom.b"));
    pass("armorer-x3").assert(0);
    assert_eq!(labels(&cluster)["armorer/state"], "converged");
    assert_eq!(taints(&cluster), json!([]));
}

#[test]
fn the_state_label_is_the_word_of_the_worst_outcome() {
    let cluster = Cluster::settled(&["custom.a"]);
    put_node(&cluster, &[]);
    let state = || labels(&cluster)["armorer/state"].clone();
    let bad = ("custom.a".to_owned(), "bogus".to_owned());
    cluster.put("configmaps", &map("armorer-profiles", [bad].into()));
    cluster.reconcile(&LABEL).assert(1);
    assert_eq!(state(), "refused");
    cluster.publish(&["custom.a"]);
    cluster
        .node
        .write("sys/module/apparmor/parameters/mode", "complain\n");
    cluster.reconcile(&LABEL).assert(0);
    assert_eq!(state(), "not-enforcing");
    cluster.node.remove("sys/module/apparmor/parameters/mode");
    cluster.node.write("var/lib/armorer/state.json", "{");
    cluster.reconcile(&LABEL).assert(3);
    assert_eq!(state(), "failed");
}

#[test]
fn labels_that_cannot_be_written_fail_no_pass() {
    let cluster = Cluster::settled(&["custom.a"]);
    cluster
        .reconcile(&LABEL)
        .assert(0)
        .line(&["warning", "labels", "404"]);
}

#[test]
fn a_plan_changes_nothing_on_the_node() {
    let cluster = Cluster::settled(&["custom.a"]);
    put_node(&cluster, &[taint(KEY, "NoSchedule")]);
    let url = cluster.url();
    let plan = [
        "plan",
        crate::cluster::SOURCE,
        "--api-server",
        &url,
        "--events",
        "--label-node",
    ];
    cluster.run(&[&plan[..], &CLEAR[..]].concat()).assert(0);
    assert_eq!(cluster.asked(), [MAP]);
    assert_eq!(taints(&cluster)[0]["key"], KEY);
}

/// The lock is free while the node's object is written.
#[test]
fn a_removal_by_hand_while_the_node_is_labelled_leaves_no_probe_ready() {
    let cluster = Cluster::start();
    let node = &cluster.node;
    node.put_loaded("custom.a", &profile("custom.a"));
    node.loop_pass("one", &[]).assert(0);
    node.probe("ready", &[]).assert(0);
    let server = cluster.fault("silence");
    let (source, token) = (node.source(), node.arg("token"));
    let ca = certificate("authority.pem");
    let mut pass = node.command(&[
        "reconcile",
        &source,
        "--loop",
        "one",
        "--label-node",
        "--node-name",
        NODE,
        "--api-server",
        &server,
        "--token-file",
        &token,
        "--ca-file",
        &ca,
    ]);
    let mut pass = pass.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    node.run(&["remove", "--all", "--force"]);
    assert!(
        pass.try_wait().unwrap().is_none(),
        "the pass ended too early"
    );
    pass.wait().unwrap();
    node.probe("ready", &[]).assert(1);
}

//! Pods that do not run now and name a profile.

use serde_json::{Value, json};

use crate::cluster::{Cluster, NODE};

const REMOVE: [&str; 5] = ["--check-pods", "--node-name", NODE, "--remove-after", "0s"];
const MAP: &str = "get configmaps armorer-profiles 200";

fn put_pod(cluster: &Cluster, name: &str, node: &str, phase: &str, pod: &Value) {
    let mut metadata = pod["metadata"].clone();
    metadata["name"] = json!(name);
    metadata["namespace"] = json!("shop");
    let mut spec = pod["spec"].clone();
    spec["nodeName"] = json!(node);
    let status = json!({"phase": phase});
    cluster.put(
        "pods",
        json!({"metadata": metadata, "spec": spec, "status": status}),
    );
}

fn by_field(profile: &str) -> Value {
    let context = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": profile}});
    json!({"metadata": {}, "spec": {"containers": [{"name": "a", "securityContext": context}]}})
}

fn by_annotation(profile: &str) -> Value {
    let key = "container.apparmor.security.beta.kubernetes.io/a";
    let annotations = json!({key: format!("localhost/{profile}")});
    json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "a"}]}})
}

/// One that owns custom.a and custom.b, and wants custom.a only.
fn cluster() -> Cluster {
    let cluster = Cluster::settled(&["custom.a", "custom.b"]);
    cluster.want(&["custom.a"]);
    cluster
}

#[test]
fn a_pod_of_this_node_that_names_it_keeps_it() {
    for pod in [by_field("custom.b"), by_annotation("custom.b")] {
        let cluster = cluster();
        put_pod(&cluster, "web-1", NODE, "Pending", &pod);
        let run = cluster.reconcile(&REMOVE).assert(0);
        assert_eq!(cluster.node.removed(), "", "{run}");
        let said = "… deferred  custom.b: named by the pod shop/web-1";
        assert!(run.stderr().contains(said), "{run}");
        assert_eq!(cluster.asked(), [MAP, MAP, "list pods 200"]);
        // Its clock starts anew: within the time nobody is asked again.
        let later = [&REMOVE[..4], &["15m"]].concat();
        cluster.reconcile(&later).assert(0);
        assert_eq!(cluster.asked(), [MAP]);
    }
}

#[test]
fn pods_elsewhere_ended_or_of_other_profiles_do_not() {
    let cluster = cluster();
    put_pod(
        &cluster,
        "elsewhere",
        "node-2",
        "Running",
        &by_field("custom.b"),
    );
    put_pod(&cluster, "ended", NODE, "Succeeded", &by_field("custom.b"));
    put_pod(
        &cluster,
        "failed",
        NODE,
        "Failed",
        &by_annotation("custom.b"),
    );
    put_pod(&cluster, "other", NODE, "Running", &by_field("custom.a"));
    put_pod(&cluster, "longer", NODE, "Running", &by_field("custom.bc"));
    cluster.reconcile(&REMOVE).assert(0);
    assert_eq!(cluster.node.removed(), "custom.b");
}

#[test]
fn every_page_is_looked_at() {
    let cluster = cluster();
    for n in 0..5 {
        put_pod(
            &cluster,
            &format!("a-{n}"),
            NODE,
            "Running",
            &by_field("custom.a"),
        );
    }
    put_pod(&cluster, "z", NODE, "Running", &by_field("custom.b"));
    cluster.ask(&json!({"do": "set", "page": 2}));
    let run = cluster.reconcile(&REMOVE).assert(0);
    assert!(run.stderr().contains("named by the pod shop/z"), "{run}");
    assert_eq!(cluster.node.removed(), "");
}

#[test]
fn where_nobody_can_be_asked_nothing_is_removed() {
    let cluster = cluster();
    let folder = cluster.node.arg("folder");
    cluster
        .node
        .write("folder/custom.a", crate::node::profile("custom.a"));
    let (token, ca) = (
        cluster.node.arg("token"),
        crate::cluster::certificate("authority.pem"),
    );
    for (url, words) in [
        (cluster.fault("403"), "may not list pods"),
        (cluster.fault("html"), "makes no sense"),
        (cluster.fault("tls-expired"), "expired"),
        ("https://127.0.0.1:1".to_owned(), "refused"),
    ] {
        let pass = ["reconcile", &folder, "--take-over", "--api-server", &url];
        let access = ["--token-file", &token, "--ca-file", &ca];
        let run = cluster
            .node
            .run(&[&pass[..], &access[..], &REMOVE[..]].concat())
            .assert(1);
        let said = "! kept      custom.b: nobody can tell whether a pod names it: ";
        assert!(
            run.stderr().contains(said) && run.stderr().contains(words),
            "{run}"
        );
        assert_eq!(cluster.node.removed(), "");
    }
}

#[test]
fn a_plan_asks_too() {
    let cluster = cluster();
    put_pod(&cluster, "web-1", NODE, "Pending", &by_field("custom.b"));
    let url = cluster.url();
    let plan = ["plan", crate::cluster::SOURCE, "--api-server", &url];
    let run = cluster.run(&[&plan[..], &REMOVE[..]].concat()).assert(0);
    assert!(
        run.stdout()
            .contains("custom.b: named by the pod shop/web-1"),
        "{run}"
    );
}

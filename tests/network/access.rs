//! What the rendered manifests let armorer do: all that it asks for, and nothing more.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{ACCOUNT, Cluster, NODE, map, setting, user};
use crate::node::profile;

const COMPONENTS: [&str; 6] = [
    "api-source",
    "events",
    "check-pods",
    "node-ready",
    "refuse-configmaps",
    "metrics",
];
const KEY: &str = "armorer/starting";

/// The DaemonSet with these components, as kustomize renders it.
fn rendered(name: &str, components: &[&str]) -> String {
    let top = PathBuf::from(setting("NETWORK_TOP"));
    let folder = top.join(format!("target/network/overlay-{name}"));
    fs::create_dir_all(&folder).unwrap();
    let tree = "../../../kustomize";
    let components: Vec<String> = components
        .iter()
        .map(|name| format!("  - {tree}/components/{name}\n"))
        .collect();
    let overlay = format!(
        "resources:\n  - {tree}/base\ncomponents:\n{}",
        components.concat()
    );
    fs::write(folder.join("kustomization.yaml"), overlay).unwrap();
    let output = Command::new(top.join("scripts/render"))
        .args(["--", "build"])
        .arg(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A cluster with these rights, and a node with the start-up taint.
fn cluster(manifests: &str) -> Cluster {
    let cluster = Cluster::start();
    cluster.ask(&json!({"do": "manifests", "yaml": manifests}));
    let taints =
        json!([{"key": "other", "effect": "NoExecute"}, {"key": KEY, "effect": "NoSchedule"}]);
    cluster.put(
        "nodes",
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": NODE, "uid": "uid-of-node-1", "labels": {"a": "b"}},
            "spec": {"podCIDR": "10.0.0.0/24", "taints": taints},
        }),
    );
    for name in ["custom.a", "custom.b"] {
        cluster.node.load(name, &profile(name));
    }
    cluster.want(&["custom.a", "custom.b"]);
    cluster
}

/// The variables of the armorer container that say what it does.
fn environment(manifests: &str, cluster: &Cluster) -> Vec<(String, String)> {
    let documents = cluster.ask(&json!({"do": "parse", "yaml": manifests}));
    let daemonset = documents
        .as_array()
        .unwrap()
        .iter()
        .find(|document| document["kind"] == "DaemonSet")
        .unwrap();
    let pod = &daemonset["spec"]["template"]["spec"];
    // Armorer has the token, and nobody else in the pod.
    assert_eq!(pod["automountServiceAccountToken"], false);
    for container in pod["containers"].as_array().unwrap() {
        let mounts = container["volumeMounts"].to_string();
        let has_token = mounts.contains("/var/run/secrets/kubernetes.io/serviceaccount");
        assert_eq!(has_token, container["name"] == "armorer", "{container}");
    }
    let containers = pod["containers"].as_array().unwrap();
    let armorer = containers
        .iter()
        .find(|container| container["name"] == "armorer");
    let variables = armorer.unwrap()["env"].as_array().unwrap();
    let named = |name: &str| match name {
        "ARMORER_EVENTS" | "ARMORER_CHECK_PODS" | "ARMORER_CLEAR_TAINT" | "PROFILES_DIR" => true,
        _ => false,
    };
    let mut found: Vec<(String, String)> = variables
        .iter()
        .filter(|variable| named(variable["name"].as_str().unwrap()))
        .map(|variable| {
            let text = |key: &str| variable[key].as_str().unwrap().to_owned();
            (text("name"), text("value"))
        })
        .collect();
    found.push(("NODE_NAME".into(), NODE.into()));
    found.push(("POD_NAME".into(), "armorer-x1".into()));
    found.push(("ARMORER_API_SERVER".into(), cluster.url()));
    found.push(("ARMORER_TOKEN_FILE".into(), cluster.node.arg("token")));
    found.push((
        "ARMORER_CA_FILE".into(),
        crate::cluster::certificate("authority.pem"),
    ));
    found
}

#[test]
fn each_request_is_allowed_by_exactly_one_rule_and_each_rule_is_needed() {
    let manifests = rendered("all", &COMPONENTS);
    let cluster = cluster(&manifests);
    let environment = environment(&manifests, &cluster);
    let env: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (&**k, &**v)).collect();
    let pass = |arguments: &[&str], code| {
        let all = [&["reconcile"], arguments].concat();
        cluster.node.run_with(&all, &env).assert(code);
    };
    pass(&[], 0);
    let gone = cluster.objects("nodes")[0]["spec"]["taints"].clone();
    assert_eq!(gone, json!([{"key": "other", "effect": "NoExecute"}]));
    // A change, a repair that is counted up, and a removal.
    cluster.node.unload("custom.a");
    pass(&[], 1);
    pass(&[], 1);
    cluster.node.load("custom.a", &profile("custom.a"));
    cluster.want(&["custom.a"]);
    pass(&["--remove-after", "0s"], 0);
    assert_eq!(cluster.node.removed(), "custom.b");

    let requests = cluster.requests();
    let mut used = BTreeSet::new();
    for request in &requests {
        let rules = request["allowed_by"].as_array().unwrap();
        assert_eq!(rules.len(), 1, "{request}");
        assert!(request["code"].as_u64().unwrap() < 300, "{request}");
        let words = |key: &str| request[key].as_str().unwrap().to_owned();
        used.insert((rules[0].to_string(), words("verb")));
    }
    let rules = cluster.ask(&json!({"do": "rules"}));
    let wanted: BTreeSet<(String, String)> = rules
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| (rule[0].to_string(), rule[1].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(
        used, wanted,
        "a right that is not used, or a verb that no rule names"
    );
}

#[test]
fn without_its_component_each_is_forbidden() {
    let manifests = rendered("source", &["api-source"]);
    let cluster = cluster(&manifests);
    let flags = ["--node-name", NODE, "--remove-after", "0s"];
    let with = |more: &[&str]| cluster.reconcile(&[&flags[..], more].concat());
    with(&[]).assert(0);
    let run = with(&["--clear-taint", KEY]).assert(1);
    let said = "403 Forbidden: the ServiceAccount armorer/armorer may not get nodes \"node-1\"";
    assert!(run.stderr().contains(said), "{run}");
    cluster.want(&["custom.a"]);
    let run = with(&["--check-pods", "--events"]).assert(1);
    assert!(run.stderr().contains("may not list pods"), "{run}");
    assert!(
        run.stderr()
            .contains("may not create events in the namespace"),
        "{run}"
    );
    assert_eq!(cluster.node.removed(), "");
    // Another ConfigMap than the named one.
    cluster.put("configmaps", map("another", [].into()));
    let url = cluster.url();
    let pass = [
        "reconcile",
        "configmap://armorer/another",
        "--api-server",
        &url,
    ];
    cluster.run(&pass).fails(
        3,
        &["may not get configmaps \"another\" in the namespace \"armorer\": bind"],
    );
}

/// What the policies say of a change to `old`.
fn refusals(cluster: &Cluster, who: &Value, plural: &str, old: &Value, new: &Value) -> Vec<String> {
    let metadata = &new["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    let asked =
        json!({"group": "", "resource": plural, "namespace": namespace, "name": metadata["name"]});
    let command = json!({"do": "admit", "user": who, "operation": "UPDATE", "asked": asked,
        "object": new, "old": old});
    let refusals = cluster.ask(&command);
    let text = |refusal: &Value| refusal.as_str().unwrap().to_owned();
    refusals.as_array().unwrap().iter().map(text).collect()
}

#[test]
fn the_policy_lets_the_account_take_one_taint_from_its_own_node_and_nothing_else() {
    let cluster = cluster(&rendered("ready", &["node-ready"]));
    let old = json!({
        "metadata": {"name": NODE, "labels": {"a": "b"}, "resourceVersion": "1"},
        "spec": {"podCIDR": "10.0.0.0/24", "taints": [
            {"key": "other", "effect": "NoExecute"}, {"key": KEY, "effect": "NoSchedule"}]},
    });
    let changed = |edit: fn(&mut Value)| {
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = json!("2");
        edit(&mut new);
        new
    };
    let take: fn(&mut Value) = |node| {
        node["spec"]["taints"].as_array_mut().unwrap().pop();
    };
    let own = user(NODE);
    let none: Vec<String> = Vec::new();
    assert_eq!(
        refusals(&cluster, &own, "nodes", &old, &changed(take)),
        none
    );
    let only = json!({"metadata": {"name": NODE}, "spec": {"taints": [{"key": KEY, "effect": "NoSchedule"}]}});
    let bare = json!({"metadata": {"name": NODE}, "spec": {}});
    assert_eq!(refusals(&cluster, &own, "nodes", &only, &bare), none);
    // Others are not its business.
    let admin = json!({"username": "admin", "groups": []});
    let all: fn(&mut Value) = |node| node["spec"]["taints"] = json!([]);
    assert_eq!(
        refusals(&cluster, &admin, "nodes", &old, &changed(all)),
        none
    );

    let wrong: [(&str, fn(&mut Value)); 8] = [
        ("may take only the taint", |node| {
            node["spec"]["taints"] = json!([])
        }),
        ("may take only the taint", |node| {
            node["spec"].as_object_mut().unwrap().remove("taints");
        }),
        ("may not add or change a taint", |node| {
            let more = json!({"key": "more", "effect": "NoSchedule"});
            node["spec"]["taints"].as_array_mut().unwrap().push(more);
        }),
        ("may not add or change a taint", |node| {
            node["spec"]["taints"][0]["effect"] = json!("NoSchedule");
        }),
        ("may change nothing else", |node| {
            node["metadata"]["labels"]["a"] = json!("c")
        }),
        ("may change nothing else", |node| {
            node["metadata"]["annotations"] = json!({"a": "b"});
        }),
        ("may change nothing else", |node| {
            node["spec"]["unschedulable"] = json!(true)
        }),
        ("may change nothing else", |node| {
            node["spec"].as_object_mut().unwrap().remove("podCIDR");
        }),
    ];
    for (words, edit) in wrong {
        let said = refusals(&cluster, &own, "nodes", &old, &changed(edit));
        assert!(
            said.iter().any(|why| why.contains(words)),
            "{words}: {said:?}"
        );
    }
    let bare = json!({"username": ACCOUNT});
    for who in [
        user("node-2"),
        json!({"username": ACCOUNT, "extra": {}}),
        bare,
    ] {
        let said = refusals(&cluster, &who, "nodes", &old, &changed(take));
        assert!(
            said.iter().any(|why| why.contains("armorer-node-ready")),
            "{who}: {said:?}"
        );
    }
}

#[test]
fn the_policy_refuses_configmaps_that_armorer_would_refuse() {
    let cluster = cluster(&rendered("maps", &["refuse-configmaps"]));
    let who = json!({"username": "author"});
    let said = |name: &str, data: &[(&str, &str)]| {
        let pair = |(key, text): &(&str, &str)| ((*key).to_owned(), (*text).to_owned());
        let new = map(name, data.iter().map(pair).collect());
        refusals(&cluster, &who, "configmaps", &new, &new)
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(
        said("armorer-profiles", &[("custom.a", "x"), ("README", "y")]),
        none
    );
    assert_eq!(said("another", &[("a", "x")]), none);
    let why = said("armorer-profiles", &[("custom.a", "x"), ("evil", "y")]);
    assert!(why[0].contains("do not start with custom."), "{why:?}");
    let why = said("armorer-profiles", &[("custom.a", &"x".repeat(524_289))]);
    assert!(why[0].contains("more than 524288 bytes"), "{why:?}");
    let mut binary = map("armorer-profiles", [].into());
    binary["binaryData"] = json!({"custom.a": "AA=="});
    let why = refusals(&cluster, &who, "configmaps", &binary, &binary);
    assert!(why[0].contains("binaryData"), "{why:?}");
}

//! The permissions of the rendered manifests: all that armorer needs, and nothing more.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use harness::profile;
use serde_json::{Value, json};

use crate::cluster::{ACCOUNT, Cluster, NODE, map, setting, user};

const COMPONENTS: [&str; 4] = ["api-source", "node", "refuse-configmaps", "metrics"];
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
        &json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": NODE, "uid": "uid-of-node-1", "labels": {"a": "b"}},
            "spec": {"podCIDR": "10.0.0.0/24", "taints": taints},
        }),
    );
    for name in ["custom.a", "custom.b"] {
        cluster.node.load(name, &profile(name));
    }
    cluster.publish(&["custom.a", "custom.b"]);
    cluster
}

/// The variables of the armorer container that choose its work.
fn environment(manifests: &str, cluster: &Cluster) -> Vec<(String, String)> {
    let documents = cluster.ask(&json!({"do": "parse", "yaml": manifests}));
    let daemonset = documents
        .as_array()
        .unwrap()
        .iter()
        .find(|document| document["kind"] == "DaemonSet")
        .unwrap();
    let pod = &daemonset["spec"]["template"]["spec"];
    // Armorer has the token, and no other container of the pod.
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
    // The kubelet's part: fields of the pod, and $(NAME) of earlier variables.
    let namespace = &daemonset["metadata"]["namespace"];
    let annotations = &daemonset["spec"]["template"]["metadata"]["annotations"];
    let mut known: Vec<(String, String)> = Vec::new();
    for variable in variables {
        let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
        let value = match field.as_str() {
            Some("metadata.annotations['armorer/configmap']") => &annotations["armorer/configmap"],
            Some("metadata.namespace") => namespace,
            _ => &variable["value"],
        };
        let mut value = value.as_str().unwrap_or_default().to_owned();
        for (name, known) in &known {
            value = value.replace(&format!("$({name})"), known);
        }
        known.push((variable["name"].as_str().unwrap().to_owned(), value));
    }
    let switches = [
        "ARMORER_EVENTS",
        "ARMORER_LABEL_NODE",
        "ARMORER_CLEAR_TAINT",
        "PROFILES_DIR",
    ];
    let mut found: Vec<(String, String)> = known
        .into_iter()
        .filter(|(name, _)| switches.contains(&name.as_str()))
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
    // A repair and a removal.
    cluster.node.unload("custom.a");
    pass(&[], 1);
    cluster.node.load("custom.a", &profile("custom.a"));
    cluster.publish(&["custom.a"]);
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
    let granted: BTreeSet<(String, String)> = rules
        .as_array()
        .unwrap()
        .iter()
        // This one is a mark for the policies, and no request needs it.
        .filter(|rule| rule[1] != "limited")
        .map(|rule| (rule[0].to_string(), rule[1].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(
        used, granted,
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
    let forbidden =
        format!("403 Forbidden: nodes \"{NODE}\" is forbidden: User \"{ACCOUNT}\" cannot get");
    with(&["--clear-taint", KEY])
        .assert(1)
        .line(&["cannot remove the taint", &forbidden]);
    let run = with(&["--label-node"]).assert(0);
    run.line(&[
        "warning",
        "labels",
        "403 Forbidden",
        ACCOUNT,
        "cannot patch",
    ]);
    cluster.publish(&["custom.a"]);
    let run = with(&["--events"]).assert(0);
    run.line(&[
        "warning",
        "events",
        "403 Forbidden",
        ACCOUNT,
        "cannot create",
    ]);
    // Another ConfigMap than the named one.
    cluster.put("configmaps", &map("another", [].into()));
    let url = cluster.url();
    let pass = [
        "reconcile",
        "configmap://armorer/another",
        "--api-server",
        &url,
    ];
    cluster
        .run(&pass)
        .fails(3, &["configmaps \"another\" is forbidden", ACCOUNT]);
}

/// The policies' answer to a change of `old`.
fn refusals(cluster: &Cluster, who: &Value, plural: &str, old: &Value, new: &Value) -> Vec<String> {
    let metadata = &new["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    let group = match plural {
        "events" => "events.k8s.io",
        _ => "",
    };
    let asked = json!({"group": group, "resource": plural, "namespace": namespace, "name": metadata["name"]});
    let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
    let command = json!({"do": "admit", "user": who, "operation": operation, "asked": asked,
        "object": new, "old": old});
    let refusals = cluster.ask(&command);
    let text = |refusal: &Value| refusal.as_str().unwrap().to_owned();
    refusals.as_array().unwrap().iter().map(text).collect()
}

/// A node with every field that a policy could forget.
fn full_node() -> Value {
    json!({
        "metadata": {"name": NODE, "resourceVersion": "1",
            "labels": {"a": "b", "armorer/state": "converged"},
            "annotations": {"a": "b"}, "finalizers": ["a/b"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1"}]},
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"], "providerID": "a://b",
            "unschedulable": false, "externalID": "a", "configSource": {"configMap": {"name": "a"}},
            "taints": [{"key": "other", "effect": "NoExecute"}, {"key": KEY, "effect": "NoSchedule"}]},
    })
}

/// `node` with `value` at the JSON pointer `path`; without it, where `value` is null.
fn changed(node: &Value, path: &str, value: Value) -> Value {
    let mut new = node.clone();
    new["metadata"]["resourceVersion"] = json!("2");
    let (parent, key) = path.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    let parent = new.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        parent.remove(&key);
    } else {
        parent.insert(key, value);
    }
    new
}

#[test]
fn the_policy_lets_the_account_set_its_labels_and_take_its_taint_on_its_own_node() {
    let cluster = cluster(&rendered("node", &["node"]));
    let (old, own) = (full_node(), user(NODE));
    let other = json!({"key": "other", "effect": "NoExecute"});
    let bare = json!({"metadata": {"name": NODE}, "spec": {}});
    let only_ours = json!({"metadata": {"name": NODE, "labels": {"armorer/state": "converged"}},
        "spec": {"taints": [{"key": KEY, "effect": "NoSchedule"}]}});
    let allowed = [
        (&old, changed(&old, "/spec/taints", json!([other]))),
        (
            &old,
            changed(&old, "/metadata/labels/armorer~1state", json!("refused")),
        ),
        (
            &old,
            changed(&old, "/metadata/labels/armorer~1state", Value::Null),
        ),
        (
            &old,
            changed(
                &old,
                "/metadata/labels/armorer~1profiles",
                json!("0123abcd"),
            ),
        ),
        (&only_ours, bare.clone()),
        (
            &bare,
            changed(
                &bare,
                "/metadata/labels",
                json!({"armorer/profiles": "0123abcd"}),
            ),
        ),
    ];
    for (old, new) in &allowed {
        let said = refusals(&cluster, &own, "nodes", old, new);
        assert_eq!(said, Vec::<String>::new(), "{new}");
    }
    for who in [
        user("node-2"),
        json!({"username": ACCOUNT, "extra": {}}),
        json!({"username": ACCOUNT}),
    ] {
        let said = refusals(&cluster, &who, "nodes", &old, &allowed[0].1);
        assert!(said.concat().contains("armorer-node: "), "{who}: {said:?}");
    }
}

/// Words of the refusal, and the change: a JSON pointer and its new value.
fn wrong_changes() -> Vec<(&'static str, String, Value)> {
    let ours = json!({"key": KEY, "effect": "NoSchedule"});
    let other = json!({"key": "other", "effect": "NoExecute"});
    let more = json!({"key": "more", "effect": "NoSchedule"});
    let wrong = [
        ("remove only the taint", "/spec/taints", json!([])),
        ("remove only the taint", "/spec/taints", Value::Null),
        ("remove only the taint", "/spec/taints", json!([ours])),
        (
            "not add or change a taint",
            "/spec/taints",
            json!([other, ours, more]),
        ),
        (
            "not add or change a taint",
            "/spec/taints/0/effect",
            json!("NoSchedule"),
        ),
        (
            "not add or change a taint",
            "/spec/taints/1/effect",
            json!("NoExecute"),
        ),
        ("set only the labels", "/metadata/labels/a", json!("c")),
        ("set only the labels", "/metadata/labels/b", json!("c")),
        (
            "set only the labels",
            "/metadata/labels/armorer~1other",
            json!("c"),
        ),
        ("remove only the labels", "/metadata/labels/a", Value::Null),
        ("remove only the labels", "/metadata/labels", Value::Null),
    ];
    let mut wrong: Vec<_> = wrong
        .into_iter()
        .map(|(words, path, value)| (words, path.to_owned(), value))
        .collect();
    let other_fields = [
        ("/metadata/annotations", json!({"a": "c"})),
        ("/metadata/finalizers", json!(["a/b", "c/d"])),
        ("/metadata/ownerReferences", json!([])),
        ("/spec/podCIDR", json!("10.1.0.0/24")),
        ("/spec/podCIDRs", json!(["10.1.0.0/24"])),
        ("/spec/providerID", json!("a://c")),
        ("/spec/unschedulable", json!(true)),
        ("/spec/externalID", json!("b")),
        ("/spec/configSource", json!({"configMap": {"name": "b"}})),
    ];
    for (path, value) in other_fields {
        wrong.push(("change nothing else", path.to_owned(), Value::Null));
        wrong.push(("change nothing else", path.to_owned(), value));
    }
    wrong
}

#[test]
fn the_policy_lets_the_account_change_no_other_field_of_a_node() {
    let cluster = cluster(&rendered("fields", &["node"]));
    let old = full_node();
    for (words, path, value) in wrong_changes() {
        let new = match path.strip_prefix("/spec/taints/") {
            Some(rest) => {
                let mut new = old.clone();
                *new["spec"]["taints"]
                    .pointer_mut(&format!("/{rest}"))
                    .unwrap() = value;
                new
            }
            None => changed(&old, &path, value),
        };
        let said = refusals(&cluster, &user(NODE), "nodes", &old, &new);
        assert!(said.concat().contains(words), "{words}, {path}: {said:?}");
    }
    // Nothing may be added.
    let bare = json!({"metadata": {"name": NODE}, "spec": {}});
    for path in [
        "/metadata/annotations",
        "/spec/unschedulable",
        "/spec/podCIDR",
    ] {
        let said = refusals(
            &cluster,
            &user(NODE),
            "nodes",
            &bare,
            &changed(&bare, path, json!("a")),
        );
        assert!(
            said.concat().contains("change nothing else"),
            "{path}: {said:?}"
        );
    }
}

#[test]
fn the_policies_find_the_account_under_any_name_and_leave_others_alone() {
    let mut manifests = rendered("others", &["node"]);
    // Another account with the role, and one that may do everything.
    manifests.push_str(
        "---\n{kind: ClusterRole, metadata: {name: all}, rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]}\n\
         ---\n{kind: ClusterRoleBinding, metadata: {name: all}, roleRef: {kind: ClusterRole, name: all}, \
         subjects: [{kind: ServiceAccount, namespace: cd, name: deployer}]}\n\
         ---\n{kind: ClusterRoleBinding, metadata: {name: renamed}, roleRef: {kind: ClusterRole, name: armorer-node}, \
         subjects: [{kind: ServiceAccount, namespace: security, name: acme-armorer}]}\n",
    );
    let cluster = cluster(&manifests);
    let old = full_node();
    let new = changed(&old, "/spec/unschedulable", json!(true));
    let said = |username: &str| {
        let who = json!({"username": username, "extra": {"authentication.kubernetes.io/node-name": [NODE]}});
        refusals(&cluster, &who, "nodes", &old, &new).concat()
    };
    for limited in [ACCOUNT, "system:serviceaccount:security:acme-armorer"] {
        assert!(said(limited).contains("change nothing else"), "{limited}");
    }
    let others = [
        "system:serviceaccount:cd:deployer",
        "system:node:node-1",
        "admin",
        "system:serviceaccount:cd:none",
    ];
    for other in others {
        assert_eq!(said(other), "", "{other}");
    }
}

#[test]
fn the_policy_lets_the_account_write_events_of_its_own_node_only() {
    let cluster = cluster(&rendered("events", &["node"]));
    let event = json!({
        "metadata": {"name": "a", "namespace": "default"}, "reportingController": "armorer",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": NODE},
    });
    let with = |path: &str, value: Value| changed(&event, path, value);
    let said = |who: &Value, old: &Value, new: &Value| {
        refusals(&cluster, who, "events", old, new).concat()
    };
    let own = user(NODE);
    assert_eq!(said(&own, &Value::Null, &event), "");
    assert_eq!(
        said(&own, &event, &with("/series", json!({"count": 2}))),
        ""
    );
    let wrong = [
        (
            "of a node only",
            with("/metadata/namespace", json!("kube-system")),
        ),
        ("of a node only", with("/regarding/kind", json!("Pod"))),
        ("of a node only", with("/regarding", Value::Null)),
        ("only of the node", with("/regarding/name", json!("node-2"))),
    ];
    for (words, new) in wrong {
        let said = said(&own, &Value::Null, &new);
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said(&user("node-2"), &Value::Null, &event).contains("only of the node"));
    let foreign = with("/reportingController", json!("kubelet"));
    assert!(said(&own, &foreign, &foreign).contains("only its own Events"));
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
    let mut elsewhere = map(
        "armorer-profiles",
        [("a".to_owned(), "x".to_owned())].into(),
    );
    elsewhere["metadata"]["namespace"] = json!("elsewhere");
    assert_eq!(
        refusals(&cluster, &who, "configmaps", &elsewhere, &elsewhere),
        none
    );
    let why = said("armorer-profiles", &[("custom.a", "x"), ("evil", "y")]);
    assert!(why[0].contains("do not start with custom."), "{why:?}");
    let longest = format!("custom.{}", "a".repeat(232));
    assert_eq!(said("armorer-profiles", &[(&longest, "x")]), none);
    let why = said("armorer-profiles", &[(&format!("{longest}a"), "x")]);
    assert!(why[0].contains("more than 239 bytes"), "{why:?}");
    let why = said("armorer-profiles", &[("custom.a", &"x".repeat(131_073))]);
    assert!(why[0].contains("more than 131072 bytes"), "{why:?}");
    let mut binary = map("armorer-profiles", [].into());
    binary["binaryData"] = json!({"custom.a": "AA=="});
    let why = refusals(&cluster, &who, "configmaps", &binary, &binary);
    assert!(why[0].contains("binaryData"), "{why:?}");
}

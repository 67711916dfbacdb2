//! Profiles from the API server.

use std::collections::BTreeMap;

use harness::{Run, binary, profile};
use serde_json::json;

use crate::cluster::{Cluster, SECRET, SOURCE, TOKEN, certificate, map, user};

const GET: &str = "get configmaps armorer-profiles 200";

#[test]
fn a_pass_with_nothing_new_asks_for_the_metadata_only() {
    let cluster = Cluster::settled(&["custom.a", "custom.b"]);
    let state = cluster.node.read("var/lib/armorer/state.json");
    let run = cluster.reconcile(&[]).assert(0);
    assert_eq!(run.stderr().lines().count(), 1, "{run}");
    let requests = cluster.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let accept = requests[0]["accept"].as_str().unwrap();
    assert!(accept.contains("as=PartialObjectMetadata;"), "{accept}");
    assert!(requests[0]["body_bytes"].as_u64().unwrap() < 1024);
    assert_eq!(cluster.node.read("var/lib/armorer/state.json"), state);
}

#[test]
fn a_change_is_read_whole() {
    let cluster = Cluster::settled(&["custom.a"]);
    cluster.publish(&["custom.a", "custom.b"]);
    cluster.node.load("custom.b", &profile("custom.b"));
    let run = cluster.reconcile(&[]).assert(0);
    assert!(run.stderr().contains("2 profiles in force"), "{run}");
    assert_eq!(cluster.asked(), [GET, GET]);
    assert_eq!(cluster.reconcile(&[]).assert(0).stdout(), "");
    assert_eq!(cluster.asked(), [GET]);
}

#[test]
fn a_deleted_map_is_an_empty_source_only_where_that_is_allowed() {
    let cluster = Cluster::settled(&["custom.a"]);
    let gone = json!({"do": "delete", "plural": "configmaps", "namespace": "armorer",
        "name": "armorer-profiles"});
    cluster.ask(&gone);
    let now = ["--remove-after", "0s"];
    let words = ["404", "armorer-profiles", "not found", "--allow-empty"];
    cluster.reconcile(&now).fails(3, &words);
    cluster.node.assert_untouched();
    cluster
        .reconcile(&[&now[..], &["--allow-empty"]].concat())
        .assert(0);
    assert_eq!(cluster.node.removed(), "custom.a");
}

/// Each of two selections of one namespace is a source of its own.
#[test]
fn a_selection_that_became_empty_removes_nothing_though_another_one_is_not() {
    let cluster = Cluster::start();
    for tier in ["a", "b"] {
        let name = format!("custom.{tier}");
        let data = BTreeMap::from([(name.clone(), profile(&name))]);
        let mut map = map(&format!("tier-{tier}"), data);
        map["metadata"]["labels"] = json!({"tier": tier});
        cluster.put("configmaps", &map);
        cluster.node.load(&name, &profile(&name));
    }
    let url = cluster.url();
    let [a, b] = ["a", "b"].map(|tier| format!("configmap://armorer?selector=tier%3D{tier}"));
    let pass = [
        "reconcile",
        &a,
        &b,
        "--api-server",
        &url,
        "--remove-after",
        "0s",
    ];
    cluster.run(&pass).assert(0);
    cluster.ask(
        &json!({"do": "delete", "plural": "configmaps", "namespace": "armorer", "name": "tier-a"}),
    );
    let run = cluster.run(&pass).assert(1);
    run.line(&[
        "! blocked",
        "custom.a",
        "its source is empty",
        "--allow-empty",
    ]);
    run.line(&[&a, "holds no profile"]);
    cluster.node.assert_untouched();
    cluster
        .run(&[&pass[..], &["--allow-empty"]].concat())
        .assert(0);
    assert_eq!(cluster.node.removed(), "custom.a");
}

#[test]
fn keys_that_are_passed_over_and_binary_data_are_said() {
    let cluster = Cluster::start();
    let mut map = map(
        "armorer-profiles",
        [("custom.web.orig".to_owned(), profile("custom.web"))].into(),
    );
    map["binaryData"] = json!({"custom.b": "AA=="});
    cluster.put("configmaps", &map);
    let run = cluster.reconcile(&[]).assert(1);
    run.line(&[
        "configmap://armorer/armorer-profiles/custom.web.orig",
        "rename",
    ]);
    run.line(&["✗ refused", "custom.b", "binaryData"]);
}

#[test]
fn a_selection_is_read_in_pages_and_anew_when_its_place_is_forgotten() {
    let cluster = Cluster::start();
    for n in 0..5 {
        let name = format!("custom.{n}");
        let data = BTreeMap::from([(name.clone(), profile(&name))]);
        cluster.put("configmaps", &map(&format!("map-{n}"), data));
        cluster.node.load(&name, &profile(&name));
    }
    let other = json!({"metadata": {"name": "other", "namespace": "armorer"}, "data": {"x": "y"}});
    cluster.put("configmaps", &other);
    cluster.ask(&json!({"do": "set", "page": 2, "forgets": 1}));
    let url = cluster.url();
    let source = "configmap://armorer?selector=app%3Dprofiles";
    let pass = ["reconcile", source, "--api-server", &url];
    let run = cluster.run(&pass).assert(0);
    assert!(run.stderr().contains("5 profiles in force"), "{run}");
    let asked = cluster.asked();
    let lists: Vec<&str> = asked.iter().map(String::as_str).take(5).collect();
    let ok = "list configmaps 200";
    assert_eq!(lists, [ok, "list configmaps 410", ok, ok, ok]);
    assert_eq!(asked.len(), 10, "{asked:?}");
    cluster.run(&pass).assert(0);
    assert_eq!(cluster.asked(), [ok, ok, ok]);
}

#[test]
fn a_pod_reaches_its_server_over_ipv6_too() {
    let cluster = Cluster::start();
    cluster.publish(&[]);
    let (token, ca) = (cluster.node.arg("token"), certificate("authority.pem"));
    let port = cluster.ports["port6"].to_string();
    let env = [
        ("KUBERNETES_SERVICE_HOST", "::1"),
        ("KUBERNETES_SERVICE_PORT", &port),
        ("PROFILES_DIR", SOURCE),
        ("ARMORER_TOKEN_FILE", &token),
        ("ARMORER_CA_FILE", &ca),
    ];
    cluster.node.run_with(&["reconcile"], &env).assert(0);
    assert_eq!(cluster.asked(), [GET]);
}

#[test]
fn a_token_that_was_rotated_is_read_anew() {
    let cluster = Cluster::settled(&["custom.a"]);
    let rotated = TOKEN.replace("eyJhbGci", "eyJhbGcj");
    cluster.token(&rotated);
    cluster
        .reconcile(&[])
        .fails(3, &["401 Unauthorized: Unauthorized"]);
    cluster.ask(&json!({"do": "tokens", "tokens": {rotated: user("node-1")}}));
    cluster.reconcile(&[]).assert(0);
}

/// In a mount namespace of its own, where the account's folder lies as the kubelet mounts it.
#[test]
fn in_a_pod_server_token_and_authority_are_where_the_kubelet_puts_them() {
    const AS_A_POD: &str = "mount -t tmpfs none /run
        account=/var/run/secrets/kubernetes.io/serviceaccount
        mkdir -p $account
        cp \"$1\" $account/token
        cp \"$2\" $account/ca.crt
        shift 2
        exec \"$@\"";
    let cluster = Cluster::settled(&["custom.a"]);
    let url = cluster.url();
    let pass = |token: &str| {
        let mut command = std::process::Command::new("unshare");
        command
            .args(["--mount", "sh", "-ec", AS_A_POD, "sh", token])
            .args([certificate("authority.pem"), binary().display().to_string()])
            .args(["reconcile", SOURCE, "--root"])
            .arg(cluster.node.path(""))
            .env("ARMORER_BASE", cluster.node.path("base"))
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", url.rsplit(':').next().unwrap());
        Run::of(&mut command)
    };
    pass(&cluster.node.arg("token")).assert(0);
    assert_eq!(cluster.asked(), [GET]);
    cluster.node.write("another", "not-a-token\n");
    pass(&cluster.node.arg("another"))
        .assert(3)
        .line(&["401 Unauthorized"]);
}

#[test]
fn the_token_is_seen_nowhere() {
    let cluster = Cluster::settled(&["custom.a"]);
    let url = cluster.url();
    let echo = cluster.fault("token-echoed");
    let (token, ca) = (cluster.node.arg("token"), certificate("authority.pem"));
    for url in [&url, &echo] {
        for format in ["text", "json"] {
            let pass = [
                "reconcile",
                SOURCE,
                "--api-server",
                url,
                "--log-format",
                format,
            ];
            let access = [
                "--token-file",
                &token,
                "--ca-file",
                &ca,
                "--events",
                "--node-name",
                "n",
            ];
            let all = [&pass[..], &access[..]].concat();
            let run = cluster.node.run_with(&all, &[("RUST_LOG", "trace")]);
            assert!(!run.stderr().is_empty());
            run.lacks(SECRET);
        }
    }
    let files = cluster.node.files(&["token"]);
    assert!(files.len() > 20);
    for (path, (bytes, _)) in files {
        let found = String::from_utf8_lossy(&bytes).contains(SECRET);
        assert!(!found, "{}", path.display());
    }
}

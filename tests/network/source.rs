//! Profiles from the API server.

use std::collections::BTreeMap;

use serde_json::json;

use crate::cluster::{Cluster, SECRET, SOURCE, TOKEN, certificate, map, user};
use crate::node::profile;

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
    cluster.want(&["custom.a", "custom.b"]);
    cluster.node.load("custom.b", &profile("custom.b"));
    let run = cluster.reconcile(&[]).assert(0);
    assert!(run.stderr().contains("2 profiles in force"), "{run}");
    assert_eq!(cluster.asked(), [GET, GET]);
    assert_eq!(cluster.reconcile(&[]).assert(0).stdout(), "");
    assert_eq!(cluster.asked(), [GET]);
}

#[test]
fn a_deleted_map_is_an_empty_wish_only_where_that_is_allowed() {
    let cluster = Cluster::settled(&["custom.a"]);
    let gone = json!({"do": "delete", "plural": "configmaps", "namespace": "armorer",
        "name": "armorer-profiles"});
    cluster.ask(&gone);
    let pass = ["--remove-after", "0s"];
    cluster
        .reconcile(&pass)
        .fails(3, &["404", "there are no configmaps", "--allow-empty"]);
    assert_eq!(cluster.node.removed(), "");
    let pass = ["--remove-after", "0s", "--allow-empty"];
    cluster.reconcile(&pass).assert(0);
    assert_eq!(cluster.node.removed(), "custom.a");
}

#[test]
fn a_selection_is_read_in_pages_and_anew_when_its_place_is_forgotten() {
    let cluster = Cluster::start();
    for n in 0..5 {
        let name = format!("custom.{n}");
        let data = BTreeMap::from([(name.clone(), profile(&name))]);
        cluster.put("configmaps", map(&format!("map-{n}"), data));
        cluster.node.load(&name, &profile(&name));
    }
    let other = json!({"metadata": {"name": "other", "namespace": "armorer"}, "data": {"x": "y"}});
    cluster.put("configmaps", other);
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
    cluster.want(&[]);
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
fn a_client_certificate_serves_instead_of_a_token() {
    let cluster = Cluster::start();
    cluster.want(&[]);
    let (url, ca) = (cluster.url(), certificate("authority.pem"));
    let pass = |name: &str| {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        let (cert, key) = (certificate(&cert), certificate(&key));
        let access = [
            "--client-cert",
            &cert,
            "--client-key",
            &key,
            "--ca-file",
            &ca,
        ];
        let pass = [
            "reconcile",
            SOURCE,
            "--api-server",
            &url,
            "--deadline",
            "10s",
        ];
        cluster.node.run(&[&pass[..], &access[..]].concat())
    };
    pass("client").assert(0);
    assert_eq!(cluster.asked(), [GET]);
    // It is refused only after the handshake, by a connection that ends.
    pass("strange-client").fails(3, &["is the API server up"]);
}

#[test]
fn a_token_that_was_rotated_is_read_anew() {
    let cluster = Cluster::settled(&["custom.a"]);
    let rotated = TOKEN.replace("eyJhbGci", "eyJhbGcj");
    cluster.token(&rotated);
    let run = cluster
        .reconcile(&[])
        .fails(3, &["401", "does not believe the ServiceAccount"]);
    assert!(run.stderr().contains("armorer/armorer"), "{run}");
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
        let output = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-ec", AS_A_POD, "sh", token])
            .args([&certificate("authority.pem"), env!("CARGO_BIN_EXE_armorer")])
            .args(["reconcile", SOURCE, "--root"])
            .arg(cluster.node.path(""))
            .env("ARMORER_BASE", cluster.node.path("base"))
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", url.rsplit(':').next().unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = pass(&cluster.node.arg("token"));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(cluster.asked(), [GET]);
    cluster.node.write("another", "not-a-token\n");
    let (code, said) = pass(&cluster.node.arg("another"));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("401 Unauthorized"), "{said}");
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
            let all = [&pass[..], &access[..], &["--termination-log", "reason"]].concat();
            let run = cluster.node.run_with(&all, &[("RUST_LOG", "trace")]);
            assert!(!run.stderr().is_empty());
            assert!(!run.to_string().contains(SECRET), "{run}");
        }
    }
    let mut files = 0;
    for entry in walkdir::WalkDir::new(cluster.node.path("")) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() && entry.file_name() != "token" {
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes
                .windows(SECRET.len())
                .any(|part| part == SECRET.as_bytes());
            assert!(!found, "{}", entry.path().display());
            files += 1;
        }
    }
    assert!(files > 20);
}

//! The cost of passes on the wire.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use harness::profile;

use crate::cluster::{Cluster, map, setting};

fn cost(requests: &[Value]) -> (usize, u64) {
    let bytes = requests.iter().map(|r| r["body_bytes"].as_u64().unwrap());
    (requests.len(), bytes.sum())
}

/// A profile of a usual size.
fn text(name: &str) -> String {
    let rule = "  /usr/share/application/data/** r,\n".repeat(80);
    profile(name).replace("  file,\n", &format!("  file,\n{rule}"))
}

#[test]
fn a_pass_costs_one_small_request_for_each_source() {
    let mut table = String::new();
    let mut note = |pass: &str, requests: &[Value]| {
        let (requests, bytes) = cost(requests);
        let _ = writeln!(table, "{pass}\t{requests}\t{bytes}");
        (requests, bytes)
    };
    let cluster = Cluster::start();
    let names: Vec<String> = (0..20).map(|n| format!("custom.{n}")).collect();
    let mut data: BTreeMap<String, String> = names.iter().map(|n| (n.clone(), text(n))).collect();
    let managed = json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": data.keys().map(|k| (format!("f:{k}"), json!({}))).collect::<BTreeMap<_, _>>()}}]);
    let put = |data: &BTreeMap<String, String>| {
        let mut map = map("armorer-profiles", data.clone());
        map["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        map["metadata"]["managedFields"] = managed.clone();
        cluster.put("configmaps", &map);
    };
    put(&data);
    for (name, text) in &data {
        cluster.node.load(name, text);
    }
    cluster.reconcile(&[]).assert(0);
    note(
        "one ConfigMap of 20 profiles, first pass",
        &cluster.requests(),
    );
    cluster.reconcile(&[]).assert(0);
    let (requests, bytes) = note("the same, nothing new", &cluster.requests());
    assert!(
        requests == 1 && bytes < 1024,
        "{requests} requests, {bytes} bytes"
    );
    let changed = text("custom.0").replace("file,", "file,\n  deny /tmp/** w,");
    cluster.node.load("custom.0", &changed);
    data.insert("custom.0".into(), changed);
    put(&data);
    cluster.reconcile(&[]).assert(0);
    let (requests, _) = note("the same, one profile changed", &cluster.requests());
    assert_eq!(requests, 2);

    let cluster = Cluster::start();
    for n in 0..200 {
        let name = format!("custom.{n}");
        let data = BTreeMap::from([(name.clone(), text(&name))]);
        cluster.put("configmaps", &map(&format!("map-{n:03}"), data));
        cluster.node.load(&name, &text(&name));
    }
    let url = cluster.url();
    let pass = [
        "reconcile",
        "configmap://armorer?selector=app%3Dprofiles",
        "--api-server",
        &url,
    ];
    cluster.run(&pass).assert(0);
    let requests = cluster.requests();
    let connections: std::collections::BTreeSet<u64> = requests
        .iter()
        .map(|r| r["connection"].as_u64().unwrap())
        .collect();
    assert_eq!(connections.len(), 1, "one connection serves the whole pass");
    note("200 ConfigMaps of one profile, first pass", &requests);
    cluster.run(&pass).assert(0);
    let (requests, bytes) = note("the same, nothing new", &cluster.requests());
    assert_eq!(requests, 1);
    assert!(bytes < 200 * 1024, "{bytes} bytes");
    let place = format!("{}/target/network/measured.tsv", setting("NETWORK_TOP"));
    std::fs::write(place, table).unwrap();
}

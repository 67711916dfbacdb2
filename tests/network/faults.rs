//! Faults between armorer and the API server: each is one line, exit code 3, and
//! no profile in force is lost.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{Cluster, SECRET, certificate, setting};

/// The fault (how far an endless body comes depends on the machine: too large, or no answer in
/// time), words of its line, and how many tries it may take (none: until the deadline).
const FAULTS: [(&str, &str, Option<u64>); 36] = [
    ("silence", "timed out", None),
    ("slow-body", "timed out", None),
    ("slow-head", "timed out", None),
    ("endless-body", "armorer-profiles: ", None),
    ("endless-head", "the server closed the connection", None),
    ("cut-before-head", "the server closed the connection", None),
    ("cut-in-head", "the server closed the connection", None),
    ("cut-in-body", "the server closed the connection", None),
    ("cut-in-chunk", "the server closed the connection", None),
    (
        "wrong-json",
        "unexpected answer at line 1 column 15",
        Some(1),
    ),
    ("deep-json", "unexpected answer", Some(1)),
    ("html", "unexpected answer", Some(1)),
    ("no-utf8", "unexpected answer", Some(1)),
    ("empty-answer", "the answer was truncated", None),
    ("null", "unexpected answer", Some(1)),
    ("other-type", "unexpected answer", Some(1)),
    ("other-object", "the answer is another object", Some(1)),
    ("other-namespace", "the answer is another object", Some(1)),
    ("no-version", "has no version", Some(1)),
    ("squeezed", "unexpected answer", Some(1)),
    (
        "redirect",
        "a redirect, which is not followed with a token",
        Some(1),
    ),
    ("429", "429 Too Many Requests", None),
    ("429-for-an-hour", "429 Too Many Requests", Some(1)),
    ("500", "500 Internal Server Error", None),
    ("503", "503 Service Unavailable", None),
    // The server's own words.
    ("401", "401 Unauthorized: Unauthorized", Some(1)),
    ("403", "403 Forbidden: configmaps is forbidden", Some(1)),
    ("404", "not found: create it", Some(1)),
    (
        "404-of-a-proxy",
        "is --api-server a Kubernetes API server?",
        Some(1),
    ),
    ("token-echoed", "gives no reason", Some(1)),
    ("ssh", "protocol", Some(1)),
    ("204", "the answer was truncated", None),
    ("terminal", "bad", Some(1)),
    ("tls-strange", "UnknownIssuer", Some(0)),
    ("tls-expired", "expired", Some(0)),
    ("tls-future", "not valid yet", Some(0)),
];

#[test]
fn each_fault_is_one_line_and_loses_nothing() {
    let cluster = Cluster::settled(&["custom.a"]);
    // No object is known, so that the whole one is asked for.
    let basis =
        |state: &mut serde_json::Value| state["sets"]["default"]["basis"]["objects"] = json!({});
    cluster.node.edit_state(basis);
    let state = cluster.node.read("var/lib/armorer/state.json");
    let (mut table, mut wrong) = (String::new(), String::new());
    let further = [
        ("tls-elsewhere", "not valid for name", Some(0)),
        ("tls-silence", "timed out", None),
        ("tls-not-spoken", "TLS: ", Some(0)),
    ];
    for (fault, words, tries) in FAULTS.into_iter().chain(further) {
        let url = cluster.fault(fault);
        // A final fault ends at once, and the others last until the deadline.
        let deadline = if tries.is_some() { "40s" } else { "4s" };
        let pass = ["--deadline", deadline, "--remove-after", "0s"];
        let run = cluster.pass(&url, &pass).fails(3, &[&url]);
        let line = run.stderr();
        let seen = cluster.ask(&json!({"do": "seen", "fault": fault}));
        let seen = seen.as_u64().unwrap();
        let tried = tries.is_none_or(|most| seen == most);
        // On a busy machine a pause can end after the deadline.
        let late = tries.is_none() && line.contains("the pass' deadline has passed");
        if !tried || !(line.contains(words) || late) || line.contains(SECRET) {
            let _ = write!(wrong, "{fault}, {seen} tries: {line}");
        }
        cluster.node.assert_untouched();
        let after = cluster.node.read("var/lib/armorer/state.json");
        assert_eq!(after, state, "{fault}");
        let line = line.split_once("error: ").unwrap().1;
        let line = line.replace(&url, "https://API");
        let _ = write!(table, "{fault}\t{seen}\t{line}");
    }
    assert_eq!(wrong, "");
    // A redirect took the token nowhere else.
    assert_eq!(cluster.requests().len(), 0);
    let place = format!("{}/target/network/faults.tsv", setting("NETWORK_TOP"));
    std::fs::write(place, table).unwrap();
    cluster.reconcile(&[]).assert(0);
}

#[test]
fn a_closed_port_and_an_unknown_host_are_one_line() {
    let cluster = Cluster::settled(&["custom.a"]);
    for (url, words) in [
        ("https://127.0.0.1:1", "refused"),
        ("https://no-such-host.invalid", "no-such-host.invalid"),
        ("http://127.0.0.1:1", "refused"),
    ] {
        cluster
            .pass(url, &["--deadline", "3s"])
            .fails(3, &[url, words]);
    }
    cluster.node.assert_untouched();
}

#[test]
fn a_file_without_certificate_or_token_is_named() {
    let cluster = Cluster::start();
    cluster.publish(&[]);
    cluster.node.write(
        "bad.pem",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    );
    cluster.node.write("empty", "");
    let (url, ca) = (cluster.url(), certificate("authority.pem"));
    let (token, bad, empty) = (
        cluster.node.arg("token"),
        cluster.node.arg("bad.pem"),
        cluster.node.arg("empty"),
    );
    for (token, ca, words) in [
        (&token, &bad, "bad.pem holds no certificate"),
        (&token, &token, "token holds no certificate"),
        (&token, &"/nowhere".to_owned(), "/nowhere cannot be read"),
        (&empty, &ca, "empty holds no token"),
        (&"/nowhere".to_owned(), &ca, "/nowhere cannot be read"),
    ] {
        let pass = ["reconcile", crate::cluster::SOURCE, "--api-server", &url];
        let access = ["--token-file", token, "--ca-file", ca];
        cluster
            .node
            .run(&[&pass[..], &access[..]].concat())
            .fails(3, &[words]);
    }
    assert_eq!(cluster.requests().len(), 0);
}

#[test]
fn a_server_that_asks_for_patience_is_given_it() {
    let cluster = Cluster::settled(&["custom.a"]);
    let url = cluster.fault("429");
    let started = Instant::now();
    cluster.pass(&url, &["--deadline", "4s"]).assert(3);
    let seen = cluster
        .ask(&json!({"do": "seen", "fault": "429"}))
        .as_u64()
        .unwrap();
    // Retry-After says one second, and the deadline is four.
    assert!((1..=4).contains(&seen), "{seen} tries");
    assert!(started.elapsed() >= Duration::from_secs(1));
}

//! One word for each outcome, in text, JSON, log, metrics and the reference.

use std::collections::BTreeSet;

use harness::{Node, profile};

/// Kind and sign, as the program prints them.
const KINDS: [(&str, char); 10] = [
    ("load", '+'),
    ("replace", '~'),
    ("own", '='),
    ("remove", '-'),
    ("deferred", '…'),
    ("blocked", '!'),
    ("conflict", '!'),
    ("contested", '!'),
    ("refused", '✗'),
    ("failed", '✗'),
];

/// A node whose next pass has, with these arguments, an outcome of each kind.
fn every_kind() -> Node {
    let names = [
        "custom.contested",
        "custom.deferred",
        "custom.remove",
        "custom.replace",
    ];
    let node = Node::settled(&names);
    node.edit_state(|state| {
        let repair = serde_json::json!({"at": "2026-01-01T00:00:00Z", "uptime": 1_u64 << 40});
        state["sets"]["default"]["profiles"]["custom.contested"]["repairs"] =
            serde_json::json!([repair, repair, repair]);
    });
    node.unload("custom.contested");
    node.take_out("custom.deferred");
    node.process(77, "sleep", "custom.deferred (enforce)");
    node.take_out("custom.remove");
    node.put("custom.replace", "profile custom.replace {\n}\n");
    node.put("custom.load", profile("custom.load"));
    node.put_loaded("custom.own", &profile("custom.own"));
    node.put("custom.conflict", profile("custom.conflict"));
    node.load("custom.conflict", "profile custom.conflict {\n}\n");
    node.put("custom.refused", "bogus");
    node
}

/// The first words of the outcomes in `text`.
fn kinds(text: &str) -> BTreeSet<(String, char)> {
    let lines = text.lines().filter_map(|line| {
        let (sign, rest) = line.split_once(' ')?;
        let mut signs = sign.chars();
        let sign = signs
            .next()
            .filter(|sign| !sign.is_alphanumeric() && signs.next().is_none())?;
        Some((rest.split_whitespace().next()?.to_owned(), sign))
    });
    lines.collect()
}

#[test]
fn text_json_log_and_metrics_use_the_same_words() {
    let node = every_kind();
    let now = ["--remove-after", "0s", "--metrics-file", "/metrics.prom"];
    let plan = |more: &[&str]| node.plan(&[&now[..], more].concat()).assert(1);
    let printed = kinds(plan(&[]).stdout());
    let document = plan(&["--output", "json"]).json();
    let outcomes = document["outcomes"].as_array().unwrap();
    let in_json: BTreeSet<&str> = outcomes
        .iter()
        .map(|outcome| outcome["kind"].as_str().unwrap())
        .collect();
    let words: BTreeSet<&str> = printed.iter().map(|(word, _)| &**word).collect();
    assert_eq!(words, in_json);
    // The pass itself fails at some of them, since the folder is no kernel.
    let run = node
        .reconcile(&[&now[..], &["--log-format", "json"]].concat())
        .assert(1);
    let events = run.events();
    let logged: BTreeSet<&str> = events
        .iter()
        .map(|event| event["action"].as_str().unwrap())
        .collect();
    assert!(words.is_subset(&logged), "{words:?} {logged:?}");
    for word in logged.iter().filter(|word| **word != "pass") {
        assert!(KINDS.iter().any(|(kind, _)| kind == word), "{word}");
    }
    node.remove("proc/77");
    node.remove("proc/1");
    let blocked = kinds(plan(&[]).stdout());
    let seen: BTreeSet<_> = printed.into_iter().chain(blocked).collect();
    let known = KINDS.map(|(kind, sign)| (kind.to_owned(), sign));
    let seen: BTreeSet<_> = seen
        .into_iter()
        .chain([("failed".to_owned(), '✗')])
        .collect();
    assert_eq!(seen, known.into());
    let metrics = node.read("metrics.prom");
    for (kind, _) in KINDS.iter().skip(4) {
        let state = format!("state=\"{kind}\"");
        assert!(metrics.contains(&state), "{state} is not in: {metrics}");
    }
}

/// The reference's list of the kinds that a plan prints.
#[test]
fn the_reference_lists_each_kind_with_its_sign() {
    let page = include_str!("../../docs/reference.md");
    let start = page
        .find("A line of a plan begins with")
        .expect("the reference names the kinds of outcomes");
    let list = page[start..].split("\n\n").next().unwrap();
    let listed: BTreeSet<(String, char)> =
        list.split('`').skip(1).step_by(2).flat_map(kinds).collect();
    assert_eq!(
        listed,
        KINDS.map(|(kind, sign)| (kind.to_owned(), sign)).into()
    );
}

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::tests::name;

/// The sample of schema 1, with every field that a state can have.
const SAMPLE: &str = include_str!("../../tests/state/schema-1.json");

fn sample() -> State {
    State::parse(SAMPLE.as_bytes()).unwrap()
}

#[test]
fn the_committed_sample_of_schema_1_is_read() {
    let state = sample();
    let set = &state.sets["default"];
    let record = &set.profiles[&name("custom.deny-network")];
    assert_eq!(record.mode(), Mode::Enforce);
    assert_eq!(record.repairs.len(), 1);
    assert_eq!(set.sources.len(), 2);
    assert_eq!((set.counters.loads, set.counters.repairs), (2, 1));
    assert_eq!(set.basis.kernel_revision, Some(42));
    assert_eq!(set.basis.includes["abstractions/base.d"], None);
    let pending = |name: &str| set.owned[name].pending;
    let policy = set.owned["custom.new"].policy;
    assert_eq!(pending("custom.new"), Some(Pending::Load(policy)));
    assert_eq!(
        pending("custom.deny-network//child"),
        Some(Pending::Replace(policy))
    );
    assert_eq!(pending("custom.old"), Some(Pending::Remove));
    let clock = set.owned["custom.old"].unwanted.unwrap();
    let uptimes = [
        Some(clock.since),
        clock.last_seen_in_use,
        clock.put_off_since,
    ];
    assert_eq!(uptimes.map(|stamp| stamp.unwrap().uptime), [100, 160, 220]);
    let problem = &set.problems["custom.bad"];
    assert_eq!(problem.kind, Kind::Refused);
    assert_eq!(problem.reason.as_deref(), Some("compile"));
    assert_eq!(set.basis.objects.len(), 1);
    assert_eq!(state.sets["web"], Set::default());
}

#[test]
fn a_state_is_written_as_it_was_read() {
    let state = sample();
    assert_eq!(State::parse(&state.to_json()).unwrap(), state);
    // No field of the sample is passed over, and none is left out when it is written.
    let mut read: Value = serde_json::from_str(SAMPLE).unwrap();
    let mut written: Value = serde_json::from_slice(&state.to_json()).unwrap();
    for state in [&mut read, &mut written] {
        state["sets"].as_object_mut().unwrap().remove("web");
    }
    assert_eq!(written, read);
}

/// The names of the fields in `value`, at any depth, without which `whole` is not read.
fn required(whole: &Value, place: &str, found: &mut BTreeSet<String>) {
    let value = whole.pointer(place).unwrap();
    let keys: Vec<String> = match value {
        Value::Object(fields) => fields.keys().cloned().collect(),
        Value::Array(elements) => (0..elements.len()).map(|n| n.to_string()).collect(),
        _ => return,
    };
    for key in keys {
        let below = format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
        required(whole, &below, found);
        let mut without = whole.clone();
        if let Value::Object(fields) = without.pointer_mut(place).unwrap() {
            fields.remove(&key);
            if State::parse(without.to_string().as_bytes()).is_err() {
                found.insert(key);
            }
        }
    }
}

/// A field added later must not be required: states without it are on the disks of nodes.
#[test]
fn every_other_field_may_be_missing() {
    let mut found = BTreeSet::new();
    required(&serde_json::from_str(SAMPLE).unwrap(), "", &mut found);
    let expected = [
        "at",
        "class",
        "key",
        "kind",
        "load",
        "members",
        "message",
        "mode",
        "name",
        "own",
        "policy",
        "profile",
        "replace",
        "resource_version",
        "schema",
        "since",
        "source",
        "text",
        "texts",
        "uid",
        "uptime",
        "version",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
}

#[test]
fn a_newer_schema_is_refused_with_the_way_out() {
    for text in [
        r#"{"schema": 2, "other": []}"#,
        r#"{"schema": 2, "sets": []}"#,
    ] {
        let error = State::parse(text.as_bytes()).unwrap_err().to_string();
        for word in ["schema 2", "newer armorer", "state.json"] {
            assert!(error.contains(word), "{error}");
        }
    }
}

#[test]
fn a_damaged_state_is_refused_with_the_way_out() {
    for text in [
        "",
        "{",
        "[]",
        r#"{"schema":1,"sets":{"x":{"profiles":{"../x":{}}}}}"#,
        r#"{"schema":1,"sets":{"x":{"problems":{"y":{"kind":"other","message":"","since":"2026-11-24T05:59:59Z"}}}}}"#,
    ] {
        let error = State::parse(text.as_bytes()).unwrap_err().to_string();
        for word in ["state.json", "--adopt"] {
            assert!(error.contains(word), "{error}");
        }
    }
}

#[test]
fn a_boot_ends_loads_and_counts_and_keeps_the_versions() {
    let mut state = sample();
    let before = state.clone();
    state.enter_boot(&before.boot_id.clone().unwrap());
    assert_eq!(state, before);
    state.enter_boot("another");
    let (set, old) = (&state.sets["default"], &before.sets["default"]);
    assert!(set.owned.is_empty() && set.unloaded.is_empty());
    assert_eq!(set.basis.kernel_revision, None);
    assert_eq!(set.counters, Counters::default());
    assert_eq!(set.in_force().count(), 0);
    assert_eq!((&set.sources, &set.problems), (&old.sources, &old.problems));
    assert_eq!(set.basis.objects, old.basis.objects);
    assert_eq!(set.copies, old.copies);
    // Nothing is left that counts in uptime.
    assert!(
        !String::from_utf8(state.to_json())
            .unwrap()
            .contains("uptime")
    );
    for (name, record) in &set.profiles {
        let old = Record {
            loaded_at: None,
            repairs: Vec::new(),
            ..old.profiles[name].clone()
        };
        assert_eq!(*record, old);
    }
}

#[test]
fn a_set_names_all_that_lies_in_the_store() {
    let state = sample();
    let stored: BTreeSet<Digest> = state.sets["default"].stored().collect();
    let mut expected = BTreeSet::new();
    for record in state.sets["default"].profiles.values() {
        expected.extend([record.text, record.policy]);
    }
    for object in state.sets["default"].basis.objects.values() {
        expected.extend(object.texts.values());
    }
    assert_eq!(stored, expected);
}

#[test]
fn a_child_stands_alone_only_without_its_parent() {
    let mut set = sample().sets.remove("default").unwrap();
    assert!(set.stands_alone("custom.deny-network"));
    assert!(!set.stands_alone("custom.deny-network//child"));
    set.owned.remove("custom.deny-network");
    assert!(set.stands_alone("custom.deny-network//child"));
}

#[test]
fn a_name_is_owned_by_one_set() {
    let state = sample();
    assert_eq!(state.owner_besides("web", "custom.old"), Some("default"));
    assert_eq!(state.owner_besides("default", "custom.old"), None);
    assert_eq!(state.owner_besides("web", "custom.none"), None);
}

use std::collections::BTreeSet;

use super::*;
use crate::error::Error;
use crate::report::status::Processes;
use crate::report::tests::{report, sample};
use crate::state::State;
use crate::time::{Stamp, Time};

fn stamp(uptime: u64) -> Stamp {
    Stamp {
        at: Time(1_700_000_000 + uptime),
        uptime,
    }
}

fn status(set: Set) -> Status {
    let took = Duration::from_millis(1250);
    let result = Ok(report(Vec::new(), set));
    let mut status = Status::default();
    status.end_pass(stamp(1000), took, true, &result);
    status
}

#[test]
fn every_sample_of_a_set() {
    let set = sample();
    let mut status = status(set.clone());
    status.processes = Some(Processes {
        counted: stamp(990),
        by_profile: BTreeMap::from([("custom.deny-network".into(), 2)]),
    });
    let text = render("default", Some(&set), &status);
    let version = concat!(
        "armorer_build_info{set=\"default\",version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1"
    );
    let expected = [
        version,
        r#"armorer_last_pass_timestamp_seconds{set="default"} 1700001000"#,
        r#"armorer_last_pass_exit_code{set="default"} 1"#,
        r#"armorer_last_pass_duration_seconds{set="default"} 1.25"#,
        r#"armorer_last_converged_timestamp_seconds{set="default"} 0"#,
        r#"armorer_kernel_enforcing{set="default"} 1"#,
        r#"armorer_passes_total{set="default",result="converged"} 0"#,
        r#"armorer_passes_total{set="default",result="incomplete"} 1"#,
        r#"armorer_passes_total{set="default",result="failed"} 0"#,
        r#"armorer_kernel_operations_total{set="default",operation="load"} 2"#,
        r#"armorer_kernel_operations_total{set="default",operation="replace"} 1"#,
        r#"armorer_kernel_operations_total{set="default",operation="remove"} 0"#,
        r#"armorer_kernel_failures_total{set="default"} 0"#,
        r#"armorer_drift_repairs_total{set="default"} 1"#,
        r#"armorer_profiles{set="default",state="blocked"} 0"#,
        r#"armorer_profiles{set="default",state="conflict"} 1"#,
        r#"armorer_profiles{set="default",state="contested"} 0"#,
        r#"armorer_profiles{set="default",state="deferred"} 1"#,
        r#"armorer_profiles{set="default",state="failed"} 0"#,
        r#"armorer_profiles{set="default",state="in_force"} 2"#,
        r#"armorer_profiles{set="default",state="missing"} 0"#,
        r#"armorer_profiles{set="default",state="refused"} 1"#,
        r#"armorer_profile_info{set="default",profile="custom.deny-network",mode="enforce",digest="ba7816bf8f01"} 1"#,
        r#"armorer_unenforced_rules{set="default",profile="custom.deny-network",class="userns"} 1"#,
        r#"armorer_profile_problem_timestamp_seconds{set="default",profile="custom.bad",kind="refused"} 1795499999"#,
        r#"armorer_profile_problem_timestamp_seconds{set="default",profile="custom.theirs",kind="conflict"} 1795499999"#,
        r#"armorer_removal_deferred_timestamp_seconds{set="default",profile="custom.old"} 1795499999"#,
        r#"armorer_processes_confined{set="default",profile="custom.deny-network"} 2"#,
        r#"armorer_processes_confined{set="default",profile="custom.new"} 0"#,
        r#"armorer_processes_confined{set="default",profile="custom.old"} 0"#,
        r#"armorer_processes_counted_timestamp_seconds{set="default"} 1700000990"#,
    ];
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(samples, expected);
}

#[test]
fn each_family_has_help_and_type_once_and_before_its_samples() {
    let set = sample();
    let text = render("default", Some(&set), &status(set.clone()));
    let mut family = String::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(family.clone()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let counter = family.ends_with("_total");
            let kind = if counter { "counter" } else { "gauge" };
            assert_eq!(rest, format!("{family} {kind}"));
        } else {
            assert_eq!(line.split('{').next(), Some(&*family));
        }
    }
}

#[test]
fn a_pass_without_a_readable_state_has_no_samples_of_profiles() {
    let result = Err(Error::State("damaged".into()));
    let mut status = Status::default();
    status.end_pass(stamp(5), Duration::ZERO, true, &result);
    let text = render("default", None, &status);
    assert!(text.contains("armorer_last_pass_exit_code{set=\"default\"} 3\n"));
    assert!(text.contains("armorer_passes_total{set=\"default\",result=\"failed\"} 1\n"));
    assert!(!text.contains("armorer_profile"), "{text}");
}

#[test]
fn a_profile_that_is_not_loaded_since_boot_is_missing() {
    let mut state = State::default();
    state.sets.insert("default".into(), sample());
    state.enter_boot("another");
    let set = state.sets.remove("default").unwrap();
    assert_eq!(state_of(&set, "custom.deny-network"), "missing");
    let text = render("default", Some(&set), &status(set.clone()));
    assert!(!text.contains("armorer_profile_info{"), "{text}");
}

#[test]
fn names_stay_one_clean_value_and_apart() {
    assert_eq!(escaped("custom.a"), "custom.a");
    assert_eq!(escaped("a\"} 1\nb{c=\""), "a\\\"} 1\\\\u{a}b{c=\\\"");
    assert_eq!(escaped("\u{1b}[2J"), "\\\\u{1b}[2J");
    let alike = [
        "a\n",
        "a\t",
        "a ",
        "a",
        "a\\n",
        "a\\u{a}",
        "a\\",
        "\u{202e}a",
    ];
    let values: BTreeSet<String> = alike.iter().map(|name| escaped(name)).collect();
    assert_eq!(values.len(), alike.len());
    for value in values {
        assert!(!value.contains(char::is_control), "{value:?}");
    }
}

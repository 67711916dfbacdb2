use super::*;
use crate::confined::Confined;
use crate::error::{Error, Exit};
use crate::report::Report;
use crate::state::State;

fn sample() -> Set {
    let mut state = State::parse(include_bytes!("../../../tests/state/schema-1.json")).unwrap();
    state.sets.remove("default").unwrap()
}

fn heartbeat(set: Set) -> Heartbeat {
    let report = Report {
        exit: Exit::Incomplete,
        ..Report::unchanged(set)
    };
    let took = Duration::from_millis(1250);
    Heartbeat::after(None, stamp(1000), "boot".into(), took, &Ok(report))
}

fn stamp(uptime: u64) -> Stamp {
    Stamp {
        at: crate::clock::Time(1_700_000_000 + uptime),
        uptime,
    }
}

fn scan(labels: &[&str]) -> Scan {
    let processes = labels.iter().zip(1..).map(|(label, pid)| Confined {
        pid,
        comm: "sleep".into(),
        label: (*label).into(),
    });
    Scan {
        processes: processes.collect(),
        ..Scan::default()
    }
}

/// The samples, without help and types.
fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn every_sample_of_a_set() {
    let set = sample();
    let mut heartbeat = heartbeat(set.clone());
    let labels = [
        "custom.deny-network (enforce)",
        "custom.deny-network//child (complain)",
        "docker-default (enforce)",
    ];
    heartbeat.processes = count(&scan(&labels), &set, stamp(990));
    let text = render("default", Some(&set), &heartbeat);
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
        r#"armorer_passes_total{set="default",result="converged"} 0"#,
        r#"armorer_passes_total{set="default",result="incomplete"} 1"#,
        r#"armorer_passes_total{set="default",result="failed"} 0"#,
        r#"armorer_kernel_operations_total{set="default",operation="load"} 2"#,
        r#"armorer_kernel_operations_total{set="default",operation="replace"} 1"#,
        r#"armorer_kernel_operations_total{set="default",operation="remove"} 0"#,
        r#"armorer_kernel_failures_total{set="default"} 0"#,
        r#"armorer_drift_repairs_total{set="default"} 0"#,
        r#"armorer_profiles{set="default",state="in_force"} 1"#,
        r#"armorer_profiles{set="default",state="refused"} 1"#,
        r#"armorer_profiles{set="default",state="conflict"} 0"#,
        r#"armorer_profiles{set="default",state="contested"} 0"#,
        r#"armorer_profiles{set="default",state="failed"} 0"#,
        r#"armorer_profiles{set="default",state="kept"} 0"#,
        r#"armorer_profiles{set="default",state="deferred"} 1"#,
        r#"armorer_profiles{set="default",state="missing"} 0"#,
        r#"armorer_profile_info{set="default",profile="custom.deny-network",mode="enforce",digest="ba7816bf8f01cfea"} 1"#,
        r#"armorer_profile_problem_timestamp_seconds{set="default",profile="custom.bad",kind="refused"} 1795499999"#,
        r#"armorer_removal_deferred_timestamp_seconds{set="default",profile="custom.old"} 1795499999"#,
        r#"armorer_processes_confined{set="default",profile="custom.deny-network"} 2"#,
        r#"armorer_processes_confined{set="default",profile="custom.old"} 0"#,
        r#"armorer_processes_counted_timestamp_seconds{set="default"} 1700000990"#,
    ];
    assert_eq!(samples(&text), expected);
}

#[test]
fn each_family_has_help_and_type_once_and_before_its_samples() {
    let set = sample();
    let text = render("default", Some(&set), &heartbeat(set.clone()));
    let mut family = String::new();
    let mut seen = std::collections::BTreeSet::new();
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
fn a_failed_pass_without_a_readable_state_says_nothing_of_profiles() {
    let result = Err(Error::State("damaged".into()));
    let heartbeat = Heartbeat::after(None, stamp(5), "boot".into(), Duration::ZERO, &result);
    let text = render("default", None, &heartbeat);
    assert!(text.contains("armorer_last_pass_exit_code{set=\"default\"} 3\n"));
    assert!(text.contains("armorer_passes_total{set=\"default\",result=\"failed\"} 1\n"));
    assert!(!text.contains("armorer_profiles"), "{text}");
}

#[test]
fn after_a_boot_what_is_not_loaded_yet_is_missing() {
    let mut state = State::default();
    state.sets.insert("default".into(), sample());
    state.enter_boot("another");
    let set = state.sets.remove("default").unwrap();
    assert_eq!(state_of(&set, "custom.deny-network"), "missing");
    let text = render("default", Some(&set), &heartbeat(set.clone()));
    assert!(!text.contains("armorer_profile_info{"), "{text}");
}

fn escaped(value: &str) -> String {
    let mut out = String::new();
    push_escaped(&mut out, value);
    out
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
    let values: std::collections::BTreeSet<String> =
        alike.iter().map(|name| escaped(name)).collect();
    assert_eq!(values.len(), alike.len());
    for value in values {
        assert!(!value.contains(|c: char| c.is_control()), "{value:?}");
    }
}

#[test]
fn processes_are_counted_after_a_change_and_every_five_minutes() {
    let mut heartbeat = heartbeat(sample());
    assert!(wants_count(&heartbeat, stamp(1000), false), "never counted");
    heartbeat.processes = count(&scan(&[]), &sample(), stamp(1000));
    assert!(!wants_count(&heartbeat, stamp(1299), false));
    assert!(wants_count(&heartbeat, stamp(1300), false));
    assert!(wants_count(&heartbeat, stamp(1001), true));
}

#[test]
fn who_was_not_seen_is_not_counted() {
    let mut scan = scan(&["custom.deny-network (enforce)"]);
    assert_eq!(
        count(&scan, &sample(), stamp(1)).unwrap().by_profile.len(),
        1
    );
    scan.incomplete = Some("hidepid".into());
    assert_eq!(count(&scan, &sample(), stamp(1)), None);
}

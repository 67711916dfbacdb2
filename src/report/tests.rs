use super::*;
use crate::state::{Problem, State};
use crate::time::Time;

pub(super) fn sample() -> Set {
    let state = State::parse(include_bytes!("../../tests/state/schema-1.json")).unwrap();
    state.sets["default"].clone()
}

pub(super) fn report(outcomes: Vec<Outcome>, set: Set) -> Report {
    Report {
        outcomes,
        in_force: set.in_force().map(|(name, _)| name.to_string()).collect(),
        exit: match set.problems.is_empty() {
            true => Exit::Converged,
            false => Exit::Incomplete,
        },
        remarks: Vec::new(),
        enforcing: true,
        set,
        saved: None,
    }
}

/// A set with one problem of each of `kinds`.
fn with_problems(kinds: &[Kind]) -> Set {
    let mut set = Set::default();
    for kind in kinds {
        let problem = Problem::new(*kind, "why", Time(0));
        set.problems.insert(format!("custom.{kind}"), problem);
    }
    set
}

#[test]
fn a_plan_ends_with_its_total() {
    let text = |kinds: &[Kind]| {
        let outcomes = kinds
            .iter()
            .map(|kind| Outcome::new("custom.a", *kind, "why"));
        report(outcomes.collect(), Set::default()).to_text()
    };
    assert_eq!(text(&[]), "nothing to do\n");
    let kinds = [
        Kind::Refused,
        Kind::Load,
        Kind::Deferred,
        Kind::Load,
        Kind::Remove,
    ];
    let text = text(&kinds);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "+ load      custom.a: why");
    assert_eq!(lines.len(), kinds.len() + 1);
    let total = "2 to load, 1 to remove, 1 deferred, 1 refused";
    assert_eq!(lines.last(), Some(&total));
}

#[test]
fn the_document_holds_all_of_a_report() {
    let mut refused = Outcome::new("custom.a", Kind::Refused, "line 3: no");
    refused.reason = Some("compile".into());
    let mut set = with_problems(&[Kind::Refused]);
    set.profiles = sample().profiles;
    let mut report = report(vec![refused], set);
    report.remarks.push("the source /p holds no profile".into());
    let document: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    let expected = serde_json::json!({
        "schema": 1,
        "result": "not converged",
        "exit": 1,
        "in_force": 1,
        "outcomes": [{
            "profile": "custom.a",
            "kind": "refused",
            "severity": "problem",
            "message": "line 3: no",
            "reason": "compile",
        }],
        "remarks": ["the source /p holds no profile"],
        "unenforced": {
            "custom.deny-network": [
                {"class": "userns", "own": true, "message": "userns is not enforced"},
            ],
        },
    });
    assert_eq!(document, expected);
}

#[test]
fn the_last_line_names_three_problems_and_counts_the_others() {
    let kinds = [Kind::Blocked, Kind::Conflict, Kind::Failed, Kind::Refused];
    let mut report = report(Vec::new(), with_problems(&kinds[..1]));
    let line = report.to_string();
    assert!(line.ends_with("problems: custom.blocked blocked"), "{line}");
    report.set = with_problems(&kinds);
    report.remarks.push("a remark".into());
    let line = report.to_string();
    assert!(
        line.ends_with(", custom.failed failed, 1 more; a remark"),
        "{line}"
    );
}

#[test]
fn readiness_fails_only_for_the_nodes_faults() {
    for kind in Kind::problems() {
        let report = report(Vec::new(), with_problems(&[kind]));
        let expected = !matches!(kind, Kind::Failed | Kind::Contested);
        assert_eq!(report.is_ready(), expected, "{kind}");
        assert!(!report.is_clean());
        assert_eq!(report.state(), kind.word());
    }
    let mut report = report(Vec::new(), Set::default());
    assert!(report.is_ready() && report.is_clean());
    assert_eq!(report.state(), "converged");
    report.enforcing = false;
    assert!(report.is_ready() && !report.is_clean());
    assert_eq!(report.state(), "not-enforcing");
}

#[test]
fn the_state_is_the_worst_problem() {
    let set = with_problems(&[Kind::Failed, Kind::Blocked, Kind::Refused]);
    assert_eq!(report(Vec::new(), set).state(), "failed");
}

#[test]
fn the_fingerprint_follows_names_and_texts_in_force() {
    let set = sample();
    let first = report(Vec::new(), set.clone()).fingerprint();
    assert_eq!(first.len(), 12);
    // The node's compiler and clock do not count.
    let mut other = set.clone();
    for record in other.profiles.values_mut() {
        record.policy = Digest::of(b"another compiler");
        record.loaded_at = Some(Time(7));
    }
    assert_eq!(report(Vec::new(), other).fingerprint(), first);
    let mut changed = set.clone();
    for record in changed.profiles.values_mut() {
        record.text = Digest::of(b"another text");
    }
    assert_ne!(report(Vec::new(), changed).fingerprint(), first);
    let mut unloaded = set;
    for record in unloaded.profiles.values_mut() {
        record.loaded_at = None;
    }
    assert_ne!(report(Vec::new(), unloaded).fingerprint(), first);
}

#[test]
fn shown_names_are_desired_owned_or_problems_without_children() {
    let set = sample();
    let expected = [
        "custom.bad",
        "custom.deny-network",
        "custom.new",
        "custom.old",
        "custom.theirs",
    ];
    assert!(names(&set).into_iter().eq(expected));
}

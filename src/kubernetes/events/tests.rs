use super::*;
use crate::error::Exit;

#[expect(clippy::unnecessary_wraps, reason = "as a pass gives it")]
fn report(changes: Vec<Change>) -> Result<Report, Error> {
    Ok(Report {
        changes,
        problems: BTreeMap::new(),
        deferred: 0,
        in_force: 0,
        quiet: false,
        exit: Exit::Converged,
        remark: None,
        set: crate::state::Set::default(),
    })
}

fn change(profile: &str, verb: Verb, reason: &str) -> Change {
    Change::new(profile, verb, reason)
}

fn at(uptime: u64) -> Stamp {
    Stamp {
        at: Time(1_800_000_000 + uptime),
        uptime,
    }
}

/// What would be told of `result` at `uptime`, as if all of it arrived.
fn told(ledger: &mut Ledger, result: &Result<Report, Error>, uptime: u64) -> Vec<(String, u32)> {
    let now = at(uptime);
    let facts = facts(result, "default");
    let due = due(&facts, ledger, now);
    ledger.age(&facts, now);
    due.into_iter()
        .map(|(fact, telling)| {
            let (name, count) = match telling {
                Telling::New => (format!("event-{uptime}"), 1),
                Telling::Again(name, count) => (name, count),
            };
            let sent = sent(&name, count, &fact, now);
            ledger.sent.insert(fact.key.clone(), sent);
            (fact.reason.to_owned(), count)
        })
        .collect()
}

fn one(reason: &str, count: u32) -> Vec<(String, u32)> {
    vec![(reason.to_owned(), count)]
}

#[test]
fn what_is_done_again_is_counted_up() {
    let mut ledger = Ledger::default();
    let mut repair = change("custom.a", Verb::Load, "removed by somebody else");
    repair.repair = true;
    let repaired = report(vec![repair]);
    assert_eq!(told(&mut ledger, &repaired, 0), one("ProfileRepaired", 1));
    assert_eq!(told(&mut ledger, &repaired, 30), one("ProfileRepaired", 2));
    assert_eq!(told(&mut ledger, &report(vec![]), 60), []);
    assert_eq!(told(&mut ledger, &repaired, 90), one("ProfileRepaired", 3));
    // After an hour the API server has forgotten it, and so have we.
    assert_eq!(
        told(&mut ledger, &repaired, 4000),
        one("ProfileRepaired", 1)
    );
}

#[test]
fn what_stands_is_told_again_every_half_hour_only() {
    let mut ledger = Ledger::default();
    let refused = report(vec![change(
        "custom.a",
        Verb::Refuse,
        "line 1: syntax error",
    )]);
    assert_eq!(told(&mut ledger, &refused, 0), one("ProfileRefused", 1));
    for uptime in (30..1800).step_by(30) {
        assert_eq!(told(&mut ledger, &refused, uptime), [], "{uptime}");
    }
    assert_eq!(told(&mut ledger, &refused, 1800), one("ProfileRefused", 2));
    // Another reason is another event, and so is the same one that went away and came back.
    let other = report(vec![change(
        "custom.a",
        Verb::Refuse,
        "line 2: syntax error",
    )]);
    assert_eq!(told(&mut ledger, &other, 1830), one("ProfileRefused", 1));
    assert_eq!(told(&mut ledger, &refused, 1860), one("ProfileRefused", 3));
}

#[test]
fn a_deferral_that_counts_down_is_one_event() {
    let mut ledger = Ledger::default();
    let deferred = |left: &str| report(vec![change("custom.a", Verb::Defer, left)]);
    let first = told(&mut ledger, &deferred("due in 15m"), 0);
    assert_eq!(first, one("RemovalDeferred", 1));
    assert_eq!(told(&mut ledger, &deferred("due in 14m"), 60), []);
}

#[test]
fn a_pass_never_tells_more_than_25_and_problems_come_first() {
    let mut ledger = Ledger::default();
    let loads = (0..40).map(|n| change(&format!("custom.{n}"), Verb::Load, "new"));
    let bad = change("custom.z", Verb::Conflict, "somebody else's");
    let result = report(loads.chain([bad]).collect());
    let events = told(&mut ledger, &result, 0);
    assert_eq!(events.len(), 25);
    assert_eq!(events[0].0, "ProfileConflict");
    assert_eq!(events[24].0, "MoreChanges");
    // What stands and did not fit comes with the next passes.
    let refused = (0..40).map(|n| change(&format!("custom.{n}"), Verb::Refuse, "bad"));
    let result = report(refused.collect());
    let counts: Vec<usize> = (1..5)
        .map(|n| {
            let events = told(&mut ledger, &result, n * 30);
            events
                .iter()
                .filter(|(why, _)| why == "ProfileRefused")
                .count()
        })
        .collect();
    assert_eq!(counts, [24, 16, 0, 0]);
}

#[test]
fn an_event_is_as_the_api_wants_it() {
    let teller = Teller {
        node: "node-1",
        instance: &"i".repeat(200),
        set: "default",
    };
    let long = "ä".repeat(2000);
    let facts = facts(
        &report(vec![change("custom.a", Verb::Refuse, &long)]),
        "default",
    );
    let event = event(&teller, &facts[0], at(7));
    let text = |key: &str| event[key].as_str().unwrap().to_owned();
    assert_eq!(text("eventTime"), "2027-01-15T08:00:07.000000Z");
    assert_eq!(text("type"), "Warning");
    assert_eq!(text("reason"), "ProfileRefused");
    assert_eq!(text("action"), "Compile");
    assert!(text("note").len() <= 1024);
    assert!(text("note").starts_with("custom.a: ää"));
    assert_eq!(text("reportingInstance").len(), 128);
    assert_eq!(event["regarding"]["uid"], "node-1");
    let name = event["metadata"]["name"].as_str().unwrap();
    assert!(super::super::encoding::is_dns(name), "{name}");
}

#[test]
fn a_pass_that_could_not_run_is_told_too() {
    let failed = Err(Error::Source("profiles does not exist".into()));
    let facts = facts(&failed, "default");
    assert_eq!(facts[0].reason, "PassFailed");
    assert_eq!(facts[0].note, "profiles does not exist");
}

#[test]
fn taking_something_as_ours_is_no_event() {
    assert_eq!(
        facts(&report(vec![change("a", Verb::Own, "found")]), "x"),
        []
    );
}

//! `restore` after a boot, killed at each of its system calls and with each of its writes failing.

use std::collections::BTreeSet;

use crate::folder::Native;
use crate::sweep::{InForce, Node as _, all, chosen, day, faults, kills, state_reads};
use crate::trace::{At, Deed, Trace};

/// The result of an undisturbed `restore`, and of the pass after it.
struct Expected {
    restored: InForce,
    settled: InForce,
    files: BTreeSet<String>,
}

#[test]
fn a_restore_disturbed_at_each_call_is_finished_by_the_next_or_by_a_pass() {
    let native = Native::new(0, false);
    assert_eq!(native.pass(None).ended, 0);
    native.boot();
    native.begin_here();
    let booted = native.in_force();

    let restore = native.restore(None);
    assert_eq!(restore.ended, 0, "{}", restore.log);
    let restored = native.in_force();
    assert!(restored.len() >= booted.len() + 5, "{:?}", restored.keys());
    assert_eq!(native.pass(None).ended, 0);
    assert_eq!(native.other_pass().ended, 0);
    let expected = Expected {
        restored,
        settled: native.in_force(),
        files: native.files(),
    };
    let kills = chosen(&restore.calls, kills(&restore.calls), 25);
    let faults = faults(&restore.calls);
    let loads = restore.calls.iter().filter(|call| call.writes()).count();
    assert!(loads >= 5, "it makes {loads} writing calls");
    let mut wrong = Vec::new();
    let share = |n: &usize| all() || (n + day()).is_multiple_of(3);
    let points = kills.iter().chain(&faults).enumerate();
    let points: Vec<_> = points.filter(|(n, _)| share(n)).collect();
    for &(n, (at, call)) in &points {
        native.reset();
        let disturbed = native.restore(Some(*at));
        let why = ended_well(&disturbed, *at, &native, &expected)
            .or_else(|| state_reads(&native))
            .or_else(|| goes_on(n, &native, &expected));
        wrong.extend(why.map(|why| {
            let (ended, log) = (disturbed.ended, disturbed.log.trim());
            format!(
                "call {} {call}: {why}; it ended with {ended}: {log}",
                at.number
            )
        }));
    }
    println!(
        "restore: disturbed at {} calls; {} did not end well",
        points.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn ended_well(trace: &Trace, at: At, native: &Native, expected: &Expected) -> Option<String> {
    if !trace.calls.iter().any(|call| call.hit) {
        return Some("the call was not made".into());
    }
    let in_force = native.in_force();
    let known = |(name, hash): (&String, &Vec<u8>)| expected.restored.get(name) == Some(hash);
    if !in_force.iter().all(known) {
        return Some(format!("in force, and not before: {:?}", in_force.keys()));
    }
    match (at.deed, trace.ended) {
        (Deed::Kill, 137) | (Deed::Fail(_), 1 | 3) => None,
        (Deed::Fail(_), 0) => (in_force != expected.restored)
            .then(|| "it reported restored, and the kernel says otherwise".into()),
        _ => Some("that is no way to end".into()),
    }
}

/// Every other time the pass comes at once, as where nothing calls `restore` again.
fn goes_on(n: usize, native: &Native, expected: &Expected) -> Option<String> {
    if n.is_multiple_of(2) {
        let again = native.restore(None);
        if again.ended != 0 || native.in_force() != expected.restored {
            let (ended, log) = (again.ended, again.log.trim());
            return Some(format!("the next restore ended with {ended}: {log}"));
        }
    }
    // A restore that has recorded the boot leaves each set to its own pass.
    for pass in [native.pass(None), native.other_pass()] {
        if pass.ended != 0 {
            let (ended, log) = (pass.ended, pass.log.trim());
            return Some(format!("the next pass ended with {ended}: {log}"));
        }
    }
    if native.in_force() != expected.settled {
        return Some(format!("in force is {:?}", native.in_force().keys()));
    }
    if native.files() != expected.files {
        return Some("the next pass left other files".into());
    }
    (native.plan() != 0).then(|| "the next pass left something to do".into())
}

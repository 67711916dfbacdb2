//! Events on the Kubernetes node: what a pass did, and what stands in the way.
//!
//! What happens again is counted up in the Event that is there (`series`), and what merely
//! stands is told again every half hour only, before the API server forgets it. For that the
//! events that were sent are noted; a lost note costs an Event that is there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Client, Patch};
use super::failure::Failure;
use super::resource::Resource;
use crate::clock::{Stamp, Time};
use crate::error::Error;
use crate::plan::{Change, Verb, about};
use crate::profile::{Digest, printable};
use crate::report::Report;

/// The most events of one pass.
const MOST: usize = 25;
/// What stands is told again after this time; the API server keeps an Event for an hour.
const REMIND: Duration = Duration::from_secs(30 * 60);
/// After this time the API server may have forgotten an Event.
const FORGET: Duration = Duration::from_secs(55 * 60);
/// The namespace of Events about what has none.
const NAMESPACE: &str = "default";
/// The bytes of a note, and of a reporting instance, at most.
const NOTE: usize = 1024;
const INSTANCE: usize = 128;

/// Who tells.
pub(crate) struct Teller<'a> {
    pub(crate) node: &'a str,
    /// The pod, else the node.
    pub(crate) instance: &'a str,
    pub(crate) set: &'a str,
}

/// The events that were sent, by what they tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// `Sent::last` counts from this boot.
    pub(crate) boot_id: String,
    sent: BTreeMap<String, Sent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    /// The Event's name.
    name: String,
    count: u32,
    last: Stamp,
    /// It was there in the last pass too.
    stands: bool,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fact {
    key: String,
    reason: &'static str,
    action: &'static str,
    note: String,
    warning: bool,
    /// It stays until somebody does something, or time does.
    stands: bool,
}

/// How it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Telling {
    New,
    /// In the Event of this name, as the nth time.
    Again(String, u32),
}

/// Tells what became of a pass; `ledger` is brought up to date as far as it was told.
///
/// # Errors
/// The first event that could not be written; those behind it are not tried.
pub(crate) fn tell(
    client: &dyn Fn() -> Result<Client, Error>,
    teller: &Teller<'_>,
    result: &Result<Report, Error>,
    ledger: &mut Ledger,
    now: Stamp,
) -> Result<(), Error> {
    let facts = facts(result, teller.set);
    let due = due(&facts, ledger, now);
    ledger.age(&facts, now);
    if due.is_empty() {
        return Ok(());
    }
    let client = client()?;
    for (fact, telling) in due {
        let sent = send(&client, teller, &fact, &telling, now)?;
        ledger.sent.insert(fact.key, sent);
    }
    Ok(())
}

impl Ledger {
    /// One that knows of none.
    pub(crate) fn new(boot_id: String) -> Self {
        Self {
            boot_id,
            sent: BTreeMap::new(),
        }
    }

    /// Notes what does not stand any more, and drops what is forgotten.
    fn age(&mut self, facts: &[Fact], now: Stamp) {
        let stand: BTreeSet<&str> = facts.iter().map(|fact| fact.key.as_str()).collect();
        self.sent.retain(|_, sent| now.since(&sent.last) < FORGET);
        for (key, sent) in &mut self.sent {
            sent.stands &= stand.contains(key.as_str());
        }
    }
}

/// What a pass has to tell, problems first.
fn facts(result: &Result<Report, Error>, set: &str) -> Vec<Fact> {
    let mut facts: Vec<Fact> = match result {
        Ok(report) => {
            let changes = report.changes.iter();
            changes
                .filter_map(|change| of_change(change, set))
                .collect()
        }
        Err(error) => vec![fact(
            "PassFailed",
            "Reconcile",
            true,
            true,
            set,
            "",
            &error.chain(),
        )],
    };
    facts.sort_by_key(|fact| !fact.warning);
    let mut seen = BTreeSet::new();
    facts.retain(|fact| seen.insert(fact.key.clone()));
    facts
}

fn of_change(change: &Change, set: &str) -> Option<Fact> {
    let (reason, action, warning, stands) = match change.action {
        Verb::Load if change.repair => ("ProfileRepaired", "Load", true, false),
        Verb::Replace if change.repair => ("ProfileRepaired", "Replace", true, false),
        Verb::Load => ("ProfileLoaded", "Load", false, false),
        Verb::Replace => ("ProfileReplaced", "Replace", false, false),
        Verb::Remove => ("ProfileRemoved", "Remove", false, false),
        Verb::Defer => ("RemovalDeferred", "Remove", false, true),
        Verb::Keep => ("RemovalKept", "Remove", true, true),
        Verb::Conflict => ("ProfileConflict", "Load", true, true),
        Verb::Contested => ("ProfileContested", "Load", true, true),
        Verb::Refuse => ("ProfileRefused", "Compile", true, true),
        Verb::Fail => ("ProfileFailed", "Load", true, true),
        // The kernel holds what it held.
        Verb::Own => return None,
    };
    let (profile, why) = (change.profile.as_str(), change.reason.as_str());
    Some(fact(reason, action, warning, stands, set, profile, why))
}

fn fact(
    reason: &'static str,
    action: &'static str,
    warning: bool,
    stands: bool,
    set: &str,
    profile: &str,
    why: &str,
) -> Fact {
    // A deferral's reason counts down.
    let told = if reason == "RemovalDeferred" { "" } else { why };
    let note = match profile {
        "" => printable(why),
        profile => printable(&about(profile, why)),
    };
    Fact {
        key: Digest::of_parts([set, profile, reason, action, told]).to_string(),
        reason,
        action,
        note: cut(&note, NOTE).to_owned(),
        warning,
        stands,
    }
}

/// What of `facts` is to be told now, and how: at most [`MOST`]. What does not fit is counted in
/// the last; what stands is told by a later pass.
fn due(facts: &[Fact], ledger: &Ledger, now: Stamp) -> Vec<(Fact, Telling)> {
    let mut due: Vec<(Fact, Telling)> = facts
        .iter()
        .filter_map(|fact| {
            let known = ledger.sent.get(&fact.key);
            let known = known.filter(|sent| now.since(&sent.last) < FORGET);
            let telling = match known {
                Some(sent) if fact.stands && sent.stands && now.since(&sent.last) < REMIND => {
                    return None;
                }
                Some(sent) => Telling::Again(sent.name.clone(), sent.count + 1),
                None => Telling::New,
            };
            Some((fact.clone(), telling))
        })
        .collect();
    if due.len() > MOST {
        let rest = due.split_off(MOST - 1);
        let warning = rest.iter().any(|(fact, _)| fact.warning);
        let note = format!(
            "{} more: see armorer status on the node, or its log",
            rest.len()
        );
        let more = fact("MoreChanges", "Reconcile", warning, false, "", "", &note);
        due.push((more, Telling::New));
    }
    due
}

/// Writes one Event.
fn send(
    client: &Client,
    teller: &Teller<'_>,
    fact: &Fact,
    telling: &Telling,
    now: Stamp,
) -> Result<Sent, Failure> {
    let events = |name| Resource {
        api: "apis/events.k8s.io/v1",
        namespace: Some(NAMESPACE),
        plural: "events",
        name,
    };
    if let Telling::Again(name, count) = telling {
        let series = json!({"series": {"count": count, "lastObservedTime": micros(now.at)}});
        match client.patch(events(Some(name)), Patch::Merge, &series) {
            Ok(()) => return Ok(sent(name, *count, fact, now)),
            // The API server has forgotten it.
            Err(failure) if failure.status == Some(404) => {}
            Err(failure) => return Err(failure),
        }
    }
    let event = event(teller, fact, now);
    let name = event["metadata"]["name"].as_str().unwrap_or_default();
    match client.create(events(None), &event) {
        Ok(()) => Ok(sent(name, 1, fact, now)),
        // An earlier try did create it, and its answer was lost.
        Err(failure) if failure.status == Some(409) => Ok(sent(name, 1, fact, now)),
        Err(failure) => Err(failure),
    }
}

fn sent(name: &str, count: u32, fact: &Fact, now: Stamp) -> Sent {
    Sent {
        name: name.to_owned(),
        count,
        last: now,
        stands: fact.stands,
    }
}

/// The Event, as `events.k8s.io/v1` wants it. The uid is the node's name, as the kubelet's own
/// events have it: `kubectl describe node` finds them by that.
fn event(teller: &Teller<'_>, fact: &Fact, now: Stamp) -> Value {
    let node = teller.node;
    let moment = format!("{}.{}", now.at.0, now.uptime);
    let unique = Digest::of_parts([fact.key.as_str(), node, &moment]).to_string();
    let name = format!("{}.armorer-{}", cut(node, 200), &unique[..16]);
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "eventTime": micros(now.at),
        "type": if fact.warning { "Warning" } else { "Normal" },
        "reason": fact.reason,
        "action": fact.action,
        "note": fact.note,
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
        "reportingController": "armorer",
        "reportingInstance": cut(teller.instance, INSTANCE),
    })
}

/// A time as the API's `MicroTime` wants it.
fn micros(time: Time) -> String {
    let text = time.to_string();
    format!("{}.000000Z", text.trim_end_matches('Z'))
}

/// At most the first `bytes` bytes of `text`.
fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;

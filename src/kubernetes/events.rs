//! Events on the Kubernetes node: each change, and each new problem.

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{Answer, Client, JSON};
use crate::outcome::{Kind, Outcome, Severity};
use crate::{profile::Digest, time::Time};

/// The most events of one pass.
const MOST: usize = 25;
/// The namespace of Events about objects that have none.
const PATH: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
/// The bytes of a note, and of a reporting instance, at most.
const NOTE: usize = 1024;
const INSTANCE: usize = 128;

/// The subject of the events, and their sender.
pub(crate) struct Subject<'a> {
    pub(crate) node: &'a str,
    /// The pod, else the node.
    pub(crate) instance: &'a str,
    pub(crate) set: &'a str,
}

/// Sends an Event for each of `news`, problems first, and one that counts those above [`MOST`].
///
/// # Errors
/// The first event that could not be written; those behind it are not tried.
pub(crate) fn send(client: &Client, subject: &Subject, mut news: Vec<Outcome>) -> Answer<()> {
    let now = Time::now();
    news.sort_by_key(|outcome| std::cmp::Reverse(outcome.severity));
    if news.len() > MOST {
        let rest = news.split_off(MOST - 1);
        let count = rest.len();
        let message = format!("{count} more: see armorer status on the node, or its log");
        news.push(Outcome::new("", rest[0].kind, message));
    }
    for outcome in news {
        let event = event(subject, &outcome, now);
        match client.write::<IgnoredAny>(PATH, (&Method::POST, JSON, &event)) {
            // An earlier try created it, and its answer was lost.
            Err(failure) if failure.status == Some(409) => {}
            sent => drop(sent?),
        }
    }
    Ok(())
}

/// The Event, as `events.k8s.io/v1` wants it. The uid is the node's name, as in the kubelet's own
/// events: `kubectl describe node` finds them by that.
fn event(subject: &Subject<'_>, outcome: &Outcome, now: Time) -> Value {
    let node = subject.node;
    let (profile, message) = (&*outcome.profile, &*outcome.message);
    let (note, enforced) = (outcome.about(), outcome.unenforced.is_empty());
    let warns = outcome.severity == Severity::Problem || outcome.repair || !enforced;
    let reason = match (outcome.repair, profile, outcome.kind) {
        (true, ..) => "ProfileRepaired".to_owned(),
        _ if !enforced => "RulesNotEnforced".to_owned(),
        (_, "", Kind::Failed) => "PassFailed".to_owned(),
        (_, "", _) => "MoreOutcomes".to_owned(),
        (_, _, kind) => format!("Profile{kind:?}"),
    };
    let now = now.to_string();
    let parts = [subject.set, profile, outcome.kind.word(), message, &now];
    let unique = Digest::of_parts(parts).to_string();
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{}.armorer-{}", cut(node, 200), &unique[..16]),
            "namespace": "default",
        },
        "eventTime": format!("{}.000000Z", now.trim_end_matches('Z')),
        "type": if warns { "Warning" } else { "Normal" },
        "reason": reason,
        "action": "Reconcile",
        "note": cut(&note, NOTE),
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
        "reportingController": "armorer",
        "reportingInstance": cut(subject.instance, INSTANCE),
    })
}

/// At most the first `bytes` bytes of `text`.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::is_dns;

    const NOW: Time = Time(1_800_000_007);

    fn document(outcome: &Outcome) -> Value {
        let subject = Subject {
            node: "node-1",
            instance: &"i".repeat(200),
            set: "default",
        };
        event(&subject, outcome, NOW)
    }

    fn fields(outcome: &Outcome) -> [String; 3] {
        let event = document(outcome);
        ["reason", "type", "note"].map(|field| event[field].as_str().unwrap().to_owned())
    }

    #[test]
    fn an_event_is_as_the_api_wants_it() {
        let long = "ä".repeat(2000);
        let event = document(&Outcome::new("custom.a", Kind::Refused, &*long));
        let expected = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": event["metadata"],
            "eventTime": "2027-01-15T08:00:07.000000Z",
            "type": "Warning",
            "reason": "ProfileRefused",
            "action": "Reconcile",
            "note": event["note"],
            "regarding": {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"},
            "reportingController": "armorer",
            "reportingInstance": "i".repeat(128),
        });
        assert_eq!(event, expected);
        let note = event["note"].as_str().unwrap();
        assert!(
            note.len() <= 1024 && note.starts_with("custom.a: ää"),
            "{note}"
        );
        let name = event["metadata"]["name"].as_str().unwrap();
        assert!(
            is_dns(name) && name.starts_with("node-1.armorer-"),
            "{name}"
        );
        assert_eq!(event["metadata"]["namespace"], "default");
    }

    #[test]
    fn each_outcome_has_reason_and_type() {
        let mut repair = Outcome::new("custom.a", Kind::Load, "unloaded");
        repair.repair = true;
        for (outcome, expected) in [
            (
                Outcome::new("custom.a", Kind::Load, "new"),
                ["ProfileLoad", "Normal", "custom.a: new"],
            ),
            (
                Outcome::new("custom.a", Kind::Blocked, "hidepid"),
                ["ProfileBlocked", "Warning", "custom.a: hidepid"],
            ),
            (repair, ["ProfileRepaired", "Warning", "custom.a: unloaded"]),
            (
                Outcome::new("", Kind::Failed, "no source"),
                ["PassFailed", "Warning", "no source"],
            ),
            (
                Outcome::new("", Kind::Load, "15 more"),
                ["MoreOutcomes", "Normal", "15 more"],
            ),
        ] {
            assert_eq!(fields(&outcome), expected);
        }
    }

    /// A try whose answer was lost creates no second event; another pass does.
    #[test]
    fn an_event_has_one_name_and_another_event_another() {
        let name = |profile: &str, kind, message: &str, set, now| {
            let subject = Subject {
                node: "node-1",
                instance: "pod",
                set,
            };
            let outcome = Outcome::new(profile, kind, message);
            event(&subject, &outcome, now)["metadata"]["name"].to_string()
        };
        let load = Kind::Load;
        let first = name("custom.a", load, "new", "default", NOW);
        assert_eq!(name("custom.a", load, "new", "default", NOW), first);
        for other in [
            name("custom.b", load, "new", "default", NOW),
            name("custom.a", Kind::Replace, "new", "default", NOW),
            name("custom.a", load, "changed", "default", NOW),
            name("custom.a", load, "new", "web", NOW),
            name("custom.a", load, "new", "default", Time(NOW.0 + 1)),
        ] {
            assert_ne!(other, first);
        }
    }
}

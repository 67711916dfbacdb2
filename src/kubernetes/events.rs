//! Events on the Kubernetes node: each change, and each new problem.

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{Answer, Client, JSON};
use crate::outcome::{Kind, Outcome, Severity};
use crate::profile::Digest;
use crate::time::Time;

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

/// Sends an Event for each of `news`, problems first, and one that counts what is above [`MOST`].
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

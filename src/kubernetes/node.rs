//! The Kubernetes node's object: the taint that keeps pods away until armorer is ready for the first
//! time, and labels that describe the profiles in force.
//!
//! The creator of nodes sets the taint (the kubelet's `--register-with-taints`, an autoscaler's
//! settings); armorer only takes it away, once, and never puts it back.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{Answer, Client, JSON, JSON_PATCH, MERGE_PATCH};
use super::{Metadata, Object, is_dns, is_dns_label};

/// The tries where another program changes the taints between read and write.
const TRIES: u32 = 5;

/// The last writes to the node's object, in this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memo {
    /// The pod that wrote it. A new pod looks again: perhaps the node was deleted and has joined anew.
    pub(crate) pod: Option<String>,
    /// The uid of the node's object.
    pub(crate) uid: String,
    /// The taint that was taken away, or was not there.
    pub(crate) taint: Option<String>,
    pub(crate) labels: Option<Labels>,
}

/// The values of `armorer/state` and `armorer/profiles`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    pub(crate) state: String,
    pub(crate) profiles: String,
}

/// Whether `text` can be a taint's key: a name of at most 63 characters, perhaps with a domain and a
/// slash before it.
pub(crate) fn is_key(text: &str) -> bool {
    let parts = text.split_once('/');
    let (domain, name) = parts.map_or((None, text), |(domain, name)| (Some(domain), name));
    // A name is a label that may also hold capitals, dots and underscores.
    let label = name.to_ascii_lowercase().replace(['.', '_'], "-");
    domain.is_none_or(is_dns) && is_dns_label(&label)
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
}

/// Takes the taint `key` from the node, unless `memo` says that it was taken from this very object in
/// this boot. Returns the node's uid, and whether there was a taint to take.
///
/// # Errors
/// Anything that keeps it from being taken.
pub(crate) fn clear_taint(
    client: &Client,
    node: &str,
    key: &str,
    memo: &Memo,
) -> Answer<(String, bool)> {
    let path = format!("/api/v1/nodes/{node}");
    let mut tries = 0;
    loop {
        let found: Node = client.get(&path, JSON)?;
        let uid = found.metadata.uid;
        let known = memo.uid == uid && memo.taint.as_deref() == Some(key);
        let taints = found.spec["taints"].as_array();
        let patch = taints.and_then(|taints| untaint(&uid, taints, key));
        let Some(patch) = patch.filter(|_| !known) else {
            return Ok((uid, tries > 0));
        };
        tries += 1;
        match client.write::<IgnoredAny>(&path, (&Method::PATCH, JSON_PATCH, &patch)) {
            // A test did not hold: another program changed the taints meanwhile.
            Err(failure) if failure.status == Some(422) && tries < TRIES => {}
            sent => return sent.map(|_| (uid, true)),
        }
    }
}

/// The JSON patch that takes each taint with `key`, and fails as a whole where it would hit another
/// taint or another node; none if there is no such taint.
fn untaint(uid: &str, taints: &[Value], key: &str) -> Option<Value> {
    let taints = taints.iter().enumerate();
    let ours: Vec<_> = taints.filter(|(_, taint)| taint["key"] == key).collect();
    let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": uid})];
    for (n, taint) in &ours {
        operations.push(json!({"op": "test", "path": format!("/spec/taints/{n}"), "value": taint}));
    }
    // The last first: each removal moves those behind it.
    for (n, _) in ours.iter().rev() {
        operations.push(json!({"op": "remove", "path": format!("/spec/taints/{n}")}));
    }
    (!ours.is_empty()).then_some(Value::Array(operations))
}

/// Writes the labels of the set named `set` to the node. Returns the node's uid.
///
/// # Errors
/// Anything that keeps them from being written.
pub(crate) fn label(client: &Client, node: &str, set: &str, labels: &Labels) -> Answer<String> {
    let suffix = match set {
        "default" => String::new(),
        set => format!(".{set}"),
    };
    let patch = json!({"metadata": {"labels": {
        format!("armorer/state{suffix}"): labels.state,
        format!("armorer/profiles{suffix}"): labels.profiles,
    }}});
    let path = format!("/api/v1/nodes/{node}");
    let answer: Object = client.write(&path, (&Method::PATCH, MERGE_PATCH, &patch))?;
    Ok(answer.metadata.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_kubernetes_has_them() {
        for key in ["a", "starting", "example.com/armorer-Starting_1.0"] {
            assert!(is_key(key), "{key}");
        }
        let long = "a".repeat(64);
        for wrong in [
            "", "/", "a/", "/a", "a/b/c", "-a", "a-", "a b", "a=b", "A.com/a", &long,
        ] {
            assert!(!is_key(wrong), "{wrong}");
        }
    }

    #[test]
    fn only_the_taints_with_the_key_go_and_only_if_nothing_moved() {
        let taint = |key, effect| json!({"key": key, "effect": effect});
        let taints = [
            taint("a", "NoSchedule"),
            taint("ours", "NoSchedule"),
            taint("b", "NoExecute"),
            taint("ours", "NoExecute"),
        ];
        let expected = json!([
            {"op": "test", "path": "/metadata/uid", "value": "u"},
            {"op": "test", "path": "/spec/taints/1", "value": taints[1]},
            {"op": "test", "path": "/spec/taints/3", "value": taints[3]},
            {"op": "remove", "path": "/spec/taints/3"},
            {"op": "remove", "path": "/spec/taints/1"},
        ]);
        assert_eq!(untaint("u", &taints, "ours"), Some(expected));
        assert_eq!(untaint("u", &taints, "our"), None);
        assert_eq!(untaint("u", &[], "ours"), None);
    }
}

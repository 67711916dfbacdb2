//! The taint that keeps pods from a node until it is ready for the first time.
//!
//! The taint is for whoever makes nodes to set (the kubelet's `--register-with-taints`, an
//! autoscaler's settings); armorer only takes it away, once, and never puts it back. What was
//! done is noted, so that a taint that a person sets later stays, and nothing is asked again
//! until the node boots or armorer's pod is another one.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Client, Patch};
use super::encoding::is_dns;
use super::failure::Failure;
use super::object::Metadata;
use super::resource::{Resource, Shape};

/// How often somebody else may change the taints between our look and our change.
const TRIES: u32 = 5;

/// Whether `text` can be a taint's key: a name of at most 63 characters, perhaps with a domain
/// and a slash before it.
pub(crate) fn is_key(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((domain, name)) if is_dns(domain) => name,
        Some(_) => return false,
        None => text,
    };
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && ends(name.chars().next())
        && ends(name.chars().last())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// That the node was ready for the first time, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) boot_id: String,
    /// A new pod looks again: perhaps the node was deleted and has joined anew.
    pub(crate) pod: Option<String>,
    pub(crate) node: String,
    pub(crate) key: String,
    /// The uid of the node's object; empty until it is known.
    pub(crate) uid: String,
}

impl Marker {
    /// Whether what `noted` says leaves nothing to ask.
    pub(crate) fn is_settled(&self, noted: Option<&Self>) -> bool {
        noted.is_some_and(|noted| {
            let same = Self {
                uid: noted.uid.clone(),
                ..self.clone()
            };
            *noted == same
        })
    }

    /// Whether this very node object was ready before, in this boot.
    fn was_ready(&self, noted: Option<&Self>, uid: &str) -> bool {
        noted.is_some_and(|noted| {
            noted.uid == uid && noted.boot_id == self.boot_id && noted.key == self.key
        })
    }
}

#[derive(Debug, Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: NodeSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    taints: Vec<Value>,
}

/// Takes the taint from the node, unless `noted` says that this node object was ready before.
/// Gives the node's uid, and whether there was a taint to take.
///
/// # Errors
/// Whatever keeps it from being taken.
pub(crate) fn clear(
    client: &Client,
    marker: &Marker,
    noted: Option<&Marker>,
) -> Result<(String, bool), Failure> {
    let resource = Resource {
        api: "api/v1",
        namespace: None,
        plural: "nodes",
        name: Some(&marker.node),
    };
    let mut tries = 0;
    loop {
        let node: Node = client.get(resource, Shape::Whole)?;
        let uid = node.metadata.uid;
        if marker.was_ready(noted, &uid) {
            return Ok((uid, false));
        }
        let Some(patch) = patch(&uid, &node.spec.taints, &marker.key) else {
            return Ok((uid, tries > 0));
        };
        tries += 1;
        match client.patch(resource, Patch::Json, &patch) {
            Ok(()) => return Ok((uid, true)),
            // A test did not hold: somebody changed the taints meanwhile.
            Err(failure) if failure.status == Some(422) && tries < TRIES => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// The JSON patch that takes each taint with `key`, and fails as a whole where it would hit
/// another taint or another node; none if there is no such taint.
fn patch(uid: &str, taints: &[Value], key: &str) -> Option<Value> {
    let ours: Vec<_> = taints
        .iter()
        .enumerate()
        .filter(|(_, taint)| taint["key"] == key)
        .collect();
    if ours.is_empty() {
        return None;
    }
    let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": uid})];
    for (n, taint) in &ours {
        let path = format!("/spec/taints/{n}");
        operations.push(json!({"op": "test", "path": path, "value": taint}));
    }
    // The last first: each removal moves what stands behind it.
    for (n, _) in ours.iter().rev() {
        operations.push(json!({"op": "remove", "path": format!("/spec/taints/{n}")}));
    }
    Some(Value::Array(operations))
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
        let wanted = json!([
            {"op": "test", "path": "/metadata/uid", "value": "u"},
            {"op": "test", "path": "/spec/taints/1", "value": taints[1]},
            {"op": "test", "path": "/spec/taints/3", "value": taints[3]},
            {"op": "remove", "path": "/spec/taints/3"},
            {"op": "remove", "path": "/spec/taints/1"},
        ]);
        assert_eq!(patch("u", &taints, "ours"), Some(wanted));
        assert_eq!(patch("u", &taints, "our"), None);
        assert_eq!(patch("u", &[], "ours"), None);
    }

    #[test]
    fn the_first_time_is_once_a_boot_and_node_object() {
        let marker = Marker {
            boot_id: "boot".into(),
            pod: Some("pod-1".into()),
            node: "n".into(),
            key: "k".into(),
            uid: String::new(),
        };
        let noted = Marker {
            uid: "u".into(),
            ..marker.clone()
        };
        assert!(!marker.is_settled(None));
        assert!(marker.is_settled(Some(&noted)));
        let another_pod = Marker {
            pod: Some("pod-2".into()),
            ..marker.clone()
        };
        assert!(!another_pod.is_settled(Some(&noted)));
        assert!(another_pod.was_ready(Some(&noted), "u"));
        assert!(!another_pod.was_ready(Some(&noted), "another"));
        let another_boot = Marker {
            boot_id: "boot 2".into(),
            ..marker
        };
        assert!(!another_boot.is_settled(Some(&noted)));
        assert!(!another_boot.was_ready(Some(&noted), "u"));
    }
}

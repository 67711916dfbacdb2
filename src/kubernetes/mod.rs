//! The Kubernetes API: one client; a node's events, taint and labels.

pub(crate) mod access;
pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod node;

use serde::Deserialize;

use access::Access;

/// The settings of a pass for the API server, besides its sources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) access: Access,
    /// The name of this node's object.
    pub(crate) node: Option<String>,
    /// This pod, in events.
    pub(crate) pod: Option<String>,
    /// A pass reports its changes and problems by Events on the node.
    pub(crate) events: bool,
    /// The taint that goes when the node is ready for the first time.
    pub(crate) clear_taint: Option<String>,
    /// Labels on the node describe the profiles in force.
    pub(crate) label_node: bool,
}

/// An object of any kind.
#[derive(Debug, Deserialize)]
pub(crate) struct Object {
    pub(crate) metadata: Metadata,
}

/// The metadata of every object and every list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    /// Of a list, where its next page starts; empty at the end.
    pub(crate) r#continue: String,
}

/// Whether `name` can be a Kubernetes object's: RFC 1123 labels with dots between them.
pub(crate) fn is_dns(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

/// Whether `label` is one RFC 1123 label, as a namespace's name is.
pub(crate) fn is_dns_label(label: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&label.len()) && label.trim_matches('-') == label && label.bytes().all(plain)
}

#[cfg(test)]
mod tests;

//! The parts of the API's objects that are read. What the API says beside them is passed over.

use serde::Deserialize;

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
}

/// An object of which only the metadata is of interest.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Partial {
    pub(crate) metadata: Metadata,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    #[serde(default)]
    pub(super) metadata: ListMetadata,
    pub(super) items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListMetadata {
    /// Where the next page starts; empty at the end.
    #[serde(rename = "continue")]
    pub(super) cursor: String,
}

/// What the API says instead of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) details: StatusDetails,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StatusDetails {
    /// The resource's plural.
    pub(super) kind: String,
    pub(super) name: String,
}

//! What a request is about.

use super::encoding::percent_encode;
use crate::profile::quoted;

/// What is meant by a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resource<'a> {
    /// `api/v1`, or `apis/GROUP/VERSION`.
    pub(crate) api: &'a str,
    pub(crate) namespace: Option<&'a str>,
    /// The kind in lower case and plural, as in URLs and rules.
    pub(crate) plural: &'a str,
    /// None for all of them.
    pub(crate) name: Option<&'a str>,
}

impl Resource<'_> {
    /// Its place below the server's URL.
    pub(super) fn path(&self) -> String {
        let mut path = format!("/{}", self.api);
        if let Some(namespace) = self.namespace {
            path = format!("{path}/namespaces/{}", percent_encode(namespace));
        }
        path = format!("{path}/{}", self.plural);
        if let Some(name) = self.name {
            path = format!("{path}/{}", percent_encode(name));
        }
        path
    }

    /// As in "list configmaps in the namespace x".
    pub(super) fn words(&self) -> String {
        let mut words = self.plural.to_owned();
        if let Some(name) = self.name {
            words = format!("{words} {}", quoted(name));
        }
        if let Some(namespace) = self.namespace {
            words = format!("{words} in the namespace {}", quoted(namespace));
        }
        words
    }
}

/// How much of an object is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `metadata` alone; a server that cannot do so may send it whole.
    Metadata,
    Whole,
}

/// Which objects of a list are meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Selector<'a> {
    /// By labels.
    Label(&'a str),
    /// By fields, such as `spec.nodeName=x`.
    Field(&'a str),
}

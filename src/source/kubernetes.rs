//! Profiles from `ConfigMaps`, read from the Kubernetes API.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::{Budget, Content, Part, Version, is_skipped, text, too_large};
use crate::error::Error;
use crate::kubernetes::client::Client;
use crate::kubernetes::encoding::{is_dns, is_dns_label, percent_decode};
use crate::kubernetes::failure::Failure;
use crate::kubernetes::object::{Metadata, Partial};
use crate::kubernetes::resource::{Resource, Selector, Shape};
use crate::profile::{RawProfile, Refusal, RefusalKind, quoted};

#[cfg(test)]
mod tests;

const SCHEME: &str = "configmap://";
/// A selection is read anew this often when a `ConfigMap` went away meanwhile.
const RETRIES: u32 = 3;

/// What the API says of a `ConfigMap`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigMap {
    metadata: Metadata,
    data: Option<BTreeMap<String, String>>,
    binary_data: Option<BTreeMap<String, String>>,
}

/// One `ConfigMap`, or those with certain labels in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConfigMaps {
    written: String,
    namespace: String,
    chosen: Chosen,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Chosen {
    Name(String),
    Selector(String),
}

impl ConfigMaps {
    /// Takes `configmap://NAMESPACE/NAME` or `configmap://NAMESPACE?selector=KEY%3DVALUE`; none
    /// for another scheme.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is neither.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, Error> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Ok(None);
        };
        let chosen = match rest.split_once('?') {
            Some((namespace, query)) => query
                .strip_prefix("selector=")
                .filter(|selector| !selector.contains(['&', '#']))
                .and_then(percent_decode)
                .filter(|selector| {
                    !selector.trim().is_empty() && !selector.contains(char::is_control)
                })
                .map(|selector| (namespace, Chosen::Selector(selector))),
            None => rest
                .split_once('/')
                .filter(|(_, name)| is_dns(name))
                .map(|(namespace, name)| (namespace, Chosen::Name(name.to_owned()))),
        };
        match chosen {
            Some((namespace, chosen)) if is_dns_label(namespace) => Ok(Some(Self {
                written: text.to_owned(),
                namespace: namespace.to_owned(),
                chosen,
            })),
            _ => Err(Error::Usage(format!(
                "the source {} is neither configmap://NAMESPACE/NAME nor \
                 configmap://NAMESPACE?selector=KEY%3DVALUE",
                quoted(text)
            ))),
        }
    }

    fn resource<'a>(&'a self, name: Option<&'a str>) -> Resource<'a> {
        Resource {
            api: "api/v1",
            namespace: Some(&self.namespace),
            plural: "configmaps",
            name,
        }
    }
}

impl fmt::Display for ConfigMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Reads `source`; what is as in `known` is not read again.
///
/// A `ConfigMap` that does not exist is an empty wish if `allow_empty`, else an error: a wrong
/// name and a deleted one look alike.
///
/// # Errors
/// [`Error::Source`] if any of it cannot be read wholly.
pub(super) fn read(
    source: &ConfigMaps,
    client: &Client,
    known: &BTreeMap<String, Version>,
    allow_empty: bool,
    budget: &mut Budget,
) -> Result<Vec<Part>, Error> {
    let reading = Reading {
        source,
        client,
        known,
    };
    match &source.chosen {
        Chosen::Name(name) => match reading.named(name, budget) {
            Ok(part) => Ok(vec![part]),
            Err(Fault::Failure(failure)) if failure.is_missing && allow_empty => Ok(Vec::new()),
            Err(Fault::Failure(mut failure)) => {
                if failure.is_missing {
                    failure.line += ", or say --allow-empty to want nothing";
                }
                Err(failure.into())
            }
            Err(Fault::Error(error)) => Err(error),
        },
        Chosen::Selector(selector) => reading.selected(selector, budget),
    }
}

enum Fault {
    Failure(Failure),
    Error(Error),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Failure(failure) => failure.into(),
            Fault::Error(error) => error,
        }
    }
}

struct Reading<'a> {
    source: &'a ConfigMaps,
    client: &'a Client,
    known: &'a BTreeMap<String, Version>,
}

impl Reading<'_> {
    fn key(&self, name: &str) -> String {
        format!("{SCHEME}{}/{name}", self.source.namespace)
    }

    fn named(&self, name: &str, budget: &mut Budget) -> Result<Part, Fault> {
        if self.known.contains_key(&self.key(name)) {
            let resource = self.source.resource(Some(name));
            let partial: Partial = self.client.get(resource, Shape::Metadata)?;
            if let Some(part) = self.unchanged(&partial.metadata, name)? {
                return Ok(part);
            }
        }
        self.whole(name, budget)
    }

    fn selected(&self, selector: &str, budget: &mut Budget) -> Result<Vec<Part>, Error> {
        let mut retries = 0;
        loop {
            let mut left = *budget;
            match self.selected_once(selector, &mut left) {
                Ok(parts) => {
                    *budget = left;
                    return Ok(parts);
                }
                Err(Fault::Failure(failure)) if failure.is_missing && retries < RETRIES => {
                    retries += 1;
                }
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    fn selected_once(&self, selector: &str, budget: &mut Budget) -> Result<Vec<Part>, Fault> {
        let mut listed: Vec<Partial> = self.client.list(
            self.source.resource(None),
            Selector::Label(selector),
            Shape::Metadata,
            budget.most,
        )?;
        listed.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        listed
            .iter()
            .map(
                |Partial { metadata }| match self.unchanged(metadata, &metadata.name)? {
                    Some(part) => Ok(part),
                    None => self.whole(&metadata.name, budget),
                },
            )
            .collect()
    }

    /// The part of an object whose version is known.
    fn unchanged(&self, metadata: &Metadata, name: &str) -> Result<Option<Part>, Fault> {
        self.check(metadata, name)?;
        let key = self.key(name);
        let version = Version::of(metadata);
        Ok((self.known.get(&key) == Some(&version)).then_some(Part {
            key,
            version: Some(version),
            content: Content::Unchanged,
        }))
    }

    fn whole(&self, name: &str, budget: &mut Budget) -> Result<Part, Fault> {
        let resource = self.source.resource(Some(name));
        let map: ConfigMap = self.client.get(resource, Shape::Whole)?;
        self.check(&map.metadata, name)?;
        let key = self.key(name);
        let version = Version::of(&map.metadata);
        let profiles = profiles(map, &key, budget.profile_bytes);
        for profile in &profiles {
            budget.take(profile).map_err(Fault::Error)?;
        }
        Ok(Part {
            key,
            version: Some(version),
            content: Content::Profiles(profiles),
        })
    }

    /// That the answer is about what was asked for: a cache between us may be wrong.
    fn check(&self, metadata: &Metadata, name: &str) -> Result<(), Fault> {
        let right = metadata.name == name
            && is_dns(name)
            && metadata.namespace == self.source.namespace
            && !metadata.uid.is_empty()
            && !metadata.resource_version.is_empty();
        if right {
            return Ok(());
        }
        let resource = self.source.resource(Some(name));
        let why = "the answer is another object or has no version: is --api-server a Kubernetes \
                   API server?";
        Err(self.client.complaint(resource, why).into())
    }
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
        }
    }
}

/// The profiles in an answer of the API server, if it is a `ConfigMap`.
#[cfg(any(test, fuzzing))]
pub(crate) fn decoded(answer: &[u8], limit: u64) -> Option<Vec<RawProfile>> {
    let map = serde_json::from_slice(answer).ok()?;
    Some(profiles(map, "configmap://ns/x", limit))
}

/// The profiles of a `ConfigMap` by name; the same keys are passed over as in a mounted one.
fn profiles(map: ConfigMap, source: &str, limit: u64) -> Vec<RawProfile> {
    let texts = map.data.unwrap_or_default().into_iter().map(|(key, data)| {
        let text = if data.len() as u64 > limit {
            Err(too_large(limit))
        } else {
            text(data.into_bytes())
        };
        (key, text)
    });
    let binaries = map.binary_data.unwrap_or_default().into_keys().map(|key| {
        let why = "is under binaryData: a profile is UTF-8 text, under data";
        (key, Err(Refusal::new(RefusalKind::Text, why)))
    });
    let all: BTreeMap<_, _> = texts.chain(binaries).collect();
    all.into_iter()
        .filter(|(name, _)| !is_skipped(name.as_bytes()))
        .map(|(name, text)| RawProfile {
            name,
            source: source.to_owned(),
            text,
        })
        .collect()
}

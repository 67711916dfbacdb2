//! Profiles from ConfigMaps, read from the Kubernetes API.
//!
//! Of an object at a recorded version only the metadata is read: a cluster of 10,000 nodes asks for
//! little more than that.

use std::collections::BTreeMap;
use std::fmt;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::{Found, Known, Limits, text};
use crate::desired::RawProfile;
use crate::error::Error;
use crate::kubernetes::client::{Client, Failure, JSON, METADATA};
use crate::kubernetes::{Metadata, is_dns, is_dns_label};
use crate::outcome::Refusal;
use crate::profile::{Digest, is_skipped, quoted};
use crate::state::{Object, Version};

const SCHEME: &str = "configmap://";
/// A selection is read anew this often when a ConfigMap went away meanwhile.
const RETRIES: u32 = 3;

/// One ConfigMap, or those with certain labels in a namespace.
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
    /// Takes `configmap://NAMESPACE/NAME` or `configmap://NAMESPACE?selector=KEY%3DVALUE`; none for
    /// another scheme.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is neither.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, Error> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Ok(None);
        };
        let chosen = match rest.split_once('?') {
            Some((namespace, query)) => selector(query).map(|chosen| (namespace, chosen)),
            None => rest
                .split_once('/')
                .filter(|(_, name)| is_dns(name))
                .map(|(namespace, name)| (namespace, Chosen::Name(name.to_owned()))),
        };
        match chosen.filter(|(namespace, _)| is_dns_label(namespace)) {
            Some((namespace, chosen)) => Ok(Some(Self {
                written: text.to_owned(),
                namespace: namespace.to_owned(),
                chosen,
            })),
            None => Err(Error::Usage(format!(
                "the source {} is neither configmap://NAMESPACE/NAME nor configmap://NAMESPACE?selector=KEY%3DVALUE",
                quoted(text)
            ))),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/configmaps{name}", self.namespace)
    }
}

fn selector(query: &str) -> Option<Chosen> {
    let selector = query.strip_prefix("selector=")?;
    let decoded = percent_decode_str(selector).decode_utf8().ok()?;
    let usable = !selector.contains(['&', '#'])
        && !decoded.trim().is_empty()
        && !decoded.contains(char::is_control);
    usable.then(|| Chosen::Selector(decoded.into_owned()))
}

impl fmt::Display for ConfigMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[derive(Debug, Deserialize)]
struct Partial {
    metadata: Metadata,
}

/// What the API says of a ConfigMap.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigMap {
    metadata: Metadata,
    data: Option<BTreeMap<String, String>>,
    binary_data: Option<BTreeMap<String, String>>,
}

/// Adds the profiles of `source`.
///
/// A ConfigMap that does not exist is an error, unless it may be missing: a wrong name and a deleted one
/// look alike.
///
/// # Errors
/// [`Error::Source`] if any of it cannot be read completely.
pub(super) fn read(
    source: &ConfigMaps,
    client: &Client,
    known: &Known,
    limits: &Limits,
    found: &mut Found,
) -> Result<(), Error> {
    let reading = Reading {
        source,
        client,
        known,
        limits,
    };
    let mut retries = 0;
    loop {
        let read = match &source.chosen {
            Chosen::Name(name) => reading.named(name).map(|map| vec![map]),
            Chosen::Selector(selector) => reading.selected(selector),
        };
        let is_name = matches!(source.chosen, Chosen::Name(_));
        match read {
            Ok(maps) => return reading.keep(maps, found),
            Err(failure) if failure.is_missing && is_name && known.allow_missing => return Ok(()),
            Err(failure) if failure.is_missing && !is_name && retries < RETRIES => retries += 1,
            Err(mut failure) => {
                if failure.is_missing {
                    failure.line += ": create it, correct its name, or set --allow-empty";
                }
                return Err(failure.into());
            }
        }
    }
}

/// A ConfigMap's key, version and texts by name.
type Read = (String, Version, BTreeMap<String, Result<String, Refusal>>);

struct Reading<'a> {
    source: &'a ConfigMaps,
    client: &'a Client,
    known: &'a Known<'a>,
    limits: &'a Limits,
}

impl Reading<'_> {
    fn key(&self, name: &str) -> String {
        format!("{SCHEME}{}/{name}", self.source.namespace)
    }

    fn named(&self, name: &str) -> Result<Read, Failure> {
        if self.known.objects.contains_key(&self.key(name)) {
            let path = self.source.path(&format!("/{name}"));
            let partial: Partial = self.client.get(&path, METADATA)?;
            self.check(&partial.metadata, name)?;
            if let Some(read) = self.unchanged(&partial.metadata) {
                return Ok(read);
            }
        }
        self.whole(name)
    }

    fn selected(&self, selector: &str) -> Result<Vec<Read>, Failure> {
        let path = self.source.path("");
        let mut listed: Vec<Partial> = self.client.list(&path, selector, self.limits.profiles)?;
        listed.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let maps = listed.iter().map(|Partial { metadata }| {
            self.check(metadata, &metadata.name)?;
            let unchanged = self.unchanged(metadata);
            unchanged.map_or_else(|| self.whole(&metadata.name), Ok)
        });
        maps.collect()
    }

    /// The stored texts of an object at its recorded version, if they are all there and within the limit.
    fn unchanged(&self, metadata: &Metadata) -> Option<Read> {
        let key = self.key(&metadata.name);
        let object = self.known.objects.get(&key)?;
        if object.version != Version::of(metadata) {
            return None;
        }
        let texts = object.texts.iter().map(|(name, digest)| {
            let stored = (self.known.text)(*digest)?;
            let fits = stored.len() as u64 <= self.limits.profile_bytes;
            fits.then(|| (name.clone(), Ok(stored)))
        });
        Some((key, object.version.clone(), texts.collect::<Option<_>>()?))
    }

    fn whole(&self, name: &str) -> Result<Read, Failure> {
        let map: ConfigMap = self
            .client
            .get(&self.source.path(&format!("/{name}")), JSON)?;
        self.check(&map.metadata, name)?;
        let version = Version::of(&map.metadata);
        Ok((
            self.key(name),
            version,
            texts(map, self.limits.profile_bytes),
        ))
    }

    /// That the answer is the object that was asked for: a cache between us may be wrong.
    fn check(&self, metadata: &Metadata, name: &str) -> Result<(), Failure> {
        let right = metadata.name == name
            && is_dns(name)
            && metadata.namespace == self.source.namespace
            && !metadata.uid.is_empty()
            && !metadata.resource_version.is_empty();
        let reason = "the answer is another object or has no version: is --api-server a Kubernetes API server?";
        let path = self.source.path(&format!("/{name}"));
        right
            .then_some(())
            .ok_or_else(|| self.client.failure(&path, reason))
    }

    /// Keeps what no source before had; names that are passed over in a folder are passed over here.
    fn keep(&self, maps: Vec<Read>, found: &mut Found) -> Result<(), Error> {
        for (key, version, mut texts) in maps {
            if found.profiles.iter().any(|profile| profile.place == key) {
                continue;
            }
            texts.retain(|name, _| {
                let skipped = is_skipped(name.as_bytes());
                if skipped && !name.starts_with('.') {
                    found.passed_over.insert(format!("{key}/{name}"));
                }
                !skipped
            });
            let digests = texts.iter().map(|(name, text)| {
                let text = text.as_ref().ok()?;
                Some((name.clone(), Digest::of(text.as_bytes())))
            });
            if let Some(texts) = digests.collect::<Option<_>>() {
                found.objects.insert(key.clone(), Object { version, texts });
            }
            for (name, text) in texts {
                let profile = RawProfile {
                    name,
                    source: self.source.to_string(),
                    place: key.clone(),
                    text,
                };
                found.keep(profile, self.limits)?;
            }
        }
        Ok(())
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

/// The texts of a ConfigMap by name.
fn texts(map: ConfigMap, limit: u64) -> BTreeMap<String, Result<String, Refusal>> {
    let data = map.data.unwrap_or_default().into_iter();
    let texts = data.map(|(key, data)| (key, text(data.into_bytes(), limit)));
    let binaries = map.binary_data.unwrap_or_default().into_keys().map(|key| {
        let reason = "is under binaryData: a profile is UTF-8 text, under data";
        (key, Err(Refusal::new("text", reason)))
    });
    texts.chain(binaries).collect()
}

/// The texts in an answer of the API server, if it is a ConfigMap.
#[cfg(any(test, fuzzing))]
pub(crate) fn decoded(
    answer: &[u8],
    limit: u64,
) -> Option<BTreeMap<String, Result<String, Refusal>>> {
    Some(texts(serde_json::from_slice(answer).ok()?, limit))
}

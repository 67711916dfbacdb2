//! Profiles from ConfigMaps, read from the Kubernetes API.
//!
//! Of an object at a recorded version only the metadata is read: a cluster of 10,000 nodes asks for
//! little more than that.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::{Found, Known, Limits, Text, text};
use crate::kubernetes::client::{Answer, Client, JSON, METADATA};
use crate::kubernetes::{Metadata, is_dns, is_dns_label};
use crate::profile::{Digest, is_skipped};
use crate::state::{Object, Version};
use crate::{desired::RawProfile, error::Error, outcome::Refusal};

pub(super) const SCHEME: &str = "configmap://";
/// The retries of a selection of which a ConfigMap went away meanwhile.
const RETRIES: u32 = 3;

/// One ConfigMap, or those with certain labels in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConfigMaps {
    /// As the user wrote it.
    pub(super) written: String,
    namespace: String,
    chosen: Chosen,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Chosen {
    Name(String),
    Selector(String),
}

impl ConfigMaps {
    /// Takes `configmap://NAMESPACE/NAME` or `configmap://NAMESPACE?selector=KEY%3DVALUE`; nothing else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(SCHEME)?;
        let (namespace, chosen) = if let Some((namespace, query)) = rest.split_once('?') {
            (namespace, Chosen::Selector(selector(query)?))
        } else {
            let (namespace, name) = rest.split_once('/').filter(|(_, name)| is_dns(name))?;
            (namespace, Chosen::Name(name.to_owned()))
        };
        is_dns_label(namespace).then(|| Self {
            written: text.to_owned(),
            namespace: namespace.to_owned(),
            chosen,
        })
    }

    fn path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/configmaps{name}", self.namespace)
    }
}

fn selector(query: &str) -> Option<String> {
    let selector = query.strip_prefix("selector=")?;
    let decoded = percent_decode_str(selector).decode_utf8().ok()?;
    let is_one = !selector.contains(['&', '#']) && !decoded.trim().is_empty();
    (is_one && !decoded.contains(char::is_control)).then(|| decoded.into_owned())
}

/// A ConfigMap as the API has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConfigMap {
    metadata: Metadata,
    data: Option<BTreeMap<String, String>>,
    binary_data: Option<BTreeMap<String, String>>,
}

pub(crate) type Texts = BTreeMap<String, Text>;
/// A ConfigMap's key, version and texts by name.
type Read = (String, Version, Texts);

/// All that one source is read with.
pub(super) struct Reading<'a> {
    pub(super) source: &'a ConfigMaps,
    pub(super) client: &'a Client,
    pub(super) known: &'a Known<'a>,
    pub(super) limits: &'a Limits,
}

impl Reading<'_> {
    /// Adds the profiles of the source.
    ///
    /// A ConfigMap that does not exist is an error, unless it may be missing: a wrong name and a deleted
    /// one look alike.
    ///
    /// # Errors
    /// [`Error::Source`] if any of it cannot be read completely.
    pub(super) fn add_to(&self, found: &mut Found) -> Result<(), Error> {
        let is_name = matches!(self.source.chosen, Chosen::Name(_));
        let mut retries = 0;
        loop {
            let read = match &self.source.chosen {
                Chosen::Name(name) => self.named(name).map(|map| vec![map]),
                Chosen::Selector(selector) => self.selected(selector),
            };
            match read {
                Ok(maps) => return self.keep(maps, found),
                Err(failure) if !failure.is_missing => return Err(failure.into()),
                Err(_) if is_name && self.known.allow_missing => return Ok(()),
                Err(_) if !is_name && retries < RETRIES => retries += 1,
                Err(mut failure) => {
                    failure.line += ": create it, correct its name, or set --allow-empty";
                    return Err(failure.into());
                }
            }
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{SCHEME}{}/{name}", self.source.namespace)
    }

    fn named(&self, name: &str) -> Answer<Read> {
        if self.known.objects.contains_key(&self.key(name)) {
            let map = self.get(name, METADATA)?;
            if let Some(read) = self.unchanged(&map.metadata) {
                return Ok(read);
            }
        }
        self.whole(name)
    }

    fn selected(&self, selector: &str) -> Answer<Vec<Read>> {
        let (path, most) = (self.source.path(""), self.limits.profiles);
        let mut listed = self.client.list(&path, selector, most)?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let maps = listed.iter().map(|metadata| {
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

    fn whole(&self, name: &str) -> Answer<Read> {
        let map = self.get(name, JSON)?;
        let version = Version::of(&map.metadata);
        let texts = texts(map, self.limits.profile_bytes);
        Ok((self.key(name), version, texts))
    }

    fn get(&self, name: &str, accept: &str) -> Answer<ConfigMap> {
        let path = self.source.path(&format!("/{name}"));
        let map: ConfigMap = self.client.get(&path, accept)?;
        self.check(&map.metadata, name)?;
        Ok(map)
    }

    /// That the answer is the object that was asked for: a cache between us may be wrong.
    fn check(&self, metadata: &Metadata, name: &str) -> Answer<()> {
        let right = metadata.name == name
            && is_dns(name)
            && metadata.namespace == self.source.namespace
            && !metadata.uid.is_empty()
            && !metadata.resource_version.is_empty();
        let reason = "the answer is another object or has no version: is --api-server a Kubernetes API server?";
        let path = self.source.path(&format!("/{name}"));
        let wrong = || self.client.failure(&path, reason);
        right.then_some(()).ok_or_else(wrong)
    }

    /// Keeps texts that no source before had; names that a folder's reading skips are skipped here.
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
                    source: self.source.written.clone(),
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
pub(crate) fn texts(map: ConfigMap, limit: u64) -> Texts {
    let data = map.data.unwrap_or_default().into_iter();
    let texts = data.map(|(key, data)| (key, text(data.into_bytes(), limit)));
    let binaries = map.binary_data.unwrap_or_default().into_keys().map(|key| {
        let reason = "is under binaryData: a profile is UTF-8 text, under data";
        (key, Err(Refusal::new("text", reason)))
    });
    texts.chain(binaries).collect()
}

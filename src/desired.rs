//! From files as found to profiles to load: names, and files that are there twice. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::outcome::Refusal;
use crate::profile::{Digest, ProfileName};
use crate::rules::Rules;

/// One file of a source, not looked into yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawProfile {
    /// The file's name, or the ConfigMap's key, as found.
    pub(crate) name: String,
    /// The source that it was read from, as recorded.
    pub(crate) source: String,
    /// The folder, or `configmap://NAMESPACE/NAME`.
    pub(crate) place: String,
    /// The text, or why there is none (too large, not UTF-8, a NUL).
    pub(crate) text: Result<String, Refusal>,
}

/// One desired profile, not compiled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProfileSource {
    pub(crate) name: ProfileName,
    /// The source that it comes from, as recorded.
    pub(crate) source: String,
    /// The folder, or the ConfigMap.
    pub(crate) place: String,
    pub(crate) text: String,
    pub(crate) digest: Digest,
}

/// All that the sources hold.
pub(crate) struct Desired {
    /// By name.
    pub(crate) profiles: Vec<ProfileSource>,
    /// The files that are refused before they are compiled, by name as found, each with its place.
    pub(crate) refused: BTreeMap<String, (String, Refusal)>,
    /// The digest of names, sources and contents.
    pub(crate) digest: Digest,
    /// The sources that hold at least one file.
    pub(crate) holding: BTreeSet<String>,
}

impl Desired {
    /// Sorts out the files in `found`.
    pub(crate) fn new(found: Vec<RawProfile>, rules: &Rules) -> Self {
        let digests: Vec<Digest> = found.iter().map(digest).collect();
        let words = found.iter();
        let words = words.flat_map(|raw| [&raw.name, &raw.source, &raw.place]);
        let mut desired = Self {
            digest: Digest::of_parts([Digest::of_parts(words), Digest::of_parts(&digests)]),
            profiles: Vec::new(),
            refused: BTreeMap::new(),
            holding: found.iter().map(|raw| raw.source.clone()).collect(),
        };
        let mut places = BTreeMap::<String, Vec<String>>::new();
        for raw in &found {
            let entry = places.entry(raw.name.clone()).or_default();
            entry.push(raw.place.clone());
        }
        for (raw, digest) in found.into_iter().zip(digests) {
            let RawProfile { source, place, .. } = raw;
            let accepted = accept(&raw.name, &places[&raw.name], rules);
            match accepted.and_then(|name| Ok((name, raw.text?))) {
                Ok((name, text)) => desired.profiles.push(ProfileSource {
                    name,
                    source,
                    place,
                    text,
                    digest,
                }),
                Err(refusal) => _ = desired.refused.entry(raw.name).or_insert((place, refusal)),
            }
        }
        desired.profiles.sort_by(|a, b| a.name.cmp(&b.name));
        desired
    }

    /// Every name that a file has, refused or not.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        let accepted = self.profiles.iter().map(|profile| profile.name.as_str());
        let refused = self.refused.keys().map(String::as_str);
        accepted.chain(refused).collect()
    }
}

fn digest(raw: &RawProfile) -> Digest {
    match &raw.text {
        Ok(text) => Digest::of(text.as_bytes()),
        Err(refusal) => Digest::of_parts(["refused", &refusal.message]),
    }
}

/// `places` are all that hold a file of this name.
fn accept(name: &str, places: &[String], rules: &Rules) -> Result<ProfileName, Refusal> {
    let name = rules.file_name(name)?;
    if places.len() > 1 {
        let line = format!("is in {}: keep one", places.join(" and in "));
        return Err(Refusal::new("duplicate", line));
    }
    Ok(name)
}

#[cfg(test)]
mod tests;

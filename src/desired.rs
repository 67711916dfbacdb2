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
        let mut sources: Vec<&String> = found.iter().map(|raw| &raw.source).collect();
        sources.dedup();
        let words = found.iter();
        let words = words.flat_map(|raw| [&raw.name, &raw.source, &raw.place]);
        let digests: Vec<Digest> = found.iter().map(digest).collect();
        let mut desired = Self {
            digest: Digest::of_parts([Digest::of_parts(words), Digest::of_parts(&digests)]),
            profiles: Vec::new(),
            refused: BTreeMap::new(),
            holding: sources.into_iter().cloned().collect(),
        };
        let mut found: Vec<_> = found.into_iter().zip(digests).collect();
        found.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let files = found.chunk_by(|(a, _), (b, _)| a.name == b.name);
        let names: Vec<_> = files.map(|files| accept(files, rules)).collect();
        found.dedup_by(|(a, _), (b, _)| a.name == b.name);
        for ((raw, digest), name) in found.into_iter().zip(names) {
            let RawProfile { source, place, .. } = raw;
            match name.and_then(|name| Ok((name, raw.text?))) {
                Ok((name, text)) => desired.profiles.push(ProfileSource {
                    name,
                    source,
                    place,
                    text,
                    digest,
                }),
                Err(refusal) => _ = desired.refused.insert(raw.name, (place, refusal)),
            }
        }
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

/// `files` are all of one name.
fn accept(files: &[(RawProfile, Digest)], rules: &Rules) -> Result<ProfileName, Refusal> {
    let name = rules.file_name(&files[0].0.name)?;
    if files.len() > 1 {
        let places: Vec<_> = files.iter().map(|(raw, _)| raw.place.as_str()).collect();
        let line = format!("is in {}: keep one", places.join(" and in "));
        return Err(Refusal::new("duplicate", line));
    }
    Ok(name)
}

#[cfg(test)]
mod tests;

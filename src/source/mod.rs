//! What is wanted: profile texts, read from where the user keeps them.

pub(crate) mod directory;
pub(crate) mod kubernetes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use crate::error::Error;
use crate::kubernetes::Api;
use crate::profile::{RawProfile, Refusal, RefusalKind, Version, quoted};
use kubernetes::ConfigMaps;

/// A place that profiles come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A folder (a mounted `ConfigMap`, or any tree of files), or one file.
    Directory(PathBuf),
    /// `ConfigMaps` of the Kubernetes API.
    Kubernetes(ConfigMaps),
}

impl Source {
    /// Takes what the user wrote.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty text, or a scheme that is not known.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Usage(
                "a source is empty: name a folder with profiles".to_owned(),
            ));
        }
        if let Some(maps) = ConfigMaps::parse(text)? {
            return Ok(Self::Kubernetes(maps));
        }
        if text.contains("://") {
            return Err(Error::Usage(format!(
                "the source {} is not known: name a folder with profiles, or \
                 configmap://NAMESPACE/NAME",
                quoted(text)
            )));
        }
        Ok(Self::Directory(PathBuf::from(text)))
    }
}

impl fmt::Display for Source {
    /// The source as the user wrote it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Kubernetes(maps) => write!(f, "{maps}"),
        }
    }
}

/// How much a source may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The bytes of one profile's text. One that is larger is refused, the others are read.
    pub(crate) profile_bytes: u64,
    /// The profiles of all sources together. With more, the sources count as not read.
    pub(crate) profiles: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            profile_bytes: 512 * 1024,
            profiles: 4096,
        }
    }
}

/// The bytes of all texts together: a guard of the container's memory, far above any real use.
const TOTAL_BYTES: u64 = 64 * 1024 * 1024;

/// What is left of the limits while several sources are read.
#[derive(Clone, Copy)]
struct Budget {
    profile_bytes: u64,
    most: usize,
    profiles: usize,
    bytes: u64,
}

impl Budget {
    const fn new(limits: &Limits) -> Self {
        Self {
            profile_bytes: limits.profile_bytes,
            most: limits.profiles,
            profiles: limits.profiles,
            bytes: TOTAL_BYTES,
        }
    }

    /// Counts one profile, and the bytes of its text.
    fn take(&mut self, profile: &RawProfile) -> Result<(), Error> {
        let bytes = profile.text.as_ref().map_or(0, String::len) as u64;
        let Some(bytes) = self.bytes.checked_sub(bytes) else {
            return Err(Error::Source(format!(
                "the sources hold more than {} MiB of profiles, at {}: take out what no node needs",
                TOTAL_BYTES >> 20,
                profile.source
            )));
        };
        let Some(profiles) = self.profiles.checked_sub(1) else {
            return Err(Error::Source(format!(
                "the sources hold more than {} profiles, at {}: raise --max-profiles, or take some out",
                self.most, profile.source
            )));
        };
        self.bytes = bytes;
        self.profiles = profiles;
        Ok(())
    }
}

/// What is needed to read sources of each kind.
#[derive(Clone)]
pub(crate) struct Reading {
    pub(crate) limits: Limits,
    pub(crate) api: Api,
    /// When the API server is not waited for any longer, all tries included.
    pub(crate) deadline: Instant,
    /// Whether a `ConfigMap` that does not exist is an empty wish.
    pub(crate) allow_empty: bool,
}

/// A folder, or one `ConfigMap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The folder as the user wrote it, or `configmap://NAMESPACE/NAME`.
    pub(crate) key: String,
    /// None for a folder.
    pub(crate) version: Option<Version>,
    pub(crate) content: Content,
}

/// What a [`Part`] holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// By name, then by folder.
    Profiles(Vec<RawProfile>),
    /// What it held at the version that the caller knows.
    Unchanged,
}

/// Every profile of every source: in the order of the sources, then of the `ConfigMaps`, then of
/// the names, then of the folders. Names are as found: not checked, and perhaps there twice. A
/// [`RawProfile::source`] is the part's key, with the subfolder that holds the file.
///
/// `known` has the versions, by [`Part::key`], of which the caller can put in what they held: all
/// their texts, at the same limits, and none of them refused. A `ConfigMap` that two sources name
/// comes once.
///
/// # Errors
/// [`Error::Source`] if any of it cannot be read wholly; then nothing is known of what is wanted.
/// [`Error::Usage`] if the settings say no way to the API server.
pub(crate) fn read_parts(
    sources: &[Source],
    reading: &Reading,
    known: &BTreeMap<String, Version>,
) -> Result<Vec<Part>, Error> {
    let mut budget = Budget::new(&reading.limits);
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for source in sources {
        match source {
            Source::Directory(path) => all.push(Part {
                key: source.to_string(),
                version: None,
                content: Content::Profiles(directory::read(path, &mut budget)?),
            }),
            Source::Kubernetes(maps) => {
                let client = reading.api.until(reading.deadline)?;
                let parts =
                    kubernetes::read(maps, &client, known, reading.allow_empty, &mut budget)?;
                all.extend(
                    parts
                        .into_iter()
                        .filter(|part| seen.insert(part.key.clone())),
                );
            }
        }
    }
    Ok(all)
}

/// Every profile of folders and files, in the order of [`read_parts`].
///
/// # Errors
/// As [`read_parts`], and [`Error::Usage`] for a source of the API server.
pub(crate) fn read(sources: &[Source], limits: &Limits) -> Result<Vec<RawProfile>, Error> {
    let mut budget = Budget::new(limits);
    let mut all = Vec::new();
    for source in sources {
        match source {
            Source::Directory(path) => all.extend(directory::read(path, &mut budget)?),
            Source::Kubernetes(maps) => {
                return Err(Error::Usage(format!(
                    "the source {maps} is not on this machine: name folders and files"
                )));
            }
        }
    }
    Ok(all)
}

/// Whether `apparmor_parser` passes over a file of this name in a folder, and so do we: dot files,
/// `README`, and what packagers, patch and editors leave behind. The names are those of
/// libapparmor's `_aa_is_blacklisted`.
fn is_skipped(name: &[u8]) -> bool {
    const SUFFIXES: [&str; 12] = [
        ".dpkg-new",
        ".dpkg-old",
        ".dpkg-dist",
        ".dpkg-bak",
        ".dpkg-remove",
        ".pacsave",
        ".pacnew",
        ".rpmnew",
        ".rpmsave",
        ".orig",
        ".rej",
        "~",
    ];
    name.is_empty()
        || name.starts_with(b".")
        || name == b"README"
        || SUFFIXES
            .iter()
            .any(|suffix| name.ends_with(suffix.as_bytes()))
}

/// A profile's text, or why these bytes are none.
fn text(bytes: Vec<u8>) -> Result<String, Refusal> {
    let text = String::from_utf8(bytes).map_err(|error| {
        Refusal::new(
            RefusalKind::Text,
            format!(
                "byte {} is not UTF-8: a profile is UTF-8 text",
                error.utf8_error().valid_up_to()
            ),
        )
    })?;
    match text.find('\0') {
        Some(offset) => Err(Refusal::new(
            RefusalKind::Text,
            format!("byte {offset} is a NUL: a profile is text"),
        )),
        None => Ok(text),
    }
}

/// The refusal of a text that is larger than `limit` bytes.
fn too_large(limit: u64) -> Refusal {
    Refusal::new(
        RefusalKind::Limit,
        format!("larger than {limit} bytes: raise --max-profile-size, or split the profile"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_source_is_shown_as_it_was_written() {
        for text in ["/profiles", "profiles/", "./a b", "configmap"] {
            assert_eq!(Source::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_source_is_bad_usage() {
        for text in [
            "",
            "https://example.com/profiles",
            "configmaps://a/b",
            "configmap://a",
        ] {
            assert_eq!(Source::parse(text).unwrap_err().exit(), Exit::Usage);
        }
    }

    #[test]
    fn leftovers_are_passed_over_as_the_parser_does() {
        for name in [
            "",
            ".a",
            "..data",
            "README",
            "a~",
            "a.dpkg-old",
            "a.rpmnew",
            "a.orig",
            "a.pacsave",
        ] {
            assert!(is_skipped(name.as_bytes()), "{name}");
        }
        for name in ["a", "README.custom", "custom.dpkg", "~a", "#a#"] {
            assert!(!is_skipped(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused_at_its_byte() {
        assert_eq!(text(b"\xef\xbb\xbfa".to_vec()).unwrap(), "\u{feff}a");
        let refusal = text(b"abc\xffd".to_vec()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Text);
        assert!(refusal.message.contains("byte 3 "), "{refusal}");
        let refusal = text(b"ab\0c".to_vec()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Text);
        assert!(refusal.message.contains("byte 2 "), "{refusal}");
    }
}

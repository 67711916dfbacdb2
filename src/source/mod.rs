//! The sources: profile texts, read from where the user keeps them.

pub(crate) mod configmaps;
pub(crate) mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use crate::desired::RawProfile;
use crate::error::Error;
use crate::kubernetes::client::Client;
use crate::outcome::Refusal;
use crate::profile::{Digest, quoted};
use crate::state::Object;
use configmaps::ConfigMaps;

/// A place that profiles come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A folder (a mounted ConfigMap, or any tree of files), or one file; an absolute path.
    Folder(PathBuf),
    /// ConfigMaps of the Kubernetes API.
    ConfigMaps(ConfigMaps),
}

impl Source {
    /// Takes what the user wrote.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty text, or a scheme that is not known.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if let Some(maps) = ConfigMaps::parse(text)? {
            return Ok(Self::ConfigMaps(maps));
        }
        let path = std::path::absolute(text).ok();
        path.filter(|_| !text.contains("://")).map(Self::Folder).ok_or_else(|| {
            Error::Usage(format!(
                "the source {} is not known: name a folder with profiles, or configmap://NAMESPACE/NAME",
                quoted(text)
            ))
        })
    }
}

impl fmt::Display for Source {
    /// The source as it is recorded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::ConfigMaps(maps) => write!(f, "{maps}"),
        }
    }
}

/// How much the sources may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The bytes of one profile's text. One that is larger is refused, the others are read.
    pub(crate) profile_bytes: u64,
    /// The profiles of all sources together. With more, the sources count as not read.
    pub(crate) profiles: usize,
}

/// The bytes of all texts together: a guard of the container's memory, far above any real use.
const TOTAL_BYTES: u64 = 64 * 1024 * 1024;

/// All that the sources hold, in the order of the sources, then of the names, then of the folders.
/// Names are as found: not checked, and perhaps there twice.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) profiles: Vec<RawProfile>,
    /// The API server's objects, to be recorded: those without a refused text.
    pub(crate) objects: BTreeMap<String, Object>,
    /// Files that are never profiles, by their names.
    pub(crate) passed_over: BTreeSet<String>,
    bytes: u64,
}

impl Found {
    /// Keeps one profile, if it fits the limits.
    fn keep(&mut self, profile: RawProfile, limits: &Limits) -> Result<(), Error> {
        self.bytes += profile.text.as_ref().map_or(0, String::len) as u64;
        let place = &profile.place;
        if self.bytes > TOTAL_BYTES {
            return Err(Error::Source(format!(
                "the sources hold more than {} MiB of profiles, at {place}: take some out",
                TOTAL_BYTES >> 20,
            )));
        }
        if self.profiles.len() == limits.profiles {
            return Err(Error::Source(format!(
                "the sources hold more than {} profiles, at {place}: take some out, or raise --max-profiles",
                limits.profiles
            )));
        }
        self.profiles.push(profile);
        Ok(())
    }
}

/// What is known of the API server's objects.
pub(crate) struct Known<'a> {
    pub(crate) objects: &'a BTreeMap<String, Object>,
    /// Gives a stored text.
    pub(crate) text: &'a dyn Fn(Digest) -> Option<String>,
    /// Whether a ConfigMap that does not exist is an empty source.
    pub(crate) allow_missing: bool,
}

/// Reads every source. A ConfigMap that two sources name comes once, with the first. `client` is asked
/// for only where a source is on the API server.
///
/// # Errors
/// [`Error::Source`] if any of it cannot be read completely; then the desired profiles are not known.
pub(crate) fn read(
    sources: &[Source],
    limits: &Limits,
    known: &Known,
    client: &dyn Fn() -> Result<Client, Error>,
) -> Result<Found, Error> {
    let mut found = Found::default();
    for source in sources {
        match source {
            Source::Folder(path) => folder::read(path, limits, &mut found)?,
            Source::ConfigMaps(maps) => {
                configmaps::read(maps, &client()?, known, limits, &mut found)?;
            }
        }
    }
    Ok(found)
}

/// A profile's text, or why these bytes are none.
fn text(bytes: Vec<u8>, limit: u64) -> Result<String, Refusal> {
    if bytes.len() as u64 > limit {
        let line = format!(
            "is larger than {limit} bytes: split the profile, or raise --max-profile-size and the container's memory limit"
        );
        return Err(Refusal::new("limit", line));
    }
    let refused = |at: usize, problem: &str| {
        Err(Refusal::new(
            "text",
            format!("byte {at} {problem}: a profile is UTF-8 text"),
        ))
    };
    match String::from_utf8(bytes) {
        Err(error) => refused(error.utf8_error().valid_up_to(), "is not UTF-8"),
        Ok(text) => match text.find('\0') {
            Some(at) => refused(at, "is a NUL"),
            None => Ok(text),
        },
    }
}

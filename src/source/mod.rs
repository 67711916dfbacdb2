//! The sources: profile texts, read from where the user keeps them.

pub(crate) mod configmaps;
pub(crate) mod folder;
pub(crate) mod local;

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, path::PathBuf};

use crate::profile::{Digest, printable, quoted};
use crate::state::Object;
use crate::{desired::RawProfile, error::Error, kubernetes::client::Client, outcome::Refusal};
use configmaps::{ConfigMaps, Reading, SCHEME};

/// Those of `files` whose names begin with `prefix`, by name, with a clause: their names end so that they are
/// skipped.
pub(crate) fn passed_over<'a>(
    files: &'a BTreeSet<String>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, String)> {
    let name = |file: &'a String| file.rsplit('/').next().unwrap_or_default();
    let named = files.iter().map(move |file| (name(file), printable(file)));
    let named = named.filter(move |(name, _)| name.starts_with(prefix));
    let clause = "is skipped: apparmor_parser ignores files with such names; rename it to load it";
    named.map(move |(name, file)| (name, format!("{file} {clause}")))
}

/// A place that profiles come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A folder (a mounted ConfigMap, or any tree of files), or one file; an absolute path.
    Folder(PathBuf),
    /// ConfigMaps of the Kubernetes API.
    ConfigMaps(ConfigMaps),
}

impl Source {
    /// Parses the user's words.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty text, or a scheme that is not known.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let problem = match (ConfigMaps::parse(text), std::path::absolute(text)) {
            (Some(maps), _) => return Ok(Self::ConfigMaps(maps)),
            _ if text.starts_with(SCHEME) => {
                "is neither configmap://NAMESPACE/NAME nor configmap://NAMESPACE?selector=KEY%3DVALUE"
            }
            (_, Ok(path)) if !text.contains("://") => return Ok(Self::Folder(path)),
            _ => "is unknown: give a folder with profiles, or configmap://NAMESPACE/NAME",
        };
        let source = quoted(text);
        Err(Error::Usage(format!("the source {source} {problem}")))
    }
}

impl fmt::Display for Source {
    /// The source as it is recorded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::ConfigMaps(maps) => f.write_str(&maps.written),
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

/// A profile's text, or why there is none.
pub(crate) type Text = Result<String, Refusal>;

/// All that the sources hold, in the order of the sources, then of their paths or names.
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
        let (place, most) = (&profile.place, limits.profiles);
        let excess = if self.bytes > TOTAL_BYTES {
            let most = TOTAL_BYTES >> 20;
            format!("{most} MiB of profiles, at {place}: remove some")
        } else if self.profiles.len() == most {
            format!("{most} profiles, at {place}: remove some, or raise --max-profiles")
        } else {
            self.profiles.push(profile);
            return Ok(());
        };
        let line = format!("the sources hold more than {excess}");
        Err(Error::Source(line))
    }
}

/// The known objects of the API server.
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
            Source::ConfigMaps(source) => {
                let client = &client()?;
                let reading = Reading {
                    source,
                    client,
                    known,
                    limits,
                };
                reading.add_to(&mut found)?;
            }
        }
    }
    Ok(found)
}

/// The text that `bytes` are, of which there may be `limit`.
fn text(bytes: Vec<u8>, limit: u64) -> Text {
    if bytes.len() as u64 > limit {
        let line = format!(
            "is larger than {limit} bytes: split the profile, or raise --max-profile-size and the container's memory limit"
        );
        return Err(Refusal::new("limit", line));
    }
    let (at, problem) = match String::from_utf8(bytes) {
        Err(error) => (error.utf8_error().valid_up_to(), "is not UTF-8"),
        Ok(text) => match text.find('\0') {
            Some(at) => (at, "is a NUL"),
            None => return Ok(text),
        },
    };
    let line = format!("byte {at} {problem}: a profile is UTF-8 text");
    Err(Refusal::new("text", line))
}

#[cfg(test)]
mod tests;

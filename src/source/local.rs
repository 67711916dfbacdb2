//! Texts for `check` and `can`: folders, files, ConfigMaps in a manifest, standard input.

use std::collections::{BTreeMap, BTreeSet};
use std::{io::Read as _, mem::take, path::Path};

use saphyr_parser::{Event, Parser};

use super::{Found, Limits, folder, text};
use crate::{desired::RawProfile, error::Error, fs, profile::is_skipped};

/// The API server takes no larger ConfigMap.
const MANIFEST_BYTES: u64 = 2 << 20;

/// The profiles at one path.
pub(crate) struct Local {
    pub(crate) profiles: Vec<RawProfile>,
    /// Of each text in a manifest, the manifest's line before it.
    pub(crate) lines: BTreeMap<String, u32>,
    /// Files and keys that a pass passes over for their names.
    pub(crate) passed_over: BTreeSet<String>,
}

/// The profiles of the folder or file at `path`, or of standard input for `-`; of a manifest, those in
/// its ConfigMaps. The name of a text in standard input is that of its first profile.
///
/// # Errors
/// Not all of it can be read.
pub(crate) fn read(path: &Path, limits: &Limits) -> Result<Local, Error> {
    let place = path.display().to_string();
    let raw = |name: String, text| RawProfile {
        name,
        source: place.clone(),
        place: place.clone(),
        text,
    };
    let (mut profiles, mut lines) = (Vec::new(), BTreeMap::new());
    let mut passed_over = BTreeSet::new();
    let (is_input, mut bytes) = (path == Path::new("-"), Vec::new());
    if is_input {
        let input = std::io::stdin().take(MANIFEST_BYTES.max(limits.profile_bytes + 1));
        let read = { input }.read_to_end(&mut bytes);
        read.map_err(Error::io("read standard input"))?;
    } else if path.is_file() {
        bytes = fs::read(path, MANIFEST_BYTES).unwrap_or_default();
    }
    if let Some(entries) = manifest(&bytes) {
        for (name, line, value) in entries {
            if is_skipped(name.as_bytes()) {
                passed_over.insert(name);
                continue;
            }
            lines.insert(name.clone(), line);
            profiles.push(raw(name, text(value.into_bytes(), limits.profile_bytes)));
        }
    } else if is_input {
        let text = text(bytes, limits.profile_bytes);
        let name = text.as_ref().map_or(Some("-"), |text| first_profile(text));
        let name = name.map(str::to_owned);
        profiles.extend(name.map(|name| raw(name, text)));
    } else {
        let mut found = Found::default();
        folder::read(path, limits, &mut found)?;
        (profiles, passed_over) = (found.profiles, found.passed_over);
    }
    Ok(Local {
        profiles,
        lines,
        passed_over,
    })
}

fn first_profile(text: &str) -> Option<&str> {
    let mut lines = text.lines();
    let first = lines.find_map(|line| line.trim().strip_prefix("profile "))?;
    let name = first.split_whitespace().next()?;
    Some(name.trim_matches(['"', '{']))
}

/// Name, line and text of each entry of the ConfigMaps in `bytes`, YAML or JSON, in lists too; none where
/// it holds none.
fn manifest(bytes: &[u8]) -> Option<Vec<(String, u32, String)>> {
    let text = str::from_utf8(bytes).ok()?;
    let (mut entries, mut found, mut is_map) = (Vec::new(), Vec::new(), false);
    // Of each open mapping, the key whose value comes next.
    let mut keys: Vec<Option<String>> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.ok()?;
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                keys.push(None);
                continue;
            }
            Event::Scalar(key, ..) if keys.last() == Some(&None) => {
                *keys.last_mut()? = Some(key.into_owned());
                continue;
            }
            Event::Scalar(value, ..) => match keys.as_slice() {
                [Some(key)] | [_, None, Some(key)] if key == "kind" => {
                    is_map = value == "ConfigMap";
                }
                [Some(data), Some(key)] | [_, None, Some(data), Some(key)] if data == "data" => {
                    let line = u32::try_from(span.start.line() - 1).unwrap_or(0);
                    found.push((key.clone(), line, value.into_owned()));
                }
                _ => {}
            },
            Event::MappingEnd | Event::SequenceEnd => {
                keys.pop();
                // An object has ended, alone or in a list.
                if let [] | [_, None] = keys.as_slice() {
                    if take(&mut is_map) {
                        entries.append(&mut found);
                    }
                    found.clear();
                }
            }
            _ => {}
        }
        // A value has ended.
        if let Some(key) = keys.last_mut() {
            *key = None;
        }
    }
    (!entries.is_empty()).then_some(entries)
}

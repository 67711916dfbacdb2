//! Readable copies of the loaded texts (`--copy-to`), as kapparmor keeps them.

use std::{collections::BTreeMap, io, path::Path};

use crate::fs::{read, replace, sweep};
use crate::{profile::Digest, state::Set};

/// The largest copy that is looked at, in bytes: another program may have put a device there.
const LIMIT: u64 = 64 << 20;

/// The text of a digest, or why there is none.
type Texts<'a> = &'a dyn Fn(Digest) -> Result<Vec<u8>, String>;

/// Makes the copies in `to` equal to the loaded versions of `set`. Files that armorer did not write are
/// left alone; a copy that cannot be written is logged.
///
/// Returns the copies that now lie there: to be recorded as `Set::copies`.
pub(crate) fn keep_equal(to: &Path, set: &Set, texts: Texts) -> BTreeMap<String, Digest> {
    let mut copies = set.copies.clone();
    if let Err(error) = std::fs::create_dir_all(to) {
        log::warn!("cannot write to {}: {error}; see --copy-to", to.display());
        return copies;
    }
    let warn = |name: &str, problem: String| {
        log::warn!(profile = name, action = "copy"; "{}: {problem}", to.join(name).display());
    };
    let records = set.in_force();
    let kept: BTreeMap<&str, Digest> = records.map(|(name, r)| (name.as_str(), r.text)).collect();
    let is_ours = |name: &str| copies.contains_key(name) || kept.contains_key(name);
    sweep(to, is_ours);
    copies.retain(|name, _| {
        if kept.contains_key(name.as_str()) {
            return true;
        }
        match std::fs::remove_file(to.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn(name, format!("cannot remove the copy: {error}"));
                true
            }
            _ => false,
        }
    });
    for (name, digest) in kept {
        match copy(&to.join(name), digest, copies.contains_key(name), texts) {
            Ok(()) => _ = copies.insert(name.to_owned(), digest),
            Err(reason) => warn(name, format!("cannot write the copy: {reason}")),
        }
    }
    copies
}

fn copy(path: &Path, digest: Digest, ours: bool, texts: Texts) -> Result<(), String> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => Err("not a regular file: move it away".into()),
        Ok(_) if holds(path, digest) => Ok(()),
        Ok(_) if !ours => Err("the file is another program's: move it away".into()),
        _ => replace(path, &texts(digest)?, 0o644, true).map_err(|error| error.to_string()),
    }
}

/// Whether every copy is in `to`, unchanged.
pub(crate) fn are_current(to: &Path, copies: &BTreeMap<String, Digest>) -> bool {
    let mut copies = copies.iter();
    copies.all(|(name, digest)| holds(&to.join(name), *digest))
}

fn holds(path: &Path, digest: Digest) -> bool {
    read(path, LIMIT).is_ok_and(|bytes| Digest::of(&bytes) == digest)
}

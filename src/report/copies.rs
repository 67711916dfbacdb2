//! Readable copies of the loaded texts (`--copy-to`), as kapparmor keeps them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::fs::replace_durably;
use crate::profile::Digest;
use crate::state::Set;

/// Makes the copies in `to` equal to the loaded versions of `set`, whose texts `text` gives. Files that
/// armorer did not write are left alone; a copy that cannot be written is logged.
///
/// Returns the copies that now lie there: to be recorded as `Set::copies`.
pub(crate) fn keep_equal(
    to: &Path,
    set: &Set,
    text: &dyn Fn(Digest) -> Result<Vec<u8>, String>,
) -> BTreeMap<String, Digest> {
    let mut copies = set.copies.clone();
    let wanted: BTreeMap<&str, Digest> = set
        .in_force()
        .map(|(name, record)| (name.as_str(), record.text))
        .collect();
    if let Err(error) = std::fs::create_dir_all(to) {
        log::warn!("no copies in {}: {error}; see --copy-to", to.display());
        return copies;
    }
    copies.retain(|name, _| {
        wanted.contains_key(&**name)
            || match std::fs::remove_file(to.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log::warn!(profile = name.as_str(), action = "copy"; "{}: the copy stays: {error}", to.join(name).display());
                    true
                }
                _ => false,
            }
    });
    for (name, digest) in wanted {
        let path = to.join(name);
        match copy(&path, digest, copies.contains_key(name), text) {
            Ok(()) => _ = copies.insert(name.to_owned(), digest),
            Err(reason) => {
                log::warn!(profile = name, action = "copy"; "{}: no copy: {reason}", path.display());
            }
        }
    }
    copies
}

fn copy(
    path: &Path,
    digest: Digest,
    ours: bool,
    text: &dyn Fn(Digest) -> Result<Vec<u8>, String>,
) -> Result<(), String> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.is_file() => {
            if std::fs::read(path).is_ok_and(|there| Digest::of(&there) == digest) {
                return Ok(());
            }
            if !ours {
                return Err("another program's file is there: move it away".to_owned());
            }
        }
        Ok(_) => return Err("it is no regular file: move it away".to_owned()),
        Err(_) => {}
    }
    replace_durably(path, &text(digest)?, 0o644).map_err(|error| error.to_string())
}

/// Whether every copy lies in `to` as it was written.
pub(crate) fn stand(to: &Path, copies: &BTreeMap<String, Digest>) -> bool {
    let mut copies = copies.iter();
    copies.all(|(name, digest)| {
        let bytes = std::fs::read(to.join(name));
        bytes.is_ok_and(|bytes| Digest::of(&bytes) == *digest)
    })
}

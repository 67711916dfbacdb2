//! Readable copies of what is loaded (`--copy-to`), as kapparmor keeps them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use fs_err as fs;

use crate::profile::Digest;
use crate::state::Set;
use crate::state::folder::{Folder, replace_durably};

/// Makes the copies in `to` equal to the loaded versions of `set`. Files that this did not
/// write are left alone; what cannot be written is warned of.
///
/// Returns what now lies there from us: to be recorded as `Set::copies`.
pub(crate) fn keep_equal(to: &Path, folder: &Folder, set: &Set) -> BTreeMap<String, Digest> {
    let mut copies = set.copies.clone();
    let loaded = set.profiles.iter().filter(|(_, r)| r.loaded_at.is_some());
    let wanted: BTreeMap<&str, Digest> = loaded.map(|(name, r)| (name.as_str(), r.text)).collect();
    let gone: Vec<String> = copies
        .keys()
        .filter(|name| !wanted.contains_key(name.as_str()))
        .cloned()
        .collect();
    for name in gone {
        match fs::remove_file(to.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!(profile = name.as_str(), action = "copy"; "the copy stays: {error}");
            }
            _ => _ = copies.remove(&name),
        }
    }
    for (name, text) in wanted {
        match copy(&to.join(name), folder, text, copies.contains_key(name)) {
            Ok(()) => _ = copies.insert(name.to_owned(), text),
            Err(why) => log::warn!(profile = name, action = "copy"; "no copy of {name}: {why}"),
        }
    }
    copies
}

fn copy(path: &Path, folder: &Folder, text: Digest, ours: bool) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_file() => {
            let same = fs::read(path).is_ok_and(|there| Digest::of(&there) == text);
            if same {
                return Ok(());
            }
            if !ours {
                return Err(format!("{} is somebody else's file", path.display()));
            }
        }
        Ok(_) => return Err(format!("{} is no plain file", path.display())),
        Err(_) => {}
    }
    let text = folder.text(text)?;
    replace_durably(path, text.as_bytes(), 0o644).map_err(|error| error.to_string())
}

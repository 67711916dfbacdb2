//! The contents that a loaded profile has: the digest of its blob.
//!
//! `policy/profiles/ENCODED.NUMBER` has `name`, and as the kernel is configured `raw_sha256`, or only
//! `raw_data` (6.1), a link to `../../raw_data/ID/raw_data` that every profile of one blob shares.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Kernel;
use crate::{fs, profile::Digest};

/// The largest loaded policy that is compared, in bytes: armorer's are smaller, and so is a name.
const LIMIT: u64 = 64 << 20;

impl Kernel {
    /// The digest of the blob that brought each of `names`, which are loaded; from one look at the
    /// folder. A name that is absent was unloaded since, or the kernel does not show its contents.
    pub(crate) fn contents(&self, names: &BTreeSet<&str>) -> BTreeMap<String, Digest> {
        let profiles = std::fs::read_dir(self.apparmor.join("policy/profiles"));
        // Several names can be encoded alike.
        let mut folders: HashMap<Vec<u8>, Vec<PathBuf>> = HashMap::new();
        // Entries before an error count; the rest is as if the kernel showed no contents.
        for entry in profiles.into_iter().flatten().flatten() {
            if let Some(encoded) = without_number(entry.file_name().as_bytes()) {
                let alike = folders.entry(encoded.to_owned()).or_default();
                alike.push(entry.path());
            }
        }
        let mut found = BTreeMap::new();
        let mut blobs: HashMap<Vec<u8>, Option<Digest>> = HashMap::new();
        let mut seen = self.seen.borrow_mut();
        for name in names {
            let alike = folders.get(&encode(name)).map_or(&[][..], Vec::as_slice);
            let of_name = |folder: &&PathBuf| alike.len() == 1 || is_of(folder, name);
            let mut own = alike.iter().filter(of_name);
            // Two profiles of one name: neither can be identified.
            let (Some(folder), None) = (own.next(), own.next()) else {
                continue;
            };
            let identity = identity(folder);
            let known = blobs.entry(identity.clone());
            let digest = *known.or_insert_with(|| digest(folder, &identity));
            found.extend(digest.map(|digest| (name.to_string(), digest)));
            seen.insert(name.to_string(), (folder.clone(), identity));
        }
        found
    }

    /// Whether `name` is still loaded with the contents that [`Kernel::contents`] last saw. Where the
    /// kernel shows no contents, it is believed.
    pub(crate) fn is_as_seen(&self, name: &str) -> bool {
        let seen = self.seen.borrow();
        let seen = seen.get(name).filter(|(_, seen)| !seen.is_empty());
        seen.is_none_or(|(folder, seen)| identity(folder) == *seen)
    }
}

/// Whether the profile of `folder` has this `name`.
fn is_of(folder: &Path, name: &str) -> bool {
    let text = fs::read(&folder.join("name"), LIMIT).unwrap_or_default();
    text.strip_suffix(b"\n").unwrap_or(&text) == name.as_bytes()
}

/// An identifier of a load, which differs where the contents differ; empty where there is none.
fn identity(folder: &Path) -> Vec<u8> {
    if let Ok(hash) = fs::read(&folder.join("raw_sha256"), LIMIT) {
        return hash;
    }
    let link = folder.join("raw_data");
    let target = std::fs::read_link(link).unwrap_or_default();
    target.into_os_string().into_encoded_bytes()
}

fn digest(folder: &Path, identity: &[u8]) -> Option<Digest> {
    let hash = std::str::from_utf8(identity).unwrap_or_default();
    Digest::parse(hash.trim()).or_else(|| {
        let blob = fs::read(&folder.join("raw_data"), LIMIT).ok()?;
        Some(Digest::of(&blob))
    })
}

/// The name of a profile's folder, as the kernel's `mangle_name` makes it; its ctype is Latin-1's.
pub(super) fn encode(name: &str) -> Vec<u8> {
    let bytes = name.trim_start_matches(['/', '.']).bytes();
    let encoded = bytes.filter_map(|byte| match byte {
        b'/' => Some(b'.'),
        b'\t'..=b'\r' | b' ' | 0xa0 => Some(b'_'),
        b'.' | b'_' | b'-' => Some(byte),
        0xd7 | 0xf7 => None,
        byte if byte.is_ascii_alphanumeric() || byte >= 0xc0 => Some(byte),
        _ => None,
    });
    encoded.collect()
}

/// `ENCODED` of a folder's name `ENCODED.NUMBER`.
pub(super) fn without_number(folder: &[u8]) -> Option<&[u8]> {
    let dot = folder.iter().rposition(|byte| *byte == b'.')?;
    let (encoded, number) = (&folder[..dot], &folder[dot + 1..]);
    (!number.is_empty() && number.iter().all(u8::is_ascii_digit)).then_some(encoded)
}

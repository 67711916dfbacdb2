//! The contents that a loaded profile has: the digest of its blob.
//!
//! `policy/profiles/ENCODED.NUMBER` has `name`, and as the kernel is configured `raw_sha256`, or only
//! `raw_data` (6.1), a link to `../../raw_data/ID/raw_data` that every profile of one blob shares.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::{os::unix::ffi::OsStrExt as _, path::Path};

use super::Kernel;
use crate::{fs, profile::Digest};

/// Above the length of a name or a hash, in bytes.
const NAME_BYTES: u64 = 64 << 10;
/// The largest loaded policy that is compared, in bytes: armorer's are smaller.
const BLOB_BYTES: u64 = 64 << 20;

impl Kernel {
    /// The digest of the blob that brought each of `names`; from one look at the folder. A name that is
    /// absent is not loaded (see [`Kernel::profiles`]), or the kernel does not show its contents.
    pub(crate) fn contents(&self, names: &BTreeSet<&str>) -> BTreeMap<String, Digest> {
        let encoded: HashSet<Vec<u8>> = names.iter().map(|name| encode(name)).collect();
        let name_of = |folder: &Path| {
            encoded.get(without_number(folder.file_name()?.as_bytes())?)?;
            let text = fs::read(&folder.join("name"), NAME_BYTES).ok()?;
            let name = text.strip_suffix(b"\n").unwrap_or(&text);
            names.get(std::str::from_utf8(name).ok()?).copied()
        };
        let mut found: BTreeMap<String, Option<Digest>> = BTreeMap::new();
        let mut blobs: HashMap<Vec<u8>, Option<Digest>> = HashMap::new();
        let profiles = std::fs::read_dir(self.apparmor.join("policy/profiles"));
        // Entries before an error count; the rest is as if the kernel showed no contents.
        for entry in profiles.into_iter().flatten().flatten() {
            let folder = entry.path();
            let Some(name) = name_of(&folder) else {
                continue;
            };
            let identity = identity(&folder);
            let known = blobs.entry(identity.clone());
            let digest = *known.or_insert_with(|| digest(&folder, &identity));
            // Two profiles of one name: neither can be identified.
            let digest = digest.filter(|_| !found.contains_key(name));
            found.insert(name.to_owned(), digest);
            let mut seen = self.seen.borrow_mut();
            seen.insert(name.to_owned(), (folder, identity));
        }
        let shown = found.into_iter();
        let shown = shown.filter_map(|(name, digest)| Some((name, digest?)));
        shown.collect()
    }

    /// Whether `name` is still loaded with the contents that [`Kernel::contents`] last saw. Where the
    /// kernel shows no contents, it is believed.
    pub(crate) fn is_as_seen(&self, name: &str) -> bool {
        let seen = self.seen.borrow();
        let seen = seen.get(name).filter(|(_, seen)| !seen.is_empty());
        seen.is_none_or(|(folder, seen)| identity(folder) == *seen)
    }
}

/// An identifier of a load, which differs where the contents differ; empty where there is none.
fn identity(folder: &Path) -> Vec<u8> {
    if let Ok(hash) = fs::read(&folder.join("raw_sha256"), NAME_BYTES) {
        return hash;
    }
    let link = folder.join("raw_data");
    let target = std::fs::read_link(link).unwrap_or_default();
    target.into_os_string().into_encoded_bytes()
}

fn digest(folder: &Path, identity: &[u8]) -> Option<Digest> {
    let hash = std::str::from_utf8(identity).unwrap_or_default();
    Digest::parse(hash.trim()).or_else(|| {
        let blob = fs::read(&folder.join("raw_data"), BLOB_BYTES).ok()?;
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

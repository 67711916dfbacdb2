//! What is loaded under a name: the kernel's hash of the blob, else the blob that it kept.
//!
//! `policy/profiles/ENCODED.NUMBER` has `name`, `raw_data` and, as the kernel is configured, `raw_sha256`
//! or `raw_sha1` (6.1 has this one). A SHA-1 is only a name here for contents that were once read and
//! compared by their SHA-256: to have them again, the kernel would have to unpack them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::Kernel;
use crate::file;
use crate::profile::{Digest, Sha1};

/// More than a name or a hash has, in bytes.
const NAME_BYTES: u64 = 64 << 10;
/// The largest loaded policy that is compared, in bytes: none of ours is larger.
const BLOB_BYTES: u64 = 64 << 20;

/// What is loaded.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The digest of the blob that brought a name. A name that is absent here is not loaded (see
    /// `Kernel::profiles`), or the kernel does not tell: that is not in its configuration, or two
    /// profiles have that name.
    pub(crate) digests: BTreeMap<String, Digest>,
    /// What this kernel calls a blob that had to be read.
    pub(crate) learned: BTreeMap<Digest, Sha1>,
}

impl Kernel {
    /// The contents that each of `names` was loaded with; from one look at the folder. `known` are
    /// blobs by what the kernel calls them.
    pub(crate) fn contents(
        &self,
        names: &BTreeSet<&str>,
        known: &BTreeMap<Sha1, Digest>,
    ) -> Contents {
        let mut encoded: BTreeMap<Vec<u8>, Vec<&str>> = BTreeMap::new();
        for name in names {
            encoded.entry(encode(name)).or_default().push(name);
        }
        let mut found: BTreeMap<String, Option<Digest>> = BTreeMap::new();
        let mut look = Look {
            known,
            hash: Some(Hash::Sha256),
            bytes: Vec::new(),
            learned: BTreeMap::new(),
        };
        let profiles = self.apparmor.join("policy/profiles");
        // What was listed until an error is told; the rest is as if the kernel told nothing of it.
        let _ = file::list(&profiles, &mut |folder_name, _| {
            let Some(candidates) = without_number(folder_name.as_bytes())
                .and_then(|encoded_name| encoded.get(encoded_name))
            else {
                return;
            };
            let folder = profiles.join(folder_name);
            let file = folder.join("name");
            if file::read_into(&file, NAME_BYTES, &mut look.bytes).is_err() {
                return;
            }
            let text = look.bytes.strip_suffix(b"\n").unwrap_or(&look.bytes);
            if let Some(name) = candidates.iter().find(|name| name.as_bytes() == text) {
                found
                    .entry((*name).to_owned())
                    .and_modify(|digest| *digest = None)
                    .or_insert_with(|| look.loaded_from(&folder));
            }
        });
        let told = found.into_iter();
        Contents {
            digests: told
                .filter_map(|(name, digest)| Some((name, digest?)))
                .collect(),
            learned: look.learned,
        }
    }
}

/// The hashes that kernels offer.
#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha1,
}

struct Look<'a> {
    known: &'a BTreeMap<Sha1, Digest>,
    /// What the last profile had, and the next is asked for first.
    hash: Option<Hash>,
    bytes: Vec<u8>,
    learned: BTreeMap<Digest, Sha1>,
}

impl Look<'_> {
    /// The digest of the blob that the profile with this folder was loaded with.
    fn loaded_from(&mut self, folder: &Path) -> Option<Digest> {
        if matches!(self.hash, Some(Hash::Sha256)) {
            if let Some(digest) = self.word(folder, "raw_sha256").and_then(Digest::parse) {
                return Some(digest);
            }
            self.hash = Some(Hash::Sha1);
        }
        if matches!(self.hash, Some(Hash::Sha1)) {
            let before = self.word(folder, "raw_sha1").and_then(Sha1::parse);
            if let Some(before) = before {
                if let Some(digest) = self.known.get(&before) {
                    return Some(*digest);
                }
                let digest = self.raw(folder)?;
                // Another profile may have taken the place while this one was read.
                if self.word(folder, "raw_sha1").and_then(Sha1::parse).as_ref() == Some(&before) {
                    self.learned.insert(digest, before);
                }
                return Some(digest);
            }
            self.hash = None;
        }
        self.raw(folder).or_else(|| {
            // It may be another's configuration that lacked the hash.
            self.hash = Some(Hash::Sha256);
            let digest = self.word(folder, "raw_sha256")?;
            Digest::parse(digest)
        })
    }

    fn word(&mut self, folder: &Path, file: &str) -> Option<&str> {
        file::read_into(&folder.join(file), NAME_BYTES, &mut self.bytes).ok()?;
        Some(std::str::from_utf8(&self.bytes).ok()?.trim())
    }

    fn raw(&mut self, folder: &Path) -> Option<Digest> {
        file::read_into(&folder.join("raw_data"), BLOB_BYTES, &mut self.bytes).ok()?;
        Some(Digest::of(&self.bytes))
    }
}

/// The name of a profile's folder, as the kernel's `mangle_name` makes it; its ctype is Latin-1's.
pub(super) fn encode(name: &str) -> Vec<u8> {
    name.trim_start_matches(['/', '.'])
        .bytes()
        .filter_map(|byte| match byte {
            b'/' => Some(b'.'),
            b'\t'..=b'\r' | b' ' | 0xa0 => Some(b'_'),
            b'.' | b'_' | b'-' => Some(byte),
            0xd7 | 0xf7 => None,
            byte if byte.is_ascii_alphanumeric() || byte >= 0xc0 => Some(byte),
            _ => None,
        })
        .collect()
}

/// `ENCODED` of a folder's name `ENCODED.NUMBER`.
pub(super) fn without_number(folder: &[u8]) -> Option<&[u8]> {
    let dot = folder.iter().rposition(|byte| *byte == b'.')?;
    let (encoded, number) = (&folder[..dot], &folder[dot + 1..]);
    (!number.is_empty() && number.iter().all(u8::is_ascii_digit)).then_some(encoded)
}

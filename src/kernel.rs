//! The kernel's AppArmor policy: the only module that spells securityfs' paths.
//!
//! The interface is that of security/apparmor/apparmorfs.c in the kernel's source.

mod preflight;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use crate::error::Error;
use crate::profile::{Digest, Mode};

/// The policy of this node, as securityfs shows it.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    root: PathBuf,
    securityfs: PathBuf,
    proc: PathBuf,
}

impl Kernel {
    /// `root` re-bases /sys; `securityfs` and `proc` are where these are mounted.
    pub(crate) fn new(root: &Path, securityfs: PathBuf, proc: PathBuf) -> Self {
        Self {
            root: root.to_owned(),
            securityfs,
            proc,
        }
    }

    /// Where the host's processes are seen.
    pub(crate) fn proc(&self) -> &Path {
        &self.proc
    }

    fn policy(&self, file: &str) -> PathBuf {
        self.securityfs.join("apparmor").join(file)
    }

    /// What tells this boot from any other.
    pub(crate) fn boot_id(&self) -> Result<String, Error> {
        let path = self.proc.join("sys/kernel/random/boot_id");
        let id = fs::read_to_string(path).map_err(Error::io(
            "tell which boot this is (is proc mounted, see --proc?)",
        ))?;
        Ok(id.trim().to_owned())
    }

    /// How often policy was written since boot, by anybody. None where the kernel does not say:
    /// where no policy was ever loaded a read would wait for the first.
    pub(crate) fn revision(&self) -> Option<u64> {
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc_nonblock())
            .open(self.policy("revision"))
            .ok()?;
        let mut text = [0; 32];
        // A second read would wait for the next change.
        let length = file.read(&mut text).ok()?;
        std::str::from_utf8(&text[..length])
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Every profile that is loaded in the node's own policy namespace, children and hats too.
    pub(crate) fn profiles(&self) -> Result<BTreeMap<String, Mode>, Error> {
        let path = self.policy("profiles");
        let text = fs::read(path).map_err(Error::io("read which profiles are loaded"))?;
        Ok(parse_profiles(&String::from_utf8_lossy(&text)))
    }

    /// The digest of what this kernel can mediate: policy is compiled for that.
    pub(crate) fn features(&self) -> Result<Digest, Error> {
        let folder = self.policy("features");
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let tree = WalkDir::new(&folder).sort_by_file_name();
        for entry in tree {
            let entry = entry
                .map_err(|error| Error::io("read the kernel's AppArmor features")(error.into()))?;
            if entry.file_type().is_file() {
                let name = entry.path().strip_prefix(&folder).unwrap_or(entry.path());
                parts.push(name.as_os_str().as_encoded_bytes().to_vec());
                let content = fs::read(entry.path());
                parts.push(content.map_err(Error::io("read the kernel's AppArmor features"))?);
            }
        }
        Ok(Digest::of_parts(parts))
    }

    /// The digest of the blob that each of `names` was loaded from, as far as this kernel tells:
    /// raw_sha256 where it offers it, else the digest of raw_data. Top-level names only.
    pub(crate) fn digests(&self, names: &BTreeSet<&str>) -> BTreeMap<String, Digest> {
        let mut digests = BTreeMap::new();
        if names.is_empty() {
            return digests;
        }
        let mut by_entry: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for name in names {
            by_entry.entry(mangle(name)).or_default().push(name);
        }
        let Ok(entries) = std::fs::read_dir(self.policy("policy/profiles")) else {
            return digests;
        };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let Some((stem, _)) = file.to_str().and_then(|file| file.rsplit_once('.')) else {
                continue;
            };
            let Some(candidates) = by_entry.get(stem) else {
                continue;
            };
            let folder = entry.path();
            let Ok(name) = std::fs::read_to_string(folder.join("name")) else {
                continue;
            };
            let name = name.trim_end_matches('\n');
            if let (true, Some(digest)) = (candidates.contains(&name), loaded_digest(&folder)) {
                digests.insert(name.to_owned(), digest);
            }
        }
        digests
    }

    /// Loads or replaces what `blob` holds: all of it, or nothing. One blob is one write(2).
    pub(crate) fn replace(&self, blob: &[u8]) -> io::Result<()> {
        self.write_once(".replace", blob)
    }

    /// Removes the profile and its children, even from under its processes.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.write_once(".remove", name.as_bytes())
    }

    fn write_once(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .open(self.policy(file))?;
        loop {
            match file.write(bytes) {
                Ok(written) if written == bytes.len() => return Ok(()),
                Ok(written) => {
                    return Err(io::Error::other(format!(
                        "took {written} of {} bytes",
                        bytes.len()
                    )));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn libc_nonblock() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

/// The blob's digest by the folder of a loaded profile.
fn loaded_digest(folder: &Path) -> Option<Digest> {
    if let Ok(text) = std::fs::read_to_string(folder.join("raw_sha256")) {
        return Digest::try_from(text.trim().to_owned()).ok();
    }
    let mut data = std::fs::File::open(folder.join("raw_data")).ok()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match data.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hash.update(&buffer[..length]),
            Err(_) => return None,
        }
    }
    Some(Digest::from_hash(hash))
}

/// The lines of `profiles`: `name (mode)`, the mode after the last ` (`; names may hold
/// anything else. Other policy namespaces' (`:ns:name`) are not ours to look at.
fn parse_profiles(text: &str) -> BTreeMap<String, Mode> {
    text.lines()
        .filter_map(|line| {
            let (name, mode) = line.rsplit_once(" (")?;
            let mode = mode.strip_suffix(')')?;
            (!name.starts_with(':')).then(|| (name.to_owned(), Mode::of(mode)))
        })
        .collect()
}

/// How the kernel makes a folder's name of a profile's: mangle_name in
/// security/apparmor/apparmorfs.c. It loses letters, so the folder's `name` file decides.
fn mangle(name: &str) -> String {
    let name = name.trim_start_matches(['/', '.']);
    name.bytes()
        .filter_map(|byte| match byte {
            b'/' => Some('.'),
            b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r' => Some('_'),
            b'.' | b'_' | b'-' => Some(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => Some(char::from(byte)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_after_the_last_bracket() {
        let loaded = parse_profiles(
            "custom.a (enforce)\ncustom.a//kid (complain)\nname (with) brackets (kill)\n\
             :ns:custom.b (enforce)\n/usr/bin/x y (unconfined)\ncustom.a//null-/bin/sh (complain)\nodd\n",
        );
        let names: Vec<_> = loaded.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "/usr/bin/x y",
                "custom.a",
                "custom.a//kid",
                "custom.a//null-/bin/sh",
                "name (with) brackets"
            ]
        );
        assert_eq!(loaded["name (with) brackets"], Mode::Kill);
    }

    #[test]
    fn folders_are_found_by_the_kernels_own_spelling() {
        assert_eq!(mangle("custom.a"), "custom.a");
        assert_eq!(mangle("/usr/bin/x y"), "usr.bin.x_y");
        assert_eq!(mangle("custom.ü+a"), "custom.a");
    }
}

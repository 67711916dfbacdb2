//! The kernel's policy interface: the only module that spells securityfs' paths.
//!
//! Format of the files: security/apparmor/apparmorfs.c of Linux.

mod contents;
mod preflight;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use walkdir::WalkDir;

use crate::error::Error;
use crate::profile::{self, Digest};

/// The policy interface of the running kernel, or of a folder made like it.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The module's parameters, below /sys.
    parameters: PathBuf,
    /// Where securityfs is mounted.
    securityfs: PathBuf,
    /// The security module's folder in securityfs.
    apparmor: PathBuf,
    /// The process file system.
    proc: PathBuf,
}

impl Kernel {
    /// `root` re-bases /sys; `securityfs` and `proc` are taken as they are.
    pub(crate) fn new(root: &Path, securityfs: PathBuf, proc: PathBuf) -> Self {
        Self {
            parameters: root.join("sys/module/apparmor/parameters"),
            apparmor: securityfs.join("apparmor"),
            securityfs,
            proc,
        }
    }

    /// Identifies this boot.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub(crate) fn boot_id(&self) -> Result<String, Error> {
        let file = self.proc.join("sys/kernel/random/boot_id");
        let purpose = || {
            let file = file.display();
            format!("read the boot's id from {file} (--proc names where proc is mounted)")
        };
        let id = std::fs::read_to_string(&file).map_err(Error::io(purpose()))?;
        match id.trim() {
            "" => Err(Error::io(purpose())(io::Error::other("it is empty"))),
            id => Ok(id.to_owned()),
        }
    }

    /// The count of policy changes in this boot; none if nothing was ever loaded, or the kernel
    /// does not count.
    pub(crate) fn revision(&self) -> Option<u64> {
        // Blocking, the first read would wait for the first policy, and a second one for the next.
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.apparmor.join("revision"), flags, Mode::empty()).ok()?;
        let mut text = [0; 32];
        let length = rustix::io::read(file, &mut text).ok()?;
        std::str::from_utf8(&text[..length])
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// The loaded profiles of this policy namespace, children included.
    ///
    /// # Errors
    /// The list cannot be read.
    pub(crate) fn profiles(&self) -> Result<BTreeMap<String, profile::Mode>, Error> {
        const TRIES: usize = 5;
        let file = self.apparmor.join("profiles");
        let mut tries = 0;
        loop {
            tries += 1;
            // The kernel hands the list out in pieces, unlocked in between: one that was read
            // during a change can lack a name.
            let before = self.revision();
            let list = std::fs::read(&file).map_err(Error::io(format!(
                "read the profiles in force from {}",
                file.display()
            )))?;
            if tries == TRIES || self.revision() == before {
                return Ok(listed(&list));
            }
        }
    }

    /// The digest of what this kernel can mediate: names and contents of all of `features`.
    ///
    /// # Errors
    /// Something there cannot be read.
    pub(crate) fn features(&self) -> Result<Digest, Error> {
        let folder = self.apparmor.join("features");
        let fail = |source| {
            Error::Io(
                format!("read the kernel's features from {}", folder.display()),
                source,
            )
        };
        let mut parts = Vec::new();
        for entry in WalkDir::new(&folder).sort_by_file_name() {
            let entry = entry.map_err(|e| fail(e.into()))?;
            if entry.file_type().is_file() {
                let path = entry.path().strip_prefix(&folder).unwrap_or(entry.path());
                parts.push(path.as_os_str().as_bytes().to_vec());
                parts.push(std::fs::read(entry.path()).map_err(fail)?);
            }
        }
        Ok(Digest::of_parts(parts))
    }

    /// Where the processes are seen.
    pub(crate) fn proc(&self) -> &Path {
        &self.proc
    }

    /// Loads or replaces the profiles of one blob, all or none.
    ///
    /// # Errors
    /// The kernel's, with its number: EPROTO for a damaged blob, EPROTONOSUPPORT for one of
    /// another format, EACCES without the right.
    pub(crate) fn replace(&self, blob: &[u8]) -> io::Result<()> {
        write_once(&self.apparmor.join(".replace"), blob)
    }

    /// Removes a profile and its children. What it confined runs on unconfined.
    ///
    /// # Errors
    /// The kernel's: ENOENT if it is not loaded.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        write_once(&self.apparmor.join(".remove"), name.as_bytes())
    }
}

/// The kernel takes what one write(2) brings from offset 0 as the whole.
fn write_once(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let written = rustix::io::write(rustix::fs::open(file, flags, Mode::empty())?, bytes)?;
    if written == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("the kernel took {written} of {} bytes", bytes.len()),
        ))
    }
}

/// The lines `NAME (MODE)`, without those of other policy namespaces (`:NAMESPACE:NAME (MODE)`).
pub(crate) fn listed(list: &[u8]) -> BTreeMap<String, profile::Mode> {
    String::from_utf8_lossy(list)
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(':'))
        .map(|line| {
            line.strip_suffix(')')
                .and_then(|line| line.rsplit_once(" ("))
                .map_or((line.to_owned(), profile::Mode::Unknown), |(name, mode)| {
                    (name.to_owned(), profile::Mode::of(mode))
                })
        })
        .collect()
}

#[cfg(test)]
mod tests;

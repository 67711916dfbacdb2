//! The kernel's policy interface and its processes: the only room that spells their paths.
//!
//! Format of the files: security/apparmor/apparmorfs.c of Linux.

mod contents;
mod gate;
mod preflight;
pub(crate) mod processes;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::{cell::RefCell, io};

use rustix::fs::{Mode, OFlags};

use crate::{error::Error, profile};
pub(crate) use gate::is_loaded;
pub(crate) use processes::Scan;

/// Where a task's own label is, below its folder; Linux before 5.1 has only the second file, which all
/// security modules share.
const LABELS: [&str; 2] = ["attr/apparmor/current", "attr/current"];

/// The meaning of [`Kernel::complains`] for a person.
pub(crate) const COMPLAINS: &str = "NOTHING IS ENFORCED: the kernel's own mode is complain (/sys/module/apparmor/parameters/mode); write enforce into that file, or boot without apparmor.mode=complain";

/// Where the kernel's files are mounted.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Re-bases /sys/module.
    pub(crate) root: PathBuf,
    pub(crate) securityfs: PathBuf,
    pub(crate) proc: PathBuf,
}

impl Settings {
    /// The folder of the kernel's features.
    pub(crate) fn features(&self) -> PathBuf {
        self.securityfs.join("apparmor/features")
    }
}

/// The policy interface of the running kernel, or of a folder made like it.
pub(crate) struct Kernel {
    settings: Settings,
    /// The security module's folder in securityfs.
    apparmor: PathBuf,
    /// Of each profile whose contents were read, its folder and the identifier of that load.
    seen: RefCell<HashMap<String, (PathBuf, Vec<u8>)>>,
}

impl Kernel {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            apparmor: settings.securityfs.join("apparmor"),
            settings: settings.clone(),
            seen: RefCell::default(),
        }
    }

    /// Identifies this boot.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub(crate) fn boot_id(&self) -> Result<String, Error> {
        let file = self.settings.proc.join("sys/kernel/random/boot_id");
        let id = std::fs::read_to_string(&file).and_then(|text| match text.trim() {
            "" => Err(io::Error::other("it is empty")),
            id => Ok(id.to_owned()),
        });
        let file = file.display();
        let purpose = format!("read the boot ID from {file} (--proc names where proc is mounted)");
        id.map_err(Error::io(purpose))
    }

    /// The count of policy changes in this boot; none if nothing was ever loaded, or the kernel
    /// does not count.
    pub(crate) fn revision(&self) -> Option<u64> {
        // Blocking, the first read would wait for the first policy, and a second one for the next.
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.apparmor.join("revision"), flags, Mode::empty()).ok()?;
        let mut text = [0; 32];
        let length = rustix::io::read(file, &mut text).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        text.trim().parse().ok()
    }

    /// The loaded profiles of this policy namespace, children included.
    ///
    /// # Errors
    /// The list cannot be read.
    pub(crate) fn profiles(&self) -> Result<BTreeMap<String, profile::Mode>, Error> {
        let file = self.apparmor.join("profiles");
        let purpose = format!("read the profiles in force from {}", file.display());
        let mut tries = 5;
        loop {
            // The kernel hands the list out in pieces, unlocked in between: one that was read
            // during a change can lack a name.
            let before = self.revision();
            let list = std::fs::read(&file).map_err(Error::io(&*purpose))?;
            tries -= 1;
            if tries == 0 || self.revision() == before {
                return Ok(listed(&list));
            }
        }
    }

    /// Whether the kernel's own mode is `complain`, in which no profile denies anything.
    pub(crate) fn complains(&self) -> bool {
        self.parameter("mode").as_deref() == Some("complain")
    }

    /// Where processes are listed.
    pub(crate) fn proc(&self) -> &Path {
        &self.settings.proc
    }

    /// Loads the profiles of one blob, all or none.
    ///
    /// # Errors
    /// The kernel's, with its number: EEXIST if one of the names is loaded, EPROTO for a damaged
    /// blob, EPROTONOSUPPORT for one of another format, EACCES without the right.
    pub(crate) fn load(&self, blob: &[u8]) -> io::Result<()> {
        write_once(&self.apparmor.join(".load"), blob)
    }

    /// Loads or replaces the profiles of one blob, all or none.
    ///
    /// # Errors
    /// As [`Self::load`], without EEXIST.
    pub(crate) fn replace(&self, blob: &[u8]) -> io::Result<()> {
        write_once(&self.apparmor.join(".replace"), blob)
    }

    /// Removes a profile and its children. The processes that it confined run on unconfined.
    ///
    /// # Errors
    /// The kernel's: ENOENT if it is not loaded.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        write_once(&self.apparmor.join(".remove"), name.as_bytes())
    }
}

/// The kernel takes one write(2) at offset 0 as the whole.
fn write_once(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let written = rustix::io::write(rustix::fs::open(file, flags, Mode::empty())?, bytes)?;
    if written == bytes.len() {
        return Ok(());
    }
    let length = bytes.len();
    let message = format!("the kernel accepted {written} of {length} bytes");
    Err(io::Error::new(io::ErrorKind::WriteZero, message))
}

/// The lines `NAME (MODE)`, without those of other policy namespaces (`:NAMESPACE:NAME (MODE)`).
pub(crate) fn listed(list: &[u8]) -> BTreeMap<String, profile::Mode> {
    let list = String::from_utf8_lossy(list);
    let own = |line: &&str| !line.is_empty() && !line.starts_with(':');
    let profiles = list.lines().filter(own).map(|line| {
        let label = line.strip_suffix(')').unwrap_or_default();
        let (name, mode) = label.rsplit_once(" (").unwrap_or((line, ""));
        (name.to_owned(), profile::Mode::of(mode))
    });
    profiles.collect()
}

#[cfg(test)]
mod tests;

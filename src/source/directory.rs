//! Profiles from a folder: a mounted `ConfigMap`, or any tree of files.
//!
//! Whoever may write in the folder may also change it while it is read, and must gain nothing by
//! that. So everything is opened relative to a descriptor and without following a link, and a
//! reading that saw a change is thrown away.
//!
//! A `ConfigMap` volume, as the kubelet's `AtomicWriter` keeps it: `..data` links to a dated
//! folder with the files, `KEY` links to `..data/KEY`. A change makes a new dated folder, renames
//! a new link over `..data`, mends the `KEY` links, and then removes the old folder file by file.

mod tree;

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::{Budget, text, too_large};
use crate::error::Error;
use crate::file;
use crate::profile::{RawProfile, Refusal, RefusalKind, printable};
use tree::{Folder, OPEN, open_below, open_file, walk};

#[cfg(test)]
pub(crate) mod tests;

/// A reading that saw a change is tried again this often.
const RETRIES: u32 = 3;
/// The pause before a retry, times the number of the retry.
const PAUSE: Duration = Duration::from_millis(10);

/// Why a reading ended early.
enum Fault {
    /// The folder changed meanwhile; the line is for the case that this goes on.
    Changed(String),
    Error(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The profiles of the folder or the file at `path`, by name, then by folder.
///
/// A file's own name is its profile's name, also in a subfolder. Names that `apparmor_parser`
/// passes over in a folder are passed over. A link is followed to a file inside `path` only. What
/// cannot be a profile (a fifo, a link to elsewhere, too many bytes) comes with its refusal.
///
/// # Errors
/// [`Error::Source`] if a file or folder cannot be read, if the folder did not stay the same for
/// one reading in four, if it is nested too deep, or if the budget is used up.
pub(super) fn read(path: &Path, budget: &mut Budget) -> Result<Vec<RawProfile>, Error> {
    let mut retry = 0;
    loop {
        let mut reading = Reading {
            path,
            found: Vec::new(),
            budget: *budget,
        };
        match reading.run() {
            Ok(()) => {
                *budget = reading.budget;
                let mut found = reading.found;
                found.sort_by(|a, b| (&a.name, &a.source).cmp(&(&b.name, &b.source)));
                return Ok(found);
            }
            Err(Fault::Error(error)) => return Err(error),
            Err(Fault::Changed(line)) if retry == RETRIES => return Err(Error::Source(line)),
            Err(Fault::Changed(_)) => {
                retry += 1;
                thread::sleep(PAUSE * retry);
            }
        }
    }
}

/// One try.
struct Reading<'a> {
    /// The source as the user wrote it.
    path: &'a Path,
    found: Vec<RawProfile>,
    budget: Budget,
}

impl Reading<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        let root = rustix::fs::open(self.path, OPEN, Mode::empty())
            .map_err(|errno| self.root_fault(errno))?;
        let opened = rustix::fs::fstat(&root).map_err(|errno| self.root_fault(errno))?;
        match FileType::from_raw_mode(opened.st_mode) {
            FileType::Directory => self.tree(&root, &opened),
            FileType::RegularFile => {
                let name = self.path.file_name().unwrap_or_default();
                let text = self
                    .contents(root, &opened)
                    .map_err(|error| fault(self.path, error))?;
                self.keep(name.as_bytes(), self.path, text)
            }
            kind => Err(give_up(format!(
                "the source {} is {}: name a folder or a file",
                self.path.display(),
                word(kind)
            ))),
        }
    }

    /// Reads what the folders list, and that they list the same afterwards: a listing can miss a
    /// name that is renamed or moved meanwhile, and a missed profile would count as unwanted.
    fn tree(&mut self, root: &OwnedFd, opened: &Stat) -> Result<(), Fault> {
        let folders = walk(root, self.path, self.budget.most)?;
        for folder in &folders {
            let fd =
                open_below(root, &folder.below).map_err(|error| fault(&folder.shown, error))?;
            for (name, kind) in &folder.entries {
                self.entry(root, &fd, folder, name, *kind)?;
            }
        }
        // Opened again: another program may keep the source as a link, put a new folder in place
        // and remove the old one.
        let now = rustix::fs::open(self.path, OPEN, Mode::empty())
            .map_err(|errno| self.root_fault(errno))?;
        let stat = rustix::fs::fstat(&now).map_err(|errno| self.root_fault(errno))?;
        if (stat.st_dev, stat.st_ino) == (opened.st_dev, opened.st_ino)
            && walk(&now, self.path, self.budget.most)? == folders
        {
            Ok(())
        } else {
            Err(changed(self.path))
        }
    }

    fn root_fault(&self, error: impl Into<io::Error>) -> Fault {
        let error = error.into();
        if error.kind() == io::ErrorKind::NotFound {
            return Fault::Changed(printable(&format!(
                "the source {} does not exist: create or mount it, or name another",
                self.path.display()
            )));
        }
        fault(self.path, error)
    }

    fn entry(
        &mut self,
        root: &OwnedFd,
        fd: &OwnedFd,
        folder: &Folder,
        name: &CStr,
        kind: FileType,
    ) -> Result<(), Fault> {
        let part = OsStr::from_bytes(name.to_bytes());
        let failed = |error| fault(&folder.shown.join(part), error);
        let text = match kind {
            FileType::RegularFile => self.file(fd, name).map_err(failed)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, name, Vec::new())
                    .map_err(|errno| failed(errno.into()))?;
                match target.to_bytes().strip_prefix(b"..data/") {
                    // Read in the dated folder, unless this is the link of a removed key.
                    Some(key) if folder.volume && key == name.to_bytes() => return Ok(()),
                    Some(_) if !folder.volume => {
                        return Err(leads_nowhere(&folder.shown.join(part), "..data"));
                    }
                    _ => self.link(root, &folder.below.join(part)).map_err(failed)?,
                }
            }
            kind => refused(&format!("{}: a profile is a regular file", word(kind))),
        };
        self.keep(name.to_bytes(), &folder.shown, text)
    }

    /// What the link at `below` leads to, if that is a regular file inside the source.
    fn link(&self, root: &OwnedFd, below: &Path) -> io::Result<Result<String, Refusal>> {
        let top = fs::canonicalize(self.path)?;
        let target = match fs::canonicalize(top.join(below)) {
            Ok(target) => target,
            Err(error) => return Ok(refused(&format!("a link that leads nowhere: {error}"))),
        };
        let Ok(inside) = target.strip_prefix(&top) else {
            return Ok(refused(
                "a link that leads outside the source: put the file itself there",
            ));
        };
        let (Some(folder), Some(name)) = (inside.parent(), inside.file_name()) else {
            return Ok(refused("a link to the source itself: link to a file"));
        };
        let fd = open_below(root, folder)?;
        let name = CString::new(name.as_bytes())?;
        let stat = rustix::fs::statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(&fd, &name),
            FileType::Symlink => Err(Errno::LOOP.into()),
            kind => Ok(refused(&format!(
                "a link to {}: link to a file",
                word(kind)
            ))),
        }
    }

    fn file(&self, at: impl AsFd, name: &CStr) -> io::Result<Result<String, Refusal>> {
        let (file, stat) = open_file(at, name)?;
        self.contents(file, &stat)
    }

    /// The text of an open regular file; at most one byte more than the limit is read.
    fn contents(&self, file: OwnedFd, stat: &Stat) -> io::Result<Result<String, Refusal>> {
        let limit = self.budget.profile_bytes;
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if size > limit {
            return Ok(Err(too_large(limit)));
        }
        let mut bytes = Vec::new();
        file::read_open(file, size, limit, &mut bytes)?;
        if bytes.len() as u64 > limit {
            return Ok(Err(too_large(limit)));
        }
        Ok(text(bytes))
    }

    fn keep(
        &mut self,
        name: &[u8],
        shown: &Path,
        text: Result<String, Refusal>,
    ) -> Result<(), Fault> {
        let name = String::from_utf8_lossy(name);
        let text = match name {
            Cow::Borrowed(_) => text,
            Cow::Owned(_) => refused("the file's name is not UTF-8: rename it"),
        };
        let profile = RawProfile {
            name: name.into_owned(),
            source: shown.display().to_string(),
            text,
        };
        self.budget.take(&profile)?;
        self.found.push(profile);
        Ok(())
    }
}

/// What `error` means for something that was there a moment ago.
fn fault(path: &Path, error: impl Into<io::Error>) -> Fault {
    let error = error.into();
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::STALE) => {
            changed(path)
        }
        _ => give_up(format!(
            "cannot read {}: {error}: armorer must be able to read all of a source",
            path.display()
        )),
    }
}

fn changed(path: &Path) -> Fault {
    Fault::Changed(printable(&format!(
        "{} changed each time it was read: let it rest, or exchange files by rename",
        path.display()
    )))
}

/// A link of a volume whose folder is not there: the next moment of an exchange, or for good.
fn leads_nowhere(link: &Path, target: &str) -> Fault {
    Fault::Changed(printable(&format!(
        "{} leads to {target}, which is not there: the next pass looks again; if it stays so, mount the \
         ConfigMap anew, or put the folder there",
        link.display()
    )))
}

fn give_up(line: impl AsRef<str>) -> Fault {
    Fault::Error(Error::Source(printable(line.as_ref())))
}

fn refused(why: &str) -> Result<String, Refusal> {
    Err(Refusal::new(RefusalKind::Name, why))
}

const fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "of an unknown kind",
    }
}

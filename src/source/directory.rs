//! Profiles from a folder: a mounted `ConfigMap`, or any tree of files.
//!
//! Whoever may write in the folder may also change it while it is read, and must gain nothing by
//! that. So everything is opened relative to a descriptor and without following a link, and a
//! reading that saw a change is thrown away.
//!
//! A `ConfigMap` volume, as the kubelet's `AtomicWriter` keeps it: `..data` links to a dated
//! folder with the files, `KEY` links to `..data/KEY`. A change makes a new dated folder, renames
//! a new link over `..data`, mends the `KEY` links, and then removes the old folder file by file.

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;

use super::{Budget, is_skipped, text, too_large};
use crate::error::Error;
use crate::profile::{RawProfile, Refusal, RefusalKind, printable};

#[cfg(test)]
mod tests;

/// A reading that saw a change is tried again this often.
const RETRIES: u32 = 3;
/// The pause before a retry, times the number of the retry.
const PAUSE: Duration = Duration::from_millis(10);
/// Folders below folders, at most.
const DEPTH: usize = 16;
/// The link to the dated folder of a `ConfigMap` volume.
const DATA: &CStr = c"..data";

/// No link is followed, and a fifo that was swapped in does not block.
const OPEN: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Why a reading ended early.
enum Fault {
    /// The folder changed meanwhile, with the line for the case that this goes on.
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
            folders: budget.most,
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
    /// Folders that may still be entered.
    folders: usize,
    budget: Budget,
}

/// A folder that is being read.
#[derive(Clone, Copy)]
struct Folder<'a> {
    root: &'a OwnedFd,
    fd: &'a OwnedFd,
    /// How the user would call it: without the dated folder of a volume.
    shown: &'a Path,
    /// Where it is below the source, with the dated folder.
    below: &'a Path,
    depth: usize,
    /// Whether it is the top of a volume, whose links to `..data` are read elsewhere.
    volume: bool,
}

/// One name in a folder.
type Entry = (CString, FileType);

impl Reading<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        let root = rustix::fs::open(self.path, OPEN.difference(OFlags::NOFOLLOW), Mode::empty())
            .map_err(|errno| self.root_fault(errno))?;
        let opened = rustix::fs::fstat(&root).map_err(|errno| self.root_fault(errno))?;
        match FileType::from_raw_mode(opened.st_mode) {
            FileType::Directory => {
                self.folder(Folder {
                    root: &root,
                    fd: &root,
                    shown: self.path,
                    below: Path::new(""),
                    depth: 0,
                    volume: false,
                })?;
                self.stayed(&opened)
            }
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

    /// That the source's path still leads to the folder that was read: another program may keep
    /// it as a link, put a new folder in place and remove the old one.
    fn stayed(&self, opened: &Stat) -> Result<(), Fault> {
        let now = rustix::fs::stat(self.path).map_err(|errno| self.root_fault(errno))?;
        if (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino) {
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

    fn folder(&mut self, folder: Folder<'_>) -> Result<(), Fault> {
        if folder.depth > DEPTH {
            return Err(give_up(format!(
                "{} is more than {DEPTH} folders deep: lay the profiles out flat",
                folder.shown.display()
            )));
        }
        self.folders = self.folders.checked_sub(1).ok_or_else(|| {
            give_up(format!(
                "{} holds more than {} folders: lay the profiles out flat, or raise --max-profiles",
                self.path.display(),
                self.budget.most
            ))
        })?;
        // Asked for by name: a listing can miss a name that is renamed over meanwhile.
        let dated = dated(folder)?;
        if let Some(dated) = &dated {
            let name = OsStr::from_bytes(dated.as_bytes());
            let fd = open_folder(folder.fd, dated).map_err(|errno| fault(folder.shown, errno))?;
            self.entries(Folder {
                fd: &fd,
                below: &folder.below.join(name),
                ..folder
            })?;
        }
        self.entries(Folder {
            volume: dated.is_some(),
            ..folder
        })?;
        if self::dated(folder)? == dated {
            Ok(())
        } else {
            Err(changed(folder.shown))
        }
    }

    /// Reads what a folder lists, and that it lists the same afterwards: a listing can miss a
    /// name that is renamed meanwhile, and a missed profile would count as unwanted.
    fn entries(&mut self, folder: Folder<'_>) -> Result<(), Fault> {
        let entries = self.list(folder)?;
        for (name, kind) in &entries {
            match kind {
                FileType::RegularFile => self.file(folder, name)?,
                FileType::Directory => {
                    let part = OsStr::from_bytes(name.as_bytes());
                    let shown = folder.shown.join(part);
                    let fd = open_folder(folder.fd, name).map_err(|errno| fault(&shown, errno))?;
                    self.folder(Folder {
                        root: folder.root,
                        fd: &fd,
                        shown: &shown,
                        below: &folder.below.join(part),
                        depth: folder.depth + 1,
                        volume: false,
                    })?;
                }
                FileType::Symlink => self.link(folder, name)?,
                kind => {
                    let why = format!("{}: a profile is a regular file", word(*kind));
                    let refusal = Refusal::new(RefusalKind::Name, why);
                    self.keep(name.to_bytes(), folder.shown, Err(refusal))?;
                }
            }
        }
        if self.list(folder)? == entries {
            Ok(())
        } else {
            Err(changed(folder.shown))
        }
    }

    /// What may be a profile or a folder of profiles, by name.
    fn list(&self, folder: Folder<'_>) -> Result<Vec<Entry>, Fault> {
        let failed = |errno| fault(folder.shown, errno);
        rustix::fs::seek(folder.fd, SeekFrom::Start(0)).map_err(failed)?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut listing = RawDir::new(folder.fd, buffer.spare_capacity_mut());
        let mut entries = Vec::new();
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if is_skipped(name.to_bytes()) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(folder.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(failed)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            entries.push((name.to_owned(), kind));
            // As many files, and as many folders.
            if entries.len() > self.budget.most.saturating_mul(2) {
                return Err(give_up(format!(
                    "{} holds more than {} profiles: raise --max-profiles, or take some out",
                    folder.shown.display(),
                    self.budget.most
                )));
            }
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    fn file(&mut self, folder: Folder<'_>, name: &CStr) -> Result<(), Fault> {
        let text = open_file(folder.fd, name)
            .and_then(|(file, stat)| self.contents(file, &stat))
            .map_err(|error| {
                let name = OsStr::from_bytes(name.to_bytes());
                fault(&folder.shown.join(name), error)
            })?;
        self.keep(name.to_bytes(), folder.shown, text)
    }

    /// A link to a file inside the source is read, any other is refused.
    fn link(&mut self, folder: Folder<'_>, name: &CStr) -> Result<(), Fault> {
        let part = OsStr::from_bytes(name.to_bytes());
        let shown = folder.shown.join(part);
        let target = rustix::fs::readlinkat(folder.fd, name, Vec::new())
            .map_err(|errno| fault(&shown, errno))?;
        if let Some(key) = target.to_bytes().strip_prefix(b"..data/") {
            if folder.volume && key == name.to_bytes() {
                return Ok(());
            }
            if !folder.volume {
                return Err(changed(&shown));
            }
        }
        let root = fs::canonicalize(self.path).map_err(|error| self.root_fault(error))?;
        let text = match fs::canonicalize(root.join(folder.below).join(part)) {
            Ok(target) => match target.strip_prefix(&root) {
                Ok(inside) => self
                    .inside(folder.root, inside)
                    .map_err(|error| fault(&shown, error))?,
                Err(_) => refused("a link that leads outside the source: put the file there"),
            },
            Err(error) => refused(&format!("a link that leads nowhere: {error}")),
        };
        self.keep(name.to_bytes(), folder.shown, text)
    }

    /// The file at `inside`, a path without links, below the source.
    ///
    /// Each step is taken from a descriptor and follows no link, so no exchange of a folder for a
    /// link meanwhile leads outside.
    fn inside(&self, root: &OwnedFd, inside: &Path) -> io::Result<Result<String, Refusal>> {
        let folders = inside.parent().unwrap_or(inside);
        let mut at = open_folder(root, c".")?;
        for folder in folders {
            at = open_folder(&at, &CString::new(folder.as_bytes())?)?;
        }
        let Some(name) = inside.file_name() else {
            return Ok(refused("a link to the source itself: link to a file"));
        };
        let name = CString::new(name.as_bytes())?;
        let stat = rustix::fs::statat(&at, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let (file, stat) = open_file(&at, &name)?;
                self.contents(file, &stat)
            }
            FileType::Symlink => Err(Errno::LOOP.into()),
            kind => Ok(refused(&format!(
                "a link to {}: link to a file",
                word(kind)
            ))),
        }
    }

    /// The text of an open regular file; at most one byte more than the limit is read.
    fn contents(&self, file: OwnedFd, stat: &Stat) -> io::Result<Result<String, Refusal>> {
        let limit = self.budget.profile_bytes;
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if size > limit {
            return Ok(Err(too_large(limit)));
        }
        // Room for more than the size: then the second read sees the end.
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 64);
        File::from(file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)?;
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

/// The dated folder that `..data` names, if `folder` is the top of a volume.
fn dated(folder: Folder<'_>) -> Result<Option<CString>, Fault> {
    let target = match rustix::fs::readlinkat(folder.fd, DATA, Vec::new()) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
        Err(errno) => return Err(fault(folder.shown, errno)),
    };
    let name = target.to_bytes();
    if name.len() > 2 && name.starts_with(b"..") && !name.contains(&b'/') {
        return Ok(Some(target));
    }
    Err(give_up(format!(
        "{} links to {}, which is no folder of a ConfigMap volume: remove the link",
        folder.shown.join("..data").display(),
        target.to_string_lossy()
    )))
}

fn open_folder(at: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(at, name, OPEN | OFlags::DIRECTORY, Mode::empty())
}

/// A regular file; ENXIO if it was exchanged for something else.
fn open_file(at: impl AsFd, name: &CStr) -> io::Result<(OwnedFd, Stat)> {
    let file = rustix::fs::openat(at, name, OPEN, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        Ok((file, stat))
    } else {
        Err(Errno::NXIO.into())
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
            "cannot read {}: {error}: the user that armorer runs as must be able to read all of \
             a source",
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

//! Profiles from a folder: a mounted ConfigMap, or any tree of files.
//!
//! Whoever may write in the folder may also change it while it is read, and must gain nothing by
//! that. So each file is opened below the folder's descriptor by openat2(2), and a reading that saw
//! a change is thrown away.
//!
//! A ConfigMap volume, as the kubelet's `AtomicWriter` keeps it: `..data` links to a dated folder
//! with the files, `KEY` links to `..data/KEY`. A change makes a new dated folder, renames a new
//! link over `..data`, mends the `KEY` links, and then removes the old folder file by file.

use std::ffi::{OsStr, OsString};
use std::fs::{File, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{Found, Limits, text};
use crate::desired::RawProfile;
use crate::error::Error;
use crate::fs;
use crate::outcome::Refusal;
use crate::profile::{is_skipped, printable};

/// A reading that saw a change is tried again this often.
const RETRIES: u32 = 3;
/// The pause before a retry, times the number of the retry.
const PAUSE: Duration = Duration::from_millis(10);
/// Folders below folders, at most.
const DEPTH: usize = 16;
/// The kernel's clock for files ticks at least this often.
const TICK: Duration = Duration::from_millis(20);

/// A fifo that was swapped in does not block, and no terminal becomes ours.
const OPEN: OFlags = OFlags::CLOEXEC
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

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

/// Adds the profiles of the folder or the file at `path`, by name, then by folder.
///
/// A file's own name is its profile's name, also in a subfolder. A link is followed to a file inside
/// `path` only. A file that cannot be a profile (a fifo, a link to elsewhere, too many bytes) comes
/// with its refusal.
///
/// # Errors
/// [`Error::Source`] if a file or folder cannot be read, if the folder did not stay the same for
/// one reading in four, if it is nested too deep, or if a limit is reached.
pub(super) fn read(path: &Path, limits: &Limits, found: &mut Found) -> Result<(), Error> {
    let (before, bytes) = (found.profiles.len(), found.bytes);
    let mut retry = 0;
    loop {
        match read_once(path, limits, found) {
            Ok(()) => {
                let new = &mut found.profiles[before..];
                new.sort_by(|a, b| (&a.name, &a.place).cmp(&(&b.name, &b.place)));
                return Ok(());
            }
            Err(Fault::Error(error)) => return Err(error),
            Err(Fault::Changed(line)) if retry == RETRIES => return Err(Error::Source(line)),
            Err(Fault::Changed(_)) => {
                retry += 1;
                thread::sleep(PAUSE * retry);
                found.profiles.truncate(before);
                found.bytes = bytes;
            }
        }
    }
}

/// One try: the folders are listed, read, and listed again. A listing can miss a name that is renamed
/// or moved meanwhile, and a missed profile would count as unwanted.
fn read_once(path: &Path, limits: &Limits, found: &mut Found) -> Result<(), Fault> {
    let root = File::options()
        .read(true)
        .custom_flags(OPEN.bits().cast_signed())
        .open(path);
    let root = root.map_err(|error| root_fault(path, &error))?;
    let opened = root.metadata().map_err(|error| fault(path, &error))?;
    if opened.is_file() {
        let contents = contents(root, opened.len(), limits).map_err(|error| fault(path, &error))?;
        let name = path.file_name().unwrap_or_default();
        return keep(path, name, path, contents, limits, found);
    }
    if !opened.is_dir() {
        let (path, kind) = (path.display(), word(opened.file_type()));
        return Err(give_up(format!(
            "the source {path} is {kind}: name a folder or a file"
        )));
    }
    let listing = Listing::of(path, limits)?;
    if listing.folders[0].identity.0 != (opened.dev(), opened.ino()) {
        return Err(changed(path));
    }
    for (below, shown, kind) in &listing.files {
        let contents = match kind.is_file() || kind.is_symlink() {
            true => file(&root, below, *kind, limits),
            false => Ok(refused(&format!(
                "is {}: a profile is a regular file",
                word(*kind)
            ))),
        };
        let shown = joined(path, shown);
        let contents = contents.map_err(|error| fault(&path.join(below), &error))?;
        let name = below.file_name().unwrap_or_default();
        keep(path, name, &shown, contents, limits, found)?;
    }
    found
        .passed_over
        .extend(listing.passed_over.iter().cloned());
    // By its path again: another program may keep the source as a link, put a new folder in place
    // and remove the old one.
    if Listing::of(path, limits)? == listing {
        Ok(())
    } else {
        Err(changed(path))
    }
}

/// The folders at and below a path, and the files in them.
#[derive(PartialEq, Eq)]
struct Listing<'a> {
    root: &'a Path,
    limit: usize,
    folders: Vec<Folder>,
    /// Where it is below the root, the folder as a user would call it (without the dated folder of a
    /// volume), and its kind.
    files: Vec<(PathBuf, PathBuf, FileType)>,
    passed_over: Vec<String>,
}

#[derive(PartialEq, Eq)]
struct Folder {
    /// Device, inode, and when a name came or went last.
    identity: ((u64, u64), Duration),
    /// The target of `..data`, if this is the top of a volume.
    dated: Option<OsString>,
}

impl<'a> Listing<'a> {
    fn of(root: &'a Path, limits: &Limits) -> Result<Self, Fault> {
        let mut listing = Self {
            root,
            limit: limits.profiles,
            folders: Vec::new(),
            files: Vec::new(),
            passed_over: Vec::new(),
        };
        listing.add(Path::new(""), Path::new(""), 0)?;
        Ok(listing)
    }

    fn add(&mut self, below: &Path, shown: &Path, depth: usize) -> Result<(), Fault> {
        let path = joined(self.root, below);
        let failed = |error| fault(&path, &error);
        if depth > DEPTH {
            let path = path.display();
            return Err(give_up(format!(
                "{path} is more than {DEPTH} folders deep: lay the profiles out flat"
            )));
        }
        let identity = settled(&path).map_err(failed)?;
        // Asked for by name: a listing can miss a name that is renamed over meanwhile.
        let dated = dated(&path)?;
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (name, kind) = (entry.file_name(), entry.file_type().map_err(failed)?);
            if is_skipped(name.as_bytes()) {
                if !name.as_bytes().starts_with(b".") && !kind.is_dir() {
                    self.passed_over
                        .push(shown.join(name).display().to_string());
                }
            } else if kind.is_dir() {
                folders.push(name);
            } else if dated.is_none() || !kind.is_symlink() {
                // A volume's own links lead into its dated folder.
                files.push((below.join(name), shown.to_owned(), kind));
            }
        }
        if folders.len() + self.folders.len() > self.limit
            || files.len() + self.files.len() > self.limit
        {
            return Err(give_up(format!(
                "{} takes the source above {} profiles or folders: take some out, or raise --max-profiles",
                path.display(),
                self.limit
            )));
        }
        files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        folders.sort_unstable();
        self.folders.push(Folder {
            identity,
            dated: dated.clone(),
        });
        self.files.extend(files);
        if let Some(dated) = dated {
            self.add(&below.join(dated), shown, depth + 1)?;
        }
        for name in folders {
            self.add(&below.join(&name), &shown.join(&name), depth + 1)?;
        }
        Ok(())
    }
}

/// The folder's identity, once a later change would get a later time: what changes it from then on
/// is seen by the next listing. Where a file system keeps whole seconds only, or takes its times from
/// another machine's clock, listing twice is all there is.
fn settled(path: &Path) -> io::Result<((u64, u64), Duration)> {
    let data = std::fs::symlink_metadata(path)?;
    let (seconds, nanoseconds) = (data.ctime().try_into(), data.ctime_nsec().try_into());
    let changed = Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0));
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    if now.abs_diff(changed) < TICK {
        thread::sleep(TICK);
    }
    Ok(((data.dev(), data.ino()), changed))
}

/// The dated folder that `..data` names, if this folder is the top of a volume.
fn dated(path: &Path) -> Result<Option<OsString>, Fault> {
    let link = path.join("..data");
    let target = match std::fs::read_link(&link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        target => target.map_err(|error| fault(path, &error))?,
    };
    let name = target.as_os_str().as_bytes();
    let (link, shown) = (link.display(), target.display());
    if name.len() <= 2 || !name.starts_with(b"..") || name.contains(&b'/') {
        return Err(give_up(format!(
            "{link} links to {shown}, which is no folder of a ConfigMap volume: remove the link"
        )));
    }
    if !path.join(&target).exists() {
        return Err(Fault::Changed(printable(&format!(
            "{link} links to {shown}, which does not exist: mount the ConfigMap anew, or put the folder there"
        ))));
    }
    Ok(Some(target.into_os_string()))
}

/// The text of the file at `below`.
fn file(
    root: &File,
    below: &Path,
    kind: FileType,
    limits: &Limits,
) -> io::Result<Result<String, Refusal>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, below, OPEN, Mode::empty(), resolve) {
        Err(Errno::XDEV) => {
            let reason = "is a link that leads outside the source: put the file itself there";
            return Ok(refused(reason));
        }
        Err(Errno::NOENT | Errno::LOOP) if kind.is_symlink() => {
            return Ok(refused("is a link that leads to no file"));
        }
        file => File::from(file?),
    };
    let data = file.metadata()?;
    match data.is_file() {
        true => contents(file, data.len(), limits),
        // It was exchanged for something else.
        false if kind.is_file() => Err(Errno::NXIO.into()),
        false => {
            let kind = word(data.file_type());
            Ok(refused(&format!("is a link to {kind}: link to a file")))
        }
    }
}

/// The text of an open regular file; not much more than the limit is read.
fn contents(file: File, size: u64, limits: &Limits) -> io::Result<Result<String, Refusal>> {
    let limit = limits.profile_bytes;
    Ok(text(fs::read_open(file, size, limit)?, limit))
}

fn keep(
    root: &Path,
    name: &OsStr,
    shown: &Path,
    text: Result<String, Refusal>,
    limits: &Limits,
    found: &mut Found,
) -> Result<(), Fault> {
    let text = match name.to_str() {
        Some(_) => text,
        None => refused("has a name that is not UTF-8: rename it"),
    };
    let profile = RawProfile {
        name: name.to_string_lossy().into_owned(),
        source: root.display().to_string(),
        place: shown.display().to_string(),
        text,
    };
    Ok(found.keep(profile, limits)?)
}

/// `path` with `below`, and no slash at its end where that is empty.
fn joined(path: &Path, below: &Path) -> PathBuf {
    path.join(below).components().collect()
}

fn root_fault(path: &Path, error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::NotFound {
        return Fault::Changed(printable(&format!(
            "the source {} does not exist: create or mount it, or name another",
            path.display()
        )));
    }
    fault(path, error)
}

/// The meaning of `error` for a file or folder that was there a moment ago.
fn fault(path: &Path, error: &io::Error) -> Fault {
    let shown = path.display();
    match Errno::from_io_error(error) {
        Some(
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::STALE | Errno::AGAIN,
        ) => changed(path),
        Some(Errno::NOSYS) => give_up(format!(
            "cannot read {shown}: this kernel has no openat2: Linux 5.6 is the oldest that works"
        )),
        Some(Errno::PERM) => give_up(format!(
            "cannot read {shown}: openat2 is forbidden here: use the runtime's default seccomp profile of this decade"
        )),
        _ => give_up(format!(
            "cannot read {shown}: {error}: armorer must be able to read all of a source"
        )),
    }
}

fn changed(path: &Path) -> Fault {
    Fault::Changed(printable(&format!(
        "{} changed each time it was read: exchange files by rename, and let the folder rest",
        path.display()
    )))
}

fn give_up(line: impl AsRef<str>) -> Fault {
    Fault::Error(Error::Source(printable(line.as_ref())))
}

fn refused(reason: &str) -> Result<String, Refusal> {
    Err(Refusal::new("name", reason))
}

fn word(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a fifo",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "no regular file",
    }
}

#[cfg(test)]
mod tests;

//! Profiles from a folder: a mounted ConfigMap, or any tree of files.
//!
//! A writer of the folder may change it while it is read, and must gain nothing by that. So each file is opened below the folder's descriptor by openat2(2), and a reading that saw
//! a change is thrown away.
//!
//! A ConfigMap volume, as the kubelet's `AtomicWriter` keeps it: `..data` links to a dated folder
//! with the files, `KEY` links to `..data/KEY`. A change makes a new dated folder, renames a new
//! link over `..data`, mends the `KEY` links, and then removes the old folder file by file.

use std::ffi::{OsStr, OsString};
use std::fs::{File, FileType};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{io, os::unix::ffi::OsStrExt as _, thread};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{Found, Limits, Text, text};
use crate::profile::{is_skipped, printable};
use crate::{desired::RawProfile, error::Error, fs, outcome::Refusal};

/// The retries of a failed reading.
const RETRIES: u32 = 3;
/// The pause before a retry, times the number of the retry.
const PAUSE: Duration = Duration::from_millis(10);
/// Folders below folders, at most.
const DEPTH: usize = 16;
/// The longest tick of the kernel's clock for files.
const TICK: Duration = Duration::from_millis(20);

/// Adds the profiles of the folder or the file at `path`, in the order of their paths.
///
/// A file's own name is its profile's name, also in a subfolder. A link is followed to a file inside
/// `path` only. A file that cannot be a profile (a fifo, a link to elsewhere, too many bytes) comes
/// with its refusal.
///
/// # Errors
/// [`Error::Source`] if none of four readings was complete: a file or folder cannot be read, the folder
/// did not stay the same, it is nested too deep, or a limit is reached.
pub(super) fn read(path: &Path, limits: &Limits, found: &mut Found) -> Result<(), Error> {
    let (before, bytes) = (found.profiles.len(), found.bytes);
    let mut retries = 1..=RETRIES;
    while let Err(error) = read_once(path, limits, found) {
        thread::sleep(PAUSE * retries.next().ok_or(error)?);
        found.profiles.truncate(before);
        found.bytes = bytes;
    }
    Ok(())
}

/// One try: the folders are listed, read, and listed again. A listing can miss a name that is renamed
/// or moved meanwhile, and a missed profile would count as unwanted.
fn read_once(path: &Path, limits: &Limits, found: &mut Found) -> Result<(), Error> {
    let (source, limit) = (path.display().to_string(), limits.profile_bytes);
    let failed = |error| failure(path, &error);
    let root = fs::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => unread(&format!(
            "the source {source} does not exist: create or mount it, or give another"
        )),
        _ => failed(error),
    })?;
    let mut keep = |name: &OsStr, place: &str, text: Text| {
        let misnamed = || refused("has a name that is not UTF-8: rename it");
        let profile = RawProfile {
            name: name.to_string_lossy().into_owned(),
            source: source.clone(),
            place: place.to_owned(),
            text: name.to_str().map_or_else(misnamed, |_| text),
        };
        found.keep(profile, limits)
    };
    let opened = root.metadata().map_err(failed)?;
    if opened.is_file() {
        let bytes = fs::read_open(root, opened.len(), limit).map_err(failed)?;
        let name = path.file_name().unwrap_or_default();
        return keep(name, &source, text(bytes, limit));
    }
    if !opened.is_dir() {
        let kind = word(opened.file_type());
        let line = format!("the source {source} is {kind}: give a folder or a file");
        return Err(unread(&line));
    }
    let listing = Listing::of(path, limits)?;
    if listing.folders[0].0 != (opened.dev(), opened.ino()) {
        return Err(changed(path));
    }
    let mut folder = Path::new("");
    let mut place = joined(path, folder).display().to_string();
    for (below, kind) in &listing.files {
        let parent = below.parent().unwrap_or(below);
        if parent != folder {
            place = joined(path, &shown(parent)).display().to_string();
            folder = parent;
        }
        let text = file(&root, below, *kind, limit);
        let text = text.map_err(|error| failure(&path.join(below), &error))?;
        keep(below.file_name().unwrap_or_default(), &place, text)?;
    }
    // By its path again: another program may keep the source as a link, put a new folder in place
    // and remove the old one.
    if Listing::of(path, limits)? != listing {
        return Err(changed(path));
    }
    found.passed_over.extend(listing.passed_over);
    Ok(())
}

/// The folders at and below a path, and the files in them.
#[derive(Default, PartialEq, Eq)]
struct Listing {
    /// Of each folder, the path's own first: its identity, when a name came or went last, and the target
    /// of `..data` if it is the top of a volume.
    folders: Vec<(Identity, Duration, Option<OsString>)>,
    /// Where each file is below the path, and its kind.
    files: Vec<(PathBuf, FileType)>,
    passed_over: Vec<String>,
}

/// Device and inode.
type Identity = (u64, u64);

impl Listing {
    fn of(root: &Path, limits: &Limits) -> Result<Self, Error> {
        let mut listing = Self::default();
        listing.add(root, Path::new(""), limits)?;
        // By bytes: a path's own order costs as much as reading the files.
        let files = &mut listing.files;
        files.sort_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str()));
        Ok(listing)
    }

    fn add(&mut self, root: &Path, below: &Path, limits: &Limits) -> Result<(), Error> {
        let path = joined(root, below);
        let (here, most) = (path.display(), limits.profiles);
        let failed = |error| failure(&path, &error);
        if below.components().count() > DEPTH {
            let line = format!("{here} is more than {DEPTH} folders deep: use fewer levels");
            return Err(unread(&line));
        }
        let (identity, changed) = settled(&path).map_err(failed)?;
        // Asked for by name: a listing can miss a name that is renamed over meanwhile.
        let dated = dated(&path)?;
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (name, kind) = (entry.file_name(), entry.file_type().map_err(failed)?);
            let place = below.join(&name);
            if is_skipped(name.as_bytes()) {
                if !name.as_bytes().starts_with(b".") && !kind.is_dir() {
                    self.passed_over.push(shown(&place).display().to_string());
                }
            } else if kind.is_dir() {
                folders.push(name);
            } else if dated.is_none() || !kind.is_symlink() {
                // A volume's own links lead into its dated folder.
                self.files.push((place, kind));
            }
        }
        if folders.len() + self.folders.len() > most || self.files.len() > most {
            return Err(unread(&format!(
                "{here} exceeds the limit of {most} profiles or folders: remove some, or raise --max-profiles"
            )));
        }
        folders.sort_unstable();
        self.folders.push((identity, changed, dated.clone()));
        for folder in dated.iter().chain(&folders) {
            self.add(root, &below.join(folder), limits)?;
        }
        Ok(())
    }
}

/// The folder's identity and time, once a later change would get a later time: the next listing sees
/// every change from then on. Where a file system keeps whole seconds only, or takes its times from
/// another machine's clock, listing twice is all there is.
fn settled(path: &Path) -> io::Result<(Identity, Duration)> {
    // Follows links: the source may be one. In the place of a folder below, it has another identity.
    let data = std::fs::metadata(path)?;
    let (seconds, nanoseconds) = (data.ctime().try_into(), data.ctime_nsec().try_into());
    let changed = Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0));
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    if now.abs_diff(changed) < TICK {
        thread::sleep(TICK);
    }
    Ok(((data.dev(), data.ino()), changed))
}

/// The dated folder that `..data` names, if this folder is the top of a volume.
fn dated(path: &Path) -> Result<Option<OsString>, Error> {
    let link = path.join("..data");
    let target = match std::fs::read_link(&link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        target => target.map_err(|error| failure(path, &error))?,
    };
    let name = target.as_os_str().as_bytes();
    let problem = if name.len() <= 2 || !name.starts_with(b"..") || name.contains(&b'/') {
        "is not a folder of a ConfigMap volume: remove the link"
    } else if !path.join(&target).exists() {
        "does not exist: mount the ConfigMap again, or create the folder"
    } else {
        return Ok(Some(target.into_os_string()));
    };
    let (link, target) = (link.display(), target.display());
    let line = format!("{link} links to {target}, which {problem}");
    Err(unread(&line))
}

/// The text of the file at `below`, of which there may be `limit` bytes; not much more is read.
fn file(root: &File, below: &Path, kind: FileType, limit: u64) -> io::Result<Text> {
    if !kind.is_file() && !kind.is_symlink() {
        let kind = word(kind);
        return Ok(refused(&format!("is {kind}: a profile is a regular file")));
    }
    // A fifo that was swapped in does not block, and no terminal becomes ours.
    let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, below, flags, Mode::empty(), resolve) {
        Err(Errno::XDEV) => {
            let reason = "is a link to outside the source: put the file itself there";
            return Ok(refused(reason));
        }
        Err(Errno::NOENT | Errno::LOOP) if kind.is_symlink() => {
            return Ok(refused("is a link to a missing file"));
        }
        file => File::from(file?),
    };
    let data = file.metadata()?;
    match data.is_file() {
        true => Ok(text(fs::read_open(file, data.len(), limit)?, limit)),
        // It was exchanged for something else.
        false if kind.is_file() => Err(Errno::NXIO.into()),
        false => {
            let kind = word(data.file_type());
            Ok(refused(&format!("is a link to {kind}: link to a file")))
        }
    }
}

/// `path` with `below`, and no slash at its end where that is empty.
fn joined(path: &Path, below: &Path) -> PathBuf {
    path.join(below).components().collect()
}

/// `below` as a user would call it: without the dated folders of volumes. No other name that is read
/// begins with a dot.
fn shown(below: &Path) -> PathBuf {
    let is_shown = |name: &&OsStr| !name.as_bytes().starts_with(b".");
    below.iter().filter(is_shown).collect()
}

/// The meaning of `error` for a file or folder that was there a moment ago.
fn failure(path: &Path, error: &io::Error) -> Error {
    let other = format!("{error}: armorer must be able to read all of a source");
    let reason = match Errno::from_io_error(error) {
        Some(
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::STALE | Errno::AGAIN,
        ) => return changed(path),
        Some(Errno::NOSYS) => "this kernel has no openat2: use Linux 5.6 or later",
        Some(Errno::PERM) => {
            "seccomp forbids openat2: use a current runtime's default seccomp profile"
        }
        _ => &other,
    };
    unread(&format!("cannot read {}: {reason}", path.display()))
}

fn changed(path: &Path) -> Error {
    let path = path.display();
    unread(&format!(
        "{path} changed during every read: replace files by rename, and pause other changes"
    ))
}

fn unread(line: &str) -> Error {
    Error::Source(printable(line))
}

fn refused(reason: &str) -> Text {
    Err(Refusal::new("name", reason))
}

fn word(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a fifo",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "a special file",
    }
}

#[cfg(test)]
mod tests;

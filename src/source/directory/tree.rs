//! The folders of a source and what they list, by descriptors that follow no link.
//!
//! A listing is no moment: a name that is moved from a folder not yet listed to one that was is in
//! neither, and may be moved back before the next listing. So a [`Folder`] holds when it was last
//! changed, and is listed only once that tick of the kernel's clock is over: whatever changes it
//! from then on sets another time. Where a file system keeps whole seconds only, or takes its times
//! from another machine's clock, listing twice is all there is.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::{Fault, fault, give_up, leads_nowhere};
use crate::source::is_skipped;

/// Folders below folders, at most.
const DEPTH: usize = 16;
/// The link to the dated folder of a `ConfigMap` volume.
const DATA: &CStr = c"..data";
/// The kernel's clock for files ticks at least this often; a folder changed later than this from
/// now has its time from another clock, or from before the clock was set back.
const TICK: Duration = Duration::from_millis(20);

/// A fifo that was swapped in does not block, and no terminal becomes ours.
pub(super) const OPEN: OFlags = OFlags::CLOEXEC
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// A folder, and what it lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Folder {
    /// How the user would call it: without the dated folder of a volume.
    pub(super) shown: PathBuf,
    /// Where it is below the source, with the dated folder.
    pub(super) below: PathBuf,
    /// Whether it is the top of a volume: its dated folder is a [`Folder`] of its own.
    pub(super) volume: bool,
    /// All but the folders, by name.
    pub(super) entries: Vec<(CString, FileType)>,
    /// Device, inode, and when a name came or went last.
    changed: (u64, u64, Duration),
}

/// Every folder at and below `root`, in one order always, each volume by its dated folder.
///
/// `most` bounds the folders, and the other entries.
pub(super) fn walk(root: &OwnedFd, shown: &Path, most: usize) -> Result<Vec<Folder>, Fault> {
    let mut walk = Walk {
        found: Vec::new(),
        most,
        entries: 0,
    };
    walk.folder(root, shown, Path::new(""), 0)?;
    Ok(walk.found)
}

struct Walk {
    found: Vec<Folder>,
    most: usize,
    entries: usize,
}

impl Walk {
    fn folder(
        &mut self,
        fd: &OwnedFd,
        shown: &Path,
        below: &Path,
        depth: usize,
    ) -> Result<(), Fault> {
        if depth > DEPTH {
            return Err(give_up(format!(
                "{} is more than {DEPTH} folders deep: lay the profiles out flat",
                shown.display()
            )));
        }
        // Asked for by name: a listing can miss a name that is renamed over meanwhile.
        let dated = dated(fd, shown)?;
        if let Some(dated) = &dated {
            let inner = open_folder(fd, dated).map_err(|errno| match errno {
                Errno::NOENT => leads_nowhere(&shown.join("..data"), &dated.to_string_lossy()),
                errno => fault(shown, errno),
            })?;
            let below = below.join(OsStr::from_bytes(dated.as_bytes()));
            self.list(&inner, shown, &below, false, depth)?;
        }
        self.list(fd, shown, below, dated.is_some(), depth)
    }

    fn list(
        &mut self,
        fd: &OwnedFd,
        shown: &Path,
        below: &Path,
        volume: bool,
        depth: usize,
    ) -> Result<(), Fault> {
        let failed = |errno| fault(shown, errno);
        let changed = settled(fd).map_err(failed)?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut listing = RawDir::new(fd, buffer.spare_capacity_mut());
        let mut entries = Vec::new();
        let mut folders = Vec::new();
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if is_skipped(name.to_bytes()) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat =
                        rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            if kind == FileType::Directory {
                folders.push(name.to_owned());
            } else {
                entries.push((name.to_owned(), kind));
            }
            // In a volume a name is there twice, as a link and in the dated folder.
            if folders.len() + self.found.len() > self.most
                || entries.len() + self.entries > self.most.saturating_mul(2)
            {
                return Err(give_up(format!(
                    "{} takes the source above {} profiles or folders: raise --max-profiles, or take \
                     some out",
                    shown.display(),
                    self.most
                )));
            }
        }
        self.entries += entries.len();
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        folders.sort_unstable();
        self.found.push(Folder {
            shown: shown.to_owned(),
            below: below.to_owned(),
            volume,
            entries,
            changed,
        });
        for name in folders {
            let part = OsStr::from_bytes(name.as_bytes());
            let shown = shown.join(part);
            let inner = open_folder(fd, &name).map_err(|errno| fault(&shown, errno))?;
            self.folder(&inner, &shown, &below.join(part), depth + 1)?;
        }
        Ok(())
    }
}

/// Which folder this is and when it was changed, once a later change would get a later time.
fn settled(fd: &OwnedFd) -> Result<(u64, u64, Duration), Errno> {
    let stat = rustix::fs::fstat(fd)?;
    let changed = since_epoch(stat.st_ctime, stat.st_ctime_nsec);
    loop {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        match changed.checked_sub(since_epoch(now.tv_sec, now.tv_nsec)) {
            Some(left) if left < TICK => thread::sleep(left + Duration::from_millis(1)),
            _ => return Ok((stat.st_dev, stat.st_ino, changed)),
        }
    }
}

/// Zero before 1970.
fn since_epoch(seconds: i64, nanoseconds: impl TryInto<u32>) -> Duration {
    Duration::new(
        seconds.try_into().unwrap_or_default(),
        nanoseconds.try_into().unwrap_or_default(),
    )
}

/// The dated folder that `..data` names, if this folder is the top of a volume.
fn dated(fd: &OwnedFd, shown: &Path) -> Result<Option<CString>, Fault> {
    let target = match rustix::fs::readlinkat(fd, DATA, Vec::new()) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
        Err(errno) => return Err(fault(shown, errno)),
    };
    let name = target.to_bytes();
    if name.len() > 2 && name.starts_with(b"..") && !name.contains(&b'/') {
        return Ok(Some(target));
    }
    Err(give_up(format!(
        "{} links to {}, which is no folder of a ConfigMap volume: remove the link",
        shown.join("..data").display(),
        target.to_string_lossy()
    )))
}

fn open_folder(at: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OPEN | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// The folder at `below`, a path without links, below `root`.
///
/// Each step is taken from a descriptor and follows no link, so no exchange of a folder for a
/// link meanwhile leads outside.
pub(super) fn open_below(root: &OwnedFd, below: &Path) -> io::Result<OwnedFd> {
    let mut at = open_folder(root, c".")?;
    for part in below {
        at = open_folder(&at, &CString::new(part.as_bytes())?)?;
    }
    Ok(at)
}

/// A regular file; ENXIO if it was exchanged for something else.
pub(super) fn open_file(at: impl AsFd, name: &CStr) -> io::Result<(OwnedFd, Stat)> {
    let file = rustix::fs::openat(at, name, OPEN | OFlags::NOFOLLOW, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        Ok((file, stat))
    } else {
        Err(Errno::NXIO.into())
    }
}

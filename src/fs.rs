//! Whole files and folders in few system calls, and files replaced whole.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags, RawDir};
use walkdir::WalkDir;

/// The bytes of the file at `path`, of which there may be `limit`: open, fstat, read, close.
///
/// # Errors
/// The system's; `InvalidData` for more than `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(path, limit, &mut bytes)?;
    Ok(bytes)
}

/// As `read`, in place of what `bytes` held: many files in one buffer, since musl maps and unmaps
/// memory for each of these sizes.
///
/// # Errors
/// As `read`'s; `bytes` then holds a part or nothing.
pub(crate) fn read_into(path: &Path, limit: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    let file = rustix::fs::open(path, OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(u64::MAX);
    if size <= limit {
        read_open(file, size, limit, bytes)?;
    }
    if size.max(bytes.len() as u64) > limit {
        let line = format!("more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, line));
    }
    Ok(())
}

/// Appends what `file` holds from where it stands: one read where it is as long as `size` says; 0 says
/// nothing, as for the files that a kernel makes up. Of more than `limit` bytes it appends a part that
/// is longer than `limit`.
///
/// # Errors
/// The system's.
pub(crate) fn read_open(
    file: OwnedFd,
    size: u64,
    limit: u64,
    bytes: &mut Vec<u8>,
) -> io::Result<()> {
    // Room for more than the size: what is read then is the size and no more, or changing.
    bytes.reserve(usize::try_from(size).unwrap_or(0).saturating_add(64));
    let read = rustix::io::read(&file, spare_capacity(bytes))? as u64;
    if size == 0 || read != size {
        let rest = limit.saturating_add(1).saturating_sub(read);
        File::from(file).take(rest).read_to_end(bytes)?;
    }
    Ok(())
}

/// Gives `seen` each entry of the folder at `path`, `.` and `..` too: musl's own listing takes 2 KiB
/// a system call.
///
/// # Errors
/// The system's; some was listed until then.
pub(crate) fn list(path: &Path, seen: &mut dyn FnMut(&OsStr, FileType)) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut listing = RawDir::new(folder, buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        seen(name, entry.file_type());
    }
    Ok(())
}

/// Names and contents of all files at and below `top`, in one order always.
///
/// # Errors
/// The system's.
pub(crate) fn tree_parts(top: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    for entry in WalkDir::new(top).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            let path = entry.path().strip_prefix(top).unwrap_or(entry.path());
            parts.push(path.as_os_str().as_bytes().to_vec());
            parts.push(std::fs::read(entry.path())?);
        }
    }
    Ok(parts)
}

/// Replaces `path` so that readers see the old or the new file and nothing between. Follows no link,
/// and writes into no file that was there before.
///
/// # Errors
/// The system's; the old file is then as it was.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_beside(path, bytes, mode, false).and_then(|temporary| rename(&temporary, path))
}

/// As [`replace`]; and when it returns, the new file outlasts a power cut.
///
/// # Errors
/// As [`replace`]'s.
pub(crate) fn replace_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    store(path, bytes, mode)?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

/// As [`replace_durably`], but the file's name outlasts a power cut only after [`sync_folder`].
///
/// # Errors
/// As [`replace`]'s.
pub(crate) fn store(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_beside(path, bytes, mode, true).and_then(|temporary| rename(&temporary, path))
}

/// # Errors
/// The system's.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let renamed = std::fs::rename(from, to);
    if renamed.is_err() {
        let _ = std::fs::remove_file(from);
    }
    renamed
}

fn write_beside(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> io::Result<PathBuf> {
    let chance = RandomState::new().hash_one(path);
    let temporary = path.with_added_extension(format!("{chance:016x}.tmp"));
    let written = (|| {
        let mut file = File::options()
            .create_new(true)
            .write(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        if sync { file.sync_all() } else { Ok(()) }
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.map(|()| temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_up_to_the_limit() {
        let path = std::env::temp_dir().join(format!("armorer-file-{}", std::process::id()));
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        let mut bytes = b"longer than what is read".to_vec();
        read_into(&path, 10, &mut bytes).unwrap();
        assert_eq!(bytes, b"0123456789");
        let error = read(&path, 9).unwrap_err();
        assert_eq!(error.to_string(), "more than 9 bytes");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path, 9).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_size_that_is_wrong_loses_nothing() {
        let path = std::env::temp_dir().join(format!("armorer-size-{}", std::process::id()));
        std::fs::write(&path, "x".repeat(1000)).unwrap();
        for size in [0, 10, 999, 1001, 5000] {
            let mut bytes = Vec::new();
            read_open(File::open(&path).unwrap().into(), size, 2000, &mut bytes).unwrap();
            assert_eq!(bytes.len(), 1000, "{size}");
        }
        let mut bytes = Vec::new();
        read_open(File::open(&path).unwrap().into(), 0, 500, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 501);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_folder_of_many_files_is_listed_whole() {
        let path = std::env::temp_dir().join(format!("armorer-list-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        for n in 0..2000 {
            std::fs::write(path.join(format!("a-name-of-some-length-{n:04}")), "").unwrap();
        }
        let (mut files, mut folders) = (std::collections::BTreeSet::new(), 0);
        list(&path, &mut |name, kind| match kind {
            FileType::Directory => folders += 1,
            _ => assert!(files.insert(name.to_owned())),
        })
        .unwrap();
        assert_eq!((files.len(), folders), (2000, 2));
        std::fs::remove_dir_all(&path).unwrap();
        let error = list(&path, &mut |_, _| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_the_kernel_makes_up_is_read() {
        let text = read(Path::new("/proc/self/status"), 1 << 20).unwrap();
        assert!(text.starts_with(b"Name:"));
    }
}

//! Whole files in few system calls, and files replaced whole.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::{fs::File, os::unix::fs::OpenOptionsExt as _, path::Path};

use rustix::fs::{Mode, OFlags};

/// Opens `path` for reading. Follows links, waits for no fifo, and takes no terminal.
///
/// # Errors
/// The system's.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// The bytes of the file at `path`, of which there may be `limit`. Opened as by [`open`].
///
/// # Errors
/// The system's; `InvalidData` for more than `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let bytes = read_open(file, size, limit)?;
    if bytes.len() as u64 > limit {
        let line = format!("more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, line));
    }
    Ok(bytes)
}

/// The contents of `file`, most likely `size` bytes; of more than `limit` bytes, the first of them and
/// more than `limit`.
///
/// # Errors
/// The system's.
pub(crate) fn read_open(mut file: File, size: u64, limit: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(size.min(limit)).unwrap_or(0);
    let mut bytes = vec![0; size.max(127) + 1];
    let read = file.read(&mut bytes)?;
    // Less than asked for, and all of the size: this was the end, and the kernel is not asked again. A
    // file that it makes up has no size, and in one reading a name, a label or a digest.
    let is_whole = (1..bytes.len()).contains(&read) && [0, read].contains(&size);
    bytes.truncate(read);
    if !is_whole {
        let rest = limit.saturating_add(1).saturating_sub(read as u64);
        file.take(rest).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Replaces `path` so that readers see the old or the new file and nothing between. Follows no link,
/// and writes into no file that was there before. With `sync`, the new file outlasts a power cut, and
/// its name once its folder is synced.
///
/// # Errors
/// The system's; the old file is then as it was.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> io::Result<()> {
    // Eight digits: a name may have 239 bytes, and a file's 255.
    let chance = RandomState::new().hash_one(path) >> 32;
    let temporary = path.with_added_extension(format!("{chance:08x}.tmp"));
    let mut options = File::options();
    options.create_new(true).write(true).mode(mode);
    let renamed = (|| {
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        let synced = if sync { file.sync_all() } else { Ok(()) };
        synced.and_then(|()| std::fs::rename(&temporary, path))
    })();
    if renamed.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    renamed
}

/// Removes the temporary files that killed processes left in `folder`, of those files that are `ours` by
/// their names.
pub(crate) fn sweep(folder: &Path, ours: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let temporary = entry.file_name();
        let replaced = temporary.to_str().and_then(replaced);
        if replaced.is_some_and(&ours) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The name of the file in whose place this temporary one was to come.
fn replaced(temporary: &str) -> Option<&str> {
    let (name, chance) = temporary.strip_suffix(".tmp")?.rsplit_once('.')?;
    (chance.len() == 8 && u32::from_str_radix(chance, 16).is_ok()).then_some(name)
}

#[cfg(test)]
mod tests;

//! The state folder: lock, atomic save, stored policy, heartbeat.
//!
//! ```text
//! /var/lib/armorer          0700
//!   state.json              replaced whole: write, fsync, rename, fsync of the folder
//!   lock                    0600, never renamed: whoever can open it could hold it
//!   heartbeat[-SET]         the last pass's time and outcome; not synced
//!   events[-SET]            the Events that were sent (--events); not synced
//!   taint[-SET]             that the start-up taint is gone (--clear-taint); not synced
//!   policy/DIGEST.text      what was wanted, by the digest of the text
//!   policy/DIGEST.blob      what was compiled, by the digest of the blob
//!   public/status.json      0644: what others may read
//! ```

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::TryLockError;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::FileType;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Set, State};
use crate::error::Error;
use crate::file;
use crate::profile::Digest;

/// The largest stored blob that is read back, in bytes.
const BLOB_LIMIT: u64 = 64 << 20;
/// The largest memo, in bytes.
const MEMO_LIMIT: u64 = 4 << 20;

/// The state folder.
pub(crate) struct Folder {
    path: PathBuf,
    /// What state.json holds, as far as this process knows.
    saved: Vec<u8>,
}

/// Held until dropped.
pub(crate) struct Lock {
    _file: std::fs::File,
}

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            saved: Vec::new(),
        }
    }

    /// Makes the folder if it is missing, and takes the lock.
    ///
    /// # Errors
    /// The folder cannot be made or written, or another pass held the lock for `timeout`.
    pub(crate) fn lock(&self, timeout: Duration) -> Result<Lock, Error> {
        self.make()?;
        let path = self.path.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(self.unusable("open the lock of"))?;
        let file = file.into_file();
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::Error(error)) => return Err(self.unusable("lock")(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= timeout => {
                    return Err(Error::Lock(format!(
                        "another pass held {} for {timeout:?}: run again later, or raise --lock-timeout",
                        path.display()
                    )));
                }
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(20)),
            }
        }
    }

    fn make(&self) -> Result<(), Error> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&self.path)
                    .map_err(self.unusable("create"))?;
                return Ok(());
            }
            Err(error) => return Err(self.unusable("look at")(error)),
        };
        if metadata.is_dir() && metadata.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(&self.path, PermissionsExt::from_mode(0o700))
                .map_err(self.unusable("close to others"))?;
        }
        Ok(())
    }

    fn unusable(&self, what: &str) -> impl FnOnce(io::Error) -> Error {
        let purpose = format!(
            "{what} the state folder {} (--state-dir; it must be a folder on a writable disk)",
            self.path.display()
        );
        Error::io(purpose)
    }

    /// The recorded state; a new one if there is none.
    pub(crate) fn load(&mut self) -> Result<State, Error> {
        let path = self.path.join("state.json");
        match fs::read(&path) {
            Ok(text) => {
                let state = State::parse(&text).map_err(|error| match error {
                    Error::State(why) => Error::State(format!("{}: {why}", path.display())),
                    other => other,
                })?;
                self.saved = text;
                Ok(state)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(self.unusable("read the state in")(error)),
        }
    }

    /// Writes the state if it differs from what is on the disk. When this returns, it will
    /// outlast a power cut.
    pub(crate) fn save(&mut self, state: &State) -> Result<(), Error> {
        let json = state.to_json();
        if json != self.saved {
            replace_durably(&self.path.join("state.json"), &json, 0o600)
                .map_err(self.unusable("save the state in"))?;
            self.saved = json;
        }
        Ok(())
    }

    /// The digest of what state.json holds, as far as this process knows.
    pub(crate) fn saved(&self) -> Digest {
        Digest::of(&self.saved)
    }

    fn text_path(&self, text: Digest) -> PathBuf {
        self.path.join("policy").join(text_name(text))
    }

    fn blob_path(&self, blob: Digest) -> PathBuf {
        self.path.join("policy").join(blob_name(blob))
    }

    /// Stores a text and what came of it. Call `sync_policy` before the state names them.
    pub(crate) fn store(
        &self,
        text: (Digest, &str),
        blob: Option<(Digest, &[u8])>,
    ) -> Result<(), Error> {
        let stored = || -> io::Result<()> {
            let folder = self.path.join("policy");
            if !folder.is_dir() {
                std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
            }
            store_once(&self.text_path(text.0), text.1.as_bytes())?;
            if let Some((digest, blob)) = blob {
                store_once(&self.blob_path(digest), blob)?;
            }
            Ok(())
        };
        stored().map_err(self.unusable("store policy in"))
    }

    /// Makes the names of what was stored outlast a power cut.
    pub(crate) fn sync_policy(&self) -> Result<(), Error> {
        sync_folder(&self.path.join("policy")).map_err(self.unusable("store policy in"))
    }

    /// Reads the stored blob into `blob`, if it is there and unharmed.
    pub(crate) fn blob(&self, digest: Digest, blob: &mut Vec<u8>) -> Result<(), String> {
        stored(&self.blob_path(digest), blob)?;
        if Digest::of(blob) == digest {
            Ok(())
        } else {
            Err("the stored policy is damaged".into())
        }
    }

    /// The stored text, if it is there and unharmed.
    pub(crate) fn text(&self, digest: Digest) -> Result<String, String> {
        let mut text = Vec::new();
        stored(&self.text_path(digest), &mut text)?;
        if Digest::of(&text) != digest {
            return Err("the stored text is damaged".into());
        }
        String::from_utf8(text).map_err(|_| "the stored text is not UTF-8".into())
    }

    /// Removes what a killed pass left in the policy folder: all that no set's record names.
    pub(crate) fn remove_leftovers(&self, state: &State) {
        let policy = self.path.join("policy");
        let keep: HashSet<Digest> = state.sets.values().flat_map(Set::stored).collect();
        let mut leftovers = Vec::new();
        let _ = file::list(&policy, &mut |name, kind| {
            let is_kept = stored_digest(name).is_some_and(|digest| keep.contains(&digest));
            if !is_kept && kind != FileType::Directory {
                leftovers.push(policy.join(name));
            }
        });
        for leftover in leftovers {
            let _ = fs::remove_file(leftover);
        }
    }

    /// Removes the stored policy among `doubtful` that no set in `now` names.
    pub(crate) fn remove_unnamed(&self, mut doubtful: HashSet<Digest>, now: &State) {
        if doubtful.is_empty() {
            return;
        }
        for digest in now.sets.values().flat_map(Set::stored) {
            doubtful.remove(&digest);
        }
        for digest in doubtful {
            for path in [self.text_path(digest), self.blob_path(digest)] {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Where the heartbeat of `set` is.
    pub(crate) fn heartbeat_path(&self, set: &str) -> PathBuf {
        self.memo_path("heartbeat", set)
    }

    /// Says that a pass has ended; not synced: losing it costs a probe, not a profile. Call it
    /// with `quiet_moment` held.
    pub(crate) fn write_heartbeat(&self, set: &str, json: &[u8]) -> io::Result<()> {
        replace(&self.heartbeat_path(set), json, 0o600)
    }

    /// What `keep_memo` kept last; none if that is lost.
    pub(crate) fn memo<T: DeserializeOwned>(&self, name: &str, set: &str) -> Option<T> {
        let path = self.memo_path(name, set);
        let text = file::read(&path, MEMO_LIMIT).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Keeps a small thing that may be lost; not synced, and not worth failing a pass for.
    pub(crate) fn keep_memo(&self, name: &str, set: &str, memo: &impl Serialize) {
        let json = serde_json::to_vec(memo).expect("plain data");
        if let Err(error) = replace(&self.memo_path(name, set), &json, 0o600) {
            log::warn!("cannot note in {name} what was done: {error}");
        }
    }

    fn memo_path(&self, name: &str, set: &str) -> PathBuf {
        self.path.join(match set {
            "default" => name.to_owned(),
            set => format!("{name}-{set}"),
        })
    }

    /// Held while the heartbeat and the metrics file are written: a pass that did not get the
    /// lock writes them too. Waits for a second at most; none where there is no folder.
    pub(crate) fn quiet_moment(&self) -> Option<Lock> {
        let folder = fs::File::open(&self.path).ok()?.into_file();
        for _ in 0..50 {
            match folder.try_lock() {
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(20)),
                Err(TryLockError::Error(_)) => return None,
                Ok(()) => return Some(Lock { _file: folder }),
            }
        }
        None
    }

    /// Where the published status is.
    pub(crate) fn status_path(&self) -> PathBuf {
        self.path.join("public/status.json")
    }

    /// Publishes what others may read.
    pub(crate) fn publish(&self, json: &[u8]) -> io::Result<()> {
        let folder = self.path.join("public");
        if !folder.is_dir() {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
        }
        replace(&self.status_path(), json, 0o644)
    }
}

fn stored(path: &Path, bytes: &mut Vec<u8>) -> Result<(), String> {
    file::read_into(path, BLOB_LIMIT, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn text_name(text: Digest) -> String {
    format!("{text}.text")
}

/// The digest in the name of a stored text or blob.
fn stored_digest(name: &OsStr) -> Option<Digest> {
    let name = name.to_str()?;
    let digest = name
        .strip_suffix(".text")
        .or_else(|| name.strip_suffix(".blob"))?;
    Digest::parse(digest)
}

fn blob_name(blob: Digest) -> String {
    format!("{blob}.blob")
}

/// Writes `path` if it is not there with this length: its name is its digest, and a file that a
/// power cut left damaged is found by that digest when it is read.
fn store_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::read(path) {
        Ok(there) if there == bytes => Ok(()),
        _ => {
            let temporary = write_beside(path, bytes, 0o600, true)?;
            fs::rename(temporary, path)
        }
    }
}

/// Replaces `path` so that readers see the old or the new, and nothing between.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_beside(path, bytes, mode, false)?;
    fs::rename(temporary, path)
}

/// As `replace`; and when it returns, the new one outlasts a power cut.
pub(crate) fn replace_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_beside(path, bytes, mode, true)?;
    fs::rename(temporary, path)?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// The name is fixed: passes are alone by the lock, and what a killed one left is overwritten.
fn write_beside(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> io::Result<PathBuf> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
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

    fn folder(name: &str) -> (PathBuf, Folder) {
        let path = std::env::temp_dir().join(format!("armorer-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let folder = Folder::new(&path);
        (path, folder)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (path, mut folder) = folder("save");
        let _lock = folder.lock(Duration::ZERO).unwrap();
        assert_eq!(folder.load().unwrap(), State::default());
        let mut state = State::default();
        state.enter_boot("x");
        folder.save(&state).unwrap();
        assert_eq!(Folder::new(&path).load().unwrap(), state);
        let mode = |name| {
            std::fs::metadata(path.join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!(
            [mode(""), mode("state.json"), mode("lock")],
            [0o700, 0o600, 0o600]
        );
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn only_one_holds_the_lock() {
        let (path, folder) = folder("lock");
        let lock = folder.lock(Duration::ZERO).unwrap();
        let error = folder.lock(Duration::from_millis(30)).err().unwrap();
        assert!(matches!(error, Error::Lock(_)), "{error}");
        drop(lock);
        folder.lock(Duration::ZERO).unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_damaged_blob_is_not_given_out() {
        let (path, folder) = folder("blob");
        let _lock = folder.lock(Duration::ZERO).unwrap();
        let (text, blob) = (Digest::of(b"text"), Digest::of(b"blob"));
        folder.store((text, "text"), Some((blob, b"blob"))).unwrap();
        let mut read = Vec::new();
        folder.blob(blob, &mut read).unwrap();
        assert_eq!(read, b"blob");
        std::fs::write(folder.blob_path(blob), "blub").unwrap();
        assert!(
            folder
                .blob(blob, &mut read)
                .unwrap_err()
                .contains("damaged")
        );
        folder.store((text, "text"), Some((blob, b"blob"))).unwrap();
        folder.blob(blob, &mut read).unwrap();
        assert_eq!(read, b"blob");
        folder.remove_leftovers(&State::default());
        assert!(folder.blob(blob, &mut read).is_err() && folder.text(text).is_err());
        std::fs::remove_dir_all(path).unwrap();
    }
}

//! The state folder: lock, atomic save, texts and policies by digest, the status file.
//!
//! ```text
//! /var/lib/armorer          0700, owned by the user who runs armorer
//!   state.json              replaced whole: write, fsync, rename, fsync of the folder
//!   lock                    0600, never renamed: a user who can open it could hold it
//!   status[-SET].json       the last pass, for probes, labels and metrics; not synced
//!   policy/DIGEST.text      a desired text, by its digest
//!   policy/DIGEST.policy    a compiled policy, by its digest
//! ```

use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{collections::HashSet, io, mem::take};

use rustix::fs::OFlags;

use super::{Set, State};
use crate::{error::Error, fs, profile::Digest, time::in_words};

/// The largest file that is read back, in bytes.
const LIMIT: u64 = 64 << 20;

/// The state folder.
pub(crate) struct Store {
    path: PathBuf,
    /// The digest of state.json, as far as this process knows.
    pub(crate) saved: Option<Digest>,
    /// A text or a policy was stored since the last save, and its name is not synced.
    stored: bool,
}

/// Held until dropped.
pub(crate) type Lock = File;

impl Store {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            saved: None,
            stored: false,
        }
    }

    /// Makes the folder if it is missing, and takes the lock.
    ///
    /// # Errors
    /// The folder cannot be made, is not armorer's, or another pass held the lock for `timeout`.
    pub(crate) fn lock(&self, timeout: Duration) -> Result<Lock, Error> {
        self.prepare()?;
        let path = self.path.join("lock");
        let mut options = File::options();
        options.create(true).write(true).mode(0o600);
        // A fifo that was put in its place is not waited for.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
        let opened = options.open(&path);
        let file = opened.map_err(self.unusable("open the lock of"))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(self.unusable("lock")(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= timeout => break,
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        let (path, time) = (path.display(), in_words(timeout));
        Err(Error::State(format!(
            "another pass held {path} for {time}: run again later, or raise --lock-timeout"
        )))
    }

    /// Makes the folder, or makes sure that an existing one is armorer's: a folder of another user
    /// could be changed under our hands, and another program's must not be closed to it.
    fn prepare(&self) -> Result<(), Error> {
        let data = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return make_folder(&self.path).map_err(self.unusable("create"));
            }
            data => data.map_err(self.unusable("examine"))?,
        };
        let path = self.path.display();
        let refused = |reason: &str| {
            let line = format!("{path} {reason}: give another folder with --state-dir");
            Err(Error::State(line))
        };
        let user = rustix::process::geteuid().as_raw();
        if !data.is_dir() {
            return refused("is not a folder");
        }
        if data.uid() != user {
            return refused(&format!("belongs to user {}, not to {user}", data.uid()));
        }
        if data.mode() & 0o077 != 0 {
            let entries = std::fs::read_dir(&self.path).map_err(self.unusable("read"))?;
            let mut entries = entries.flatten().map(|entry| entry.file_name());
            // A disk of its own comes with this folder.
            if entries.any(|name| name != "lost+found") && !self.is_prepared() {
                return refused("is open to other users and holds other programs' files");
            }
            let closed = std::fs::set_permissions(&self.path, Permissions::from_mode(0o700));
            closed.map_err(self.unusable("restrict"))?;
        }
        let policy = std::fs::symlink_metadata(self.policy());
        let ours = self.is_prepared() || self.path.join("state.json").exists();
        if policy.is_ok_and(|policy| !policy.is_dir() || policy.uid() != user || !ours) {
            return refused("has a `policy` that is not armorer's");
        }
        Ok(())
    }

    fn unusable(&self, purpose: &str) -> impl FnOnce(io::Error) -> Error {
        let path = self.path.display();
        Error::io(format!(
            "{purpose} the state folder {path} (--state-dir; it must be a folder on a writable disk)"
        ))
    }

    /// The recorded state; a new one if there is none.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is a newer version's.
    pub(crate) fn load(&mut self) -> Result<State, Error> {
        let path = self.path.join("state.json");
        let json = match fs::read(&path, LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            json => json.map_err(self.unusable("read the state in"))?,
        };
        self.saved = Some(Digest::of(&json));
        let damaged = |error| Error::State(format!("{}: {error}", path.display()));
        State::parse(&json).map_err(damaged)
    }

    /// Writes the state if it differs from that on the disk. When this returns, it outlasts a power
    /// cut.
    ///
    /// # Errors
    /// It cannot be written; the old state then stands.
    pub(crate) fn save(&mut self, state: &State) -> Result<(), Error> {
        let json = state.to_json();
        let digest = Some(Digest::of(&json));
        if digest != self.saved {
            let path = self.path.join("state.json");
            let sync = |folder: &Path| File::open(folder)?.sync_all();
            // First the names of the files that it names.
            let policy = take(&mut self.stored).then(|| sync(&self.policy()));
            let saved = policy.unwrap_or(Ok(()));
            let saved = saved.and_then(|()| fs::replace(&path, &json, 0o600, true));
            let saved = saved.and_then(|()| sync(&self.path));
            saved.map_err(self.unusable("save the state in"))?;
            self.saved = digest;
        }
        Ok(())
    }

    /// The folder of texts and policies.
    fn policy(&self) -> PathBuf {
        self.path.join("policy")
    }

    fn file(&self, kind: Stored, digest: Digest) -> PathBuf {
        self.policy().join(format!("{digest}.{kind}"))
    }

    /// Stores a text or a policy under its digest, unless it is there. It outlasts a power cut before a
    /// state that names it is saved.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn put(&mut self, kind: Stored, digest: Digest, bytes: &[u8]) -> Result<(), Error> {
        let path = self.file(kind, digest);
        // Also one that is there: the pass that stored it may have been killed before its save.
        self.stored = true;
        if fs::read(&path, LIMIT).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let made = make_folder(&self.policy());
        let stored = made.and_then(|()| fs::replace(&path, bytes, 0o600, true));
        stored.map_err(self.unusable("store policy in"))
    }

    /// A stored text or policy, if it is there and undamaged.
    ///
    /// # Errors
    /// Why not, for a person.
    pub(crate) fn get(&self, kind: Stored, digest: Digest) -> Result<Vec<u8>, String> {
        let path = self.file(kind, digest);
        let shown = path.display();
        match fs::read(&path, LIMIT) {
            Ok(bytes) if Digest::of(&bytes) == digest => Ok(bytes),
            Ok(_) => Err(format!("{shown} is damaged")),
            Err(error) => Err(format!("{shown}: {error}")),
        }
    }

    /// Whether no file that `state` names is missing: the folder did not change since the last pass of
    /// `set` wrote its status, or there are enough, since a sweep leaves no others.
    pub(crate) fn is_whole(&self, state: &State, set: &str) -> bool {
        let changed = |path| std::fs::metadata(path).and_then(|data| data.modified());
        let (folder, status) = (changed(self.policy()), changed(self.status_path(set)));
        let files = || std::fs::read_dir(self.policy()).into_iter().flatten();
        matches!((folder, status), (Ok(folder), Ok(status)) if folder < status)
            || files().count() >= stored(state).len()
    }

    /// Removes all that `state` does not name from the folder of policies, and the temporary files
    /// that a killed pass left.
    pub(crate) fn sweep(&self, state: &State) {
        let keep = stored(state);
        let is_kept = |file: &str| {
            let parts = file.split_once('.');
            let digest = parts.filter(|(_, kind)| kind.parse::<Stored>().is_ok());
            let digest = digest.and_then(|(digest, _)| Digest::parse(digest));
            digest.is_some_and(|digest| keep.contains(&digest))
        };
        let entries = std::fs::read_dir(self.policy()).into_iter().flatten();
        for entry in entries.flatten() {
            if !entry.file_name().to_str().is_some_and(is_kept) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let is_ours = |file: &str| file.starts_with("state.json") || file.starts_with("status");
        fs::sweep(&self.path, is_ours);
    }

    /// Whether a pass has taken the folder for armorer's.
    pub(crate) fn is_prepared(&self) -> bool {
        self.path.join("lock").exists()
    }

    /// Where the status of `set` is.
    pub(crate) fn status_path(&self, set: &str) -> PathBuf {
        self.path.join(match set {
            "default" => "status.json".to_owned(),
            set => format!("status-{set}.json"),
        })
    }
}

/// All that `state` names of the folder of policies.
fn stored(state: &State) -> HashSet<Digest> {
    state.sets.values().flat_map(Set::stored).collect()
}

/// Makes a folder for this user alone, unless it is there.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The kinds of files that are stored by digest.
#[derive(Clone, Copy, strum::Display, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Stored {
    Text,
    Policy,
}

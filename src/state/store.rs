//! The state folder: lock, atomic save, texts and policies by digest, the status file.
//!
//! ```text
//! /var/lib/armorer          0700, owned by the user who runs armorer
//!   state.json              replaced whole: write, fsync, rename, fsync of the folder
//!   lock                    0600, never renamed: whoever can open it could hold it
//!   status[-SET].json       the last pass, for probes, labels and metrics; not synced
//!   policy/DIGEST.text      a desired text, by its digest
//!   policy/DIGEST.policy    a compiled policy, by its digest
//! ```

use std::collections::HashSet;
use std::fs::{DirEntry, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::{Set, State};
use crate::error::Error;
use crate::fs;
use crate::profile::Digest;

/// The largest file that is read back, in bytes.
const LIMIT: u64 = 64 << 20;

/// The state folder.
pub(crate) struct Store {
    path: PathBuf,
    /// The contents of state.json, as far as this process knows.
    saved: Vec<u8>,
    /// Whether a file was stored whose name the disk may not have yet.
    unsynced: bool,
}

/// Held until dropped.
pub(crate) struct Lock {
    _file: std::fs::File,
}

impl Store {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            saved: Vec::new(),
            unsynced: false,
        }
    }

    /// Makes the folder if it is missing, and takes the lock.
    ///
    /// # Errors
    /// The folder cannot be made, is not armorer's, or another pass held the lock for `timeout`.
    pub(crate) fn lock(&self, timeout: Duration) -> Result<Lock, Error> {
        self.prepare()?;
        let path = self.path.join("lock");
        let mut options = std::fs::OpenOptions::new();
        options
            .create(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = options
            .open(&path)
            .map_err(self.unusable("open the lock of"))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::Error(error)) => return Err(self.unusable("lock")(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= timeout => {
                    return Err(Error::State(format!(
                        "another pass held {} for {timeout:?}: run again later, or raise --lock-timeout",
                        path.display()
                    )));
                }
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Makes the folder, or makes sure that an existing one is armorer's: a folder of another user
    /// could be changed under our hands, and another program's must not be closed to it.
    fn prepare(&self) -> Result<(), Error> {
        let data = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut builder = std::fs::DirBuilder::new();
                builder.recursive(true).mode(0o700);
                return builder.create(&self.path).map_err(self.unusable("create"));
            }
            data => data.map_err(self.unusable("look at"))?,
        };
        let refused = |reason: &str| {
            let path = self.path.display();
            Err(Error::State(format!(
                "{path} {reason}: name another folder with --state-dir"
            )))
        };
        let user = rustix::process::geteuid().as_raw();
        if !data.is_dir() {
            return refused("is no folder");
        }
        if data.uid() != user {
            return refused(&format!("belongs to user {}, not to {user}", data.uid()));
        }
        if data.mode() & 0o077 != 0 {
            let mut entries = std::fs::read_dir(&self.path).map_err(self.unusable("read"))?;
            if entries.next().is_some() && !self.path.join("lock").exists() {
                return refused("is open to others and holds files that are not armorer's");
            }
            std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o700))
                .map_err(self.unusable("close to others"))?;
        }
        match std::fs::symlink_metadata(self.policy()) {
            Ok(policy) if !policy.is_dir() || policy.uid() != user => {
                refused("has a `policy` that is no folder of its own")
            }
            _ => Ok(()),
        }
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
        let text = match fs::read(&path, LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            text => text.map_err(self.unusable("read the state in"))?,
        };
        let state = State::parse(&text).map_err(|error| match error {
            Error::State(reason) => Error::State(format!("{}: {reason}", path.display())),
            other => other,
        })?;
        self.saved = text;
        Ok(state)
    }

    /// Writes the state if it differs from that on the disk. When this returns, it outlasts a power
    /// cut, and so does all that was stored before.
    ///
    /// # Errors
    /// It cannot be written; the old state then stands.
    pub(crate) fn save(&mut self, state: &State) -> Result<(), Error> {
        let json = state.to_json();
        if json == self.saved {
            return Ok(());
        }
        if self.unsynced {
            fs::sync_folder(&self.policy()).map_err(self.unusable("store policy in"))?;
            self.unsynced = false;
        }
        fs::replace_durably(&self.path.join("state.json"), &json, 0o600)
            .map_err(self.unusable("save the state in"))?;
        self.saved = json;
        Ok(())
    }

    /// The digest of state.json, as far as this process knows.
    pub(crate) fn saved(&self) -> Digest {
        Digest::of(&self.saved)
    }

    fn policy(&self) -> PathBuf {
        self.path.join("policy")
    }

    /// Stores a text or a policy under its digest, unless it is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn put(&mut self, kind: Stored, digest: Digest, bytes: &[u8]) -> Result<(), Error> {
        let path = self.policy().join(kind.file(digest));
        if fs::read(&path, LIMIT).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let stored = (|| {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(self.policy())?;
            fs::store(&path, bytes, 0o600)
        })();
        stored.map_err(self.unusable("store policy in"))?;
        self.unsynced = true;
        Ok(())
    }

    /// A stored text or policy, if it is there and undamaged.
    ///
    /// # Errors
    /// Why not, for a person.
    pub(crate) fn get(&self, kind: Stored, digest: Digest) -> Result<Vec<u8>, String> {
        let path = self.policy().join(kind.file(digest));
        let bytes =
            fs::read(&path, LIMIT).map_err(|error| format!("{}: {error}", path.display()))?;
        if Digest::of(&bytes) == digest {
            Ok(bytes)
        } else {
            Err(format!("{} is damaged", path.display()))
        }
    }

    /// Removes all that `state` does not name from the folder of policies, and the temporary files
    /// that a killed pass left.
    pub(crate) fn sweep(&self, state: &State) {
        let keep: HashSet<Digest> = state.sets.values().flat_map(Set::stored).collect();
        let kept = |name: &str| Stored::digest(name).is_some_and(|digest| keep.contains(&digest));
        let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
        let policies = entries(&self.policy());
        let policies = policies.filter(|entry| !entry.file_name().to_str().is_some_and(kept));
        let written = |entry: &DirEntry| entry.file_name().as_encoded_bytes().ends_with(b".tmp");
        for leftover in policies.chain(entries(&self.path).filter(written)) {
            let _ = std::fs::remove_file(leftover.path());
        }
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

/// The kinds of files that are stored by digest.
#[derive(Clone, Copy)]
pub(crate) enum Stored {
    Text,
    Policy,
}

impl Stored {
    fn file(self, digest: Digest) -> String {
        match self {
            Self::Text => format!("{digest}.text"),
            Self::Policy => format!("{digest}.policy"),
        }
    }

    /// The digest in a file's name.
    fn digest(file: &str) -> Option<Digest> {
        let digest = file
            .strip_suffix(".text")
            .or_else(|| file.strip_suffix(".policy"));
        Digest::parse(digest?)
    }
}

#[cfg(test)]
mod tests;

//! Power cuts: the state folder lies on an ext4 file system of its own, and the contents of its disk
//! at one moment is all that is there after the next boot.
//!
//! A pass is killed at a call and the disk copied at once, so unsynced data is lost; or
//! copied after another program synced a file of its own, which writes down all names and sizes, and
//! no contents. The copy is mounted, as after a boot without policy: `restore` must bring back
//! the policies in force, and the next pass converge. Needs root, and loop devices of this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::folder::Native;
use crate::sweep::{Node as _, Undisturbed, all, kills_at_writes, undisturbed};
use crate::trace::{At, By};

struct Disk {
    native: Native,
    dir: PathBuf,
    expected: Undisturbed,
}

/// The disk's fate before the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    Nothing,
    Sync,
}

impl Disk {
    fn new() -> Self {
        let native = Native::new(0, true);
        let dir = std::env::temp_dir().join(format!("armorer-power-{}", std::process::id()));
        fs::create_dir_all(dir.join("mnt")).unwrap();
        sh(
            &dir,
            "truncate -s 8M base && mkfs.ext4 -q -F -J size=1 base && mount -o loop base mnt",
        );
        native.keep_state_in(&dir.join("mnt/armorer"));
        let expected = undisturbed(&native);
        native.reset_state();
        sh(
            &dir,
            "umount mnt && rm -f disk && cp base disk && mount -o loop disk mnt",
        );
        Self {
            native,
            dir,
            expected,
        }
    }

    /// A pass that is killed at `at` or ends, and the power cut; then the conditions.
    fn cut(&self, at: Option<At>, others: Others, synced: bool) -> Result<(), String> {
        sh(
            &self.dir,
            "umount mnt && rm -f disk && cp base disk && mount -o loop disk mnt",
        );
        self.native.reset_folder();
        let ended = self.native.synced_pass(at, synced).ended;
        // A pass that loads more at once may end before that call.
        let killed = at.is_some() && ended == 128 + 9;
        if !killed && ended != 0 {
            return Err(format!("the pass ended with {ended}"));
        }
        if others == Others::Sync {
            let file = fs::File::create(self.dir.join("mnt/theirs")).unwrap();
            file.sync_all().unwrap();
        }
        sh(
            &self.dir,
            "rm -f cut && cp disk cut && umount mnt && mount -o loop cut mnt",
        );
        self.boots(!killed)
    }

    fn boots(&self, ended: bool) -> Result<(), String> {
        self.native.boot();
        let restore = self.native.restore(None);
        let log = restore.log.trim();
        if restore.ended != 0 {
            return Err(format!("restore ended with {}: {log}", restore.ended));
        }
        let now = self.native.in_force();
        let (before, after) = (&self.expected.before, &self.expected.after);
        for name in [
            "custom.keep",
            "custom.change",
            "custom.family",
            "custom.other",
        ] {
            let contents = now.get(name);
            let known = contents.is_some()
                && (contents == after.get(name) || !ended && contents == before.get(name));
            if !known {
                return Err(format!("restore did not bring {name} back: {log}"));
            }
        }
        let next = self.native.pass(None);
        if next.ended != 0 {
            return Err(format!(
                "the next pass ended with {}: {}",
                next.ended,
                next.log.trim()
            ));
        }
        let now = self.native.in_force();
        // Profiles that only its processes kept in force went with them.
        let right = after
            .iter()
            .all(|(name, contents)| name == "custom.busy" || now.get(name) == Some(contents));
        if !right || now.len() + 1 != after.len() {
            return Err(format!("the next pass left {:?} in force", now.keys()));
        }
        let state = walkdir::WalkDir::new(self.native.state_dir().join("."))
            .into_iter()
            .flatten();
        let state = state.map(|file| file.path().display().to_string());
        let mut left = self
            .native
            .files()
            .into_iter()
            .chain(state)
            .filter(|file| file.contains(".tmp"));
        left.next()
            .map_or(Ok(()), |file| Err(format!("{file} is left")))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.join("mnt")).status();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn sh(dir: &Path, script: &str) {
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(dir)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script} (root, mkfs.ext4 and loop devices are needed): {log}"
    );
}

#[test]
fn the_power_cut_anywhere_in_a_pass() {
    let disk = Disk::new();
    let moments = kills_at_writes(&disk.expected.calls).into_iter();
    let moments = moments.map(|(at, _)| at);
    let moments = moments.filter(|at| at.process == 0 && at.by == By::AfterWrites);
    let moments: Vec<_> = moments.map(Some).chain([None]).collect();
    let every = if all() { 1 } else { 5 };
    let tried = moments.iter().rev().step_by(every);
    let (mut cuts, mut failures) = (0, Vec::new());
    for at in tried {
        for others in [Others::Nothing, Others::Sync] {
            cuts += 1;
            let result = disk.cut(*at, others, true);
            failures.extend(result.err().map(|why| format!("{at:?}, {others:?}: {why}")));
        }
    }
    println!(
        "\npower cuts: {cuts} tried, {} survived",
        cuts - failures.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A file system that keeps no order between folders could else keep a state and lose the files that it
/// names; the one of this suite keeps it.
#[test]
fn the_names_of_stored_files_are_synced_before_a_state_that_names_them() {
    let calls = Disk::new().expected.calls.clone();
    let (mut unsynced, mut saves) = (false, 0);
    for call in calls.iter().filter(|call| call.process == 0) {
        let path = &call.path;
        match call.name.as_str() {
            "rename" if path.contains("/policy/") => unsynced = true,
            "fsync" if path.ends_with("/policy") => unsynced = false,
            "rename" if path.contains("/state.json") => {
                assert!(!unsynced, "{path} is renamed before the names are synced");
                saves += 1;
            }
            _ => {}
        }
    }
    assert!(saves > 1, "{saves} saves");
    assert!(calls.iter().any(|call| call.path.contains("/policy/")));
}

/// That this suite can fail: with every fsync left out, a reported result is lost.
#[test]
fn without_fsync_a_power_cut_is_noticed() {
    let disk = Disk::new();
    let results = [Others::Nothing, Others::Sync].map(|others| disk.cut(None, others, false));
    println!("\nwithout fsync: {results:?}");
    assert!(results.iter().all(Result::is_err), "{results:?}");
}

//! The kernel's own word, confined processes, and a case to run armorer in.

pub(crate) mod blob;
pub(crate) mod kernel;
pub(crate) mod process;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) use kernel::{compile, loaded, raw_data};
pub(crate) use process::hold;

/// Profiles of others that no case may touch.
const FOREIGN: [&str; 4] = [
    "docker-default",
    "cri-containerd.apparmor.d",
    "/usr/bin/foreign",
    "host.package",
];

/// How an armorer ended, and all that it said.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) said: String,
}

impl Run {
    /// Asserts the exit code; shows the output if it is another.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "armorer said:\n{}", self.said);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.said.contains(words), "no {words:?} in:\n{}", self.said);
        self
    }
}

/// A source, a state folder, and the policy of others, which must be the same at the end.
pub(crate) struct Case {
    pub(crate) dir: PathBuf,
    foreign: BTreeMap<String, Vec<u8>>,
}

impl Case {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        kernel::remove_all("custom.");
        for name in FOREIGN {
            kernel::replace(&compile(&format!("profile \"{name}\" {{ file, signal, }}")));
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/case-{}-{count}", std::process::id()));
        fs::create_dir_all(dir.join("source")).unwrap();
        Self {
            dir,
            foreign: foreign(),
        }
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    pub(crate) fn want(&self, name: &str, text: &str) {
        fs::write(self.source().join(name), text).unwrap();
    }

    /// Wants a profile that denies to write one file, and allows the rest.
    pub(crate) fn want_simple(&self, name: &str) {
        self.want(name, &simple(name, "secret"));
    }

    pub(crate) fn unwant(&self, name: &str) {
        fs::remove_file(self.source().join(name)).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let binary =
            std::env::var("TESTED_BINARY").expect("TESTED_BINARY names the binary under test");
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .env("ARMORER_STATE_DIR", self.dir.join("state"))
            .env("PROFILES_DIR", self.source())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn armorer(&self, arguments: &[&str]) -> Run {
        run(self.command(arguments))
    }

    /// One pass, in which unused profiles go at once.
    pub(crate) fn pass(&self) -> Run {
        self.armorer(&["reconcile", "--remove-after", "0s"])
    }

    /// The recorded state.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.state()).unwrap()
    }

    /// Changes the recorded state.
    pub(crate) fn edit_state(&self, edit: impl FnOnce(&mut serde_json::Value)) {
        let mut state = self.json();
        edit(&mut state);
        fs::write(self.dir.join("state/state.json"), format!("{state}\n")).unwrap();
    }

    pub(crate) fn state(&self) -> String {
        fs::read_to_string(self.dir.join("state/state.json")).unwrap_or_default()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(
                foreign(),
                self.foreign,
                "another program's policy was touched"
            );
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn foreign() -> BTreeMap<String, Vec<u8>> {
    FOREIGN
        .iter()
        .map(|name| ((*name).to_owned(), raw_data(name).unwrap_or_default()))
        .collect()
}

pub(crate) fn run(mut command: Command) -> Run {
    let output = command.output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Run {
        code: output.status.code().unwrap_or(-1),
        said: said.concat(),
    }
}

/// A profile that denies to write `/tmp/DENIED`, and allows the rest.
pub(crate) fn simple(name: &str, denied: &str) -> String {
    format!("profile {name} {{\n  file,\n  capability,\n  signal,\n  deny /tmp/{denied} w,\n}}\n")
}

/// Whether a new process under `profile` can write `path`.
pub(crate) fn can_write(profile: &str, path: &str) -> bool {
    let _ = fs::remove_file(path);
    let status = confined(profile, &["sh", "-c", ": > \"$0\"", path]).status();
    status.unwrap().success()
}

/// A command that starts under `profile`.
pub(crate) fn confined(profile: &str, program: &[&str]) -> Command {
    let mut command = Command::new("aa-exec");
    command.args(["-p", profile, "--"]).args(program);
    command.stderr(Stdio::null()).process_group(0);
    command
}

/// Waits until `is` holds; fails after a minute.
#[track_caller]
pub(crate) fn until(condition: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "not within a minute: {condition}"
        );
        sleep(Duration::from_millis(20));
    }
}

#[track_caller]
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn names_within(profile: &str) -> Vec<String> {
    loaded()
        .into_keys()
        .filter(|name| name == profile || name.starts_with(&format!("{profile}//")))
        .collect()
}

pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

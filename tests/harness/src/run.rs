//! The binary, and how a command ended.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use assert_cmd::assert::{Assert, OutputAssertExt as _};

/// A command that has not ended by then is killed, and its test fails.
const PATIENCE: Duration = Duration::from_mins(5);

/// The binary under test: `TESTED_BINARY`, or the one that cargo built beside the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("TESTED_BINARY").map_or_else(
        || {
            let test = std::env::current_exe().unwrap();
            test.ancestors().nth(2).unwrap().join("armorer")
        },
        PathBuf::from,
    )
}

/// armorer with an empty environment and nothing on its standard input.
pub fn armorer<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().args(arguments).stdin(Stdio::null());
    command
}

/// As [`armorer`], to its end.
pub fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Run {
    Run::to_the_end(armorer(arguments))
}

/// The compiler. No test is passed over where it is missing.
pub fn parser() -> PathBuf {
    ["/sbin", "/usr/sbin", "/bin", "/usr/bin", "/usr/local/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join("apparmor_parser"))
        .find(|path| path.is_file())
        .expect("these tests need apparmor_parser: install the package apparmor")
}

/// How a command ended, and its output.
pub struct Run(Assert);

impl Run {
    /// Runs `command` to its end, with nothing on its standard input and its output caught.
    pub fn to_the_end(command: Command) -> Self {
        let mut command = assert_cmd::Command::from_std(command);
        Self(command.timeout(PATIENCE).assert())
    }

    /// Runs `command` to its end, with standard input and output as they are set.
    pub fn of(command: &mut Command) -> Self {
        Self(command.assert())
    }

    fn output(&self) -> &Output {
        self.0.get_output()
    }

    /// Its exit code.
    pub fn code(&self) -> i32 {
        let code = self.output().status.code();
        code.unwrap_or_else(|| panic!("ended by a signal: {self}"))
    }

    /// Its standard output.
    pub fn stdout(&self) -> &str {
        std::str::from_utf8(&self.output().stdout).unwrap()
    }

    /// Its standard error, where the log is.
    pub fn stderr(&self) -> &str {
        std::str::from_utf8(&self.output().stderr).unwrap()
    }

    /// Asserts that it ended with `code`.
    #[track_caller]
    pub fn assert(self, code: i32) -> Self {
        Self(self.0.code(code))
    }

    /// Asserts that it printed `lines` and nothing else.
    #[track_caller]
    pub fn prints(self, lines: &[&str]) -> Self {
        let printed: Vec<&str> = self.stdout().lines().collect();
        assert_eq!(printed, lines, "{self}");
        self
    }

    /// Asserts that it ended with `code`, printed nothing and logged one line that holds all `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        let run = self.assert(code);
        assert_eq!(run.stdout(), "", "{run}");
        assert_eq!(run.stderr().lines().count(), 1, "{run}");
        run.line(words);
        assert_plain(run.stderr());
        run
    }

    /// The first line of output or log that holds all `words`.
    #[track_caller]
    pub fn line(&self, words: &[&str]) -> &str {
        let mut lines = self.stdout().lines().chain(self.stderr().lines());
        let line = lines.find(|line| words.iter().all(|word| line.contains(word)));
        line.unwrap_or_else(|| panic!("no line holds {words:?}: {self}"))
    }

    /// Asserts that neither output nor log holds `words`.
    #[track_caller]
    pub fn lacks(&self, words: &str) {
        let found = self.stdout().contains(words) || self.stderr().contains(words);
        assert!(!found, "{words:?} is there: {self}");
    }

    /// Its output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.stdout()).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Its log as JSON, a line each.
    #[track_caller]
    pub fn events(&self) -> Vec<serde_json::Value> {
        let event = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self}"));
        self.stderr().lines().map(event).collect()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Asserts that no terminal obeys anything in `text`.
#[track_caller]
pub fn assert_plain(text: &str) {
    let obeyed = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(obeyed), "{text:?}");
}

//! Processes that hold a profile in every way there is.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use super::until;

/// A process that lives until this is dropped.
pub(crate) struct Held {
    child: Child,
}

/// Starts a process that holds `profile` in the way of `kind` (see zoo.py).
#[track_caller]
pub(crate) fn hold(kind: &str, profile: &str) -> Held {
    let mut child = Command::new("python3")
        .args(["/job/zoo.py", kind, profile])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{kind} of {profile} did not come to be");
    Held { child }
}

impl Held {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The label of its main thread.
    pub(crate) fn label(&self) -> String {
        label(self.pid())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        // A profile without a rule for signals denies it; then the guest's end is its end.
        if kill_process_group(group, Signal::KILL).is_ok() {
            let _ = self.child.wait();
        }
    }
}

pub(crate) fn label(pid: u32) -> String {
    let label = fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap_or_default();
    label.trim().to_owned()
}

/// Every label of every thread of every process.
pub(crate) fn labels() -> Vec<String> {
    let mut labels = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(tasks) = fs::read_dir(process.path().join("task")) else {
            continue;
        };
        for task in tasks.flatten() {
            labels.extend(fs::read_to_string(task.path().join("attr/current")));
        }
    }
    labels
}

/// Waits until no process holds `profile`.
#[track_caller]
pub(crate) fn until_free(profile: &str) {
    until(&format!("{profile} is free"), || {
        !labels().iter().any(|label| label.contains(profile))
    });
}

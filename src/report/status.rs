//! The status file: the last pass, for probes, labels, metrics and the next pass.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Report, SCHEMA};
use crate::error::{Error, Exit};
use crate::fs::{read, replace};
use crate::time::{Stamp, Time};
use crate::{kubernetes::node::Memo, profile::Digest};

/// The largest status file, in bytes.
const LIMIT: u64 = 4 << 20;

/// How the last pass of a set ended, and figures that are carried from pass to pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) schema: u32,
    /// The boot that all uptimes count from.
    pub(crate) boot_id: String,
    /// The loop that made the last pass; a pass by hand leaves it as it was.
    #[serde(rename = "loop")]
    pub(crate) loop_id: Option<String>,
    pub(crate) last_pass: LastPass,
    /// When a pass last converged, in this boot or before.
    pub(crate) last_converged: Option<Time>,
    /// How many passes ended how, since boot.
    pub(crate) passes: Passes,
    /// The state that the pass left; none if it failed: a pass that was killed after it had saved the
    /// state has left the rest undone.
    pub(crate) state: Option<Digest>,
    /// Counted only for the metrics file.
    pub(crate) processes: Option<Processes>,
    /// The writes to the Kubernetes node.
    pub(crate) node: Memo,
    /// When the loop last logged a line, in seconds since boot.
    pub(crate) logged: u64,
}

/// How a pass ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LastPass {
    pub(crate) ended: Stamp,
    pub(crate) milliseconds: u64,
    pub(crate) exit: u8,
    /// The sources were read completely, and every desired profile is in force except those refused
    /// for their text or in conflict.
    pub(crate) ready: bool,
    /// Nothing is refused, in conflict or blocked, and the kernel enforces.
    pub(crate) clean: bool,
    /// The kernel's own mode is not `complain`.
    pub(crate) enforcing: bool,
    pub(crate) summary: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Passes {
    pub(crate) converged: u64,
    pub(crate) incomplete: u64,
    pub(crate) failed: u64,
}

/// How many processes each profile confines; those of none are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Processes {
    pub(crate) counted: Stamp,
    pub(crate) by_profile: BTreeMap<String, usize>,
}

impl Status {
    /// The status at `path`, if there is one that can be read.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&read(path, LIMIT).ok()?).ok()
    }

    /// Forgets the facts of another boot.
    pub(crate) fn enter_boot(&mut self, boot_id: &str) {
        if self.boot_id != boot_id {
            *self = Self {
                boot_id: boot_id.to_owned(),
                last_pass: std::mem::take(&mut self.last_pass),
                last_converged: self.last_converged,
                ..Self::default()
            };
        }
    }

    /// Notes the end of a pass: `ended` now, with `result`, after `took`.
    pub(crate) fn end_pass(
        &mut self,
        ended: Stamp,
        took: Duration,
        enforcing: bool,
        result: &Result<Report, Error>,
    ) {
        let report = result.as_ref().ok();
        let (exit, summary) = match result {
            Ok(report) => (report.exit, report.to_string()),
            Err(error) => (error.exit(), error.chain()),
        };
        match exit {
            Exit::Converged => {
                self.passes.converged += 1;
                self.last_converged = Some(ended.at);
            }
            Exit::Incomplete => self.passes.incomplete += 1,
            _ => self.passes.failed += 1,
        }
        self.last_pass = LastPass {
            ended,
            milliseconds: took.as_millis().try_into().unwrap_or(u64::MAX),
            exit: exit as u8,
            ready: report.is_some_and(Report::is_ready),
            clean: report.is_some_and(Report::is_clean),
            enforcing,
            summary,
        };
        self.schema = SCHEMA;
        self.state = report.and_then(|report| report.saved);
    }

    /// Writes it. A status that cannot be written fails no pass: it makes the probe not ready.
    pub(crate) fn write(&self, path: &Path) {
        let json = serde_json::to_vec(self).expect("plain data");
        if let Err(error) = replace(path, &json, 0o600, false) {
            log::warn!("cannot write {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use crate::state::Set;

    fn stamp(second: u64) -> Stamp {
        Stamp {
            at: Time(1_000_000 + second),
            uptime: second,
        }
    }

    fn pass(previous: Status, second: u64, boot: &str, exit: Exit) -> Status {
        let result = match exit {
            Exit::CouldNotRun => Err(Error::Source("gone".into())),
            exit => Ok(Report {
                exit,
                ..report(Vec::new(), Set::default())
            }),
        };
        let took = Duration::from_millis(7);
        let mut status = previous;
        status.enter_boot(boot);
        status.end_pass(stamp(second), took, true, &result);
        status
    }

    #[test]
    fn the_last_converged_pass_is_remembered_across_failures_and_boots() {
        let first = pass(Status::default(), 1, "a", Exit::Incomplete);
        assert_eq!(first.last_converged, None);
        let second = pass(first, 2, "a", Exit::Converged);
        let third = pass(second, 3, "a", Exit::CouldNotRun);
        assert_eq!(third.last_converged, Some(stamp(2).at));
        let LastPass {
            exit,
            ready,
            clean,
            milliseconds,
            summary,
            ..
        } = &third.last_pass;
        assert_eq!((*exit, *milliseconds, summary.as_str()), (3, 7, "gone"));
        assert!(!ready && !clean);
        let fourth = pass(third, 4, "b", Exit::Incomplete);
        assert_eq!(fourth.last_converged, Some(stamp(2).at));
    }

    #[test]
    fn counts_belong_to_their_boot() {
        let mut last = pass(Status::default(), 1, "a", Exit::Converged);
        for (second, exit) in (2..).zip([Exit::Incomplete, Exit::CouldNotRun, Exit::CouldNotRun]) {
            last = pass(last, second, "a", exit);
        }
        let Passes {
            converged,
            incomplete,
            failed,
        } = last.passes;
        assert_eq!((converged, incomplete, failed), (1, 1, 2));
        last.logged = 5;
        last.loop_id = Some("loop".into());
        last.node.uid = "u".into();
        last.processes = Some(Processes {
            counted: stamp(9),
            by_profile: BTreeMap::from([("custom.a".into(), 3)]),
        });
        let next = pass(last.clone(), 10, "a", Exit::Converged);
        let carried = |status: &Status| {
            let Status {
                processes,
                node,
                logged,
                loop_id,
                ..
            } = status.clone();
            (processes, node, logged, loop_id)
        };
        assert_eq!(carried(&next), carried(&last));
        let booted = pass(next, 0, "b", Exit::Converged);
        assert_eq!(carried(&booted), (None, Memo::default(), 0, None));
        assert_eq!(booted.passes.converged, 1);
    }

    #[test]
    fn a_status_is_read_as_it_was_written_and_a_damaged_one_is_none() {
        let folder = crate::tests::Folder::new();
        let path = folder.at("status.json");
        assert_eq!(Status::read(&path), None);
        let status = pass(Status::default(), 1, "a", Exit::Converged);
        status.write(&path);
        assert_eq!(Status::read(&path), Some(status));
        folder.write("status.json", "{");
        assert_eq!(Status::read(&path), None);
    }
}

//! What the last pass left for the probes and for the next pass's figures.

use std::collections::BTreeMap;
use std::time::Duration;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::{Report, SCHEMA};
use crate::clock::{Stamp, Time};
use crate::error::{Error, Exit};
use crate::profile::Digest;
use crate::state::folder::Folder;

/// How a pass ended, and what is carried from pass to pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    pub(crate) schema: u32,
    pub(crate) at: Time,
    /// Seconds since boot.
    pub(crate) uptime: u64,
    pub(crate) boot_id: String,
    pub(crate) exit: u8,
    /// The source was read wholly, and every wanted profile that compiles is in force.
    pub(crate) ready: bool,
    /// Nothing is refused, in conflict or otherwise in the way.
    pub(crate) clean: bool,
    pub(crate) reason: String,
    /// The state that the pass left, none if it failed: a pass that was killed after it had saved
    /// the state has left the rest undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<Digest>,
    /// How long the pass took.
    #[serde(default)]
    pub(crate) milliseconds: u64,
    /// When a pass last converged, in this boot or before.
    #[serde(default)]
    pub(crate) last_converged: Option<Time>,
    #[serde(default)]
    pub(crate) passes: Passes,
    /// Counted only for the metrics file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) processes: Option<Processes>,
}

/// How many passes ended how, since boot.
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

impl Heartbeat {
    /// The heartbeat of `set`, if there is one that can be read.
    pub(crate) fn read(folder: &Folder, set: &str) -> Option<Self> {
        let text = fs::read(folder.heartbeat_path(set)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// That of a pass that ended `now` with `result`, `took` so long and came after `previous`.
    pub(crate) fn after(
        previous: Option<Self>,
        now: Stamp,
        boot_id: String,
        took: Duration,
        result: &Result<Report, Error>,
    ) -> Self {
        let (exit, ready, clean, reason) = match result {
            Ok(report) => (
                report.exit,
                report.is_ready(),
                report.problems.is_empty(),
                report.to_string(),
            ),
            Err(error) => (error.exit(), false, false, error.chain()),
        };
        let last_converged = match exit {
            Exit::Converged => Some(now.at),
            _ => previous.as_ref().and_then(|before| before.last_converged),
        };
        let this_boot = previous.filter(|before| before.boot_id == boot_id);
        let (mut passes, processes) = this_boot
            .map(|before| (before.passes, before.processes))
            .unwrap_or_default();
        match exit {
            Exit::Converged => passes.converged += 1,
            Exit::Incomplete => passes.incomplete += 1,
            _ => passes.failed += 1,
        }
        Self {
            schema: SCHEMA,
            at: now.at,
            uptime: now.uptime,
            boot_id,
            exit: exit.code(),
            ready,
            clean,
            reason,
            state: None,
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            last_converged,
            passes,
            processes,
        }
    }

    /// Writes it. It is not worth failing a pass for.
    pub(crate) fn write(&self, folder: &Folder, set: &str) {
        let json = serde_json::to_vec(self).expect("plain data");
        if let Err(error) = folder.write_heartbeat(set, &json) {
            log::debug!("no heartbeat: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(second: u64) -> Stamp {
        Stamp {
            at: Time(1_000_000 + second),
            uptime: second,
        }
    }

    fn pass(previous: Option<Heartbeat>, second: u64, boot: &str, exit: Exit) -> Heartbeat {
        let result = match exit {
            Exit::CouldNotRun => Err(Error::Source("gone".into())),
            exit => Ok(Report {
                exit,
                ..Report::unchanged(crate::state::Set::default())
            }),
        };
        let took = Duration::from_millis(7);
        Heartbeat::after(previous, stamp(second), boot.into(), took, &result)
    }

    #[test]
    fn the_last_converged_pass_is_remembered_across_failures_and_boots() {
        let first = pass(None, 1, "a", Exit::Incomplete);
        assert_eq!(first.last_converged, None);
        let second = pass(Some(first), 2, "a", Exit::Converged);
        let third = pass(Some(second), 3, "a", Exit::CouldNotRun);
        assert_eq!(third.last_converged, Some(stamp(2).at));
        assert_eq!(
            (third.exit, &*third.reason, third.milliseconds),
            (3, "gone", 7)
        );
        let fourth = pass(Some(third), 4, "b", Exit::Incomplete);
        assert_eq!(fourth.last_converged, Some(stamp(2).at));
    }

    #[test]
    fn passes_and_processes_are_of_this_boot() {
        let mut last = pass(None, 1, "a", Exit::Converged);
        for (second, exit) in [Exit::Incomplete, Exit::CouldNotRun, Exit::CouldNotRun]
            .into_iter()
            .enumerate()
        {
            last = pass(Some(last), 2 + second as u64, "a", exit);
        }
        let counted = Passes {
            converged: 1,
            incomplete: 1,
            failed: 2,
        };
        assert_eq!(last.passes, counted);
        last.processes = Some(Processes {
            counted: stamp(9),
            by_profile: BTreeMap::from([("custom.a".into(), 3)]),
        });
        let next = pass(Some(last.clone()), 10, "a", Exit::Converged);
        assert_eq!(next.processes, last.processes);
        let booted = pass(Some(next), 0, "b", Exit::Converged);
        assert_eq!(booted.processes, None);
        assert_eq!(booted.passes.converged, 1);
    }

    #[test]
    fn one_of_an_older_version_reads() {
        let old = r#"{"schema":1,"at":"2026-11-24T05:59:59Z","uptime":9,"boot_id":"b","exit":0,
            "ready":true,"clean":true,"reason":"converged: 1 profile in force"}"#;
        let old: Heartbeat = serde_json::from_str(old).unwrap();
        assert_eq!((old.last_converged, old.passes), (None, Passes::default()));
    }
}

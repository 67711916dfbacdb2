//! The status file: the last pass, for probes, labels, metrics and the next pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Report, SCHEMA};
use crate::error::{Error, Exit};
use crate::fs::{read, replace};
use crate::kubernetes::node::Memo;
use crate::profile::Digest;
use crate::time::{Stamp, Time};

/// The largest status file, in bytes.
const LIMIT: u64 = 4 << 20;

/// How the last pass of a set ended, and figures that are carried from pass to pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) schema: u32,
    /// The boot that all uptimes count from.
    pub(crate) boot_id: String,
    /// The loop that made the last pass; a pass by hand leaves it as it was.
    #[serde(rename = "loop", default, skip_serializing_if = "Option::is_none")]
    pub(crate) loop_id: Option<String>,
    pub(crate) last_pass: LastPass,
    /// When a pass last converged, in this boot or before.
    #[serde(default)]
    pub(crate) last_converged: Option<Time>,
    /// How many passes ended how, since boot.
    #[serde(default)]
    pub(crate) passes: Passes,
    /// The state that the pass left; none if it failed: a pass that was killed after it had saved the
    /// state has left the rest undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<Digest>,
    /// Counted only for the metrics file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) processes: Option<Processes>,
    /// What was written to the Kubernetes node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Memo>,
    /// When the loop last logged a line, in seconds since boot.
    #[serde(default)]
    pub(crate) logged: u64,
}

/// How a pass ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// The status after a pass that ended `now` with `result` and took `took`; `previous` is that of the
    /// pass before, `loop_id` the loop that made this one.
    pub(crate) fn after(
        previous: Option<Self>,
        now: Stamp,
        boot_id: String,
        took: Duration,
        loop_id: Option<String>,
        result: &Result<Report, Error>,
    ) -> Self {
        let (exit, ready, clean, summary) = match result {
            Ok(report) => (
                report.exit,
                report.is_ready(),
                report.is_clean(),
                report.to_string(),
            ),
            Err(error) => (error.exit(), false, false, error.chain()),
        };
        let last_converged = match exit {
            Exit::Converged => Some(now.at),
            _ => previous.as_ref().and_then(|before| before.last_converged),
        };
        let enforcing = match (result, &previous) {
            (Ok(report), _) => report.enforcing,
            (_, previous) => previous
                .as_ref()
                .is_none_or(|before| before.last_pass.enforcing),
        };
        let before = previous.filter(|before| before.boot_id == boot_id);
        let mut passes = before
            .as_ref()
            .map_or(Passes::default(), |before| before.passes);
        match exit {
            Exit::Converged => passes.converged += 1,
            Exit::Incomplete => passes.incomplete += 1,
            _ => passes.failed += 1,
        }
        let last_pass = LastPass {
            ended: now,
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            exit: exit as u8,
            ready,
            clean,
            enforcing,
            summary,
        };
        Self {
            schema: SCHEMA,
            boot_id,
            loop_id: loop_id.or_else(|| before.as_ref()?.loop_id.clone()),
            last_pass,
            last_converged,
            passes,
            state: None,
            processes: before.as_ref().and_then(|before| before.processes.clone()),
            node: before.as_ref().and_then(|before| before.node.clone()),
            logged: before.map_or(0, |before| before.logged),
        }
    }

    /// Writes it. A status that cannot be written fails no pass: it makes the probe not ready.
    pub(crate) fn write(&self, path: &Path) {
        let json = serde_json::to_vec(self).expect("plain data");
        if let Err(error) = replace(path, &json, 0o600) {
            log::warn!("{} is not written: {error}", path.display());
        }
    }
}

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
    /// What was written to the Kubernetes node.
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

    /// Forgets what belongs to another boot.
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
        if let Err(error) = replace(path, &json, 0o600) {
            log::warn!("{} is not written: {error}", path.display());
        }
    }
}

//! The result of a pass as text, JSON, log lines, status file and metrics; readable copies.

pub(crate) mod copies;
pub(crate) mod logger;
pub(crate) mod metrics;
pub(crate) mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, path::PathBuf};

use crate::outcome::{Kind, Outcome, Severity, Unenforced};
use crate::profile::{Digest, printable};
use crate::{error::Exit, state::Set};

/// The schema of every JSON document that is printed.
pub(crate) const SCHEMA: u32 = 1;

/// Where results go besides the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) copy_to: Option<PathBuf>,
    pub(crate) metrics_file: Option<PathBuf>,
    /// The identity of the loop that repeats the pass.
    pub(crate) loop_id: Option<String>,
}

/// The result of a pass.
pub(crate) struct Report {
    /// By profile.
    pub(crate) outcomes: Vec<Outcome>,
    /// The desired profiles that are in force.
    pub(crate) in_force: BTreeSet<String>,
    pub(crate) exit: Exit,
    /// Facts about the node and the sources, a line each.
    pub(crate) remarks: Vec<String>,
    /// Whether the kernel enforces profiles: its own mode may be `complain`.
    pub(crate) enforcing: bool,
    /// The set as the pass leaves it.
    pub(crate) set: Set,
    /// The digest of the saved state; none of a plan.
    pub(crate) saved: Option<Digest>,
}

impl Report {
    /// The whole of it as a JSON document.
    pub(crate) fn to_json(&self) -> String {
        let document = serde_json::json!({
            "schema": SCHEMA,
            "result": self.result(),
            "exit": self.exit as u8,
            "in_force": self.in_force.len(),
            "outcomes": &self.outcomes,
            "unenforced": self.unenforced(),
            "remarks": &self.remarks,
        });
        format!("{document:#}\n")
    }

    /// The outcomes, a line each, the remarks, and the total of a plan.
    pub(crate) fn to_text(&self) -> String {
        let mut lines: Vec<String> = self.outcomes.iter().map(ToString::to_string).collect();
        lines.extend(self.remarks.iter().map(|remark| format!("note: {remark}")));
        let total = self.counts("to ");
        lines.push(total.unwrap_or_else(|| "nothing to do".to_owned()));
        lines.join("\n") + "\n"
    }

    /// Whether a pass would change the kernel or the ownership.
    pub(crate) fn has_changes(&self) -> bool {
        let mut outcomes = self.outcomes.iter();
        outcomes.any(|outcome| outcome.severity == Severity::Done)
    }

    /// As in `2 load, 1 deferred`, with `to` before each change of the kernel; none where there is no
    /// outcome.
    fn counts(&self, to: &str) -> Option<String> {
        let mut counts = BTreeMap::<Kind, usize>::new();
        for outcome in &self.outcomes {
            *counts.entry(outcome.kind).or_default() += 1;
        }
        let words = counts.iter().map(|(kind, count)| {
            let to = if kind.is_write() { to } else { "" };
            format!("{count} {to}{kind}")
        });
        (!counts.is_empty()).then(|| words.collect::<Vec<_>>().join(", "))
    }

    /// The rules in force that the kernel does not enforce, by profile.
    fn unenforced(&self) -> BTreeMap<&str, &Vec<Unenforced>> {
        let records = self.set.in_force();
        let records = records.filter(|(_, record)| !record.unenforced.is_empty());
        let rules = records.map(|(name, record)| (name.as_str(), &record.unenforced));
        rules.collect()
    }

    const fn result(&self) -> &'static str {
        match self.exit {
            Exit::Converged => "converged",
            _ => "not converged",
        }
    }

    /// Whether every desired profile is in force except those refused for their text or in conflict.
    pub(crate) fn is_ready(&self) -> bool {
        let mut problems = self.set.problems.values();
        !problems.any(|problem| matches!(problem.kind, Kind::Failed | Kind::Contested))
    }

    /// As [`Self::is_ready`], with nothing refused, in conflict or blocked, and all of it enforced.
    pub(crate) fn is_clean(&self) -> bool {
        self.set.problems.is_empty() && self.enforcing
    }

    /// The worst kind in one word: a problem's, `not-enforcing`, or `converged`.
    pub(crate) fn state(&self) -> &'static str {
        if !self.enforcing {
            return "not-enforcing";
        }
        let worst = self.set.problems.values().map(|problem| problem.kind).max();
        worst.map_or("converged", Kind::word)
    }

    /// A short digest of names and texts in force, the same on every node with the same ones.
    pub(crate) fn fingerprint(&self) -> String {
        let records = self.set.in_force();
        let records = records.filter(|(name, _)| self.in_force.contains(name.as_str()));
        let parts = records.flat_map(|(name, record)| [name.to_string(), record.text.to_string()]);
        Digest::of_parts(parts).short()
    }

    /// Logs each deferred removal, with `standing` each problem that the pass before had too, and the one
    /// line that ends every pass.
    pub(crate) fn log_end(&self, standing: bool) {
        let due = |outcome: &&Outcome| match outcome.severity {
            Severity::Waiting => true,
            _ => outcome.stands && standing,
        };
        self.outcomes.iter().filter(due).for_each(logger::outcome);
        let level = match self.exit {
            Exit::Converged => log::Level::Info,
            _ => log::Level::Warn,
        };
        log::log!(level, action = "pass", reason = self.result(); "{self}");
    }
}

/// One line: how the pass ended.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let count = self.in_force.len();
        let plural = if count == 1 { "" } else { "s" };
        let summary = format!("{}: {count} profile{plural} in force", self.result());
        let mut parts: Vec<String> = [summary].into_iter().chain(self.counts("")).collect();
        let mut problems = Vec::new();
        for (name, problem) in self.set.problems.iter().take(SHOWN) {
            problems.push(format!("{} {}", printable(name), problem.kind));
        }
        let more = self.set.problems.len() - problems.len();
        problems.extend((more > 0).then(|| format!("{more} more")));
        if !problems.is_empty() {
            parts.push(format!("problems: {}", problems.join(", ")));
        }
        let unenforced = self.unenforced().into_iter();
        let own = unenforced.filter(|(_, rules)| rules.iter().any(|rules| rules.own));
        let names: Vec<_> = own.take(SHOWN).map(|(name, _)| printable(name)).collect();
        if !names.is_empty() {
            let names = names.join(", ");
            let hint = "(see armorer status)";
            parts.push(format!("not all rules are enforced: {names} {hint}"));
        }
        parts.extend_from_slice(&self.remarks);
        f.write_str(&parts.join("; "))
    }
}

/// The kind of the problem or of the waiting removal of `name`, if it has one.
pub(crate) fn standing(set: &Set, name: &str) -> Option<Kind> {
    let problem = set.problems.get(name).map(|problem| problem.kind);
    let unwanted = set.owned.get(name).and_then(|owned| owned.unwanted);
    problem.or(unwanted.map(|_| Kind::Deferred))
}

/// Every name of `set` that is shown: desired, owned, or with a problem; children and hats count with
/// their parents.
pub(crate) fn names(set: &Set) -> BTreeSet<&str> {
    // As the kernel has it: a file's name has dots for its slashes.
    let records = set.profiles.values();
    let own = records.filter_map(|record| record.members.first());
    let mut names: BTreeSet<&str> = own.map(|own| &*own.name).collect();
    names.extend(set.problems.keys().map(String::as_str));
    let alone = |name: &&String| set.stands_alone(name);
    names.extend(set.owned.keys().filter(alone).map(String::as_str));
    names
}

#[cfg(test)]
mod tests;

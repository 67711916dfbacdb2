//! What people and machines are told: log lines, heartbeat, published status, JSON.

pub(crate) mod copies;
pub(crate) mod ending;
pub(crate) mod heartbeat;
pub(crate) mod logger;
pub(crate) mod metrics;
pub(crate) mod outward;
pub(crate) mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::error::Exit;
use crate::plan::{Change, Total, Verb, is_owned_top_level};
use crate::profile::{Digest, Mode, ProfileName};
use crate::state::folder::Folder;
use crate::state::{Problem, ProblemKind, Set, State};

/// The schema of every JSON document that is printed or published.
pub(crate) const SCHEMA: u32 = 1;

/// What became of a pass.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) changes: Vec<Change>,
    pub(crate) problems: BTreeMap<String, Problem>,
    pub(crate) deferred: usize,
    pub(crate) in_force: usize,
    /// Nothing was done to the kernel.
    pub(crate) quiet: bool,
    pub(crate) exit: Exit,
    /// What else stands in the way, besides profiles.
    pub(crate) remark: Option<String>,
    /// The set as the pass leaves it; of a plan, nothing.
    pub(crate) set: Set,
}

impl Report {
    /// The report of a pass that found everything as the last one left it: what stood in the
    /// way then still does.
    pub(crate) fn unchanged(set: Set) -> Self {
        let loaded = set.profiles.values().filter(|r| r.loaded_at.is_some());
        let standing = set.problems.iter().map(|(name, problem)| {
            let verb = match problem.kind {
                ProblemKind::Refused(_) => Verb::Refuse,
                ProblemKind::Conflict => Verb::Conflict,
                ProblemKind::Contested => Verb::Contested,
                ProblemKind::Failed => Verb::Fail,
                ProblemKind::Kept => Verb::Keep,
            };
            Change::new(name, verb, &*problem.message)
        });
        Self {
            changes: standing.collect(),
            deferred: 0,
            in_force: loaded.count(),
            quiet: true,
            exit: if set.problems.is_empty() {
                Exit::Converged
            } else {
                Exit::Incomplete
            },
            problems: set.problems.clone(),
            remark: None,
            set,
        }
    }

    /// The whole of it as a JSON document.
    pub(crate) fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            schema: u32,
            result: &'a str,
            exit: u8,
            in_force: usize,
            deferred: usize,
            changes: &'a [Change],
            problems: Vec<ProblemLine<'a>>,
        }
        let document = Document {
            schema: SCHEMA,
            result: self.result(),
            exit: self.exit.code(),
            in_force: self.in_force,
            deferred: self.deferred,
            changes: &self.changes,
            problems: problem_lines(&self.problems),
        };
        serde_json::to_string_pretty(&document).expect("plain data")
    }

    /// Whether anything stood in the way that was looked at now.
    pub(crate) fn has_new_problems(&self) -> bool {
        self.changes.iter().any(|change| change.action.is_problem())
    }

    /// The changes, a line each, and their total.
    pub(crate) fn lines(&self) -> String {
        let mut lines: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        lines.push(Total(&self.changes).to_string());
        lines.push(String::new());
        lines.join("\n")
    }

    /// How a plan ends: 1 where something is in the way; with `exit_code` 4 where a pass would
    /// change something.
    pub(crate) fn plan_exit(&self, exit_code: bool) -> Exit {
        if exit_code && !self.quiet {
            Exit::ChangesPending
        } else {
            self.exit
        }
    }

    /// What was done and put off: `2 loaded, 1 removal deferred`.
    pub(crate) fn deeds(&self) -> String {
        let words = [
            (Verb::Load, "loaded"),
            (Verb::Replace, "replaced"),
            (Verb::Own, "found loaded"),
            (Verb::Remove, "removed"),
        ];
        let mut deeds = Vec::new();
        for (verb, word) in words {
            let count = self.changes.iter().filter(|change| change.action == verb);
            match count.count() {
                0 => {}
                count => deeds.push(format!("{count} {word}")),
            }
        }
        if self.deferred > 0 {
            let plural = plural(self.deferred);
            deeds.push(format!("{} removal{plural} deferred", self.deferred));
        }
        deeds.join(", ")
    }

    const fn result(&self) -> &'static str {
        match self.exit {
            Exit::Converged => "converged",
            _ => "not converged",
        }
    }

    /// Whether every wanted profile that compiles is in force.
    pub(crate) fn is_ready(&self) -> bool {
        !self
            .problems
            .values()
            .any(|problem| problem.kind == ProblemKind::Failed)
    }
}

/// One line: how the pass ended.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in force", self.result(), profiles(self.in_force))?;
        let deeds = self.deeds();
        if !deeds.is_empty() {
            write!(f, "; {deeds}")?;
        }
        if !self.problems.is_empty() {
            write!(f, "; in the way: {}", problems_in_words(&self.problems))?;
        }
        if let Some(remark) = &self.remark {
            write!(f, "; {remark}")?;
        }
        Ok(())
    }
}

fn profiles(count: usize) -> String {
    format!("{count} profile{}", plural(count))
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// `custom.a refused, custom.b in conflict and 3 more`.
fn problems_in_words(problems: &BTreeMap<String, Problem>) -> String {
    const SHOWN: usize = 3;
    let mut words: Vec<String> = problems
        .iter()
        .take(SHOWN)
        .map(|(name, problem)| {
            let name = crate::profile::printable(name);
            format!("{name} {}", kind_word(problem.kind))
        })
        .collect();
    if problems.len() > SHOWN {
        words.push(format!("{} more", problems.len() - SHOWN));
    }
    words.join(", ")
}

/// The word for a kind of problem.
pub(crate) const fn kind_word(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::Refused(_) => "refused",
        ProblemKind::Conflict => "conflict",
        ProblemKind::Contested => "contested",
        ProblemKind::Failed => "failed",
        ProblemKind::Kept => "kept",
    }
}

/// Logs what was done or found; what stood already in the last pass only when asked for.
pub(crate) fn log_change(change: &Change, standing: bool) {
    let level = match change.action {
        _ if standing => log::Level::Debug,
        verb if verb.is_problem() => log::Level::Warn,
        _ => log::Level::Info,
    };
    log::log!(
        level,
        profile = change.profile.as_str(),
        action:% = change.action,
        reason = change.reason.as_str();
        "{change}"
    );
}

/// Logs the one line that every pass ends with.
pub(crate) fn log_end(report: &Report) {
    let level = if report.exit == Exit::Converged {
        log::Level::Info
    } else {
        log::Level::Warn
    };
    log::log!(level, action = "pass", reason = report.result(); "{report}");
}

/// Logs how a command ended that is no pass, and gives the line.
pub(crate) fn log_deeds(report: &Report) -> String {
    let mut line = match report.deeds() {
        deeds if deeds.is_empty() => "nothing was to be done".to_owned(),
        deeds => deeds,
    };
    if report.has_new_problems() {
        line.push_str("; see the warnings above");
    }
    match report.exit {
        Exit::Converged => log::info!(action = "end"; "{line}"),
        _ => log::warn!(action = "end"; "{line}"),
    }
    line
}

/// Every name of `set` that is shown: what is wanted, owned, or in the way; children and hats
/// count with their parents.
pub(crate) fn names(set: &Set) -> BTreeSet<&str> {
    let mut names: BTreeSet<&str> = set.profiles.keys().map(ProfileName::as_str).collect();
    names.extend(set.problems.keys().map(String::as_str));
    let alone = |name: &&String| is_owned_top_level(name, &set.owned);
    names.extend(set.owned.keys().filter(alone).map(String::as_str));
    names
}

/// `public/status.json`: what others on the node may read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) schema: u32,
    #[serde(default)]
    pub(crate) node: Option<String>,
    pub(crate) boot_id: String,
    pub(crate) at: Time,
    pub(crate) sets: BTreeMap<String, PublishedSet>,
}

/// One set of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PublishedSet {
    pub(crate) profiles: BTreeMap<String, PublishedProfile>,
    pub(crate) problems: BTreeMap<String, String>,
}

/// One profile of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PublishedProfile {
    pub(crate) mode: Mode,
    pub(crate) digest: Digest,
    /// None: not loaded in this boot.
    pub(crate) loaded_at: Option<Time>,
}

/// Publishes the status. It is not worth failing a pass for.
pub(crate) fn publish(folder: &Folder, state: &State) {
    let sets = state.sets.iter().map(|(name, set)| {
        let profiles = set.profiles.iter().map(|(name, record)| {
            let profile = PublishedProfile {
                mode: record.mode(),
                digest: record.text,
                loaded_at: record.loaded_at,
            };
            (name.to_string(), profile)
        });
        let problems = set.problems.iter();
        let set = PublishedSet {
            profiles: profiles.collect(),
            problems: problems
                .map(|(name, p)| (name.clone(), p.message.clone()))
                .collect(),
        };
        (name.clone(), set)
    });
    let status = Published {
        schema: SCHEMA,
        node: state.node.clone(),
        boot_id: state.boot_id.clone().unwrap_or_default(),
        at: Time::now(),
        sets: sets.collect(),
    };
    let json = serde_json::to_vec(&status).expect("plain data");
    if let Err(error) = folder.publish(&json) {
        log::warn!("the status is not published: {error}");
    }
}

/// A problem in JSON output.
#[derive(Serialize)]
pub(crate) struct ProblemLine<'a> {
    profile: &'a str,
    kind: &'static str,
    message: &'a str,
    since: Time,
}

/// The problems as JSON output has them.
pub(crate) fn problem_lines(problems: &BTreeMap<String, Problem>) -> Vec<ProblemLine<'_>> {
    problems
        .iter()
        .map(|(profile, problem)| ProblemLine {
            profile,
            kind: kind_word(problem.kind),
            message: &problem.message,
            since: problem.since.at,
        })
        .collect()
}

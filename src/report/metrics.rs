//! The metrics file (`--metrics-file`): Prometheus' text format 0.0.4, all of one set.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

use super::heartbeat::{Heartbeat, Processes};
use super::{kind_word, names};
use crate::clock::Stamp;
use crate::confined::Scan;
use crate::plan::is_owned_top_level;
use crate::profile::is_bidi_control;
use crate::state::Set;

/// Processes are counted by passes that changed something, and else this often: a scan of /proc
/// is dearer than all the rest of a pass with nothing to do.
const COUNT_EVERY: Duration = Duration::from_secs(300);

/// The states of a profile; each is always there, so that a rule finds a zero and not nothing.
const STATES: [&str; 8] = [
    "in_force",
    "refused",
    "conflict",
    "contested",
    "failed",
    "kept",
    "deferred",
    "missing",
];

/// Whether `heartbeat`'s count of processes is to be made anew; `changed` says whether the pass
/// did something to the kernel.
pub(crate) fn wants_count(heartbeat: &Heartbeat, now: Stamp, changed: bool) -> bool {
    let last = heartbeat.processes.as_ref();
    changed || last.is_none_or(|last| now.since(&last.counted) >= COUNT_EVERY)
}

/// The processes that `scan` found confined by the profiles of `set`; none where it cannot vouch
/// for having seen everybody.
pub(crate) fn count(scan: &Scan, set: &Set, now: Stamp) -> Option<Processes> {
    let counts = scan.counts();
    let ours = |name: &&str| counts.contains_key(name);
    let by_profile = names(set).into_iter().filter(ours);
    scan.incomplete.is_none().then(|| Processes {
        counted: now,
        by_profile: by_profile
            .map(|name| (name.to_owned(), counts[name]))
            .collect(),
    })
}

/// The whole file. Of a `set` that nobody could read, only what `heartbeat` says is told.
pub(crate) fn render(name: &str, set: Option<&Set>, heartbeat: &Heartbeat) -> String {
    let mut text = Text {
        out: String::new(),
        set: name,
    };
    text.passes(heartbeat);
    if let Some(set) = set {
        text.operations(set);
        text.states(set);
        text.profiles(set);
        text.problems(set);
        text.removals(set);
        if let Some(processes) = &heartbeat.processes {
            text.processes(set, processes);
        }
    }
    text.out
}

struct Text<'a> {
    out: String,
    set: &'a str,
}

impl Text<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP armorer_{name} {help}");
        let _ = writeln!(self.out, "# TYPE armorer_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let out = &mut self.out;
        out.extend(["armorer_", name]);
        for (n, (label, value)) in [("set", self.set)].iter().chain(labels).enumerate() {
            out.extend([if n == 0 { "{" } else { "," }, label, "=\""]);
            push_escaped(out, value);
            out.push('"');
        }
        let _ = writeln!(out, "}} {value}");
    }

    /// A gauge without further labels.
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn passes(&mut self, heartbeat: &Heartbeat) {
        self.family("build_info", "gauge", "The version that wrote this.");
        let version = env!("CARGO_PKG_VERSION");
        self.sample("build_info", &[("version", version)], 1);
        self.gauge(
            "last_pass_timestamp_seconds",
            "When the last pass ended.",
            heartbeat.at.0,
        );
        self.gauge(
            "last_pass_exit_code",
            "How it ended: 0 converged, 1 incomplete, 3 could not run.",
            heartbeat.exit,
        );
        let seconds = Duration::from_millis(heartbeat.milliseconds).as_secs_f64();
        self.gauge("last_pass_duration_seconds", "How long it took.", seconds);
        self.gauge(
            "last_converged_timestamp_seconds",
            "When a pass last converged; 0: never.",
            heartbeat.last_converged.map_or(0, |time| time.0),
        );
        self.family("passes_total", "counter", "Passes since boot, by result.");
        let passes = heartbeat.passes;
        for (result, count) in [
            ("converged", passes.converged),
            ("incomplete", passes.incomplete),
            ("failed", passes.failed),
        ] {
            self.sample("passes_total", &[("result", result)], count);
        }
    }

    fn operations(&mut self, set: &Set) {
        let counters = set.counters;
        let name = "kernel_operations_total";
        self.family(name, "counter", "Changes made to the kernel since boot.");
        for (operation, count) in [
            ("load", counters.loads),
            ("replace", counters.replaces),
            ("remove", counters.removes),
        ] {
            self.sample(name, &[("operation", operation)], count);
        }
        let name = "kernel_failures_total";
        self.family(
            name,
            "counter",
            "Changes since boot that the kernel did not take.",
        );
        self.sample(name, &[], counters.failures);
        let name = "drift_repairs_total";
        self.family(
            name,
            "counter",
            "Changes of somebody else that were undone since boot.",
        );
        self.sample(name, &[], counters.repairs);
    }

    fn states(&mut self, set: &Set) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in names(set) {
            *counts.entry(state_of(set, name)).or_default() += 1;
        }
        self.family("profiles", "gauge", "Profiles by state; each has one.");
        for state in STATES {
            let count = counts.get(state).copied().unwrap_or(0);
            self.sample("profiles", &[("state", state)], count);
        }
    }

    fn profiles(&mut self, set: &Set) {
        let name = "profile_info";
        self.family(
            name,
            "gauge",
            "A profile in force: its mode, and the first 16 digits of its text's SHA-256.",
        );
        for (profile, record) in set.profiles.iter().filter(|(_, r)| r.loaded_at.is_some()) {
            let labels = [
                ("profile", profile.as_str()),
                ("mode", &record.mode().to_string()),
                ("digest", &record.text.to_string()[..16]),
            ];
            self.sample(name, &labels, 1);
        }
    }

    fn problems(&mut self, set: &Set) {
        let name = "profile_problem_timestamp_seconds";
        self.family(name, "gauge", "Since when a profile is not as wanted.");
        for (profile, problem) in &set.problems {
            let labels = [("profile", &**profile), ("kind", kind_word(problem.kind))];
            self.sample(name, &labels, problem.since.at.0);
        }
    }

    fn removals(&mut self, set: &Set) {
        let name = "removal_deferred_timestamp_seconds";
        self.family(
            name,
            "gauge",
            "Since when a profile is unwanted that is not removed yet.",
        );
        for (profile, owned) in &set.owned {
            if let Some(clock) = owned.unwanted
                && is_owned_top_level(profile, &set.owned)
            {
                let since = clock.unwanted_since.at.0;
                self.sample(name, &[("profile", profile)], since);
            }
        }
    }

    fn processes(&mut self, set: &Set, processes: &Processes) {
        let name = "processes_confined";
        self.family(
            name,
            "gauge",
            "Processes confined by a profile or a child of it.",
        );
        let loaded = |name: &&str| set.owned.contains_key(*name);
        for profile in names(set).into_iter().filter(loaded) {
            let count = processes.by_profile.get(profile).copied().unwrap_or(0);
            self.sample(name, &[("profile", profile)], count);
        }
        self.gauge(
            "processes_counted_timestamp_seconds",
            "When the confined processes were counted.",
            processes.counted.at.0,
        );
    }
}

/// The state of `name`. What is refused or contested may have its last good version in force.
fn state_of(set: &Set, name: &str) -> &'static str {
    let owned = set.owned.get(name);
    match set.problems.get(name) {
        Some(problem) => kind_word(problem.kind),
        None if owned.is_some_and(|owned| owned.unwanted.is_some()) => "deferred",
        None if owned.is_some() => "in_force",
        None => "missing",
    }
}

/// A label's value. Names come from others: each must stay one clean value, and two names must
/// never become one series, since one would hide the other. So a backslash is spelt out like
/// every character that a terminal obeys.
fn push_escaped(out: &mut String, value: &str) {
    let special = |c: char| c == '"' || c == '\\' || c.is_control() || is_bidi_control(c);
    let mut clean = 0;
    for (at, c) in value.char_indices().filter(|(_, c)| special(*c)) {
        out.push_str(&value[clean..at]);
        if c == '"' {
            out.push_str("\\\"");
        } else {
            let _ = write!(out, "\\{}", c.escape_unicode());
        }
        clean = at + c.len_utf8();
    }
    out.push_str(&value[clean..]);
}

#[cfg(test)]
mod tests;

//! The metrics file (`--metrics-file`): Prometheus' text format 0.0.4, all of one set.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use super::status::Status;
use super::{names, standing};
use crate::{outcome::Kind, profile::is_control, state::Set};

/// The whole file. Without a readable `set`, it has the metrics of `status` only.
pub(crate) fn render(name: &str, set: Option<&Set>, status: &Status) -> String {
    let mut text = Text {
        out: String::new(),
        set: name,
        metric: "",
    };
    text.passes(status);
    if let Some(set) = set {
        text.operations(set);
        text.profiles(set);
        text.processes(set, status);
    }
    text.out
}

struct Text<'a> {
    out: String,
    set: &'a str,
    /// The metric that samples belong to.
    metric: &'static str,
}

impl Text<'_> {
    /// Begins a metric: its name without `armorer_`, its help. Prometheus' counters end with `_total`.
    fn begin(&mut self, metric: &'static str, help: &str) {
        let counts = metric.ends_with("_total");
        let kind = if counts { "counter" } else { "gauge" };
        self.out += &format!("# HELP armorer_{metric} {help}\n# TYPE armorer_{metric} {kind}\n");
        self.metric = metric;
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.out += &format!("armorer_{}{{set=\"{}\"", self.metric, escaped(self.set));
        for (label, value) in labels {
            self.out += &format!(",{label}=\"{}\"", escaped(value));
        }
        self.out += &format!("}} {value}\n");
    }

    /// A metric with one sample, which has no further label.
    fn single(&mut self, metric: &'static str, value: impl Display, help: &str) {
        self.begin(metric, help);
        self.sample(&[], value);
    }

    fn passes(&mut self, status: &Status) {
        let pass = &status.last_pass;
        self.begin("build_info", "The version that wrote this file.");
        self.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        let help = "Time of the end of the last pass.";
        self.single("last_pass_timestamp_seconds", pass.ended.at.0, help);
        let help = "Exit code of the last pass: 0 converged, 1 incomplete, 3 could not run.";
        self.single("last_pass_exit_code", pass.exit, help);
        let took = Duration::from_millis(pass.milliseconds).as_secs_f64();
        let help = "Duration of the last pass.";
        self.single("last_pass_duration_seconds", took, help);
        let converged = status.last_converged.map_or(0, |time| time.0);
        let help = "Time of the last pass that converged; 0: never.";
        self.single("last_converged_timestamp_seconds", converged, help);
        let help =
            "0 where the kernel's own mode is complain, in which no profile denies anything.";
        self.single("kernel_enforcing", u8::from(pass.enforcing), help);
        self.begin("passes_total", "Passes since boot, by result.");
        let passes = status.passes;
        self.sample(&[("result", "converged")], passes.converged);
        self.sample(&[("result", "incomplete")], passes.incomplete);
        self.sample(&[("result", "failed")], passes.failed);
    }

    fn operations(&mut self, set: &Set) {
        let counters = set.counters;
        let help = "Changes made to the kernel since boot.";
        self.begin("kernel_operations_total", help);
        self.sample(&[("operation", "load")], counters.loads);
        self.sample(&[("operation", "replace")], counters.replaces);
        self.sample(&[("operation", "remove")], counters.removes);
        let help = "Changes since boot that the kernel did not accept.";
        self.single("kernel_failures_total", counters.failures, help);
        let help = "Other programs' changes that were undone since boot.";
        self.single("drift_repairs_total", counters.repairs, help);
    }

    fn profiles(&mut self, set: &Set) {
        // Each state is always there, so that a rule finds a zero and not nothing.
        let words = Kind::problems().chain([Kind::Deferred]).map(Kind::word);
        let words = words.chain(["in_force", "missing"]);
        let mut states: BTreeMap<&str, usize> = words.map(|word| (word, 0)).collect();
        for name in names(set) {
            *states.entry(state_of(set, name)).or_default() += 1;
        }
        self.begin("profiles", "Profiles by state.");
        for (state, count) in states {
            self.sample(&[("state", state)], count);
        }
        let help = "A profile in force: its mode, and the first digits of its text's SHA-256.";
        self.begin("profile_info", help);
        for (name, record) in set.in_force() {
            let (mode, digest) = (record.mode().to_string(), record.text.short());
            let profile = ("profile", name.as_str());
            self.sample(&[profile, ("mode", &mode), ("digest", &digest)], 1);
        }
        let help = "Rules of a profile in force that the kernel does not enforce, by class.";
        self.begin("unenforced_rules", help);
        for (name, record) in set.in_force() {
            for rules in &record.unenforced {
                let labels = [("profile", name.as_str()), ("class", &rules.class)];
                self.sample(&labels, 1);
            }
        }
        let help = "Time when a profile's problem began.";
        self.begin("profile_problem_timestamp_seconds", help);
        for (name, problem) in &set.problems {
            let labels = [("profile", &**name), ("kind", problem.kind.word())];
            self.sample(&labels, problem.since.0);
        }
        let help = "Time since which a profile is unwanted and not removed.";
        self.begin("removal_deferred_timestamp_seconds", help);
        for (name, owned) in &set.owned {
            if let Some(unwanted) = owned.unwanted.filter(|_| set.stands_alone(name)) {
                self.sample(&[("profile", name)], unwanted.since.at.0);
            }
        }
    }

    fn processes(&mut self, set: &Set, status: &Status) {
        let Some(processes) = &status.processes else {
            return;
        };
        let help = "Processes confined by a profile or a child of it.";
        self.begin("processes_confined", help);
        for name in names(set) {
            if set.owned.contains_key(name) {
                let count = processes.by_profile.get(name).unwrap_or(&0);
                self.sample(&[("profile", name)], count);
            }
        }
        let counted = processes.counted.at.0;
        let help = "Time of the count of confined processes.";
        self.single("processes_counted_timestamp_seconds", counted, help);
    }
}

/// The state of `name`. A refused or contested profile may have its last good version in force.
fn state_of(set: &Set, name: &str) -> &'static str {
    match standing(set, name) {
        Some(kind) => kind.word(),
        None if set.owned.contains_key(name) => "in_force",
        None => "missing",
    }
}

/// A label's value. Names come from others: each must stay one clean value, and two names must never
/// become one series, since one would hide the other. So a backslash is spelt out like every character
/// that a terminal obeys.
fn escaped(value: &str) -> String {
    let mut clean = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' => clean.push_str("\\\""),
            c if c == '\\' || is_control(c) => clean += &format!("\\{}", c.escape_unicode()),
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests;

//! The metrics file (`--metrics-file`): Prometheus' text format 0.0.4, all of one set.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::names;
use super::status::Status;
use crate::outcome::Kind;
use crate::profile::is_obeyed;
use crate::state::Set;

/// The whole file. Of a `set` that could not be read, only what `status` says is there.
pub(crate) fn render(name: &str, set: Option<&Set>, status: &Status) -> String {
    let out = String::new();
    let mut text = Text { out, set: name };
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
}

impl Text<'_> {
    /// Begins a metric: its name without `armorer_`, its type, its help.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP armorer_{name} {help}");
        let _ = writeln!(self.out, "# TYPE armorer_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.out, "armorer_{name}{{set=\"{}\"", escaped(self.set));
        for (label, value) in labels {
            let _ = write!(self.out, ",{label}=\"{}\"", escaped(value));
        }
        let _ = writeln!(self.out, "}} {value}");
    }

    /// A gauge without further labels.
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// A metric with one label, and a sample for each of `values`.
    fn each<'v, V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label: &str,
        values: impl IntoIterator<Item = (&'v str, V)>,
    ) {
        self.head(name, kind, help);
        for (word, value) in values {
            self.sample(name, &[(label, word)], value);
        }
    }

    fn passes(&mut self, status: &Status) {
        let pass = &status.last_pass;
        let seconds = Duration::from_millis(pass.milliseconds).as_secs_f64();
        let converged = status.last_converged.map_or(0, |time| time.0);
        let enforcing = u8::from(pass.enforcing);
        self.head("build_info", "gauge", "The version that wrote this file.");
        self.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.gauge(
            "last_pass_timestamp_seconds",
            "When the last pass ended.",
            pass.ended.at.0,
        );
        let help = "How the last pass ended: 0 converged, 1 incomplete, 3 could not run.";
        self.gauge("last_pass_exit_code", help, pass.exit);
        self.gauge(
            "last_pass_duration_seconds",
            "How long the last pass took.",
            seconds,
        );
        let help = "When a pass last converged; 0: never.";
        self.gauge("last_converged_timestamp_seconds", help, converged);
        let help =
            "0 where the kernel's own mode is complain, in which no profile denies anything.";
        self.gauge("kernel_enforcing", help, enforcing);
        let passes = status.passes;
        let metric = ("passes_total", "counter", "Passes since boot, by result.");
        let results = [
            ("converged", passes.converged),
            ("incomplete", passes.incomplete),
            ("failed", passes.failed),
        ];
        self.each(metric, "result", results);
    }

    fn operations(&mut self, set: &Set) {
        let counters = set.counters;
        let help = "Changes made to the kernel since boot.";
        let operations = [
            ("load", counters.loads),
            ("replace", counters.replaces),
            ("remove", counters.removes),
        ];
        self.each(
            ("kernel_operations_total", "counter", help),
            "operation",
            operations,
        );
        let help = "Changes since boot that the kernel did not take.";
        self.head("kernel_failures_total", "counter", help);
        self.sample("kernel_failures_total", &[], counters.failures);
        let help = "Changes of other programs that were undone since boot.";
        self.head("drift_repairs_total", "counter", help);
        self.sample("drift_repairs_total", &[], counters.repairs);
    }

    fn profiles(&mut self, set: &Set) {
        // Each state is always there, so that a rule finds a zero and not nothing.
        let words = Kind::problems().chain([Kind::Deferred]).map(Kind::word);
        let words = words.chain(["in_force", "missing"]);
        let mut states: BTreeMap<&str, usize> = words.map(|word| (word, 0)).collect();
        for name in names(set) {
            *states.entry(state_of(set, name)).or_default() += 1;
        }
        self.each(
            ("profiles", "gauge", "Profiles by state; each has one."),
            "state",
            states,
        );
        let name = "profile_info";
        self.head(
            name,
            "gauge",
            "A profile in force: its mode, and the first digits of its text's SHA-256.",
        );
        for (profile, record) in set.in_force() {
            let (mode, digest) = (record.mode().to_string(), record.text.short());
            let labels = [
                ("profile", profile.as_str()),
                ("mode", &mode),
                ("digest", &digest),
            ];
            self.sample(name, &labels, 1);
        }
        let name = "profile_problem_timestamp_seconds";
        self.head(name, "gauge", "Since when a profile is not as desired.");
        for (profile, problem) in &set.problems {
            let labels = [("profile", &**profile), ("kind", problem.kind.word())];
            self.sample(name, &labels, problem.since.0);
        }
        let help = "Since when a profile is unwanted that is not removed yet.";
        let metric = ("removal_deferred_timestamp_seconds", "gauge", help);
        let owned = set.owned.iter().filter(|(name, _)| set.stands_alone(name));
        let unwanted =
            owned.filter_map(|(name, owned)| Some((&**name, owned.unwanted?.since.at.0)));
        self.each(metric, "profile", unwanted);
    }

    fn processes(&mut self, set: &Set, status: &Status) {
        let Some(processes) = &status.processes else {
            return;
        };
        let help = "Processes confined by a profile or a child of it.";
        let owned = names(set)
            .into_iter()
            .filter(|name| set.owned.contains_key(*name));
        let counts = owned.map(|name| (name, processes.by_profile.get(name).unwrap_or(&0)));
        self.each(("processes_confined", "gauge", help), "profile", counts);
        let help = "When the confined processes were counted.";
        self.gauge(
            "processes_counted_timestamp_seconds",
            help,
            processes.counted.at.0,
        );
    }
}

/// The state of `name`. A refused or contested profile may have its last good version in force.
fn state_of(set: &Set, name: &str) -> &'static str {
    let owned = set.owned.get(name);
    match set.problems.get(name) {
        Some(problem) => problem.kind.word(),
        None if owned.is_some_and(|owned| owned.unwanted.is_some()) => Kind::Deferred.word(),
        None if owned.is_some() => "in_force",
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
            c if c == '\\' || is_obeyed(c) => clean += &format!("\\{}", c.escape_unicode()),
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests;

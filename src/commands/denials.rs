//! A filter for kernel and audit logs: the denials of each profile, and the rule that would allow each.

mod record;
mod rule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, BufRead, BufReader, Read};

use serde_json::json;

use crate::error::{Error, Exit};
use crate::profile::printable;
use record::Record;

/// The bytes of a line that are read. An audit record has at most 8970 (MAX_AUDIT_MESSAGE_LENGTH);
/// the journal's JSON adds some fields.
const LINE_LIMIT: u64 = 64 * 1024;

const TITLES: &str = "COUNT FIRST                LAST                 VERDICT         PROFILE                  OPERATION      OBJECT, AND BELOW THE RULE THAT ALLOWS IT\n";

/// The user's settings.
pub(crate) struct Settings {
    /// The logs; none: standard input.
    pub(crate) files: Vec<std::path::PathBuf>,
    /// Only this profile and its children.
    pub(crate) profile: Option<String>,
    /// JSON in place of a table.
    pub(crate) json: bool,
}

/// The denials in the logs.
#[derive(Default)]
struct Log {
    /// By profile, operation, object, verdict and rule.
    denials: BTreeMap<[String; 5], Seen>,
    notes: BTreeSet<&'static str>,
}

/// How often something was denied, and when.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    /// Records without an id: the journal keeps one beside the kernel's line of the same event.
    others: usize,
    first: Option<String>,
    last: Option<String>,
}

/// Prints the denials in the logs.
///
/// # Errors
/// A log that cannot be read.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let mut log = Log::default();
    if settings.files.is_empty() {
        let read = log.read(io::stdin().lock());
        read.map_err(Error::io("read standard input"))?;
    }
    for path in &settings.files {
        let file = fs_err::File::open(path).map(BufReader::new);
        let read = file.and_then(|file| log.read(file));
        read.map_err(Error::io("read a log"))?;
    }
    if let Some(name) = &settings.profile {
        let is_of = |profile: &str| profile == name || profile.starts_with(&format!("{name}//"));
        log.denials.retain(|[profile, ..], _| is_of(profile));
    }
    super::print(&log.text(settings.json))?;
    Ok(Exit::Converged)
}

impl Log {
    fn read(&mut self, mut input: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = input.by_ref().take(LINE_LIMIT);
            if limited.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if !line.ends_with(b"\n") {
                input.skip_until(b'\n')?;
            }
            match Record::new(&record::text(String::from_utf8_lossy(&line).trim_end())) {
                Ok(record) => self.add(&record),
                Err(note) => self.notes.extend(note),
            }
        }
    }

    fn add(&mut self, record: &Record) {
        let (object, rule) = rule::of(record);
        let [profile, operation, verdict, time, id] =
            ["profile", "operation", "verdict", "time", "id"].map(|key| record.get(key));
        // A child that complain mode made stands for its parent.
        let profile = profile.split("//null-").next().unwrap_or(profile);
        let [profile, operation, object] = [profile, operation, &object].map(printable);
        let key = [profile, operation, object, verdict.into(), rule];
        let seen = self.denials.entry(key).or_default();
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (id, time) = (given(id), given(time));
        seen.others += usize::from(id.is_none());
        seen.ids.extend(id);
        let times = [seen.first.take(), time.clone()];
        seen.first = times.into_iter().flatten().min();
        seen.last = seen.last.take().max(time);
    }

    fn text(&self, is_json: bool) -> String {
        let mut rows = Vec::new();
        let mut text = String::from(TITLES);
        for ([profile, operation, object, verdict, rule], seen) in &self.denials {
            let count = seen.ids.len().max(seen.others);
            rows.push(json!({
                "profile": profile, "operation": operation, "object": object, "verdict": verdict,
                "rule": rule, "count": count, "first": seen.first, "last": seen.last,
            }));
            let times = [&seen.first, &seen.last];
            let [first, last] = times.map(|time| time.as_deref().unwrap_or("-"));
            text += &format!(
                "{count:>5} {first:20} {last:20} {verdict:15} {profile:24} {operation:14} {object}\n      {rule}\n"
            );
        }
        if is_json {
            let (schema, notes) = (crate::report::SCHEMA, &self.notes);
            let log = json!({"schema": schema, "denials": rows, "notes": notes});
            return format!("{log}\n");
        }
        if rows.is_empty() {
            text = "no denial found\n".into();
        }
        let notes = self.notes.iter().map(|note| format!("note: {note}\n"));
        text + &notes.collect::<String>()
    }
}

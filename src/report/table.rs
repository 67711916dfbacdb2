//! The status as a table of at most 100 columns.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use crate::clock::{Time, in_words};
use crate::commands::status::{Overview, Row};
use crate::plan::about;
use crate::profile::printable;
use crate::settings::Env;

const WIDTH: usize = 100;

/// Whether to colour: on a terminal only, and not where `NO_COLOR` is set.
pub(crate) fn colours(env: Env) -> bool {
    std::io::stdout().is_terminal() && env("NO_COLOR").is_none()
}

/// The table, the errors below it, and what could not be found out.
pub(crate) fn render(overview: &Overview, colours: bool) -> String {
    let mut text = String::new();
    if let Some(pass) = &overview.last_pass {
        let age = Duration::from_secs(Time::now().0.saturating_sub(pass.at.0));
        let node = overview.node.as_deref().unwrap_or("this node");
        let line = format!("{node}: last pass {} ago, {}", in_words(age), pass.reason);
        let _ = writeln!(text, "{}", cut(&line, WIDTH));
    }
    if overview.profiles.is_empty() {
        text.push_str("no profile is wanted or owned; armorer reconcile SOURCE loads some\n");
    } else {
        table(&mut text, &overview.profiles, colours);
    }
    for row in &overview.profiles {
        if let Some(error) = &row.error {
            let _ = writeln!(text, "{}", about(&row.profile, error));
        }
    }
    for note in &overview.notes {
        let _ = writeln!(text, "note: {}", printable(note));
    }
    text
}

fn table(text: &mut String, rows: &[Row], colours: bool) {
    let longest = |cell: fn(&Row) -> &str, title: &str, most: usize| {
        let widths = rows.iter().map(|row| cell(row).chars().count());
        widths.max().unwrap_or(0).clamp(title.len(), most)
    };
    let name = longest(|row| &row.profile, "PROFILE", 36);
    let set = longest(|row| &row.set, "SET", 10);
    let titles = format!(
        "{:name$} {:set$} {:8} {:8} {:8} {:>5} {:>7} ",
        "PROFILE", "SET", "MODE", "WANTED", "LOADED", "PROCS", "CHANGED"
    );
    let room = WIDTH.saturating_sub(titles.len());
    let _ = writeln!(text, "{titles}STATE");
    for row in rows {
        let mode = row.mode.map_or_else(|| "-".into(), |mode| mode.to_string());
        let digest = |digest: Option<crate::profile::Digest>| {
            digest.map_or_else(|| "-".into(), |digest| digest.to_string()[..8].to_owned())
        };
        let processes = row.processes.map_or_else(|| "-".into(), |n| n.to_string());
        let changed = row.changed.map_or_else(
            || "-".into(),
            |at| in_words(Duration::from_secs(Time::now().0.saturating_sub(at.0))),
        );
        let first = changed.split(' ').next().unwrap_or("-");
        let state = paint(&cut(&row.state, room), &row.state, colours);
        let _ = writeln!(
            text,
            "{:name$} {:set$} {mode:8} {:8} {:8} {processes:>5} {first:>7} {state}",
            cut(&printable(&row.profile), name),
            cut(&row.set, set),
            digest(row.wanted),
            digest(row.loaded),
        );
    }
}

fn paint(text: &str, state: &str, colours: bool) -> String {
    let colour = match state {
        _ if !colours => return text.to_owned(),
        "in force" => 32,
        "unwanted" => 33,
        _ => 31,
    };
    format!("\u{1b}[{colour}m{text}\u{1b}[0m")
}

/// `text` in at most `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

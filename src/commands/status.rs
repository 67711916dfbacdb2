//! `status`: each desired or owned profile, its state in the kernel, and the processes it confines.

use std::collections::{BTreeMap, BTreeSet};
use std::{path::PathBuf, time::Duration};

use serde::Serialize;

use super::{print, probe, table};
use crate::error::{Error, Exit};
use crate::kernel::{COMPLAINS, Kernel, Scan, processes};
use crate::outcome::{Unenforced, about};
use crate::profile::{Digest, Mode, parent, printable};
use crate::report::{self, SCHEMA};
use crate::state::{Record, Set, State};
use crate::time::{Time, in_words};
use crate::{pass::Place, report::status::Status, state::store::Store};

/// The user's settings.
pub(crate) struct Settings {
    pub(crate) place: Place,
    /// Whether only the place's set is shown.
    pub(crate) one_set: bool,
    /// The table as JSON.
    pub(crate) json: bool,
    /// The Kubernetes probe to be answered instead: `ready` or `live`.
    pub(crate) probe: Option<String>,
    /// How long the loop's last pass may have ended ago.
    pub(crate) poll_time: Duration,
    pub(crate) deadline: Duration,
    /// Refused, conflicting and blocked profiles make the node unready too.
    pub(crate) strict: bool,
    pub(crate) loop_file: PathBuf,
}

/// The states that ask nothing of a person.
const SETTLED: [&str; 3] = ["in force", "deferred", "learning"];

/// One line of the table, one element of the JSON document.
#[derive(Serialize)]
struct Row {
    profile: String,
    set: String,
    /// The kernel's mode; none: not loaded, or the kernel cannot be read.
    mode: Option<Mode>,
    /// The digest of the last good version's compiled policy.
    desired: Option<Digest>,
    /// The digest of the loaded policy, where the kernel shows it.
    loaded: Option<Digest>,
    /// Processes confined by it, by its children, or by a stack with it.
    processes: Option<usize>,
    changed: Option<Time>,
    /// `in force`, `missing`, `drifted`, `unknown`, `learning`, or an outcome's word.
    state: &'static str,
    message: Option<String>,
    /// Its rules that the kernel does not enforce: a star behind the state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unenforced: Vec<Unenforced>,
}

impl Row {
    /// The rules of the text itself that are not enforced.
    fn own(&self) -> impl Iterator<Item = &Unenforced> {
        self.unenforced.iter().filter(|rules| rules.own)
    }
}

/// The whole output.
#[derive(Serialize)]
struct Overview {
    schema: u32,
    node: Option<String>,
    last_pass: Option<Status>,
    profiles: Vec<Row>,
    notes: Vec<String>,
}

/// Prints the status, or answers a probe by exit code and one line.
///
/// # Errors
/// State or boot cannot be read.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let place = &settings.place;
    let (kernel, mut store) = (Kernel::new(&place.kernel), Store::new(&place.state_dir));
    let last_pass = Status::read(&store.status_path(&place.set));
    if let Some(probe) = &settings.probe {
        let answer = match &**probe {
            "live" => probe::live(settings),
            _ => probe::ready(settings, last_pass, &kernel.boot_id()?),
        };
        let (exit, line) = match answer {
            Ok(words) => (Exit::Converged, format!("{probe}: {words}")),
            Err(reason) => (Exit::Incomplete, format!("not {probe}: {reason}")),
        };
        print(&format!("{}\n", printable(&line)))?;
        return Ok(exit);
    }
    let mut state = store.load()?;
    state.enter_boot(&kernel.boot_id()?);
    if settings.one_set {
        state.sets.retain(|name, _| *name == place.set);
    }
    let view = View::new(&kernel, &state);
    let mut rows = Vec::new();
    for (set_name, set) in &state.sets {
        let names = report::names(set).into_iter();
        rows.extend(names.map(|name| view.row(set_name, set, name)));
    }
    let settled = |row: &Row| row.message.is_none() && SETTLED.contains(&row.state);
    let exit = Exit::of(rows.iter().all(settled));
    let overview = Overview {
        schema: SCHEMA,
        node: state.node,
        last_pass,
        profiles: rows,
        notes: view.notes,
    };
    print(&match settings.json {
        true => serde_json::to_string_pretty(&overview).expect("plain data") + "\n",
        false => text(&overview),
    })?;
    Ok(exit)
}

/// The kernel's profiles and the processes in /proc.
struct View {
    /// Whether the kernel can be read; else `loaded` and `scan` are empty.
    asked: bool,
    loaded: BTreeMap<String, Mode>,
    contents: BTreeMap<String, Digest>,
    scan: Scan,
    /// Facts that no row shows.
    notes: Vec<String>,
}

impl View {
    fn new(kernel: &Kernel, state: &State) -> Self {
        let mut notes = Vec::new();
        let loaded = kernel.preflight_read().and_then(|()| kernel.profiles());
        let (asked, loaded, scan) = match loaded {
            Ok(loaded) => (true, loaded, processes::scan(kernel.proc())),
            Err(error) => {
                notes.push(format!("the kernel's state is unknown: {}", error.chain()));
                (false, BTreeMap::new(), Scan::default())
            }
        };
        let sets = state.sets.values();
        let mut names: BTreeSet<&str> = sets.flat_map(report::names).collect();
        names.retain(|name| loaded.contains_key(*name) && parent(name).is_none());
        let contents = kernel.contents(&names);
        if kernel.complains() {
            notes.push(COMPLAINS.into());
        }
        if contents.len() < names.len() {
            let note = "contents unverifiable: this kernel shows names and modes, and no contents";
            notes.push(note.into());
        }
        let restricted = match state.cage.as_deref() {
            Some("none") => Some("none (this kernel has no Landlock)"),
            Some("partial") => Some("partial (this kernel has an older Landlock)"),
            _ => None,
        };
        notes.extend(restricted.map(|how| format!("Landlock restricts the compiler: {how}")));
        if let Some(reason) = &scan.incomplete {
            notes.push(format!("the process counts are incomplete: {reason}"));
        }
        for (name, at) in state.sets.values().flat_map(|set| &set.unloaded) {
            notes.push(format!("{name} was unloaded by another program before {at}: processes that it confined stay unconfined until restarted"));
        }
        Self {
            asked,
            loaded,
            contents,
            scan,
            notes,
        }
    }

    fn row(&self, set_name: &str, set: &Set, name: &str) -> Row {
        let is_own = |record: &&Record| record.members.first().is_some_and(|own| own.name == name);
        let record = set.profiles.values().find(is_own);
        let desired = record.map(|record| record.policy);
        let loaded = self.contents.get(name).copied();
        let expected = record.filter(|r| r.loaded_at.is_some()).map(Record::mode);
        let mode = self.loaded.get(name).copied();
        let changed = expected != mode || (loaded.is_some() && loaded != desired);
        let child = format!("{name}//null-");
        let learns = || self.scan.processes.iter().any(|p| p.label.contains(&child));
        let state = match report::standing(set, name) {
            Some(kind) => kind.word(),
            None if !self.asked => "unknown",
            None if mode.is_none() => "missing",
            None if record.is_some() && changed => "drifted",
            None if mode == Some(Mode::Enforce) && learns() => "learning",
            None => "in force",
        };
        Row {
            profile: name.to_owned(),
            set: set_name.to_owned(),
            mode,
            desired,
            loaded,
            processes: mode.map(|_| self.scan.users_of(name).len()),
            changed: record.and_then(|record| record.loaded_at),
            state,
            message: set.problems.get(name).map(|p| p.message.clone()),
            unenforced: record.map_or_else(Vec::new, |record| record.unenforced.clone()),
        }
    }
}

/// The table, the problems below it, and the notes.
fn text(overview: &Overview) -> String {
    let age = |at: Time| in_words(at.age());
    let mut text = String::new();
    if let Some(Status { last_pass, .. }) = &overview.last_pass {
        let node = printable(overview.node.as_deref().unwrap_or("this node"));
        let (ago, summary) = (age(last_pass.ended.at), &last_pass.summary);
        text += &format!("{node}: last pass {ago} ago, {summary}\n");
    }
    let titles = ["PROFILE", "SET", "MODE", "PROCESSES", "CHANGED", "STATE"];
    let mut rows = vec![titles.map(str::to_owned)];
    let dash = || "-".to_owned();
    for row in &overview.profiles {
        let changed = row.changed.map_or_else(dash, age);
        rows.push([
            printable(&row.profile),
            row.set.clone(),
            row.mode.map_or_else(dash, |mode| mode.to_string()),
            row.processes.map_or_else(dash, |n| n.to_string()),
            changed.split(' ').next().unwrap_or_default().to_owned(),
            row.state.to_owned() + if row.own().next().is_none() { "" } else { "*" },
        ]);
    }
    text += &match overview.profiles.is_empty() {
        true => "no profile is desired or owned: run armorer reconcile SOURCE\n".to_owned(),
        false => table(&rows),
    };
    for row in &overview.profiles {
        let message = row.message.iter();
        text.extend(message.map(|message| about(&row.profile, message) + "\n"));
    }
    for row in &overview.profiles {
        for rules in row.own() {
            text += &format!("* {}\n", about(&row.profile, &rules.message));
        }
    }
    for note in &overview.notes {
        text += &format!("note: {}\n", printable(note));
    }
    text
}

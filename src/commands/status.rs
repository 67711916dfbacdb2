//! `status`: each desired or owned profile, what the kernel holds, and which processes it confines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{print, table};
use crate::error::{Error, Exit};
use crate::kernel::{Kernel, Scan, processes};
use crate::outcome::{Kind, about};
use crate::pass::Place;
use crate::profile::{Digest, Mode, parent, printable};
use crate::report::status::Status;
use crate::report::{self, SCHEMA};
use crate::state::store::Store;
use crate::state::{Record, Set, State};
use crate::time::{Stamp, Time, in_words};

/// The loop is given up when it has not turned for three polls, a pass' deadline and this long, in
/// which a pass waits for another's lock.
const LIVE_GRACE: Duration = Duration::from_mins(1);

/// What a user may set.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) place: Place,
    /// Whether only the place's set is shown.
    pub(crate) one_set: bool,
    /// The table as JSON.
    pub(crate) json: bool,
    /// The Kubernetes probe to be answered, by exit code and one line, from files only: `ready` or `live`.
    pub(crate) probe: Option<String>,
    /// How long the loop's last pass may have ended ago.
    pub(crate) poll_time: Duration,
    pub(crate) deadline: Duration,
    /// Refused, conflicting and blocked profiles make the node unready too.
    pub(crate) strict: bool,
    pub(crate) loop_file: PathBuf,
}

/// Prints the status, or answers a probe.
///
/// # Errors
/// State or boot cannot be read.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let kernel = Kernel::new(&settings.place.kernel);
    let (exit, line) = match settings.probe.as_deref() {
        None => return show(settings, &kernel),
        Some("ready") => match ready(settings, &kernel.boot_id()?) {
            Ok(summary) => (Exit::Converged, format!("ready: {summary}")),
            Err(reason) => (Exit::Incomplete, format!("not ready: {reason}")),
        },
        Some(_) => match live(settings) {
            Ok(age) => (Exit::Converged, format!("live: last iteration {age} ago")),
            Err(reason) => (Exit::Incomplete, format!("not live: {reason}")),
        },
    };
    print(&format!("{}\n", printable(&line)))?;
    Ok(exit)
}

/// Ready: this loop made the last pass, less than 3 polls and a deadline ago; it read its sources
/// completely, and every desired profile is in force but those refused or in conflict.
fn ready(settings: &Settings, boot_id: &str) -> Result<String, String> {
    let path = Store::new(&settings.place.state_dir).status_path(&settings.place.set);
    let status = Status::read(&path).ok_or("no pass has ended yet")?;
    let (_, id) = heartbeat(settings)?;
    if status.boot_id != boot_id {
        return Err("no pass has ended since the node booted".into());
    }
    if id.is_empty() || status.loop_id.as_deref() != Some(&*id) {
        return Err("this loop's first pass has not ended yet".into());
    }
    let pass = status.last_pass;
    let age = Stamp::now().since(&pass.ended);
    if age > settings.poll_time * 3 + settings.deadline {
        return Err(format!("the last pass ended {} ago", in_words(age)));
    }
    if !pass.ready || (settings.strict && !pass.clean) {
        return Err(pass.summary);
    }
    Ok(pass.summary)
}

/// Live: the loop has turned lately. A pass that fails does not make it dead.
fn live(settings: &Settings) -> Result<String, String> {
    let (at, _) = heartbeat(settings)?;
    let age = Duration::from_secs(Time::now().0.saturating_sub(at));
    if age > settings.poll_time * 3 + settings.deadline + LIVE_GRACE {
        return Err(format!("last iteration {} ago", in_words(age)));
    }
    Ok(in_words(age))
}

/// The loop's last iteration, in seconds since 1970, and its identity.
fn heartbeat(settings: &Settings) -> Result<(u64, String), String> {
    let file = &settings.loop_file;
    let text = std::fs::read_to_string(file).map_err(|error| {
        format!(
            "no heartbeat from armorer-loop: {}: {error}",
            file.display()
        )
    })?;
    let (at, id) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    match at.parse() {
        Ok(at) => Ok((at, id.to_owned())),
        Err(_) => Err(format!("{} holds no time", file.display())),
    }
}

/// One line of the table, one element of the JSON document.
#[derive(Clone, Debug, Serialize)]
struct Row {
    profile: String,
    set: String,
    /// What the kernel says; none: not loaded, or the kernel cannot be asked.
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
}

/// All that is shown.
#[derive(Debug, Serialize)]
struct Overview {
    schema: u32,
    node: Option<String>,
    last_pass: Option<Status>,
    profiles: Vec<Row>,
    notes: Vec<String>,
}

fn show(settings: &Settings, kernel: &Kernel) -> Result<Exit, Error> {
    let mut store = Store::new(&settings.place.state_dir);
    let mut state = store.load()?;
    state.enter_boot(&kernel.boot_id()?);
    if settings.one_set {
        state.sets.retain(|name, _| *name == settings.place.set);
    }
    let view = View::new(kernel, &state);
    let rows = state.sets.iter().flat_map(|(set_name, set)| {
        let names = report::names(set).into_iter();
        names
            .map(|name| view.row(set_name, set, name))
            .collect::<Vec<_>>()
    });
    let overview = Overview {
        schema: SCHEMA,
        profiles: rows.collect(),
        last_pass: Status::read(&store.status_path(&settings.place.set)),
        notes: view.notes(&state),
        node: state.node,
    };
    print(&match settings.json {
        true => serde_json::to_string_pretty(&overview).expect("plain data") + "\n",
        false => text(&overview),
    })?;
    let settled = |row: &Row| {
        matches!(row.state, "in force" | "deferred" | "unknown" | "learning")
            && row.message.is_none()
    };
    Ok(match overview.profiles.iter().all(settled) {
        true => Exit::Converged,
        false => Exit::Incomplete,
    })
}

/// What the kernel and /proc say, as far as they can be asked.
struct View {
    loaded: Result<BTreeMap<String, Mode>, String>,
    contents: BTreeMap<String, Digest>,
    verifiable: bool,
    scan: Option<Scan>,
    complains: bool,
}

impl View {
    fn new(kernel: &Kernel, state: &State) -> Self {
        let loaded = kernel.preflight_read().and_then(|()| kernel.profiles());
        let loaded = loaded.map_err(|error| error.chain());
        let sets = state.sets.values();
        let names: BTreeSet<&str> = sets
            .flat_map(|set| {
                set.owned
                    .keys()
                    .map(String::as_str)
                    .chain(report::names(set))
            })
            .filter(|name| {
                loaded
                    .as_ref()
                    .is_ok_and(|loaded| loaded.contains_key(*name))
            })
            .filter(|name| parent(name).is_none())
            .collect();
        let contents = kernel.contents(&names);
        Self {
            scan: loaded.is_ok().then(|| processes::scan(kernel.proc())),
            loaded,
            verifiable: contents.len() == names.len(),
            contents,
            complains: kernel.complains(),
        }
    }

    fn row(&self, set_name: &str, set: &Set, name: &str) -> Row {
        let record = set.profiles.get(name);
        let mode = self
            .loaded
            .as_ref()
            .ok()
            .and_then(|loaded| loaded.get(name))
            .copied();
        let loaded = self.contents.get(name).copied();
        let desired = record.map(|record| record.policy);
        let problem = set.problems.get(name);
        let unwanted = set
            .owned
            .get(name)
            .is_some_and(|owned| owned.unwanted.is_some());
        let expected = record.filter(|r| r.loaded_at.is_some()).map(Record::mode);
        let drifted = record.is_some()
            && (expected != mode || loaded.is_some_and(|loaded| Some(loaded) != desired));
        let learning = |scan: &Scan| {
            let child = format!("{name}//null-");
            let mut processes = scan.processes.iter();
            mode == Some(Mode::Enforce) && processes.any(|process| process.label.contains(&child))
        };
        let state = match problem {
            Some(problem) => problem.kind.word(),
            None if unwanted => Kind::Deferred.word(),
            None if self.loaded.is_err() => "unknown",
            None if mode.is_none() => "missing",
            None if drifted => "drifted",
            None if self.scan.as_ref().is_some_and(learning) => "learning",
            None => "in force",
        };
        let count = |scan: &Scan| scan.users_of(name).len();
        Row {
            profile: name.to_owned(),
            set: set_name.to_owned(),
            mode,
            desired,
            loaded,
            processes: mode.and(self.scan.as_ref().map(count)),
            changed: record.and_then(|record| record.loaded_at),
            state,
            message: problem.map(|problem| problem.message.clone()),
        }
    }

    /// Facts that no row shows.
    fn notes(&self, state: &State) -> Vec<String> {
        let mut notes = Vec::new();
        if let Err(reason) = &self.loaded {
            notes.push(format!("the kernel cannot be asked: {reason}"));
        }
        if self.complains {
            notes.push("NOTHING IS ENFORCED: the kernel's own mode is complain (/sys/module/apparmor/parameters/mode); write enforce into that file, or boot without apparmor.mode=complain".into());
        }
        if !self.verifiable {
            let note = "contents unverifiable: this kernel shows names and modes, and no contents";
            notes.push(note.into());
        }
        if let Some(cage) = state.cage.as_ref().filter(|cage| *cage != "full") {
            let known = if cage == "none" {
                "no Landlock"
            } else {
                "an older Landlock"
            };
            notes.push(format!(
                "Landlock restricts the compiler: {cage} (this kernel knows {known})"
            ));
        }
        if let Some(reason) = self.scan.as_ref().and_then(|scan| scan.incomplete.as_ref()) {
            notes.push(format!("processes are missing: {reason}"));
        }
        for (name, at) in state.sets.values().flat_map(|set| &set.unloaded) {
            notes.push(format!("{name} was unloaded by another program before {at}: processes that it confined then stay unconfined until they are restarted"));
        }
        notes
    }
}

/// The table, the problems below it, and the notes.
fn text(overview: &Overview) -> String {
    let age = |at: Time| in_words(Duration::from_secs(Time::now().0.saturating_sub(at.0)));
    let node = overview.node.as_deref().unwrap_or("this node");
    let passes = overview.last_pass.iter().map(|status| &status.last_pass);
    let mut text = String::new();
    for pass in passes {
        text += &format!(
            "{node}: last pass {} ago, {}\n",
            age(pass.ended.at),
            pass.summary
        );
    }
    if overview.profiles.is_empty() {
        text += "no profile is desired or owned; armorer reconcile SOURCE loads some\n";
    } else {
        let titles = ["PROFILE", "SET", "MODE", "PROCESSES", "CHANGED", "STATE"];
        let dash = || "-".to_owned();
        let rows = overview.profiles.iter().map(|row| {
            let changed = row.changed.map_or_else(dash, age);
            [
                printable(&row.profile),
                row.set.clone(),
                row.mode.map_or_else(dash, |mode| mode.to_string()),
                row.processes.map_or_else(dash, |n| n.to_string()),
                changed.split(' ').next().unwrap_or_default().to_owned(),
                row.state.to_owned(),
            ]
        });
        text += &table(titles, rows);
    }
    let messages = overview.profiles.iter();
    let messages = messages.filter_map(|row| Some(about(&row.profile, row.message.as_ref()?)));
    let notes = overview
        .notes
        .iter()
        .map(|note| format!("note: {}", printable(note)));
    messages
        .chain(notes)
        .for_each(|line| text += &(line + "\n"));
    text
}

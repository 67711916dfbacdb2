//! What is wanted, what the kernel holds, and who is confined by it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::probe;
use crate::args;
use crate::clock::Time;
use crate::confined::{self, Scan};
use crate::error::{Error, Exit};
use crate::kernel::Kernel;
use crate::plan::parent;
use crate::profile::{Digest, Mode, ProfileName, printable};
use crate::report::heartbeat::Heartbeat;
use crate::report::{self, kind_word, table};
use crate::settings::{Common, Env, Setting, deadline, rebase, switch};
use crate::state::folder::Folder;
use crate::state::{ProblemKind, Record, Set, State};

/// One line of the table, one element of the JSON document.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) profile: String,
    pub(crate) set: String,
    /// What the kernel says; none: not loaded, or the kernel cannot be asked.
    pub(crate) mode: Option<Mode>,
    /// The digest of the last good version's compiled policy.
    pub(crate) wanted: Option<Digest>,
    /// The digest of what is loaded, where the kernel tells.
    pub(crate) loaded: Option<Digest>,
    /// Processes confined by it, by its children, or by a stack with it.
    pub(crate) processes: Option<usize>,
    pub(crate) changed: Option<Time>,
    /// in force, missing, drifted, unwanted, or what stands in the way.
    pub(crate) state: String,
    pub(crate) error: Option<String>,
}

/// Everything that is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Overview {
    pub(crate) schema: u32,
    pub(crate) node: Option<String>,
    pub(crate) last_pass: Option<Heartbeat>,
    pub(crate) profiles: Vec<Row>,
    pub(crate) notes: Vec<String>,
}

/// Prints the status, or answers a probe.
pub(crate) fn run(flags: &args::Status, common: &Common, env: Env) -> Result<Exit, Error> {
    let poll_time = Setting::new("poll-time", flags.poll_time.as_ref(), env)
        .or_env("POLL_TIME")
        .number(30, 1, 86_400)?;
    let poll_time = Duration::from_secs(poll_time);
    let probe =
        Setting::new("probe", flags.probe.as_ref(), env).read(None, "ready or live", |text| {
            matches!(text, "ready" | "live").then(|| Some(text.to_owned()))
        })?;
    let folder = Folder::new(&common.state_dir);
    let (securityfs, proc) = (common.securityfs.clone(), common.proc.clone());
    let kernel = Kernel::new(&common.root, securityfs, proc);
    let (exit, line) = match probe.as_deref() {
        Some("ready") => probe::ready(
            &folder,
            &common.set,
            &kernel.boot_id()?,
            poll_time,
            deadline(flags.deadline.as_ref(), env)?,
            switch("strict", flags.strict, env)?,
        ),
        Some(_) => {
            let file = Setting::new("loop-heartbeat", flags.loop_heartbeat.as_ref(), env).path();
            let file = file.unwrap_or_else(|| "/run/armorer/loop".into());
            let deadline = deadline(flags.deadline.as_ref(), env)?;
            probe::live(&rebase(&common.root, &file), poll_time, deadline)
        }
        None => return show(flags, common, env, folder, &kernel),
    };
    println!("{}", printable(&line));
    Ok(exit)
}

fn show(
    flags: &args::Status,
    common: &Common,
    env: Env,
    mut folder: Folder,
    kernel: &Kernel,
) -> Result<Exit, Error> {
    let json = Setting::new("output", flags.output.as_ref(), env).read(
        false,
        "table or json",
        |text| match text {
            "table" => Some(false),
            "json" => Some(true),
            _ => None,
        },
    )?;
    let mut state = folder.load()?;
    state.enter_boot(&kernel.boot_id()?);
    let only = flags.set.is_some() || env("ARMORER_SET").is_some();
    if only {
        state.sets.retain(|name, _| *name == common.set);
    }
    let seen = Seen::new(kernel, &state);
    let overview = Overview {
        schema: report::SCHEMA,
        node: state.node.clone(),
        last_pass: Heartbeat::read(&folder, &common.set),
        profiles: rows(&state, &seen),
        notes: seen.notes,
    };
    if json {
        let document = serde_json::to_string_pretty(&overview).expect("plain data");
        println!("{document}");
    } else {
        print!("{}", table::render(&overview, table::colours(env)));
    }
    let clean = overview
        .profiles
        .iter()
        .all(|row| row.error.is_none() && row.is_settled());
    Ok(if clean {
        Exit::Converged
    } else {
        Exit::Incomplete
    })
}

impl Row {
    fn is_settled(&self) -> bool {
        !matches!(self.state.as_str(), "missing" | "drifted")
    }
}

/// What the kernel and /proc say, as far as they can be asked.
struct Seen {
    loaded: Option<BTreeMap<String, Mode>>,
    digests: BTreeMap<String, Digest>,
    scan: Option<Scan>,
    /// How many processes hold each name.
    users: Option<BTreeMap<String, usize>>,
    notes: Vec<String>,
}

impl Seen {
    fn new(kernel: &Kernel, state: &State) -> Self {
        let mut notes = Vec::new();
        let loaded = match kernel.preflight_read().and_then(|()| kernel.profiles()) {
            Ok(loaded) => Some(loaded),
            Err(error) => {
                notes.push(format!("the kernel cannot be asked: {}", error.chain()));
                None
            }
        };
        let sets = state.sets.values();
        let names: BTreeSet<&str> = sets
            .flat_map(|set| {
                let profiles = set.profiles.keys().map(ProfileName::as_str);
                set.owned.keys().map(String::as_str).chain(profiles)
            })
            .filter(|name| {
                loaded
                    .as_ref()
                    .is_some_and(|loaded| loaded.contains_key(*name))
            })
            .filter(|name| parent(name).is_none())
            .collect();
        let digests = kernel.contents(&names, &state.sha1s()).digests;
        if digests.len() < names.len() {
            notes.push(
                "content unverifiable: this kernel does not tell what is loaded, only names and modes"
                    .into(),
            );
        }
        if let Some(why) = &state.compiler_unconfined {
            notes.push(format!(
                "the compiler runs outside armorer's own profile: {why}"
            ));
        }
        let scan = loaded.is_some().then(|| confined::scan(kernel.proc()));
        if let Some(why) = scan.as_ref().and_then(|scan| scan.incomplete.as_ref()) {
            notes.push(format!("not every process could be looked at: {why}"));
        }
        let users = scan.as_ref().map(|scan| {
            let counts = scan.counts().into_iter();
            counts
                .map(|(name, count)| (name.to_owned(), count))
                .collect()
        });
        Self {
            loaded,
            digests,
            scan,
            users,
            notes,
        }
    }

    fn processes(&self, name: &str) -> Option<usize> {
        let users = self.users.as_ref()?;
        Some(users.get(name).copied().unwrap_or(0))
    }

    /// Processes that complain mode caught stay in it after the profile is enforced.
    fn is_learning(&self, name: &str, mode: Mode) -> bool {
        let learning = format!("{name}//null-");
        mode == Mode::Enforce
            && self
                .scan
                .as_ref()
                .is_some_and(|scan| scan.processes.iter().any(|p| p.label.contains(&learning)))
    }
}

fn rows(state: &State, seen: &Seen) -> Vec<Row> {
    let mut rows = Vec::new();
    for (set_name, set) in &state.sets {
        let names = report::names(set).into_iter();
        rows.extend(names.map(|name| row(set_name, set, name, seen)));
    }
    rows
}

fn row(set_name: &str, set: &Set, name: &str, seen: &Seen) -> Row {
    let record = set.profiles.get(name);
    let mode = seen
        .loaded
        .as_ref()
        .and_then(|loaded| loaded.get(name))
        .copied();
    let loaded = seen.digests.get(name).copied();
    let wanted = record.map(|record| record.blob);
    let problem = set.problems.get(name);
    let unwanted = set.owned.get(name).and_then(|owned| owned.unwanted);
    let expected = record.filter(|r| r.loaded_at.is_some()).map(Record::mode);
    let state = match (problem, unwanted) {
        (Some(problem), _) if problem.kind != ProblemKind::Kept => kind_word(problem.kind).into(),
        (_, Some(_)) => "unwanted".into(),
        _ if seen.loaded.is_none() => "unknown".into(),
        _ if mode.is_none() => "missing".into(),
        _ if record.is_some()
            && (expected != mode || loaded.is_some_and(|loaded| Some(loaded) != wanted)) =>
        {
            "drifted".into()
        }
        _ if mode.is_some_and(|mode| seen.is_learning(name, mode)) => {
            "still learning: restart the pod".into()
        }
        _ => "in force".into(),
    };
    Row {
        profile: name.to_owned(),
        set: set_name.to_owned(),
        mode,
        wanted,
        loaded,
        processes: mode.and_then(|_| seen.processes(name)),
        changed: record.and_then(|record| record.loaded_at),
        state,
        error: problem.map(|problem| problem.message.clone()),
    }
}

//! The gate: waits until every named profile is loaded.

use std::io::{self, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::args;
use crate::clock::in_words;
use crate::error::{Error, Exit};
use crate::kernel::Kernel;
use crate::profile::{Mode, NAME_LIMIT, quoted};
use crate::report::Published;
use crate::settings::{Common, Env, Setting};
use crate::state::folder::Folder;

/// Each question about a missing profile leaves an audit line, so it is asked no more often.
const SELF_INTERVAL: Duration = Duration::from_secs(5);

/// While it waits, it says so this often.
const REMINDER: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum From {
    Itself,
    Kernel,
    State,
}

/// Waits; the error's or report's words say what is missing.
pub(crate) fn run(flags: &args::Wait, common: &Common, env: Env) -> Result<(Exit, String), Error> {
    let names = names(flags, env)?;
    let from = Setting::new("from", flags.from.as_ref(), env).read(
        From::Itself,
        "self, kernel or state",
        |text| match text {
            "self" => Some(From::Itself),
            "kernel" => Some(From::Kernel),
            "state" => Some(From::State),
            _ => None,
        },
    )?;
    let mode = Setting::new("mode", flags.mode.as_ref(), env).read(
        None,
        "enforce, complain, kill, prompt or unconfined",
        |text| match Mode::of(text) {
            Mode::Unknown | Mode::Mixed => None,
            mode => Some(Some(mode)),
        },
    )?;
    if mode.is_some() && from == From::Itself {
        return Err(Error::Usage(
            "--mode needs --from kernel or --from state: a process cannot ask for it without rights".into(),
        ));
    }
    let timeout =
        Setting::new("timeout", flags.timeout.as_ref(), env).duration(Duration::from_secs(300))?;
    let default = match from {
        From::Itself => SELF_INTERVAL,
        _ => Duration::from_secs(1),
    };
    let mut interval = Setting::new("interval", flags.interval.as_ref(), env).duration(default)?;
    interval = interval.max(match from {
        From::Itself => SELF_INTERVAL,
        _ => Duration::from_millis(100),
    });

    let start = Instant::now();
    let mut said: Option<Instant> = None;
    loop {
        let missing = missing(&names, from, mode, common)?;
        if missing.is_empty() {
            return Ok((Exit::Converged, format!("loaded: {}", names.join(", "))));
        }
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok((
                Exit::Incomplete,
                format!(
                    "after {} still missing: {}; see armorer's log and status on this node",
                    in_words(timeout),
                    missing.join(", ")
                ),
            ));
        }
        if said.is_none_or(|said| said.elapsed() >= REMINDER) {
            said = Some(Instant::now());
            log::info!(action = "wait", reason = "missing"; "waiting for {}", missing.join(", "));
        }
        sleep(interval.min(left));
    }
}

fn names(flags: &args::Wait, env: Env) -> Result<Vec<String>, Error> {
    let mut names = flags.names.clone();
    if names.is_empty() {
        let listed = env("ARMORER_WAIT_FOR").unwrap_or_default();
        names.extend(listed.split_whitespace().map(str::to_owned));
    }
    if names.is_empty() {
        return Err(Error::Usage(
            "no profile named: armorer wait NAME..., or set ARMORER_WAIT_FOR".into(),
        ));
    }
    let wrong = |name: &&String| {
        name.is_empty() || name.len() >= NAME_LIMIT || name.chars().any(char::is_control)
    };
    match names.iter().find(wrong) {
        Some(name) => Err(Error::Usage(format!(
            "{} cannot be a profile's name",
            quoted(name)
        ))),
        None => Ok(names),
    }
}

/// Which of `names` are not there, each with the reason where one is known.
fn missing(
    names: &[String],
    from: From,
    mode: Option<Mode>,
    common: &Common,
) -> Result<Vec<String>, Error> {
    match from {
        From::Itself => {
            let mut missing = Vec::new();
            for name in names {
                if !is_loaded(name)? {
                    missing.push(name.clone());
                }
            }
            Ok(missing)
        }
        From::Kernel => {
            let (securityfs, proc) = (common.securityfs.clone(), common.proc.clone());
            let kernel = Kernel::new(&common.root, securityfs, proc);
            kernel.preflight_read()?;
            let loaded = kernel.profiles()?;
            Ok(lacking(names, mode, |name| loaded.get(name).copied()))
        }
        From::State => from_state(names, mode, common),
    }
}

fn lacking(
    names: &[String],
    mode: Option<Mode>,
    loaded: impl Fn(&str) -> Option<Mode>,
) -> Vec<String> {
    names
        .iter()
        .filter_map(|name| match (loaded(name), mode) {
            (None, _) => Some(name.clone()),
            (Some(is), Some(wanted)) if is != wanted => Some(format!("{name} (is in mode {is})")),
            _ => None,
        })
        .collect()
}

fn from_state(names: &[String], mode: Option<Mode>, common: &Common) -> Result<Vec<String>, Error> {
    let path = Folder::new(&common.state_dir).status_path();
    let text = match fs::read(&path) {
        Ok(text) => text,
        // The first pass of this node has not ended yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names.to_vec()),
        Err(error) => return Err(Error::io("read this node's status (--state-dir)")(error)),
    };
    let status: Published = serde_json::from_slice(&text).map_err(|error| {
        Error::State(format!(
            "{} is no status of armorer: {error}",
            path.display()
        ))
    })?;
    let (securityfs, proc) = (common.securityfs.clone(), common.proc.clone());
    if status.boot_id != Kernel::new(&common.root, securityfs, proc).boot_id()? {
        return Ok(names.to_vec());
    }
    let find = |name: &str| {
        let mut sets = status.sets.values();
        sets.find_map(|set| set.profiles.get(name).filter(|p| p.loaded_at.is_some()))
            .map(|profile| profile.mode)
    };
    let mut missing = lacking(names, mode, find);
    for line in &mut missing {
        let mut sets = status.sets.values();
        if let Some(why) = sets.find_map(|set| set.problems.get(line.as_str())) {
            *line = format!("{line} ({why})");
        }
    }
    Ok(missing)
}

/// Asks the kernel, with no right, whether `name` is loaded: it lets a process ask whether it
/// might change to that profile, and answers ENOENT where there is none.
fn is_loaded(name: &str) -> Result<bool, Error> {
    const PLACES: [&str; 2] = [
        "/proc/self/attr/apparmor/current",
        "/proc/self/attr/current",
    ];
    let place = PLACES.iter().find(|place| Path::new(place).exists());
    let place = place.unwrap_or(&PLACES[1]);
    let asked = fs::OpenOptions::new()
        .write(true)
        .open(place)
        .and_then(|mut file| file.write(format!("permprofile {name}").as_bytes()));
    match asked {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound if Path::new(place).exists() => Ok(false),
            io::ErrorKind::PermissionDenied => Ok(true),
            _ => Err(Error::Node(format!(
                "this kernel answers no question about AppArmor ({error}): start the node with AppArmor \
                 (kernel parameter apparmor=1 security=apparmor), or ask with --from state"
            ))),
        },
    }
}

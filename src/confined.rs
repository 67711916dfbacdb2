//! Who is confined by what: the complete scan of /proc, on which every removal depends.
//!
//! A scan says "nobody" only if it could have seen everybody: no mount option hides processes,
//! process 1 was seen, every thread was read, nothing but the end of a process was met, and
//! listing again shows no new one. Else the reason is in `Scan::incomplete`.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode as FileMode, OFlags, RawDir, SeekFrom, openat, seek};
use rustix::io::Errno;

use crate::profile::{is_within, printable};

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// So many times the list of processes is read again until it shows no new one.
const LISTINGS: usize = 50;

/// A process and what confines one of its threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confined {
    pub(crate) pid: u32,
    pub(crate) comm: String,
    /// Without the mode; a stack joins its profiles with `//&`.
    pub(crate) label: String,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    /// Each process once for each label that its threads have.
    confined: Vec<Confined>,
    /// Container runtimes' inits: each may be about to execute under any profile.
    starting: Vec<(u32, String)>,
    /// Why somebody may have been missed.
    pub(crate) incomplete: Option<String>,
}

impl Scan {
    /// The processes that hold `profile`, a child of it, or a stack with either.
    pub(crate) fn users_of(&self, profile: &str) -> Vec<&Confined> {
        let mut seen = BTreeSet::new();
        self.confined
            .iter()
            .filter(|confined| holds(&confined.label, profile) && seen.insert(confined.pid))
            .collect()
    }

    /// Every label.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &str> {
        self.confined.iter().map(|confined| confined.label.as_str())
    }

    /// Whether containers are being started, in words.
    pub(crate) fn armed_words(&self) -> Option<String> {
        let (pid, comm) = self.starting.first()?;
        Some(format!(
            "a container is being started ({comm}, process {pid}): nobody can tell under which profile"
        ))
    }
}

/// `3 processes (1234 sleep, 1235 sh, …)`; none where there are none.
pub(crate) fn in_words(users: &[&Confined]) -> Option<String> {
    const SHOWN: usize = 3;
    if users.is_empty() {
        return None;
    }
    let shown = users.iter().take(SHOWN);
    let mut named: Vec<String> = shown
        .map(|user| format!("{} {}", user.pid, user.comm))
        .collect();
    if users.len() > SHOWN {
        named.push("…".into());
    }
    let plural = if users.len() == 1 { "" } else { "es" };
    Some(format!(
        "{} process{plural} ({})",
        users.len(),
        named.join(", ")
    ))
}

/// Whether `label` holds `profile`. In a stack a profile of another policy namespace reads
/// `:ns:name` or `:ns://name`, and is not ours; but which namespace is ours depends on the
/// reader's view, so the bare name counts too.
fn holds(label: &str, profile: &str) -> bool {
    label.split("//&").any(|part| {
        let name = part.strip_prefix(':').and_then(|rest| {
            let (_, name) = rest.split_once(':')?;
            Some(name.strip_prefix("//").unwrap_or(name))
        });
        is_within(name.unwrap_or(part), profile)
    })
}

/// Looks at every thread of every process that `proc` shows.
pub(crate) fn scan(proc: &Path) -> Scan {
    let mut scan = Scan::default();
    if let Err(why) = scan_all(proc, &mut scan) {
        scan.incomplete.get_or_insert(why);
    }
    scan
}

fn scan_all(proc: &Path, scan: &mut Scan) -> Result<(), String> {
    let root = openat(CWD, proc, FOLDER, FileMode::empty())
        .map_err(|error| format!("cannot open {}: {}", proc.display(), words(error)))?;
    if let Some(why) = hidden_by_mount(proc) {
        scan.incomplete = Some(why);
    }
    let mut looked = BTreeSet::new();
    for _ in 0..LISTINGS {
        let mut new = false;
        let listed = numbers(root.as_fd());
        for pid in listed.map_err(|error| format!("cannot list processes: {}", words(error)))? {
            if looked.insert(pid) {
                new = true;
                look_at(root.as_fd(), pid, scan);
            }
        }
        if !new {
            if !looked.contains(&1) && scan.incomplete.is_none() {
                let why = "process 1 cannot be seen: mount the host's proc and name it with --proc";
                scan.incomplete = Some(why.into());
            }
            return Ok(());
        }
    }
    Err("new processes came faster than they could be looked at".into())
}

/// hidepid and subset=pid show less, without any error.
fn hidden_by_mount(proc: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let place = std::fs::canonicalize(proc).ok()?;
    let options = mount_options(&table, place.to_str()?)?;
    let option = hiding_option(&options)?;
    Some(format!(
        "{} is mounted with {option}, which hides processes: mount proc without it, or name another with --proc",
        proc.display()
    ))
}

/// The options of the mount that covers `place`, both the mount's and the file system's
/// (proc_pid_mountinfo(5): the sixth field, and the last). Of mounts upon each other the last
/// is in force.
fn mount_options(table: &str, place: &str) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(point), Some(options), Some(own)) = (fields.get(4), fields.get(5), fields.last())
        else {
            continue;
        };
        let point = point.replace("\\040", " ");
        let covers = point == "/"
            || place == point
            || place
                .strip_prefix(&point)
                .is_some_and(|rest| rest.starts_with('/'));
        if covers
            && best
                .as_ref()
                .is_none_or(|(length, _)| point.len() >= *length)
        {
            best = Some((point.len(), format!("{options},{own}")));
        }
    }
    best.map(|(_, options)| options)
}

fn hiding_option(options: &str) -> Option<&str> {
    options.split(',').find(|option| {
        let hides = option
            .strip_prefix("hidepid=")
            .is_some_and(|value| !matches!(value, "0" | "off"));
        hides || *option == "subset=pid"
    })
}

/// The entries of the open `folder` that are numbers, from its start.
fn numbers(folder: BorrowedFd) -> rustix::io::Result<Vec<u32>> {
    seek(folder, SeekFrom::Start(0))?;
    let mut numbers = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(entry) = entries.next() {
        numbers.extend(
            entry?
                .file_name()
                .to_str()
                .ok()
                .and_then(|n| n.parse::<u32>().ok()),
        );
    }
    Ok(numbers)
}

/// Looks at every thread of `pid`; one that has ended by now is nobody.
fn look_at(root: BorrowedFd, pid: u32, scan: &mut Scan) {
    if let Err(error) = look_at_threads(root, pid, scan)
        && !matches!(error, Errno::NOENT | Errno::SRCH)
    {
        let why = format!("process {pid} could not be looked at: {}", words(error));
        scan.incomplete.get_or_insert(why);
    }
}

fn look_at_threads(root: BorrowedFd, pid: u32, scan: &mut Scan) -> rustix::io::Result<()> {
    let tasks = openat(root, format!("{pid}/task"), FOLDER, FileMode::empty())?;
    // The name comes before the labels: a runtime's init that executes its program between the
    // two readings shows its label then.
    let comm = read_comm(tasks.as_fd(), pid)?;
    if is_starting(&comm) {
        scan.starting.push((pid, comm.clone()));
    }
    let mut looked = BTreeSet::new();
    for _ in 0..LISTINGS {
        let new: Vec<u32> = numbers(tasks.as_fd())?
            .into_iter()
            .filter(|tid| looked.insert(*tid))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        for tid in new {
            match read_label(tasks.as_fd(), tid) {
                Ok(label) => scan.see(pid, &comm, label),
                Err(Errno::NOENT | Errno::SRCH) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let why = format!("process {pid} starts threads faster than they could be looked at");
    scan.incomplete.get_or_insert(why);
    Ok(())
}

impl Scan {
    fn see(&mut self, pid: u32, comm: &str, label: String) {
        let known = self
            .confined
            .iter()
            .rev()
            .take_while(|confined| confined.pid == pid);
        if label != "unconfined" && !known.into_iter().any(|confined| confined.label == label) {
            self.confined.push(Confined {
                pid,
                comm: comm.to_owned(),
                label,
            });
        }
    }
}

/// The label without its mode, which follows the last ` (`.
fn read_label(tasks: BorrowedFd, tid: u32) -> rustix::io::Result<String> {
    let mut buffer = [0; 4096];
    let length = match read_file(tasks, &format!("{tid}/attr/apparmor/current"), &mut buffer) {
        // Kernels before 5.8 have no folder of AppArmor's own.
        Err(Errno::NOENT) => read_file(tasks, &format!("{tid}/attr/current"), &mut buffer)?,
        other => other?,
    };
    let text = String::from_utf8_lossy(&buffer[..length]);
    let text = text.trim_end_matches(['\n', '\0']);
    let name = match text.rsplit_once(" (") {
        Some((name, mode)) if mode.ends_with(')') => name,
        _ => text,
    };
    Ok(name.to_owned())
}

fn read_comm(tasks: BorrowedFd, tid: u32) -> rustix::io::Result<String> {
    let mut buffer = [0; 64];
    let length = read_file(tasks, &format!("{tid}/comm"), &mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    Ok(printable(text.trim_end()))
}

fn read_file(folder: BorrowedFd, path: &str, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(folder, path, flags, FileMode::empty())?;
    rustix::io::read(file, buffer)
}

/// Whether a process of this name may be a container runtime's init that is about to execute a
/// container's program, under a profile that nobody else can read yet.
///
/// runc names it `runc:[1:CHILD]` or `runc:[2:INIT]`, youki `youki:[2:INIT]` and the like; crun's
/// keeps the runtime's own name.
fn is_starting(comm: &str) -> bool {
    comm.starts_with("runc:[") || comm.starts_with("youki:[") || comm == "crun"
}

/// An error of the system, in its own words.
fn words(error: Errno) -> String {
    io::Error::from(error).to_string()
}

#[cfg(test)]
#[path = "confined/tests.rs"]
mod tests;

//! The processes that each profile confines: a scan of /proc that knows whether it is complete.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::{io, os::unix::fs::DirEntryExt as _, path::Path};

use rustix::fs::{PROC_SUPER_MAGIC, statfs};
use rustix::io::Errno;

use super::LABELS;
use crate::fs;
use crate::profile::{is_within, printable};

/// The rounds for new processes; a node that starts them faster is reported.
const ROUNDS: usize = 64;

/// Above the length of a name, a label or a command line that matters, in bytes.
const TEXT_BYTES: u64 = 1 << 20;

/// The kernel's mark of its own threads in `/proc/PID/stat` (`PF_KTHREAD`, include/linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// The programs that start others under a profile, as their processes call themselves: each may hold
/// one in `attr/exec`, which other processes cannot read.
///
/// Seen between create and start of a container: `runc:[2:INIT]`; `crun` or, from a file system where
/// it cannot bind-mount itself, `memfd:crun_clon`. From their source: `youki:[2:INIT]`, `krun`,
/// `sysbox-runc`, `lxc-start`; a unit's process of systemd is `(NAME)` before its exec, see [`is_runtime`].
const RUNTIMES: [&str; 6] = ["runc", "crun", "youki", "krun", "sysbox-runc", "lxc-start"];

/// The result of one look at all processes.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The confined ones: one entry for each different label of a process' threads.
    pub(crate) processes: Vec<Confined>,
    /// Runtimes at work, with pid and name: each may be about to execute a program under any profile.
    pub(crate) starting: Vec<(u32, String)>,
    /// Why processes may be missing, in one line. A missing one may be confined by any profile.
    pub(crate) incomplete: Option<String>,
}

/// A process and a label that a thread of it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confined {
    /// Its id, in the pid namespace of the scanned /proc.
    pub(crate) pid: u32,
    /// The process' own name for itself: at most 15 bytes.
    pub(crate) comm: String,
    /// As the kernel prints it, with the mode: `NAME (enforce)`, `A//&B (mixed)`.
    pub(crate) label: String,
}

impl Confined {
    /// The label without its mode: `NAME`, `A//&B`.
    fn names(&self) -> &str {
        match self.label.rsplit_once(" (") {
            Some((names, mode)) if mode.ends_with(')') => names,
            _ => &self.label,
        }
    }

    /// The profiles of the label: one, or those of a stack; without mode and policy namespace.
    pub(crate) fn profiles(&self) -> impl Iterator<Item = &str> {
        self.names().split("//&").map(|name| {
            // `:NAMESPACE:NAME` or `:NAMESPACE://NAME`
            let rest = name.strip_prefix(':').unwrap_or_default();
            let inner = rest.split_once(':').map(|(_, name)| name);
            inner.map_or(name, |name| name.trim_start_matches("//"))
        })
    }

    /// Whether it holds `profile`, a child of it, or a stack with either. The whole label counts too:
    /// the name of a child that another program loaded may begin with `&`, which looks like a stack.
    fn uses(&self, profile: &str) -> bool {
        let mut names = self.profiles().chain([self.names()]);
        names.any(|name| is_within(name, profile))
    }
}

impl Scan {
    /// The processes that use `profile`, each once.
    pub(crate) fn users_of(&self, profile: &str) -> BTreeMap<u32, &str> {
        let processes = self.processes.iter();
        let users = processes.filter(|process| process.uses(profile));
        users.map(|process| (process.pid, &*process.comm)).collect()
    }

    /// How many processes hold each profile; a child's count for its parents too.
    pub(crate) fn counts(&self) -> BTreeMap<&str, usize> {
        let mut users: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for process in &self.processes {
            for name in process.profiles() {
                let parents = name.match_indices("//").map(|(at, _)| &name[..at]);
                for holder in parents.chain([name]) {
                    users.entry(holder).or_default().insert(process.pid);
                }
            }
        }
        let counts = users.into_iter().map(|(name, pids)| (name, pids.len()));
        counts.collect()
    }

    /// The users of `profile`, as in `3 processes (1234 sleep, 1235 sh, …)`; none where there are none.
    pub(crate) fn users_in_words(&self, profile: &str) -> Option<String> {
        const SHOWN: usize = 3;
        let users = self.users_of(profile);
        let named = users.iter().take(SHOWN);
        let named = named.map(|(pid, comm)| format!("{pid} {}", printable(comm)));
        let more = (users.len() > SHOWN).then(|| "…".into());
        let named = named.chain(more).collect::<Vec<_>>().join(", ");
        let plural = if users.len() == 1 { "" } else { "es" };
        (!users.is_empty()).then(|| format!("{} process{plural} ({named})", users.len()))
    }

    /// The first runtime that may be starting a container, in words.
    pub(crate) fn starting_in_words(&self) -> Option<String> {
        let (pid, comm) = self.starting.first()?;
        Some(format!(
            "{} (pid {pid}) is starting a program under an unknown profile",
            printable(comm)
        ))
    }

    fn miss(&mut self, reason: String) {
        self.incomplete.get_or_insert(reason);
    }

    /// Reads all processes in `proc`, until none is new.
    fn add_processes(&mut self, proc: &Path) -> io::Result<()> {
        let shown = proc.display();
        let first = proc.join("1");
        let attribute = LABELS.iter().find(|label| first.join(label).exists());
        let attribute = attribute.unwrap_or(&LABELS[1]);
        let (mut seen, mut first_process) = (HashSet::new(), false);
        for _ in 0..ROUNDS {
            let mut new = numbered(proc)?;
            new.retain(|process| seen.insert(*process));
            if new.is_empty() {
                if !first_process {
                    self.miss(format!("process 1 is not shown in {shown}"));
                }
                return Ok(());
            }
            for (pid, _) in new {
                match self.add_process(pid, &proc.join(pid.to_string()), attribute) {
                    Ok(read) => first_process |= pid == 1 && read,
                    Err(error) => {
                        let process = format!("process {pid} in {shown}");
                        self.miss(format!("cannot read the label of {process}: {error}"));
                    }
                }
            }
        }
        self.miss(format!("processes start faster than {shown} can be read"));
        Ok(())
    }

    /// Reads the process in `folder`; whether any thread of it was still there.
    fn add_process(&mut self, pid: u32, folder: &Path, attribute: &str) -> io::Result<bool> {
        // Before the labels: a runtime has them changed by its exec, which changes the name too.
        let Some(comm) = unless_ended(read(&folder.join("comm")))? else {
            return Ok(false);
        };
        if is_runtime(&comm) || was_started_as_runtime(folder, &comm) {
            self.starting.push((pid, comm.clone()));
        }
        let (mut seen, mut labels, mut any) = (HashSet::new(), HashSet::new(), false);
        for _ in 0..ROUNDS {
            let Some(mut threads) = unless_ended(numbered(&folder.join("task")))? else {
                return Ok(any);
            };
            threads.retain(|(thread, _)| seen.insert(*thread));
            // A thread that has gone can have started another one meanwhile.
            let mut vanished = false;
            for (thread, _) in threads {
                let label = read(&folder.join(format!("task/{thread}/{attribute}")));
                let Some(label) = unless_ended(label)? else {
                    vanished = true;
                    continue;
                };
                any = true;
                if label != "unconfined" && labels.insert(label.clone()) {
                    let comm = comm.clone();
                    self.processes.push(Confined { pid, comm, label });
                }
            }
            if !vanished {
                return Ok(any);
            }
        }
        let reason = "its threads come and go faster than they can be read";
        Err(io::Error::other(reason))
    }
}

/// Reads the label of every thread of every process in `proc`.
pub(crate) fn scan(proc: &Path) -> Scan {
    let mut scan = Scan::default();
    if statfs(proc).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC)
        && let Err(reason) = shows_all(proc)
    {
        scan.miss(reason);
    }
    if let Err(error) = scan.add_processes(proc) {
        scan.miss(format!("cannot list {}: {error}", proc.display()));
    }
    scan
}

/// A file's text without the newline at its end.
fn read(file: &Path) -> io::Result<String> {
    let bytes = fs::read_open(fs::open(file)?, 0, TEXT_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end_matches(['\n', '\0']).to_owned())
}

/// The entries of a folder that are numbers, with their inodes: a number that is given anew has another
/// one.
fn numbered(folder: &Path) -> io::Result<Vec<(u32, u64)>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        numbers.extend(name.parse().map(|number| (number, entry.ino())));
    }
    Ok(numbers)
}

/// None where the process or thread has ended.
fn unless_ended<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result.as_ref().err().and_then(Errno::from_io_error) {
        Some(Errno::NOENT | Errno::SRCH) => Ok(None),
        _ => result.map(Some),
    }
}

/// Whether a process of this name may be starting a program under a profile.
fn is_runtime(comm: &str) -> bool {
    let comm = comm.strip_prefix("memfd:").unwrap_or(comm);
    let is_executor = comm.starts_with('(') && comm.ends_with(')');
    // They live on and execute nothing.
    let is_helper = comm.starts_with("(sd-") || comm == "(udev-worker)";
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
    let mut rests = RUNTIMES.iter().filter_map(|name| comm.strip_prefix(name));
    is_executor && !is_helper || rests.any(ends)
}

/// Whether a program started by its descriptor, and so called by that number, may be a runtime.
fn was_started_as_runtime(folder: &Path, comm: &str) -> bool {
    if comm.is_empty() || !comm.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let Ok(line) = read(&folder.join("cmdline")) else {
        return true;
    };
    let program = line.split('\0').next().unwrap_or_default();
    is_runtime(program.rsplit('/').next().unwrap_or_default())
}

/// Whether the process file system mounted at `proc` shows the whole node.
fn shows_all(proc: &Path) -> Result<(), String> {
    let shown = proc.display();
    let mounts = std::fs::read("/proc/self/mountinfo")
        .or_else(|_| std::fs::read(proc.join("self/mountinfo")))
        .map_err(|error| format!("cannot read how {shown} is mounted: {error}"))?;
    let path = std::fs::canonicalize(proc);
    let path = path.map_err(|error| format!("cannot resolve {shown}: {error}"))?;
    mount_shows_all(&String::from_utf8_lossy(&mounts), &path)?;
    // Only the initial pid namespace has the kernel's thread 2.
    let stat = std::fs::read_to_string(proc.join("2/stat")).unwrap_or_default();
    if is_kernel_thread(&stat) {
        return Ok(());
    }
    Err(format!(
        "{shown} shows only the processes of a container: mount the host's /proc and give its path with --proc"
    ))
}

/// `stat` is `PID (COMM) STATE PPID PGRP SESSION TTY TPGID FLAGS …` (`proc_pid_stat(5)`).
fn is_kernel_thread(stat: &str) -> bool {
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(6))
        .and_then(|flags| flags.parse::<u64>().ok())
        .is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

/// Looks at the options of the mount that covers `proc`, in the format of
/// `proc_pid_mountinfo(5)`: `ID PARENT DEVICE ROOT POINT OPTIONS [TAG…] - TYPE SOURCE OPTIONS`.
fn mount_shows_all(mountinfo: &str, proc: &Path) -> Result<(), String> {
    let shown = proc.display();
    let covering = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = unescape(mount.split(' ').nth(4)?);
        let depth = Path::new(&point).components().count();
        proc.starts_with(&point).then_some((depth, file_system))
    });
    // Of several at one place the last one is on top, and max_by_key takes the last.
    let mount = covering.max_by_key(|(depth, _)| *depth);
    let mut fields = mount.map_or("", |(_, fields)| fields).split(' ');
    if fields.next() != Some("proc") {
        return Err(format!("cannot find the mount of {shown}"));
    }
    let mut options = fields.nth(1).unwrap_or_default().split(',');
    let hiding = options.find(|option| match option.strip_prefix("hidepid=") {
        Some(value) => !matches!(value, "0" | "off"),
        None => option.starts_with("subset="),
    });
    match hiding {
        None => Ok(()),
        Some(option) => Err(format!(
            "{shown} is mounted with {option}, which hides processes: mount it without"
        )),
    }
}

/// Spaces, tabs, newlines and backslashes stand as three octal digits.
fn unescape(point: &str) -> String {
    let point = point.replace("\\040", " ").replace("\\011", "\t");
    point.replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests;

//! One running compiler.

use std::io::{self, Read as _, Seek as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs::File, os::fd::OwnedFd, os::unix::process::CommandExt as _};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How long a killed compiler may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// The bytes of the compiler's messages that are read.
const MESSAGES_LIMIT: u64 = 64 * 1024;

/// How a compiler ended by itself, or why it did not.
pub(super) type Ended = Result<ExitStatus, &'static str>;

const OVERDUE: &str = "the compiler waited too long for CPU or disk";
const NOT_ALLOWED: &str =
    "the compiler takes too long and cannot be killed: give armorer the capability KILL";
const STUCK: &str = "the compiler was killed and does not end";

/// A compiler at work. Dropped before its end, it is killed.
pub(super) struct Process {
    child: Child,
    pidfd: OwnedFd,
    policy: File,
    messages: File,
    /// When it is killed, or, once killed, given up.
    until: Instant,
    killed: bool,
    ended: Option<Ended>,
}

impl Process {
    /// Starts `command` with `text` as its standard input.
    pub(super) fn start(command: &mut Command, text: &str, until: Instant) -> io::Result<Self> {
        let policy = memory("armorer-policy")?;
        let messages = memory("armorer-messages")?;
        let mut child = command
            .env_clear()
            .process_group(0)
            .stdin(Stdio::from(sealed(text)?))
            .stdout(Stdio::from(policy.try_clone()?))
            .stderr(Stdio::from(messages.try_clone()?))
            .spawn()?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = pidfd.inspect_err(|_| {
            let _ = (child.kill(), child.wait());
        })?;
        Ok(Self {
            child,
            pidfd,
            policy,
            messages,
            until,
            killed: false,
            ended: None,
        })
    }

    /// How it ended, if it did. Kills it when its time is over.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        self.ended = match self.child.try_wait() {
            Ok(Some(_)) if self.killed => Some(Err(OVERDUE)),
            Ok(Some(status)) => Some(Ok(status)),
            // The kernel reports every child exactly once; this is the only place that waits.
            Err(_) => Some(Err(STUCK)),
            Ok(None) if Instant::now() < self.until => None,
            Ok(None) if self.killed => Some(Err(STUCK)),
            Ok(None) => self.kill(),
        };
        self.ended
    }

    /// Kills it with all that it started; an end where that is not allowed.
    fn kill(&mut self) -> Option<Ended> {
        self.killed = true;
        self.until = Instant::now() + GRACE;
        let killed = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        (killed == Err(Errno::PERM)).then_some(Err(NOT_ALLOWED))
    }

    /// The compiler's output: at most `limit` bytes of policy, and its messages.
    pub(super) fn output(&mut self, limit: u64) -> io::Result<(Vec<u8>, String)> {
        let policy = contents(&mut self.policy, limit)?;
        let messages = contents(&mut self.messages, MESSAGES_LIMIT)?;
        Ok((policy, String::from_utf8_lossy(&messages).into_owned()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// Returns when one of `processes` ended, the time of one is over, or `most` has passed.
pub(super) fn wait_for_one(processes: &[(usize, Process)], most: Duration) {
    let until = processes.iter().map(|(_, process)| process.until);
    let Some(until) = until.min() else { return };
    let pidfds = processes.iter().map(|(_, process)| &process.pidfd);
    let mut pidfds: Vec<_> = pidfds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    // Rounded up, or the last millisecond would be spent spinning.
    let pause = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    let pause = Timespec::try_from(pause.min(most)).ok();
    let _ = poll(&mut pidfds, pause.as_ref());
}

/// A file in memory that no executed program inherits.
fn memory(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Asked for by vm.memfd_noexec, not known before kernel 6.3.
    let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    Ok(File::from(fd))
}

/// A file in memory that can no longer be changed.
fn sealed(text: &str) -> io::Result<File> {
    let mut file = memory("armorer-text")?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

fn contents(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

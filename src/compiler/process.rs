//! One running compiler.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How long a killed compiler may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Of what the compiler says, this many bytes are read.
const MESSAGES_LIMIT: u64 = 64 * 1024;

/// How a compiler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Status(i32),
    Signal(Option<Signal>),
    /// Killed at the end of its wall-clock time.
    Overdue,
    /// Its time was over, and this process may not kill it.
    NotAllowed,
    /// Killed, and still there.
    Stuck,
}

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
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid.ok_or(Errno::SRCH);
        match pidfd.and_then(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Ok(pidfd) => Ok(Self {
                child,
                pidfd,
                policy,
                messages,
                until,
                killed: false,
                ended: None,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// How it ended, if it did. Kills it when its time is over.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        self.ended = match self.child.try_wait() {
            Ok(Some(_)) if self.killed => Some(Ended::Overdue),
            Ok(Some(status)) => Some(match (status.code(), status.signal()) {
                (Some(code), _) => Ended::Status(code),
                (None, signal) => Ended::Signal(signal.and_then(Signal::from_named_raw)),
            }),
            // The kernel reports every child exactly once; this is the only place that waits.
            Err(_) => Some(Ended::Stuck),
            Ok(None) if Instant::now() < self.until => None,
            Ok(None) if self.killed => Some(Ended::Stuck),
            Ok(None) => self.kill(),
        };
        self.ended
    }

    /// Kills it with all that it started; an end where that is not allowed.
    fn kill(&mut self) -> Option<Ended> {
        self.killed = true;
        self.until = Instant::now() + GRACE;
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)?;
        (kill_process_group(pid, Signal::KILL) == Err(Errno::PERM)).then_some(Ended::NotAllowed)
    }

    /// What it wrote: at most `limit` bytes of policy, and its messages.
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

/// Returns when one of `processes` ended, or the time of one is over.
pub(super) fn wait_for_one(processes: &[Process]) {
    let Some(until) = processes.iter().map(|process| process.until).min() else {
        return;
    };
    let fds = processes.iter().map(|process| &process.pidfd);
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    // Rounded up, or the last millisecond would be spent spinning.
    let pause = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    let _ = poll(&mut fds, Timespec::try_from(pause).ok().as_ref());
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

/// A file in memory that nobody can change any more.
fn sealed(text: &str) -> io::Result<File> {
    let mut file = memory("armorer-text")?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file)
}

fn contents(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

//! One running compiler.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::explain::Ended;

/// How long a killed compiler may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// How long a poll without pidfd sleeps.
pub(super) const NAP: Duration = Duration::from_millis(10);

pub(super) struct Process {
    child: Child,
    pid: Option<Pid>,
    pidfd: Option<OwnedFd>,
    /// The policy.
    pub(super) output: File,
    /// The messages.
    pub(super) errors: File,
    /// Since when it is dead, or should be.
    killed: Option<Instant>,
}

impl Process {
    /// `child` leads a process group of its own.
    pub(super) fn new(child: Child, output: File, errors: File) -> Self {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Self {
            // A kernel before 5.3 has none: then it is looked at every NAP.
            pidfd: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
            pid,
            child,
            output,
            errors,
            killed: None,
        }
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        match (self.child.try_wait(), self.killed) {
            (Err(_), _) => Some(Ended::Lost),
            (Ok(Some(_)), Some(_)) => Some(Ended::Timeout),
            (Ok(Some(status)), None) => Some(ended(status)),
            (Ok(None), Some(since)) if since.elapsed() >= GRACE => Some(Ended::Stuck),
            (Ok(None), _) => None,
        }
    }

    /// Kills it and what it started; how that ended, if it is not to be waited for.
    pub(super) fn kill(&mut self) -> Option<Ended> {
        let kill = self.pid.map(|pid| kill_process_group(pid, Signal::KILL));
        if kill == Some(Err(Errno::PERM)) {
            return Some(Ended::NotAllowed);
        }
        self.killed = Some(Instant::now());
        None
    }

    /// When it is given up, if it was killed.
    pub(super) fn given_up_at(&self) -> Option<Instant> {
        self.killed.map(|since| since + GRACE)
    }
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Status(code),
        (None, Some(signal)) => Ended::Signal(signal),
        (None, None) => Ended::Lost,
    }
}

/// Returns when one of `processes` ended, or after `pause`.
pub(super) fn sleep<'p>(processes: impl Iterator<Item = &'p Process>, mut pause: Duration) {
    let (mut fds, mut all) = (Vec::new(), 0);
    for process in processes {
        all += 1;
        let pidfd = process.pidfd.as_ref();
        fds.extend(pidfd.map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
    }
    if fds.len() < all {
        pause = pause.min(NAP);
    }
    // Rounded up, or the last millisecond would be spent spinning.
    let pause = Timespec::try_from(pause + Duration::from_millis(1)).ok();
    let _ = poll(&mut fds, pause.as_ref());
}

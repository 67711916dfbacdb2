//! Processes in the background, and waiting.

use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The longest that anything is waited for: the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_mins(2);

/// Waits until `ready` gives a value.
#[track_caller]
pub fn eventually<T>(purpose: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "not in time: {purpose}");
        sleep(Duration::from_millis(20));
    }
}

/// Waits until `ready` holds.
#[track_caller]
pub fn until(purpose: &str, ready: impl Fn() -> bool) {
    eventually(purpose, || ready().then_some(()));
}

/// A running process, killed when dropped.
pub struct Background(pub Child);

impl Background {
    /// Starts `command`.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Sends SIGTERM, as the kubelet does, and waits for the end; 20 seconds at most.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let kill = Command::new("kill").arg(self.pid().to_string()).status();
        assert!(kill.unwrap().success());
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            let late = start.elapsed() > Duration::from_secs(20);
            assert!(!late, "it goes on after SIGTERM");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

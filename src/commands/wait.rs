//! `wait`: the gate before a workload. Ends when every named profile is loaded.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::{Error, Exit};
use crate::kernel::{self, Kernel, is_loaded};
use crate::{profile::Mode, time::in_words};

/// The pause between log lines while it waits.
const REMINDER: Duration = Duration::from_mins(1);

/// The user's settings.
pub(crate) struct Settings {
    pub(crate) names: Vec<String>,
    /// Where the kernel's list is; none: the kernel is queried without privileges.
    pub(crate) kernel: Option<kernel::Settings>,
    /// The mode that each must be in.
    pub(crate) mode: Option<Mode>,
    pub(crate) timeout: Duration,
    pub(crate) interval: Duration,
}

/// Waits, and logs the profiles that are missing.
///
/// # Errors
/// The kernel cannot be asked.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let start = Instant::now();
    let mut reminded: Option<Instant> = None;
    loop {
        let missing = missing(settings)?;
        if missing.is_empty() {
            log::info!(action = "wait"; "loaded: {}", settings.names.join(", "));
            return Ok(Exit::Converged);
        }
        let left = settings.timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            log::error!(action = "wait"; "timed out after {}, still missing: {missing}; see armorer's log and status on this node", in_words(settings.timeout));
            return Ok(Exit::Incomplete);
        }
        if reminded.is_none_or(|reminded| reminded.elapsed() >= REMINDER) {
            reminded = Some(Instant::now());
            log::info!(action = "wait", reason = "missing"; "waiting for {missing}");
        }
        sleep(settings.interval.min(left));
    }
}

/// The names that are not loaded, or in another mode.
fn missing(settings: &Settings) -> Result<String, Error> {
    let mut missing = Vec::new();
    let listed = settings.kernel.as_ref().map(|kernel| {
        let kernel = Kernel::new(kernel);
        kernel.preflight_read().and_then(|()| kernel.profiles())
    });
    let loaded = listed.transpose()?;
    for name in &settings.names {
        let mode = match &loaded {
            Some(loaded) => loaded.get(name).copied(),
            None => is_loaded(name)?.then_some(Mode::Unknown),
        };
        match mode {
            None => missing.push(name.clone()),
            Some(mode) if settings.mode.is_none_or(|desired| mode == desired) => {}
            Some(mode) => missing.push(format!("{name} (in mode {mode})")),
        }
    }
    Ok(missing.join(", "))
}

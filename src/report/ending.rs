//! What a pass leaves for those who watch, however it ended: heartbeat and metrics file.

use std::time::Instant;

use super::heartbeat::Heartbeat;
use super::{Report, metrics};
use crate::clock::Stamp;
use crate::confined;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::settings::Pass as Settings;
use crate::state::Set;
use crate::state::folder::{Folder, replace};

/// Writes both. Neither is worth failing a pass for.
pub(crate) fn tell(
    settings: &Settings,
    kernel: &Kernel,
    started: Instant,
    folder: &mut Folder,
    result: &Result<Report, Error>,
) {
    let name = &*settings.common.set;
    let boot_id = kernel.boot_id().unwrap_or_default();
    let _quiet = folder.quiet_moment();
    let previous = Heartbeat::read(folder, name);
    let now = Stamp::now();
    let took = started.elapsed();
    let mut heartbeat = Heartbeat::after(previous, now, boot_id, took, result);
    heartbeat.state = result.is_ok().then(|| folder.saved());
    let Some(file) = &settings.metrics_file else {
        return heartbeat.write(folder, name);
    };
    let recorded;
    let set = if let Ok(report) = result {
        if metrics::wants_count(&heartbeat, now, !report.quiet) {
            let scan = confined::scan(kernel.proc());
            heartbeat.processes = metrics::count(&scan, &report.set, now);
        }
        Some(&report.set)
    } else {
        recorded = recorded_set(folder, &heartbeat.boot_id, name);
        recorded.as_ref()
    };
    heartbeat.write(folder, name);
    let text = metrics::render(name, set, &heartbeat);
    if let Err(error) = replace(file, text.as_bytes(), 0o644) {
        log::warn!("the metrics are not written: {error}; see --metrics-file");
    }
}

/// What is recorded of the set, for a pass that ended before it could say anything of it.
fn recorded_set(folder: &mut Folder, boot_id: &str, set: &str) -> Option<Set> {
    let mut state = folder.load().ok()?;
    state.enter_boot(boot_id);
    state.sets.remove(set)
}

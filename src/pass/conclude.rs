//! After a pass, however it ended: the Kubernetes node, the log's last line, status and metrics files.

use std::time::{Duration, Instant};

use super::{Place, node};
use crate::fs::{replace, sweep};
use crate::kernel::{Kernel, processes};
use crate::report::status::{Processes, Status};
use crate::report::{self, Report, metrics};
use crate::time::Stamp;
use crate::{error::Error, kubernetes, state::Set, state::store::Store};

/// The pause between counts of processes in passes without changes: a scan of /proc costs more than
/// the rest of a pass with nothing to do.
const COUNT_EVERY: Duration = Duration::from_mins(5);

/// The pause between log lines of a loop's idle passes, in seconds.
const LOG_EVERY: u64 = 3600;

/// Makes `pass`, and brings node, log, status and metrics up to date. Only a taint that stays makes the
/// pass not converged; all else is logged.
pub(super) fn concluded(
    place: &Place,
    settings: &report::Settings,
    cluster: Option<&kubernetes::Settings>,
    pass: impl FnOnce() -> Result<Report, Error>,
) -> Result<Report, Error> {
    let started = Instant::now();
    let mut result = pass();
    let kernel = Kernel::new(&place.kernel);
    let mut store = Store::new(&place.state_dir);
    let path = store.status_path(&place.set);
    let mut status = Status::read(&path).unwrap_or_default();
    let summary = status.last_pass.summary.clone();
    status.enter_boot(&kernel.boot_id().unwrap_or_default());
    let node = cluster.and_then(|cluster| node::Node::new(cluster, &place.set));
    if let (Some(node), Ok(report)) = (&node, &mut result) {
        node.clear_taint(&mut status.node, report);
    }
    let (now, took) = (Stamp::now(), started.elapsed());
    status.end_pass(now, took, !kernel.complains(), &result);
    let same = status.last_pass.summary == summary;
    if let Some(node) = &node {
        node.label(&mut status.node, &result);
        node.send_events(&result, same);
    }
    let is_first = settings.loop_id.is_none() || settings.loop_id != status.loop_id;
    let due = is_first || now.uptime >= status.logged + LOG_EVERY;
    if due || !same {
        if let Ok(report) = &result {
            report.log_end(due);
        }
        status.logged = now.uptime;
    }
    // After a removal or a restore, also one since this pass, only the loop's next pass makes the node
    // ready. Only the node's object takes time since.
    let asked = node.is_some() || settings.metrics_file.is_some();
    let set = asked.then(|| recorded_set(&mut store, &status.boot_id, &place.set));
    let set = set.flatten();
    let is_last =
        node.is_none() || matches!(&result, Ok(report) if set.as_ref() == Some(&report.set));
    if settings.loop_id.is_some() || cluster.is_none() {
        status.loop_id = settings.loop_id.clone().filter(|_| is_last);
    }
    // A loop takes the folder, or its probe could not say why no pass has begun.
    let takes = || settings.loop_id.is_some() && store.lock(Duration::ZERO).is_ok();
    if !store.is_prepared() && !takes() {
        return result;
    }
    if let Some(file) = &settings.metrics_file {
        let counted = status.processes.as_ref().map(|processes| processes.counted);
        let stale = counted.is_none_or(|counted| now.since(&counted) >= COUNT_EVERY);
        let due = matches!(&result, Ok(report) if stale || report.has_changes());
        if let Some(set) = set.as_ref().filter(|_| due) {
            status.processes = count(&kernel, set, now);
        }
        let text = metrics::render(&place.set, set.as_ref(), &status);
        if let (Some(folder), Some(name)) = (file.parent(), file.file_name()) {
            sweep(folder, |file| *name == *file);
        }
        if let Err(error) = replace(file, text.as_bytes(), 0o644, false) {
            let file = file.display();
            log::warn!("cannot write the metrics to {file}: {error}; see --metrics-file");
        }
    }
    status.write(&path);
    result
}

fn recorded_set(store: &mut Store, boot_id: &str, set: &str) -> Option<Set> {
    let mut state = store.load().ok()?;
    state.enter_boot(boot_id);
    state.sets.remove(set)
}

/// The processes that the profiles of `set` confine; none where not all can be seen.
fn count(kernel: &Kernel, set: &Set, now: Stamp) -> Option<Processes> {
    let scan = processes::scan(kernel.proc());
    let counts = scan.counts();
    let names = report::names(set).into_iter();
    let by_profile = names.filter_map(|name| Some((name.to_owned(), *counts.get(name)?)));
    scan.incomplete.is_none().then(|| Processes {
        counted: now,
        by_profile: by_profile.collect(),
    })
}

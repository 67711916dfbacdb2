//! After a pass, however it ended: the Kubernetes node, the log's last line, status and metrics files.

use std::time::{Duration, Instant};

use super::Place;
use crate::error::{Error, Exit};
use crate::fs::replace;
use crate::kernel::{Kernel, Scan, processes};
use crate::kubernetes::client::Client;
use crate::kubernetes::node::{self, Labels, Memo};
use crate::kubernetes::{self, events};
use crate::outcome::{Kind, Outcome};
use crate::report::status::{Processes, Status};
use crate::report::{self, Report, metrics};
use crate::state::Set;
use crate::state::store::Store;
use crate::time::{Stamp, Time};

/// The node's object and its events are not waited for longer, each.
const NODE_TIME: Duration = Duration::from_secs(10);

/// Processes are counted by passes that changed something, and else this often: a scan of /proc
/// costs more than all the rest of a pass with nothing to do.
const COUNT_EVERY: Duration = Duration::from_mins(5);

/// A loop's passes that change nothing log a line this often.
const LOG_EVERY: u64 = 3600;

/// Brings node, log, status and metrics up to date. Only a taint that stays makes the pass not converged;
/// all else is logged.
pub(super) fn conclude(
    place: &Place,
    settings: &report::Settings,
    cluster: Option<&kubernetes::Settings>,
    started: Instant,
    result: &mut Result<Report, Error>,
) {
    let kernel = Kernel::new(&place.kernel);
    let boot_id = kernel.boot_id().unwrap_or_default();
    let mut store = Store::new(&place.state_dir);
    let path = store.status_path(&place.set);
    let previous = Status::read(&path);
    let summary = previous
        .as_ref()
        .map(|previous| previous.last_pass.summary.clone());
    let node = cluster.and_then(|cluster| NodeWork::new(cluster, &place.set));
    let mut memo = node
        .as_ref()
        .map(|node| node.memo(&boot_id, previous.as_ref()));
    if let (Some(node), Some(memo), Ok(report)) = (&node, &mut memo, &mut *result) {
        node.clear_taint(memo, report);
    }
    let now = Stamp::now();
    let took = started.elapsed();
    let loop_id = settings.loop_id.clone();
    let mut status = Status::after(previous, now, boot_id, took, loop_id, result);
    if let (Some(node), Some(memo)) = (&node, &mut memo) {
        node.label(memo, result);
    }
    status.node = memo.or(status.node);
    status.state = result.as_ref().ok().and_then(|report| report.saved);
    let same = summary.as_deref() == Some(&status.last_pass.summary);
    let began = Time(now.at.0.saturating_sub(took.as_secs() + 1));
    let due = now.uptime >= status.logged + LOG_EVERY;
    if settings.loop_id.is_none() || !same || due {
        if let Ok(report) = result {
            if settings.loop_id.is_none() || due {
                report.log_problems(began);
            }
            report.log_end();
        }
        status.logged = now.uptime;
    }
    if let Some(node) = &node {
        node.send_events(result, began, same);
    }
    if !store.is_prepared() {
        return;
    }
    if let Some(file) = &settings.metrics_file {
        if let Ok(report) = result {
            let counted = status.processes.as_ref().map(|processes| processes.counted);
            if report.has_changes() || counted.is_none_or(|at| now.since(&at) >= COUNT_EVERY) {
                status.processes = count(&processes::scan(kernel.proc()), &report.set, now);
            }
        }
        let recorded = match result {
            Ok(_) => None,
            Err(_) => recorded_set(&mut store, &status.boot_id, &place.set),
        };
        let set = result
            .as_ref()
            .ok()
            .map(|report| &report.set)
            .or(recorded.as_ref());
        let text = metrics::render(&place.set, set, &status);
        if let Err(error) = replace(file, text.as_bytes(), 0o644) {
            log::warn!(
                "{}: the metrics are not written: {error}; see --metrics-file",
                file.display()
            );
        }
    }
    status.write(&path);
}

/// The record of the set, for a pass that ended before it had one.
fn recorded_set(store: &mut Store, boot_id: &str, set: &str) -> Option<Set> {
    let mut state = store.load().ok()?;
    state.enter_boot(boot_id);
    state.sets.remove(set)
}

/// The processes that `scan` found confined by the profiles of `set`; none where it is incomplete.
fn count(scan: &Scan, set: &Set, now: Stamp) -> Option<Processes> {
    let counts = scan.counts();
    let names = report::names(set).into_iter();
    let by_profile = names.filter_map(|name| Some((name.to_owned(), *counts.get(name)?)));
    scan.incomplete.is_none().then(|| Processes {
        counted: now,
        by_profile: by_profile.collect(),
    })
}

/// The work on the Kubernetes node's object.
struct NodeWork<'a> {
    cluster: &'a kubernetes::Settings,
    node: &'a str,
    set: &'a str,
}

impl<'a> NodeWork<'a> {
    fn new(cluster: &'a kubernetes::Settings, set: &'a str) -> Option<Self> {
        let asked = cluster.events || cluster.label_node || cluster.clear_taint.is_some();
        let node = cluster.node.as_deref().filter(|_| asked)?;
        Some(Self { cluster, node, set })
    }

    fn client(&self) -> Result<Client, Error> {
        Client::new(&self.cluster.access, Instant::now() + NODE_TIME)
    }

    /// What was written before in this boot, by this pod or one before it.
    fn memo(&self, boot_id: &str, previous: Option<&Status>) -> Memo {
        let known = previous.and_then(|previous| previous.node.clone());
        let known = known.filter(|known| known.boot_id == boot_id);
        let mut memo = known.unwrap_or_default();
        if memo.pod != self.cluster.pod {
            memo.labels = None;
        }
        boot_id.clone_into(&mut memo.boot_id);
        memo
    }

    /// Takes the start-up taint from the node when it is ready for the first time.
    fn clear_taint(&self, memo: &mut Memo, report: &mut Report) {
        let Some(key) = &self.cluster.clear_taint else {
            return;
        };
        let settled = memo.taint.as_ref() == Some(key) && memo.pod == self.cluster.pod;
        if settled || !report.is_ready() {
            return;
        }
        let cleared = self
            .client()
            .and_then(|client| Ok(node::clear_taint(&client, self.node, key, Some(memo))?));
        match cleared {
            Ok((uid, was_there)) => {
                if was_there {
                    log::info!(action = "taint"; "the taint {key} is taken from the node {}", self.node);
                }
                memo.uid = uid;
                memo.taint = Some(key.clone());
                memo.pod.clone_from(&self.cluster.pod);
            }
            Err(error) => {
                report.exit = report.exit.max(Exit::Incomplete);
                report
                    .remarks
                    .push(format!("the taint {key} stays: {error}"));
            }
        }
    }

    /// Labels the node with the pass' result, where that differs from what was written last.
    fn label(&self, memo: &mut Memo, result: &Result<Report, Error>) {
        if !self.cluster.label_node {
            return;
        }
        let known = memo.labels.as_ref();
        let labels = Labels {
            state: result
                .as_ref()
                .map_or(Kind::Failed.word(), Report::state)
                .to_owned(),
            profiles: match (result, known) {
                (Ok(report), _) => report.fingerprint(),
                (Err(_), known) => {
                    known.map_or_else(|| "unknown".to_owned(), |known| known.profiles.clone())
                }
            },
        };
        if known == Some(&labels) {
            return;
        }
        let labelled = self
            .client()
            .and_then(|client| Ok(node::label(&client, self.node, self.set, Some(&labels))?));
        match labelled {
            Ok(uid) => {
                memo.uid = uid;
                memo.labels = Some(labels);
                memo.pod.clone_from(&self.cluster.pod);
            }
            Err(error) => {
                log::warn!(action = "label"; "the node's labels are not written: {error}");
            }
        }
    }

    /// Sends an Event for each change and each problem since `began`; for a pass that could not run, unless
    /// it ended as the `same` one before.
    fn send_events(&self, result: &Result<Report, Error>, began: Time, same: bool) {
        let news: Vec<Outcome> = match result {
            Ok(report) => {
                let changes = report
                    .outcomes
                    .iter()
                    .filter(|outcome| outcome.kind.is_write());
                let problems = report.set.problems.iter();
                let problems = problems.filter(|(_, problem)| problem.since >= began);
                let problems = problems.map(|(name, problem)| problem.outcome(name));
                changes.cloned().chain(problems).collect()
            }
            Err(_) if same => Vec::new(),
            Err(error) => vec![Outcome::new("", Kind::Failed, error.chain())],
        };
        if !self.cluster.events || news.is_empty() {
            return;
        }
        let subject = events::Subject {
            node: self.node,
            instance: self.cluster.pod.as_deref().unwrap_or(self.node),
            set: self.set,
        };
        let sent = self
            .client()
            .and_then(|client| Ok(events::send(&client, &subject, news, Time::now())?));
        if let Err(error) = sent {
            log::warn!(action = "event"; "not all events are written: {error}");
        }
    }
}

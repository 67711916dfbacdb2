//! A pass' reports on the Kubernetes node's object: taint, labels, events.

use std::time::{Duration, Instant};

use crate::error::{Error, Exit};
use crate::kubernetes::events::{self, Subject};
use crate::kubernetes::node::{self, Labels, Memo};
use crate::outcome::{Kind, Outcome, Severity};
use crate::{kubernetes, kubernetes::client::Client, report::Report};

/// The time limit for the node's object, and for its events.
const TIME: Duration = Duration::from_secs(10);

/// The node's object, and this pass' part in it.
pub(super) struct Node<'a> {
    cluster: &'a kubernetes::Settings,
    name: &'a str,
    set: &'a str,
}

impl<'a> Node<'a> {
    pub(super) fn new(cluster: &'a kubernetes::Settings, set: &'a str) -> Option<Self> {
        let asked = cluster.events || cluster.label_node || cluster.clear_taint.is_some();
        let name = cluster.node.as_deref().filter(|_| asked)?;
        Some(Self { cluster, name, set })
    }

    fn client(&self) -> Result<Client, Error> {
        Client::new(&self.cluster.access, Instant::now() + TIME)
    }

    /// Takes the start-up taint from the node when it is ready for the first time.
    pub(super) fn clear_taint(&self, memo: &mut Memo, report: &mut Report) {
        let cluster = self.cluster;
        let key = cluster.clear_taint.as_ref().filter(|_| report.is_ready());
        let settled = memo.taint.as_ref() == key && memo.pod == cluster.pod;
        let Some(key) = key.filter(|_| !settled) else {
            return;
        };
        let cleared = |client| Ok(node::clear_taint(&client, self.name, key, memo)?);
        match self.client().and_then(cleared) {
            Ok((uid, was_there)) => {
                if was_there {
                    log::info!(action = "taint"; "removed the taint {key} from the node {}", self.name);
                }
                self.seen(memo, uid);
                memo.taint = Some(key.clone());
            }
            Err(error) => {
                report.exit = report.exit.max(Exit::Incomplete);
                let remark = format!("cannot remove the taint {key}: {error}");
                report.remarks.push(remark);
            }
        }
    }

    /// Labels the node with the pass' result, where that differs from the last labels.
    pub(super) fn label(&self, memo: &mut Memo, result: &Result<Report, Error>) {
        if !self.cluster.label_node {
            return;
        }
        // A new pod writes them again: perhaps the node was deleted and has joined anew.
        let known = memo.labels.as_ref();
        let profiles = known.map_or("unknown", |labels| &labels.profiles);
        let (state, profiles) = match result {
            Ok(report) => (report.state().to_owned(), report.fingerprint()),
            Err(_) => (Kind::Failed.word().to_owned(), profiles.to_owned()),
        };
        let labels = Labels { state, profiles };
        if known == Some(&labels) && memo.pod == self.cluster.pod {
            return;
        }
        let written = |client| Ok(node::label(&client, self.name, self.set, &labels)?);
        match self.client().and_then(written) {
            Ok(uid) => {
                self.seen(memo, uid);
                memo.labels = Some(labels);
            }
            Err(e) => log::warn!(action = "label"; "cannot write the node's labels: {e}"),
        }
    }

    /// Labels and taint of an earlier object of this node, in the same boot, are not on this one.
    fn seen(&self, memo: &mut Memo, uid: String) {
        if memo.uid != uid {
            *memo = Memo::default();
        }
        memo.uid = uid;
        memo.pod.clone_from(&self.cluster.pod);
    }

    /// Sends an Event for each change and each new problem; for a pass that could not run, unless it ended
    /// as the `same` one before.
    pub(super) fn send_events(&self, result: &Result<Report, Error>, same: bool) {
        let news: Vec<Outcome> = match result {
            Ok(report) => {
                let is_news = |kind: Kind| kind.is_write() || kind.severity() == Severity::Problem;
                let outcomes = report.outcomes.iter();
                let news = outcomes.filter(|outcome| !outcome.stands && is_news(outcome.kind));
                news.cloned().collect()
            }
            Err(_) if same => Vec::new(),
            Err(error) => vec![Outcome::new("", Kind::Failed, error.chain())],
        };
        if !self.cluster.events || news.is_empty() {
            return;
        }
        let instance = self.cluster.pod.as_deref().unwrap_or(self.name);
        let subject = Subject {
            node: self.name,
            instance,
            set: self.set,
        };
        let sent = |client| Ok(events::send(&client, &subject, news)?);
        if let Err(error) = self.client().and_then(sent) {
            log::warn!(action = "event"; "cannot write all Events: {error}");
        }
    }
}

//! What stands in the way of a profile: noted now, or recorded by an earlier pass.

use std::time::Duration;

use super::Applier;
use crate::plan::{Change, Verb};
use crate::profile::{Digest, Refusal, RefusalKind};
use crate::state::{Problem, ProblemKind};

impl Applier<'_> {
    /// Notes what stands in the way of `name`.
    pub(crate) fn problem(&mut self, name: &str, kind: ProblemKind, verb: Verb, message: String) {
        self.note(name, kind, None, message.clone());
        self.change(Change::new(name, verb, message));
    }

    fn note(&mut self, name: &str, kind: ProblemKind, key: Option<Digest>, message: String) {
        let known = self.before.problems.get(name);
        let since = match known {
            Some(known) if known.kind == kind && known.key == key && known.message == message => {
                known.since
            }
            _ => self.now,
        };
        let problem = Problem {
            kind,
            message,
            key,
            since,
        };
        self.problems.entry(name.to_owned()).or_insert(problem);
    }

    /// Notes that `name` is refused; `key` is what the refused text would be compiled from.
    pub(crate) fn refuse(&mut self, name: &str, key: Option<Digest>, refusal: &Refusal) {
        let kind = ProblemKind::Refused(refusal.kind);
        self.note(name, kind, key, refusal.message.clone());
        self.change(Change::new(name, Verb::Refuse, refusal.message.clone()));
    }

    /// The recorded refusal of the very same text, unless it may have been chance.
    pub(crate) fn known_refusal(
        &self,
        name: &str,
        key: Digest,
        try_again: Duration,
    ) -> Option<Refusal> {
        let problem = self.before.problems.get(name)?;
        let ProblemKind::Refused(kind) = problem.kind else {
            return None;
        };
        let stands = problem.key == Some(key)
            && match kind {
                RefusalKind::NotCompiled => false,
                RefusalKind::CompileTimeout => self.now.since(&problem.since) < try_again,
                _ => true,
            };
        stands.then(|| Refusal::new(kind, &problem.message))
    }

    pub(crate) fn is_refused(&self, name: &str) -> bool {
        self.problems
            .get(name)
            .is_some_and(|problem| matches!(problem.kind, ProblemKind::Refused(_)))
    }

    /// Refusals of an earlier pass stand: what was refused was not looked at here.
    pub(crate) fn keep_refusals(&mut self) {
        for (name, problem) in &self.before.problems {
            if matches!(problem.kind, ProblemKind::Refused(_)) {
                let problems = &mut self.problems;
                problems.entry(name.clone()).or_insert(problem.clone());
            }
        }
    }
}

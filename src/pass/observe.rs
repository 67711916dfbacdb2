//! Looks at the kernel: the profiles it holds, and whether they are those that were written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::work::Work;
use super::{Pass, Removal, Session};
use crate::plan::{Candidate, Observed, Options, settle_claims};
use crate::{error::Error, outcome::Kind, profile::parent};

impl<'a> Pass<'a> {
    /// Reads the kernel's list, and the contents of each name that the set may own; settles the open
    /// intents of an interrupted pass.
    pub(super) fn observe(
        mut session: Session,
        work: Work<'a>,
        options: &'a Options,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let revision = session.kernel.revision();
        let loaded = session.kernel.profiles()?;
        let set = session.set();
        let recorded = set.profiles.values().flat_map(|record| &record.members);
        let recorded: BTreeSet<&str> = recorded.map(|member| &*member.name).collect();
        let prefix = work.prefix;
        let ours = |name: &&str| {
            parent(name).is_none()
                && (prefix.is_some_and(|prefix| name.starts_with(prefix))
                    || set.owned.contains_key(*name)
                    || recorded.contains(*name))
        };
        let names = loaded.keys().map(String::as_str).filter(ours).collect();
        let contents = session.kernel.contents(&names);
        let observed = Observed { loaded, contents };
        let set = session.set_mut();
        settle_claims(set, &observed);
        // With the first intent, so that a pass killed later leaves them.
        if let (Removal::Unwanted { sources, .. }, true) = (&work.removal, set.sources.is_empty()) {
            set.sources.clone_from(sources);
        }
        Ok(Self {
            standing: set.problems.clone(),
            session,
            options,
            work,
            observed,
            revision,
            written: Vec::new(),
            outcomes: Vec::new(),
            problems: BTreeMap::new(),
            deadline,
        })
    }

    /// Asks the kernel whether it holds the written versions.
    pub(super) fn read_back(&mut self) -> Result<(), Error> {
        let written = std::mem::take(&mut self.written);
        if written.is_empty() {
            return Ok(());
        }
        self.observed.loaded = self.session.kernel.profiles()?;
        let names = written.iter().flat_map(Candidate::top_level);
        let contents = self.session.kernel.contents(&names.collect());
        for candidate in &written {
            let policy = candidate.record.policy;
            let mut members = candidate.record.members.iter();
            let wrong = members.find_map(|member| {
                let name = &member.name;
                let other = contents.get(name).is_some_and(|found| *found != policy);
                match self.observed.loaded.get(name) {
                    None => Some(format!("{name} is not loaded")),
                    Some(mode) if *mode != member.mode => Some(format!("{name} is in mode {mode}")),
                    Some(_) => other.then(|| format!("{name} has other contents")),
                }
            });
            if let Some(wrong) = wrong {
                let set = self.session.set_mut();
                set.counters.failures += 1;
                if let Some(record) = set.profiles.get_mut(&candidate.name) {
                    record.loaded_at = None;
                }
                let message = format!(
                    "the kernel accepted the policy, but now {wrong}: another program loads profiles; the next pass checks again"
                );
                self.problem(candidate.name.as_str(), Kind::Failed, message);
            }
        }
        self.observed.contents.extend(contents);
        Ok(())
    }
}

//! The record of a pass: intended loads, profiles in force, and standing problems.

use super::Pass;
use crate::outcome::{Kind, Outcome, Severity};
use crate::plan::{CONTEST_WINDOW, Candidate, Reason};
use crate::report::{Report, copies, logger};
use crate::state::{Member, Owned, Pending, Problem};
use crate::{error::Error, profile::ProfileName, state::store::Stored};

impl Pass<'_> {
    /// Records, before anything is written, which names `candidate` is about to bring.
    pub(super) fn claim(&mut self, candidate: &Candidate) {
        let policy = candidate.record.policy;
        for member in &candidate.record.members {
            let owned = &mut self.session.set_mut().owned;
            if let Some(owned) = owned.get_mut(&member.name) {
                owned.profile = candidate.name.clone();
                owned.pending = Some(Pending::Replace(policy));
            } else {
                let mut new = Owned::new(candidate.name.clone(), policy);
                new.pending = Some(Pending::Load(policy));
                owned.insert(member.name.clone(), new);
            }
        }
    }

    /// Takes back the claims of a candidate that was not loaded.
    pub(super) fn release(&mut self, candidate: &Candidate) {
        let loaded = &self.observed.loaded;
        let set = self.session.set_mut();
        set.counters.failures += 1;
        for Member { name, .. } in &candidate.record.members {
            match set.owned.get_mut(name) {
                Some(owned) if matches!(owned.pending, Some(Pending::Replace(_))) => {
                    owned.pending = None;
                }
                _ => _ = set.owned.remove(name),
            }
        }
        if let Some(record) = set.profiles.get_mut(&candidate.name) {
            let mut members = record.members.iter();
            let in_force = members.all(|member| loaded.contains_key(&member.name));
            record.loaded_at = record.loaded_at.filter(|_| in_force);
        }
    }

    /// Records that `candidate` is in force; with the reason of a change, since now.
    pub(super) fn record(&mut self, candidate: Candidate, change: Option<Reason>) {
        let now = self.session.now;
        let set = self.session.set_mut();
        for member in &candidate.record.members {
            let owned = Owned::new(candidate.name.clone(), candidate.record.policy);
            set.owned.insert(member.name.clone(), owned);
        }
        let Candidate { name, mut record } = candidate;
        let old = set.profiles.get(&name);
        let repairs = old.map(|old| old.repairs.iter().copied());
        let recent = |at: &_| now.since(at) < CONTEST_WINDOW;
        record.repairs = repairs.into_iter().flatten().filter(recent).collect();
        let repair = change.is_some_and(Reason::is_repair);
        record.repairs.extend(repair.then_some(now));
        let loaded_at = old.and_then(|old| old.loaded_at);
        record.loaded_at = loaded_at.filter(|_| change.is_none()).or(Some(now.at));
        set.profiles.insert(name, record);
    }

    pub(super) fn outcome(&mut self, mut outcome: Outcome) {
        let standing = self.standing.get(&outcome.profile);
        outcome.stands = standing.is_some_and(|problem| problem.kind == outcome.kind);
        if !self.session.dry && !outcome.stands && outcome.severity != Severity::Waiting {
            logger::outcome(&outcome);
        }
        self.outcomes.push(outcome);
    }

    /// Notes a problem of the file or name `name`.
    pub(super) fn problem(&mut self, name: &str, kind: Kind, message: String) {
        self.note(name, Problem::new(kind, message, self.session.now.at));
    }

    /// As [`Self::problem`]. One that stands already keeps the time of its beginning.
    pub(super) fn note(&mut self, name: &str, mut problem: Problem) {
        let standing = self.standing.get(name);
        match standing.filter(|known| known.is_same(&problem)) {
            Some(known) => problem.since = known.since,
            None => _ = self.standing.remove(name),
        }
        self.outcome(problem.outcome(name));
        self.problems.entry(name.to_owned()).or_insert(problem);
    }

    /// Saves the whole record, and gives the result.
    pub(super) fn finish(mut self) -> Result<Report, Error> {
        let now = self.session.kernel.revision();
        let (session, work) = (&mut self.session, &mut self.work);
        let set = session.set_mut();
        let objects = std::mem::take(&mut set.basis.objects);
        set.basis = work.basis.take().unwrap_or_default();
        if set.basis.inputs.is_none() {
            set.basis.objects = objects;
        }
        // Another program's change in between must be looked at by the next pass.
        set.basis.kernel_revision = now.filter(|_| now == self.revision);
        set.problems = self.problems;
        let owned = &set.owned;
        let owns = |name: &_| owned.values().any(|owned| owned.profile == *name);
        let stays = |name: &ProfileName| work.files.contains(name.as_str()) || owns(name);
        set.profiles.retain(|name, _| stays(name));
        if let (Some(to), false) = (work.copy_to, session.dry) {
            let text = |digest| session.store.get(Stored::Text, digest);
            let copies = copies::keep_equal(to, session.set(), &text);
            session.set_mut().copies = copies;
        }
        session.save()?;
        if !session.dry {
            session.store.sweep(&session.state);
        }
        // As they came, which is as each was compiled, no two plans would look alike.
        self.outcomes.sort_by(|a, b| a.profile.cmp(&b.profile));
        let (session, work) = (self.session, self.work);
        Ok(session.report(self.outcomes, &work.files, work.remarks))
    }
}

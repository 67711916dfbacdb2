//! Removals, under promise 1: never from under a running or starting process.

use std::time::{Duration, Instant};
use std::{collections::BTreeSet, io, mem::take, thread::sleep};

use super::{Pass, Removal};
use crate::error::Error;
use crate::kernel::{Scan, processes};
use crate::outcome::{Kind, Outcome};
use crate::plan::{Kept, Usage, Verdict};
use crate::profile::{is_within, quoted};
use crate::state::{Pending, Unwanted};

/// The scans of a pass while a program may be starting, and the pause before each.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(400);

/// A name to be removed, with the reason and its clock.
type Due = (String, String, Unwanted);

impl Pass<'_> {
    /// Removes all due profiles, as far as permitted.
    ///
    /// # Errors
    /// The state cannot be saved.
    pub(super) fn remove(&mut self) -> Result<(), Error> {
        let names = match &take(&mut self.work.removal) {
            Removal::Nothing => return Ok(()),
            Removal::Unwanted { sources, holding } => self.unwanted(sources, holding),
            Removal::Named { names, force } => {
                let mut names = self.named(names.as_ref());
                if *force {
                    self.intend(&names)?;
                    for name in names.drain(..) {
                        self.remove_by_force(&name);
                    }
                }
                names.into_iter().map(|name| (name, None)).collect()
            }
        };
        let (mut scan, mut due) = (None, Vec::new());
        for (name, kept) in names {
            let known = self.session.set().owned[&name].unwanted;
            let mut clock = known.unwrap_or(Unwanted::since(self.session.now));
            let proc = self.session.kernel.proc();
            let mut seen = |name: &str| {
                let scan = scan.get_or_insert_with(|| processes::scan(proc));
                usage(scan, name)
            };
            let verdict = match kept {
                Some(reason) => Verdict::Not(Kind::Blocked, reason),
                None => self.facts().verdict(&name, &mut clock, &mut seen),
            };
            match verdict {
                Verdict::Due(reason) => due.push((name, reason, clock)),
                verdict => self.settle(&name, verdict, clock),
            }
        }
        self.remove_due(due)
    }

    /// The owned names that no file brings any more, each with the reason that keeps it, if a person has to
    /// lift it. The clocks of all others end.
    fn unwanted(&mut self, sources: &[String], holding: &BTreeSet<String>) -> Kept {
        let unwanted = self.facts().unwanted(sources, holding);
        let set = self.session.set_mut();
        for (name, owned) in &mut set.owned {
            let mut names = unwanted.iter();
            if !names.any(|(unwanted, _)| is_within(name, unwanted)) {
                owned.unwanted = None;
            }
        }
        if unwanted.iter().all(|(_, kept)| kept.is_none()) {
            set.sources = sources.to_vec();
        }
        unwanted
    }

    /// The owned ones of `names`; all that are owned where there are none.
    fn named(&mut self, names: Option<&BTreeSet<String>>) -> Vec<String> {
        let set = self.session.set();
        let owned = set.owned.keys().filter(|name| set.stands_alone(name));
        let Some(names) = names else {
            return owned.cloned().collect();
        };
        let is_owned = |name: &String| set.owned.contains_key(name);
        let (owned, others): (Vec<_>, Vec<_>) = names.iter().cloned().partition(is_owned);
        let set = self.session.set_name.clone();
        for name in others {
            let shown = quoted(&name);
            let message = format!("{shown} is not owned by the set {set} in this boot");
            let message = message + ": see armorer status, or name its set with --set";
            self.outcome(Outcome::new(name, Kind::Blocked, message));
        }
        owned
    }

    /// Records that `names` are about to be removed.
    fn intend(&mut self, names: &[String]) -> Result<(), Error> {
        for name in names {
            if let Some(owned) = self.session.set_mut().owned.get_mut(name) {
                owned.pending = Some(Pending::Remove);
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        self.session.save()
    }

    /// Removes each of `due`, if a scan directly before finds no process.
    fn remove_due(&mut self, due: Vec<Due>) -> Result<(), Error> {
        if self.session.dry {
            for (name, reason, _) in due {
                self.outcome(Outcome::new(name, Kind::Remove, reason));
            }
            return Ok(());
        }
        let names: Vec<_> = due.iter().map(|(name, ..)| name.clone()).collect();
        self.intend(&names)?;
        let mut looks = LOOKS;
        for (name, reason, mut clock) in due {
            match self.last_look(&name, &mut clock, &mut looks) {
                Verdict::Due(_) => self.write_removal(&name, reason),
                verdict => self.settle(&name, verdict, clock),
            }
        }
        Ok(())
    }

    /// The scan directly before the write. Nothing may come between it and the write but the look at
    /// the contents.
    fn last_look(&self, name: &str, clock: &mut Unwanted, looks: &mut u32) -> Verdict {
        let (facts, kernel) = (self.facts(), &self.session.kernel);
        loop {
            let scan = processes::scan(kernel.proc());
            let Some(runtime) = scan.starting_in_words() else {
                return match usage(&scan, name) {
                    Usage::Unused if !kernel.is_as_seen(name) => Verdict::Gone,
                    usage => facts.verdict_in_use(usage, clock),
                };
            };
            *looks = looks.saturating_sub(1);
            if *looks == 0 || Instant::now() + LOOK_AGAIN >= self.deadline {
                return facts.verdict_starting(&runtime, clock);
            }
            sleep(LOOK_AGAIN);
        }
    }

    /// Records that `name` stays, or is no longer owned.
    fn settle(&mut self, name: &str, verdict: Verdict, clock: Unwanted) {
        let owned = &mut self.session.set_mut().owned;
        let Verdict::Not(kind, message) = verdict else {
            return owned.retain(|owned, _| !is_within(owned, name));
        };
        if let Some(owned) = owned.get_mut(name) {
            owned.pending = None;
            owned.unwanted = Some(clock);
        }
        match kind {
            Kind::Blocked => self.problem(name, kind, message),
            _ => self.outcome(Outcome::new(name, kind, message)),
        }
    }

    fn write_removal(&mut self, name: &str, reason: String) {
        let removed = self.session.kernel.remove(name);
        let set = self.session.set_mut();
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                set.counters.failures += 1;
                if let Some(owned) = set.owned.get_mut(name) {
                    owned.pending = None;
                }
                let message = format!("the kernel did not remove it: {error}");
                self.problem(name, Kind::Failed, message);
            }
            Err(_) => set.owned.retain(|owned, _| !is_within(owned, name)),
            Ok(()) => {
                set.counters.removes += 1;
                set.owned.retain(|owned, _| !is_within(owned, name));
                self.revision = self.revision.map(|revision| revision + 1);
                let loaded = &mut self.observed.loaded;
                loaded.retain(|loaded, _| !is_within(loaded, name));
                self.outcome(Outcome::new(name, Kind::Remove, reason));
            }
        }
    }

    /// Removes `name` even from under the processes that it confines.
    fn remove_by_force(&mut self, name: &str) {
        let scan = processes::scan(self.session.kernel.proc());
        let users = scan.users_of(name).len();
        let now = format!("{users} processes run unconfined now");
        let reason = match (&scan.incomplete, users) {
            (Some(why), _) => format!("forced; at least {now}, and {why}: restart their pods"),
            (None, 0) => "forced; no process used it".to_owned(),
            (None, _) => format!("forced; {now}: restart their pods"),
        };
        self.write_removal(name, reason);
    }
}

/// The use of `name`, by `scan`.
fn usage(scan: &Scan, name: &str) -> Usage {
    match (scan.users_in_words(name), &scan.incomplete) {
        (Some(users), _) => Usage::InUse(users),
        (None, Some(reason)) => Usage::Unknown(reason.clone()),
        (None, None) => Usage::Unused,
    }
}

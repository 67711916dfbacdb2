//! Removals, under promise 1: never from under a running or starting process.

use std::collections::BTreeSet;
use std::io;
use std::mem::take;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Pass, Removal};
use crate::error::Error;
use crate::kernel::{Scan, processes};
use crate::outcome::{Kind, Outcome};
use crate::plan::{Sighting, Verdict};
use crate::profile::{is_within, quoted};
use crate::state::{Pending, Unwanted};

/// While a program may be starting, a scan is repeated so often in a pass, after so long.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(400);

/// A name that is to be removed: why, and its clock.
type Due = (String, String, Unwanted);

impl Pass<'_> {
    /// Removes all that is to go, as far as it may.
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
                sighting(scan, name)
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
    fn unwanted(
        &mut self,
        sources: &[String],
        holding: &BTreeSet<String>,
    ) -> Vec<(String, Option<String>)> {
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
            let message = format!(
                "{} is not owned by the set {set} in this boot",
                quoted(&name)
            );
            let message = message + ": see armorer status, or name its set with --set";
            self.problem(&name, Kind::Blocked, message);
        }
        owned
    }

    /// Removes each of `due`, if a scan directly before finds no process.
    fn remove_due(&mut self, due: Vec<Due>) -> Result<(), Error> {
        if self.session.dry {
            for (name, reason, _) in due {
                self.outcome(Outcome::new(name, Kind::Remove, reason));
            }
            return Ok(());
        }
        for (name, ..) in &due {
            if let Some(owned) = self.session.set_mut().owned.get_mut(name) {
                owned.pending = Some(Pending::Remove);
            }
        }
        if !due.is_empty() {
            self.session.save()?;
        }
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
            let Some(runtime) = scan.armed_in_words() else {
                clock.put_off_since = None;
                return match sighting(&scan, name) {
                    Sighting::Unused if !kernel.is_as_seen(name) => Verdict::Gone,
                    sighting => facts.not_unused(sighting, clock),
                };
            };
            *looks = looks.saturating_sub(1);
            if *looks == 0 || Instant::now() + LOOK_AGAIN >= self.deadline {
                return facts.put_off(&runtime, clock);
            }
            sleep(LOOK_AGAIN);
        }
    }

    /// Records that `name` stays, or is not ours any more.
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
                self.revision.writes += 1;
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
            (Some(reason), _) => {
                format!("forced; at least {now}, and {reason}: restart their pods")
            }
            (None, 0) => "forced; no process used it".to_owned(),
            (None, _) => format!("forced; {now}: restart their pods"),
        };
        self.write_removal(name, reason);
    }
}

/// The use of `name`, by `scan`.
fn sighting(scan: &Scan, name: &str) -> Sighting {
    match (scan.users_in_words(name), &scan.incomplete) {
        (Some(users), _) => Sighting::InUse(users),
        (None, Some(reason)) => Sighting::Unknown(reason.clone()),
        (None, None) => Sighting::Unused,
    }
}

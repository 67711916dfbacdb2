//! Removals, under promise 1: never from under a running or coming process.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::Applier;
use crate::confined::{self, Scan};
use crate::error::Error;
use crate::plan::{Change, Policy, Removal, Sighting, Verb, Verdict, View};
use crate::profile::is_within;
use crate::state::{Pending, ProblemKind, Unwanted};

/// Asks which profiles pods name that need not run now, each with such a pod; or why nobody can
/// tell.
pub(crate) type Pods<'a> = &'a mut dyn FnMut() -> Result<BTreeMap<String, String>, String>;

impl Applier<'_> {
    /// Removes what the set owns and no file in `files` wants, as far as it may go.
    ///
    /// `is_empty` tells whether a recorded source is readable and holds nothing; `pods`, if
    /// there, is asked where something is due.
    ///
    /// # Errors
    /// The state cannot be saved.
    pub(crate) fn remove_unwanted(
        &mut self,
        policy: &Policy,
        files: &BTreeSet<&str>,
        sources: &[String],
        is_empty: &dyn Fn(&str) -> bool,
        pods: Option<Pods<'_>>,
    ) -> Result<(), Error> {
        let set = self.set_mut();
        // Children, hats and further profiles of what is wanted.
        let members: BTreeSet<String> = set
            .profiles
            .iter()
            .filter(|(name, _)| files.contains(name.as_str()))
            .flat_map(|(_, record)| record.members.iter().map(|m| m.name.as_str()))
            .filter(|member| !files.contains(member))
            .map(str::to_owned)
            .collect();
        for (name, owned) in &mut set.owned {
            if files.contains(name.as_str()) || members.contains(name) {
                owned.unwanted = None;
            }
        }
        let recorded_sources = set.profiles.values().map(|record| &record.source);
        let empty = recorded_sources.filter(|source| is_empty(source));
        let empty: BTreeSet<String> = empty.cloned().collect();
        let removals = {
            let members = members.iter().map(String::as_str);
            let wanted = files.iter().copied().chain(members).collect();
            let empty = empty.iter().map(String::as_str).collect();
            let mut scan = None;
            let proc = self.kernel.proc();
            let mut seen = |name: &str| {
                let scan = scan.get_or_insert_with(|| confined::scan(proc));
                sighting(scan, name)
            };
            let view = View {
                set: self.set(),
                ..self.view(policy)
            };
            view.removals(&wanted, sources, &empty, &mut seen)
        };
        let kept = removals
            .iter()
            .any(|r| matches!(r.verdict, Verdict::Kept(_)));
        self.remove_all(removals, pods)?;
        if !kept {
            self.set_mut().sources = sources.to_vec();
        }
        self.forget_records(files);
        Ok(())
    }

    /// Does what `removals` say; what is due is scanned for again just before its write.
    pub(crate) fn remove_all(
        &mut self,
        removals: Vec<Removal>,
        pods: Option<Pods<'_>>,
    ) -> Result<(), Error> {
        let mut due = Vec::new();
        for removal in removals {
            let Removal {
                name,
                verdict,
                clock,
            } = removal;
            let first = self.note_clock(&name, clock);
            match verdict {
                Verdict::Gone => self.forget_owned(&name),
                Verdict::Kept(why) => self.problem(&name, ProblemKind::Kept, Verb::Keep, why),
                Verdict::Deferred(why) => self.defer(&name, why, first),
                Verdict::Due(why) => due.push((name, why, clock)),
            }
        }
        if let (Some(pods), false) = (pods, due.is_empty()) {
            self.keep_what_pods_name(&mut due, pods);
        }
        if self.dry {
            for (name, why, _) in due {
                self.change(Change::new(name, Verb::Remove, why));
            }
            return Ok(());
        }
        if due.is_empty() {
            return Ok(());
        }
        for (name, _, _) in &due {
            self.set_pending(name, Some(Pending::Remove));
        }
        self.save()?;
        for (name, why, clock) in due {
            self.remove_one(&name, why, clock);
        }
        Ok(())
    }

    /// Takes from `due` what a pod names, which starts its clock anew; all of it if nobody can
    /// tell.
    fn keep_what_pods_name(&mut self, due: &mut Vec<(String, String, Unwanted)>, pods: Pods<'_>) {
        let named = match pods() {
            Ok(named) => named,
            Err(why) => {
                for (name, _, _) in due.drain(..) {
                    let why = format!("nobody can tell whether a pod names it: {why}");
                    self.problem(&name, ProblemKind::Kept, Verb::Keep, why);
                }
                return;
            }
        };
        due.retain(|(name, _, clock)| {
            let pod = named.iter().find(|(profile, _)| is_within(profile, name));
            if let Some((_, pod)) = pod {
                let last_seen_in_use = Some(self.now);
                let clock = Unwanted {
                    last_seen_in_use,
                    ..*clock
                };
                self.note_clock(name, clock);
                self.defer(name, format!("named by the pod {pod}"), true);
            }
            pod.is_none()
        });
    }

    fn remove_one(&mut self, name: &str, why: String, clock: Unwanted) {
        let scan = confined::scan(self.kernel.proc());
        let refused = if let Some(starting) = scan.armed_in_words() {
            Some(Verdict::Deferred(starting))
        } else {
            match sighting(&scan, name) {
                Sighting::InUse(users) => {
                    let last_seen_in_use = Some(self.now);
                    self.note_clock(
                        name,
                        Unwanted {
                            last_seen_in_use,
                            ..clock
                        },
                    );
                    Some(Verdict::Deferred(format!("in use by {users}")))
                }
                Sighting::Unknown(why) => Some(Verdict::Kept(why)),
                Sighting::Nobody => None,
            }
        };
        match refused {
            Some(Verdict::Kept(why)) => {
                self.set_pending(name, None);
                self.problem(name, ProblemKind::Kept, Verb::Keep, why);
            }
            Some(Verdict::Deferred(why)) => {
                self.set_pending(name, None);
                self.defer(name, why, true);
            }
            _ => self.write_removal(name, why),
        }
    }

    /// The write itself. Nothing may come between the scan and this.
    fn write_removal(&mut self, name: &str, why: String) {
        match self.kernel.remove(name) {
            Ok(()) => {
                self.writes += 1;
                self.set_mut().counters.removes += 1;
                self.observed
                    .loaded
                    .retain(|loaded, _| !is_within(loaded, name));
                self.forget_owned(name);
                self.change(Change::new(name, Verb::Remove, why));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.forget_owned(name),
            Err(error) => {
                self.set_pending(name, None);
                self.set_mut().counters.failures += 1;
                let message = format!("{name}: the kernel did not remove it: {error}");
                self.problem(name, ProblemKind::Failed, Verb::Fail, message);
            }
        }
    }

    /// Removes what `names` says, which is owned, as far as it may go.
    pub(crate) fn remove_owned(
        &mut self,
        names: &BTreeSet<&str>,
        policy: &Policy,
    ) -> Result<(), Error> {
        let scan = confined::scan(self.kernel.proc());
        let mut seen = |name: &str| sighting(&scan, name);
        let mut removals = Vec::new();
        for name in names {
            let owned = &self.set().owned[*name];
            let mut clock = owned.unwanted.unwrap_or(Unwanted {
                unwanted_since: self.now,
                last_seen_in_use: None,
            });
            let loaded = self.observed.loaded.contains_key(*name);
            let verdict = if loaded {
                self.view(policy).verdict(name, &mut clock, &mut seen)
            } else {
                Verdict::Gone
            };
            removals.push(Removal {
                name: (*name).to_owned(),
                verdict,
                clock,
            });
        }
        self.remove_all(removals, None)
    }

    /// Removes `name` even from under those that use it.
    pub(crate) fn remove_by_force(&mut self, name: &str) {
        let users = confined::scan(self.kernel.proc()).users_of(name).len();
        let why = match users {
            0 => "forced; nobody used it".to_owned(),
            n => format!("forced; {n} processes are unconfined now: restart their pods"),
        };
        self.write_removal(name, why);
    }

    fn defer(&mut self, name: &str, why: String, first: bool) {
        self.deferred += 1;
        let change = Change::new(name, Verb::Defer, why);
        if first {
            self.change(change);
        } else {
            log::debug!("{change}");
            self.changes.push(change);
        }
    }

    /// Records the clock; true if it had not been running.
    fn note_clock(&mut self, name: &str, clock: Unwanted) -> bool {
        match self.set_mut().owned.get_mut(name) {
            Some(owned) => owned.unwanted.replace(clock).is_none(),
            None => false,
        }
    }

    fn set_pending(&mut self, name: &str, pending: Option<Pending>) {
        if let Some(owned) = self.set_mut().owned.get_mut(name) {
            owned.pending = pending;
        }
    }

    /// A name's children go with it.
    fn forget_owned(&mut self, name: &str) {
        self.set_mut()
            .owned
            .retain(|owned, _| !is_within(owned, name));
    }
}

/// Who uses `name`, by `scan`.
fn sighting(scan: &Scan, name: &str) -> Sighting {
    if let Some(words) = scan.users_in_words(name) {
        return Sighting::InUse(words);
    }
    match &scan.incomplete {
        Some(why) => Sighting::Unknown(format!("nobody can tell whether it is in use: {why}")),
        None => Sighting::Nobody,
    }
}

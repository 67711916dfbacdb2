//! Does what was decided, and keeps the record of it; never stops at one profile.

mod claims;
mod problems;
mod removal;
mod writing;

pub(crate) use removal::Pods;

use std::collections::{BTreeMap, BTreeSet};
use std::iter::empty;
use std::path::Path;

use crate::clock::Stamp;
use crate::error::{Error, Exit};
use crate::kernel::Kernel;
use crate::plan::{
    CONTEST_WINDOW, Candidate, Change, Decision, Observed, Policy, Verb, View, parent, stands,
};
use crate::profile::{Digest, ProfileName, Sha1};
use crate::report::{self, Report, copies};
use crate::state::folder::Folder;
use crate::state::{Owned, Problem, ProblemKind, Record, Set, State};
use crate::wanted::Unit;

/// A pass's hands: the kernel, the state, and what was done so far.
pub(crate) struct Applier<'a> {
    pub(crate) kernel: &'a Kernel,
    folder: &'a mut Folder,
    state: State,
    set_name: String,
    /// The set as the pass found it: decisions are made from that, not from our own claims.
    before: Set,
    observed: Observed,
    dry: bool,
    now: Stamp,
    /// The kernel's revision before it was observed.
    revision: Option<u64>,
    /// How many successful writes to the kernel were ours since then.
    writes: u64,
    /// What the kernel calls the blobs that were read back.
    learned: BTreeMap<Digest, Sha1>,
    written: Vec<Candidate>,
    problems: BTreeMap<String, Problem>,
    changes: Vec<Change>,
    in_force: BTreeSet<ProfileName>,
    deferred: usize,
    /// Whether something was stored that the disk may not have yet.
    stored: bool,
    /// What was stored, whether it is recorded in the end or not.
    stored_now: Vec<Digest>,
    /// The stored blob that was read last.
    read: Vec<u8>,
}

impl<'a> Applier<'a> {
    /// Observes the kernel.
    pub(crate) fn new(
        kernel: &'a Kernel,
        folder: &'a mut Folder,
        mut state: State,
        set_name: &str,
        dry: bool,
        now: Stamp,
    ) -> Result<Self, Error> {
        let revision = kernel.revision();
        let loaded = kernel.profiles()?;
        let before = state.sets.entry(set_name.to_owned()).or_default().clone();
        Ok(Self {
            kernel,
            folder,
            state,
            set_name: set_name.to_owned(),
            before,
            observed: Observed {
                loaded,
                digests: BTreeMap::new(),
            },
            dry,
            now,
            revision,
            writes: 0,
            learned: BTreeMap::new(),
            written: Vec::new(),
            problems: BTreeMap::new(),
            changes: Vec::new(),
            in_force: BTreeSet::new(),
            deferred: 0,
            stored: false,
            stored_now: Vec::new(),
            read: Vec::new(),
        })
    }

    /// Whether the kernel's policy is as the record says: nobody, this set's passes included,
    /// touched it since.
    pub(crate) fn is_untouched(&self) -> bool {
        self.revision.is_some() && self.before.kernel_revision == self.revision
    }

    /// Keeps what is recorded of `unit`, if that needs no look (see [`stands`]).
    pub(crate) fn keep_standing(&mut self, unit: &Unit) -> bool {
        let (before, observed) = (&self.before, &self.observed);
        let stands = stands(before, observed, &unit.name, &unit.source, unit.digest);
        if stands {
            self.in_force.insert(unit.name.clone());
        }
        stands
    }

    /// Learns what is loaded under each name that may be ours: those with `prefix`, but for what
    /// stands.
    pub(crate) fn observe_contents(&mut self, prefix: &str) {
        let mut digests = self.recorded_contents();
        let names = self.observed.loaded.keys().map(String::as_str);
        let names: BTreeSet<&str> = names
            .filter(|name| name.starts_with(prefix) && parent(name).is_none())
            .filter(|name| !digests.contains_key(*name) && !self.in_force.contains(*name))
            .collect();
        if !names.is_empty() {
            let contents = self.kernel.contents(&names, &self.state.sha1s());
            digests.extend(contents.digests);
            self.learned.extend(contents.learned);
        }
        self.observed.digests = digests;
    }

    /// What is loaded by the record, which holds as long as the kernel is untouched.
    fn recorded_contents(&self) -> BTreeMap<String, Digest> {
        let set = &self.before;
        if !(self.is_untouched() && set.verifiable && set.problems.is_empty()) {
            return BTreeMap::new();
        }
        let looked_at = set.profiles.iter();
        let looked_at = looked_at.filter(|(name, _)| !self.in_force.contains(*name));
        let members = looked_at.flat_map(|(_, record)| {
            let members = record.members.iter();
            members.map(|member| (member.name.clone(), record.blob))
        });
        let loaded = members
            .filter(|(name, _)| parent(name).is_none() && self.observed.loaded.contains_key(name));
        loaded.collect()
    }

    pub(crate) fn set(&self) -> &Set {
        &self.state.sets[&self.set_name]
    }

    pub(crate) fn set_mut(&mut self) -> &mut Set {
        self.state.sets.entry(self.set_name.clone()).or_default()
    }

    pub(crate) fn view<'v>(&'v self, policy: &'v Policy) -> View<'v> {
        View {
            state: &self.state,
            set_name: &self.set_name,
            set: &self.before,
            observed: &self.observed,
            policy,
            now: self.now,
        }
    }

    fn change(&mut self, change: Change) {
        if !self.dry {
            let known = self.before.problems.get(&change.profile);
            let standing = known.is_some_and(|problem| problem.message == change.reason);
            report::log_change(&change, standing);
        }
        self.changes.push(change);
    }

    /// Notes why the compiler is not confined by armorer's own profile (none: it is); whether
    /// that is news.
    pub(crate) fn note_compiler(&mut self, why: Option<String>) -> bool {
        let known = std::mem::replace(&mut self.state.compiler_unconfined, why);
        known != self.state.compiler_unconfined && !self.dry
    }

    pub(crate) const fn is_compiler_noted(&self) -> bool {
        self.state.compiler_unconfined.is_some()
    }

    pub(crate) const fn is_dry(&self) -> bool {
        self.dry
    }

    pub(crate) fn folder(&self) -> &Folder {
        self.folder
    }

    pub(crate) fn set_name(&self) -> &str {
        &self.set_name
    }

    /// Makes the next pass compile `name` anew.
    pub(crate) fn forget_key(&mut self, name: &ProfileName) {
        if let Some(record) = self.set_mut().profiles.get_mut(name) {
            record.key = Digest::of(b"");
        }
    }

    /// Decides about `candidate`, and does it. `blob` is there if it was just compiled or read.
    ///
    /// # Errors
    /// The state cannot be saved.
    pub(crate) fn carry_out(
        &mut self,
        policy: &Policy,
        candidate: Candidate,
        blob: Option<&[u8]>,
    ) -> Result<(), Error> {
        let decision = self.view(policy).decide(&candidate);
        let name = candidate.name.as_str();
        match decision {
            Decision::Keep => self.keep(candidate),
            Decision::Own(why) => self.own(candidate, &why),
            Decision::Write(write) => return self.write(candidate, blob, &write),
            Decision::Conflict(why) => {
                self.problem(name, ProblemKind::Conflict, Verb::Conflict, why);
            }
            Decision::Contested(why) => {
                self.problem(name, ProblemKind::Contested, Verb::Contested, why);
            }
        }
        Ok(())
    }

    /// Decides about what was just compiled, and does it. What is in a blob is known only now: all
    /// of its names are recorded before the first is loaded.
    ///
    /// # Errors
    /// The state cannot be saved.
    pub(crate) fn load(
        &mut self,
        policy: &Policy,
        ready: Vec<(Candidate, Vec<u8>)>,
    ) -> Result<(), Error> {
        self.claim(
            ready.iter().map(|(candidate, _)| candidate),
            empty(),
            policy,
        )?;
        for (candidate, blob) in ready {
            self.carry_out(policy, candidate, Some(&blob))?;
        }
        Ok(())
    }

    /// Removes what a killed pass left in the policy folder. Call it before anything is stored.
    pub(crate) fn remove_leftovers(&self) {
        if !self.dry {
            self.folder.remove_leftovers(&self.state);
        }
    }

    fn save(&mut self) -> Result<(), Error> {
        if self.dry {
            return Ok(());
        }
        if self.stored {
            self.folder.sync_policy()?;
            self.stored = false;
        }
        self.folder.save(&self.state)
    }

    /// Stores texts of the API server's objects, accepted or not, so that an object that did not
    /// change is not read again.
    pub(crate) fn store_texts<'t>(
        &mut self,
        texts: impl Iterator<Item = (Digest, &'t str)>,
    ) -> Result<(), Error> {
        for text in texts {
            if !self.dry {
                self.stored = true;
                self.stored_now.push(text.0);
                self.folder.store(text, None)?;
            }
        }
        Ok(())
    }

    /// Stores the text and blob of `candidate`, to be there after a reboot.
    pub(crate) fn store(
        &mut self,
        candidate: &Candidate,
        text: &str,
        blob: &[u8],
    ) -> Result<(), Error> {
        if self.dry {
            return Ok(());
        }
        self.stored = true;
        self.stored_now.extend([candidate.text, candidate.blob]);
        self.folder
            .store((candidate.text, text), Some((candidate.blob, blob)))
    }

    /// `candidate` is in force.
    pub(crate) fn keep(&mut self, candidate: Candidate) {
        let loaded_at = self
            .set()
            .profiles
            .get(&candidate.name)
            .and_then(|r| r.loaded_at);
        self.record(candidate, loaded_at.is_none(), false);
    }

    /// `candidate` is in force, and ours from now on.
    pub(crate) fn own(&mut self, candidate: Candidate, why: &str) {
        self.change(Change::new(candidate.name.as_str(), Verb::Own, why));
        self.record(candidate, true, false);
    }

    fn record(&mut self, candidate: Candidate, fresh: bool, repair: bool) {
        let now = self.now;
        self.in_force.insert(candidate.name.clone());
        let set = self.set_mut();
        for member in &candidate.members {
            set.owned.insert(
                member.name.clone(),
                Owned {
                    profile: candidate.name.clone(),
                    pending: None,
                    unwanted: None,
                },
            );
        }
        let old = set.profiles.get(&candidate.name);
        let mut repairs = old.map_or_else(Vec::new, |record| record.repairs.clone());
        repairs.retain(|repair| now.since(repair) < CONTEST_WINDOW);
        repairs.extend(repair.then_some(now));
        let loaded_at = match old.and_then(|record| record.loaded_at) {
            Some(at) if !fresh => at,
            _ => now.at,
        };
        let old = old.filter(|record| record.blob == candidate.blob);
        let sha1 = old.and_then(|record| record.sha1.clone());
        set.profiles.insert(
            candidate.name,
            Record {
                sha1,
                source: candidate.source,
                text: candidate.text,
                key: candidate.key,
                blob: candidate.blob,
                members: candidate.members,
                loaded_at: Some(loaded_at),
                repairs,
            },
        );
    }

    /// Saves everything, and says what became of the pass.
    pub(crate) fn finish(mut self, copy_to: Option<&Path>) -> Result<Report, Error> {
        let exit = if self.problems.is_empty() {
            Exit::Converged
        } else {
            Exit::Incomplete
        };
        let revision = self.kernel.revision();
        let ours = self.revision.map(|before| before + self.writes);
        let problems = std::mem::take(&mut self.problems);
        // As they came, which is as each was compiled, no two plans would look alike.
        self.changes.sort_by(|a, b| a.profile.cmp(&b.profile));
        let learned = std::mem::take(&mut self.learned);
        for record in self.set_mut().profiles.values_mut() {
            if let Some(sha1) = learned.get(&record.blob) {
                record.sha1 = Some(sha1.clone());
            }
        }
        let verifiable = !self.observed.digests.is_empty()
            || self.observed.loaded.is_empty()
            || self.is_untouched() && self.before.verifiable;
        let set = self.set_mut();
        // Somebody else's change in between must be looked at by the next pass.
        set.kernel_revision = revision.filter(|_| revision == ours);
        set.verifiable = verifiable;
        set.problems.clone_from(&problems);
        let report = Report {
            quiet: !self
                .changes
                .iter()
                .any(|change| change.action.writes() || change.action == Verb::Own),
            changes: std::mem::take(&mut self.changes),
            deferred: self.deferred,
            in_force: self.in_force.len(),
            problems,
            exit,
            remark: None,
            set: Set::default(),
        };
        if self.dry {
            return Ok(report);
        }
        if let Some(folder) = copy_to {
            self.set_mut().copies = copies::keep_equal(folder, self.folder, self.set());
        }
        self.save()?;
        let superseded = self.before.stored_beside(self.set());
        let doubtful = superseded.chain(self.stored_now.iter().copied()).collect();
        self.folder.remove_unnamed(doubtful, &self.state);
        report::publish(self.folder, &self.state);
        let set = self.state.sets.remove(&self.set_name);
        Ok(Report {
            set: set.unwrap_or_default(),
            ..report
        })
    }

    /// Forgets the versions of what is neither wanted nor owned any more.
    pub(crate) fn forget_records(&mut self, files: &BTreeSet<&str>) {
        let set = self.set_mut();
        let owned = &set.owned;
        set.profiles.retain(|name, _| {
            files.contains(name.as_str()) || owned.values().any(|owned| owned.profile == *name)
        });
    }
}

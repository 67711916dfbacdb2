//! Does what was decided, and keeps the record of it; never stops at one profile.

mod removal;

pub(crate) use removal::Pods;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::iter::empty;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::clock::Stamp;
use crate::error::{Error, Exit};
use crate::kernel::Kernel;
use crate::plan::{
    CONTEST_WINDOW, Candidate, Change, Decision, Observed, Policy, Verb, View, Write, parent,
};
use crate::profile::{Digest, ProfileName, Refusal, RefusalKind};
use crate::report::{self, Report, copies};
use crate::state::folder::Folder;
use crate::state::{Owned, Pending, Problem, ProblemKind, Record, Set, State};

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
    written: Vec<Candidate>,
    problems: BTreeMap<String, Problem>,
    changes: Vec<Change>,
    in_force: BTreeSet<ProfileName>,
    deferred: usize,
    stored: bool,
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
            written: Vec::new(),
            problems: BTreeMap::new(),
            changes: Vec::new(),
            in_force: BTreeSet::new(),
            deferred: 0,
            stored: false,
            read: Vec::new(),
        })
    }

    /// Learns what is loaded under each name that may be ours: those with `prefix`.
    pub(crate) fn observe_contents(&mut self, prefix: &str) {
        let mut digests = self.recorded_contents();
        let names = self.observed.loaded.keys().map(String::as_str);
        let names: BTreeSet<&str> = names
            .filter(|name| name.starts_with(prefix) && parent(name).is_none())
            .filter(|name| !digests.contains_key(*name))
            .collect();
        if !names.is_empty() {
            digests.extend(self.kernel.digests(&names));
        }
        self.observed.digests = digests;
    }

    /// What is loaded by the record, which holds as long as nobody, this set's passes included,
    /// touched the kernel's policy.
    fn recorded_contents(&self) -> BTreeMap<String, Digest> {
        let set = &self.before;
        let untouched = self.revision.is_some() && set.kernel_revision == self.revision;
        if !(untouched && set.verifiable && set.problems.is_empty()) {
            return BTreeMap::new();
        }
        let members = set.profiles.values().flat_map(|record| {
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

    /// Decides about `candidate`, and does it. `blob` is there if it was just compiled.
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

    /// Records, before anything is written, what this pass is about to load: `ready`, which has
    /// policy, and `fresh`, which is compiled later. A name that somebody else has loaded is not
    /// claimed here.
    pub(crate) fn claim<'n>(
        &mut self,
        ready: impl Iterator<Item = &'n Candidate>,
        fresh: impl Iterator<Item = &'n ProfileName>,
        policy: &Policy,
    ) -> Result<(), Error> {
        let mut claims = Vec::new();
        for candidate in ready {
            if let Decision::Write(write) = self.view(policy).decide(candidate) {
                let members = candidate.members.iter().map(|m| m.name.clone());
                claims.extend(members.map(|member| (member, &candidate.name, write.intent)));
            }
        }
        let mut claimed = Vec::new();
        for name in fresh {
            let intent = match self.observed.loaded.contains_key(name.as_str()) {
                true if self.set().owned.contains_key(name.as_str()) => Pending::Replace,
                true => continue,
                false => Pending::Load,
            };
            claimed.push((name.as_str().to_owned(), name, intent));
        }
        let mut news = false;
        for (member, name, intent) in claims.into_iter().chain(claimed) {
            news |= self.claim_one(member, name, intent);
        }
        if news { self.save() } else { Ok(()) }
    }

    /// Whether that was not recorded before.
    fn claim_one(&mut self, member: String, profile: &ProfileName, intent: Pending) -> bool {
        let known = self.set().owned.get(&member);
        let news = known.is_none_or(|known| known.pending != Some(intent));
        let owned = self.set_mut().owned.entry(member).or_insert(Owned {
            profile: profile.clone(),
            pending: None,
            unwanted: None,
        });
        owned.pending = Some(intent);
        news
    }

    /// Takes back the claim to a name that was not loaded after all.
    pub(crate) fn release_claim(&mut self, name: &str) {
        if !self.observed.loaded.contains_key(name) {
            self.set_mut().owned.remove(name);
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
        set.profiles.insert(
            candidate.name,
            Record {
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

    /// Writes `candidate` to the kernel; what fails is a problem of this profile alone.
    ///
    /// # Errors
    /// The state cannot be saved.
    pub(crate) fn write(
        &mut self,
        candidate: Candidate,
        blob: Option<&[u8]>,
        write: &Write,
    ) -> Result<(), Error> {
        let name = candidate.name.as_str().to_owned();
        let verb = match write.intent {
            Pending::Load => Verb::Load,
            Pending::Replace | Pending::Remove => Verb::Replace,
        };
        if !self.dry {
            if blob.is_none()
                && let Err(why) = self.folder.blob(candidate.blob, &mut self.read)
            {
                self.forget_key(&candidate.name);
                let message = format!("{name}: {why}; the next pass compiles it again");
                self.problem(&name, ProblemKind::Failed, Verb::Fail, message);
                return Ok(());
            }
            self.claim_members(&candidate, write.intent)?;
            if let Err(error) = self.kernel.replace(blob.unwrap_or(&self.read)) {
                self.release_claims(&candidate);
                self.set_mut().counters.failures += 1;
                let message = format!("{name}: {}", kernel_refused(&error));
                self.problem(&name, ProblemKind::Failed, Verb::Fail, message);
                return Ok(());
            }
            self.writes += 1;
            let counters = &mut self.set_mut().counters;
            match write.intent {
                Pending::Load => counters.loads += 1,
                Pending::Replace | Pending::Remove => counters.replaces += 1,
            }
            counters.repairs += u64::from(write.repair);
        }
        for member in &candidate.members {
            let loaded = &mut self.observed.loaded;
            loaded.insert(member.name.clone(), member.mode);
        }
        self.change(Change {
            repair: write.repair,
            ..Change::new(name, verb, &*write.reason)
        });
        self.written.push(candidate.clone());
        self.record(candidate, true, write.repair);
        Ok(())
    }

    /// A blob may bring names that were not known before it was compiled.
    fn claim_members(&mut self, candidate: &Candidate, intent: Pending) -> Result<(), Error> {
        let new: Vec<String> = candidate
            .members
            .iter()
            .map(|member| member.name.clone())
            .filter(|name| !self.set().owned.contains_key(name))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        for member in new {
            self.claim_one(member, &candidate.name, intent);
        }
        self.save()
    }

    fn release_claims(&mut self, candidate: &Candidate) {
        for member in &candidate.members {
            let was_ours = self.before.owned.contains_key(&member.name);
            if !was_ours || !self.observed.loaded.contains_key(&member.name) {
                self.set_mut().owned.remove(&member.name);
            }
        }
    }

    /// Asks the kernel whether what was written is there.
    pub(crate) fn read_back(&mut self) -> Result<(), Error> {
        if self.dry || self.written.is_empty() {
            return Ok(());
        }
        self.observed.loaded = self.kernel.profiles()?;
        let written = std::mem::take(&mut self.written);
        let names = written.iter().flat_map(|candidate| &candidate.members);
        let names = names
            .map(|m| m.name.as_str())
            .filter(|name| parent(name).is_none());
        let digests = self.kernel.digests(&names.collect());
        for candidate in &written {
            let wrong = candidate.members.iter().find_map(|member| {
                let name = &member.name;
                match self.observed.loaded.get(name) {
                    None => Some(format!("{name} is not loaded")),
                    Some(mode) if *mode != member.mode => Some(format!("{name} is in mode {mode}")),
                    Some(_) => digests
                        .get(name)
                        .filter(|digest| **digest != candidate.blob)
                        .map(|_| format!("{name} has other contents")),
                }
            });
            if let Some(wrong) = wrong {
                self.in_force.remove(&candidate.name);
                self.set_mut().counters.failures += 1;
                let message = format!(
                    "the kernel took it, but now {wrong}: somebody else loads profiles; the next pass looks again"
                );
                self.problem(
                    candidate.name.as_str(),
                    ProblemKind::Failed,
                    Verb::Fail,
                    message,
                );
            }
        }
        self.observed.digests.extend(digests);
        Ok(())
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
        let verifiable = !self.observed.digests.is_empty() || self.observed.loaded.is_empty();
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
        self.folder.prune(&self.state);
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

/// The kernel's answer to a write, in words.
fn kernel_refused(error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let words = match errno {
        Some(Errno::PROTONOSUPPORT) => {
            "the kernel does not know this format of policy: compiler and kernel do not fit (a compressed or \
             newer format); see --parser"
        }
        Some(Errno::PROTO) => {
            "the kernel finds this policy damaged or asking for what it lacks; compile it with this node's features"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "the kernel does not let this process load policy: CAP_MAC_ADMIN was lost, or policy was locked"
        }
        Some(Errno::NOMEM) => "the kernel is out of memory; the next pass tries again",
        Some(Errno::NOSPC) => "the kernel's limit on loaded policy is reached",
        _ => return format!("the kernel refused it: {error}"),
    };
    format!("{words} ({error})")
}

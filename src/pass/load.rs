//! Loads and replaces profiles: decided once, claimed, written, one write a file.

use std::time::{Duration, Instant};
use std::{io, mem::take};

use rustix::io::Errno;

use super::Pass;
use super::work::Fresh;
use crate::compiler::{Compiled, Compiler, Includes, Text};
use crate::outcome::{Kind, Outcome, Refusal};
use crate::plan::{Candidate, Decision, Reason};
use crate::profile::Digest;
use crate::state::{Problem, Record};
use crate::{error::Error, policy, rules::Rules, state::store::Stored};

/// The time that compiled profiles wait for others, so that one save of the state claims them all.
const BATCH: Duration = Duration::from_secs(2);

impl Pass<'_> {
    /// Decides about each of `candidates`, records the intent, and writes to the kernel. Returns those
    /// whose names another file brings; the `last` time, they are refused.
    fn load(&mut self, candidates: Vec<Candidate>, last: bool) -> Result<Vec<Candidate>, Error> {
        let (mut writes, mut taken) = (Vec::new(), Vec::new());
        for candidate in candidates {
            let name = candidate.name.to_string();
            match self.facts().decide(&candidate) {
                Decision::Keep => self.record(candidate, None),
                Decision::Own(why) => {
                    self.outcome(Outcome::new(name, Kind::Own, why.to_string()));
                    self.record(candidate, Some(why));
                }
                Decision::Write(kind, why) => {
                    self.claim(&candidate);
                    writes.push((candidate, kind, why));
                }
                Decision::Taken(message) if last => {
                    let refusal = Refusal::new("duplicate", message);
                    self.refuse(&name, &refusal, None);
                }
                Decision::Taken(_) => taken.push(candidate),
                Decision::Leave(kind, message) => self.problem(&name, kind, message),
            }
        }
        if !writes.is_empty() {
            self.session.save()?;
        }
        for (candidate, kind, why) in writes {
            self.write(candidate, kind, why);
        }
        Ok(taken)
    }

    /// Loads `candidates`; a file whose names another file brings is tried once more, since that one may
    /// have dropped them.
    pub(super) fn load_all(&mut self, candidates: Vec<Candidate>) -> Result<(), Error> {
        let taken = self.load(candidates, false)?;
        self.load(taken, true).map(drop)
    }

    fn write(&mut self, candidate: Candidate, kind: Kind, why: Reason) {
        let name = candidate.name.to_string();
        if !self.session.dry {
            if let Err((kind, message)) = self.write_policy(&candidate, kind) {
                self.release(&candidate);
                return self.problem(&name, kind, message);
            }
            self.revision = self.revision.map(|revision| revision + 1);
            let now = self.session.now.at;
            let set = self.session.set_mut();
            set.counters.loads += u64::from(kind == Kind::Load);
            set.counters.replaces += u64::from(kind == Kind::Replace);
            set.counters.repairs += u64::from(why.is_repair());
            if why == Reason::Unloaded {
                set.unloaded.insert(name.clone(), now);
            }
            self.written.push(candidate.clone());
        }
        let members = candidate.record.members.iter();
        let members = members.map(|member| (member.name.clone(), member.mode));
        self.observed.loaded.extend(members);
        let mut outcome = Outcome::new(name, kind, why.to_string());
        outcome.repair = why.is_repair();
        let unenforced = candidate.record.unenforced.iter().filter(|rules| rules.own);
        outcome.unenforced = unenforced.cloned().collect();
        self.outcome(outcome);
        self.record(candidate, Some(why));
    }

    fn write_policy(&mut self, candidate: &Candidate, kind: Kind) -> Result<(), (Kind, String)> {
        let name = &candidate.name;
        let store = &self.session.store;
        let policy = match store.get(Stored::Policy, candidate.record.policy) {
            Ok(policy) => policy,
            Err(reason) => {
                if let Some(record) = self.session.set_mut().profiles.get_mut(name) {
                    record.key = Digest::of(b"");
                }
                let message = format!("{reason}; the next pass compiles it again");
                return Err((Kind::Failed, message));
            }
        };
        let kernel = &self.session.kernel;
        let written = match (kind, self.changed_since_observed(candidate, kind)) {
            (Kind::Load, _) => kernel.load(&policy),
            (_, None) => kernel.replace(&policy),
            (_, Some(changed)) => {
                let message = "was changed by another program while this pass ran";
                let message = format!("{changed} {message}; the next pass checks again");
                return Err((Kind::Failed, message));
            }
        };
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let line = "was loaded by another program while this pass ran: rename yours, or take it over with --adopt";
                (Kind::Conflict, format!("{name} {line} '{name}'"))
            }
            _ => (Kind::Failed, kernel_refused(&error)),
        })
    }

    /// The first name of `candidate` that is not loaded as it was observed. A load itself fails where
    /// one is loaded.
    fn changed_since_observed(&self, candidate: &Candidate, kind: Kind) -> Option<String> {
        let (kernel, observed) = (&self.session.kernel, &self.observed.loaded);
        let is_new = |name: &str| !observed.contains_key(name);
        let is_asked = kind == Kind::Replace && candidate.top_level().any(is_new);
        let now = is_asked.then(|| kernel.profiles());
        let now = now.and_then(Result::ok).unwrap_or_default();
        let mut names = candidate.top_level();
        let changed = names.find(|name| match is_new(name) {
            true => now.contains_key(*name),
            false => !kernel.is_as_seen(name),
        });
        changed.map(str::to_owned)
    }

    /// Compiles `fresh`, and loads each as it is ready. Files that define further profiles wait for the
    /// others, which may define the same, and are then loaded by name.
    pub(super) fn compile(&mut self, compiler: &Compiler, rules: &Rules) -> Result<(), Error> {
        let fresh = take(&mut self.work.fresh);
        let texts = fresh.iter().map(|fresh| Text {
            name: fresh.source.name.as_str(),
            contents: &fresh.source.text,
            last: fresh.last,
        });
        let texts: Vec<Text> = texts.collect();
        let (mut ready, mut later, mut since) = (Vec::new(), Vec::new(), Instant::now());
        let deadline = self.deadline;
        compiler.compile(&texts, deadline, &mut |done| {
            if let Some((index, result)) = done {
                let fresh = &fresh[index];
                let candidate = self.candidate(fresh, result, rules)?;
                ready.extend(candidate.map(|candidate| (fresh, candidate)));
            }
            if ready.is_empty() || since.elapsed() < BATCH {
                return Ok(());
            }
            since = Instant::now();
            self.load_ready(compiler, take(&mut ready), &mut later)
        })?;
        self.load_ready(compiler, ready, &mut later)?;
        later.sort_by(|a, b| a.name.cmp(&b.name));
        self.load_all(later)
    }

    /// Loads those of `ready` that define no further profile, if the files that they include are as they
    /// were before they were compiled.
    fn load_ready(
        &mut self,
        compiler: &Compiler,
        ready: Vec<(&Fresh<'_>, Candidate)>,
        later: &mut Vec<Candidate>,
    ) -> Result<(), Error> {
        let mut includes = Includes::new(compiler.base());
        let mut simple = Vec::new();
        for (fresh, candidate) in ready {
            let mut candidate = Some(candidate);
            if !includes.are_current(&fresh.includes) {
                let message = "an included file changed during compilation";
                let message = format!("{message}; the next pass compiles it again");
                self.problem(fresh.source.name.as_str(), Kind::Failed, message);
                candidate = self.last_good(fresh);
            }
            let further = |candidate: &Candidate| candidate.top_level().nth(1).is_some();
            match candidate {
                Some(candidate) if further(&candidate) => later.push(candidate),
                candidate => simple.extend(candidate),
            }
        }
        let taken = self.load(simple, false)?;
        later.extend(taken);
        Ok(())
    }

    /// The version that stays in force where a text is refused.
    fn last_good(&self, fresh: &Fresh<'_>) -> Option<Candidate> {
        let records = &self.session.set().profiles;
        let recorded = records.get_key_value(&fresh.source.name);
        recorded.map(Candidate::recorded)
    }

    /// Checks and stores a compiled text; the last good version where it is refused.
    fn candidate(
        &mut self,
        fresh: &Fresh<'_>,
        result: Result<Compiled, Refusal>,
        rules: &Rules,
    ) -> Result<Option<Candidate>, Error> {
        let source = fresh.source;
        let accepted = result.and_then(|compiled| {
            let members = policy::members(&compiled.policy);
            let members = members.map_err(|reason| Refusal::new("compile", reason))?;
            Ok((rules.check(&source.name, &members)?, compiled))
        });
        let (members, compiled) = match accepted {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.refuse(source.name.as_str(), &refusal, Some(fresh.key));
                return Ok(self.last_good(fresh));
            }
        };
        let record = Record {
            source: source.source.clone(),
            text: source.digest,
            key: fresh.key,
            policy: Digest::of(&compiled.policy),
            members,
            unenforced: compiled.unenforced.clone(),
            loaded_at: None,
            repairs: Vec::new(),
        };
        self.session.state.cage = Some(compiled.cage);
        if !self.session.dry {
            let store = &mut self.session.store;
            store.put(Stored::Text, record.text, source.text.as_bytes())?;
            store.put(Stored::Policy, record.policy, &compiled.policy)?;
        }
        let name = source.name.clone();
        Ok(Some(Candidate { name, record }))
    }

    /// Notes a refused text, with the digest of the compiler's input.
    fn refuse(&mut self, name: &str, refusal: &Refusal, key: Option<Digest>) {
        let problem = Problem::refused(refusal, key, self.session.now.at);
        self.note(name, problem);
    }
}

/// The meaning of the kernel's error for a write.
fn kernel_refused(error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let words = match errno {
        Some(Errno::PROTONOSUPPORT) => {
            "the kernel does not know this policy format (compressed or newer): use a compiler that fits the kernel (--parser)"
        }
        Some(Errno::PROTO) => {
            "the policy is damaged, or needs a feature that the kernel lacks: compile it with this node's features"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "the kernel does not let this process load policy: CAP_MAC_ADMIN was lost, or policy was locked"
        }
        Some(Errno::NOMEM) => "the kernel is out of memory; the next pass tries again",
        Some(Errno::NOSPC) => "the kernel's limit on loaded policy is reached",
        _ => return format!("the kernel rejected it: {error}"),
    };
    format!("{words} ({error})")
}

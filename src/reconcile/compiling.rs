//! From texts to what is loaded: compiled in the cage, checked, loaded as each is ready. While
//! compilers work, the pass does what does not need them.

use std::collections::{BTreeMap, BTreeSet};

use super::Pass;
use crate::advice::advise;
use crate::apply::Applier;
use crate::blob;
use crate::error::Error;
use crate::includes::Includes;
use crate::parser::{Answers, Work};
use crate::plan::{Candidate, Policy, about, parent};
use crate::profile::{Digest, ProfileName, Refusal, RefusalKind, Text};
use crate::settings::Confine;
use crate::state::Member;
use crate::wanted::{self, Unit};

/// Compilers at work.
pub(super) struct Caged<'t> {
    work: Work<'t>,
    /// Why they are not confined by armorer's own profile.
    why: Option<String>,
}

impl Pass<'_> {
    /// Sets compilers to work at `texts`, confined where that works.
    pub(super) fn begin<'t>(&'t self, texts: &'t [Text<'t>]) -> Caged<'t> {
        let deadline = self.started + self.settings.deadline;
        let mut why = self.cage.as_ref().err().cloned();
        let mut compiler = self.compiler.clone();
        let mut proof = None;
        if let Ok(cage) = &self.cage {
            compiler = compiler.confined();
            proof = Some(cage.proof());
        }
        if self.settings.complain && proof.is_some() {
            // What is compiled with its options is not what the proof is compared with.
            why = compiler
                .plain()
                .compile(&[], deadline, proof.take(), &mut |_| ())
                .err();
            if why.is_some() {
                compiler = self.compiler.clone();
            }
        }
        let work = compiler.begin(texts, deadline, proof);
        Caged { work, why }
    }

    /// Waits for the compilers, and notes why they were not confined.
    fn finish(
        &self,
        applier: &mut Applier,
        caged: Caged,
        done: &mut dyn FnMut(&mut Applier, Answers),
    ) {
        let outside = caged.work.finish(&mut |answers| done(applier, answers));
        let why = caged.why.or(outside.err());
        let wanted = self.settings.confine_compiler == Confine::Auto;
        if applier.note_compiler(why.clone())
            && wanted
            && let Some(why) = why
        {
            log::info!("the compiler runs with limits, but outside armorer's own profile: {why}");
        }
    }

    /// Takes what became of `fresh`, and loads each as soon as it is ready; only files that define
    /// further profiles wait for all, because another file may define the same.
    pub(super) fn load_compiled(
        &self,
        applier: &mut Applier,
        policy: &Policy,
        fresh: &[(&Unit, Digest)],
        caged: Option<Caged>,
        files: &BTreeSet<&str>,
        established: &BTreeMap<String, ProfileName>,
    ) -> Result<(), Error> {
        let Some(caged) = caged else {
            return Ok(());
        };
        let mut waiting: Vec<(Candidate, Vec<u8>)> = Vec::new();
        let mut failed = None;
        let mut refused = Vec::new();
        self.finish(applier, caged, &mut |applier, answers| {
            if failed.is_some() {
                return;
            }
            let mut ready = Vec::new();
            for (index, answer) in answers {
                let (unit, key) = fresh[index];
                match answer.and_then(|blob| self.candidate(unit, key, blob, files)) {
                    Ok((candidate, blob)) => {
                        let further = |m: &Member| parent(&m.name).is_none();
                        let further = candidate.members[1..].iter().any(further);
                        failed = failed
                            .take()
                            .or(applier.store(&candidate, &unit.text, &blob).err());
                        let list = if further { &mut waiting } else { &mut ready };
                        list.push((candidate, blob));
                    }
                    Err(refusal) => {
                        applier.refuse(unit.name.as_str(), Some(key), &refusal);
                        refused.push(unit);
                    }
                }
            }
            if failed.is_none() {
                failed = applier.load(policy, ready).err();
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        // As they came, the same files would be named in another order each time.
        waiting.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let doubles: BTreeMap<String, Vec<String>> = {
            let files = waiting.iter().map(|(c, _)| (&c.name, &*c.members));
            wanted::doubles(files)
                .into_iter()
                .map(|(name, files)| (name.into(), files.iter().map(ToString::to_string).collect()))
                .collect()
        };
        let mut ready = Vec::new();
        for (candidate, blob) in waiting {
            let double = candidate.members.iter().find_map(|m| {
                let elsewhere = established
                    .get(&m.name)
                    .filter(|file| **file != candidate.name);
                if let Some(file) = elsewhere {
                    return Some((m.name.clone(), format!("{} and {file}", candidate.name)));
                }
                doubles
                    .get(&m.name)
                    .map(|files| (m.name.clone(), files.join(" and ")))
            });
            if let Some((name, files)) = double {
                let message = format!("{}: {name} is defined by {files}: keep one", candidate.name);
                let refusal = Refusal::new(RefusalKind::Duplicate, message);
                applier.refuse(candidate.name.as_str(), None, &refusal);
                refused.extend(
                    fresh
                        .iter()
                        .map(|(u, _)| *u)
                        .find(|u| u.name == candidate.name),
                );
            } else {
                ready.push((candidate, blob));
            }
        }
        applier.load(policy, ready)?;
        keep_last_good(applier, policy, &refused, files)
    }

    fn candidate(
        &self,
        unit: &Unit,
        key: Digest,
        blob: Vec<u8>,
        files: &BTreeSet<&str>,
    ) -> Result<(Candidate, Vec<u8>), Refusal> {
        let members = blob::members(&blob).map_err(|why| {
            Refusal::new(
                RefusalKind::Compile,
                format!("{}: the compiler's output cannot be read: {why}", unit.name),
            )
        })?;
        let members = wanted::check_members(&unit.name, &members, &self.settings.rules)?;
        wanted::check_intruder(&unit.name, &members, files)?;
        let candidate = Candidate {
            name: unit.name.clone(),
            source: unit.source.clone(),
            text: unit.digest,
            key,
            blob: Digest::of(&blob),
            members,
        };
        Ok((candidate, blob))
    }
}

/// Warns of what was accepted and hurts in a cluster: once, since it is compiled once.
pub(super) fn warn_of(fresh: &[(&Unit, Digest)], applier: &Applier, includes: &Includes) {
    for (unit, _) in fresh {
        if applier.is_refused(unit.name.as_str()) || applier.is_dry() {
            continue;
        }
        for advice in advise(&unit.text, &mut |path| includes.text(path)) {
            let profile = advice.profile.as_str();
            log::warn!(profile, action = "advice"; "{}", about(profile, &advice.message));
        }
    }
}

/// What was refused by the compiler keeps its last good version, also after a reboot.
fn keep_last_good(
    applier: &mut Applier,
    policy: &Policy,
    refused: &[&Unit],
    files: &BTreeSet<&str>,
) -> Result<(), Error> {
    for unit in refused {
        let Some(record) = applier.set().profiles.get(&unit.name).cloned() else {
            applier.release_claim(unit.name.as_str());
            continue;
        };
        if wanted::check_intruder(&unit.name, &record.members, files).is_ok() {
            let candidate = Candidate::recorded(&unit.name, &record);
            applier.carry_out(policy, candidate, None)?;
        }
    }
    Ok(())
}

/// The profiles besides their own that the files of `candidates` define, each with its file.
pub(super) fn further_profiles(candidates: &[Candidate]) -> BTreeMap<String, ProfileName> {
    let further = candidates.iter().flat_map(|candidate| {
        let further = candidate.members.iter().skip(1);
        further.map(|member| (member.name.clone(), candidate.name.clone()))
    });
    further.filter(|(name, _)| parent(name).is_none()).collect()
}

//! The pass: the only file that knows the order of things.
//!
//! Preflight, lock, state, sources; then, unless nothing can have changed: observe the kernel,
//! record the intent, load what is stored, compile and load the rest as each is ready, read
//! back, remove, save. A kill between any two of these leaves a state from which the next pass
//! converges: what was about to be done is recorded before it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::advice::advise;
use crate::apply::{Applier, Pods};
use crate::blob;
use crate::clock::Stamp;
use crate::error::Error;
use crate::includes::Includes;
use crate::kernel::Kernel;
use crate::kubernetes::{Api, pods};
use crate::own_policy::{self, Cage};
use crate::parser::{Answers, Compiler};
use crate::plan::{Candidate, Change, Policy, about, parent};
use crate::profile::{Digest, ProfileName, RawProfile, Refusal, RefusalKind, Text};
use crate::report::heartbeat::Heartbeat;
use crate::report::outward::{self, NODE_TIME};
use crate::report::{Report, ending};
use crate::settings::{Common, Confine, Pass as Settings, RemoveAfter};
use crate::source::{self, Content, Reading, Source};
use crate::state::folder::{Folder, Lock};
use crate::state::{Member, Object, ProblemKind, State};
use crate::wanted::{self, Unit, Wish};

/// A refusal that may have been chance (the compiler was killed or too slow) is tried again
/// after this time.
const TRY_AGAIN: Duration = Duration::from_secs(600);

/// The API server is not waited for longer: the lock is held meanwhile.
const API_TIME: Duration = Duration::from_secs(60);

/// One pass, or with `dry` what it would do.
///
/// # Errors
/// What keeps the whole pass from running; heartbeat and metrics then say so.
pub(crate) fn run(settings: &Settings, dry: bool) -> Result<Report, Error> {
    let started = Instant::now();
    let common = &settings.common;
    let mut folder = Folder::new(&common.state_dir);
    let api = Api::new(settings.access.clone());
    let mut result = run_locked(settings, started, dry, &mut folder, &api);
    if !dry {
        let kernel = kernel(common);
        let boot_id = kernel.boot_id().ok();
        if let Ok(report) = &mut result {
            outward::clear_taint(settings, &api, &folder, boot_id.as_deref(), report);
        }
        ending::tell(settings, &kernel, started, &mut folder, &result);
        outward::tell(settings, &api, &folder, boot_id, &result);
    }
    result
}

fn run_locked(
    settings: &Settings,
    started: Instant,
    dry: bool,
    folder: &mut Folder,
    api: &Api,
) -> Result<Report, Error> {
    let common = &settings.common;
    let kernel = kernel(common);
    if dry {
        kernel.preflight_read()?;
    } else {
        kernel.preflight()?;
    }
    let _lock: Option<Lock> = if dry {
        None
    } else {
        Some(folder.lock(settings.lock_timeout)?)
    };
    let mut state = folder.load()?;
    state.enter_boot(&kernel.boot_id()?);
    state.node.clone_from(&settings.node);
    let (found, objects) = read(settings, started, folder, &state, api)?;
    let wish = Wish::new(found, &settings.rules);
    let compiler = Compiler::find(settings.compiler())?;
    let mut includes = Includes::new(settings.rules.base.clone());
    let mut pass = Pass {
        settings,
        api,
        started,
        cage: Err("--confine-compiler never".to_owned()),
        wanted: wanted_digest(settings, &wish),
        parser_mark: compiler.mark(),
        objects,
        compiler,
        wish,
    };
    if pass.nothing_changed(&state, folder, &kernel, &mut includes) {
        let set = state.sets.remove(&common.set);
        return Ok(Report::unchanged(set.unwrap_or_default()));
    }
    let program = pass.program(&state)?;
    let environment = pass.compiler.environment(program);
    let environment = Digest::of_parts([environment, kernel.features()?]);
    let (state, own_changes) = pass.own_policy(&kernel, folder, state, environment, dry)?;
    let mut applier = Applier::new(&kernel, folder, state, &common.set, dry, Stamp::now())?;
    applier.observe_contents(&settings.rules.prefix);
    pass.converge(&mut applier, &mut includes, environment)?;
    applier.set_mut().parser = Some(program);
    let mut report = applier.finish(settings.copy_to.as_deref())?;
    report.quiet &= !own_changes.iter().any(|change| change.action.writes());
    report.changes.splice(0..0, own_changes);
    Ok(report)
}

/// Everything that the sources hold, and what to record of the API server's objects. Of objects
/// at a recorded version the stored texts are taken.
fn read(
    settings: &Settings,
    started: Instant,
    folder: &Folder,
    state: &State,
    api: &Api,
) -> Result<(Vec<RawProfile>, BTreeMap<String, Object>), Error> {
    let none = BTreeMap::new();
    let set = state.sets.get(&settings.common.set);
    let recorded = set.map_or(&none, |set| &set.objects);
    let mut stored = BTreeMap::new();
    for (key, object) in recorded {
        let texts = object.texts.iter().map(|(name, digest)| {
            let text = folder.text(*digest).ok()?;
            let fits = text.len() as u64 <= settings.rules.limits.profile_bytes;
            fits.then(|| RawProfile {
                name: name.clone(),
                source: key.clone(),
                text: Ok(text),
            })
        });
        if let Some(texts) = texts.collect::<Option<Vec<_>>>() {
            stored.insert(key.clone(), texts);
        }
    }
    let known = recorded
        .iter()
        .filter(|(key, _)| stored.contains_key(*key))
        .map(|(key, object)| (key.clone(), object.version.clone()))
        .collect();
    let reading = Reading {
        limits: settings.rules.limits.clone(),
        api: api.clone(),
        deadline: started + settings.deadline.min(API_TIME),
        allow_empty: settings.allow_empty,
    };
    let mut found = Vec::new();
    let mut objects = BTreeMap::new();
    for part in source::read_parts(&settings.sources, &reading, &known)? {
        let profiles = match part.content {
            Content::Profiles(profiles) => profiles,
            Content::Unchanged => stored.remove(&part.key).unwrap_or_default(),
        };
        if let Some(version) = part.version {
            let texts: Option<BTreeMap<String, Digest>> = profiles
                .iter()
                .map(|raw| {
                    let text = raw.text.as_ref().ok()?;
                    Some((raw.name.clone(), Digest::of(text.as_bytes())))
                })
                .collect();
            if let Some(texts) = texts {
                objects.insert(part.key, Object { version, texts });
            }
        }
        found.extend(profiles);
    }
    Ok((found, objects))
}

fn kernel(common: &Common) -> Kernel {
    let (securityfs, proc) = (common.securityfs.clone(), common.proc.clone());
    Kernel::new(&common.root, securityfs, proc)
}

/// What stays the same during a pass.
struct Pass<'a> {
    settings: &'a Settings,
    api: &'a Api,
    started: Instant,
    wish: Wish,
    wanted: Digest,
    compiler: Compiler,
    /// What confines the compiler, or why nothing of ours does.
    cage: Result<Cage, String>,
    parser_mark: String,
    /// The API server's objects that were read, to be recorded.
    objects: BTreeMap<String, Object>,
}

/// The digest of everything wanted, and of the options that change what comes of it.
fn wanted_digest(settings: &Settings, wish: &Wish) -> Digest {
    let sources = settings.sources.iter().map(Source::to_string);
    let mut parts: Vec<Vec<u8>> = sources.map(String::into_bytes).collect();
    parts.push(wish.digest.clone());
    parts.push(rules_digest(settings).as_ref().to_vec());
    parts.push(settings.adopt.join("\n").into_bytes());
    parts.push(vec![u8::from(settings.confine_compiler == Confine::Auto)]);
    let copies = settings.copy_to.as_deref().unwrap_or(Path::new(""));
    parts.push(copies.as_os_str().as_encoded_bytes().to_vec());
    Digest::of_parts(parts)
}

/// The digest of the options that decide whether a text is accepted.
fn rules_digest(settings: &Settings) -> Digest {
    let rules = &settings.rules;
    let switches = [
        rules.allow_attachment,
        rules.allow_unconfined,
        settings.complain,
    ];
    Digest::of_parts([
        env!("CARGO_PKG_VERSION").as_bytes(),
        rules.prefix.as_bytes(),
        rules.base.as_os_str().as_encoded_bytes(),
        &switches.map(u8::from),
    ])
}

impl Pass<'_> {
    /// Whether record, source and kernel all say that the last pass's result still stands.
    fn nothing_changed(
        &self,
        state: &State,
        folder: &Folder,
        kernel: &Kernel,
        includes: &mut Includes,
    ) -> bool {
        let Some(set) = state.sets.get(&self.settings.common.set) else {
            return false;
        };
        let now = Stamp::now();
        let settled = set
            .owned
            .values()
            .all(|owned| owned.pending.is_none() && owned.unwanted.is_none())
            && set.problems.values().all(|problem| match problem.kind {
                ProblemKind::Refused(RefusalKind::CompileTimeout) => {
                    now.since(&problem.since) < TRY_AGAIN
                }
                ProblemKind::Refused(RefusalKind::NotCompiled)
                | ProblemKind::Contested
                | ProblemKind::Failed
                | ProblemKind::Kept => false,
                ProblemKind::Refused(_) | ProblemKind::Conflict => true,
            });
        settled
            && set.wanted == Some(self.wanted)
            && set.parser_mark.as_ref() == Some(&self.parser_mark)
            && set.objects == self.objects
            && set.kernel_revision.is_some()
            && set.kernel_revision == kernel.revision()
            && Heartbeat::read(folder, &self.settings.common.set)
                .is_some_and(|heartbeat| heartbeat.state == Some(folder.saved()))
            && set
                .includes
                .iter()
                .all(|(path, digest)| includes.digest_now(path) == *digest)
    }

    /// The digest of the compiler's program: the recorded one while its files look the same, as
    /// for a pass that changes nothing.
    fn program(&self, state: &State) -> Result<Digest, Error> {
        let set = state.sets.get(&self.settings.common.set);
        let same = set.filter(|set| set.parser_mark.as_ref() == Some(&self.parser_mark));
        same.and_then(|set| set.parser)
            .map_or_else(|| self.compiler.digest(), Ok)
    }

    /// Puts armorer's own profile in force, or takes it away.
    fn own_policy(
        &mut self,
        kernel: &Kernel,
        folder: &mut Folder,
        state: State,
        environment: Digest,
        dry: bool,
    ) -> Result<(State, Vec<Change>), Error> {
        if self.settings.confine_compiler == Confine::Never {
            return own_policy::remove(kernel, folder, state, dry);
        }
        let adopt = &self.settings.adopt;
        let (state, changes, cage) = own_policy::load(
            kernel,
            folder,
            state,
            &self.compiler,
            environment,
            adopt,
            dry,
        )?;
        self.cage = cage;
        Ok((state, changes))
    }

    /// Compiles `texts`, confined where that works, and notes where it does not.
    fn compile_caged(
        &self,
        applier: &mut Applier,
        texts: &[Text],
        done: &mut dyn FnMut(&mut Applier, Answers),
    ) {
        if texts.is_empty() && !applier.is_compiler_noted() {
            return;
        }
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
        let outside = compiler.compile(texts, deadline, proof, &mut |answers| {
            done(applier, answers);
        });
        let why = why.or(outside.err());
        let wanted = self.settings.confine_compiler == Confine::Auto;
        if applier.note_compiler(why.clone())
            && wanted
            && let Some(why) = why
        {
            log::info!("the compiler runs with limits, but outside armorer's own profile: {why}");
        }
    }

    fn converge(
        &self,
        applier: &mut Applier,
        includes: &mut Includes,
        environment: Digest,
    ) -> Result<(), Error> {
        let settings = self.settings;
        let environment = Digest::of_parts([environment, rules_digest(settings)]);
        applier.store_texts(self.wish.units.iter().filter_map(|unit| {
            let from_api = self.objects.contains_key(&unit.source);
            from_api.then_some((unit.digest, unit.text.as_str()))
        }))?;
        for (name, refusal) in &self.wish.refused {
            applier.refuse(name, None, refusal);
        }
        let files = self.wish.names();
        let mut closures = BTreeMap::new();
        let mut stored = Vec::new();
        let mut fresh: Vec<(&Unit, Digest)> = Vec::new();
        for unit in &self.wish.units {
            let name = unit.name.as_str();
            let closure = match includes.of(&unit.text) {
                Ok(closure) => closure,
                Err(refusal) => {
                    let message = format!("{name}: {}", refusal.message);
                    applier.refuse(name, None, &Refusal::new(refusal.kind, message));
                    continue;
                }
            };
            let key = key(unit, &closure, environment);
            closures.extend(closure);
            if let Some(candidate) = recorded(applier, unit, key, &files) {
                stored.push(candidate);
            } else if let Some(refusal) = applier.known_refusal(name, key, TRY_AGAIN) {
                applier.refuse(name, Some(key), &refusal);
            } else {
                fresh.push((unit, key));
            }
        }
        fall_back(applier, &files, &mut stored);
        let policy = self.policy();
        applier.claim(
            stored.iter(),
            fresh.iter().map(|(unit, _)| &unit.name),
            &policy,
        )?;
        let established = further_profiles(&stored);
        for candidate in stored {
            applier.carry_out(&policy, candidate, None)?;
        }
        self.compile(applier, &policy, &fresh, &files, &established)?;
        warn_of(&fresh, applier, includes);
        applier.read_back()?;
        self.remove(applier, &policy, &files)?;
        let set = applier.set_mut();
        set.wanted = Some(self.wanted);
        set.environment = Some(environment);
        set.parser_mark = Some(self.parser_mark.clone());
        set.includes = closures;
        set.objects.clone_from(&self.objects);
        Ok(())
    }

    fn policy(&self) -> Policy {
        Policy {
            remove_after: match self.settings.remove_after {
                RemoveAfter::Time(time) => Some(time),
                RemoveAfter::Never => None,
            },
            allow_empty: self.settings.allow_empty,
            take_over: self.settings.take_over,
            adopt: self.settings.adopt.clone(),
        }
    }

    /// Compiles `fresh`, and loads each as soon as it is ready; only files that define further
    /// profiles wait for all, because another file may define the same.
    fn compile(
        &self,
        applier: &mut Applier,
        policy: &Policy,
        fresh: &[(&Unit, Digest)],
        files: &BTreeSet<&str>,
        established: &BTreeMap<String, ProfileName>,
    ) -> Result<(), Error> {
        let texts: Vec<Text> = fresh.iter().map(|(unit, _)| unit.to_compile()).collect();
        let mut waiting: Vec<(Candidate, Vec<u8>)> = Vec::new();
        let mut failed = None;
        let mut refused = Vec::new();
        self.compile_caged(applier, &texts, &mut |applier, answers| {
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

    /// Removals come last, so that a name that moved from one file to another is never gone.
    fn remove(
        &self,
        applier: &mut Applier,
        policy: &Policy,
        files: &BTreeSet<&str>,
    ) -> Result<(), Error> {
        let sources: Vec<String> = self
            .settings
            .sources
            .iter()
            .map(Source::to_string)
            .collect();
        let empty: Vec<&str> = sources
            .iter()
            .filter(|source| !self.wish.counts.keys().any(|found| covers(source, found)))
            .map(String::as_str)
            .collect();
        let is_empty = |recorded: &str| empty.iter().any(|source| covers(source, recorded));
        let mut pods = || self.profiles_of_pods();
        let pods: Option<Pods> = if self.settings.cluster.check_pods {
            Some(&mut pods)
        } else {
            None
        };
        applier.remove_unwanted(policy, files, &sources, &is_empty, pods)
    }

    /// Which profiles the node's pods name, each with a pod.
    fn profiles_of_pods(&self) -> Result<BTreeMap<String, String>, String> {
        let client = self.api.until(Instant::now() + NODE_TIME);
        let client = client.map_err(|error| error.to_string())?;
        let node = self.settings.node.as_deref().unwrap_or_default();
        pods::named(&client, node).map_err(|failure| failure.line)
    }
}

/// Warns of what was accepted and hurts in a cluster: once, since it is compiled once.
fn warn_of(fresh: &[(&Unit, Digest)], applier: &Applier, includes: &Includes) {
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

/// The recorded version of `unit`, if it was compiled from the very same.
fn recorded(
    applier: &Applier,
    unit: &Unit,
    key: Digest,
    files: &BTreeSet<&str>,
) -> Option<Candidate> {
    let record = applier.set().profiles.get(&unit.name)?;
    let same = record.key == key
        && record.text == unit.digest
        && wanted::check_intruder(&unit.name, &record.members, files).is_ok();
    same.then(|| Candidate {
        source: unit.source.clone(),
        ..Candidate::recorded(&unit.name, record)
    })
}

/// Keeps the last good version of what is refused in force, unless it takes the name of a file
/// that came since.
fn fall_back(applier: &Applier, files: &BTreeSet<&str>, stored: &mut Vec<Candidate>) {
    for (name, record) in &applier.set().profiles {
        let refused = files.contains(name.as_str()) && applier.is_refused(name.as_str());
        if refused && wanted::check_intruder(name, &record.members, files).is_ok() {
            stored.push(Candidate::recorded(name, record));
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
fn further_profiles(candidates: &[Candidate]) -> BTreeMap<String, ProfileName> {
    let further = candidates.iter().flat_map(|candidate| {
        let further = candidate.members.iter().skip(1);
        further.map(|member| (member.name.clone(), candidate.name.clone()))
    });
    further.filter(|(name, _)| parent(name).is_none()).collect()
}

/// Whether what was found in `found` came from `source`: a folder has subfolders, and a selector
/// names many ConfigMaps.
fn covers(source: &str, found: &str) -> bool {
    let top = source
        .split_once("?selector=")
        .map_or(source, |(top, _)| top);
    found
        .strip_prefix(top.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a blob is compiled from.
fn key(unit: &Unit, closure: &[(String, Option<Digest>)], environment: Digest) -> Digest {
    let mut parts: Vec<&[u8]> = vec![environment.as_ref(), unit.digest.as_ref()];
    for (path, digest) in closure {
        parts.push(path.as_bytes());
        parts.push(digest.as_ref().map_or(b"", |digest| digest.as_ref()));
    }
    Digest::of_parts(parts)
}

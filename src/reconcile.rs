//! The pass: the only file that knows the order of things.
//!
//! Preflight, lock, state, sources; then, unless nothing can have changed: observe the kernel,
//! begin to compile, record the intent, load what is stored, load the rest as each is compiled,
//! read back, remove, save. A kill between any two of these leaves a state from which the next pass
//! converges: what was about to be done is recorded before it is done.

mod compiling;
mod reading;
mod sorting;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::apply::{Applier, Pods};
use crate::clock::Stamp;
use crate::error::Error;
use crate::includes::Includes;
use crate::kernel::Kernel;
use crate::kubernetes::{Api, pods};
use crate::own_policy::{self, Cage};
use crate::parser::Compiler;
use crate::plan::{Change, Policy};
use crate::profile::{Digest, RefusalKind, Text};
use crate::report::heartbeat::Heartbeat;
use crate::report::outward::{self, NODE_TIME};
use crate::report::{Report, ending};
use crate::settings::{Common, Confine, Pass as Settings, RemoveAfter};
use crate::source::Source;
use crate::state::folder::{Folder, Lock};
use crate::state::{Object, ProblemKind, State};
use crate::wanted::Wish;
use compiling::{further_profiles, warn_of};
use reading::{read, rules_digest, wanted_digest};
use sorting::{Sorted, fall_back, includes_stand};

/// A refusal that may have been chance (the compiler was killed or too slow) is tried again
/// after this time.
const TRY_AGAIN: Duration = Duration::from_secs(600);

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
    pass.converge(&mut applier, &mut includes, program, environment)?;
    let mut report = applier.finish(settings.copy_to.as_deref())?;
    report.quiet &= !own_changes.iter().any(|change| change.action.writes());
    report.changes.splice(0..0, own_changes);
    Ok(report)
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
            && includes_stand(set, includes)
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

    fn converge(
        &self,
        applier: &mut Applier,
        includes: &mut Includes,
        program: Digest,
        environment: Digest,
    ) -> Result<(), Error> {
        let settings = self.settings;
        let environment = Digest::of_parts([environment, rules_digest(settings)]);
        for (name, refusal) in &self.wish.refused {
            applier.refuse(name, None, refusal);
        }
        let files = self.wish.names();
        let Sorted {
            mut stored,
            fresh,
            included,
        } = self.sort(applier, includes, environment, &files);
        fall_back(applier, &files, &mut stored);
        let texts: Vec<Text> = fresh.iter().map(|(unit, _)| unit.to_compile()).collect();
        let is_asked = !texts.is_empty() || applier.is_compiler_noted();
        let compilers = is_asked.then(|| self.begin(&texts));
        applier.remove_leftovers();
        applier.store_texts(self.wish.units.iter().filter_map(|unit| {
            let from_api = self.objects.contains_key(&unit.source);
            from_api.then_some((unit.digest, unit.text.as_str()))
        }))?;
        applier.observe_contents(&settings.rules.prefix);
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
        self.load_compiled(applier, &policy, &fresh, compilers, &files, &established)?;
        warn_of(&fresh, applier, includes);
        applier.read_back()?;
        self.remove(applier, &policy, &files)?;
        let set = applier.set_mut();
        set.wanted = Some(self.wanted);
        set.environment = Some(environment);
        set.parser_mark = Some(self.parser_mark.clone());
        set.parser = Some(program);
        set.includes = included;
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

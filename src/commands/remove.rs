//! Removes what a set owns, for an uninstall. Promise 1 holds; only `--force` may unconfine.

use std::collections::BTreeSet;

use crate::apply::Applier;
use crate::args;
use crate::clock::Stamp;
use crate::error::{Error, Exit};
use crate::kernel::Kernel;
use crate::own_policy;
use crate::plan::{Change, Policy, Verb, is_owned_top_level};
use crate::profile::quoted;
use crate::report::Report;
use crate::settings::{Common, Env, RemoveAfter, lock_timeout, remove_after, switch};
use crate::state::folder::Folder;
use crate::state::{OWN_SET, ProblemKind, Set};

/// Removes the named profiles, or with `--all` everything that the set owns.
pub(crate) fn run(flags: &args::Removal, common: &Common, env: Env) -> Result<Report, Error> {
    let all = switch("all", flags.all, env)?;
    let force = switch("force", flags.force, env)?;
    if flags.names.is_empty() != all {
        return Err(Error::Usage(
            "name the profiles to remove, or give --all".into(),
        ));
    }
    let remove_after = match remove_after(flags.remove_after.as_ref(), env)? {
        RemoveAfter::Time(time) => Some(time),
        RemoveAfter::Never => None,
    };
    let (securityfs, proc) = (common.securityfs.clone(), common.proc.clone());
    let kernel = Kernel::new(&common.root, securityfs, proc);
    kernel.preflight()?;
    let mut folder = Folder::new(&common.state_dir);
    let _lock = folder.lock(lock_timeout(flags.lock_timeout.as_ref(), env)?)?;
    let mut state = folder.load()?;
    state.enter_boot(&kernel.boot_id()?);
    let mut applier = Applier::new(
        &kernel,
        &mut folder,
        state,
        &common.set,
        false,
        Stamp::now(),
    )?;
    applier.remove_leftovers();
    if !all {
        applier.keep_refusals();
    }
    let names: BTreeSet<String> = if all {
        let owned = &applier.set().owned;
        let names = owned.keys().filter(|name| is_owned_top_level(name, owned));
        names.cloned().collect()
    } else {
        flags.names.iter().cloned().collect()
    };
    let policy = Policy {
        remove_after,
        allow_empty: true,
        take_over: true,
        adopt: Vec::new(),
    };
    applier.remove_named(&names, &policy, force)?;
    let forgotten = |name: &&str| all || names.contains(*name);
    let records: Vec<String> = applier
        .set()
        .profiles
        .keys()
        .map(ToString::to_string)
        .collect();
    let kept = records
        .iter()
        .map(String::as_str)
        .filter(|name| !forgotten(name));
    applier.forget_records(&kept.collect());
    applier.set_mut().wanted = None;
    let mut report = applier.finish(None)?;
    if all {
        let own = remove_own(&kernel, &mut folder)?;
        let deferred = own.iter().filter(|change| change.action == Verb::Defer);
        report.deferred += deferred.count();
        report.changes.extend(own);
    }
    let left = report.deferred > 0 || report.has_new_problems();
    let exit = if left {
        Exit::Incomplete
    } else {
        Exit::Converged
    };
    Ok(Report { exit, ..report })
}

/// armorer's own profile goes with the last set that owns anything.
fn remove_own(kernel: &Kernel, folder: &mut Folder) -> Result<Vec<Change>, Error> {
    let state = folder.load()?;
    let others = |(name, set): (&String, &Set)| name != OWN_SET && !set.owned.is_empty();
    if state.sets.iter().any(others) {
        return Ok(Vec::new());
    }
    Ok(own_policy::remove(kernel, folder, state, false)?.1)
}

impl Applier<'_> {
    fn remove_named(
        &mut self,
        names: &BTreeSet<String>,
        policy: &Policy,
        force: bool,
    ) -> Result<(), Error> {
        let mut owned = BTreeSet::new();
        for name in names {
            if self.set().owned.contains_key(name) {
                owned.insert(name.as_str());
            } else {
                let set = self.set_name();
                let message = format!(
                    "{} is not owned by the set {set} in this boot: see armorer status, or --set",
                    quoted(name)
                );
                self.problem(name, ProblemKind::Kept, Verb::Keep, message);
            }
        }
        if !force {
            return self.remove_owned(&owned, policy);
        }
        for name in owned {
            self.remove_by_force(name);
        }
        Ok(())
    }
}

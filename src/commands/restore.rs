//! At boot, before the kubelet: the last good blobs, without source, network or compiler.

use std::collections::BTreeMap;

use crate::apply::Applier;
use crate::args;
use crate::blob;
use crate::clock::Stamp;
use crate::error::{Error, Exit};
use crate::kernel::Kernel;
use crate::plan::{Candidate, Policy, Verb};
use crate::report::Report;
use crate::settings::{Common, Env, lock_timeout};
use crate::state::folder::Folder;
use crate::state::{ProblemKind, Set};

/// Loads what every set last had in force.
pub(crate) fn run(flags: &args::Restore, common: &Common, env: Env) -> Result<Report, Error> {
    let (securityfs, proc) = (common.securityfs.clone(), common.proc.clone());
    let kernel = Kernel::new(&common.root, securityfs, proc);
    kernel.preflight()?;
    let mut folder = Folder::new(&common.state_dir);
    let _lock = folder.lock(lock_timeout(flags.lock_timeout.as_ref(), env)?)?;
    let sets: Vec<String> = folder.load()?.sets.into_keys().collect();
    let mut total = Report {
        changes: Vec::new(),
        problems: BTreeMap::new(),
        deferred: 0,
        in_force: 0,
        quiet: true,
        exit: Exit::Converged,
        remark: None,
        set: Set::default(),
    };
    for set in sets {
        let report = restore(&set, &kernel, &mut folder)?;
        if report.has_new_problems() {
            total.exit = Exit::Incomplete;
        }
        total.changes.extend(report.changes);
        total.problems.extend(report.problems);
        total.in_force += report.in_force;
        total.quiet &= report.quiet;
    }
    Ok(total)
}

fn restore(set: &str, kernel: &Kernel, folder: &mut Folder) -> Result<Report, Error> {
    let policy = Policy {
        remove_after: None,
        allow_empty: false,
        take_over: false,
        adopt: Vec::new(),
    };
    let mut state = folder.load()?;
    state.enter_boot(&kernel.boot_id()?);
    let mut applier = Applier::new(kernel, folder, state, set, false, Stamp::now())?;
    applier.observe_contents("");
    let recorded = applier.set().profiles.iter();
    let candidates: Vec<_> = recorded
        .map(|(name, record)| Candidate::recorded(name, record))
        .collect();
    applier.claim(candidates.iter(), std::iter::empty(), &policy)?;
    let mut blob = Vec::new();
    for candidate in candidates {
        match stored(applier.folder(), &candidate, &mut blob) {
            Ok(()) => applier.carry_out(&policy, candidate, Some(&blob))?,
            Err(why) => {
                let name = candidate.name;
                let message = format!("{name}: {why}; the next pass compiles it from its text");
                applier.forget_key(&name);
                for member in &candidate.members {
                    applier.release_claim(&member.name);
                }
                applier.problem(name.as_str(), ProblemKind::Failed, Verb::Fail, message);
            }
        }
    }
    applier.read_back()?;
    applier.keep_refusals();
    // The next pass looks at everything: another kernel may have booted.
    applier.set_mut().wanted = None;
    applier.finish(None)
}

/// Reads the stored blob, which must be what the record says, and bring the names that were checked
/// then.
fn stored(folder: &Folder, candidate: &Candidate, blob: &mut Vec<u8>) -> Result<(), String> {
    folder.blob(candidate.blob, blob)?;
    let members = blob::members(blob)?;
    let allowed = |member: &blob::Member| {
        member.namespace.is_none()
            && candidate
                .members
                .iter()
                .any(|recorded| recorded.name == member.name && recorded.mode == member.mode)
    };
    if members.len() == candidate.members.len() && members.iter().all(allowed) {
        Ok(())
    } else {
        Err(format!(
            "the stored policy of {} holds other names than recorded",
            candidate.name
        ))
    }
}

//! At boot, before the kubelet: the last good blobs, without source, network or compiler.

use std::collections::BTreeMap;

use crate::apply::Applier;
use crate::args;
use crate::blob;
use crate::clock::Stamp;
use crate::error::{Error, Exit};
use crate::kernel::Kernel;
use crate::plan::{Candidate, Policy, Verb};
use crate::profile::ProfileName;
use crate::report::Report;
use crate::settings::{Common, Env, lock_timeout};
use crate::state::folder::Folder;
use crate::state::{ProblemKind, Record, Set};

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
    let records: Vec<_> = applier.set().profiles.clone().into_iter().collect();
    let mut candidates = Vec::new();
    for (name, record) in records {
        match checked(applier.folder(), &name, &record) {
            Ok(()) => candidates.push(Candidate::recorded(&name, &record)),
            Err(why) => {
                let message = format!("{name}: {why}; the next pass compiles it from its text");
                applier.forget_key(&name);
                applier.problem(name.as_str(), ProblemKind::Failed, Verb::Fail, message);
            }
        }
    }
    applier.claim(candidates.iter(), std::iter::empty(), &policy)?;
    for candidate in candidates {
        applier.carry_out(&policy, candidate, None)?;
    }
    applier.read_back()?;
    applier.keep_refusals();
    // The next pass looks at everything: another kernel may have booted.
    applier.set_mut().wanted = None;
    applier.finish(None)
}

/// The stored blob is what the record says, and brings the names that were checked then.
fn checked(folder: &Folder, name: &ProfileName, record: &Record) -> Result<(), String> {
    let blob = folder.blob(record.blob)?;
    let members = blob::members(&blob)?;
    let allowed = |member: &blob::Member| {
        member.namespace.is_none()
            && record
                .members
                .iter()
                .any(|recorded| recorded.name == member.name && recorded.mode == member.mode)
    };
    if members.len() == record.members.len() && members.iter().all(allowed) {
        Ok(())
    } else {
        Err(format!(
            "the stored policy of {name} holds other names than recorded"
        ))
    }
}

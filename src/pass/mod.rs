//! One pass. Its order is stated once, in [`run`]; reconcile, plan, restore and remove share it.
//!
//! A kill between any two steps leaves a state from which the next pass converges: intent is recorded
//! before the kernel is touched.

mod conclude;
mod journal;
mod load;
mod node;
mod observe;
mod remove;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use std::{mem::take, path::PathBuf};

use crate::compiler::{self, Compiler};
use crate::error::{Error, Exit};
use crate::kernel::{self, Kernel};
use crate::outcome::{Kind, Outcome};
use crate::plan::{Candidate, Facts, Observed, Options};
use crate::report::{self, Report};
use crate::source::{Limits, Source};
use crate::state::store::{Lock, Store};
use crate::state::{Problem, Set, State};
use crate::{kubernetes, rules::Rules, time::Stamp};
use conclude::concluded;
pub(crate) use work::Removal;
use work::Work;

/// How long the command `remove` looks again for a program that is being started.
const REMOVE_TIME: Duration = Duration::from_mins(1);

/// The kernel and the state that a pass works on.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) kernel: kernel::Settings,
    pub(crate) state_dir: PathBuf,
    /// The set of profiles; sets never touch each other's.
    pub(crate) set: String,
    pub(crate) lock_timeout: Duration,
}

/// The settings of a reconcile pass.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) place: Place,
    pub(crate) sources: Vec<Source>,
    pub(crate) limits: Limits,
    pub(crate) rules: Rules,
    pub(crate) compiler: compiler::Settings,
    pub(crate) options: Options,
    pub(crate) deadline: Duration,
    pub(crate) cluster: kubernetes::Settings,
    pub(crate) report: report::Settings,
}

/// The kernel, the store with its lock, and the record of one set.
pub(crate) struct Session {
    kernel: Kernel,
    store: Store,
    _lock: Option<Lock>,
    state: State,
    set_name: String,
    /// Nothing is changed.
    dry: bool,
    now: Stamp,
}

impl Session {
    /// Asks whether the kernel can be changed (with `dry`: read), takes the lock and loads the state.
    pub(crate) fn open(place: &Place, dry: bool) -> Result<Self, Error> {
        let kernel = Kernel::new(&place.kernel);
        let mut store = Store::new(&place.state_dir);
        let lock = if dry {
            kernel.preflight_read()?;
            None
        } else {
            kernel.preflight()?;
            Some(store.lock(place.lock_timeout)?)
        };
        let mut state = store.load()?;
        state.enter_boot(&kernel.boot_id()?);
        state.sets.entry(place.set.clone()).or_default();
        Ok(Self {
            kernel,
            store,
            _lock: lock,
            state,
            set_name: place.set.clone(),
            dry,
            now: Stamp::now(),
        })
    }

    pub(crate) fn set(&self) -> &Set {
        &self.state.sets[&self.set_name]
    }

    fn set_mut(&mut self) -> &mut Set {
        self.state.sets.entry(self.set_name.clone()).or_default()
    }

    fn save(&mut self) -> Result<(), Error> {
        match self.dry {
            true => Ok(()),
            false => self.store.save(&self.state),
        }
    }

    /// The result of a pass with these outcomes over these files.
    fn report(
        mut self,
        outcomes: Vec<Outcome>,
        files: &BTreeSet<&str>,
        mut remarks: Vec<String>,
    ) -> Report {
        let enforcing = !self.kernel.complains();
        if !enforcing {
            remarks.push(kernel::COMPLAINS.to_owned());
        }
        let set = self.state.sets.remove(&self.set_name).unwrap_or_default();
        let in_force = set.in_force().map(|(name, _)| name.to_string());
        let in_force = in_force.filter(|name| files.contains(&**name));
        Report {
            outcomes,
            in_force: in_force.collect(),
            exit: Exit::of(set.problems.is_empty()),
            remarks,
            enforcing,
            saved: self.store.saved.filter(|_| !self.dry),
            set,
        }
    }
}

/// A pass under way.
struct Pass<'a> {
    session: Session,
    options: &'a Options,
    work: Work<'a>,
    observed: Observed,
    /// The kernel's revision as it was observed, and moved on by each successful write of ours.
    revision: Option<u64>,
    /// The versions that were written to the kernel.
    written: Vec<Candidate>,
    outcomes: Vec<Outcome>,
    problems: BTreeMap<String, Problem>,
    /// The last pass' problems.
    standing: BTreeMap<String, Problem>,
    deadline: Instant,
}

impl Pass<'_> {
    fn facts(&self) -> Facts<'_> {
        Facts {
            state: &self.session.state,
            set_name: &self.session.set_name,
            observed: &self.observed,
            options: self.options,
            files: &self.work.files,
            now: self.session.now,
        }
    }
}

/// The order of a pass.
fn run(
    session: Session,
    work: Work<'_>,
    options: &Options,
    compiler: Option<(&Compiler, &Rules)>,
    deadline: Instant,
) -> Result<Report, Error> {
    let mut pass = Pass::observe(session, work, options, deadline)?;
    for (name, problem) in take(&mut pass.work.problems) {
        pass.note(&name, problem);
    }
    let ready = take(&mut pass.work.ready);
    pass.load_all(ready)?;
    if let Some((compiler, rules)) = compiler {
        pass.compile(compiler, rules)?;
    }
    pass.read_back()?;
    pass.remove()?;
    pass.finish()
}

/// One pass over the sources, or with `dry` its plan.
///
/// # Errors
/// The reason why the whole pass could not run; the status file then says so.
pub(crate) fn reconcile(settings: &Settings, dry: bool) -> Result<Report, Error> {
    let deadline = Instant::now() + settings.deadline;
    let pass = || reconcile_once(settings, dry, deadline);
    if dry {
        return pass();
    }
    let (place, cluster) = (&settings.place, Some(&settings.cluster));
    concluded(place, &settings.report, cluster, pass)
}

fn reconcile_once(settings: &Settings, dry: bool, deadline: Instant) -> Result<Report, Error> {
    let mut session = Session::open(&settings.place, dry)?;
    session.state.node.clone_from(&settings.cluster.node);
    // Given back by the end of the process: text by text would take a tenth of an idle pass.
    let inputs = Box::leak(Box::new(work::read(settings, &session, deadline)?));
    if inputs.are_unchanged(settings, &session) {
        return Ok(inputs.repeated(session));
    }
    if !dry {
        session.store.sweep(&session.state);
        inputs.store(&mut session)?;
    }
    let work = inputs.work(settings, &session, deadline)?;
    let compiler = Some((&inputs.compiler, &settings.rules));
    run(session, work, &settings.options, compiler, deadline)
}

/// Loads the policies that every set last had in force, without source, network or compiler.
///
/// # Errors
/// The kernel or the state cannot be used.
pub(crate) fn restore(place: &Place) -> Result<Vec<Report>, Error> {
    Kernel::new(&place.kernel).preflight()?;
    let options = Options {
        most_names: usize::MAX,
        ..Options::default()
    };
    let sets = Store::new(&place.state_dir).load()?.sets.into_keys();
    let reports = sets.map(|set| {
        let mut place = place.clone();
        place.set = set;
        concluded(&place, &report::Settings::default(), None, || {
            let session = Session::open(&place, false)?;
            let records = session.set().profiles.clone();
            let work = Work::restore(&records);
            run(session, work, &options, None, Instant::now())
        })
    });
    reports.collect()
}

/// Removes profiles that the set owns, as far as they may go.
///
/// # Errors
/// The kernel or the state cannot be used.
pub(crate) fn remove(place: &Place, removal: Removal, options: &Options) -> Result<Report, Error> {
    concluded(place, &report::Settings::default(), None, || {
        let session = Session::open(place, false)?;
        let records = session.set().profiles.clone();
        let work = Work::remove(&records, removal);
        let deadline = Instant::now() + REMOVE_TIME;
        let mut report = run(session, work, options, None, deadline)?;
        let mut outcomes = report.outcomes.iter();
        if !outcomes.all(|outcome| outcome.kind == Kind::Remove) {
            report.exit = Exit::Incomplete;
        }
        Ok(report)
    })
}

#[cfg(test)]
mod tests;

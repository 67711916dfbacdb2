//! The work of a pass: the differences between reconcile, restore and remove.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Session, Settings};
use crate::compiler::{Compiler, Includes};
use crate::desired::{Desired, ProfileSource};
use crate::outcome::{Kind, Refusal};
use crate::profile::{Digest, ProfileName};
use crate::report::{Report, copies};
use crate::source::{self, Known};
use crate::state::store::Stored;
use crate::state::{Basis, Object, Problem, Record, Set};
use crate::{error::Error, kubernetes::client::Client, plan::Candidate, report::status::Status};

/// The time limit for the API server, since the lock is held meanwhile.
const API_TIME: Duration = Duration::from_mins(1);

/// The skipped files that are named: their number is their author's choice.
const FILES_SHOWN: usize = 3;

/// A text to be compiled.
pub(super) struct Fresh<'a> {
    pub(super) source: &'a ProfileSource,
    /// The digest of text, includes, compiler, kernel features and rules.
    pub(super) key: Digest,
    pub(super) includes: BTreeMap<String, Option<Digest>>,
    /// Its compiler failed in the last pass.
    pub(super) last: bool,
}

/// The profiles that are removed at the end of a pass.
#[derive(Default)]
pub(crate) enum Removal {
    #[default]
    Nothing,
    /// The owned names that no file of the sources brings.
    Unwanted {
        sources: Vec<String>,
        /// The sources that hold at least one file.
        holding: BTreeSet<String>,
    },
    /// These names; none: all that the set owns. With `force`, from under running processes too.
    Named {
        names: Option<BTreeSet<String>>,
        force: bool,
    },
}

/// See the module.
#[derive(Default)]
pub(super) struct Work<'a> {
    pub(super) files: BTreeSet<&'a str>,
    /// The prefix of all names that files may bring.
    pub(super) prefix: Option<&'a str>,
    /// Files that are refused, or were not looked at in time.
    pub(super) problems: Vec<(String, Problem)>,
    /// Compiled versions.
    pub(super) ready: Vec<Candidate>,
    pub(super) fresh: Vec<Fresh<'a>>,
    pub(super) removal: Removal,
    /// The basis of the next pass' comparison; none: that pass looks at everything.
    pub(super) basis: Option<Basis>,
    pub(super) copy_to: Option<&'a Path>,
    pub(super) remarks: Vec<String>,
}

impl<'a> Work<'a> {
    /// All of `records` are loaded.
    pub(super) fn restore(records: &'a BTreeMap<ProfileName, Record>) -> Self {
        Self {
            files: records.keys().map(ProfileName::as_str).collect(),
            ready: records.iter().map(Candidate::recorded).collect(),
            ..Self::default()
        }
    }

    /// Those of `records` that are not removed stay recorded.
    pub(super) fn remove(records: &'a BTreeMap<ProfileName, Record>, removal: Removal) -> Self {
        let mut files: BTreeSet<&str> = records.keys().map(ProfileName::as_str).collect();
        let named = match &removal {
            Removal::Named { names, .. } => names.as_ref(),
            _ => None,
        };
        files.retain(|name| named.is_some_and(|names| !names.contains(*name)));
        Self {
            files,
            removal,
            ..Self::default()
        }
    }
}

/// All that a reconcile pass reads before it looks at the kernel.
pub(super) struct Inputs {
    desired: Desired,
    objects: BTreeMap<String, Object>,
    sources: Vec<String>,
    remarks: Vec<String>,
    pub(super) compiler: Compiler,
    /// The digest of the compiler, its options and the rules.
    environment: Digest,
    /// The digest of all of it.
    digest: Digest,
}

/// Reads the sources and finds the compiler.
pub(super) fn read(
    settings: &Settings,
    session: &Session,
    deadline: Instant,
) -> Result<Inputs, Error> {
    let text = |digest| String::from_utf8(session.store.get(Stored::Text, digest).ok()?).ok();
    let known = Known {
        objects: &session.set().basis.objects,
        text: &text,
        allow_missing: settings.options.allow_empty,
    };
    let until = deadline.min(Instant::now() + API_TIME);
    let client = || Client::new(&settings.cluster.access, until);
    let found = source::read(&settings.sources, &settings.limits, &known, &client)?;
    let desired = Desired::new(found.profiles, &settings.rules);
    let sources: Vec<String> = settings.sources.iter().map(ToString::to_string).collect();
    let empty = sources
        .iter()
        .filter(|source| !desired.holding.contains(*source));
    let hint = "holds no profile: is its name right?";
    let remarks = empty.map(|source| format!("the source {source} {hint}"));
    let mut remarks: Vec<String> = remarks.collect();
    let mut files = source::passed_over(&found.passed_over, &settings.rules.prefix);
    remarks.extend(files.by_ref().take(FILES_SHOWN).map(|(_, clause)| clause));
    let more = files.count();
    remarks.extend((more > 0).then(|| format!("{more} more files are skipped")));
    let compiler = Compiler::find(settings.compiler.clone())?;
    let environment = Digest::of_parts([compiler.digest()?, settings.rules.digest()]);
    let (adopt, copy_to) = (&settings.options.adopt, &settings.report.copy_to);
    let options = Digest::of(format!("{adopt:?} {copy_to:?} {sources:?}").as_bytes());
    Ok(Inputs {
        digest: Digest::of_parts([environment, desired.digest, options]),
        desired,
        objects: found.objects,
        sources,
        remarks,
        compiler,
        environment,
    })
}

impl Inputs {
    /// Whether everything is as the last pass left it: sources, compiler, options, included files,
    /// copies, kernel and state.
    pub(super) fn are_unchanged(&self, settings: &Settings, session: &Session) -> bool {
        let (set, basis) = (session.set(), &session.set().basis);
        let (mut owned, mut problems) = (set.owned.values(), set.problems.values());
        let status = || Status::read(&session.store.status_path(&session.set_name));
        let copies = settings.report.copy_to.as_deref();
        owned.all(|owned| owned.pending.is_none() && owned.unwanted.is_none())
            && problems.all(|problem| matches!(problem.kind, Kind::Refused | Kind::Conflict))
            && basis.inputs == Some(self.digest)
            && basis.objects == self.objects
            && basis.kernel_revision.is_some()
            && basis.kernel_revision == session.kernel.revision()
            && status().is_some_and(|status| status.state == session.store.saved)
            && session.store.is_whole(&session.state, &session.set_name)
            && Includes::new(&settings.compiler.base).are_current(&basis.includes)
            && copies.is_none_or(|to| copies::are_current(to, &set.copies))
    }

    /// The report of a pass that changes nothing.
    pub(super) fn repeated(&self, session: Session) -> Report {
        let problems = session.set().problems.iter();
        let outcomes = problems.map(|(name, problem)| problem.outcome(name));
        let (outcomes, files) = (outcomes.collect(), self.desired.names());
        session.report(outcomes, &files, self.remarks.clone())
    }

    /// Stores the texts of the API server's objects, accepted or not, so that an object that did not change
    /// is not read again.
    pub(super) fn store(&self, session: &mut Session) -> Result<(), Error> {
        let profiles = self.desired.profiles.iter();
        for source in profiles.filter(|source| self.objects.contains_key(&source.place)) {
            let text = source.text.as_bytes();
            session.store.put(Stored::Text, source.digest, text)?;
        }
        Ok(())
    }

    /// Sorts out which texts are stored compiled from the very same, which are refused again, and which
    /// are to be compiled.
    pub(super) fn work<'a>(
        &'a self,
        settings: &'a Settings,
        session: &Session,
        deadline: Instant,
    ) -> Result<Work<'a>, Error> {
        let (set, now) = (session.set(), session.now.at);
        let environment = Digest::of_parts([self.environment, self.compiler.features()?]);
        let is_whole = session.store.is_whole(&session.state, &session.set_name);
        let mut includes = Includes::new(&settings.compiler.base);
        let mut included = BTreeMap::new();
        let mut work = Work {
            files: self.desired.names(),
            prefix: Some(&settings.rules.prefix),
            removal: Removal::Unwanted {
                sources: self.sources.clone(),
                holding: self.desired.holding.clone(),
            },
            copy_to: settings.report.copy_to.as_deref(),
            remarks: self.remarks.clone(),
            ..Work::default()
        };
        let refused = |refusal: &Refusal| Problem::refused(refusal, None, now);
        let early = self.desired.refused.iter();
        let early = early.map(|(name, (_, refusal))| (name.clone(), refused(refusal)));
        let mut problems: Vec<_> = early.collect();
        for source in &self.desired.profiles {
            let name = source.name.to_string();
            if Instant::now() >= deadline {
                let message = "not checked before the pass' deadline; raise --deadline";
                problems.push((name, Problem::new(Kind::Failed, message, now)));
                continue;
            }
            let (closure, refusal) = includes.of(&source.text);
            if let Some(refusal) = refusal {
                problems.push((name, refused(&refusal)));
            } else {
                let files = Digest::of(format!("{closure:?}").as_bytes());
                let key = Digest::of_parts([environment, source.digest, files]);
                problems.extend(work.add(set, is_whole, source, key, &closure));
            }
            included.extend(closure);
        }
        // The last good version of a text that is refused stays in force.
        for (name, _) in &problems {
            let recorded = set.profiles.get_key_value(&**name);
            work.ready.extend(recorded.map(Candidate::recorded));
        }
        work.problems = problems;
        work.basis = Some(Basis {
            inputs: Some(self.digest),
            includes: included,
            objects: self.objects.clone(),
            ..Basis::default()
        });
        Ok(work)
    }
}

impl<'a> Work<'a> {
    /// Adds the text with this `key`: to be loaded from the store or compiled; or gives the problem that it had
    /// in the last pass.
    fn add(
        &mut self,
        set: &Set,
        is_stored: bool,
        source: &'a ProfileSource,
        key: Digest,
        includes: &BTreeMap<String, Option<Digest>>,
    ) -> Option<(String, Problem)> {
        let name = source.name.as_str();
        let problem = set.problems.get(name);
        let recorded = set.profiles.get_key_value(&source.name);
        let recorded = recorded.filter(|(_, record)| is_stored && record.key == key);
        if let Some(recorded) = recorded {
            let mut candidate = Candidate::recorded(recorded);
            candidate.record.source.clone_from(&source.source);
            self.ready.push(candidate);
        } else if let Some(problem) = problem.filter(|problem| problem.key == Some(key)) {
            return Some((name.to_owned(), problem.clone()));
        } else {
            self.fresh.push(Fresh {
                source,
                key,
                includes: includes.clone(),
                last: problem.is_some_and(|problem| problem.reason.as_deref() == Some("failed")),
            });
        }
        None
    }
}

//! armorer's own policy: the profile that confines the compiler. It is loaded before anything is
//! compiled, under a set of its own, and proves itself before it is relied on.

use std::iter::{empty, once};
use std::time::{Duration, Instant};

use crate::apply::Applier;
use crate::blob;
use crate::clock::Stamp;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::parser::{Compiler, PROFILE, Proof};
use crate::plan::{Candidate, Change, Decision, Policy};
use crate::profile::{Digest, Mode, ProfileName, Text};
use crate::state::folder::Folder;
use crate::state::{Member, OWN_SET, State};

/// For one compilation of the profile itself.
const TIME: Duration = Duration::from_secs(60);

/// The profile in force.
pub(crate) struct Cage {
    text: String,
    blob: Digest,
}

/// What came of it: the state, the changes, and the profile in force or why there is none.
pub(crate) type Outcome = (State, Vec<Change>, Result<Cage, String>);

impl Cage {
    /// What a compiler that is confined by it must give before its work counts: the profile
    /// itself, compiled to the very same policy. A profile that is in its way would make bad
    /// policy or none.
    pub(crate) fn proof(&self) -> Proof<'_> {
        Proof {
            text: &self.text,
            blob: self.blob,
        }
    }
}

/// Loads the profile, or finds it loaded. What is in the way is no error of the pass: the
/// compiler then runs without.
///
/// # Errors
/// The kernel's list cannot be read, or the state cannot be saved.
pub(crate) fn load(
    kernel: &Kernel,
    folder: &mut Folder,
    state: State,
    compiler: &Compiler,
    environment: Digest,
    adopt: &[String],
    dry: bool,
) -> Result<Outcome, Error> {
    let text = match compiler.own_profile() {
        Ok(text) => text,
        Err(why) => return Ok((state, Vec::new(), Err(why))),
    };
    let key = Digest::of_parts([environment.as_ref(), text.as_bytes()]);
    let policy = Policy {
        adopt: adopt.to_vec(),
        ..policy()
    };
    let mut applier = Applier::new(kernel, folder, state.clone(), OWN_SET, dry, Stamp::now())?;
    applier.observe_contents(PROFILE);
    let (candidate, blob) = match recorded(&applier, key) {
        Some(candidate) => (candidate, None),
        None => match compiled(&compiler.plain(), &text, key) {
            Ok((candidate, blob)) => (candidate, Some(blob)),
            Err(why) => return Ok((state, Vec::new(), Err(why))),
        },
    };
    let cage = Cage {
        blob: candidate.blob,
        text,
    };
    let decision = applier.view(&policy).decide(&candidate);
    if blob.is_none() && decision == Decision::Keep && applier.set().problems.is_empty() {
        return Ok((state, Vec::new(), Ok(cage)));
    }
    if let Some(blob) = &blob {
        applier.store(&candidate, &cage.text, blob)?;
    }
    applier.claim(once(&candidate), empty(), &policy)?;
    applier.carry_out(&policy, candidate, blob.as_deref())?;
    applier.read_back()?;
    let report = applier.finish(None)?;
    let state = if dry { state } else { folder.load()? };
    let result = match report.problems.into_values().next() {
        Some(problem) => Err(problem.message),
        None if dry && report.changes.iter().any(|change| change.action.writes()) => {
            Err(format!("{PROFILE} is not loaded yet"))
        }
        None => Ok(cage),
    };
    Ok((state, report.changes, result))
}

/// Removes the profile as soon as no compiler runs in it.
///
/// # Errors
/// The kernel's list cannot be read, or the state cannot be saved.
pub(crate) fn remove(
    kernel: &Kernel,
    folder: &mut Folder,
    state: State,
    dry: bool,
) -> Result<(State, Vec<Change>), Error> {
    let owns = |state: &State| {
        state
            .sets
            .get(OWN_SET)
            .is_some_and(|set| !set.owned.is_empty())
    };
    if !owns(&state) {
        return Ok((state, Vec::new()));
    }
    let mut applier = Applier::new(kernel, folder, state.clone(), OWN_SET, dry, Stamp::now())?;
    let names: Vec<String> = applier.set().owned.keys().cloned().collect();
    applier.remove_owned(&names.iter().map(String::as_str).collect(), &policy())?;
    applier.forget_records(&std::collections::BTreeSet::new());
    let report = applier.finish(None)?;
    let state = if dry { state } else { folder.load()? };
    Ok((state, report.changes))
}

/// No pod is confined by it, so it need not wait for one between restarts.
fn policy() -> Policy {
    Policy {
        remove_after: Some(Duration::ZERO),
        allow_empty: true,
        take_over: true,
        adopt: Vec::new(),
    }
}

fn name() -> ProfileName {
    ProfileName::parse(PROFILE).expect("a plain name")
}

fn recorded(applier: &Applier, key: Digest) -> Option<Candidate> {
    let name = name();
    let record = applier.set().profiles.get(&name)?;
    let stored = applier.folder().blob(record.blob, &mut Vec::new()).is_ok();
    (record.key == key && stored).then(|| Candidate::recorded(&name, record))
}

fn compiled(compiler: &Compiler, text: &str, key: Digest) -> Result<(Candidate, Vec<u8>), String> {
    let blob = compile(compiler, text)?;
    let members = blob::members(&blob)?;
    let [
        blob::Member {
            namespace: None,
            attaches: false,
            mode: Mode::Enforce,
            name: found,
        },
    ] = members.as_slice()
    else {
        return Err(format!("{PROFILE} became something else: {members:?}"));
    };
    let candidate = Candidate {
        name: name(),
        source: "armorer itself".to_owned(),
        text: Digest::of(text.as_bytes()),
        key,
        blob: Digest::of(&blob),
        members: vec![Member {
            name: found.clone(),
            mode: Mode::Enforce,
        }],
    };
    Ok((candidate, blob))
}

fn compile(compiler: &Compiler, text: &str) -> Result<Vec<u8>, String> {
    let mut blob = Err(String::new());
    let text = Text {
        name: PROFILE,
        contents: text,
        source: "",
    };
    let deadline = Instant::now() + TIME;
    compiler.compile(&[text], deadline, None, &mut |answers| {
        for (_, answer) in answers {
            blob = answer.map_err(|refusal| refusal.message);
        }
    })?;
    blob
}

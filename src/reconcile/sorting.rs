//! Which of what is wanted stands, which is stored, and which has to be compiled.

use std::collections::{BTreeMap, BTreeSet};

use super::{Pass, TRY_AGAIN};
use crate::apply::Applier;
use crate::includes::Includes;
use crate::plan::Candidate;
use crate::profile::{Digest, Refusal};
use crate::state::Set;
use crate::wanted::{self, Unit};

/// What is wanted and has to be looked at.
#[derive(Default)]
pub(super) struct Sorted<'u> {
    /// What is recorded, and was compiled from the very same.
    pub(super) stored: Vec<Candidate>,
    /// What is to be compiled, each with its key.
    pub(super) fresh: Vec<(&'u Unit, Digest)>,
    /// Every file that an include named, with its digest.
    pub(super) included: BTreeMap<String, Option<Digest>>,
}

impl Pass<'_> {
    /// Sorts out what is wanted: what stands is kept, and what is refused again is noted.
    pub(super) fn sort(
        &self,
        applier: &mut Applier,
        includes: &mut Includes,
        environment: Digest,
        files: &BTreeSet<&str>,
    ) -> Sorted<'_> {
        let mut sorted = Sorted::default();
        let mut closures = BTreeSet::new();
        let set = applier.set();
        let untouched = applier.is_untouched()
            && set.environment == Some(environment)
            && includes_stand(set, includes);
        if untouched {
            sorted.included.clone_from(&set.includes);
        }
        for unit in &self.wish.units {
            if untouched && applier.keep_standing(unit) {
                continue;
            }
            let name = unit.name.as_str();
            let closure = match includes.of(&unit.text) {
                Ok(closure) => closure,
                Err(refusal) => {
                    let message = format!("{name}: {}", refusal.message);
                    applier.refuse(name, None, &Refusal::new(refusal.kind, message));
                    continue;
                }
            };
            let key = key(unit, closure.digest, environment);
            if closures.insert(closure.digest) {
                sorted.included.extend(closure.files.clone());
            }
            if let Some(candidate) = recorded(applier, unit, key, files) {
                sorted.stored.push(candidate);
            } else if let Some(refusal) = applier.known_refusal(name, key, TRY_AGAIN) {
                applier.refuse(name, Some(key), &refusal);
            } else {
                sorted.fresh.push((unit, key));
            }
        }
        sorted
    }
}

/// Whether all that was included is what it was.
pub(super) fn includes_stand(set: &Set, includes: &mut Includes) -> bool {
    let mut recorded = set.includes.iter();
    recorded.all(|(path, digest)| includes.digest_now(path) == *digest)
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
pub(super) fn fall_back(applier: &Applier, files: &BTreeSet<&str>, stored: &mut Vec<Candidate>) {
    for (name, record) in &applier.set().profiles {
        let refused = files.contains(name.as_str()) && applier.is_refused(name.as_str());
        if refused && wanted::check_intruder(name, &record.members, files).is_ok() {
            stored.push(Candidate::recorded(name, record));
        }
    }
}

/// What a blob is compiled from.
fn key(unit: &Unit, includes: Digest, environment: Digest) -> Digest {
    Digest::of_parts([environment, unit.digest, includes])
}

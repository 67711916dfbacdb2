//! The record that lasts from pass to pass: versioned JSON, by set. Pure; `store` writes it.

pub(crate) mod store;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Error;
use crate::outcome::{Kind, Outcome, Refusal, Unenforced};
use crate::profile::{Digest, Mode, ProfileName};
use crate::time::{Stamp, Time};

/// The schema that this version writes.
pub(crate) const SCHEMA: u32 = 1;

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) schema: u32,
    /// The node's name, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// The boot that `owned` and `kernel_revision` belong to.
    pub(crate) boot_id: Option<String>,
    /// How far the kernel restricted the last compiler: `full`, `partial` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cage: Option<String>,
    #[serde(default)]
    pub(crate) sets: BTreeMap<String, Set>,
}

/// Changes that a set made to the kernel since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counters {
    pub(crate) loads: u64,
    pub(crate) replaces: u64,
    pub(crate) removes: u64,
    pub(crate) repairs: u64,
    pub(crate) failures: u64,
}

/// The desired and the owned profiles of one set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Set {
    pub(crate) counters: Counters,
    /// The sources: absolute paths, and ConfigMaps as the user named them.
    pub(crate) sources: Vec<String>,
    pub(crate) basis: Basis,
    /// The last good version of each desired or still loaded profile.
    pub(crate) profiles: BTreeMap<ProfileName, Record>,
    /// The owned names in the kernel, in this boot: children and hats too.
    pub(crate) owned: BTreeMap<String, Owned>,
    /// The profiles that are not as desired.
    pub(crate) problems: BTreeMap<String, Problem>,
    /// The profiles that another program unloaded in this boot, and when that was seen.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unloaded: BTreeMap<String, Time>,
    /// The copies that were written (`--copy-to`), with the digests of their texts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) copies: BTreeMap<String, Digest>,
}

/// The basis of the last pass: with all of it unchanged, its result stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Basis {
    /// The digest of sources, options and compiler.
    pub(crate) inputs: Option<Digest>,
    /// The kernel's policy revision, if all of it was this pass' doing or seen by it.
    pub(crate) kernel_revision: Option<u64>,
    /// Every file that an include names, with its digest; none: there was no such file.
    pub(crate) includes: BTreeMap<String, Option<Digest>>,
    /// The API server's objects, so that unchanged ones are not read again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) objects: BTreeMap<String, Object>,
}

/// A version of a profile. Its text and compiled policy lie in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The source that it came from.
    pub(crate) source: String,
    /// The digest of the text.
    pub(crate) text: Digest,
    /// The digest of text, includes, compiler, kernel features and options.
    pub(crate) key: Digest,
    /// The digest of the compiled policy.
    pub(crate) policy: Digest,
    /// The file's own profile first.
    pub(crate) members: Vec<Member>,
    /// Its rules that the kernel does not enforce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unenforced: Vec<Unenforced>,
    pub(crate) loaded_at: Option<Time>,
    /// When another program's change was undone, lately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) repairs: Vec<Stamp>,
}

impl Record {
    /// The mode of the profile itself.
    pub(crate) fn mode(&self) -> Mode {
        self.members.first().map_or(Mode::Unknown, |own| own.mode)
    }
}

/// One name that a compiled policy loads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) mode: Mode,
}

/// An owned name in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owned {
    /// The profile whose policy brought it.
    pub(crate) profile: ProfileName,
    /// The digest of that policy.
    pub(crate) policy: Digest,
    /// A write that was about to be made; still there only if the pass was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<Pending>,
    /// The clock of its removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unwanted: Option<Unwanted>,
}

impl Owned {
    pub(crate) const fn new(profile: ProfileName, policy: Digest) -> Self {
        Self {
            profile,
            policy,
            pending: None,
            unwanted: None,
        }
    }
}

/// An intent, with the digest of the policy to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pending {
    /// Of a name that was not owned before.
    Load(Digest),
    /// Of an owned name.
    Replace(Digest),
    Remove,
}

/// The clock of a removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unwanted {
    pub(crate) since: Stamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_seen_in_use: Option<Stamp>,
    /// Since when only a runtime that may be starting a program defers the removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) put_off_since: Option<Stamp>,
}

impl Unwanted {
    pub(crate) fn since(since: Stamp) -> Self {
        Self {
            since,
            ..Self::default()
        }
    }
}

/// Why a profile is not as desired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) message: String,
    /// Of a refused text, the digest of the compiler's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Digest>,
    pub(crate) since: Time,
}

impl Problem {
    pub(crate) fn new(kind: Kind, message: impl Into<String>, since: Time) -> Self {
        Self {
            kind,
            reason: None,
            message: message.into(),
            key: None,
            since,
        }
    }

    /// `key` is the digest of the compiler's input.
    pub(crate) fn refused(refusal: &Refusal, key: Option<Digest>, since: Time) -> Self {
        let mut problem = Self::new(refusal.kind, refusal.to_string(), since);
        problem.reason = Some(refusal.reason.to_owned());
        problem.key = key.filter(|_| refusal.kind == Kind::Refused);
        problem
    }

    /// Whether `other` is this problem again, perhaps in other words.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.reason, self.key) == (other.kind, &other.reason, other.key)
    }

    /// The outcome of a pass that changes nothing about it.
    pub(crate) fn outcome(&self, profile: &str) -> Outcome {
        let mut outcome = Outcome::new(profile, self.kind, &*self.message);
        outcome.reason.clone_from(&self.reason);
        outcome.stands = true;
        outcome
    }
}

/// An object of the API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) version: Version,
    /// Its keys and the digests of their texts, which lie in the store.
    pub(crate) texts: BTreeMap<String, Digest>,
}

/// A version of an object. To be compared for equality only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) uid: String,
    pub(crate) resource_version: String,
}

impl Set {
    /// The digests of all of it that lies in the store.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Digest> {
        let records = self.profiles.values();
        let records = records.flat_map(|record| [record.text, record.policy]);
        let objects = self.basis.objects.values();
        records.chain(objects.flat_map(|object| object.texts.values().copied()))
    }

    /// The versions that are in force in this boot.
    pub(crate) fn in_force(&self) -> impl Iterator<Item = (&ProfileName, &Record)> {
        let records = self.profiles.iter();
        records.filter(|(_, record)| record.loaded_at.is_some())
    }

    /// Whether `name` is removed by itself, and not with an owned parent.
    pub(crate) fn stands_alone(&self, name: &str) -> bool {
        crate::profile::parent(name).is_none_or(|parent| !self.owned.contains_key(parent))
    }
}

impl Default for State {
    /// The state of a node on which armorer never ran.
    fn default() -> Self {
        let state = json!({"schema": SCHEMA});
        serde_json::from_value(state).expect("every other field may be missing")
    }
}

impl State {
    /// Reads `text`.
    ///
    /// # Errors
    /// Not JSON, or of a newer schema; the error says the way out.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Error> {
        let damage = match serde_json::from_slice::<Self>(text) {
            Ok(state) if state.schema <= SCHEMA => return Ok(state),
            parsed => parsed.err(),
        };
        // A newer schema's fields need not fit these types.
        let json: Value = serde_json::from_slice(text).unwrap_or_default();
        let schema = json["schema"].as_u64().unwrap_or(0);
        Err(Error::State(match damage {
            Some(cause) if schema <= SCHEMA.into() => format!(
                "the state is damaged ({cause}); nothing was changed: move state.json away and run again, with --adopt for loaded profiles whose contents the kernel does not show"
            ),
            _ => format!(
                "the state has schema {schema}, and this version knows {SCHEMA}: run the newer armorer that wrote it, or move state.json away to start anew; nothing was changed"
            ),
        }))
    }

    /// The state as it goes to the disk.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).expect("the state's keys are strings");
        (json + "\n").into_bytes()
    }

    /// Ends every ownership and every clock if the node has booted since; the last good versions
    /// stay. Nothing that is counted in uptime outlives its boot.
    pub(crate) fn enter_boot(&mut self, boot_id: &str) {
        if self.boot_id.as_deref() == Some(boot_id) {
            return;
        }
        self.boot_id = Some(boot_id.to_owned());
        for set in self.sets.values_mut() {
            set.counters = Counters::default();
            set.basis.kernel_revision = None;
            set.owned.clear();
            set.unloaded.clear();
            for record in set.profiles.values_mut() {
                record.loaded_at = None;
                record.repairs.clear();
            }
        }
    }

    /// Which other set than `set` owns the kernel's `name`.
    pub(crate) fn owner_besides(&self, set: &str, name: &str) -> Option<&str> {
        let mut sets = self.sets.iter();
        let owner = sets.find(|(other, entry)| *other != set && entry.owned.contains_key(name));
        owner.map(|(other, _)| other.as_str())
    }
}

#[cfg(test)]
mod tests;

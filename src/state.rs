//! What armorer knows from one pass to the next: versioned JSON, by set. Pure; `state::folder`
//! puts it on the disk.

pub(crate) mod folder;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::{Stamp, Time};
use crate::error::Error;
use crate::profile::{Digest, Mode, ProfileName, RefusalKind, Sha1, Version};

/// The set of armorer's own profiles. No user's set has a name like it.
pub(crate) const OWN_SET: &str = "(armorer)";

/// The schema that this version writes.
pub(crate) const SCHEMA: u32 = 1;

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) schema: u32,
    /// The node's name, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// The boot that `owned` and `kernel_revision` speak of.
    #[serde(default)]
    pub(crate) boot_id: Option<String>,
    /// Why the compiler was not confined by armorer's own profile when it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) compiler_unconfined: Option<String>,
    #[serde(default)]
    pub(crate) sets: BTreeMap<String, Set>,
}

/// What a set did to the kernel since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counters {
    pub(crate) loads: u64,
    pub(crate) replaces: u64,
    pub(crate) removes: u64,
    pub(crate) repairs: u64,
    pub(crate) failures: u64,
}

/// What one set wants and owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Set {
    pub(crate) counters: Counters,
    /// The sources, as the user named them.
    pub(crate) sources: Vec<String>,
    /// The digest of everything wanted, and of the options that change what comes of it.
    pub(crate) wanted: Option<Digest>,
    /// The digest of parser, kernel features and options.
    pub(crate) environment: Option<Digest>,
    /// How the parser's files looked; a change only means that `environment` is looked at anew.
    pub(crate) parser_mark: Option<String>,
    /// The digest of the parser's program, as long as its files look like that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parser: Option<Digest>,
    /// The kernel's policy revision, if all of it was this set's doing or seen by it.
    pub(crate) kernel_revision: Option<u64>,
    /// Whether what is loaded could be compared with what was compiled.
    pub(crate) verifiable: bool,
    /// Every file that an include named, with its digest; none: there was no such file.
    pub(crate) includes: BTreeMap<String, Option<Digest>>,
    /// The last good version of each wanted or still loaded profile.
    pub(crate) profiles: BTreeMap<ProfileName, Record>,
    /// The names in the kernel that are this set's, in this boot: children and hats too.
    pub(crate) owned: BTreeMap<String, Owned>,
    /// What stands in the way, by profile.
    pub(crate) problems: BTreeMap<String, Problem>,
    /// The copies that were written (`--copy-to`), with the digests of their texts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) copies: BTreeMap<String, Digest>,
    /// What the API server's objects were, so that unchanged ones are not read again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) objects: BTreeMap<String, Object>,
}

/// The last good version of a profile. Its text and blob lie in the policy folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) source: String,
    /// The digest of the text.
    pub(crate) text: Digest,
    /// The digest of text, includes and environment: what the blob was compiled from.
    pub(crate) key: Digest,
    /// The digest of the compiled policy.
    pub(crate) blob: Digest,
    pub(crate) members: Vec<Member>,
    /// What this node's kernel calls the compiled policy, if it has no SHA-256 and was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha1: Option<Sha1>,
    #[serde(default)]
    pub(crate) loaded_at: Option<Time>,
    /// When somebody else's change was undone, lately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) repairs: Vec<Stamp>,
}

impl Set {
    /// The digests of what of it lies in the policy folder.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Digest> {
        let records = self.profiles.values();
        let records = records.flat_map(|record| [record.text, record.blob]);
        let objects = self.objects.values();
        records.chain(objects.flat_map(|object| object.texts.values().copied()))
    }

    /// As `stored`, but without what `other` has under the same name.
    pub(crate) fn stored_beside(&self, other: &Self) -> impl Iterator<Item = Digest> {
        let records = self.profiles.iter();
        let records = records.filter(|(name, record)| {
            let same = |other: &Record| other.text == record.text && other.blob == record.blob;
            !other.profiles.get(*name).is_some_and(same)
        });
        let records = records.flat_map(|(_, record)| [record.text, record.blob]);
        let objects = self.objects.iter();
        let objects = objects.filter(|(key, object)| other.objects.get(*key) != Some(object));
        records.chain(objects.flat_map(|(_, object)| object.texts.values().copied()))
    }
}

impl Record {
    /// The mode of the profile itself.
    pub(crate) fn mode(&self) -> Mode {
        self.members
            .first()
            .map_or(Mode::Unknown, |first| first.mode)
    }
}

/// One name that a blob loads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) mode: Mode,
}

/// A name in the kernel that is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owned {
    /// The profile whose blob brought it.
    pub(crate) profile: ProfileName,
    /// What was about to be done; still there only if the pass was killed or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<Pending>,
    /// Since when nobody wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unwanted: Option<Unwanted>,
}

/// An intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pending {
    Load,
    Replace,
    Remove,
}

/// The clock of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unwanted {
    pub(crate) unwanted_since: Stamp,
    #[serde(default)]
    pub(crate) last_seen_in_use: Option<Stamp>,
}

/// Why a profile is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) kind: ProblemKind,
    pub(crate) message: String,
    /// What the refused text would have been compiled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Digest>,
    /// Since when.
    pub(crate) since: Stamp,
}

/// The kinds of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProblemKind {
    /// The text is refused; a version that was good stays in force.
    Refused(RefusalKind),
    /// The name is loaded by somebody else.
    Conflict,
    /// Somebody else keeps changing it; left alone for a while.
    Contested,
    /// The kernel did not take it, or not as it should be.
    Failed,
    /// It is not removed until a person decides.
    Kept,
}

/// An object of the API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Object {
    #[serde(flatten)]
    pub(crate) version: Version,
    /// Its keys and the digests of their texts, which lie in the policy folder.
    pub(crate) texts: BTreeMap<String, Digest>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            node: None,
            boot_id: None,
            compiler_unconfined: None,
            sets: BTreeMap::new(),
        }
    }
}

impl State {
    /// Reads `text`.
    ///
    /// # Errors
    /// Not JSON, or of a newer schema; the error says the way out.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Header {
            schema: u32,
        }
        let corrupt = |cause: serde_json::Error| {
            Error::State(format!(
                "the state file is damaged ({cause}); nothing was changed: move state.json away and run \
                 again, with --adopt for profiles that stay loaded on a kernel that cannot prove whose they are"
            ))
        };
        let state = serde_json::from_slice::<Self>(text);
        // What a newer schema holds need not fit this one's types.
        let schema = match &state {
            Ok(state) => state.schema,
            Err(_) => serde_json::from_slice::<Header>(text).map_or(0, |header| header.schema),
        };
        if schema > SCHEMA {
            return Err(Error::State(format!(
                "the state file has schema {schema}, and this version knows {SCHEMA}: run the newer armorer \
                 that wrote it, or move state.json away to start anew; nothing was changed"
            )));
        }
        state.map_err(corrupt)
    }

    /// The state as it goes to the disk.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).expect("the state's keys are strings");
        json.push(b'\n');
        json
    }

    /// Ends every ownership and every clock if the node has booted since; the last good
    /// versions stay.
    pub(crate) fn enter_boot(&mut self, boot_id: &str) {
        if self.boot_id.as_deref() == Some(boot_id) {
            return;
        }
        self.boot_id = Some(boot_id.to_owned());
        for set in self.sets.values_mut() {
            set.counters = Counters::default();
            set.kernel_revision = None;
            set.owned.clear();
            for record in set.profiles.values_mut() {
                record.loaded_at = None;
                record.repairs.clear();
            }
        }
    }

    /// Compiled policy by what this node's kernel calls it.
    pub(crate) fn sha1s(&self) -> BTreeMap<Sha1, Digest> {
        let records = self.sets.values().flat_map(|set| set.profiles.values());
        records
            .filter_map(|record| Some((record.sha1.clone()?, record.blob)))
            .collect()
    }

    /// Which other set owns the kernel's `name`.
    pub(crate) fn owner_besides(&self, set: &str, name: &str) -> Option<&str> {
        self.sets
            .iter()
            .find(|(other, entry)| other.as_str() != set && entry.owned.contains_key(name))
            .map(|(other, _)| other.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every schema ever released stays readable.
    #[test]
    fn the_committed_sample_of_schema_1_reads() {
        let state = State::parse(include_bytes!("../tests/state/schema-1.json")).unwrap();
        assert_eq!(State::parse(&state.to_json()).unwrap(), state);
        let set = &state.sets["default"];
        let name = ProfileName::parse("custom.deny-network").unwrap();
        assert_eq!(set.profiles[&name].mode(), Mode::Enforce);
        assert!(set.owned["custom.deny-network"].unwanted.is_none());
        assert!(set.owned["custom.old"].unwanted.is_some());
        assert_eq!(set.counters.loads, 2);
        assert_eq!(
            set.problems["custom.bad"].kind,
            ProblemKind::Refused(RefusalKind::Compile)
        );
    }

    #[test]
    fn a_newer_schema_is_refused_with_the_way_out() {
        for text in [
            r#"{"schema": 2, "other": []}"#,
            r#"{"schema": 2, "sets": []}"#,
        ] {
            let error = State::parse(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("schema 2"), "{error}");
            assert!(error.to_string().contains("newer armorer"), "{error}");
        }
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_way_out() {
        for text in [
            "",
            "{",
            "[]",
            "{\"schema\":1,\"sets\":{\"x\":{\"profiles\":{\"../x\":{}}}}}",
        ] {
            let error = State::parse(text.as_bytes()).unwrap_err();
            assert!(
                error.to_string().contains("move state.json away"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_reboot_ends_ownership_and_keeps_the_versions() {
        let mut state = State::parse(include_bytes!("../tests/state/schema-1.json")).unwrap();
        let before = state.clone();
        state.enter_boot(&before.boot_id.clone().unwrap());
        assert_eq!(state, before);
        state.enter_boot("another");
        let set = &state.sets["default"];
        assert!(set.owned.is_empty());
        assert_eq!(set.kernel_revision, None);
        assert_eq!(set.counters, Counters::default());
        assert_eq!(set.profiles.len(), before.sets["default"].profiles.len());
    }
}

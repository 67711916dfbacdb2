//! What to do, as data: (wanted, observed, clock) -> changes. Pure.

mod standing;

pub(crate) use standing::stands;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::clock::{Stamp, in_words};
use crate::profile::{Digest, Mode, ProfileName, printable};
use crate::state::{Member, Owned, Pending, Record, Set, State, Unwanted};

/// So many repairs of one profile within `CONTEST_WINDOW`, and it is left alone for a while.
pub(crate) const CONTEST_REPAIRS: usize = 3;
/// See `CONTEST_REPAIRS`.
pub(crate) const CONTEST_WINDOW: Duration = Duration::from_secs(600);

/// Why a loaded name that was not owned is ours.
const PROVEN: &str = "what is loaded is what is wanted";
/// See `PROVEN`.
const ADOPTED: &str = "taken over by --adopt";

/// What the kernel holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// Every loaded profile's mode, by name: children and hats too.
    pub(crate) loaded: BTreeMap<String, Mode>,
    /// The digest of the blob that brought it, where the kernel tells; top-level names only.
    pub(crate) digests: BTreeMap<String, Digest>,
}

/// A compiled profile that may be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) name: ProfileName,
    pub(crate) source: String,
    pub(crate) text: Digest,
    pub(crate) key: Digest,
    pub(crate) blob: Digest,
    pub(crate) members: Vec<Member>,
}

impl Candidate {
    /// The version that `record` holds.
    pub(crate) fn recorded(name: &ProfileName, record: &Record) -> Self {
        Self {
            name: name.clone(),
            source: record.source.clone(),
            text: record.text,
            key: record.key,
            blob: record.blob,
            members: record.members.clone(),
        }
    }
}

/// What the options say about decisions.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// None: never.
    pub(crate) remove_after: Option<Duration>,
    pub(crate) allow_empty: bool,
    pub(crate) take_over: bool,
    pub(crate) adopt: Vec<String>,
}

/// Everything a decision is made from.
pub(crate) struct View<'a> {
    pub(crate) state: &'a State,
    pub(crate) set_name: &'a str,
    pub(crate) set: &'a Set,
    pub(crate) observed: &'a Observed,
    pub(crate) policy: &'a Policy,
    pub(crate) now: Stamp,
}

/// What is to be done about a wanted profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is in force.
    Keep,
    /// It is in force, and from now on ours: why.
    Own(String),
    /// It is to be written to the kernel.
    Write(Write),
    /// Somebody else's: whose, and what to do.
    Conflict(String),
    /// Somebody else keeps changing it.
    Contested(String),
}

/// A write to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) intent: Pending,
    pub(crate) reason: String,
    /// Whether it undoes somebody else's change.
    pub(crate) repair: bool,
}

/// A name that is owned and not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// Its clock, to be recorded.
    pub(crate) clock: Unwanted,
}

/// Whether an unwanted name may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is not in the kernel any more.
    Gone,
    /// It goes, if the scan just before finds nobody: why.
    Due(String),
    /// Not yet: why.
    Deferred(String),
    /// Not without a person's word: why, and what to do.
    Kept(String),
}

/// Who was seen using a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// Nobody; or nothing asked for a scan.
    Nobody,
    /// In use: by whom.
    InUse(String),
    /// Nobody can tell: why.
    Unknown(String),
}

impl View<'_> {
    /// What is to be done about `candidate`.
    pub(crate) fn decide(&self, candidate: &Candidate) -> Decision {
        let mut taken = Vec::new();
        for name in top_level(&candidate.members) {
            if !self.observed.loaded.contains_key(name) || self.set.owned.contains_key(name) {
                continue;
            }
            if let Some(owner) = self.state.owner_besides(self.set_name, name) {
                return Decision::Conflict(format!(
                    "{name} belongs to the set {owner}: want it in one set only"
                ));
            }
            let proven = self.observed.digests.get(name) == Some(&candidate.blob);
            let asked = self
                .policy
                .adopt
                .iter()
                .any(|pattern| matches(pattern, name));
            if !proven && !asked {
                return Decision::Conflict(format!(
                    "{name} is loaded by somebody else with other contents: rename yours, or take it over \
                     with --adopt '{name}'"
                ));
            }
            taken.push(if proven { PROVEN } else { ADOPTED });
        }
        let taken = taken.iter().find(|why| **why == ADOPTED).or(taken.first());
        match (self.difference(candidate), taken) {
            (None, None) if self.is_pending(candidate) => {
                Decision::Own("an interrupted pass had loaded it".into())
            }
            (None, None) => Decision::Keep,
            (None, Some(why)) => Decision::Own((*why).to_owned()),
            (Some(difference), Some(why)) => Decision::Write(Write {
                intent: Pending::Replace,
                reason: if *why == PROVEN {
                    difference
                } else {
                    (*why).to_owned()
                },
                repair: false,
            }),
            (Some(difference), None) => self.write(candidate, &difference),
        }
    }

    fn is_pending(&self, candidate: &Candidate) -> bool {
        let pending = |member: &Member| {
            self.set
                .owned
                .get(&member.name)
                .is_none_or(|owned| owned.pending.is_some())
        };
        candidate.members.iter().any(pending)
    }

    /// How the kernel differs from `candidate`; a kernel that cannot tell contents is believed
    /// as long as the record says that this blob was loaded.
    fn difference(&self, candidate: &Candidate) -> Option<String> {
        let record = self.set.profiles.get(&candidate.name);
        for member in &candidate.members {
            let Some(mode) = self.observed.loaded.get(&member.name) else {
                return Some("removed by somebody else".into());
            };
            if *mode != member.mode && member.mode != Mode::Unknown {
                return Some(format!("set to {mode} by somebody else"));
            }
        }
        for name in top_level(&candidate.members) {
            let same = match self.observed.digests.get(name) {
                Some(digest) => *digest == candidate.blob,
                None => record.is_some_and(|r| r.blob == candidate.blob && r.loaded_at.is_some()),
            };
            if !same {
                return Some("replaced by somebody else".into());
            }
        }
        None
    }

    fn write(&self, candidate: &Candidate, difference: &str) -> Decision {
        let name = candidate.name.as_str();
        let record = self.set.profiles.get(&candidate.name);
        let write = |intent, reason: &str, repair| {
            Decision::Write(Write {
                intent,
                reason: reason.to_owned(),
                repair,
            })
        };
        let loaded = self.observed.loaded.contains_key(name);
        let intent = if loaded {
            Pending::Replace
        } else {
            Pending::Load
        };
        let Some(record) = record else {
            return write(intent, "new", false);
        };
        let settled = record.loaded_at.is_some() && !self.is_pending(candidate);
        if record.blob != candidate.blob {
            return write(intent, "changed", false);
        }
        if !settled {
            let why = if record.loaded_at.is_none() {
                "not loaded since boot"
            } else {
                "an interrupted pass left it"
            };
            return write(intent, why, false);
        }
        let repairs = self.recent_repairs(&record.repairs);
        if repairs >= CONTEST_REPAIRS {
            return Decision::Contested(format!(
                "contested: {difference}, {repairs} times within {}; find who else loads {name} and stop them",
                in_words(CONTEST_WINDOW)
            ));
        }
        write(intent, difference, true)
    }

    fn recent_repairs(&self, repairs: &[Stamp]) -> usize {
        let recent = |repair: &&Stamp| self.now.since(repair) < CONTEST_WINDOW;
        repairs.iter().filter(recent).count()
    }

    /// What is to be done about the names that are owned and not in `wanted`.
    ///
    /// `sources` are those of this pass, and `empty` those of them that hold nothing. `seen`
    /// tells who uses a name; it is asked only where the answer matters.
    pub(crate) fn removals(
        &self,
        wanted: &BTreeSet<&str>,
        sources: &[String],
        empty: &BTreeSet<&str>,
        seen: &mut dyn FnMut(&str) -> Sighting,
    ) -> Vec<Removal> {
        let owned = &self.set.owned;
        let unwanted = owned.iter().filter(|(name, _)| {
            // A child goes with its parent.
            let goes_with_parent = parent(name)
                .is_some_and(|parent| owned.contains_key(parent) && !wanted.contains(parent));
            !wanted.contains(name.as_str()) && !goes_with_parent
        });
        unwanted
            .map(|(name, owned)| {
                let mut clock = owned.unwanted.unwrap_or(Unwanted {
                    unwanted_since: self.now,
                    last_seen_in_use: None,
                });
                let source = self.set.profiles.get(&owned.profile).map(|r| &*r.source);
                let verdict = if !self.observed.loaded.contains_key(name) {
                    Verdict::Gone
                } else if self.set.sources != sources && !self.policy.take_over {
                    Verdict::Kept(format!(
                        "the sources were {} before: --take-over lets the new list remove it",
                        self.set.sources.join(" ")
                    ))
                } else if source.is_some_and(|source| empty.contains(source))
                    && !self.policy.allow_empty
                {
                    Verdict::Kept(
                        "its source is empty: --allow-empty lets an empty source remove it".into(),
                    )
                } else {
                    self.verdict(name, &mut clock, seen)
                };
                Removal {
                    name: name.clone(),
                    verdict,
                    clock,
                }
            })
            .collect()
    }

    /// Whether `name`, unwanted by `clock`, may go.
    pub(crate) fn verdict(
        &self,
        name: &str,
        clock: &mut Unwanted,
        seen: &mut dyn FnMut(&str) -> Sighting,
    ) -> Verdict {
        let Some(remove_after) = self.policy.remove_after else {
            return Verdict::Deferred("unwanted; --remove-after never keeps it".into());
        };
        match seen(name) {
            Sighting::InUse(users) => {
                clock.last_seen_in_use = Some(self.now);
                return Verdict::Deferred(format!("in use by {users}"));
            }
            Sighting::Unknown(why) => return Verdict::Kept(why),
            Sighting::Nobody => {}
        }
        let start = clock.last_seen_in_use.unwrap_or(clock.unwanted_since);
        let unused = self.now.since(&start);
        if unused >= remove_after {
            let unwanted = in_words(self.now.since(&clock.unwanted_since));
            Verdict::Due(format!("unwanted for {unwanted} and unused"))
        } else {
            let left = remove_after.saturating_sub(unused);
            Verdict::Deferred(format!("unwanted and unused; due in {}", in_words(left)))
        }
    }
}

/// The names that are profiles of their own, not children or hats.
fn top_level(members: &[Member]) -> impl Iterator<Item = &str> {
    let names = members.iter().map(|member| member.name.as_str());
    names.filter(|name| parent(name).is_none())
}

/// The profile that `name` is a child of.
pub(crate) fn parent(name: &str) -> Option<&str> {
    name.split_once("//").map(|(parent, _)| parent)
}

/// Whether `name` goes alone, and not with an owned parent.
pub(crate) fn is_owned_top_level(name: &str, owned: &BTreeMap<String, Owned>) -> bool {
    parent(name).is_none_or(|parent| !owned.contains_key(parent))
}

/// Whether `name` fits `pattern`, in which `*` is any text and `?` any character.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((star_p, star_n)) = star {
            p = star_p + 1;
            n = star_n + 1;
            star = Some((star_p, star_n + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// What a line of a plan, or of a pass's log, is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    Load,
    Replace,
    Own,
    Remove,
    Defer,
    Conflict,
    Refuse,
    Contested,
    Fail,
    Keep,
}

impl Verb {
    /// The sign in front of a line.
    const fn sign(self) -> &'static str {
        match self {
            Self::Load => "+",
            Self::Replace => "~",
            Self::Own => "=",
            Self::Remove => "-",
            Self::Defer => "…",
            Self::Conflict | Self::Contested | Self::Keep => "!",
            Self::Refuse | Self::Fail => "✗",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Replace => "replace",
            Self::Own => "own",
            Self::Remove => "remove",
            Self::Defer => "deferred",
            Self::Conflict => "conflict",
            Self::Refuse => "refused",
            Self::Contested => "contested",
            Self::Fail => "failed",
            Self::Keep => "kept",
        }
    }

    /// Whether it changes the kernel.
    pub(crate) const fn writes(self) -> bool {
        matches!(self, Self::Load | Self::Replace | Self::Remove)
    }

    /// Whether a pass with it has not converged.
    pub(crate) const fn is_problem(self) -> bool {
        matches!(
            self,
            Self::Conflict | Self::Contested | Self::Keep | Self::Refuse | Self::Fail
        )
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One line of a plan or of a pass.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Change {
    pub(crate) profile: String,
    pub(crate) action: Verb,
    pub(crate) reason: String,
    /// Whether it undoes somebody else's change.
    #[serde(skip)]
    pub(crate) repair: bool,
}

impl Change {
    pub(crate) fn new(profile: impl Into<String>, action: Verb, reason: impl Into<String>) -> Self {
        Self {
            profile: profile.into(),
            action,
            reason: reason.into(),
            repair: false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = self.action.sign();
        write!(f, "{sign} {:<9} ", self.action)?;
        f.write_str(&about(&self.profile, &self.reason))
    }
}

/// `NAME: REASON`; a reason that begins with the name stands for itself.
pub(crate) fn about(profile: &str, reason: &str) -> String {
    match reason.strip_prefix(profile) {
        Some(rest) if rest.starts_with([':', ' ']) => reason.to_owned(),
        _ => format!("{}: {reason}", printable(profile)),
    }
}

/// The total below a plan's lines: `1 to load, 2 refused`, or that there is nothing to do.
pub(crate) struct Total<'a>(pub(crate) &'a [Change]);

impl fmt::Display for Total<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = BTreeMap::<Verb, usize>::new();
        for change in self.0 {
            *counts.entry(change.action).or_default() += 1;
        }
        if counts.is_empty() {
            return f.write_str("nothing to do");
        }
        for (n, (verb, count)) in counts.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            let to = if verb.writes() { "to " } else { "" };
            write!(f, "{comma}{count} {to}{verb}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;

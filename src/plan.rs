//! The decisions, as data: (desired, observed, record, clock) -> actions with reasons. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use wildmatch::WildMatch;

use crate::outcome::Kind;
use crate::profile::{Digest, Mode, ProfileName, is_within, parent};
use crate::state::{Owned, Pending, Record, Set, State, Unwanted};
use crate::time::{Stamp, in_words};

/// After so many repairs within [`CONTEST_WINDOW`], a profile is left alone for a while.
pub(crate) const CONTEST_REPAIRS: usize = 3;
/// See [`CONTEST_REPAIRS`].
pub(crate) const CONTEST_WINDOW: Duration = Duration::from_mins(10);
/// A removal that is deferred for so long only by a starting program is blocked.
pub(crate) const DEFERRAL_LIMIT: Duration = Duration::from_mins(15);

/// The options that decisions depend on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// How long a profile is unwanted and unused before it is removed; none: never.
    pub(crate) remove_after: Option<Duration>,
    pub(crate) allow_empty: bool,
    pub(crate) take_over: bool,
    /// Patterns of loaded names to take over.
    pub(crate) adopt: Vec<String>,
    /// The names that a set may own.
    pub(crate) most_names: usize,
}

/// The kernel's policy as it was observed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// Every loaded profile's mode, by name: children and hats too.
    pub(crate) loaded: BTreeMap<String, Mode>,
    /// The digest of the policy that brought it, where the kernel shows it; top-level names only.
    pub(crate) contents: BTreeMap<String, Digest>,
}

/// A version that may be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) name: ProfileName,
    pub(crate) record: Record,
}

impl Candidate {
    /// A recorded version.
    pub(crate) fn recorded((name, record): (&ProfileName, &Record)) -> Self {
        Self {
            name: name.clone(),
            record: record.clone(),
        }
    }

    /// The names that are profiles of their own, not children or hats.
    pub(crate) fn top_level(&self) -> impl Iterator<Item = &str> {
        let names = self.record.members.iter().map(|member| &*member.name);
        names.filter(|name| parent(name).is_none())
    }
}

/// The basis of a decision.
pub(crate) struct Facts<'a> {
    pub(crate) state: &'a State,
    pub(crate) set_name: &'a str,
    pub(crate) observed: &'a Observed,
    pub(crate) options: &'a Options,
    /// The names of the files that the sources hold.
    pub(crate) files: &'a BTreeSet<&'a str>,
    pub(crate) now: Stamp,
}

/// The decision about a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is in force.
    Keep,
    /// It is in force, and owned from now on.
    Own(Reason),
    /// It is to be written to the kernel. [`Kind::Load`]: none of its names is loaded; [`Kind::Replace`]:
    /// some are.
    Write(Kind, Reason),
    /// It is left alone.
    Leave(Kind, String),
    /// Another file of the set brings one of its names.
    Taken(String),
}

/// The reasons for a write or an ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    New,
    Changed,
    NotLoadedSinceBoot,
    Interrupted,
    Adopted,
    SameContents,
    /// Another program removed it.
    Unloaded,
    /// Another program changed its mode.
    OtherMode(Mode),
    /// Another program replaced it.
    Replaced,
}

impl Reason {
    /// Whether it is another program's change.
    pub(crate) const fn is_repair(self) -> bool {
        matches!(self, Self::Unloaded | Self::OtherMode(_) | Self::Replaced)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::NotLoadedSinceBoot => "not loaded since boot",
            Self::Interrupted => "left by an interrupted pass",
            Self::Adopted => "taken over by --adopt",
            Self::SameContents => "already loaded with the desired contents",
            Self::Unloaded => {
                "another program unloaded it: processes that it confined stay unconfined until restarted"
            }
            Self::OtherMode(mode) => return write!(f, "another program set it to {mode}"),
            Self::Replaced => "another program replaced it",
        })
    }
}

/// Whether a name may be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is not loaded, or no longer owned: its ownership ends.
    Gone,
    /// It goes, if a scan directly before finds no process: why.
    Due(String),
    /// Not now: deferred or blocked, and why.
    Not(Kind, String),
}

/// The use of a name, by a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Unused,
    /// By which processes.
    InUse(String),
    /// Reason the scan is incomplete.
    Unknown(String),
}

/// Reports the use of a name.
type Seen<'a> = &'a mut dyn FnMut(&str) -> Usage;

/// Names, each with the reason that keeps it loaded, if there is one.
pub(crate) type Kept = Vec<(String, Option<String>)>;

impl Facts<'_> {
    pub(crate) fn set(&self) -> &Set {
        &self.state.sets[self.set_name]
    }

    /// Decides about `candidate`.
    pub(crate) fn decide(&self, candidate: &Candidate) -> Decision {
        if let Err(decision) = self.check_names(candidate) {
            return decision;
        }
        let mut taken = None;
        for name in candidate.top_level() {
            let is_new = !self.observed.loaded.contains_key(name)
                && self.state.owner_besides(self.set_name, name).is_none();
            if is_new || self.set().owned.contains_key(name) {
                continue;
            }
            match self.claim(candidate, name) {
                Ok(Reason::SameContents) => taken = taken.or(Some(Reason::SameContents)),
                Ok(why) => taken = Some(why),
                Err(message) => return Decision::Leave(Kind::Conflict, message),
            }
        }
        match (self.difference(candidate), taken) {
            (None, None) => match self.set().profiles.get(&candidate.name) {
                Some(known) if known.policy == candidate.record.policy => Decision::Keep,
                _ => Decision::Own(Reason::Interrupted),
            },
            (None, Some(why)) => Decision::Own(why),
            (Some(_), Some(why)) => Decision::Write(Kind::Replace, why),
            (Some(difference), None) => self.write(candidate, difference),
        }
    }

    /// Whether the names that `candidate` brings belong to no other file, and are not too many.
    fn check_names(&self, candidate: &Candidate) -> Result<(), Decision> {
        let file = &candidate.name;
        let owned = &self.set().owned;
        let mut new = 0;
        for member in &candidate.record.members[1..] {
            // A claim of this pass is for a version that is not recorded yet.
            let other = owned.get(&member.name).filter(|owned| {
                owned.pending.is_some() || self.brings(owned.profile.as_str(), &member.name)
            });
            let other = other.map(|owned| owned.profile.as_str());
            let own = self.files.get(member.name.as_str()).copied();
            if let Some(other) = own.or(other).filter(|other| *other != file.as_str()) {
                let name = &member.name;
                let message = format!("{name} is defined by {other} too: keep one");
                return Err(Decision::Taken(message));
            }
            new += usize::from(!owned.contains_key(&member.name));
        }
        new += usize::from(!owned.contains_key(file.as_str()));
        let most = self.options.most_names;
        if new > 0 && owned.len() + new > most {
            let message = format!(
                "the set would own more than {most} profiles, children and hats: remove some, or raise --max-profiles"
            );
            return Err(Decision::Leave(Kind::Refused, message));
        }
        Ok(())
    }

    /// Whether the desired `file` has brought `name`, and is not about to drop it.
    fn brings(&self, file: &str, name: &str) -> bool {
        self.files.contains(file)
            && self.set().profiles.get(file).is_none_or(|record| {
                let mut members = record.members.iter();
                members.any(|member| member.name == name)
            })
    }

    /// Reason a loaded `name` that is not owned may become owned.
    fn claim(&self, candidate: &Candidate, name: &str) -> Result<Reason, String> {
        if let Some(owner) = self.state.owner_besides(self.set_name, name) {
            return Err(format!(
                "{name} belongs to the set {owner}: keep it in one set only"
            ));
        }
        let mut adopt = self.options.adopt.iter();
        if adopt.any(|pattern| WildMatch::new(pattern).matches(name)) {
            return Ok(Reason::Adopted);
        }
        if self.observed.contents.get(name) == Some(&candidate.record.policy) {
            return Ok(Reason::SameContents);
        }
        Err(format!(
            "{name} is loaded by another program with other contents: rename yours, or take it over with --adopt '{name}'"
        ))
    }

    /// How the kernel differs from `candidate`; a kernel that shows no contents is believed as long
    /// as record and ownership say that this policy was loaded.
    fn difference(&self, candidate: &Candidate) -> Option<Reason> {
        let record = self.set().profiles.get(&candidate.name);
        for member in &candidate.record.members {
            match self.observed.loaded.get(&member.name) {
                None => return Some(Reason::Unloaded),
                Some(mode) if *mode != member.mode && member.mode != Mode::Unknown => {
                    return Some(Reason::OtherMode(*mode));
                }
                Some(_) => {}
            }
        }
        let policy = candidate.record.policy;
        let recorded = record.is_some_and(|r| r.policy == policy && r.loaded_at.is_some());
        let mut names = candidate.top_level();
        let same = names.all(|name| {
            let owned = self.set().owned.get(name).map(|owned| owned.policy);
            let owned = owned.filter(|_| recorded);
            let loaded = self.observed.contents.get(name).copied().or(owned);
            loaded == Some(policy)
        });
        (!same).then_some(Reason::Replaced)
    }

    /// Whether another program unloaded this version.
    fn is_gone(&self, record: &Record) -> bool {
        let (own, owned) = (record.members.first(), &self.set().owned);
        let own = own.filter(|own| record.loaded_at.is_some() && owned.contains_key(&own.name));
        own.is_some_and(|own| !self.observed.loaded.contains_key(&own.name))
    }

    fn write(&self, candidate: &Candidate, difference: Reason) -> Decision {
        let mut names = candidate.record.members.iter();
        let loaded = names.any(|member| self.observed.loaded.contains_key(&member.name));
        let kind = if loaded { Kind::Replace } else { Kind::Load };
        // Another policy of the set is there: a killed pass' version, or another file's.
        let policy = candidate.record.policy;
        let owned = |name: &str| self.set().owned.get(name);
        let is_other = |name: &str| {
            let contents = self.observed.contents.get(name);
            owned(name).is_some_and(|owned| {
                owned.policy != policy && contents.is_none_or(|contents| *contents == owned.policy)
            })
        };
        let mut members = candidate.record.members.iter();
        let why = match self.set().profiles.get(&candidate.name) {
            None => Reason::New,
            Some(record) if record.policy != policy && self.is_gone(record) => Reason::Unloaded,
            Some(record) if record.policy != policy => Reason::Changed,
            Some(_) if candidate.top_level().any(is_other) => Reason::Changed,
            Some(record) if record.loaded_at.is_none() => Reason::NotLoadedSinceBoot,
            // A killed pass has removed some of it, and it is desired again.
            Some(_) if members.any(|member| owned(&member.name).is_none()) => Reason::New,
            Some(record) => {
                let recent = |repair: &&Stamp| self.now.since(repair) < CONTEST_WINDOW;
                let repairs = record.repairs.iter().filter(recent).count();
                if repairs >= CONTEST_REPAIRS {
                    let (name, time) = (&candidate.name, in_words(CONTEST_WINDOW));
                    let times = format!("{difference}, {repairs} times within {time}");
                    let message =
                        format!("{times}: find the program that loads {name}, and stop it");
                    return Decision::Leave(Kind::Contested, message);
                }
                difference
            }
        };
        Decision::Write(kind, why)
    }

    /// Whether the owned and unwanted `name` may be removed; brings its `clock` up to date. `seen`
    /// reports its use, and is asked only where the answer matters.
    pub(crate) fn verdict(&self, name: &str, clock: &mut Unwanted, seen: Seen) -> Verdict {
        let ours = self.set().owned.get(name).map(|owned| owned.policy);
        let contents = self.observed.contents.get(name).copied();
        // Another program may have put its own policy in the place.
        if !self.observed.loaded.contains_key(name) || contents.is_some() && contents != ours {
            return Verdict::Gone;
        }
        let Some(remove_after) = self.options.remove_after else {
            let message = "unwanted; --remove-after never keeps it loaded";
            return Verdict::Not(Kind::Deferred, message.into());
        };
        match seen(name) {
            Usage::Unused => {}
            usage => return self.verdict_in_use(usage, clock),
        }
        let start = clock.last_seen_in_use.unwrap_or(clock.since);
        let unused = self.now.since(&start);
        if unused < remove_after {
            let left = in_words(remove_after.saturating_sub(unused));
            let message =
                format!("unwanted and unused; removed in {left} (--remove-after 0s: at once)");
            return Verdict::Not(Kind::Deferred, message);
        }
        let unwanted = in_words(self.now.since(&clock.since));
        Verdict::Due(format!("unwanted for {unwanted} and unused"))
    }

    /// Reason a name that is in use, or may be, is not removed.
    pub(crate) fn verdict_in_use(&self, usage: Usage, clock: &mut Unwanted) -> Verdict {
        clock.put_off_since = None;
        match usage {
            Usage::InUse(users) => {
                clock.last_seen_in_use = Some(self.now);
                Verdict::Not(Kind::Deferred, format!("in use by {users}"))
            }
            Usage::Unknown(reason) => {
                let message = format!("cannot determine whether it is in use: {reason}");
                Verdict::Not(Kind::Blocked, message)
            }
            Usage::Unused => Verdict::Due(String::new()),
        }
    }

    /// Reason a name is not removed while `runtime` may be starting a program under it.
    pub(crate) fn verdict_starting(&self, runtime: &str, clock: &mut Unwanted) -> Verdict {
        let since = *clock.put_off_since.get_or_insert(self.now);
        if self.now.since(&since) < DEFERRAL_LIMIT {
            return Verdict::Not(Kind::Deferred, runtime.to_owned());
        }
        let time = in_words(DEFERRAL_LIMIT);
        let message = format!("deferred for more than {time}: {runtime}; end that process");
        Verdict::Not(Kind::Blocked, message)
    }

    /// The owned names that no desired file brings, each with the reason that keeps it loaded, if it is
    /// one that only a person can lift. `sources` are those of this pass, and `holding` those with files.
    pub(crate) fn unwanted(&self, sources: &[String], holding: &BTreeSet<String>) -> Kept {
        let set = self.set();
        let desired = |name: &str, owned: &Owned| {
            self.files.contains(name) || self.brings(owned.profile.as_str(), name)
        };
        let owned = set.owned.iter();
        let unwanted = owned.filter(|(name, owned)| !desired(name, owned));
        let unwanted: BTreeSet<&str> = unwanted.map(|(name, _)| name.as_str()).collect();
        // A child goes with its parent.
        let goes = |name: &&&str| parent(name).is_none_or(|parent| !unwanted.contains(parent));
        let kept = |name: &str| {
            let record = set.profiles.get(&set.owned[name].profile);
            let source = record.map(|record| record.source.as_str());
            if set.sources != sources && !self.options.take_over {
                return Some(format!(
                    "the sources were {} before: --take-over lets the new ones remove it",
                    set.sources.join(" ")
                ));
            }
            let empty =
                |source: &str| sources.iter().any(|s| s == source) && !holding.contains(source);
            let line = "its source is empty: --allow-empty lets an empty source remove it";
            (source.is_some_and(empty) && !self.options.allow_empty).then(|| line.to_owned())
        };
        let names = unwanted.iter().filter(goes);
        names.map(|name| ((*name).to_owned(), kept(name))).collect()
    }
}

/// Ends the ownership of names whose pending load did not arrive, whose removal did, or which another
/// program loaded after an interrupted pass; confirms the others.
pub(crate) fn settle_claims(set: &mut Set, observed: &Observed) {
    let mut ended = Vec::new();
    set.owned.retain(|name, owned| {
        let Some(pending) = owned.pending.take() else {
            return true;
        };
        let top = name.split("//").next().unwrap_or(name);
        let contents = observed.contents.get(top).copied();
        if let Pending::Load(policy) | Pending::Replace(policy) = pending
            && contents.is_none_or(|contents| contents == policy)
        {
            // Without contents, either version may be there, so neither is believed: no policy is empty.
            owned.policy = contents.unwrap_or(Digest::of(b""));
        }
        let ours = match pending {
            // Owned before: without its claim too, another program's change is repaired.
            Pending::Replace(_) => return true,
            Pending::Load(policy) => contents == Some(policy),
            // A child may be one that the loaded version dropped.
            Pending::Remove => contents.is_none() || contents == Some(owned.policy) || top != name,
        };
        let stays = ours && observed.loaded.contains_key(name);
        if !stays {
            ended.push(name.clone());
        }
        stays
    });
    // Its children are gone, or the other program's.
    let is_over = |name: &str| ended.iter().any(|ended| is_within(name, ended));
    set.owned.retain(|name, _| !is_over(name));
}

#[cfg(test)]
mod tests;

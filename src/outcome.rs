//! The one vocabulary of outcomes: kinds, severity, message. Text, JSON, logs, metrics and events all
//! print these words. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter, IntoEnumIterator as _, IntoStaticStr};

use crate::profile::printable;

/// A profile's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumIter)]
#[strum(serialize_all = "lowercase")]
#[derive(Display, IntoStaticStr, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Loaded into the kernel.
    Load,
    /// Replaced in the kernel.
    Replace,
    /// Found loaded, and owned from now on.
    Own,
    /// Removed from the kernel.
    Remove,
    /// Its removal waits, and comes by itself.
    Deferred,
    /// Its removal waits for a person.
    Blocked,
    /// Its name is loaded by another program or belongs to another set.
    Conflict,
    /// Another program keeps changing it.
    Contested,
    /// Its text is not accepted; the last good version stays in force.
    Refused,
    /// The node, the kernel or another program kept it from being loaded or removed.
    Failed,
}

/// The attention that an outcome needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Nothing: it is done.
    Done,
    /// Patience.
    Waiting,
    /// A decision or a repair.
    Problem,
}

impl Kind {
    /// The kinds that are problems.
    pub(crate) fn problems() -> impl Iterator<Item = Self> {
        Self::iter().filter(|kind| kind.severity() == Severity::Problem)
    }

    pub(crate) fn word(self) -> &'static str {
        self.into()
    }

    pub(crate) const fn severity(self) -> Severity {
        match self {
            Self::Load | Self::Replace | Self::Own | Self::Remove => Severity::Done,
            Self::Deferred => Severity::Waiting,
            _ => Severity::Problem,
        }
    }

    /// Whether it changes the kernel.
    pub(crate) const fn is_write(self) -> bool {
        matches!(self, Self::Load | Self::Replace | Self::Remove)
    }
}

/// One line of a plan or of a pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) profile: String,
    pub(crate) kind: Kind,
    pub(crate) severity: Severity,
    /// The reason, and the way out.
    pub(crate) message: String,
    /// Of a refusal, its word for machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Of a problem, whether the pass before had it too.
    #[serde(skip)]
    pub(crate) stands: bool,
    /// Whether it undoes another program's change.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) repair: bool,
    /// Of a loaded text, its rules that the kernel does not enforce.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unenforced: Vec<Unenforced>,
}

impl Outcome {
    pub(crate) fn new(profile: impl Into<String>, kind: Kind, message: impl Into<String>) -> Self {
        Self {
            profile: profile.into(),
            kind,
            severity: kind.severity(),
            message: message.into(),
            reason: None,
            stands: false,
            repair: false,
            unenforced: Vec::new(),
        }
    }

    /// Profile, message, and the rules that are not enforced.
    pub(crate) fn about(&self) -> String {
        let rules = self.unenforced.iter().map(|rules| &*rules.message);
        let parts: Vec<_> = [&*self.message].into_iter().chain(rules).collect();
        match &*self.profile {
            "" => printable(&parts.join("; ")),
            profile => printable(&about(profile, &parts.join("; "))),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            Kind::Load => '+',
            Kind::Replace => '~',
            Kind::Own => '=',
            Kind::Remove => '-',
            Kind::Deferred => '…',
            Kind::Blocked | Kind::Conflict | Kind::Contested => '!',
            Kind::Refused | Kind::Failed => '✗',
        };
        write!(f, "{sign} {:<9} {}", self.kind, self.about())
    }
}

/// Rules of one class that the kernel does not enforce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unenforced {
    /// `network`, `signal`, `userns` …
    pub(crate) class: String,
    /// Whether the text itself has such a rule, and not only a file that it includes.
    pub(crate) own: bool,
    pub(crate) message: String,
}

/// Why one text is not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", .line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub(crate) struct Refusal {
    /// [`Kind::Refused`] for the text itself; [`Kind::Failed`] for the node's or the pass's sake: the text
    /// may be good.
    pub(crate) kind: Kind,
    /// One word for machines: name, text, limit, include, compile, cost, namespace, duplicate, failed, or
    /// that of an acceptance rule.
    pub(crate) reason: &'static str,
    /// The line in the text, from 1, where one is known.
    pub(crate) line: Option<u32>,
    /// One clean line for a person: the mistake and the way out.
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal whose message is made printable and put on one line.
    pub(crate) fn new(reason: &'static str, message: impl AsRef<str>) -> Self {
        Self {
            kind: Kind::Refused,
            reason,
            line: None,
            message: printable(message.as_ref()),
        }
    }

    /// As [`Self::new`], about one line of the text.
    pub(crate) fn at(reason: &'static str, line: u32, message: impl AsRef<str>) -> Self {
        Self {
            line: Some(line),
            ..Self::new(reason, message)
        }
    }

    /// A failure that says nothing about the text.
    pub(crate) fn failed(message: impl AsRef<str>) -> Self {
        Self {
            kind: Kind::Failed,
            ..Self::new("failed", message)
        }
    }
}

/// `NAME: MESSAGE`; a message that begins with the name stands alone.
pub(crate) fn about(profile: &str, message: &str) -> String {
    match message.strip_prefix(profile) {
        Some(rest) if rest.starts_with([':', ' ']) => message.to_owned(),
        _ => format!("{}: {message}", printable(profile)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_text_spell_a_kind_alike() {
        for kind in Kind::iter() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }

    #[test]
    fn a_message_that_names_the_profile_names_it_once() {
        let line = |message: &str| Outcome::new("custom.a", Kind::Refused, message).to_string();
        assert_eq!(line("custom.a line 3: x"), "✗ refused   custom.a line 3: x");
        assert_eq!(line("line 3: x"), "✗ refused   custom.a: line 3: x");
    }
}

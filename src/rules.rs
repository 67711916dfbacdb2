//! The acceptance rules: which names and compiled profiles may be loaded. Pure.
//!
//! A rule that a user can switch is one entry of [`SWITCHES`]: its option, its help and its test.
//! Command line, environment, help and the digest of the options follow from the entry.

use std::collections::BTreeSet;

use crate::outcome::Refusal;
use crate::policy::Member;
use crate::profile::{Digest, Mode, NAME_LIMIT, ProfileName, parent, quoted};
use crate::state;

/// A rule that an option switches.
pub(crate) struct Switch {
    /// `--OPTION`, and `ARMORER_OPTION`: `allow-REASON` lifts the rule, `deny-REASON` makes it hold. The
    /// reason is the word of its refusals.
    pub(crate) option: &'static str,
    pub(crate) help: &'static str,
    /// Whether a profile breaks the rule.
    breaks: fn(&Member) -> bool,
    /// The message about such a profile, after its name.
    message: &'static str,
}

pub(crate) const SWITCHES: [Switch; 3] = [
    Switch {
        option: "allow-attachment",
        help: "accept profiles that attach themselves to programs by path",
        breaks: |member| member.attaches && parent(&member.name).is_none(),
        message: "attaches itself to programs by path, and so would confine the host's processes: remove the path from its first line, or set --allow-attachment",
    },
    Switch {
        option: "allow-unconfined",
        help: "accept profiles in mode unconfined",
        breaks: |member| member.mode == Mode::Unconfined,
        message: "is in mode unconfined, and so confines no process: remove the flag, or set --allow-unconfined",
    },
    Switch {
        option: "deny-complain",
        help: "refuse profiles in complain mode",
        breaks: |member| member.mode == Mode::Complain,
        message: "is in complain mode, and so denies nearly nothing: remove the flag, or omit --deny-complain",
    },
];

/// The rules in force.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The prefix of every name.
    pub(crate) prefix: String,
    /// The options given, of [`SWITCHES`].
    pub(crate) switches: BTreeSet<&'static str>,
    /// Profiles, children and hats that one text may define.
    pub(crate) members: usize,
}

impl Rules {
    /// The digest of the rules.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(format!("{} {self:?}", env!("CARGO_PKG_VERSION")).as_bytes())
    }

    /// Takes a file's name.
    ///
    /// # Errors
    /// It cannot be a profile's, or lacks the prefix.
    pub(crate) fn file_name(&self, name: &str) -> Result<ProfileName, Refusal> {
        let name = ProfileName::parse(name).map_err(|line| Refusal::new("name", line))?;
        if name.as_str().starts_with(&self.prefix) {
            return Ok(name);
        }
        let prefix = quoted(&self.prefix);
        let line = format!(
            "is no profile by its name, which does not start with the prefix {prefix}: rename file and profile, or set --prefix"
        );
        Err(Refusal::new("name", line))
    }

    /// Whether all that the policy of `file` would load may be loaded; the file's own profile comes
    /// first.
    ///
    /// # Errors
    /// The first thing that is not allowed.
    pub(crate) fn check(
        &self,
        file: &ProfileName,
        members: &[Member],
    ) -> Result<Vec<state::Member>, Refusal> {
        let refused = |reason, line: String| Err(Refusal::new(reason, line));
        let (count, most) = (members.len(), self.members);
        if count > most {
            let line = format!(
                "defines {count} profiles, children and hats, above the limit of {most} per file: split it, or raise --max-members"
            );
            return refused("limit", line);
        }
        let names: BTreeSet<&str> = members.iter().map(|member| &*member.name).collect();
        for (n, member) in members.iter().enumerate() {
            let name = quoted(&member.name);
            if let Some((reason, line)) = self.objection(member) {
                return refused(reason, format!("{name} {line}"));
            }
            if members[..n].iter().any(|other| other.name == member.name) {
                return refused("duplicate", format!("defines {name} twice"));
            }
            if parent(&member.name).is_some_and(|parent| !names.contains(parent)) {
                let line = format!("{name} is a child of a profile that the file does not define");
                return refused("name", line);
            }
        }
        let own = |member: &Member| is_file_of(file.as_str(), &member.name);
        let Some(own) = members.iter().position(own) else {
            let names: Vec<_> = members.iter().map(|m| quoted(&m.name)).collect();
            let (names, own) = (names.join(", "), quoted(file.as_str()));
            let line = format!(
                "defines {names}, and no profile {own}: a file is named like its profile, with / written as ."
            );
            return refused("name", line);
        };
        let accepted = members.iter().map(|member| state::Member {
            name: member.name.clone(),
            mode: member.mode,
        });
        let mut accepted: Vec<_> = accepted.collect();
        accepted[..=own].rotate_right(1);
        Ok(accepted)
    }

    /// Reason and words, after the member's name.
    fn objection(&self, member: &Member) -> Option<(&'static str, String)> {
        let name = &member.name;
        if let Some(namespace) = member.namespace.as_deref().map(quoted) {
            let line = format!(
                "is in the policy namespace {namespace}: only the node's own namespace is supported"
            );
            return Some(("namespace", line));
        }
        let line = if !name.starts_with(&self.prefix) {
            format!("does not start with the prefix {}", quoted(&self.prefix))
        } else if name.len() >= NAME_LIMIT {
            format!("has {} bytes: the limit is {}", name.len(), NAME_LIMIT - 1)
        } else if !is_plain(name) {
            "is not a plain name".to_owned()
        } else {
            let given = |rule: &Switch| self.switches.contains(rule.option);
            let holds = |rule: &&Switch| given(rule) == rule.option.starts_with("deny-");
            let mut rules = SWITCHES.iter().filter(holds);
            let broken = rules.find(|rule| (rule.breaks)(member))?;
            let (_, reason) = broken.option.split_once('-')?;
            return Some((reason, broken.message.to_owned()));
        };
        Some(("name", line))
    }
}

/// Whether the kernel reads `name` as it stands: it skips blanks in front, takes `:NAME:` for a policy
/// namespace, and `//&` for a stack.
fn is_plain(name: &str) -> bool {
    let segments = |segment: &str| {
        !segment.is_empty() && !segment.starts_with([':', '&']) && segment.trim() == segment
    };
    !name.chars().any(char::is_control)
        && !name.contains("//&")
        && name.split("//").all(segments)
        && name.split('/').all(|part| part != ".." && part != ".")
}

/// Whether a profile belongs in `file`: the same name, with `/` written as `.` and none in front, as
/// Debian names /usr/bin/x in usr.bin.x.
fn is_file_of(file: &str, profile: &str) -> bool {
    profile == file || profile.trim_start_matches('/').replace('/', ".") == file
}

#[cfg(test)]
mod tests;

//! Compiled policy, read as the kernel reads it: its members, their rules, and advice. Pure.

mod advice;
mod automata;
mod question;
mod stream;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use advice::advise;
pub(crate) use question::{Answer, Question, expectation};
pub(crate) use stream::profiles;

/// One profile, child or hat of compiled policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The policy namespace that it is loaded into, where that is not the loader's own.
    pub(crate) namespace: Option<String>,
    /// The name in the kernel; a child's or hat's is `parent//child`.
    pub(crate) name: String,
    /// It confines programs that are executed by unconfined processes, or takes the place of a
    /// profile of another name. Children never attach: the kernel tries them only where a rule
    /// of their parent says so (`cx`).
    pub(crate) attaches: bool,
    /// The mode it is loaded in.
    pub(crate) mode: crate::profile::Mode,
}

/// A member with its rules.
#[derive(Debug)]
pub(crate) struct Profile<'a> {
    pub(crate) member: Member,
    content: Content<'a>,
}

/// A member as the stream has it.
#[derive(Debug, Default)]
struct Content<'a> {
    version: Option<u32>,
    namespace: Option<&'a str>,
    name: &'a str,
    attaches: bool,
    renames: bool,
    /// Bits, mode, audit.
    flags: Vec<u32>,
    path_flags: u32,
    /// Four sets: allowed, audited, quiet, unused. The first 32 bits of each, and the next 32.
    capabilities: [Vec<u32>; 2],
    /// The rules of every class but files.
    classes: automata::Automaton<'a>,
    files: automata::Automaton<'a>,
}

/// The members of `stream`, in its order.
///
/// # Errors
/// As [`profiles`].
pub(crate) fn members(stream: &[u8]) -> Result<Vec<Member>, String> {
    let profiles = profiles(stream)?;
    Ok(profiles.into_iter().map(|profile| profile.member).collect())
}

//! Advice: rules that compile and hurt in a cluster, worked out from the compiled policy.
//!
//! A class that is not mediated allows everything, so there is no finding in it.

use std::collections::{BTreeSet, HashSet};

use super::automata::{CHILD, EXEC, INHERIT};
use super::{Answer, Profile, Question};
use crate::profile::Mode;

/// The longest search for executions, in steps; an ordinary profile takes a fortieth. A longer one is no
/// finding.
const FUEL: usize = 1 << 22;

/// The encrypted home folders, which abstractions/base lets their owner execute.
const PRIVATE: &[u8] = b"/.Private/";

/// In `path_flags`: the bit of `attach_disconnected` (`PATH_CONNECT_PATH`).
const CONNECT_PATH: u32 = 4;

const COMPLAIN: &str = "complain mode logs and denies nothing, except by deny rules (but those of x) and for disconnected paths: remove `complain` from the flags, or omit --complain";
const NOTHING: &str = "no rule allows an execution: a container's first program starts, but cannot start others: add rules with x, such as `/** rix,`";
const FORBIDDEN: &str = "no_new_privs forbids an execution that leaves the profile, so in pods with `allowPrivilegeEscalation: false` it fails with EPERM: use ix";
const UNSTOPPABLE: &str = "a container runtime of another profile cannot stop it with TERM and KILL, and its pod stays Terminating: add, without a deny rule against it, `signal (receive) peer=";
const DISCONNECTED: &str = "files opened outside the container's mount namespace are denied (disconnected path): add `flags=(attach_disconnected)`";
const NO_ABI: &str = "without an abi line, each node's parser.conf and kernel decide which rules are enforced: add `abi <abi/3.0>,` before the profile";

/// A stable word for machines and acknowledgements, and one line: the consequence and the remedy.
pub(crate) type Finding = (&'static str, String);

/// The findings about `profile`, one of `profiles`, which `text` was compiled to.
/// Children and hats have none of their own.
pub(crate) fn advise(profile: &Profile, profiles: &[Profile], text: &str) -> Vec<Finding> {
    let mode = profile.member.mode;
    if mode == Mode::Unconfined || profile.member.name.contains("//") {
        return Vec::new();
    }
    let mut found = Vec::new();
    if mode == Mode::Complain {
        found.push(("complain-mode", COMPLAIN.to_owned()));
    } else if let Some(executions) = executions(profile) {
        if executions.is_empty() {
            found.push(("nothing-executable", NOTHING.to_owned()));
        }
        let leaves = |exec: &u32| leaves_profile(profile, *exec, profiles);
        let leaving = executions.into_iter().find(leaves);
        if let Some(Answer::Allowed(rule)) = leaving.map(|exec| profile.execution(exec)) {
            found.push(("no-new-privs", format!("{FORBIDDEN} ({rule})")));
        }
    }
    let mut peers = vec!["unconfined", "runc", "crun"];
    peers.retain(|peer| !can_be_stopped(profile, peer));
    if !peers.is_empty() {
        let rules = peers.join(",` `signal (receive) peer=");
        found.push(("cannot-be-stopped", format!("{UNSTOPPABLE}{rules},`")));
    }
    if profile.content.path_flags & CONNECT_PATH == 0 {
        found.push(("no-attach-disconnected", DISCONNECTED.to_owned()));
    }
    let is_abi = |line: &str| line.trim_start().starts_with("abi");
    if !text.lines().any(is_abi) {
        found.push(("no-abi", NO_ABI.to_owned()));
    }
    found
}

fn can_be_stopped(profile: &Profile, peer: &str) -> bool {
    ["term", "kill"].iter().all(|signal| {
        let question = Question::parse(&["signal", "receive", signal, peer]);
        question.is_ok_and(|question| !matches!(profile.answer(&question), Answer::Denied(_)))
    })
}

/// Whether an execution leaves the profile, and does not stack another one on it, which no_new_privs
/// forbids. With a fallback to the profile itself it does so only for profiles of the same text: others
/// may not be loaded.
fn leaves_profile(profile: &Profile, exec: u32, profiles: &[Profile]) -> bool {
    let target = profile.target(exec);
    let stacks = target.as_ref().is_some_and(|name| name.starts_with('&'));
    let children = format!("{}//", profile.member.name);
    let is_target = |other: &Profile| match &target {
        Some(target) => other.member.name == *target,
        None => exec & CHILD != 0 && other.member.name.starts_with(&children),
    };
    !stacks && (exec & INHERIT == 0 || profiles.iter().any(is_target))
}

/// The ways in which executions go on, over all absolute paths; None where the search takes too long.
fn executions(profile: &Profile) -> Option<BTreeSet<u32>> {
    let files = &profile.content.files;
    // The bytes with steps of their own, and one for all others.
    let used = files.used();
    let matters = |byte: &u8| used.contains(&files.class(*byte)) || PRIVATE.contains(byte);
    let (mut bytes, others): (Vec<u8>, Vec<u8>) = (1..=255).partition(matters);
    bytes.extend(others.first());

    let (mut fuel, mut found) = (FUEL, BTreeSet::new());
    // A state, and the length of the part of PRIVATE that the path to it ends with.
    let mut open = vec![(files.state(b"/"), 1)];
    let mut seen = HashSet::new();
    while let Some((state, matched)) = open.pop() {
        // A path that ends with a slash is a folder.
        let owners: &[bool] = if matched == 1 { &[] } else { &[true, false] };
        let grants = owners.iter().map(|owner| files.file_grant(state, *owner));
        let executable = grants.filter(|grant| grant.allow & EXEC != 0);
        found.extend(executable.map(|grant| grant.exec));
        // No path has two slashes together.
        let after = |byte: &u8| matched != 1 || *byte != b'/';
        for byte in bytes.iter().copied().filter(after) {
            let slash = usize::from(byte == b'/');
            let continues = byte == PRIVATE[matched];
            let matched = if continues { matched + 1 } else { slash };
            let next = (files.step(state, byte, &mut fuel), matched);
            if matched < PRIVATE.len() && seen.insert(next) {
                open.push(next);
            }
        }
    }
    (fuel > 0).then_some(found)
}

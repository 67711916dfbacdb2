//! Questions to a profile, and its answers, which are the kernel's.
//!
//! Each walks the automaton that the kernel would, with the same bytes (`security/apparmor`: `file.c`,
//! `domain.c`, `capability.c`, `net.c`, `af_unix.c`, `ipc.c`, `task.c`). A class is mediated if the
//! automaton has a state behind the class's byte: the compiler writes that byte where the features and
//! the text's abi have the class, with or without a rule of it. Capabilities and files always are.
//! Mounts, D-Bus, message queues, io_uring and the addresses of sockets cannot be asked for.

use super::Profile;
use super::automata::{
    APPEND, BY_PATH, BY_TABLE, CHILD, CREATE, DELETE, EXEC, Grant, INHERIT, LINK, LOCK, MAP_EXEC,
    READ, UNCONFINED, UNSAFE, WRITE,
};
use super::words::{CAPABILITIES, FAMILIES, FORMS, SIGNALS, SOCKETS, number};
use crate::profile::{Mode, nearest, quoted};

/// Classes of the policy (`include/apparmor.h`).
const FILE: u8 = 2;
const CAPABILITY: u8 = 3;
const PTRACE: u8 = 9;
const SIGNAL: u8 = 10;
const NETWORK: u8 = 14;
const NETWORK_V9: u8 = 15;
const LABEL: u8 = 16;
const NAMESPACE: u8 = 21;

/// In a socket's grant: the protocol decides.
const CONTINUE: u32 = 0x0800_0000;

/// The accesses of files, and their permissions.
const ACCESSES: &str = "read write append exec create delete lock mmap";
const PERMISSIONS: [u32; 8] = [READ, WRITE, APPEND, EXEC, CREATE, DELETE, LOCK, MAP_EXEC];

const LOADED: &str = ": if such a profile is loaded, else ";

/// One access: whether the file is the process's own, the class, the bytes to walk the class's automaton
/// with, and the permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question(bool, u8, Vec<u8>, u32);

/// The answer to a question, with a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Allowed(String),
    Denied(&'static str),
    /// The features that the policy was compiled with, or its abi, lack the class.
    NotMediated,
}

impl Question {
    /// Reads a question such as `owner read /etc/hosts` or `signal receive term runc`.
    ///
    /// # Errors
    /// The nearest known word, or the form of the nearest question.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let owner = words.first() == Some(&"owner");
        let file = |path: &str, permission| (FILE, path.as_bytes().to_vec(), permission);
        let (class, key, permission) = match &words[usize::from(owner)..] {
            [access, path] if number(ACCESSES, access).is_ok() => {
                file(path, PERMISSIONS[usize::from(number(ACCESSES, access)?)])
            }
            ["link", path, target] => file(&[*path, *target].join("\0"), LINK),
            ["capability", name] => {
                let place = number(CAPABILITIES, name)?;
                (CAPABILITY, vec![CAPABILITY, place / 32], 1 << (place % 32))
            }
            ["network", family, kind] => {
                let (family, kind) = (number(FAMILIES, family)?, number(SOCKETS, kind)?);
                (NETWORK, vec![NETWORK, 0, family, 0, kind], CREATE)
            }
            ["signal", access, signal, peer] => {
                let permission = [WRITE, READ][usize::from(number("send receive", access)?)];
                let signal = match signal.strip_prefix("rtmin+").map(str::parse) {
                    Some(Ok(place @ 0..=32)) => 128_u8 + place,
                    _ => number(SIGNALS, signal)?,
                };
                let key = [&[SIGNAL, signal], peer.as_bytes()].concat();
                (SIGNAL, key, permission)
            }
            ["ptrace", access, peer] => {
                let place = usize::from(number("read trace readby tracedby", access)?);
                // An unconfined tracer is not checked against the traced process's profile.
                let asked = place < 2 || *peer != "unconfined";
                let permission = [READ, WRITE, CREATE, APPEND][place] * u32::from(asked);
                let key = [&[LABEL, PTRACE], peer.as_bytes()].concat();
                (PTRACE, key, permission)
            }
            // AA_USERNS_CREATE
            ["userns"] => (NAMESPACE, vec![NAMESPACE], 8),
            words => {
                let form = nearest(words.first().unwrap_or(&""), FORMS.split("; "));
                let words = quoted(&words.join(" "));
                return Err(match form {
                    Some(form) => format!("unknown question {words}: did you mean `{form}`?"),
                    None => format!("unknown question {words}: ask one of {FORMS}"),
                });
            }
        };
        let has = |part: fn(&str) -> bool| words.iter().any(|word| part(word));
        let problem = match class {
            FILE if !key.starts_with(b"/") => "a path begins with /",
            FILE if has(is_unresolved) => "give the resolved path, without //, . and ..",
            FILE => "",
            _ if owner => "only files have an owner",
            _ if has(|word| word.contains("//&")) => "a stack of profiles: ask about each profile",
            _ => "",
        };
        match problem {
            "" => Ok(Self(owner, class, key, permission)),
            _ => Err(format!("{}: {problem}", quoted(&words.join(" ")))),
        }
    }
}

fn is_unresolved(path: &str) -> bool {
    path.contains("//") || path.split('/').any(|name| matches!(name, "." | ".."))
}

impl Profile<'_> {
    /// The kernel's answer to `question`.
    pub(crate) fn answer(&self, question: &Question) -> Answer {
        let Question(owner, class, ref key, permission) = *question;
        let classes = &self.content.classes;
        let mediates = |class| classes.state(&[class]) != 0;
        let grant = match class {
            FILE if permission == LINK => self.link(key, owner),
            FILE => self.file(key, owner),
            CAPABILITY if !mediates(class) => {
                let sets = &self.content.capabilities[usize::from(key[1])];
                let set = |set: usize| sets.get(set).copied().unwrap_or(0);
                let [allow, quiet, exec] = [0, 2, 3].map(set);
                Grant { allow, quiet, exec }
            }
            NETWORK if mediates(NETWORK_V9) => {
                let mut key = [&[NETWORK_V9], &key[1..]].concat();
                let early = classes.grant(classes.state(&key)).allow & (CREATE | CONTINUE);
                // Sockets of the family unix are always matched with their protocol, of which 0 is the
                // usual one, and others where the grant says so.
                if early == CONTINUE || key[2] == 1 {
                    key.extend([0, 0]);
                }
                classes.grant(classes.state(&key))
            }
            _ if !mediates(class) => return Answer::NotMediated,
            _ => classes.grant(classes.state(key)),
        };
        let missing = permission & !grant.allow;
        let by_rule = missing & !grant.quiet == 0;
        let executes = class == FILE && permission == EXEC;
        let allowed = |text: &str| Answer::Allowed(text.to_owned());
        match self.member.mode {
            Mode::Unconfined => allowed("allowed"),
            _ if missing == 0 && executes => self.execution(grant.exec),
            _ if missing == 0 => allowed("allowed"),
            // A deny rule of x does not bite in complain mode.
            Mode::Complain if executes || !by_rule => allowed("allowed: complain mode logs it"),
            _ if by_rule => Answer::Denied("denied by a deny rule"),
            _ => Answer::Denied("denied"),
        }
    }

    fn file(&self, path: &[u8], owner: bool) -> Grant {
        let files = &self.content.files;
        files.file_grant(files.state(path), owner)
    }

    /// The grant of a link (`profile_path_link`). Its name and its target's are walked as a pair, with a NUL
    /// between them, and each alone.
    fn link(&self, names: &[u8], owner: bool) -> Grant {
        let pair = self.file(names, owner);
        let mut names = names.split(|byte| *byte == 0);
        let mut next = || self.file(names.next().unwrap_or_default(), owner);
        let (link, target) = (next(), next());
        let grant = if link.allow & LINK == 0 { link } else { pair };
        // Both set: the name of the link must not allow more than its target's.
        if grant.allow & (LINK | LOCK) != LINK | LOCK {
            return grant;
        }
        let same = (link.exec ^ target.exec) & (link.exec | !UNSAFE) == 0;
        let missing = link.allow & !LINK & !(target.allow & !(EXEC * u32::from(!same)));
        let allow = if missing == 0 { LINK } else { 0 };
        Grant { allow, ..pair }
    }

    /// The profile that an execution leads to by its name; with a `&` in front, it is stacked.
    pub(super) fn target(&self, exec: u32) -> Option<String> {
        let place = (exec & 0xff_ffff) as usize;
        let name = self.content.files.targets.get(place)?.replace('\0', ":");
        match exec & (BY_TABLE | CHILD) {
            BY_TABLE => Some(name),
            0 | CHILD => None,
            _ => Some(format!("{}//{name}", self.member.name)),
        }
    }

    /// The answer to an allowed execution (`x_to_label`): its rule, and the profile of the new program.
    pub(super) fn execution(&self, exec: u32) -> Answer {
        let (fallback, otherwise) = match exec & (INHERIT | UNCONFINED) {
            0 => ("", "denied"),
            UNCONFINED => ("u", "unconfined"),
            _ => ("i", "under the same profile"),
        };
        let letter = ["P", "p", "C", "c"][(exec >> 28 & 3) as usize];
        let rule = match self.target(exec) {
            Some(name) => format!("{letter}{fallback}x -> {name}{LOADED}"),
            None if exec & BY_PATH != 0 => format!("{letter}{fallback}x{LOADED}"),
            None if fallback.is_empty() => return Answer::Denied("denied"),
            None => format!("{fallback}x: "),
        };
        Answer::Allowed(format!("allowed by {rule}{otherwise}"))
    }
}

/// The expectation in a line such as `deny write /etc/passwd`: whether the answer is to be `allow`, and the
/// question. None in an empty line; a word that begins with `#` starts a comment.
///
/// # Errors
/// An unknown word, as [`Question::parse`] has it.
pub(crate) fn expectation(line: &str) -> Result<Option<(bool, Question)>, String> {
    let words = line.split_whitespace();
    let words: Vec<_> = words.take_while(|word| !word.starts_with('#')).collect();
    let [verdict, question @ ..] = &words[..] else {
        return Ok(None);
    };
    let allow = number("deny allow", verdict)? == 1;
    Ok(Some((allow, Question::parse(question)?)))
}

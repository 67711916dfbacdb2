//! What compiles, and hurts in a cluster all the same. Pure.
//!
//! This reads text, which only the compiler reads for sure: where anything looks unusual, nothing
//! is said.

mod tokens;

use std::collections::HashSet;

use tokens::{Token, is_path, tokens};

/// Includes in each other.
const DEPTH_LIMIT: usize = 20;

/// A warning about one profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    /// What kind of thing hurts.
    pub(crate) kind: AdviceKind,
    /// The profile, as the text names it.
    pub(crate) profile: String,
    /// One line: what happens, and what to write.
    pub(crate) message: String,
}

/// The kinds of advice, stable words for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdviceKind {
    /// The container runtime cannot stop it.
    NoSignal,
    /// It cannot execute anything.
    NothingExecutable,
    /// Files that were opened outside of its mount namespace are denied.
    NotDisconnected,
}

impl AdviceKind {
    const fn message(self) -> &'static str {
        match self {
            Self::NoSignal => {
                "no rule lets it receive signals from unconfined processes, so a container runtime that is unconfined cannot stop it, and its pod stays Terminating: add `signal (receive) peer=unconfined,`, or `include <abstractions/base>`"
            }
            Self::NothingExecutable => {
                "no rule lets it execute anything: a container's first program starts, and no program that this one runs does, be it from a shell script: add rules with x, such as `/** rix,`"
            }
            Self::NotDisconnected => {
                "without flags=(attach_disconnected), files that were opened outside of the container's mount namespace are denied to it (disconnected path)"
            }
        }
    }
}

/// The advice on each profile of `text` but children and hats. `include` gives the text at a path
/// under the base folder.
pub(crate) fn advise(text: &str, include: &mut dyn FnMut(&str) -> Option<String>) -> Vec<Advice> {
    let Some(tokens) = tokens(text) else {
        return Vec::new();
    };
    let mut advice = Vec::new();
    let mut header = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            Token::Word(word) => header.push(word.as_str()),
            Token::End => header.clear(),
            // An `include` before the profile declares variables; the rules are what counts here.
            Token::Include(..) => {}
            Token::Close => return Vec::new(),
            Token::Open => {
                let Some(length) = block(&tokens[at + 1..]) else {
                    return Vec::new();
                };
                let body = &tokens[at + 1..at + 1 + length];
                if let Some((name, flags)) = profile(&header) {
                    let mut grants = Grants::default();
                    if grants.read(body, include, &mut HashSet::new(), 0).is_some() {
                        advice.extend(grants.advice(&flags).map(|kind| Advice {
                            kind,
                            profile: name.to_owned(),
                            message: format!("{name}: {}", kind.message()),
                        }));
                    }
                }
                header.clear();
                at += length + 1;
            }
        }
        at += 1;
    }
    advice
}

/// What the rules of a profile give.
#[derive(Default)]
struct Grants {
    signal: bool,
    execute: bool,
}

impl Grants {
    fn advice(&self, flags: &str) -> impl Iterator<Item = AdviceKind> + use<> {
        let lenient = ["complain", "unconfined", "default_allow"]
            .iter()
            .any(|mode| flags.contains(mode));
        [
            (!self.signal, AdviceKind::NoSignal),
            (!self.execute, AdviceKind::NothingExecutable),
            (
                !flags.contains("attach_disconnected"),
                AdviceKind::NotDisconnected,
            ),
        ]
        .into_iter()
        .filter_map(move |(hurts, kind)| (hurts && !lenient).then_some(kind))
    }

    /// None: something here is not understood.
    fn read(
        &mut self,
        body: &[Token],
        include: &mut dyn FnMut(&str) -> Option<String>,
        seen: &mut HashSet<String>,
        depth: usize,
    ) -> Option<()> {
        let mut rule = Vec::new();
        let mut at = 0;
        while at < body.len() {
            match &body[at] {
                Token::Word(word) => rule.push(word.as_str()),
                Token::End => {
                    self.rule(&rule);
                    rule.clear();
                }
                Token::Include(path, optional) => {
                    if depth == DEPTH_LIMIT {
                        return None;
                    }
                    if seen.insert(path.clone()) {
                        match include(path) {
                            Some(text) => self.read(&tokens(&text)?, include, seen, depth + 1)?,
                            None if *optional => {}
                            None => return None,
                        }
                    }
                }
                Token::Open => {
                    let first = rule.first()?;
                    let is_child = matches!(*first, "profile" | "hat")
                        || first.starts_with(['^', '/', '"', '@']);
                    if !is_child {
                        return None;
                    }
                    rule.clear();
                    at += block(&body[at + 1..])? + 1;
                }
                Token::Close => return None,
            }
            at += 1;
        }
        rule.is_empty().then_some(())
    }

    fn rule(&mut self, words: &[&str]) {
        let is_qualifier = |word: &&&str| {
            matches!(
                **word,
                "audit" | "quiet" | "allow" | "owner" | "other" | "access"
            ) || word.starts_with("priority=")
        };
        let qualifiers = words.iter().take_while(is_qualifier).count();
        let Some((first, rest)) = words[qualifiers..].split_first() else {
            return;
        };
        match *first {
            "deny" => {}
            // What abstractions/base gives to those with encrypted home folders.
            path if path.contains("/.Private/") => {}
            "all" => {
                self.signal = true;
                self.execute = true;
            }
            "signal" => self.signal |= receives_from_unconfined(rest),
            "file" if rest.is_empty() => self.execute = true,
            "file" => self.execute |= rest.iter().any(|word| grants_execution(word)),
            word if is_path(word) => self.execute |= rest.iter().any(|word| grants_execution(word)),
            word if grants_execution(word) => self.execute |= !rest.is_empty(),
            _ => {}
        }
    }
}

fn grants_execution(word: &str) -> bool {
    word.contains(['x', 'X']) && word.chars().all(|c| "rRwWaALlMmkKXxPpCcIiUu".contains(c))
}

fn receives_from_unconfined(words: &[&str]) -> bool {
    let mut accesses = Vec::new();
    for word in words {
        if let Some(peer) = word.strip_prefix("peer=") {
            let peer = peer.trim_matches('"');
            if peer != "unconfined" && !peer.contains(['*', '?', '[', '{', '@', '(']) {
                return false;
            }
        } else if !word.starts_with("set=") {
            accesses.extend(
                word.split(|c: char| !c.is_alphanumeric())
                    .filter(|access| !access.is_empty()),
            );
        }
    }
    accesses.is_empty()
        || accesses
            .iter()
            .any(|access| matches!(*access, "receive" | "r" | "rw" | "wr" | "read"))
}

/// Name and flags out of what stands before `{`.
fn profile<'a>(header: &[&'a str]) -> Option<(&'a str, String)> {
    let at = header.iter().rposition(|word| *word == "profile");
    let begin = at.map_or_else(
        || {
            header
                .iter()
                .position(|word| is_path(word) && !word.contains('='))
        },
        |at| Some(at + 1),
    )?;
    let name = header.get(begin)?.trim_matches('"');
    let flags = header[begin + 1..]
        .iter()
        .filter(|word| word.contains('('))
        .copied()
        .collect();
    Some((name, flags))
}

/// How many tokens stand before the end of the block that `tokens` begins in.
fn block(tokens: &[Token]) -> Option<usize> {
    let mut depth = 1;
    tokens.iter().position(|token| {
        match token {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            _ => {}
        }
        depth == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use AdviceKind::{NoSignal, NotDisconnected, NothingExecutable};

    fn kinds(text: &str) -> Vec<AdviceKind> {
        let mut include = |path: &str| match path {
            "abstractions/base" => Some(
                "  # Allow\n  signal (receive) peer=unconfined,\n  /lib/{a,b}/** mr,\n".to_owned(),
            ),
            "abstractions/loop" => Some("include <abstractions/loop>\n".to_owned()),
            _ => None,
        };
        advise(text, &mut include)
            .iter()
            .map(|advice| advice.kind)
            .collect()
    }

    #[test]
    fn what_hurts_is_said() {
        for (text, said) in [
            (
                "profile custom.x {\n}\n",
                &[NoSignal, NothingExecutable, NotDisconnected][..],
            ),
            (
                "profile custom.x flags=(attach_disconnected) { file, }\n",
                &[NoSignal],
            ),
            (
                "profile custom.x flags=(attach_disconnected, mediate_deleted) {\n /{a,b} rix, signal (send) , }\n",
                &[NoSignal],
            ),
            (
                "profile custom.x flags=(attach_disconnected){ file, signal (receive) peer=runc, }\n",
                &[NoSignal],
            ),
            (
                "profile custom.x flags=(attach_disconnected) { file, deny signal, }\n",
                &[NoSignal],
            ),
            (
                "profile custom.x flags=(attach_disconnected) { signal, /** rw, deny /bin/sh x, # /a ix,\n }\n",
                &[NothingExecutable],
            ),
            (
                "profile custom.x flags=(attach_disconnected) { signal, profile kid { /a ix, } }\n",
                &[NothingExecutable],
            ),
            (
                "profile custom.x flags=(attach_disconnected) { signal, include <abstractions/loop> }\n",
                &[NothingExecutable],
            ),
            (
                "profile custom.x flags=(attach_disconnected) { signal, owner @{HOME}/.Private/** mrixwlk, }\n",
                &[NothingExecutable],
            ),
            (
                "abi <abi/3.0>,\n@{A}=/x /y\nprofile \"custom x\" { signal, file, }\n",
                &[NotDisconnected],
            ),
            ("/usr/bin/foo { signal, file, }\n", &[NotDisconnected]),
        ] {
            assert_eq!(kinds(text), said, "{text}");
        }
    }

    #[test]
    fn what_does_not_hurt_is_not_said() {
        for text in [
            "profile custom.x flags=(attach_disconnected) { include <abstractions/base>\n file, }\n",
            "profile custom.x flags=(attach_disconnected) {\n #include <abstractions/base>\n /bin/sh rix,\n}\n",
            "profile custom.x flags=(attach_disconnected) { signal (send, receive) set=(term, kill) peer=\"unconfined\", owner /** rwix, }\n",
            "profile custom.x flags=(attach_disconnected) { signal receive peer=**, audit ix /bin/*, }\n",
            "profile custom.x flags=(attach_disconnected) { signal peer=@{X}, /a Px -> custom.{y,z}, }\n",
            "profile custom.x flags=(attach_disconnected) { allow all, }\n",
            "profile custom.x flags=(complain) { }\n",
            "profile custom.x (unconfined) { }\n",
            // Not understood.
            "profile custom.x { if $a { file, } }\n",
            "profile custom.x { include <nope> }\n",
            "profile custom.x { \"/a\n",
            "profile custom.x { owner { /a r, } }\n",
            "}{",
            "",
        ] {
            assert_eq!(kinds(text), [], "{text}");
        }
    }

    #[test]
    fn each_profile_has_its_own_and_children_have_none() {
        let text = "profile custom.a { }\nprofile custom.b flags=(attach_disconnected) { file, signal,\n ^hat { } hat h2 { /a r, } /bin/x { } }\n";
        let advice = advise(text, &mut |_| None);
        assert!(
            advice.iter().all(|advice| advice.profile == "custom.a"),
            "{advice:?}"
        );
        assert_eq!(advice.len(), 3);
    }
}

//! Which files a text includes, and what is in them.
//!
//! Taken from the compiler's scanner (`parser_lex.l`, parsers 3 and 4): `include` and a blank, or
//! `#include` and anything, opens a file wherever a new word may begin, on any line, whatever
//! stands before; the file's name may follow on a later line. `abi` opens one too. What may be an
//! include counts as one here, so that none slips through; see [`Comment`] for what does not.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::OFlags;

use crate::profile::{Digest, Refusal, RefusalKind, quoted};

/// Files that one text may include, directly or not. A whole distribution's tree is 300.
const FILES_LIMIT: usize = 2000;

/// Different lists of includes that are remembered: who writes texts could make each of them large.
const CLOSURES_LIMIT: usize = 16;

/// Bytes of an included file that are looked at.
const BYTES_LIMIT: u64 = 1024 * 1024;

/// The files under a base folder, each read once.
pub(crate) struct Includes {
    base: PathBuf,
    read: HashMap<String, Rc<Included>>,
    /// What is included by those that include these: most texts include the same.
    closures: HashMap<Vec<String>, Rc<Closure>>,
}

/// What a text includes, directly or not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closure {
    /// Each file and folder by its path under the base folder, with the digest of its contents;
    /// those that are not there too, since they may appear.
    pub(crate) files: BTreeMap<String, Option<Digest>>,
    /// The digest of all that.
    pub(crate) digest: Digest,
}

impl Closure {
    fn new(files: BTreeMap<String, Option<Digest>>) -> Self {
        let parts = files.iter().flat_map(|(path, digest)| {
            let digest = digest.as_ref().map_or(&b""[..], AsRef::as_ref);
            [path.as_bytes(), digest]
        });
        let digest = Digest::of_parts(parts);
        Self { files, digest }
    }
}

struct Included {
    /// None: it is not there, or no file that could be read.
    digest: Option<Digest>,
    includes: Vec<String>,
}

impl Includes {
    /// The includes under `base`, as they are from now on until this is dropped.
    pub(crate) fn new(base: impl Into<PathBuf>) -> Self {
        Self {
            base: base.into(),
            read: HashMap::new(),
            closures: HashMap::new(),
        }
    }

    /// Every file and folder that `text` includes.
    ///
    /// # Errors
    /// An include by absolute path, or with `..`, or with a backslash; too many files.
    pub(crate) fn of(&mut self, text: &str) -> Result<Rc<Closure>, Refusal> {
        let mut waiting = Vec::new();
        for include in scan(text) {
            if let Some(why) = include.objection() {
                return Err(Refusal::new(
                    RefusalKind::Include,
                    format!(
                        "line {}: includes {} {why}",
                        include.line,
                        quoted(include.path)
                    ),
                ));
            }
            if !include.in_comment {
                waiting.push(normal(include.path));
            }
        }
        waiting.sort_unstable();
        waiting.dedup();
        if let Some(closure) = self.closures.get(&waiting) {
            return Ok(Rc::clone(closure));
        }
        let closure = Rc::new(self.closure(waiting.clone())?);
        if self.closures.len() == CLOSURES_LIMIT {
            self.closures.clear();
        }
        self.closures.insert(waiting, Rc::clone(&closure));
        Ok(closure)
    }

    fn closure(&mut self, mut waiting: Vec<String>) -> Result<Closure, Refusal> {
        let mut found = BTreeMap::new();
        while let Some(path) = waiting.pop() {
            if found.contains_key(&path) {
                continue;
            }
            if found.len() == FILES_LIMIT {
                return Err(Refusal::new(
                    RefusalKind::Limit,
                    format!("includes more than {FILES_LIMIT} files"),
                ));
            }
            let included = self.read(&path);
            waiting.extend(included.includes.iter().cloned());
            found.insert(path, included.digest);
        }
        Ok(Closure::new(found))
    }

    /// The digest of what is at `path` under the base folder.
    pub(crate) fn digest_now(&mut self, path: &str) -> Option<Digest> {
        self.read(path).digest
    }

    /// The text at `path` under the base folder, for those who look into it.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let bytes = contents(self.open(path)?)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn read(&mut self, path: &str) -> Rc<Included> {
        if let Some(included) = self.read.get(path) {
            return Rc::clone(included);
        }
        let included = Rc::new(self.look(path));
        self.read.insert(path.to_owned(), Rc::clone(&included));
        included
    }

    fn look(&self, path: &str) -> Included {
        let nothing = Included {
            digest: None,
            includes: Vec::new(),
        };
        let Some(file) = self.open(path) else {
            return nothing;
        };
        if file.metadata().is_ok_and(|data| data.is_dir()) {
            let Ok(entries) = std::fs::read_dir(self.base.join(path)) else {
                return nothing;
            };
            let mut names: Vec<String> = entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect();
            names.sort();
            // The compiler does not descend: a folder in it is no include.
            let includes = names
                .iter()
                .map(|name| normal(&format!("{path}/{name}")))
                .filter(|path| self.base.join(path).is_file())
                .collect();
            return Included {
                digest: Some(Digest::of_parts(&names)),
                includes,
            };
        }
        let Some(bytes) = contents(file) else {
            return nothing;
        };
        let text = String::from_utf8_lossy(&bytes);
        Included {
            digest: Some(Digest::of(&bytes)),
            // The base folder is the administrator's: what its files name outside of it is as
            // trusted as they are, and not watched.
            includes: scan(&text)
                .filter(|include| !include.in_comment && include.objection().is_none())
                .map(|include| normal(include.path))
                .collect(),
        }
    }

    /// A regular file or a folder. Nothing that blocks is waited for.
    fn open(&self, path: &str) -> Option<File> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(flags.bits()).ok()?)
            .open(self.base.join(path))
            .ok()?;
        let data = file.metadata().ok()?;
        (data.is_file() || data.is_dir()).then_some(file)
    }
}

fn contents(file: File) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(BYTES_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// One spelling for one path; `path` is relative and without `..`.
fn normal(path: &str) -> String {
    let parts: Vec<_> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    parts.join("/")
}

/// What may be an include.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Include<'a> {
    /// From 1.
    pub(crate) line: usize,
    /// As it stands there, without quotes or brackets.
    pub(crate) path: &'a str,
    /// Most likely not meant, but the compiler could be brought to obey.
    pub(crate) in_comment: bool,
}

impl Include<'_> {
    fn objection(&self) -> Option<&'static str> {
        if self.path.starts_with('/') {
            return Some(if self.in_comment {
                "in a comment that the compiler may take for more: put it into other words"
            } else {
                "by absolute path: only files under the base folder may be included, as <abstractions/base>"
            });
        }
        if self.path.split('/').any(|part| part == "..") {
            return Some("with '..': only files under the base folder may be included");
        }
        self.path
            .contains('\\')
            .then_some("with a backslash, which can hide a path: write it without")
    }
}

/// Whether a line is a comment for the compiler too.
///
/// A line that begins with `#` is none where a rule or a list that began before goes on, or a name
/// is awaited: after `/foo px ->`, the line `# include /etc/shadow` reads that file (seen).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comment {
    No,
    /// It begins with `#`, but something may go on.
    Perhaps,
    /// It is, unless a comma, a bracket or a quote before ends what may go on.
    UnlessEnded,
    Yes,
}

/// Everything in `text` that the compiler could take for an include, in no special order.
pub(crate) fn scan(text: &str) -> impl Iterator<Item = Include<'_>> {
    let some = WORDS.iter().any(|word| text.contains(word));
    let comments = if some { comments(text) } else { Vec::new() };
    WORDS.into_iter().flat_map(move |word| {
        let comments = comments.clone();
        text.match_indices(word).filter_map(move |(at, _)| {
            let path = path_after(text, at, word)?;
            let line = text[..at].matches('\n').count();
            let begin = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let before = &text[begin..at];
            match comments.get(line)? {
                Comment::Yes => return None,
                Comment::UnlessEnded if !may_end(before) => return None,
                _ => {}
            }
            Some(Include {
                line: line + 1,
                path,
                in_comment: comments[line] != Comment::No,
            })
        })
    })
}

/// What makes the compiler open a file.
const WORDS: [&str; 2] = ["include", "abi"];

/// Whether `line` has what can end a rule, a list, a condition or a string.
fn may_end(line: &str) -> bool {
    line.bytes().any(|byte| b",){\"".contains(&byte))
}

fn comments(text: &str) -> Vec<Comment> {
    let mut kind = Comment::Yes;
    text.lines()
        .map(|line| {
            let line = line.trim();
            let this = if !line.starts_with('#') || line.starts_with("#include") {
                Comment::No
            } else {
                kind
            };
            if !line.is_empty() && (this == Comment::No || kind != Comment::Yes) {
                let quiet = if this == Comment::No {
                    line.ends_with([',', '{', '}']) || is_plain_include(line)
                } else {
                    kind == Comment::UnlessEnded
                        && (!may_end(line)
                            || !["include", "exists", ">", "+", "="]
                                .iter()
                                .any(|word| line.contains(word)))
                };
                kind = if quiet {
                    Comment::UnlessEnded
                } else {
                    Comment::Perhaps
                };
            }
            this
        })
        .collect()
}

fn is_plain_include(line: &str) -> bool {
    let line = line.trim_start_matches('#');
    line.starts_with("include")
        && line.ends_with('>')
        && line.matches('>').count() == 1
        && line.contains('<')
}

/// The path that the compiler would read after the `word` at byte `at`, if it would.
fn path_after<'a>(text: &'a str, at: usize, word: &str) -> Option<&'a str> {
    let before = text[..at].chars().next_back();
    let rest = &text[at + word.len()..];
    if word == "abi" {
        let goes_on = |c: char| c.is_alphanumeric() || c == '_';
        if before.is_some_and(|c| goes_on(c) || "/<.-".contains(c)) || rest.starts_with(goes_on) {
            return None;
        }
    } else if before == Some('/') || before != Some('#') && !rest.starts_with([' ', '\t']) {
        return None;
    }
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut rest = rest.trim_start_matches(blank);
    if let Some(after) = rest.strip_prefix("if")
        && let Some(after) = after.trim_start_matches(blank).strip_prefix("exists")
        && after.starts_with(blank)
    {
        rest = after.trim_start_matches(blank);
    }
    let path = if let Some(inner) = rest.strip_prefix("<\"").or_else(|| rest.strip_prefix('"')) {
        inner.split('"').next()
    } else if let Some(inner) = rest.strip_prefix('<') {
        inner.split(['>', '\n']).next()
    } else {
        rest.split(|c| blank(c) || "\"!<>".contains(c)).next()
    };
    let path = path?.trim().trim_matches('"').trim_end_matches(',').trim();
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(name: &str) -> PathBuf {
        let base =
            std::env::temp_dir().join(format!("armorer-includes-{}-{name}", std::process::id()));
        fs::create_dir_all(base.join("abstractions/base.d")).unwrap();
        fs::write(
            base.join("abstractions/base"),
            "include if exists <abstractions/base.d>\n#include <abi/3.0>\n",
        )
        .unwrap();
        fs::write(
            base.join("abstractions/base.d/local"),
            "include <abstractions/base>\n",
        )
        .unwrap();
        base
    }

    /// Each was opened by parser 3.0.8 or 4.1.0.
    #[test]
    fn what_the_compiler_would_read_is_refused() {
        for text in [
            "include \"/etc/shadow\"",
            "include /etc/shadow",
            "profile x {include\t/etc/shadow\n}",
            "#include /etc/shadow",
            "#include\n\n/etc/shadow\n",
            "#include/etc/shadow\n",
            "include if exists \"/etc/shadow\"",
            "include if\texists /etc/shadow",
            "include <\"/etc/shadow\">",
            "include </etc/shadow>",
            "include < /etc/shadow>",
            "include <../shadow>",
            "include <a/../../shadow>",
            "include \"\\057etc/shadow\"",
            "abi\"/etc/shadow\",",
            "abi/etc/shadow,",
            "abi </etc/shadow>,",
            "profile x {\n priority=1include /etc/shadow\n}",
            "profile x {\n mount \n# , include /etc/shadow\n}",
            "profile x {\n /foo px -> \n# include /etc/shadow\n}",
            "profile x {\n /a r,\n signal (send,\n# receive) , include /etc/shadow\n}",
            "profile x { \"/a\nb\" r,\n signal\n # x, include /etc/shadow\n}",
            "profile x {\n /a r,\n # ), ->\n # include /etc/shadow\n}",
        ] {
            let refusal = Includes::new("/nowhere").of(text).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Include, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_taken() {
        for text in [
            "# Copyright, (c): does not include /etc/shadow\nprofile x {\n}\n",
            "profile x {\n  # we include /etc/foo here\n  # and include /etc/bar\n  /a r,\n  # include /b\n}\n",
            "include <tunables/global>\n# must include /etc/foo\nprofile x {\n}\n",
            "profile x {\n  /usr/include r,\n /usr/include/** r,\n  /lib/abi/ r,\n /x/abi /,\n}\n",
            "abi <abi/3.0>,\n",
        ] {
            assert!(Includes::new("/nowhere").of(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn includes_of_includes_are_found_and_so_is_what_is_missing() {
        let base = tree("closure");
        let text = "abi <abi/4.0>,\nprofile x { include <abstractions/base> }\n";
        let mut includes = Includes::new(&base);
        let closure = includes.of(text).unwrap();
        let seen: Vec<_> = closure
            .files
            .iter()
            .map(|(path, digest)| (path.as_str(), digest.is_some()))
            .collect();
        assert_eq!(
            seen,
            [
                ("abi/3.0", false),
                ("abi/4.0", false),
                ("abstractions/base", true),
                ("abstractions/base.d", true),
                ("abstractions/base.d/local", true),
            ]
        );
        fs::write(base.join("abstractions/base.d/local"), "/b r,\n").unwrap();
        fs::write(base.join("abstractions/base.d/new"), "").unwrap();
        let mut now = Includes::new(&base);
        let changed: Vec<_> = closure
            .files
            .iter()
            .filter(|(path, digest)| now.digest_now(path) != **digest)
            .map(|(path, _)| path.as_str())
            .collect();
        assert_eq!(
            changed,
            ["abstractions/base.d", "abstractions/base.d/local"]
        );
        assert_ne!(now.of(text).unwrap().digest, closure.digest);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn what_is_remembered_of_one_text_is_not_taken_for_another_ones() {
        let base = tree("remembered");
        let mut includes = Includes::new(&base);
        let texts: Vec<_> = (0..3 * CLOSURES_LIMIT)
            .map(|n| format!("include <abstractions/base>\ninclude <none/{n}>\n"))
            .chain(["include <abstractions/base>\n".into(), String::new()])
            .collect();
        for text in texts.iter().chain(&texts) {
            let closure = includes.of(text).unwrap();
            assert_eq!(closure, Includes::new(&base).of(text).unwrap(), "{text}");
            assert!(includes.closures.len() <= CLOSURES_LIMIT);
        }
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn what_blocks_is_not_waited_for() {
        let base = tree("fifo");
        let status = rustix::fs::mknodat(
            rustix::fs::CWD,
            base.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        );
        status.unwrap();
        let closure = Includes::new(&base).of("include <pipe>\n").unwrap();
        assert_eq!(closure.files, BTreeMap::from([("pipe".to_owned(), None)]));
        fs::remove_dir_all(base).unwrap();
    }
}

//! The files that a text includes, and their digests.
//!
//! Taken from the compiler's scanner (`parser_lex.l`, parsers 3 to 5): `include` and a blank, or
//! `#include` and anything, opens a file wherever a word may begin; the file's name may follow on a
//! later line. `abi` opens one too. Text that may be an include counts as one, also in a comment: after
//! `/foo px ->`, the line `# include <x>` reads a file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::{io::ErrorKind::PermissionDenied, os::fd::AsRawFd as _, os::unix::fs::MetadataExt as _};

use crate::fs::{open, read_open};
use crate::outcome::Refusal;
use crate::profile::{Digest, is_skipped, quoted};

/// Files that one text may include, directly or not. A whole distribution's tree is 300.
const FILES_LIMIT: usize = 2000;

/// Bytes of an included file that are read.
const BYTES_LIMIT: u64 = 1024 * 1024;

/// Bytes of an include's path that are looked at (`PATH_MAX`).
const PATH_LIMIT: usize = 4096;

/// Each file and folder by its path under the base folder, with the digest of its contents. A path
/// where nothing is has none: a file may appear there.
pub(crate) type Closure = BTreeMap<String, Option<Digest>>;

/// The files under a base folder, each read once.
pub(crate) struct Includes {
    base: PathBuf,
    files: HashMap<String, Included>,
    /// Whether everybody may search a folder.
    searchable: HashMap<PathBuf, bool>,
}

struct Included {
    /// None where there is no file.
    digest: Option<Digest>,
    /// The paths that it includes, or why the compiler cannot read it, though it exists.
    includes: Result<Vec<String>, &'static str>,
}

impl Includes {
    /// The includes under `base`, as they are from now on until this is dropped.
    pub(crate) fn new(base: &Path) -> Self {
        Self {
            base: base.canonicalize().unwrap_or_else(|_| base.to_owned()),
            files: HashMap::new(),
            searchable: HashMap::new(),
        }
    }

    /// Every file and folder that `text` includes, directly or not, and why the text is refused: an
    /// include by absolute path, with `..` or with a backslash; a file that exists and that the compiler
    /// would pass over; too many files. Up to that reason the files are there, too.
    pub(crate) fn of(&mut self, text: &str) -> (Closure, Option<Refusal>) {
        let (mut found, mut bytes) = (Closure::new(), 0);
        for include in scan(text) {
            // Paths are recorded; those that do not overlap are together no longer than the text.
            bytes += include.path.len();
            let reason = match objection(include.path) {
                _ if bytes > text.len() => {
                    Some("paths that run into each other: end each with its > or quote".into())
                }
                Some(_) if include.in_comment => None,
                Some(reason) => Some(format!("{} {reason}", quoted(include.path))),
                None => self.follow(normal(include.path), &mut found).err(),
            };
            if let Some(reason) = reason {
                let reason = format!("includes {reason}");
                return (found, Some(Refusal::at("include", include.line, reason)));
            }
        }
        (found, None)
    }

    /// Adds to `found` the file or folder at `path` and its includes; the error is why the text is refused.
    fn follow(&mut self, path: String, found: &mut Closure) -> Result<(), String> {
        let mut waiting = vec![path];
        while let Some(path) = waiting.pop() {
            if found.contains_key(&path) {
                continue;
            }
            if found.len() == FILES_LIMIT {
                return Err(format!("more than {FILES_LIMIT} files"));
            }
            let included = self.read(&path);
            found.insert(path.clone(), included.digest);
            match &included.includes {
                Ok(includes) => waiting.extend_from_slice(includes),
                Err(obstacle) => {
                    let path = quoted(&path);
                    return Err(format!(
                        "{path}, which the compiler cannot read ({obstacle}): make it readable for all users"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether all of `closure` is as it was.
    pub(crate) fn are_current(&mut self, closure: &Closure) -> bool {
        let mut files = closure.iter();
        files.all(|(path, digest)| self.read(path).digest == *digest)
    }

    fn read(&mut self, path: &str) -> &Included {
        if !self.files.contains_key(path) {
            let (digest, includes) = match self.look(path) {
                Ok((digest, includes)) => (digest, Ok(includes)),
                // Another digest than that of no file, so that the next pass notices its removal.
                Err(obstacle) => (Some(Digest::of(obstacle.as_bytes())), Err(obstacle)),
            };
            let included = Included { digest, includes };
            self.files.insert(path.to_owned(), included);
        }
        &self.files[path]
    }

    /// Digest and includes of the file or folder at `path`, or why the compiler cannot read it.
    fn look(&mut self, path: &str) -> Result<(Option<Digest>, Vec<String>), &'static str> {
        let file = match open(&self.base.join(path)) {
            Ok(file) => file,
            Err(error) if error.kind() == PermissionDenied => return Err("permission denied"),
            Err(_) => return Ok((None, Vec::new())),
        };
        let data = file.metadata().map_err(|_| "cannot be examined")?;
        if let Some(obstacle) = self.obstacle(&file, &data) {
            return Err(obstacle);
        }
        if data.is_dir() {
            return Ok(self.folder(path));
        }
        let read = || read_open(file, data.len(), BYTES_LIMIT).ok();
        let bytes = data.is_file().then(read).flatten();
        let bytes = bytes.ok_or("not a regular file")?;
        // The base folder is the administrator's: files outside that its files name are as trusted,
        // and not watched.
        let text = String::from_utf8_lossy(&bytes);
        let includes = scan(&text).into_iter().map(|include| include.path);
        let includes = includes.filter(|path| objection(path).is_none());
        Ok((Some(Digest::of(&bytes)), includes.map(normal).collect()))
    }

    /// A folder's files count, and no folder in it: the compiler does not descend.
    fn folder(&self, path: &str) -> (Option<Digest>, Vec<String>) {
        let entries = fs::read_dir(self.base.join(path)).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| !is_skipped(name.as_bytes())).collect();
        names.sort();
        let files = names.iter().map(|name| normal(&format!("{path}/{name}")));
        let files = files.filter(|path| !self.base.join(path).is_dir());
        (Some(Digest::of_parts(&names)), files.collect())
    }

    /// Why a compiler without rights cannot open `file`, which is open here. As another user than root,
    /// armorer has opened it with the compiler's own rights.
    fn obstacle(&mut self, file: &File, data: &Metadata) -> Option<&'static str> {
        let place = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        if !place.starts_with(&self.base) {
            return Some("a link to outside the base folder");
        }
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let needed = if data.is_dir() { 0o005 } else { 0o004 };
        let searchable = place.ancestors().skip(1).all(|folder| {
            let known = self.searchable.entry(folder.to_owned());
            *known
                .or_insert_with(|| fs::metadata(folder).is_ok_and(|data| data.mode() & 0o001 != 0))
        });
        let closed = data.mode() & needed != needed || !searchable;
        closed.then_some("the mode of the file, or of a folder above")
    }
}

/// One spelling for one path; `path` is relative and without `..`.
fn normal(path: &str) -> String {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.collect::<Vec<_>>().join("/")
}

/// A possible include.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Include<'a> {
    /// From 1.
    pub(super) line: u32,
    /// Without quotes or brackets.
    pub(super) path: &'a str,
    /// Behind a `#`, and most likely not meant.
    pub(super) in_comment: bool,
}

/// Why no text may include `path`.
fn objection(path: &str) -> Option<&'static str> {
    if path.starts_with('/') {
        Some(
            "by absolute path: only files under the base folder may be included, as <abstractions/base>",
        )
    } else if path.split('/').any(|part| part == "..") {
        Some("with '..': only files under the base folder may be included")
    } else if path.contains('\\') {
        Some("with a backslash, which can hide a path: write it without")
    } else {
        None
    }
}

/// Everything in `text` that the compiler could take for an include, by place.
pub(super) fn scan(text: &str) -> Vec<Include<'_>> {
    let mut includes = Vec::new();
    let (mut line, mut start, mut sharp, mut looked) = (1, 0, None, 0);
    // Both words have one `i`, which is found faster than they are.
    for (i, _) in text.match_indices('i') {
        let (at, word) = match &text[..i] {
            _ if text[i..].starts_with("include") => (i, "include"),
            before if before.ends_with("ab") => (i - 2, "abi"),
            _ => continue,
        };
        for (newline, _) in text[looked..at].match_indices('\n') {
            (line, start, sharp) = (line + 1, looked + newline + 1, None);
        }
        let from = start.max(looked);
        sharp = sharp.or_else(|| Some(from + text[from..at].find('#')?));
        looked = at;
        if let Some(path) = path_after(&text[..at], word, &text[at + word.len()..]) {
            // The sharp of `#include` begins no comment.
            let before = match word {
                "include" => text[..at].trim_end_matches('#').len(),
                _ => at,
            };
            includes.push(Include {
                line,
                path,
                in_comment: sharp.is_some_and(|sharp| sharp < before),
            });
        }
    }
    includes
}

/// The path that the compiler would read after `word`, if it would; `before` and `rest` are around it.
fn path_after<'a>(before: &str, word: &str, rest: &'a str) -> Option<&'a str> {
    let before = before.chars().next_back();
    let begins = if word == "include" {
        before == Some('#') || before != Some('/') && rest.starts_with([' ', '\t'])
    } else {
        let goes_on = |c: char| c.is_alphanumeric() || c == '_';
        let joined = before.is_some_and(|c| goes_on(c) || "/<.-".contains(c));
        !joined && !rest.starts_with(goes_on)
    };
    if !begins {
        return None;
    }
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let trimmed = |rest: &'a str| rest.trim_start_matches(blank);
    let rest = trimmed(&rest[..rest.floor_char_boundary(PATH_LIMIT)]);
    let condition = rest.strip_prefix("if").map(trimmed);
    let condition = condition.and_then(|rest| rest.strip_prefix("exists"));
    let after = condition.filter(|rest| rest.starts_with(blank));
    let rest = trimmed(after.unwrap_or(rest));
    let path = if let Some(inner) = rest.strip_prefix("<\"").or_else(|| rest.strip_prefix('"')) {
        inner.split('"').next()?
    } else if let Some(inner) = rest.strip_prefix('<') {
        inner.split('>').next()?.split('\n').next()?
    } else {
        rest.split(|c| blank(c) || "\"!<>".contains(c)).next()?
    };
    let path = path.trim().trim_matches('"').trim_end_matches(',').trim();
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests;

//! The files that a text includes, and their digests.
//!
//! Taken from the compiler's scanner (`parser_lex.l`, parsers 3 to 5): `include` and a blank, or
//! `#include` and anything, opens a file wherever a word may begin; the file's name may follow on a
//! later line. `abi` opens one too. Whatever may be an include counts as one, also in a comment: after
//! `/foo px ->`, the line `# include <x>` reads a file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::OFlags;

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
    files: HashMap<String, Rc<Included>>,
    /// Whether everybody may search a folder.
    searchable: HashMap<PathBuf, bool>,
}

#[derive(Default)]
struct Included {
    digest: Option<Digest>,
    includes: Vec<String>,
    /// Why the compiler cannot read it, though it exists.
    unreadable: Option<&'static str>,
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
        let refused = |line, reason: String| Some(Refusal::at("include", line, reason));
        let (mut waiting, mut found) = (Vec::new(), Closure::new());
        for include in scan(text) {
            match objection(include.path) {
                Some(_) if include.in_comment => {}
                Some(reason) => {
                    let reason = format!("includes {} {reason}", quoted(include.path));
                    return (found, refused(include.line, reason));
                }
                None => waiting.push((normal(include.path), include.line)),
            }
        }
        while let Some((path, line)) = waiting.pop() {
            if found.contains_key(&path) {
                continue;
            }
            if found.len() == FILES_LIMIT {
                let reason = format!("includes more than {FILES_LIMIT} files");
                return (found, refused(line, reason));
            }
            let included = self.read(&path);
            if let Some(reason) = included.unreadable {
                let shown = quoted(&path);
                found.insert(path, included.digest);
                let reason = format!(
                    "includes {shown}, which exists and which the compiler cannot read ({reason}): make it readable for everybody"
                );
                return (found, refused(line, reason));
            }
            waiting.extend(included.includes.iter().map(|path| (path.clone(), line)));
            found.insert(path, included.digest);
        }
        (found, None)
    }

    /// Whether all of `closure` is as it was.
    pub(crate) fn stand(&mut self, closure: &Closure) -> bool {
        let mut files = closure.iter();
        files.all(|(path, digest)| self.read(path).digest == *digest)
    }

    fn read(&mut self, path: &str) -> Rc<Included> {
        if let Some(included) = self.files.get(path) {
            return Rc::clone(included);
        }
        let included = Rc::new(self.look(path));
        self.files.insert(path.to_owned(), Rc::clone(&included));
        included
    }

    fn look(&mut self, path: &str) -> Included {
        let unreadable = |reason: &'static str| Included {
            // Another one than that of no file, so that the next pass notices its removal.
            digest: Some(Digest::of(reason.as_bytes())),
            unreadable: Some(reason),
            ..Included::default()
        };
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(self.base.join(path));
        let mut file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return unreadable("permission denied");
            }
            Err(_) => return Included::default(),
        };
        let Ok(data) = file.metadata() else {
            return unreadable("it cannot be looked at");
        };
        if let Some(reason) = self.obstacle(&file, data.mode(), data.is_dir()) {
            return unreadable(reason);
        }
        if data.is_dir() {
            return self.folder(path);
        }
        let mut bytes = Vec::new();
        if !data.is_file()
            || file
                .by_ref()
                .take(BYTES_LIMIT)
                .read_to_end(&mut bytes)
                .is_err()
        {
            return unreadable("it is no regular file");
        }
        let text = String::from_utf8_lossy(&bytes);
        // The base folder is the administrator's: what its files name outside of it is as trusted as
        // they are, and not watched.
        let includes = scan(&text).filter(|include| objection(include.path).is_none());
        Included {
            digest: Some(Digest::of(&bytes)),
            includes: includes.map(|include| normal(include.path)).collect(),
            unreadable: None,
        }
    }

    /// A folder's files count, and no folder in it: the compiler does not descend.
    fn folder(&self, path: &str) -> Included {
        let entries = std::fs::read_dir(self.base.join(path))
            .into_iter()
            .flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| !is_skipped(name.as_bytes())).collect();
        names.sort();
        let files = names.iter().map(|name| normal(&format!("{path}/{name}")));
        Included {
            digest: Some(Digest::of_parts(&names)),
            includes: files
                .filter(|path| !self.base.join(path).is_dir())
                .collect(),
            unreadable: None,
        }
    }

    /// Why a compiler without rights cannot open what is open here. As another user than root,
    /// armorer has opened it with the compiler's own rights.
    fn obstacle(&mut self, file: &File, mode: u32, is_folder: bool) -> Option<&'static str> {
        let place = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        if !place.starts_with(&self.base) {
            return Some("a link that leads out of the base folder");
        }
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let needed = if is_folder { 0o005 } else { 0o004 };
        let searchable = place.ancestors().skip(1).all(|folder| {
            *self.searchable.entry(folder.to_owned()).or_insert_with(|| {
                std::fs::metadata(folder).is_ok_and(|data| data.mode() & 0o001 != 0)
            })
        });
        (mode & needed != needed || !searchable).then_some("its mode, or that of a folder above it")
    }
}

/// One spelling for one path; `path` is relative and without `..`.
fn normal(path: &str) -> String {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.collect::<Vec<_>>().join("/")
}

/// What may be an include.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Include<'a> {
    /// From 1.
    pub(super) line: u32,
    /// Without quotes or brackets.
    pub(super) path: &'a str,
    /// Behind a `#`, and most likely not meant.
    pub(super) in_comment: bool,
}

fn objection(path: &str) -> Option<&'static str> {
    if path.starts_with('/') {
        return Some(
            "by absolute path: only files under the base folder may be included, as <abstractions/base>",
        );
    }
    if path.split('/').any(|part| part == "..") {
        return Some("with '..': only files under the base folder may be included");
    }
    path.contains('\\')
        .then_some("with a backslash, which can hide a path: write it without")
}

/// Everything in `text` that the compiler could take for an include, by place.
pub(super) fn scan(text: &str) -> impl Iterator<Item = Include<'_>> {
    let (mut at, mut lines) = (0, text.split_inclusive('\n').enumerate());
    let mut current = lines.next();
    std::iter::from_fn(move || {
        loop {
            let (number, line) = current?;
            if let Some(word) = next_word(&line[at..]) {
                let begin = at + word;
                at = begin + 1;
                let offset = line.as_ptr() as usize - text.as_ptr() as usize;
                if let Some(path) = path_at(text, offset + begin) {
                    let comment = line[..begin].trim_end_matches('#').contains('#');
                    let is_sharp = line[..begin].ends_with('#');
                    let in_comment = comment || (is_sharp && line[begin..].starts_with("abi"));
                    return Some(Include {
                        line: u32::try_from(number + 1).unwrap_or(u32::MAX),
                        path,
                        in_comment,
                    });
                }
            } else {
                at = 0;
                current = lines.next();
            }
        }
    })
}

/// Where the next word begins that may open a file.
fn next_word(line: &str) -> Option<usize> {
    let words = ["include", "abi"].into_iter();
    words.filter_map(|word| line.find(word)).min()
}

/// The path that the compiler would read after the word at byte `at`, if it would.
fn path_at(text: &str, at: usize) -> Option<&str> {
    let before = text[..at].chars().next_back();
    let rest = &text[at..];
    let rest = if let Some(rest) = rest.strip_prefix("include") {
        if before == Some('/') || before != Some('#') && !rest.starts_with([' ', '\t']) {
            return None;
        }
        rest
    } else {
        let rest = &rest["abi".len()..];
        let goes_on = |c: char| c.is_alphanumeric() || c == '_';
        if before.is_some_and(|c| goes_on(c) || "/<.-".contains(c)) || rest.starts_with(goes_on) {
            return None;
        }
        rest
    };
    let mut end = rest.len().min(PATH_LIMIT);
    while !rest.is_char_boundary(end) {
        end -= 1;
    }
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut rest = rest[..end].trim_start_matches(blank);
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

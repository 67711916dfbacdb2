//! Names, digests and texts of profiles: parsed once, trusted afterwards. Pure.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A profile's name is less than this many bytes long. The kernel shows a profile as a folder
/// NAME.SERIAL, whose name may have 255 bytes, and refuses a longer one: such a name loads on a node
/// that has loaded few profiles, and not on another (security/apparmor/apparmorfs.c,
/// `__aafs_profile_mkdir`).
pub(crate) const NAME_LIMIT: usize = 240;

/// `text` on one line and without anything a terminal would obey, at most 500 characters.
pub(crate) fn printable(text: &str) -> String {
    shown(&text.trim_end().replace(['\n', '\t'], " "), 500)
}

/// `name` in quotes, printable, and cut where it is too long for a line.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", shown(name, 80))
}

fn shown(text: &str, limit: usize) -> String {
    let mut line = String::new();
    for c in text.chars().take(limit) {
        match is_control(c) {
            true => line.extend(c.escape_unicode()),
            false => line.push(c),
        }
    }
    line.extend(text.chars().nth(limit).map(|_| '…'));
    line
}

/// The one of `known` of whose first word `word` is most likely a misspelling.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let first = |known: &'a str| known.split(' ').next().unwrap_or_default();
    let distance = |known| (strsim::damerau_levenshtein(word, first(known)), known);
    let (distance, known) = known.into_iter().map(distance).min()?;
    (distance <= 1 + word.chars().count() / 4).then_some(known)
}

/// Whether a terminal obeys `c`: control characters, and those that reorder the text after them.
pub(crate) fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The name of a file that holds a profile, which is the profile's name with `/` written as `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ProfileName(String);

impl ProfileName {
    /// Takes `name` if it can be a file name and a profile name; the prefix is a rule.
    ///
    /// # Errors
    /// Empty, 240 bytes or more, a `/`, a leading dot, `:` or `&` in front (policy namespaces and
    /// stacks), a control character, a space at an end.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let namespace = "names another policy namespace";
        let slash = "holds a slash: a file is named like its profile, with / written as .";
        let problems = [
            (name.is_empty(), "is empty"),
            (name.len() >= NAME_LIMIT, "is longer than 239 bytes"),
            (name.contains('/'), slash),
            (name.starts_with('.'), "starts with a dot"),
            (name.starts_with([':', '&']), namespace),
            (name.chars().any(is_control), "holds a control character"),
            (name.trim() != name, "starts or ends with a space"),
        ];
        match problems.iter().find(|(is_wrong, _)| *is_wrong) {
            None => Ok(Self(name.to_owned())),
            Some((_, problem)) => Err(format!("the name {} {problem}", quoted(name))),
        }
    }

    /// The name as the file system spells it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ProfileName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether `apparmor_parser` passes over a file of this name in a folder, and so do we: dot files,
/// `README`, and leftovers of packagers, patch and editors. The names are those of
/// libapparmor's `_aa_is_blacklisted`.
pub(crate) fn is_skipped(name: &[u8]) -> bool {
    const SUFFIXES: &str = "~ .orig .rej .pacnew .pacsave .rpmnew .rpmsave \
        .dpkg-new .dpkg-old .dpkg-dist .dpkg-bak .dpkg-remove";
    let mut suffixes = SUFFIXES.split(' ');
    name.is_empty()
        || name.starts_with(b".")
        || name == b"README"
        || suffixes.any(|suffix| name.ends_with(suffix.as_bytes()))
}

/// The profile that `name` is a child of.
pub(crate) fn parent(name: &str) -> Option<&str> {
    name.split_once("//").map(|(parent, _)| parent)
}

/// Whether `name` is `profile` itself, or a child, hat or learning child of it.
pub(crate) fn is_within(name: &str, profile: &str) -> bool {
    name.strip_prefix(profile)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("//"))
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Digest(#[serde(with = "hex::serde")] [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of several parts; each part's length goes in, so that no two lists collide.
    pub(crate) fn of_parts<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            let part = part.as_ref();
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// The digest that `text` writes in 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).ok()?;
        Some(Self(digest))
    }

    /// Its first 12 hexadecimal digits.
    pub(crate) fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The mode of a loaded profile, as the kernel prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(strum::Display, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Mode {
    /// An access without a rule is denied.
    Enforce,
    /// An access without a rule is logged only.
    Complain,
    /// An access without a rule kills the process.
    Kill,
    /// An access without a rule is a question to a daemon.
    Prompt,
    /// No confinement.
    Unconfined,
    /// A stack of different modes.
    Mixed,
    /// A word this version does not know.
    #[serde(other)]
    Unknown,
}

impl Mode {
    /// The mode of the kernel's word.
    pub(crate) fn of(word: &str) -> Self {
        word.parse().unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_and_profiles_are_accepted() {
        let long = "x".repeat(239);
        for name in ["custom.a", "custom.a b", "a", "custom.ünï", &long] {
            assert_eq!(ProfileName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_mislead_are_refused() {
        let long = "x".repeat(240);
        for name in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "../x",
            ":ns:x",
            "&x",
            "a\nb",
            "a\u{1b}[2J",
            " a",
            "a ",
            "a\u{202e}b",
            &long,
        ] {
            let line = ProfileName::parse(name).unwrap_err();
            assert!(!line.contains(char::is_control), "{line}");
        }
    }

    #[test]
    fn a_digest_is_read_back_from_its_text() {
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::parse(text), Some(digest));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        for text in ["xyz", &"é".repeat(32), &"g".repeat(64), &"a".repeat(65)] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(Digest::of_parts(["ab", "c"]), Digest::of_parts(["a", "bc"]));
    }

    #[test]
    fn a_line_stays_one_line_and_no_terminal_obeys_it() {
        assert_eq!(printable("a\nb\u{1b}[31mc\n"), "a b\\u{1b}[31mc");
        assert_eq!(printable(&"x".repeat(600)).chars().count(), 501);
        assert_eq!(quoted("a\nb"), "\"a\\u{a}b\"");
    }

    #[test]
    fn children_are_within_and_siblings_are_not() {
        assert!(is_within("custom.a", "custom.a"));
        assert!(is_within("custom.a//kid", "custom.a"));
        assert!(is_within("custom.a//null-/bin/sh", "custom.a"));
        assert!(!is_within("custom.ab", "custom.a"));
        assert!(!is_within("custom.a/kid", "custom.a"));
    }

    #[test]
    fn a_misspelt_word_has_a_nearest_one_and_another_word_has_none() {
        let known = ["reconcile", "plan", "remove"];
        assert_eq!(nearest("reconsile", known), Some("reconcile"));
        assert_eq!(nearest("plna", known), Some("plan"));
        assert_eq!(nearest("restart", known), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn files_that_the_compiler_passes_over_in_a_folder_are_skipped() {
        for name in [
            "",
            ".a",
            "..data",
            "README",
            "a~",
            "a.dpkg-old",
            "a.dpkg-remove",
            "a.rpmnew",
            "a.orig",
            "a.pacsave",
        ] {
            assert!(is_skipped(name.as_bytes()), "{name}");
        }
        for name in ["a", "README.custom", "custom.dpkg", "~a", "#a#"] {
            assert!(!is_skipped(name.as_bytes()), "{name}");
        }
    }
}

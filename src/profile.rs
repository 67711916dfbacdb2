//! Names, digests and texts of profiles: parsed once, trusted afterwards. Pure.

use std::borrow::Borrow;
use std::fmt;

use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::word;

/// A profile's name is less than this many bytes long. The kernel shows a profile as a folder
/// NAME.SERIAL, whose name may have 255 bytes, and refuses what does not fit: a longer name loads on
/// a node that has loaded few profiles, and no more on another (security/apparmor/apparmorfs.c,
/// `__aafs_profile_mkdir`).
pub(crate) const NAME_LIMIT: usize = 240;

/// Why one profile is not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What kind of thing is wrong.
    pub(crate) kind: RefusalKind,
    /// One clean line, for a person: what is wrong, where, and what to do.
    pub(crate) message: String,
}

/// The kinds of refusal, stable words for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RefusalKind {
    /// The file's name, or a profile name in it, is not allowed.
    Name,
    /// The text is not UTF-8 or holds a NUL.
    Text,
    /// Too large, or too many.
    Limit,
    /// An include that leads outside the base folder.
    Include,
    /// The compiler says the text is wrong.
    Compile,
    /// The compiler took too long.
    CompileTimeout,
    /// The compiler was hindered, which says nothing about the text: the next pass tries again.
    NotCompiled,
    /// A profile in another policy namespace.
    Namespace,
    /// The profile attaches itself to programs.
    Attachment,
    /// The profile confines nobody (mode unconfined).
    Unconfined,
    /// The same profile from two places.
    Duplicate,
    /// The kernel did not take it.
    Kernel,
}

impl Refusal {
    /// A refusal whose message is made printable and put on one line.
    pub(crate) fn new(kind: RefusalKind, message: impl AsRef<str>) -> Self {
        Self {
            kind,
            message: printable(message.as_ref()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// `text` on one line and without anything a terminal would obey, at most 500 characters.
pub(crate) fn printable(text: &str) -> String {
    const LIMIT: usize = 500;
    let mut line = String::with_capacity(text.len().min(LIMIT));
    for (n, c) in text.trim_end().chars().enumerate() {
        if n == LIMIT {
            line.push('…');
            break;
        }
        if c == '\n' || c == '\t' {
            line.push(' ');
        } else if c.is_control() || is_bidi_control(c) {
            line.extend(c.escape_unicode());
        } else {
            line.push(c);
        }
    }
    line
}

/// The characters that reorder what follows them on the screen.
pub(crate) const fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The name of a profile that may be wanted: a file name and a kernel name at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ProfileName(String);

impl ProfileName {
    /// Takes `name` if it can be a file name and a profile name; the prefix is asked for elsewhere.
    ///
    /// # Errors
    /// Empty, 240 bytes or more, a `/`, a leading dot, `..`, `:` or `&` in front (policy
    /// namespaces), a control character.
    pub(crate) fn parse(name: &str) -> Result<Self, Refusal> {
        let refuse = |why: &str| {
            Err(Refusal::new(
                RefusalKind::Name,
                format!("the name {} {why}", quoted(name)),
            ))
        };
        if name.is_empty() {
            return refuse("is empty");
        }
        if name.len() >= NAME_LIMIT {
            return refuse(&format!(
                "has {} bytes: the limit is {}",
                name.len(),
                NAME_LIMIT - 1
            ));
        }
        if name.contains('/') {
            return refuse("holds a slash: a file's name is its profile's name");
        }
        if name.starts_with('.') {
            return refuse("starts with a dot");
        }
        if name.starts_with([':', '&']) {
            return refuse("names another policy namespace");
        }
        if name.chars().any(|c| c.is_control() || is_bidi_control(c)) {
            return refuse("holds a control character");
        }
        if name.trim() != name {
            return refuse("starts or ends with a space");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as the kernel and the file system spell it.
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

impl TryFrom<String> for ProfileName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name).map_err(|refusal| refusal.message)
    }
}

impl From<ProfileName> for String {
    fn from(name: ProfileName) -> Self {
        name.0
    }
}

/// `name` in quotes, printable, and cut where it is too long for a line.
pub(crate) fn quoted(name: &str) -> String {
    const LIMIT: usize = 80;
    let mut text = String::from("\"");
    for (n, c) in name.chars().enumerate() {
        if n == LIMIT {
            text.push('…');
            break;
        }
        if c.is_control() || is_bidi_control(c) {
            text.extend(c.escape_unicode());
        } else {
            text.push(c);
        }
    }
    text.push('"');
    text
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest([u8; 32]);

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
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Digest {
    /// The digest that `text` writes in 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let half = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            b'A'..=b'F' => Some(digit - b'A' + 10),
            _ => None,
        };
        let mut digest = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = half(pair[0])? << 4 | half(pair[1])?;
        }
        Some(Self(digest))
    }

    fn digits(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        digits
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.digits();
        serializer.serialize_str(std::str::from_utf8(&digits).map_err(S::Error::custom)?)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits();
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word::read(deserializer, "a SHA-256", Self::parse)
    }
}

/// The SHA-1 that a kernel without SHA-256 tells of a loaded blob, as it writes it: a name for what was
/// compared, never what is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Sha1(String);

impl Sha1 {
    /// The hash that `text` writes in 40 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let right = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        right.then(|| Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Sha1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word::read(deserializer, "a SHA-1", Self::parse)
    }
}

/// One file of a source, not looked into yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawProfile {
    /// The file's name, or the ConfigMap's key, as found.
    pub(crate) name: String,
    /// The source it came from, as the user named it.
    pub(crate) source: String,
    /// The text, or why there is none (too large, not UTF-8, a NUL).
    pub(crate) text: Result<String, Refusal>,
}

/// A text to be compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    /// For messages.
    pub(crate) name: &'a str,
    pub(crate) contents: &'a str,
    /// Where it comes from: texts of one source may share a compiler.
    pub(crate) source: &'a str,
}

/// Which version of an object of the API server this is. To be compared for equality only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) uid: String,
    pub(crate) resource_version: String,
}

/// What a profile's mode is, as the kernel prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// What is not allowed is denied.
    Enforce,
    /// What is not allowed is logged only.
    Complain,
    /// What is not allowed kills the process.
    Kill,
    /// What is not allowed is asked about.
    Prompt,
    /// Confines nobody.
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
        match word {
            "enforce" => Self::Enforce,
            "complain" => Self::Complain,
            "kill" => Self::Kill,
            "prompt" => Self::Prompt,
            "unconfined" => Self::Unconfined,
            "mixed" => Self::Mixed,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Enforce => "enforce",
            Self::Complain => "complain",
            Self::Kill => "kill",
            Self::Prompt => "prompt",
            Self::Unconfined => "unconfined",
            Self::Mixed => "mixed",
            Self::Unknown => "unknown",
        })
    }
}

/// Whether `name` is `profile` itself, or a child, hat or learning child of it.
pub(crate) fn is_within(name: &str, profile: &str) -> bool {
    name.strip_prefix(profile)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_files_and_profiles_are_taken() {
        for name in [
            "custom.a",
            "custom.a b",
            "a",
            "custom.ünï",
            &"x".repeat(239),
        ] {
            assert_eq!(ProfileName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_trick_are_refused() {
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
            let refusal = ProfileName::parse(name).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Name);
            assert!(!refusal.message.contains(char::is_control), "{refusal}");
        }
    }

    #[test]
    fn a_digest_is_read_back_from_its_text() {
        let digest = Digest::of(b"abc");
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let json = serde_json::to_string(&digest).unwrap();
        let read = serde_json::from_str::<Digest>;
        assert_eq!(read(&json).unwrap(), digest);
        for text in ["xyz", &"é".repeat(32), &"g".repeat(64), &"a".repeat(65)] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
        let error = read(r#""x\u001b""#).unwrap_err().to_string();
        assert!(
            error.contains("expected a SHA-256") && !error.contains('\u{1b}'),
            "{error}"
        );
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(Digest::of_parts(["ab", "c"]), Digest::of_parts(["a", "bc"]));
    }

    #[test]
    fn a_line_stays_one_line_and_no_terminal_obeys_it() {
        assert_eq!(printable("a\nb\u{1b}[31mc\n"), "a b\\u{1b}[31mc");
        assert_eq!(printable(&"x".repeat(600)).chars().count(), 501);
    }

    #[test]
    fn children_are_within_and_siblings_are_not() {
        assert!(is_within("custom.a", "custom.a"));
        assert!(is_within("custom.a//kid", "custom.a"));
        assert!(is_within("custom.a//null-/bin/sh", "custom.a"));
        assert!(!is_within("custom.ab", "custom.a"));
        assert!(!is_within("custom.a/kid", "custom.a"));
    }
}

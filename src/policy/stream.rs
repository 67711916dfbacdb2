//! The stream of compiled policy, from bytes to profiles.
//!
//! The format is the kernel's (`security/apparmor/policy_unpack.c`), little endian: a stream of
//! items, each a tag byte and a value, with an optional NAME item before it that names it. For
//! each member: `version` (U32), optionally `namespace` (STRING), then a STRUCT `profile`.

use super::automata::Automaton;
use super::{Content, Member, Profile};
use crate::profile::Mode;

/// In `version`: the member is loaded in complain mode, against its flags.
const FORCE_COMPLAIN: u32 = 0x800;

const COMPRESSED: &str = "the compiled policy is compressed, which armorer does not read: turn the compiler's compression off in parser.conf";

/// The profiles of `stream`, in its order.
///
/// # Errors
/// A reason for people, where the kernel would not take `stream` either, or where this reader cannot
/// vouch for its contents.
pub(crate) fn profiles(stream: &[u8]) -> Result<Vec<Profile<'_>>, String> {
    let mut rest = stream;
    let profiles = read(&mut rest);
    let at = stream.len() - rest.len();
    profiles.map_err(|why| match stream.get(8..12) {
        // Parser 5 writes an eight-byte header and a zstd frame.
        Some([0x28, 0xb5, 0x2f, 0xfd]) => COMPRESSED.to_owned(),
        _ => format!("the compiled policy cannot be read: {why} before byte {at}"),
    })
}

#[derive(Clone, Copy)]
enum Value<'a> {
    /// Of any width; above 32 bits it is cut.
    Number(u32),
    /// Without the NUL at its end; there may be others in it.
    Text(&'a str),
    Blob(&'a [u8]),
    /// A STRUCT, LIST or ARRAY begins.
    Begin,
    End,
}

use Value::{Begin, Blob, End, Number, Text};

type Read<T> = Result<T, &'static str>;

fn read<'a>(rest: &mut &'a [u8]) -> Read<Vec<Profile<'a>>> {
    let mut profiles = Vec::new();
    let mut content = Content::default();
    let mut names = Vec::new();
    while !rest.is_empty() {
        let (name, value) = item(rest)?;
        match value {
            Begin if names.is_empty() && name != "profile" => return Err("no profile"),
            Begin => names.push(name),
            End if names.len() > 1 => drop(names.pop()),
            End => {
                names.clear();
                profiles.push(std::mem::take(&mut content).into_profile()?);
            }
            value => content.take(&names, name, value)?,
        }
    }
    let complete = names.is_empty() && !profiles.is_empty();
    complete.then_some(profiles).ok_or("truncated")
}

/// A value and its name, which may be empty.
fn item<'a>(rest: &mut &'a [u8]) -> Read<(&'a str, Value<'a>)> {
    let (mut name, mut tag) = ("", number(rest, 1)?);
    if tag == 4 {
        name = text(rest)?;
        tag = number(rest, 1)?;
    }
    let value = match tag {
        0..=3 => Number(number(rest, 1 << tag)?),
        5 => Text(text(rest)?),
        6 => Blob(take(number(rest, 4)?, rest)?),
        7 | 9 => Begin,
        11 => number(rest, 2).map(|_| Begin)?,
        8 | 10 | 12 => End,
        _ => return Err("an unknown kind of item"),
    };
    Ok((name, value))
}

fn number(rest: &mut &[u8], length: u32) -> Read<u32> {
    let digits = take(length, rest)?.iter().rev();
    Ok(digits.fold(0, |number, digit| number << 8 | u32::from(*digit)))
}

/// A length and a text with a NUL at its end.
fn text<'a>(rest: &mut &'a [u8]) -> Read<&'a str> {
    let Some((0, text)) = take(number(rest, 2)?, rest)?.split_last() else {
        return Err("an unterminated string");
    };
    std::str::from_utf8(text).map_err(|_| "a string that is not UTF-8")
}

fn take<'a>(length: u32, rest: &mut &'a [u8]) -> Read<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length as usize).ok_or("truncated")?;
    *rest = left;
    Ok(taken)
}

impl<'a> Content<'a> {
    /// `within` are the names of the items around `value`.
    fn take(&mut self, within: &[&str], name: &str, value: Value<'a>) -> Read<()> {
        match (within, name, value) {
            ([], "version", Number(version)) => self.version = Some(version),
            ([], "namespace", Text(name)) => self.namespace = Some(before(name, '\0')),
            ([], ..) => return Err("no version, namespace or profile"),
            (["profile"], "", Text(name)) if self.name.is_empty() => self.name = before(name, '\0'),
            (["profile"], "rename", Text(_)) => self.renames = true,
            (["profile"], "attach", Text(_)) => self.attaches = true,
            (["profile", "flags"], _, Number(number)) => self.flags.push(number),
            // The automaton before the flags is the attachment's.
            _ if self.flags.is_empty() => self.attaches |= name == "aadfa",
            (["profile"], "path_flags", Number(flags)) => self.path_flags = flags,
            (["profile"], "", Number(n)) if self.flags.len() == 3 => self.capabilities[0].push(n),
            (["profile", "caps64"], _, Number(set)) => self.capabilities[1].push(set),
            (["profile", "policydb", within @ ..], ..) => self.classes.take(within, name, value)?,
            _ => self.files.take(&within[1..], name, value)?,
        }
        Ok(())
    }

    fn into_profile(self) -> Read<Profile<'a>> {
        let complains = self.version.ok_or("no version")? & FORCE_COMPLAIN != 0;
        let mode = match self.flags[..] {
            _ if self.name.is_empty() => return Err("a profile without a name"),
            [_, mode, _] if complains || mode == 1 => Mode::Complain,
            [_, 0, _] => Mode::Enforce,
            [_, 2, _] => Mode::Kill,
            [_, 3, _] => Mode::Unconfined,
            [_, 4, _] => Mode::Prompt,
            _ => return Err("an unknown mode"),
        };
        let qualified = self.name.strip_prefix(':').map(|name| before(name, ':'));
        let attaches = self.attaches || self.name.starts_with('/');
        let member = Member {
            namespace: qualified.or(self.namespace).map(str::to_owned),
            name: self.name.to_owned(),
            attaches: self.renames || (attaches && !self.name.contains("//")),
            mode,
        };
        let content = self;
        Ok(Profile { member, content })
    }
}

impl<'a> Automaton<'a> {
    fn take(&mut self, within: &[&str], name: &str, value: Value<'a>) -> Read<()> {
        match (within, name, value) {
            // Padding stands before the automaton, whose length is a multiple of eight.
            ([], "aadfa", Blob(bytes)) => self.read(&bytes[bytes.len() % 8..])?,
            ([], "start" | "dfa_start", Number(start)) => self.start = Some(start),
            (["perms", ..], _, Number(number)) => self.entries.push(number),
            (["xtable", ..], _, Text(name)) => self.targets.push(name),
            _ => {}
        }
        Ok(())
    }
}

fn before(text: &str, mark: char) -> &str {
    text.split(mark).next().unwrap_or_default()
}

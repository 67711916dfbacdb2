//! Compiled policy, read: members, modes and attachments. Pure.
//!
//! The format is the kernel's (`security/apparmor/policy_unpack.c`), little endian: a stream of
//! items, each a tag byte and a value, with an optional NAME item before it that names it. For
//! each member: `version` (U32), optionally `namespace` (STRING), then a STRUCT `profile`.

use crate::profile::Mode;

/// STRUCTs, LISTs and ARRAYs in each other; compiled policy has at most four.
const DEPTH_LIMIT: usize = 16;

/// In `version`: the member is loaded in complain mode whatever its flags say.
const FORCE_COMPLAIN: u32 = 0x800;

/// One profile, child or hat of a blob.
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
    pub(crate) mode: Mode,
}

/// The members of `blob`, in its order.
///
/// # Errors
/// What is wrong, for a person, where the kernel would not take `blob` either, or where this
/// reader cannot vouch for what is in it.
pub(crate) fn members(blob: &[u8]) -> Result<Vec<Member>, String> {
    let mut reader = Reader { rest: blob };
    let mut members = Vec::new();
    while !reader.rest.is_empty() {
        members.push(reader.member().map_err(|why| {
            if is_compressed(blob) {
                return "the compiled policy is compressed, which armorer does not read: turn the compiler's compression off in parser.conf".to_owned();
            }
            let at = blob.len() - reader.rest.len();
            format!("the compiled policy cannot be read: {why} before byte {at}")
        })?);
    }
    if members.is_empty() {
        return Err("the compiled policy is empty".to_owned());
    }
    Ok(members)
}

/// Parser 5 writes an eight-byte header and a zstd frame.
fn is_compressed(blob: &[u8]) -> bool {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    blob.starts_with(&ZSTD) || blob.get(8..12) == Some(ZSTD.as_slice())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    U32(u32),
    String(&'a str),
    Blob,
    Struct,
    StructEnd,
    List,
    ListEnd,
    Array,
    ArrayEnd,
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Item<'a> {
    name: Option<&'a str>,
    value: Value<'a>,
}

type Read<T> = Result<T, &'static str>;

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn member(&mut self) -> Read<Member> {
        let mut item = self.item()?;
        let Item {
            name: Some("version"),
            value: Value::U32(version),
        } = item
        else {
            return Err("no version");
        };
        item = self.item()?;
        let mut namespace = None;
        if let Item {
            name: Some("namespace"),
            value: Value::String(name),
        } = item
        {
            namespace = Some(name.to_owned());
            item = self.item()?;
        }
        if !matches!(
            item,
            Item {
                name: Some("profile"),
                value: Value::Struct
            }
        ) {
            return Err("no profile after the version");
        }
        self.profile(namespace, version & FORCE_COMPLAIN != 0)
    }

    fn profile(&mut self, mut namespace: Option<String>, force_complain: bool) -> Read<Member> {
        let Value::String(name) = self.item()?.value else {
            return Err("a profile without a name");
        };
        if name.is_empty() {
            return Err("a profile with an empty name");
        }
        if let Some(qualified) = name.strip_prefix(':') {
            let end = qualified.find(':').unwrap_or(qualified.len());
            namespace = Some(qualified[..end].to_owned());
        }
        let mut attaches = name.starts_with('/');
        let mut renames = false;
        let mut flags = None;
        loop {
            let item = self.item()?;
            match (item.name, item.value) {
                (_, Value::StructEnd) => break,
                (Some("flags"), Value::Struct) if flags.is_none() => flags = Some(self.flags()?),
                (Some("rename"), Value::String(_)) => renames = true,
                (Some("attach"), Value::String(_)) => attaches = true,
                // What stands before the flags is the automaton of the attachment; after them,
                // the one of the rules.
                (Some("aadfa"), Value::Blob) if flags.is_none() => attaches = true,
                _ => self.skip_inside(item.value)?,
            }
        }
        let mode = flags.ok_or("a profile without flags")?;
        Ok(Member {
            namespace,
            name: name.to_owned(),
            attaches: renames || (attaches && !name.contains("//")),
            mode: if force_complain { Mode::Complain } else { mode },
        })
    }

    /// Three numbers: bits, mode, audit.
    fn flags(&mut self) -> Read<Mode> {
        let mut numbers = [0; 3];
        for number in &mut numbers {
            let Value::U32(value) = self.item()?.value else {
                return Err("flags that are no numbers");
            };
            *number = value;
        }
        if self.item()?.value != Value::StructEnd {
            return Err("flags that do not end");
        }
        let mode = match numbers[1] {
            0 => Mode::Enforce,
            1 => Mode::Complain,
            2 => Mode::Kill,
            3 => Mode::Unconfined,
            4 => Mode::Prompt,
            _ => return Err("an unknown mode"),
        };
        Ok(mode)
    }

    /// Goes on behind the end of what `opened`, if it opens anything.
    fn skip_inside(&mut self, opened: Value) -> Read<()> {
        let mut ends = [Value::Other; DEPTH_LIMIT];
        let mut depth = 0;
        let mut value = opened;
        loop {
            match value {
                Value::Struct | Value::List | Value::Array => {
                    *ends.get_mut(depth).ok_or("too much in each other")? = match value {
                        Value::Struct => Value::StructEnd,
                        Value::List => Value::ListEnd,
                        _ => Value::ArrayEnd,
                    };
                    depth += 1;
                }
                Value::StructEnd | Value::ListEnd | Value::ArrayEnd => {
                    if depth == 0 || ends[depth - 1] != value {
                        return Err("an end of what did not start");
                    }
                    depth -= 1;
                }
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
            value = self.item()?.value;
        }
    }

    fn item(&mut self) -> Read<Item<'a>> {
        let mut name = None;
        let mut tag = self.take(1)?[0];
        if tag == 4 {
            name = Some(self.string()?);
            tag = self.take(1)?[0];
        }
        let value = match tag {
            0 => self.take(1).map(|_| Value::Other)?,
            1 => self.take(2).map(|_| Value::Other)?,
            2 => Value::U32(self.u32()?),
            3 => self.take(8).map(|_| Value::Other)?,
            5 => Value::String(self.string()?),
            6 => {
                let length =
                    usize::try_from(self.u32()?).map_err(|_| "a length that is too large")?;
                self.take(length).map(|_| Value::Blob)?
            }
            7 => Value::Struct,
            8 => Value::StructEnd,
            9 => Value::List,
            10 => Value::ListEnd,
            11 => self.take(2).map(|_| Value::Array)?,
            12 => Value::ArrayEnd,
            _ => return Err("an unknown kind of item"),
        };
        Ok(Item { name, value })
    }

    fn u32(&mut self) -> Read<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A length and a text with a NUL at its end. A transition's target in another namespace has a
    /// NUL inside too: the text is what stands before the first.
    fn string(&mut self) -> Read<&'a str> {
        let bytes = self.take(2)?;
        let length = u16::from_le_bytes([bytes[0], bytes[1]]);
        let bytes = self.take(usize::from(length))?;
        let Some((0, text)) = bytes.split_last() else {
            return Err("a text without an end");
        };
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).map_err(|_| "a text that is not UTF-8")
    }

    fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("it ends")?;
        self.rest = rest;
        Ok(taken)
    }
}

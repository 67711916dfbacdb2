//! From a record to its object, and to the least rule that allows it. Pure.

use super::record::Record;
use crate::profile::printable;

/// One line a kind of record: `FIELDS|OBJECT|RULE`: the fields that mark the kind, the keys of its
/// object, and the rule (of apparmor.d(5), as parser 3.0 takes it but for classes that are newer). In
/// a rule `{key}` stands for a name, `{/key}` for one whose slash is missing, `({key})` for words;
/// a part in `[…]` is omitted where a key of it is missing. The first line that can be filled counts.
const RULES: &str = include_str!("rules");

/// The object of the access, such as `/etc/passwd` or `receive term runc`, and the rule that allows it;
/// where none can, a comment says why.
pub(super) fn of(record: &Record) -> (String, String) {
    let is_there = |field: &str| match field.split_once('=') {
        Some((key, value)) => record.get(key) == value,
        None => !record.get(field).is_empty(),
    };
    let filled = RULES.lines().find_map(|row| {
        let mut columns = row.splitn(3, '|');
        let is_kind = columns.next()?.split('&').all(is_there);
        let (keys, rule) = (columns.next()?, columns.next()?);
        let rule = is_kind.then(|| fill(rule, record)).flatten();
        Some((keys, rule?))
    });
    let (keys, rule) = filled.unwrap_or_default();
    let values = keys.split(' ').map(|key| record.get(key));
    let values: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
    (values.join(" "), rule)
}

/// The rule with the record's values; none where one that must be there is missing.
fn fill(rule: &str, record: &Record) -> Option<String> {
    let mut text = String::new();
    let mut rest = rule;
    while let Some(at) = rest.find(['{', '[']) {
        text += &rest[..at];
        let is_key = rest[at..].starts_with('{');
        let (key, after) = rest[at + 1..].split_once(if is_key { '}' } else { ']' })?;
        rest = after;
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_+, ".contains(c);
        text += &match record.get(key.trim_start_matches('/')) {
            _ if !is_key => fill(key, record).unwrap_or_default(),
            "" => return None,
            "none" if key.ends_with("addr") => return None,
            words if text.ends_with('(') && words.chars().all(is_word) => words.into(),
            path if key.starts_with('/') => escaped(&format!("/{path}"))?,
            name => escaped(name)?,
        };
    }
    Some(text + rest)
}

/// A name as a rule spells it, with no character that is a glob. None where the kernel knows no name,
/// or where it would not be a line of clean text.
fn escaped(name: &str) -> Option<String> {
    let mut text = String::new();
    for c in name.chars() {
        if "\"\\*?[]{}^".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._:@&-".contains(c);
    if !text.chars().all(is_plain) {
        text = format!("\"{text}\"");
    }
    let is_clean = printable(name) == name && !name.contains('\u{fffd}');
    (is_clean && !name.starts_with("unknown(")).then_some(text)
}

//! The mistake in a text, in plain words, where the compiler's message has none. Pure.
//!
//! The compiler's messages are those of parsers 3.0.8 and 4.1.0. No word of a file that the text
//! includes is in the answer.

#[cfg(test)]
mod tests;

use crate::profile::nearest;

const KEYWORDS: &str = "abi alias all audit capability change_profile dbus deny file hat include io_uring link mount mqueue network owner pivot_root priority profile ptrace remount set signal umount unix userns";
const NEWER: &str = "all io_uring mqueue priority userns";
const QUALIFIERS: &str = "allow audit deny owner quiet";

/// The beginnings of the compiler's words about a text that it cannot read.
const SYNTAX: &str = "syntax error|missing an end of line|Lexer found unexpected";

const INVISIBLE: &str = "holds a byte order mark or a no-break space: remove it";
const NO_MODES: &str = "permissions are r w a k l m ix px cx ux; a path with spaces is quoted";
const NO_COMMA: &str = "the comma at the end of this rule is missing";
const OUTSIDE: &str = "outside a profile: rules go between profile NAME { and }";
const INSIDE: &str = "declares variables: move the line before the profile";

/// A line of the text that is not empty.
struct Line<'t> {
    number: usize,
    /// Without its comment; `#include` is `include`.
    text: &'t str,
    /// How many blocks are open where it begins.
    depth: usize,
}

/// The number of the line to mend, and its mistake.
type Mistake = (usize, String);

/// The compiler stopped at `line` of the text, or, where `is_included`, of a file that the text
/// includes; `line` is 0 where it named none.
pub(super) fn plain(text: &str, is_included: bool, line: usize, said: &str) -> Option<Mistake> {
    let lines = lines(text);
    let is_syntax = SYNTAX.split('|').any(|words| said.starts_with(words));
    match said {
        _ if said.contains("was previously declared") => declared_twice(&lines, said),
        _ if said.contains("conflicting x modifiers") => executed_twice(&lines, said),
        _ if !is_syntax => None,
        _ if is_included => included(&lines, said),
        _ if let Some(at) = text.find(['\u{feff}', '\u{a0}']) => {
            Some((text[..at].lines().count().max(1), INVISIBLE.to_owned()))
        }
        _ if said.starts_with("Lexer") => None,
        _ => misread(&lines, line),
    }
}

/// The compiler stopped at `line`: that one, or one before it.
fn misread(lines: &[Line], line: usize) -> Option<Mistake> {
    let at = lines.iter().position(|found| found.number >= line);
    let (before, after) = lines.split_at(at.unwrap_or(lines.len()));
    let closed = before.iter().rfind(|line| line.text == "}");
    let last = before.last().filter(|last| last.lacks_comma());
    let (number, words) = match (last, after.first(), closed) {
        (Some(last), ..) => {
            let is_word = last.text.starts_with(|c: char| c.is_ascii_lowercase());
            let unknown = unknown(last.text).filter(|words| is_word && words != NO_MODES);
            (last.number, unknown.unwrap_or_else(|| NO_COMMA.to_owned()))
        }
        (_, None, _) => (line, "the last } is missing".to_owned()),
        (_, Some(here), _) if here.depth > 0 => (line, unknown(here.text)?),
        (.., None) => (line, OUTSIDE.to_owned()),
        (_, Some(here), _) if here.text == "}" => (line, "this } is one too many".to_owned()),
        (.., Some(closed)) => (closed.number, format!("this }} leaves line {line} outside")),
    };
    Some((number, words))
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut depth = 0_usize;
    let lines = text.lines().enumerate().map(|(index, line)| {
        let text = line.trim_start();
        let include = text.strip_prefix('#');
        let include = include.filter(|rest| rest.starts_with("include"));
        let text = include.unwrap_or(text);
        let is_comment = |at: &usize| *at == 0 || text[..*at].ends_with([' ', '\t']);
        let comment = text.match_indices('#').map(|(at, _)| at).find(is_comment);
        let text = text[..comment.unwrap_or(text.len())].trim_end();
        let here = depth;
        for word in text.split_whitespace() {
            // Other braces belong to variables and alternatives.
            depth += usize::from(word.ends_with('{'));
            depth = depth.saturating_sub(usize::from(word == "}"));
        }
        Line {
            number: index + 1,
            text,
            depth: here,
        }
    });
    lines.filter(|line| !line.text.is_empty()).collect()
}

impl Line<'_> {
    fn lacks_comma(&self) -> bool {
        let is_variable = self.text.starts_with(['@', '$']) && self.text.contains('=');
        !is_variable && !self.is_include() && !self.text.ends_with([',', '{', '}'])
    }

    fn is_include(&self) -> bool {
        self.text.starts_with("include")
    }
}

/// The compiler stopped in another file: the include that stands where it cannot.
fn included(lines: &[Line], said: &str) -> Option<Mistake> {
    let mut pairs = lines.windows(2).filter(|pair| pair[1].is_include());
    if let Some(pair) = pairs.find(|pair| pair[0].lacks_comma()) {
        return Some((pair[0].number, NO_COMMA.to_owned()));
    }
    let is_outside = said.contains("TOK_OPEN") || said.contains("end of file");
    let is_misplaced = |line: &&Line| {
        let is_preamble = line.text.contains("tunables/");
        line.is_include() && (line.depth == 0) == is_outside && is_preamble != is_outside
    };
    let line = lines.iter().find(is_misplaced)?;
    let words = if is_outside { OUTSIDE } else { INSIDE };
    Some((line.number, words.to_owned()))
}

fn declared_twice(lines: &[Line], said: &str) -> Option<Mistake> {
    let name = said.split(' ').find(|word| word.starts_with("@{"))?;
    let is_own = |line: &&Line| {
        let rest = line.text.strip_prefix(name).unwrap_or_default();
        rest.trim_start().starts_with('=')
    };
    lines.iter().find(is_own)?;
    let words = format!("{name} is declared twice: keep one, or add to the first with +=");
    let is_include = |line: &&Line| line.depth == 0 && line.is_include();
    clash(lines, |line| is_own(&line) || is_include(&line), &words)
}

fn executed_twice(lines: &[Line], said: &str) -> Option<Mistake> {
    let program = said.split(' ').find(|word| word.starts_with('/'));
    let is_mode = |c: char| "rwaklmxipcuPCU".contains(c);
    let is_exec =
        |word: &str| word.contains('x') && word.trim_end_matches(',').chars().all(is_mode);
    let is_rule = |line: &Line| {
        let mut words = line.text.split_whitespace();
        words.any(is_exec) && program.is_none_or(|program| line.text.contains(program))
    };
    let words = "a program is executed in two ways: keep one of ix, px, cx, ux for it";
    clash(lines, is_rule, words)
}

/// The last of the lines that cannot stand together, and the numbers of all of them.
fn clash(lines: &[Line], is_one: impl Fn(&Line) -> bool, words: &str) -> Option<Mistake> {
    let found = lines.iter().filter(|line| is_one(line));
    let numbers = found.map(|line| line.number);
    let all: Vec<String> = numbers.clone().map(|number| number.to_string()).collect();
    let all = all.join(", ");
    Some((numbers.last()?, format!("{words} (lines {all})")))
}

/// Of a rule whose first word the compiler does not know, or whose permissions are none.
fn unknown(rule: &str) -> Option<String> {
    let is_in = |list: &str, word: &str| list.split(' ').any(|known| known == word);
    let words = rule.split_whitespace();
    let mut words = words.skip_while(|word| is_in(QUALIFIERS, word));
    let first = words.next()?;
    if first.starts_with(['/', '@']) {
        return Some(NO_MODES.to_owned());
    }
    let name = first.split(['(', '=', ',']).next()?;
    Some(match nearest(name, KEYWORDS.split(' ')) {
        _ if is_in(NEWER, name) => format!("{name} needs parser 4.1; parser 3.0 lacks it"),
        _ if name.contains('/') => format!("{name} is not a path: a path begins with a slash"),
        Some(known) if known == name => return None,
        Some(known) => format!("unknown rule {name}: did you mean {known}?"),
        None => format!("unknown rule {name}"),
    })
}

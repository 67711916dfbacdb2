//! Rules that the kernel will not enforce, by the compiler's warnings. Pure.
//!
//! As parsers 3.0.8, 4.1 and 5.0 print with `--warn=rule-not-enforced --warn=rule-downgraded`:
//!
//! ```text
//! Warning from profile NAME (FILE): CLASS rules not enforced
//! Warning from FILE (FILE line N): profile NAME CLASS rules not enforced
//! Warning from profile NAME (FILE): downgrading CLASS rule to generic CLASS rule
//! ```

use std::collections::BTreeMap;

use crate::{outcome::Unenforced, profile::printable};

/// Names of classes in warnings, and the words of features, where they differ.
const WORDS: [(&str, &str, &str); 3] = [
    ("extended network unix socket", "unix", "af_unix"),
    ("userns", "userns", "userns_create"),
    ("mqueue", "mqueue", "posix_mqueue"),
];

const QUALIFIERS: [&str; 4] = ["allow", "audit", "deny", "quiet"];

/// The classes that `messages` about `text` warn of, each once. The kernel has `features`; a class that
/// it has is missing in the text's abi.
pub(super) fn unenforced(text: &str, messages: &str, features: &str) -> Vec<Unenforced> {
    let mut found = BTreeMap::new();
    let lines = messages.lines().map(str::trim);
    for line in lines.filter(|line| line.starts_with("Warning from ")) {
        let (_, words) = line.split_once("): ").unwrap_or(("", line));
        let (state, class) = if let Some(class) = words.strip_suffix(" rules not enforced") {
            let named = class.strip_prefix("profile ");
            let named = named.and_then(|named| named.split_once(' '));
            ("not enforced", named.map_or(class, |(_, class)| class))
        } else if let Some(rest) = words.strip_prefix("downgrading ") {
            let class = rest.split(" rule").next().unwrap_or(rest);
            ("downgraded to network rules", class)
        } else {
            found.insert(("other", printable(words)), printable(words));
            continue;
        };
        let known = WORDS.iter().find(|(name, ..)| *name == class);
        let (class, word) = known.map_or((class, class), |(_, class, word)| (class, word));
        let lacking = match features.contains(word) {
            true => "the text's abi lacks them",
            false => "the kernel lacks them",
        };
        let message = format!("{class} rules are {state}: {lacking}");
        found.insert((class, state.to_owned()), message);
    }
    let begins = |line: &str, class| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.find(|word| !word.is_empty() && !QUALIFIERS.contains(word)) == Some(class)
    };
    let found = found.into_iter().map(|((class, _), message)| Unenforced {
        class: printable(class),
        own: text.lines().any(|line| begins(line, class)),
        message,
    });
    found.collect()
}

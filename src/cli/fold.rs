//! Command line and environment, folded into one list of words for argh; help.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;

use argh::{ArgsInfo as _, FlagInfo, FlagInfoKind, Optionality};

use super::options::{COMMANDS, Command, Options, RULES};
use super::usage;
use crate::error::Error;
use crate::profile::{nearest, quoted};
use crate::rules::SWITCHES;

/// Variables with our prefix that the scripts read.
const SCRIPTS: [&str; 2] = ["ARMORER_WAIT_FOR", "ARMORER_LOAD"];

/// Variables without our prefix, and the options that they stand in for; empty: of sources.
const PLAIN: [(&str, &str); 4] = [
    ("PROFILES_DIR", ""),
    ("POLL_TIME", "poll-time"),
    ("NODE_NAME", "node-name"),
    ("POD_NAME", "pod-name"),
];

/// A parsed command line: words for argh, and warnings.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub(super) words: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// The options that come from the environment, with their variables.
    pub(super) from_variables: BTreeMap<String, String>,
}

/// An option as commands take it.
struct Flag {
    /// The name of its value; none: a switch.
    value: Option<&'static str>,
    repeatable: bool,
    help: &'static str,
}

/// The options of `command`, with their headings.
fn options_of(command: &Command) -> impl Iterator<Item = (&'static str, &'static str)> {
    command.groups.iter().flat_map(|(heading, options)| {
        let rules = SWITCHES.iter().filter(|_| *heading == RULES.0);
        let rules = rules.map(|switch| switch.option);
        options
            .split(' ')
            .chain(rules)
            .map(|option| (*heading, option))
    })
}

fn flag(option: &str) -> Flag {
    let named = |flag: &&FlagInfo| flag.long.trim_start_matches('-') == option;
    let known = Options::get_args_info().flags.iter().find(named);
    let rule = SWITCHES.iter().find(|switch| switch.option == option);
    Flag {
        value: known.and_then(|flag| match flag.kind {
            FlagInfoKind::Option { arg_name } => Some(arg_name),
            FlagInfoKind::Switch => None,
        }),
        repeatable: known.is_some_and(|flag| flag.optionality == Optionality::Repeating),
        help: match (known, rule) {
            (Some(flag), _) => flag.description,
            (None, rule) => rule.map_or("", |rule| rule.help),
        },
    }
}

fn variable(option: &str) -> String {
    format!("ARMORER_{}", option.to_ascii_uppercase().replace('-', "_"))
}

/// Folds `words`, which follow the command's name, and the variables of `env`: an option that the command
/// line gives is not looked for in the environment.
///
/// # Errors
/// [`Error::Usage`]: an unknown option or variable, with the nearest known one; a missing value.
pub(super) fn fold(
    command: &Command,
    words: &[&str],
    env: &[(OsString, OsString)],
) -> Result<Folded, Error> {
    let known: BTreeSet<&str> = options_of(command).map(|(_, option)| option).collect();
    let (mut given, mut positional) = (BTreeSet::new(), Vec::new());
    let mut folded = Folded::default();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix("--") else {
            if word.starts_with('-') && word != "-" {
                return usage(unknown_option(command, word, &known));
            }
            positional.push(word);
            continue;
        };
        if option.is_empty() {
            positional.extend(words.by_ref());
            break;
        }
        let (option, value) = match option.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (option, None),
        };
        let Some(option) = known.get(option).copied() else {
            return usage(unknown_option(command, option, &known));
        };
        let value = match (flag(option).value, value) {
            (None, Some(value)) => {
                return usage(format!(
                    "--{option} takes no value: leave out {}",
                    quoted(value)
                ));
            }
            (None, None) => None,
            (Some(_), value) => match value.or_else(|| words.next()) {
                None => return usage(format!("--{option} lacks its value")),
                value => value,
            },
        };
        folded.push(option, value);
        given.insert(option);
    }
    folded.environment(command, &given, &known, env)?;
    let positional = positional.into_iter().map(str::to_owned);
    folded.words.push("--".to_owned());
    folded.words.extend(positional);
    Ok(folded)
}

impl Folded {
    fn push(&mut self, option: &str, value: Option<&str>) {
        let is_rule = SWITCHES.iter().any(|switch| switch.option == option);
        let (option, value) = match is_rule {
            true => ("rule", Some(option)),
            false => (option, value),
        };
        self.words.push(format!("--{option}"));
        self.words.extend(value.map(str::to_owned));
    }

    /// Adds the variables of options that are not `given`.
    fn environment(
        &mut self,
        command: &Command,
        given: &BTreeSet<&str>,
        known: &BTreeSet<&str>,
        env: &[(OsString, OsString)],
    ) -> Result<(), Error> {
        let all = COMMANDS.iter().flat_map(options_of);
        let all: BTreeMap<String, &str> =
            all.map(|(_, option)| (variable(option), option)).collect();
        let mut chosen = BTreeMap::new();
        for (name, value) in env {
            let Some(name) = name.to_str() else {
                continue;
            };
            let plain = PLAIN.iter().find(|(plain, _)| *plain == name);
            if plain.is_none() && !name.starts_with("ARMORER_") {
                continue;
            }
            let Some(value) = value.to_str() else {
                return usage(format!("the variable {name} is not UTF-8"));
            };
            if let Some((_, option)) = plain {
                if !value.is_empty() {
                    chosen.entry(*option).or_insert((name, value));
                }
                continue;
            }
            if SCRIPTS.contains(&name) || is_service_link(name) {
                continue;
            }
            if let Some(option) = all.get(name) {
                chosen.insert(*option, (name, value));
                continue;
            }
            let names = all.keys().map(String::as_str).chain(SCRIPTS);
            let hint = nearest(name, names).map(|nearest| format!(": is {nearest} meant?"));
            let line = format!(
                "the variable {name} is not known{}",
                hint.unwrap_or_default()
            );
            // A misspelt variable must not stop a user's pod.
            if !matches!(command.name, "reconcile" | "wait") {
                return usage(line);
            }
            self.warnings.push(line);
        }
        chosen.retain(|option, _| known.contains(option) && !given.contains(option));
        chosen
            .iter()
            .try_for_each(|(option, (name, value))| self.variable(option, name, value))
    }

    fn variable(&mut self, option: &str, name: &str, value: &str) -> Result<(), Error> {
        let flag = flag(option);
        self.from_variables
            .insert(option.to_owned(), name.to_owned());
        if flag.repeatable {
            let values = value.split_whitespace();
            values.for_each(|value| self.push(option, Some(value)));
        } else if flag.value.is_some() {
            self.push(option, Some(value));
        } else {
            match value.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => self.push(option, None),
                "false" | "0" | "no" | "off" => {}
                _ => return usage(format!("{name}: {} is not true or false", quoted(value))),
            }
        }
        Ok(())
    }
}

/// argh's complaint, `Error parsing option '--NAME' with value 'VALUE': REASON`, with the variable that the
/// value came from.
pub(super) fn complaint(output: &str, from_variables: &BTreeMap<String, String>) -> String {
    let option = output
        .split_once("'--")
        .and_then(|(_, rest)| rest.split_once('\''));
    match (option, output.rsplit_once("': ")) {
        (Some((option, _)), Some((_, reason))) => match from_variables.get(option) {
            Some(variable) => format!("{variable}: {reason}"),
            None => format!("--{option}: {reason}"),
        },
        _ => output.to_owned(),
    }
}

fn unknown_option(command: &Command, option: &str, known: &BTreeSet<&str>) -> String {
    let name = command.name;
    let takes = |other: &&Command| options_of(other).any(|(_, known)| known == option);
    let takers: Vec<&str> = COMMANDS
        .iter()
        .filter(takes)
        .map(|other| other.name)
        .collect();
    if !takers.is_empty() {
        let takers = takers.join(", ");
        return format!("{name} has no option --{option}, which belongs to {takers}");
    }
    let shown = quoted(option);
    match nearest(option, known.iter().copied()) {
        Some(nearest) => format!("unknown option {shown}: is --{nearest} meant?"),
        None => format!("unknown option {shown}: see armorer {name} --help"),
    }
}

/// Whether the kubelet sets a variable of this name for a service whose name begins with `armorer`.
fn is_service_link(name: &str) -> bool {
    let links = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"];
    name.ends_with("_PORT") || links.iter().any(|link| name.contains(link))
}

/// The help of the program. At most 80 columns, as that of its commands.
pub(super) fn help() -> String {
    let mut text = String::from(include_str!("head.txt"));
    for command in &COMMANDS {
        entry(&mut text, command.name, command.help);
    }
    text + include_str!("tail.txt")
}

/// The help of `command`.
pub(super) fn help_of(command: &Command) -> String {
    let Command {
        name, usage, help, ..
    } = command;
    let mut text = format!("{help}.\n\nUsage: armorer {name} [OPTION...] {usage}\n");
    let mut last = "";
    for (heading, option) in options_of(command) {
        if heading != last {
            let _ = writeln!(text, "\n{heading}:");
            last = heading;
        }
        let flag = flag(option);
        let value = flag
            .value
            .map_or_else(String::new, |value| format!(" {value}"));
        entry(&mut text, &format!("--{option}{value}"), flag.help);
        let _ = writeln!(text, "{:INDENT$}{}", "", variable(option));
    }
    text
}

/// The column of explanations.
const INDENT: usize = 26;

/// A term, and its explanation beside it.
fn entry(text: &mut String, term: &str, explanation: &str) {
    let mut line = format!("  {term}");
    if line.len() + 2 > INDENT {
        let _ = writeln!(text, "{line}");
        line.clear();
    }
    line = format!("{line:INDENT$}");
    for word in explanation.split_whitespace() {
        if line.len() + 1 + word.len() > 80 {
            let _ = writeln!(text, "{}", line.trim_end());
            line = " ".repeat(INDENT);
        }
        line = format!("{line}{word} ");
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

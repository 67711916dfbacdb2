//! Folds command line and environment into one list of words for argh; writes the help.

use std::collections::BTreeMap;

use argh::{ArgsInfo as _, FlagInfo, FlagInfoKind, Optionality};

use super::options::{Command, Options};
use super::{Variables, usage};
use crate::profile::{nearest, quoted};
use crate::{error::Error, rules::SWITCHES};

/// The variable of `wait` that stands in for its arguments.
const WAIT_FOR: &str = "ARMORER_WAIT_FOR";

/// Variables without the prefix `ARMORER_`, each with its option; empty: the sources.
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
    /// The given options, each with the variable that it comes from.
    given: BTreeMap<String, Option<String>>,
}

/// An option as commands take it.
#[derive(Default)]
struct Flag {
    /// The name of the value; none: a switch.
    value: Option<&'static str>,
    repeatable: bool,
    help: &'static str,
}

fn flag(option: &str) -> Flag {
    let mut flag = Flag::default();
    if let Some(rule) = SWITCHES.iter().find(|switch| switch.option == option) {
        flag.help = rule.help;
    }
    let named = |flag: &&FlagInfo| flag.long.trim_start_matches('-') == option;
    if let Some(known) = Options::get_args_info().flags.iter().find(named) {
        flag.help = known.description;
        flag.repeatable = known.optionality == Optionality::Repeating;
        if let FlagInfoKind::Option { arg_name } = known.kind {
            flag.value = Some(arg_name);
        }
    }
    flag
}

fn variable(option: &str) -> String {
    format!("ARMORER_{}", option.to_ascii_uppercase().replace('-', "_"))
}

/// Folds `words`, which follow the command's name, the variables of `env`, and defaults. An option of
/// the command line wins over its variable.
///
/// # Errors
/// [`Error::Usage`]: an unknown option or variable, with the nearest known one; a missing value.
pub(super) fn fold(command: &Command, words: &[&str], env: &Variables) -> Result<Folded, Error> {
    let mut folded = Folded::default();
    let (mut positional, mut words) = (Vec::new(), words.iter().copied().peekable());
    while let Some(word) = words.next() {
        if word == "--" {
            positional.extend(words.by_ref());
        } else if let Some(option) = word.strip_prefix("--") {
            let mut parts = option.splitn(2, '=');
            let (option, value) = (parts.next().unwrap_or_default(), parts.next());
            if !command.takes(option) {
                return usage(unknown_option(command, option));
            }
            let takes_value = flag(option).value.is_some();
            match value.or_else(|| words.next_if(|_| takes_value)) {
                Some(value) if !takes_value => {
                    let value = quoted(value);
                    return usage(format!("--{option} takes no value: leave out {value}"));
                }
                None if takes_value => return usage(format!("--{option} needs a value")),
                value => folded.push(option, value, None)?,
            }
        } else if word.starts_with('-') && word != "-" {
            return usage(unknown_option(command, word));
        } else {
            positional.push(word);
        }
    }
    folded.environment(command, env)?;
    for flag in Options::get_args_info().flags {
        let option = flag.long.trim_start_matches('-');
        let required = flag.optionality == Optionality::Required;
        let missing = required && !folded.given.contains_key(option);
        // The default ends the help.
        if let Some((_, default)) = flag.description.rsplit_once('[').filter(|_| missing) {
            folded.push(option, Some(default.trim_end_matches(']')), None)?;
        }
    }
    folded.words.push("--".to_owned());
    let positional = positional.into_iter().map(str::to_owned);
    folded.words.extend(positional);
    Ok(folded)
}

impl Folded {
    /// Adds an option that comes `from` a variable, or from the command line.
    fn push(&mut self, option: &str, value: Option<&str>, from: Option<&str>) -> Result<(), Error> {
        let known = flag(option).value.unwrap_or_default();
        let is_known = !known.contains('|') || known.split('|').any(|word| Some(word) == value);
        if let Some(value) = value.filter(|_| !is_known) {
            let name = from.map_or_else(|| format!("--{option}"), str::to_owned);
            let (value, known) = (quoted(value), known.replace('|', ", "));
            return usage(format!("{name}: {value} is not one of {known}"));
        }
        self.given
            .insert(option.to_owned(), from.map(str::to_owned));
        let is_rule = SWITCHES.iter().any(|switch| switch.option == option);
        let (option, value) = match is_rule {
            true => ("rule", Some(option)),
            false => (option, value),
        };
        self.words.push(format!("--{option}"));
        self.words.extend(value.map(str::to_owned));
        Ok(())
    }

    /// Adds the variables of options that are not given.
    fn environment(&mut self, command: &Command, env: &Variables) -> Result<(), Error> {
        let all = Command::all().flat_map(|command| command.options());
        let all = all.map(|(_, option)| (variable(option), option));
        let all: BTreeMap<String, &str> = all.collect();
        let mut chosen = BTreeMap::new();
        for (name, value) in env {
            let Some(name) = name.to_str() else { continue };
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
            } else if let Some(option) = all.get(name) {
                chosen.insert(*option, (name, value));
            } else if name != WAIT_FOR && !is_service_link(name) {
                let names = all.keys().map(String::as_str).chain([WAIT_FOR]);
                let hint = nearest(name, names).map(|near| format!(": did you mean {near}?"));
                let hint = hint.unwrap_or_default();
                let line = format!("unknown variable {name}{hint}");
                // A misspelt variable must not stop a user's pod.
                if !matches!(command.name, "reconcile" | "wait") {
                    return usage(line);
                }
                self.warnings.push(line);
            }
        }
        chosen.retain(|option, _| command.takes(option) && !self.given.contains_key(*option));
        let mut chosen = chosen.into_iter();
        chosen.try_for_each(|(option, (name, value))| self.variable(option, name, value))
    }

    fn variable(&mut self, option: &str, name: &str, value: &str) -> Result<(), Error> {
        let flag = flag(option);
        if flag.repeatable {
            let mut values = value.split_whitespace();
            return values.try_for_each(|value| self.push(option, Some(value), Some(name)));
        }
        if flag.value.is_some() {
            return self.push(option, Some(value.trim()), Some(name));
        }
        match value.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => self.push(option, None, Some(name)),
            "false" | "0" | "no" | "off" => Ok(()),
            _ => usage(format!("{name}: {} is not true or false", quoted(value))),
        }
    }

    /// argh's complaint, `Error parsing option '--NAME' with value 'VALUE': REASON`, with the variable
    /// that the value came from.
    pub(super) fn complaint(&self, output: &str) -> String {
        let output = output.trim_end();
        let option = output.split_once("'--").map_or("", |(_, rest)| rest);
        let option = option.split('\'').next().unwrap_or_default();
        match (self.given.get(option), output.rsplit_once("': ")) {
            (Some(Some(variable)), Some((_, reason))) => format!("{variable}: {reason}"),
            (Some(None), Some((_, reason))) => format!("--{option}: {reason}"),
            _ => output.to_owned(),
        }
    }
}

fn unknown_option(command: &Command, option: &str) -> String {
    let name = command.name;
    let takers = Command::all().filter(|other| other.takes(option));
    let takers = takers.map(|other| other.name);
    let takers = takers.collect::<Vec<_>>().join(", ");
    if !takers.is_empty() {
        return format!("--{option} is an option of {takers}, not of {name}");
    }
    let shown = quoted(option);
    match nearest(option, command.options().map(|(_, known)| known)) {
        Some(nearest) => format!("unknown option {shown}: did you mean --{nearest}?"),
        None => format!("unknown option {shown}: see armorer {name} --help"),
    }
}

/// Whether the kubelet sets a variable of this name for a service whose name begins with `armorer`.
fn is_service_link(name: &str) -> bool {
    let links = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"];
    name.ends_with("_PORT") || links.iter().any(|link| name.contains(link))
}

/// The help of the program, at most 80 columns wide, as the commands' help is.
pub(super) fn help() -> String {
    let mut text = String::from(include_str!("head.txt"));
    for command in Command::all() {
        entry(&mut text, command.name, command.help);
    }
    text + include_str!("tail.txt")
}

/// The help of `command`.
pub(super) fn help_of(command: &Command) -> String {
    let (name, help, usage) = (command.name, command.help, command.usage);
    let usage = format!("armorer {name} [OPTION...] {usage}");
    let mut text = format!("{help}.\n\nUsage: {}\n", usage.trim_end());
    let mut last = "";
    for (heading, option) in command.options() {
        if heading != last {
            text += &format!("\n{heading}:\n");
            last = heading;
        }
        let flag = flag(option);
        let hidden = ["|github", ""][usize::from(name == "check")];
        let value = flag.value.unwrap_or_default().replace(hidden, "");
        let term = format!("--{option} {value}");
        entry(&mut text, term.trim_end(), flag.help);
        text += &format!("{:INDENT$}{}\n", "", variable(option));
    }
    text
}

/// The column of explanations.
const INDENT: usize = 26;

/// A term, and its explanation beside it.
fn entry(text: &mut String, term: &str, explanation: &str) {
    let mut line = format!("  {term}");
    if line.len() + 2 > INDENT {
        *text += &(line + "\n");
        line = String::new();
    }
    line = format!("{line:INDENT$}");
    for word in explanation.split_whitespace() {
        if line.len() + 1 + word.len() > 80 {
            *text += &format!("{}\n", line.trim_end());
            line = " ".repeat(INDENT);
        }
        line = format!("{line}{word} ");
    }
    *text += &format!("{}\n", line.trim_end());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_option_is_known_to_argh_and_belongs_to_a_command() {
        let taken = Command::all().flat_map(|command| command.options());
        let taken: BTreeSet<&str> = taken.map(|(_, option)| option).collect();
        let info = Options::get_args_info();
        let flags = info.flags.iter();
        let mut known: BTreeSet<&str> = flags
            .map(|flag| flag.long.trim_start_matches('-'))
            .filter(|option| !matches!(*option, "help" | "rule"))
            .collect();
        known.extend(SWITCHES.iter().map(|switch| switch.option));
        assert_eq!(taken, known);
    }
}

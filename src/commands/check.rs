//! `check`: validates profiles without a kernel, with the same code as a pass.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::print;
use crate::compiler::{self, Compiler, Includes, Text};
use crate::desired::{Desired, ProfileSource};
use crate::error::{Error, Exit};
use crate::outcome::Refusal;
use crate::policy;
use crate::profile::{ProfileName, parent, printable};
use crate::report::SCHEMA;
use crate::rules::Rules;
use crate::source::{self, Known, Limits, Source};
use crate::state::Member;

/// All of it together may take this long.
const DEADLINE: Duration = Duration::from_hours(1);

/// What a user may set.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) rules: Rules,
    pub(crate) compiler: compiler::Settings,
    /// `text`, `json` or `github` (annotations of a workflow).
    pub(crate) output: String,
    /// Warnings fail too.
    pub(crate) strict: bool,
}

/// One thing that was found.
#[derive(Debug, Serialize)]
struct Finding {
    path: String,
    profile: String,
    level: Level,
    kind: &'static str,
    /// The line in the file, where one is known.
    line: Option<u32>,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
}

/// Checks every path, each as a source of its own; prints the findings.
///
/// # Errors
/// A path cannot be read, or there is no compiler.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let compiler = Compiler::find(settings.compiler.clone())?;
    let (mut findings, mut checked) = (Vec::new(), 0);
    for path in &settings.paths {
        let known = Known {
            objects: &BTreeMap::new(),
            text: &|_| None,
            allow_missing: false,
        };
        let client = || Err(Error::Usage("check reads files and folders only".into()));
        let source = [Source::Folder(path.clone())];
        let found = source::read(&source, &settings.limits, &known, &client)?;
        let desired = Desired::new(found.profiles, &settings.rules);
        let files = desired.profiles.len() + desired.refused.len();
        if files == 0 {
            findings.push(Finding {
                path: path.display().to_string(),
                profile: String::new(),
                level: Level::Error,
                kind: "source",
                line: None,
                message: "holds no profile".into(),
            });
        }
        checked += files;
        findings.extend(check(&desired, &settings.rules, &compiler)?);
    }
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    show(&findings, checked, &settings.output)?;
    let fails = |finding: &Finding| settings.strict || finding.level == Level::Error;
    Ok(match findings.iter().any(fails) {
        true => Exit::Incomplete,
        false => Exit::Converged,
    })
}

fn check(desired: &Desired, rules: &Rules, compiler: &Compiler) -> Result<Vec<Finding>, Error> {
    let mut includes = Includes::new(compiler.base());
    let mut refusals: BTreeMap<String, Refusal> = BTreeMap::new();
    let mut sources: Vec<&ProfileSource> = Vec::new();
    for source in &desired.profiles {
        match includes.of(&source.text).1 {
            None => sources.push(source),
            Some(refusal) => _ = refusals.insert(source.name.to_string(), refusal),
        }
    }
    let texts = sources.iter().map(|source| Text {
        name: source.name.as_str(),
        contents: &source.text,
        last: false,
    });
    let texts: Vec<Text> = texts.collect();
    let mut accepted: BTreeMap<&ProfileName, Vec<Member>> = BTreeMap::new();
    compiler.compile(&texts, Instant::now() + DEADLINE, &mut |index, result| {
        let name = &sources[index].name;
        let members = result.and_then(|compiled| {
            let members = policy::members(&compiled.policy);
            let members = members.map_err(|reason| Refusal::new("compile", reason))?;
            rules.check(name, &members)
        });
        match members {
            Ok(members) => _ = accepted.insert(name, members),
            Err(refusal) => _ = refusals.insert(name.to_string(), refusal),
        }
        Ok(())
    })?;
    refusals.extend(defined_twice(desired, &accepted));
    let early = desired.refused.iter();
    let early = early.map(|(name, (place, refusal))| finding(name, place, refusal));
    let late = desired.profiles.iter().filter_map(|source| {
        let refusal = refusals.get(source.name.as_str())?;
        Some(finding(source.name.as_str(), &source.place, refusal))
    });
    Ok(early.chain(late).collect())
}

/// The files that define a profile which another file defines too.
fn defined_twice(
    desired: &Desired,
    accepted: &BTreeMap<&ProfileName, Vec<Member>>,
) -> Vec<(String, Refusal)> {
    let mut definers = BTreeMap::<&str, Vec<&str>>::new();
    for (file, members) in accepted {
        for member in members
            .iter()
            .filter(|member| parent(&member.name).is_none())
        {
            definers
                .entry(&member.name)
                .or_default()
                .push(file.as_str());
        }
    }
    for name in desired.names() {
        if let Some(files) = definers
            .get_mut(name)
            .filter(|files| !files.contains(&name))
        {
            files.push(name);
        }
    }
    definers.retain(|_, files| files.len() > 1);
    let doubles = definers.into_iter().flat_map(|(name, files)| {
        let line = format!("{name} is defined by {}: keep one", files.join(" and "));
        let refusal = Refusal::new("duplicate", line);
        files
            .into_iter()
            .map(move |file| (file.to_owned(), refusal.clone()))
    });
    doubles.collect()
}

fn finding(name: &str, place: &str, refusal: &Refusal) -> Finding {
    let is_file = std::path::Path::new(place)
        .file_name()
        .is_some_and(|file| file == name);
    Finding {
        path: match is_file {
            true => place.to_owned(),
            false => format!("{}/{name}", place.trim_end_matches('/')),
        },
        profile: name.to_owned(),
        level: Level::Error,
        kind: refusal.reason,
        line: refusal.line,
        message: refusal.message.clone(),
    }
}

fn show(findings: &[Finding], checked: usize, output: &str) -> Result<(), Error> {
    let mut text = String::new();
    let line = |finding: &Finding| finding.line.map(|line| line.to_string());
    match output {
        "json" => {
            let document = serde_json::json!({
                "schema": SCHEMA,
                "checked": checked,
                "findings": findings,
            });
            text = format!("{document:#}\n");
        }
        "github" => {
            for finding in findings {
                let line = line(finding).map_or_else(String::new, |line| format!(",line={line}"));
                let path = finding.path.trim_start_matches("./");
                let path = escaped(path).replace(':', "%3A").replace(',', "%2C");
                let message = escaped(&finding.message);
                text += &format!("::error file={path}{line},title=armorer::{message}\n");
            }
        }
        _ => {
            for finding in findings {
                let line = line(finding).map_or_else(String::new, |line| format!("{line}:"));
                let path = printable(&finding.path);
                text += &format!("{path}:{line} error: {}\n", finding.message);
            }
            text += &format!("{checked} checked, {} refused\n", findings.len());
        }
    }
    print(&text)
}

/// The message of a workflow command.
fn escaped(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

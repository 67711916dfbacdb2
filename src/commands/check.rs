//! `check`: validates profiles without a kernel, with the same code as a pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::print;
use crate::compiler::{self, Compiler, Includes, Text};
use crate::desired::{Desired, ProfileSource};
use crate::error::{Error, Exit};
use crate::outcome::Refusal;
use crate::policy;
use crate::profile::{parent, printable};
use crate::report::SCHEMA;
use crate::rules::Rules;
use crate::source::{self, Known, Limits, Source};

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

/// The word of text, JSON and a workflow's annotations.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[derive(strum::Display)]
#[strum(serialize_all = "lowercase")]
enum Level {
    Error,
}

/// Checks every path, each as a source of its own; prints the findings.
///
/// # Errors
/// A path cannot be read, or there is no compiler.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let compiler = Compiler::find(settings.compiler.clone())?;
    let known = Known {
        objects: &BTreeMap::new(),
        text: &|_| None,
        allow_missing: false,
    };
    let client = || Err(Error::Usage("check reads files and folders only".into()));
    let (mut findings, mut checked) = (Vec::new(), 0);
    for path in &settings.paths {
        let source = [Source::Folder(path.clone())];
        let found = source::read(&source, &settings.limits, &known, &client)?;
        let mut desired = Desired::new(found.profiles, &settings.rules);
        checked += desired.names().len();
        if desired.names().is_empty() {
            let refusal = Refusal::new("source", "holds no profile");
            let place = path.display().to_string();
            desired.refused.insert(String::new(), (place, refusal));
        }
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
    let mut refused = desired.refused.clone();
    let mut refuse = |source: &ProfileSource, refusal| {
        refused.insert(source.name.to_string(), (source.place.clone(), refusal));
    };
    let mut includes = Includes::new(compiler.base());
    let mut sources = Vec::new();
    for source in &desired.profiles {
        match includes.of(&source.text).1 {
            None => sources.push(source),
            Some(refusal) => refuse(source, refusal),
        }
    }
    let texts = sources.iter().map(|source| Text {
        name: source.name.as_str(),
        contents: &source.text,
        last: false,
    });
    let texts: Vec<Text> = texts.collect();
    // The accepted files that define each profile.
    let mut definers = BTreeMap::<String, Vec<&str>>::new();
    compiler.compile(&texts, Instant::now() + DEADLINE, &mut |done| {
        let Some((index, result)) = done else {
            return Ok(());
        };
        let source = sources[index];
        let members = result.and_then(|compiled| {
            let members = policy::members(&compiled.policy);
            let members = members.map_err(|reason| Refusal::new("compile", reason))?;
            rules.check(&source.name, &members)
        });
        match members {
            Ok(members) => {
                for member in members.into_iter().filter(|m| parent(&m.name).is_none()) {
                    let files = definers.entry(member.name).or_default();
                    files.push(source.name.as_str());
                }
            }
            Err(refusal) => refuse(source, refusal),
        }
        Ok(())
    })?;
    let names = desired.names();
    for (name, mut files) in definers {
        files.sort_unstable();
        let own = names.get(&*name).filter(|own| !files.contains(own));
        files.extend(own);
        if files.len() > 1 {
            let line = format!("{name} is defined by {}: keep one", files.join(" and "));
            let doubles = desired.profiles.iter();
            for source in doubles.filter(|source| files.contains(&source.name.as_str())) {
                refuse(source, Refusal::new("duplicate", &line));
            }
        }
    }
    Ok(refused.iter().map(error).collect())
}

/// About a refused file, by its name: its place is its folder, or the file itself.
fn error((name, (place, refusal)): (&String, &(String, Refusal))) -> Finding {
    let path = match Path::new(place).ends_with(name) {
        true => place.clone(),
        false => format!("{}/{name}", place.trim_end_matches('/')),
    };
    Finding {
        path,
        profile: name.clone(),
        level: Level::Error,
        kind: refusal.reason,
        line: refusal.line,
        message: refusal.message.clone(),
    }
}

fn show(findings: &[Finding], checked: usize, output: &str) -> Result<(), Error> {
    if output == "json" {
        let json = serde_json::json!({"schema": SCHEMA, "checked": checked, "findings": findings});
        return print(&format!("{json:#}\n"));
    }
    let mut text = String::new();
    for finding in findings {
        let Finding { level, message, .. } = finding;
        let (path, line) = (&finding.path, finding.line);
        if output == "github" {
            let line = line.map(|line| format!(",line={line}")).unwrap_or_default();
            let path = escaped(&printable(path.trim_start_matches("./")));
            let path = path.replace(':', "%3A").replace(',', "%2C");
            let message = escaped(message);
            text += &format!("::{level} file={path}{line},title=armorer::{message}\n");
        } else {
            let line = line.map(|line| format!("{line}:")).unwrap_or_default();
            let path = printable(path);
            text += &format!("{path}:{line} {level}: {message}\n");
        }
    }
    if output == "text" {
        text += &format!("{checked} checked, {} refused\n", findings.len());
    }
    print(&text)
}

/// The message of a workflow command.
fn escaped(text: &str) -> String {
    let text = text.replace('%', "%25");
    text.replace('\r', "%0D").replace('\n', "%0A")
}

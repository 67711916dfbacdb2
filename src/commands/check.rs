//! Validates profiles without a kernel, with the same code as a pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::advice::{AdviceKind, advise};
use crate::args;
use crate::blob;
use crate::error::{Error, Exit};
use crate::includes::Includes;
use crate::parser::Compiler;
use crate::profile::{ProfileName, Refusal, RefusalKind, printable};
use crate::report;
use crate::settings::{Common, Env, Output, Rules, Setting, switch};
use crate::source::{self, Source};
use crate::state::Member;
use crate::wanted::{self, Wish};

/// Everything together may take this long.
const DEADLINE: Duration = Duration::from_secs(3600);

/// One thing that was found.
#[derive(Debug, Serialize)]
struct Finding {
    path: String,
    profile: String,
    level: Level,
    kind: String,
    /// The line in the file, where one is known.
    line: Option<u32>,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
    Warning,
}

/// Checks every path; prints what was found.
pub(crate) fn run(flags: &args::Check, common: &Common, env: Env) -> Result<Exit, Error> {
    if flags.paths.is_empty() {
        return Err(Error::Usage(
            "no path: armorer check FILE-OR-FOLDER...".into(),
        ));
    }
    let output = Setting::new("output", flags.output.as_ref(), env).read(
        Output::Text,
        "text, json or github",
        |text| match text {
            "text" => Some(Output::Text),
            "json" => Some(Output::Json),
            "github" => Some(Output::Github),
            _ => None,
        },
    )?;
    let strict = switch("strict", flags.strict, env)?;
    let rules = Rules::new(&flags.rules(), env)?;
    let compiler = Compiler::find(rules.compiler(common, false))?;
    let sources: Vec<Source> = flags
        .paths
        .iter()
        .map(|path| Source::Directory(path.into()))
        .collect();
    let wish = Wish::new(source::read(&sources, &rules.limits)?, &rules);
    let checked = wish.units.len() + wish.refused.len();
    let findings = check(&wish, &rules, &compiler);
    print(&findings, checked, output);
    let fails = |finding: &Finding| strict || finding.level == Level::Error;
    Ok(if findings.iter().any(fails) {
        Exit::Incomplete
    } else {
        Exit::Converged
    })
}

fn check(wish: &Wish, rules: &Rules, compiler: &Compiler) -> Vec<Finding> {
    let mut includes = Includes::new(rules.base.clone());
    let mut refusals: BTreeMap<String, Refusal> = wish.refused.clone();
    let mut texts = Vec::new();
    for unit in &wish.units {
        match includes.of(&unit.text) {
            Ok(_) => texts.push(unit.to_compile()),
            Err(refusal) => _ = refusals.insert(unit.name.to_string(), refusal),
        }
    }
    let files = wish.names();
    let mut accepted: BTreeMap<ProfileName, Vec<Member>> = BTreeMap::new();
    let mut judge = |index: usize, result: Result<Vec<u8>, Refusal>| {
        let Ok(name) = ProfileName::parse(texts[index].name) else {
            return;
        };
        let members = result.and_then(|blob| {
            let members = blob::members(&blob)
                .map_err(|why| Refusal::new(RefusalKind::Compile, format!("{name}: {why}")))?;
            let members = wanted::check_members(&name, &members, rules)?;
            wanted::check_intruder(&name, &members, &files)?;
            Ok(members)
        });
        match members {
            Ok(members) => _ = accepted.insert(name, members),
            Err(refusal) => _ = refusals.insert(name.to_string(), refusal),
        }
    };
    let deadline = Instant::now() + DEADLINE;
    // Confined or not: where this runs, armorer's own profile may not be loaded.
    let _ = compiler.compile(&texts, deadline, None, &mut |answers| {
        for (index, result) in answers {
            judge(index, result);
        }
    });
    let doubles = wanted::doubles(accepted.iter().map(|(name, members)| (name, &**members)));
    for (member, files) in doubles {
        for file in &files {
            let all: Vec<&str> = files.iter().map(|name| name.as_str()).collect();
            let message = format!(
                "{file}: {member} is defined by {}: keep one",
                all.join(" and ")
            );
            refusals.insert(
                file.to_string(),
                Refusal::new(RefusalKind::Duplicate, message),
            );
        }
    }
    let mut findings: Vec<Finding> = refusals
        .iter()
        .map(|(name, refusal)| error(wish, name, refusal))
        .collect();
    for unit in wish
        .units
        .iter()
        .filter(|unit| !refusals.contains_key(unit.name.as_str()))
    {
        let advice = advise(&unit.text, &mut |path| includes.text(path));
        findings.extend(advice.into_iter().map(|advice| Finding {
            path: path(&unit.source, unit.name.as_str()),
            profile: advice.profile.clone(),
            level: Level::Warning,
            kind: advice_word(advice.kind).to_owned(),
            line: None,
            message: advice.message,
        }));
    }
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    findings
}

fn error(wish: &Wish, name: &str, refusal: &Refusal) -> Finding {
    let kind = serde_json::to_value(refusal.kind).expect("a word");
    Finding {
        path: path(wish.source_of(name), name),
        profile: name.to_owned(),
        level: Level::Error,
        kind: kind.as_str().unwrap_or_default().to_owned(),
        line: line(&refusal.message, name),
        message: refusal.message.clone(),
    }
}

/// The warning's kind as machines read it.
const fn advice_word(kind: AdviceKind) -> &'static str {
    match kind {
        AdviceKind::NoSignal => "no-signal",
        AdviceKind::NothingExecutable => "nothing-executable",
        AdviceKind::NotDisconnected => "not-disconnected",
    }
}

/// Where the file is; a source may be the file itself.
fn path(source: &str, name: &str) -> String {
    let path = Path::new(source);
    if path.file_name().is_some_and(|file| file == name) && !path.is_dir() {
        return source.to_owned();
    }
    path.join(name).display().to_string()
}

/// The number in `NAME line N: …`.
fn line(message: &str, name: &str) -> Option<u32> {
    let rest = message.strip_prefix(name)?.strip_prefix(" line ")?;
    rest.split(':').next()?.parse().ok()
}

fn print(findings: &[Finding], checked: usize, output: Output) {
    let errors = findings.iter().filter(|f| f.level == Level::Error).count();
    let warnings = findings.len() - errors;
    match output {
        Output::Json => {
            let document = serde_json::json!({
                "schema": report::SCHEMA,
                "checked": checked,
                "findings": findings,
            });
            println!("{document:#}");
        }
        Output::Github => {
            for finding in findings {
                let level = match finding.level {
                    Level::Error => "error",
                    Level::Warning => "warning",
                };
                let line = finding
                    .line
                    .map_or_else(String::new, |line| format!(",line={line}"));
                println!(
                    "::{level} file={}{line},title=armorer::{}",
                    escape_property(&finding.path),
                    escape(&finding.message)
                );
            }
        }
        Output::Text => {
            for finding in findings {
                let level = match finding.level {
                    Level::Error => "error",
                    Level::Warning => "warning",
                };
                println!("{}: {level}: {}", printable(&finding.path), finding.message);
            }
            println!("{checked} checked, {errors} refused, {warnings} warnings");
        }
    }
}

/// A workflow command's message.
fn escape(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// A workflow command's property.
fn escape_property(text: &str) -> String {
    escape(text).replace(':', "%3A").replace(',', "%2C")
}

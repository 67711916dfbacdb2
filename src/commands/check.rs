//! `check`: validates profiles without a kernel, with the same code as a pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::print;
use crate::compiler::{self, Compiler, Includes, Text, features};
use crate::desired::{Desired, ProfileSource};
use crate::error::{Error, Exit};
use crate::outcome::{Refusal, Unenforced, about};
use crate::policy::{self, Profile, advise};
use crate::profile::{parent, printable};
use crate::source::local;
use crate::{report::SCHEMA, rules::Rules, source, source::Limits};

/// The time limit of the whole command.
const DEADLINE: Duration = Duration::from_hours(1);

/// The kind of a finding about rules that the kernel does not enforce.
const UNENFORCED: &str = "not-enforced";

/// The user's settings.
pub(crate) struct Settings {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) rules: Rules,
    pub(crate) compiler: compiler::Settings,
    /// Files with the features of kernels, each checked for; none: this kernel.
    pub(crate) features: Vec<PathBuf>,
    /// `text`, `json` or `github` (annotations of a workflow).
    pub(crate) output: String,
    /// Warnings fail too.
    pub(crate) strict: bool,
}

/// An error or a warning.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Finding {
    path: String,
    /// The line in the file, where it is known.
    line: Option<u32>,
    profile: String,
    /// `error` or `warning`.
    level: &'static str,
    kind: &'static str,
    message: String,
}

/// Checks every path, each as a source of its own, for each features file; prints the findings.
///
/// # Errors
/// A path cannot be read, or there is no compiler.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let result = checked(settings);
    if let (Err(error), "github") = (&result, &*settings.output) {
        let message = escaped(&error.chain());
        print(&format!("::error title=armorer::{message}\n"))?;
    }
    result
}

fn checked(settings: &Settings) -> Result<Exit, Error> {
    let paths = settings.paths.iter();
    let locals = paths.map(|path| Ok((path, local::read(path, &settings.limits)?)));
    let locals = locals.collect::<Result<Vec<_>, Error>>()?;
    let compilers = features::compilers(&settings.compiler, &settings.features)?;
    let (mut findings, mut files) = (BTreeSet::new(), 0);
    for compiler in &compilers {
        files = 0;
        for (path, local) in &locals {
            let skipped = source::passed_over(&local.passed_over, &settings.rules.prefix);
            findings.extend(skipped.map(|(name, message)| Finding {
                path: self::path(&path.display().to_string(), name),
                line: None,
                profile: name.to_owned(),
                level: "warning",
                kind: "skipped",
                message,
            }));
            let mut desired = Desired::new(local.profiles.clone(), &settings.rules);
            files += desired.names().len();
            if desired.names().is_empty() {
                let refusal = Refusal::new("source", "holds no profile");
                let place = path.display().to_string();
                desired.refused.insert(String::new(), (place, refusal));
            }
            for mut finding in check(&desired, &settings.rules, compiler)? {
                // In a manifest.
                if let Some(before) = local.lines.get(&finding.profile) {
                    finding.line = Some(before + finding.line.unwrap_or(1));
                }
                findings.insert(finding);
            }
        }
    }
    let names = compilers.iter().map(|compiler| &*compiler.features_name);
    let names = names.collect::<Vec<_>>().join(", ");
    let total = format!("{files} checked for {names}");
    print(&show(&findings, files, &total, &settings.output))?;
    let fails = |finding: &Finding| settings.strict || finding.level == "error";
    Ok(Exit::of(!findings.iter().any(fails)))
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
    let texts = sources.iter();
    let texts = texts.map(|source| Text::new(source.name.as_str(), &source.text));
    let texts: Vec<Text> = texts.collect();
    // The accepted files that define each profile.
    let mut definers = BTreeMap::<String, Vec<&str>>::new();
    let mut warnings = Vec::new();
    compiler.compile(&texts, Instant::now() + DEADLINE, &mut |done| {
        let Some((index, result)) = done else {
            return Ok(());
        };
        let source = sources[index];
        let checked = result.and_then(|compiled| {
            let profiles = policy::profiles(&compiled.policy);
            let profiles = profiles.map_err(|reason| Refusal::new("compile", reason))?;
            let members = profiles.iter().map(|profile| profile.member.clone());
            let mut accepted = rules.check(&source.name, &members.collect::<Vec<_>>())?;
            accepted.retain(|member| parent(&member.name).is_none());
            for member in accepted {
                let files = definers.entry(member.name).or_default();
                files.push(source.name.as_str());
            }
            warnings.extend(warn(source, &profiles, &compiled.unenforced));
            Ok(())
        });
        if let Err(refusal) = checked {
            refuse(source, refusal);
        }
        Ok(())
    })?;
    for (source, message) in duplicates(desired, definers) {
        refuse(source, Refusal::new("duplicate", message));
    }
    let errors = refused.iter().map(|(name, (place, refusal))| Finding {
        path: path(place, name),
        line: refusal.line,
        profile: name.clone(),
        level: "error",
        kind: refusal.reason,
        message: refusal.message.clone(),
    });
    Ok(errors.chain(warnings).collect())
}

/// The files that define a profile which another file has or defines too, by `definers`.
fn duplicates<'a>(
    desired: &'a Desired,
    definers: BTreeMap<String, Vec<&str>>,
) -> Vec<(&'a ProfileSource, String)> {
    let (names, mut found) = (desired.names(), Vec::new());
    for (name, mut files) in definers {
        files.sort_unstable();
        let own = names.get(&*name).filter(|own| !files.contains(own));
        files.extend(own);
        if files.len() > 1 {
            let message = format!("{name} is defined by {}: keep one", files.join(" and "));
            let sources = desired.profiles.iter();
            let sources = sources.filter(|source| files.contains(&source.name.as_str()));
            found.extend(sources.map(|source| (source, message.clone())));
        }
    }
    found
}

/// The advice about a text, one finding a kind, and its unenforced rules; without the kinds that a
/// comment acknowledges.
fn warn(source: &ProfileSource, profiles: &[Profile], unenforced: &[Unenforced]) -> Vec<Finding> {
    let mut found = BTreeMap::<&str, (String, usize)>::new();
    for profile in profiles {
        for (kind, message) in advise(profile, profiles, &source.text) {
            let message = match &*profile.member.name {
                name if name == source.name.as_str() => message,
                name => about(name, &message),
            };
            found.entry(kind).or_insert((message, 0)).1 += 1;
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    let messages = unenforced.iter().map(|rules| rules.message.clone());
    found.extend(messages.map(|message| (UNENFORCED, (message, 1))));
    found.retain(|(kind, _)| !acknowledged(&source.text, kind));
    let findings = found.into_iter().map(|(kind, (message, count))| {
        let more = match count {
            1 => String::new(),
            count => format!("; and {} more of its profiles", count - 1),
        };
        Finding {
            path: path(&source.place, source.name.as_str()),
            line: None,
            profile: source.name.to_string(),
            level: "warning",
            kind,
            message: format!("{message}{more} [{kind}]"),
        }
    });
    findings.collect()
}

/// Whether a comment `# armorer: allow KIND…` in `text` names `kind`.
fn acknowledged(text: &str, kind: &str) -> bool {
    let mut lines = text.lines().filter(|line| line.contains("armorer:"));
    lines.any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(&words[..], ["#", "armorer:", "allow", kinds @ ..] if kinds.contains(&kind))
    })
}

/// Where the text `name` is: `place` is its folder, or a file.
fn path(place: &str, name: &str) -> String {
    match Path::new(place).is_dir() {
        true if !name.is_empty() => format!("{}/{name}", place.trim_end_matches('/')),
        _ => place.to_owned(),
    }
}

fn show(findings: &BTreeSet<Finding>, files: usize, total: &str, output: &str) -> String {
    if output == "json" {
        let json = serde_json::json!({"schema": SCHEMA, "checked": files, "findings": findings});
        return format!("{json:#}\n");
    }
    let workspace = std::env::var("GITHUB_WORKSPACE").unwrap_or_default();
    let mut text = String::new();
    for finding in findings {
        let Finding { level, message, .. } = finding;
        let (path, line) = (printable(&finding.path), finding.line);
        if output == "github" {
            let line = line.map(|line| format!(",line={line}")).unwrap_or_default();
            let path = path.strip_prefix(&workspace).unwrap_or(&path);
            let path = escaped(path.trim_start_matches("./").trim_start_matches('/'));
            let path = path.replace(':', "%3A").replace(',', "%2C");
            let message = escaped(message);
            text += &format!("::{level} file={path}{line},title=armorer::{message}\n");
        } else {
            let line = line.map(|line| format!("{line}:")).unwrap_or_default();
            text += &format!("{path}:{line} {level}: {message}\n");
        }
    }
    if output == "text" {
        let is_error = |finding: &&Finding| finding.level == "error";
        let errors = findings.iter().filter(is_error).count();
        let warnings = findings.len() - errors;
        text += &format!("{total}; errors: {errors}, warnings: {warnings}\n");
    }
    text
}

/// The message of a workflow command.
fn escaped(text: &str) -> String {
    let text = text.replace('%', "%25");
    text.replace('\r', "%0D").replace('\n', "%0A")
}

//! What the compiler says, in words for a person. Pure.

use std::path::{Path, PathBuf};

use super::child::{NO_PROFILE, NOT_STARTED, PREFIX};
use super::{Settings, TEXT};
use crate::clock::in_words;
use crate::profile::{Refusal, RefusalKind};

const SIGILL: i32 = 4;
const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;

/// How a compiler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Status(i32),
    Signal(i32),
    /// Killed, since its time was up.
    Timeout,
    /// Its time was up, and it could not be killed.
    NotAllowed,
    /// Killed, and still there.
    Stuck,
    /// It could not write, and not because its limit was reached.
    Hindered,
    /// Nobody knows.
    Lost,
}

/// Why there is no policy. `stderr` may quote included files: of those, name and line are passed
/// on, and never what is in them.
pub(super) fn explain(name: &str, settings: &Settings, stderr: &str, ended: Ended) -> Refusal {
    let time = in_words(settings.timeout);
    let (kind, message) = match ended {
        Ended::Timeout => (
            RefusalKind::CompileTimeout,
            format!("was not compiled within {time}: several ** in one rule are what takes long"),
        ),
        Ended::NotAllowed => (
            RefusalKind::CompileTimeout,
            format!(
                "was not compiled within {time}, and armorer may not end its compiler: give it the capability KILL"
            ),
        ),
        Ended::Stuck => (
            RefusalKind::CompileTimeout,
            format!("was not compiled within {time}, and its compiler does not end"),
        ),
        Ended::Signal(SIGXCPU) => (
            RefusalKind::CompileTimeout,
            "takes the compiler too much processor time: several ** in one rule are what takes long"
                .to_owned(),
        ),
        Ended::Signal(SIGKILL) => (
            RefusalKind::NotCompiled,
            "was not compiled: somebody killed the compiler, maybe for want of memory".to_owned(),
        ),
        Ended::Signal(SIGXFSZ) => too_large(settings),
        Ended::Status(_) if could_not_write(stderr) => too_large(settings),
        Ended::Signal(SIGABRT) | Ended::Status(_) if out_of_memory(stderr) => (
            RefusalKind::Limit,
            "takes the compiler more memory than it may have: several ** in one rule are what takes much"
                .to_owned(),
        ),
        Ended::Signal(signal) => (
            // Of a text, it can die by its own mistakes; who sent another signal meant no text.
            match signal {
                SIGILL | SIGABRT | SIGBUS | SIGFPE | SIGSEGV => RefusalKind::Compile,
                _ => RefusalKind::NotCompiled,
            },
            format!("was not compiled: the compiler died of signal {signal}"),
        ),
        Ended::Hindered => (
            RefusalKind::NotCompiled,
            "was not compiled: what the compiler made could not be written".to_owned(),
        ),
        Ended::Lost => (
            RefusalKind::NotCompiled,
            "was not compiled: the compiler got lost".to_owned(),
        ),
        // Somebody removed it since: the next pass loads it again.
        Ended::Status(status) if status == i32::from(NOT_STARTED) && stderr.contains(NO_PROFILE) => (
            RefusalKind::CompileTimeout,
            complaint(name, settings, stderr, status),
        ),
        Ended::Status(status) => (
            if not_started(stderr, status).is_some() {
                RefusalKind::NotCompiled
            } else {
                RefusalKind::Compile
            },
            complaint(name, settings, stderr, status),
        ),
    };
    Refusal::new(kind, format!("{name} {message}"))
}

fn too_large(settings: &Settings) -> (RefusalKind, String) {
    (
        RefusalKind::Limit,
        format!("becomes more than {} bytes of policy", settings.max_blob),
    )
}

/// Whether the compiler says that it could not write the policy.
pub(super) fn could_not_write(stderr: &str) -> bool {
    stderr.contains("Unable to write to stdout")
}

/// Why the compiler was not even executed.
fn not_started(stderr: &str, status: i32) -> Option<&str> {
    let mut lines = stderr.lines().map(str::trim);
    let why = lines.find_map(|line| line.strip_prefix(PREFIX))?;
    (status == i32::from(NOT_STARTED)).then_some(why)
}

fn out_of_memory(stderr: &str) -> bool {
    [
        "bad_alloc",
        "Out of memory",
        "Memory allocation error",
        "annot allocate memory",
    ]
    .iter()
    .any(|words| stderr.contains(words))
}

fn complaint(name: &str, settings: &Settings, stderr: &str, status: i32) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !is_noise(line))
        .collect();
    if let Some(why) = not_started(stderr, status) {
        return format!("was not compiled: {why}");
    }
    if let Some(place) = lines.iter().find_map(|line| Place::of(line)) {
        let line = place.line;
        if let Some(file) = place.file.filter(|file| *file != TEXT) {
            let file = Path::new(file);
            let file = file.strip_prefix(&settings.base).unwrap_or(file).display();
            return format!(
                "line {line} of the included file {file}: the compiler does not take it there"
            );
        }
        let message = format!("line {line}: {}", place.message.replace(TEXT, name));
        if message.contains("Could not open") {
            let base = settings.base.display();
            return format!(
                "{message}; includes are looked for in {base}, and must be readable for everybody"
            );
        }
        return message;
    }
    if let Some(variable) = lines.iter().find_map(|line| undeclared(line)) {
        return format!(
            "uses the variable @{{{variable}}} and does not declare it: is `include <tunables/global>` missing before the profile?"
        );
    }
    let words: Vec<&str> = lines
        .iter()
        .map(|line| {
            line.split_once("apparmor_parser: ")
                .map_or(*line, |(_, said)| said)
        })
        .take(2)
        .collect();
    if words.is_empty() {
        format!("was not compiled: the compiler ended with status {status}, without a word")
    } else {
        format!("was not compiled: {}", words.join("; ").replace(TEXT, name))
    }
}

fn is_noise(line: &str) -> bool {
    line.is_empty() || line.starts_with("Warning") || line.contains("Cache read/write disabled")
}

fn undeclared(line: &str) -> Option<&str> {
    let rest = line.split_once("reference to variable ")?.1;
    Some(rest.split_once(", but is never declared")?.0)
}

/// `AppArmor parser error[ for TEXT[ in profile FILE]] at line N: MESSAGE`, of parsers 3 and 4.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    file: Option<&'a str>,
    line: u32,
    message: &'a str,
}

impl<'a> Place<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let rest = line.strip_prefix("AppArmor parser error")?;
        let (place, rest) = rest.split_once(" at line ")?;
        let (number, message) = rest.split_once(':')?;
        let file = place
            .split_once(" in profile ")
            .or_else(|| place.split_once(" in "))
            .map(|(_, file)| file);
        Some(Self {
            file,
            line: number.parse().ok()?,
            message: message.trim(),
        })
    }
}

/// The files with features that the compiler's configuration names.
pub(super) fn feature_files(config: &str) -> Vec<PathBuf> {
    config
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(option, _)| {
            option.trim_start_matches('-').trim().ends_with("features")
                || option.trim() == "features-file"
        })
        .map(|(_, path)| PathBuf::from(path.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings() -> Settings {
        Settings {
            program: None,
            base: "/etc/apparmor.d".into(),
            securityfs: "/sys/kernel/security".into(),
            timeout: Duration::from_secs(30),
            jobs: None,
            complain: false,
            max_blob: 1000,
        }
    }

    fn said(stderr: &str) -> String {
        explain("custom.x", &settings(), stderr, Ended::Status(1)).message
    }

    #[test]
    fn what_the_compiler_says_becomes_one_line() {
        for (stderr, line) in [
            (
                "Cache read/write disabled: interface file missing. (Kernel needs AppArmor 2.4 compatibility patch.)\n\
                 AppArmor parser error for /proc/self/fd/0 in profile /proc/self/fd/0 at line 3: syntax error, unexpected TOK_CLOSE\n",
                "custom.x line 3: syntax error, unexpected TOK_CLOSE",
            ),
            (
                "AppArmor parser error at line 2: Invalid capability foo.\n",
                "custom.x line 2: Invalid capability foo.",
            ),
            (
                "AppArmor parser error for /proc/self/fd/0 in profile /etc/apparmor.d/abstractions/z at line 7: Invalid capability SECRET.\n",
                "custom.x line 7 of the included file abstractions/z: the compiler does not take it there",
            ),
            (
                "AppArmor parser error for /proc/self/fd/0 in profile /proc/self/fd/0 at line 2: Could not open 'abstractions/nope'\n",
                "custom.x line 2: Could not open 'abstractions/nope'; includes are looked for in /etc/apparmor.d, and must be readable for everybody",
            ),
            (
                "Found reference to variable PROC, but is never declared\n",
                "custom.x uses the variable @{PROC} and does not declare it: is `include <tunables/global>` missing before the profile?",
            ),
            (
                "/usr/sbin/apparmor_parser: Regex grouping error: Unclosed grouping\n/usr/sbin/apparmor_parser: Unable to parse input line '/x{'\nERROR processing regexs\n",
                "custom.x was not compiled: Regex grouping error: Unclosed grouping; Unable to parse input line '/x{'",
            ),
            (
                "",
                "custom.x was not compiled: the compiler ended with status 1, without a word",
            ),
        ] {
            assert_eq!(said(stderr), line);
        }
    }

    #[test]
    fn each_limit_has_its_own_words() {
        let kind = |stderr, ended| explain("custom.x", &settings(), stderr, ended).kind;
        assert_eq!(kind("", Ended::Timeout), RefusalKind::CompileTimeout);
        assert_eq!(kind("", Ended::NotAllowed), RefusalKind::CompileTimeout);
        assert_eq!(
            kind("", Ended::Signal(SIGXCPU)),
            RefusalKind::CompileTimeout
        );
        assert_eq!(kind("", Ended::Signal(SIGKILL)), RefusalKind::NotCompiled);
        assert_eq!(kind("", Ended::Signal(15)), RefusalKind::NotCompiled);
        assert_eq!(kind("", Ended::Signal(SIGSEGV)), RefusalKind::Compile);
        assert_eq!(kind("", Ended::Lost), RefusalKind::NotCompiled);
        assert_eq!(
            kind("armorer: cannot become nobody", Ended::Status(126)),
            RefusalKind::NotCompiled
        );
        assert_eq!(kind("", Ended::Signal(SIGXFSZ)), RefusalKind::Limit);
        assert_eq!(
            kind("std::bad_alloc", Ended::Signal(SIGABRT)),
            RefusalKind::Limit
        );
        assert_eq!(kind("", Ended::Signal(SIGABRT)), RefusalKind::Compile);
        assert_eq!(
            kind("Out of memory\n", Ended::Status(1)),
            RefusalKind::Limit
        );
    }

    #[test]
    fn the_features_of_the_configuration_are_found() {
        let config = "# x\n## Pin\npolicy-features=/usr/share/f\nwrite-cache\n";
        assert_eq!(feature_files(config), [PathBuf::from("/usr/share/f")]);
    }
}

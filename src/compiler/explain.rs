//! What a compiler's end and its messages mean, for a person. Pure.

use std::path::Path;

use rustix::process::Signal;

use super::child::{CAGE, NOT_STARTED, PREFIX};
use super::process::Ended;
use super::{Compiler, TEXT};
use crate::outcome::Refusal;
use crate::time::in_words;

/// Why there is no policy of the text `name`. `messages` may quote included files: of those, name and
/// line are passed on, and never their contents.
pub(super) fn explain(
    name: &str,
    compiler: &Compiler,
    messages: &str,
    ended: Ended,
    written: u64,
) -> Refusal {
    let settings = &compiler.settings;
    let failed =
        |words: &str| Refusal::failed(format!("not compiled: {words}; the next pass tries again"));
    match ended {
        Ended::Signal(Some(Signal::XCPU)) => {
            let time = in_words(settings.time);
            Refusal::new(
                "cost",
                format!(
                    "takes the compiler more than {time} of processor time: use fewer `**` and alternations in one rule, or raise --max-compile-time"
                ),
            )
        }
        Ended::Signal(Some(Signal::XFSZ)) => too_large(settings.policy_bytes),
        Ended::Status(_) if could_not_write(messages) => match written >= settings.policy_bytes {
            true => too_large(settings.policy_bytes),
            false => failed("the compiler could not write the policy"),
        },
        Ended::Signal(Some(Signal::ABORT)) | Ended::Status(_) if out_of_memory(messages) => {
            let (memory, jobs) = (
                compiler.resources.address_space >> 20,
                compiler.resources.jobs,
            );
            Refusal::new(
                "limit",
                format!(
                    "takes the compiler more than {memory} MiB of memory, its share here for {jobs} at once: raise the container's memory limit, lower --jobs, or split the profile"
                ),
            )
        }
        // By these it dies of its own mistakes; another signal came from outside.
        Ended::Signal(Some(
            signal @ (Signal::ILL | Signal::ABORT | Signal::BUS | Signal::FPE | Signal::SEGV),
        )) => Refusal::new(
            "compile",
            format!(
                "crashes the compiler (signal {}): simplify the text, or try another version of the compiler",
                signal.as_raw()
            ),
        ),
        Ended::Signal(Some(Signal::KILL)) => {
            failed("the compiler was killed, perhaps for want of memory")
        }
        Ended::Signal(_) => failed("the compiler was ended by a signal"),
        Ended::Overdue => failed("the compiler waited too long for a processor or a disk"),
        Ended::NotAllowed => failed(
            "the compiler takes too long and cannot be killed: give armorer the capability KILL",
        ),
        Ended::Stuck => failed("the compiler does not end, though it was killed"),
        Ended::Status(NOT_STARTED) => {
            let mut lines = messages.lines();
            let reason = lines.find_map(|line| line.trim().strip_prefix(PREFIX));
            failed(reason.unwrap_or("the compiler did not start"))
        }
        Ended::Status(status) => complaint(name, &settings.base, messages, status),
    }
}

fn too_large(limit: u64) -> Refusal {
    let message = format!("becomes more than {limit} bytes of policy: split the profile");
    Refusal::new("limit", message)
}

/// Whether the compiler says that it could not write the policy.
fn could_not_write(messages: &str) -> bool {
    messages.contains("Unable to write to stdout")
}

fn out_of_memory(messages: &str) -> bool {
    [
        "bad_alloc",
        "Out of memory",
        "Memory allocation error",
        "annot allocate memory",
    ]
    .iter()
    .any(|words| messages.contains(words))
}

/// The compiler's complaint about a text.
fn complaint(name: &str, base: &Path, messages: &str, status: i32) -> Refusal {
    let lines = messages.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !is_noise(line)).collect();
    let refused = |words: String| Refusal::new("compile", words);
    if let Some(place) = lines.iter().find_map(|line| Place::of(line)) {
        let line = place.line;
        let Some(file) = place.file.filter(|file| *file != TEXT) else {
            return Refusal::at("compile", line, place.message.replace(TEXT, name));
        };
        let file = Path::new(file);
        let file = file.strip_prefix(base).unwrap_or(file).display();
        return refused(format!(
            "the compiler does not accept the included file {file} here, at its line {line}"
        ));
    }
    if let Some(variable) = lines.iter().find_map(|line| undeclared(line)) {
        return refused(format!(
            "uses the variable @{{{variable}}}, which is not declared: add `include <tunables/global>` before the profile"
        ));
    }
    let words = lines.iter().map(|line| {
        line.split_once("apparmor_parser: ")
            .map_or(*line, |(_, said)| said)
    });
    let words: Vec<&str> = words.take(2).collect();
    refused(if words.is_empty() {
        format!("the compiler ended with status {status} and gave no reason")
    } else {
        format!(
            "the compiler says: {}",
            words.join("; ").replace(TEXT, name)
        )
    })
}

fn is_noise(line: &str) -> bool {
    line.is_empty()
        || line.starts_with("Warning")
        || line.starts_with(CAGE)
        || line.contains("Cache read/write disabled")
}

fn undeclared(line: &str) -> Option<&str> {
    let rest = line.split_once("reference to variable ")?.1;
    Some(rest.split_once(", but is never declared")?.0)
}

/// `AppArmor parser error[ for TEXT[ in profile FILE]] at line N: MESSAGE`, of parsers 3 to 5.
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

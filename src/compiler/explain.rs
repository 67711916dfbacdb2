//! The meaning of a compiler's end and of its messages, for a person. Pure.

use std::{os::unix::process::ExitStatusExt as _, path::Path, process::ExitStatus};

use rustix::process::Signal;

use super::child::{CAGE, NOT_STARTED, PREFIX};
use super::mistakes::plain;
use super::{Compiler, TEXT, Text};
use crate::{outcome::Refusal, time::in_words};

/// The exit code of a program that lacks a library (`ld.so(8)`).
const LOADER_FAILED: i32 = 127;

/// The compiler's messages where memory is short.
const NO_MEMORY: &str = "bad_alloc|Out of memory|Memory allocation error|annot allocate memory";

/// Why there is no policy of `text`. `messages` may quote included files: of those, name and
/// line are passed on, and never their contents.
pub(super) fn explain(
    text: &Text,
    compiler: &Compiler,
    messages: &str,
    status: ExitStatus,
    written: u64,
) -> Refusal {
    let most = compiler.settings.policy_bytes;
    let lacks_memory = NO_MEMORY.split('|').any(|words| messages.contains(words));
    let signal = status.signal().and_then(Signal::from_named_raw);
    match (status.code(), signal) {
        (_, Some(Signal::XCPU)) => {
            let time = in_words(compiler.settings.time);
            let message = format!(
                "needs more than {time} of CPU time to compile: use fewer `**` and alternations in one rule, or raise --max-compile-time"
            );
            Refusal::new("cost", message)
        }
        (_, Some(Signal::XFSZ)) => too_large(most),
        (Some(_), _) if messages.contains("Unable to write to stdout") => match written >= most {
            true => too_large(most),
            false => failed("the compiler could not write the policy"),
        },
        (Some(_), _) | (_, Some(Signal::ABORT)) if lacks_memory => {
            let memory = compiler.resources.address_space >> 20;
            let jobs = compiler.resources.jobs;
            let message = format!(
                "needs more than {memory} MiB of memory to compile, the share of each of {jobs} compilers: raise the container's memory limit, lower --jobs, or split the profile"
            );
            Refusal::new("limit", message)
        }
        (Some(NOT_STARTED), _) => {
            let mut lines = messages.lines();
            let reason = lines.find_map(|line| line.trim().strip_prefix(PREFIX));
            failed(reason.unwrap_or("the compiler did not start"))
        }
        (Some(_), _) if let Some(words) = call(&compiler.program, messages) => failed(words),
        (Some(code), _) => complaint(text, &compiler.settings.base, messages, code),
        // Signals of the compiler's own mistakes; another one came from outside.
        (_, Some(Signal::ILL | Signal::ABORT | Signal::BUS | Signal::FPE | Signal::SEGV)) => {
            let signal = status.signal().unwrap_or_default();
            let message = format!(
                "crashes the compiler (signal {signal}): simplify the text, or try another version of the compiler"
            );
            Refusal::new("compile", message)
        }
        (_, Some(Signal::KILL)) => failed("the compiler was killed, perhaps for lack of memory"),
        _ => failed("a signal ended the compiler"),
    }
}

/// A failure that says nothing about the text.
pub(super) fn failed(words: &str) -> Refusal {
    Refusal::failed(format!("not compiled: {words}; the next pass tries again"))
}

fn too_large(limit: u64) -> Refusal {
    let message = format!("compiles to more than {limit} bytes of policy: split the profile");
    Refusal::new("limit", message)
}

/// A complaint about how the program was called, which comes before all that a text can make it say.
fn call<'a>(program: &Path, messages: &'a str) -> Option<&'a str> {
    let mut lines = messages.lines().skip_while(|line| line.starts_with(CAGE));
    let words = lines.next()?.strip_prefix(program.to_str()?)?;
    let words = words.strip_prefix(": ")?;
    let mut begins = ["unrecognized option", "invalid option", "option '"].iter();
    let complains = begins.any(|begins| words.starts_with(begins));
    complains.then_some(words)
}

/// The compiler's complaint about a text.
fn complaint(text: &Text, base: &Path, messages: &str, status: i32) -> Refusal {
    let lines = messages.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !is_noise(line)).collect();
    let refused = |words: String| Refusal::new("compile", words);
    if let Some((file, line, message)) = lines.iter().find_map(|line| place(line)) {
        let own = file == TEXT;
        if let Some((line, words)) = plain(text.contents, !own, line as usize, message) {
            return Refusal::at("compile", u32::try_from(line).unwrap_or(0), words);
        }
        if own {
            return Refusal::at("compile", line, message.replace(TEXT, text.name));
        }
        let file = Path::new(file);
        let file = file.strip_prefix(base).unwrap_or(file).display();
        return refused(format!(
            "the compiler does not accept line {line} of the included file {file} here"
        ));
    }
    if let Some(variable) = lines.iter().find_map(|line| undeclared(line)) {
        return refused(format!(
            "uses the undeclared variable @{{{variable}}}: add `include <tunables/global>` before the profile"
        ));
    }
    if lines.is_empty() {
        let words = format!("the compiler ended with status {status} and gave no reason");
        return failed(&words);
    }
    let words = lines.iter().take(2);
    let words = words.filter_map(|line| line.splitn(2, "apparmor_parser: ").last());
    let words = words.collect::<Vec<_>>().join("; ");
    let words = words.replace(TEXT, text.name);
    match status {
        LOADER_FAILED => failed(&words),
        _ => refused(format!("the compiler says: {words}")),
    }
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

/// File, line and message of `AppArmor parser error[ for TEXT[ in profile FILE]] at line N: MESSAGE`,
/// as parsers 3 to 5 say.
fn place(line: &str) -> Option<(&str, u32, &str)> {
    let rest = line.strip_prefix("AppArmor parser error")?;
    let (place, rest) = rest.split_once(" at line ")?;
    let (number, message) = rest.split_once(':')?;
    let file = place.split_once(" in profile ");
    let file = file.or_else(|| place.split_once(" in "));
    let file = file.map_or(TEXT, |(_, file)| file);
    Some((file, number.parse().ok()?, message.trim()))
}

#[cfg(test)]
mod tests;

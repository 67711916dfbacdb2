//! armorer keeps the AppArmor profiles of a Kubernetes node equal to the desired ones.
//!
//! One invocation is one pass: read the desired profiles, look at the kernel's, apply the
//! difference, prove it, record it, exit. Nothing stays resident.
//!
//! # Promises
//!
//! 1. No confinement is taken from a running or starting process (`pass::remove`, `kernel::processes`).
//! 2. Only owned profiles are touched: ownership is by set and ends with the boot (`plan`, `state`).
//! 3. Reports are the kernel's word: every write is read back (`pass::observe`), and the next pass
//!    undoes other programs' changes.
//! 4. One bad profile harms no other: it is refused, and its last good version stays (`pass::load`).
//! 5. A source that cannot be read completely is never treated as an empty one (`source`).
//! 6. Killed at any instruction, the next pass converges: intent is recorded before the kernel is
//!    touched (`pass::journal`), files are replaced whole (`fs`).
//! 7. Profile text is untrusted: the compiler runs in a cage (`compiler`), and the checks read the
//!    compiled policy (`policy`, `rules`).
//! 8. A pass that changes nothing costs nearly nothing (`pass::work`).
//!
//! # Rooms
//!
//! ```text
//! cli          the command line: options, environment, each room's settings
//! commands     one file each
//! pass         one pass: its order is stated once, here
//! plan         pure: (desired, observed, record, clock) -> decisions
//! desired      pure: files -> profiles to load
//! rules        pure: which compiled profiles may be loaded
//! policy       pure: compiled policy
//! compiler     apparmor_parser in its cage: the only room that starts a process
//! kernel       securityfs and processes: the only room that spells their paths
//! source       folders, mounted ConfigMaps, ConfigMaps of the API server
//! state        the record as versioned JSON, and the store on disk
//! kubernetes   the API's client; a node's events, taint and labels
//! report       results as text, JSON, log, status file, metrics; copies
//! outcome      the one vocabulary of results
//! profile, time, error, fs
//! ```
//!
//! A room imports only rooms of a lower floor; tests/directions checks the table.

// For tests/fuzz this file is the root of a library, of which only `properties` is used.
#![cfg_attr(fuzzing, allow(dead_code, missing_docs))]

mod cli;
mod commands;
mod compiler;
mod desired;
mod error;
mod fs;
mod kernel;
mod kubernetes;
mod outcome;
mod pass;
mod plan;
mod policy;
mod profile;
#[cfg(any(test, fuzzing))]
#[path = "../tests/fuzz/properties.rs"]
pub mod properties;
mod report;
mod rules;
mod source;
mod state;
#[cfg(test)]
mod tests;
mod time;

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use error::Exit;
use profile::printable;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let words = arguments.iter();
    let words = words.map(|argument| argument.to_str().map(str::to_owned));
    let Some(words) = words.collect::<Option<Vec<String>>>() else {
        complain(&format!("not all arguments are UTF-8: {arguments:?}"));
        return Exit::Usage.into();
    };
    if let [_, first, rest @ ..] = words.as_slice()
        && first == compiler::CHILD
    {
        return compiler::child(rest);
    }
    let env: Vec<_> = std::env::vars_os().collect();
    let invocation = match cli::parse(words.get(1..).unwrap_or_default(), &env) {
        Ok(invocation) => invocation,
        Err(error) => {
            complain(&printable(&error.chain()));
            return error.exit().into();
        }
    };
    report::logger::start(invocation.json_log);
    for warning in invocation.warnings {
        log::warn!("{warning}");
    }
    match (invocation.run)() {
        Ok(exit) => exit.into(),
        Err(error) => {
            let line = printable(&error.chain());
            log::error!(action = "end", reason = line.as_str(); "{line}");
            error.exit().into()
        }
    }
}

/// A standard error that cannot be written changes no exit code.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "armorer: {line}");
}

//! armorer keeps the AppArmor profiles of a Kubernetes node equal to what the cluster wants.
//!
//! One invocation is one pass: read what is wanted, look at what the kernel has, do the
//! difference, prove it, write down what was done, exit. Nothing stays resident.
//!
//! # What it promises
//!
//! 1. It takes no confinement from a running or coming process (`apply::removal`, `confined`).
//! 2. It touches only what it owns: ownership is by set and ends with the boot (`plan`, `state`).
//! 3. What it says is what the kernel says: what is written is read back (`apply`), and somebody
//!    else's change is undone by the next pass.
//! 4. One bad profile harms nobody else: it is refused, its last good version stays.
//! 5. A source that cannot be read wholly is never an empty wish (`source`).
//! 6. Killed at any instruction, the next pass converges: intent is recorded before the kernel
//!    is touched, files are replaced whole (`state::folder`).
//! 7. Profile text is untrusted: the compiler runs as nobody, limited (`parser`), and what is
//!    checked is the compiled policy (`blob`, `wanted`).
//! 8. A pass that changes nothing costs nearly nothing (`reconcile`).
//!
//! # Where things are
//!
//! ```text
//! args, settings   the command line; flags, environment and defaults made into types
//! reconcile        the pass: the only file that knows the order of things
//! commands         what else can be asked: wait, status, check, restore, remove
//! source           what is wanted: folders, mounted ConfigMaps, ConfigMaps of the API server
//! profile          names, digests, texts: parsed once, trusted afterwards
//! wanted           from files as found to profiles that may be loaded
//! includes         which files a text includes, and their digests
//! parser           apparmor_parser, limited: the only module that starts a process
//! blob             names, modes and attachments out of compiled policy
//! advice           what compiles but hurts in a cluster
//! kubernetes       the API: its client, events, the start-up taint, what pods name
//! own_policy       the profile that confines the compiler, loaded first
//! file             whole files and folders in few system calls
//! word             values that JSON holds as one string, read without a copy
//! kernel           securityfs: the only module that spells its paths
//! confined         who is confined by what: the complete scan of /proc
//! state            versioned JSON by set; its folder: lock, atomic save, stored policy
//! plan             pure: (wanted, observed, clock) -> decisions, which are data
//! apply            decisions -> the kernel and the record; removals last
//! report           log, table, JSON, heartbeat, metrics, published status, copies
//! error            what ends a pass, and the exit codes
//! ```
//!
//! `plan`, `profile` and `wanted` name no file system, process, network or log.

// For tests/fuzz this file is the root of a library, which nothing but `properties` is used of.
#![cfg_attr(fuzzing, allow(dead_code, missing_docs))]

mod advice;
mod apply;
mod args;
mod blob;
mod clock;
mod commands;
mod confined;
mod error;
mod file;
mod includes;
mod kernel;
mod kubernetes;
mod own_policy;
mod parser;
mod plan;
mod profile;
#[cfg(fuzzing)]
pub mod properties;
#[cfg(all(test, not(fuzzing)))]
mod properties;
mod reconcile;
mod report;
mod settings;
mod source;
mod state;
mod wanted;
mod word;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use argh::{EarlyExit, FromArgs};

use args::{Armorer, Command};
use error::{Error, Exit};
use report::Report;
use settings::{Common, Env, Output, Pass, process_env};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let words: Option<Vec<String>> = arguments
        .iter()
        .map(|argument| argument.to_str().map(str::to_owned))
        .collect();
    let Some(words) = words else {
        eprintln!("armorer: the arguments {arguments:?} are not all UTF-8");
        return Exit::Usage.into();
    };
    if let [_, first, rest @ ..] = words.as_slice()
        && first == parser::CHILD
    {
        return parser::child(rest);
    }
    if let Some(name) = settings::unreadable_variable() {
        eprintln!("armorer: the variable {name} is not UTF-8");
        return Exit::Usage.into();
    }
    let command = match command(&words) {
        Ok(command) => command,
        Err(exit) => return exit,
    };
    let env: Env = &process_env;
    let common = match Common::new(&command.common(), env) {
        Ok(common) => common,
        Err(error) => {
            eprintln!("armorer: {error}");
            if let Some(file) = settings::termination_log(&command.common(), env) {
                write_termination_log(&file, &error.to_string());
            }
            return error.exit().into();
        }
    };
    report::logger::start(common.log_format);
    let (exit, reason) = match run(&command, &common, env) {
        Ok(done) => done,
        Err(error) => {
            let line = profile::printable(&error.chain());
            log::error!(action = "end", reason = line.as_str(); "{line}");
            (error.exit(), line)
        }
    };
    if let (Some(file), true) = (&common.termination_log, exit != Exit::Converged) {
        write_termination_log(file, &reason);
    }
    exit.into()
}

/// The parsed command line, or how to exit: usage is 2, help and version are 0.
fn command(words: &[String]) -> Result<Command, ExitCode> {
    let words: Vec<&str> = words.iter().skip(1).flat_map(|word| halves(word)).collect();
    let rest = words.as_slice();
    if rest.is_empty() {
        eprintln!(
            "armorer: no command: give reconcile, plan, wait, status, check, restore or remove; see armorer --help"
        );
        return Err(Exit::Usage.into());
    }
    if matches!(rest.first(), Some(&("--version" | "-V"))) {
        println!("armorer {}", env!("CARGO_PKG_VERSION"));
        return Err(ExitCode::SUCCESS);
    }
    match Armorer::from_args(&["armorer"], rest) {
        Ok(armorer) => Ok(armorer.command),
        Err(EarlyExit {
            output,
            status: Ok(()),
        }) => {
            print!("{output}");
            Err(ExitCode::SUCCESS)
        }
        Err(EarlyExit { output, .. }) => {
            eprintln!(
                "armorer: {}; see armorer --help",
                profile::printable(&output)
            );
            Err(Exit::Usage.into())
        }
    }
}

/// `--option=value` is `--option value` for argh.
fn halves(word: &str) -> impl Iterator<Item = &str> {
    let (option, value) = match word.split_once('=') {
        Some((option, value)) if option.starts_with("--") => (option, Some(value)),
        _ => (word, None),
    };
    std::iter::once(option).chain(value)
}

impl Command {
    fn common(&self) -> args::CommonFlags {
        match self {
            Self::Reconcile(flags) => flags.common(),
            Self::Plan(flags) => flags.common(),
            Self::Wait(flags) => flags.common(),
            Self::Status(flags) => flags.common(),
            Self::Check(flags) => flags.common(),
            Self::Restore(flags) => flags.common(),
            Self::Remove(flags) => flags.common(),
        }
    }
}

/// Does what is asked; the words are for the termination log.
fn run(command: &Command, common: &Common, env: Env) -> Result<(Exit, String), Error> {
    let quiet = |exit| Ok((exit, String::new()));
    match command {
        Command::Reconcile(flags) => {
            let settings = Pass::new(&flags.pass(), env)?;
            let report = reconcile::run(&settings, false)?;
            match settings.output {
                Some(Output::Json) => println!("{}", report.to_json()),
                Some(_) => print!("{}", report.lines()),
                None => {}
            }
            report::log_end(&report);
            Ok((report.exit, report.to_string()))
        }
        Command::Plan(flags) => {
            let settings = Pass::new(&flags.pass(), env)?;
            let exit_code = settings::switch("exit-code", flags.exit_code, env)?;
            let report = reconcile::run(&settings, true)?;
            if settings.output == Some(Output::Json) {
                println!("{}", report.to_json());
            } else {
                print!("{}", report.lines());
            }
            Ok((report.plan_exit(exit_code), report.to_string()))
        }
        Command::Wait(flags) => {
            let (exit, line) = commands::wait::run(flags, common, env)?;
            match exit {
                Exit::Converged => log::info!(action = "wait"; "{line}"),
                _ => log::error!(action = "wait"; "{line}"),
            }
            Ok((exit, line))
        }
        Command::Status(flags) => quiet(commands::status::run(flags, common, env)?),
        Command::Check(flags) => quiet(commands::check::run(flags, common, env)?),
        Command::Restore(flags) => Ok(end(&commands::restore::run(flags, common, env)?)),
        Command::Remove(flags) => Ok(end(&commands::remove::run(flags, common, env)?)),
    }
}

fn end(report: &Report) -> (Exit, String) {
    (report.exit, report::log_deeds(report))
}

/// The kubelet shows at most 4096 bytes of it.
fn write_termination_log(file: &Path, reason: &str) {
    if let Err(error) = fs_err::write(file, format!("{reason}\n")) {
        log::warn!("the reason is not in the termination log: {error}");
    }
}

//! The cage: the rights that a compiler gives up before it is executed.

use std::io::{self, ErrorKind, Write as _};
use std::process::{Command, ExitCode};
use std::{fs, os::unix::process::CommandExt};

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{self, Gid, Pid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Files the compiler may have open at once; includes nest.
const FILES: u64 = 64;

/// The exit code of a child that failed before the compiler's exec.
pub(super) const NOT_STARTED: i32 = 126;

/// The first words of such a child's message.
pub(super) const PREFIX: &str = "armorer: ";

/// The first words of the line that states how far the kernel restricts the compiler.
pub(super) const CAGE: &str = "armorer-cage: ";

/// The files that the loader and the C library read.
const SYSTEM: &str =
    "/lib /lib64 /lib32 /usr/lib /usr/lib64 /usr/lib32 /usr/local/lib /etc/ld.so.cache";

type Error = Box<dyn std::error::Error>;

/// `compile-child PARENT MEMORY SECONDS SIZE USER PROGRAM READABLE… -- ARGUMENT…`: gives up its rights
/// and becomes PROGRAM. Returns only if that fails. The limits: MEMORY, bytes of address space; SECONDS of
/// CPU time; SIZE, bytes of a file; READABLE, the readable files and folders besides PROGRAM and its
/// libraries.
pub(crate) fn child(args: &[String]) -> ExitCode {
    let Err(error) = become_compiler(args);
    let _ = writeln!(io::stderr(), "{PREFIX}{error}");
    ExitCode::from(u8::try_from(NOT_STARTED).unwrap_or(u8::MAX))
}

fn become_compiler(args: &[String]) -> Result<std::convert::Infallible, Error> {
    let usage = "this subcommand is internal to armorer";
    let [parent, memory, seconds, size, user, program, rest @ ..] = args else {
        return Err(usage.into());
    };
    let end = rest.iter().position(|word| word == "--").ok_or(usage)?;
    let (readable, arguments) = (&rest[..end], &rest[end + 1..]);

    close_fds::set_fds_cloexec(3, &[]);
    std::env::set_current_dir("/")?;
    limit(Resource::As, memory.parse()?, 0)?;
    // SIGXCPU at the first second over it; where both are equal, SIGKILL.
    limit(Resource::Cpu, seconds.parse()?, 2)?;
    limit(Resource::Fsize, size.parse()?, 0)?;
    limit(Resource::Nofile, FILES, 0)?;
    limit(Resource::Core, 0, 0)?;

    thread::set_no_new_privs(true)?;
    let cage = enter_cage(program, readable)?;
    if process::geteuid().is_root() {
        become_user(user.parse()?).map_err(|error| format!("cannot change to the compiler's user: armorer needs the capabilities SETUID and SETGID: {error}"))?;
    }
    let _ = thread::clear_ambient_capability_set();
    thread::set_capabilities(None, NONE)?;

    // Last, since a change of user clears it. A parent that died before is noticed by its child
    // having another one.
    process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if process::getppid() != Pid::from_raw(parent.parse()?) {
        return Err("the pass has ended".into());
    }
    writeln!(io::stderr(), "{CAGE}{cage}")?;
    let error = Command::new(program).args(arguments).env_clear().exec();
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => " (a program with its libraries, not a script)",
        _ => "",
    };
    Err(format!("cannot execute {program}{hint}: {error}").into())
}

/// Restricts this process to the compiler's files; `full`, `partial` or `none`, by the kernel's
/// version of Landlock.
///
/// With its configuration or the kernel's features missing, the compiler makes weaker policy without
/// a word: a path that exists and cannot be added ends the child.
fn enter_cage(program: &str, readable: &[String]) -> Result<&'static str, Error> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    let own = readable.iter().map(|path| (path.as_str(), read));
    let system = SYSTEM.split(' ').chain([program]);
    let system = system.map(|path| (path, read | AccessFs::Execute));
    for (path, access) in own.chain(system) {
        let access = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => access,
            Ok(_) => access & AccessFs::from_file(ABI::V1),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("cannot open {path}: {error}").into()),
        };
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, access))?;
    }
    Ok(match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    })
}

const NONE: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

fn become_user(user: u32) -> io::Result<()> {
    // The bounding set can be emptied only with SETPCAP, which armorer does without: no_new_privs
    // and another user leave nothing to gain from it.
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if thread::remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    thread::set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    thread::set_thread_res_gid(group, group, group)?;
    thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Lowers a limit, and its hard limit to `margin` above that; one that is lower already stays.
fn limit(resource: Resource, most: u64, margin: u64) -> io::Result<()> {
    let there = process::getrlimit(resource).maximum;
    let lower = |most: u64| Some(there.map_or(most, |there| there.min(most)));
    let limits = Rlimit {
        current: lower(most),
        maximum: lower(most + margin),
    };
    Ok(process::setrlimit(resource, limits)?)
}

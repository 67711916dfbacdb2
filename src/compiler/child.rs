//! The cage: what a compiler gives up before it is executed.

use std::error::Error as StdError;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{
    Gid, Pid, Resource, Rlimit, Signal, Uid, geteuid, getppid, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

/// Files the compiler may have open at once; includes nest.
const FILES: u64 = 64;

/// The exit code of a child that did not get as far as the compiler.
pub(super) const NOT_STARTED: i32 = 126;

/// The first words of what such a child says.
pub(super) const PREFIX: &str = "armorer: ";

/// The first words of the line that states how far the kernel restricts the compiler.
pub(super) const CAGE: &str = "armorer-cage: ";

/// What the loader and the C library read besides the compiler and its configuration.
const SYSTEM: [&str; 8] = [
    "/lib",
    "/lib64",
    "/lib32",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib32",
    "/usr/local/lib",
    "/etc/ld.so.cache",
];

/// `compile-child PARENT ADDRESS_SPACE CPU_SECONDS FILE_SIZE USER READABLE… -- PROGRAM ARGUMENT…`,
/// sizes in bytes, READABLE the files and folders that PROGRAM may read besides itself and its
/// libraries: gives up what it can and becomes PROGRAM. Returns only if that fails.
pub(crate) fn child(args: &[String]) -> ExitCode {
    let Err(error) = become_compiler(args);
    eprintln!("{PREFIX}{error}");
    ExitCode::from(u8::try_from(NOT_STARTED).unwrap_or(u8::MAX))
}

fn become_compiler(args: &[String]) -> Result<std::convert::Infallible, Box<dyn StdError>> {
    let usage = "this subcommand is armorer's own";
    let [parent, address_space, seconds, file_size, user, rest @ ..] = args else {
        return Err(usage.into());
    };
    let end = rest.iter().position(|word| word == "--").ok_or(usage)?;
    let (readable, command) = (&rest[..end], &rest[end + 1..]);
    let (program, arguments) = command.split_first().ok_or(usage)?;

    close_fds::set_fds_cloexec(3, &[]);
    std::env::set_current_dir("/")?;
    limit(Resource::As, address_space.parse()?, 0)?;
    // SIGXCPU at the first second over it; where both are equal, SIGKILL.
    limit(Resource::Cpu, seconds.parse()?, 2)?;
    limit(Resource::Fsize, file_size.parse()?, 0)?;
    limit(Resource::Nofile, FILES, 0)?;
    limit(Resource::Core, 0, 0)?;

    set_no_new_privs(true)?;
    let cage = enter_cage(program, readable)?;
    if geteuid().is_root() {
        become_user(user.parse()?).map_err(said("cannot change to the compiler's user: armorer needs the capabilities SETUID and SETGID"))?;
    }
    let _ = clear_ambient_capability_set();
    set_capabilities(None, NONE)?;

    // Last, since a change of user clears it. A parent that died before is noticed by its child
    // having another one.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Pid::from_raw(parent.parse()?) {
        return Err("the pass is over".into());
    }
    eprintln!("{CAGE}{cage}");
    let error = Command::new(program).args(arguments).env_clear().exec();
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => " (a program with its libraries, not a script)",
        _ => "",
    };
    Err(said(format!("cannot execute {program}{hint}"))(error))
}

/// Restricts this process to what the compiler reads; `full`, `partial` or `none`, by what the
/// kernel knows of Landlock.
///
/// With its configuration or the kernel's features missing, the compiler makes weaker policy without
/// a word: a path that exists and cannot be added ends the child.
fn enter_cage(program: &str, readable: &[String]) -> Result<&'static str, Box<dyn StdError>> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    let own = readable.iter().map(|path| (PathBuf::from(path), read));
    let system = SYSTEM.iter().chain([&program]);
    let system = system.map(|path| (PathBuf::from(path), read | AccessFs::Execute));
    for (path, access) in own.chain(system) {
        if let Some(rule) = rule(&path, access)? {
            ruleset = ruleset.add_rule(rule)?;
        }
    }
    Ok(match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    })
}

/// The rule for `path`; none where it does not exist.
fn rule(
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<Option<PathBeneath<PathFd>>, Box<dyn StdError>> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(said(format!("cannot look at {}", path.display())))?,
    };
    let access = if metadata.is_dir() {
        access
    } else {
        access & AccessFs::from_file(ABI::V1)
    };
    Ok(Some(PathBeneath::new(PathFd::new(path)?, access)))
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
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
    }
    set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Lowers a limit, and its hard limit to `margin` above that; one that is lower already stays.
fn limit(resource: Resource, most: u64, margin: u64) -> io::Result<()> {
    let there = rustix::process::getrlimit(resource).maximum;
    let lower = |most: u64| there.map_or(most, |there| there.min(most));
    let limits = Rlimit {
        current: Some(lower(most)),
        maximum: Some(lower(most + margin)),
    };
    Ok(setrlimit(resource, limits)?)
}

fn said(purpose: impl Into<String>) -> impl FnOnce(io::Error) -> Box<dyn StdError> {
    let purpose = purpose.into();
    move |error| format!("{purpose}: {error}").into()
}

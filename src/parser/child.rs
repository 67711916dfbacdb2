//! What the compiler gives up before it is executed.

use std::error::Error as StdError;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Gid, Pid, Resource, Rlimit, Signal, Uid, geteuid, getppid, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::sealed;

/// The user and the group that own nothing.
const NOBODY: u32 = 65534;

/// Files the compiler may have open at once; includes nest.
const FILES: u64 = 64;

/// The exit code of a child that did not get as far as the compiler.
pub(super) const NOT_STARTED: u8 = 126;

/// What such a child says first.
pub(super) const PREFIX: &str = "armorer: ";

/// How what it says begins if it may not enter its AppArmor profile.
pub(super) const NO_PROFILE: &str = "cannot enter the AppArmor profile";

/// How [`child`] is told of texts that come one after the other in its standard input.
pub(super) fn sizes(parts: &[&str]) -> String {
    let sizes: Vec<String> = parts.iter().map(|part| part.len().to_string()).collect();
    sizes.join(",")
}

/// `compile-child PARENT ADDRESS_SPACE CPU_SECONDS FILE_SIZE SIZES PROFILE BASE PROGRAM
/// ARGUMENT…`, sizes in bytes, PROFILE empty for none: gives up what it can and becomes PROGRAM.
/// SIZES, where not empty, are those of the texts in the standard input: PROGRAM gets each as a
/// file, and after each the last. Returns only if that fails.
pub(crate) fn child(args: &[String]) -> ExitCode {
    let Err(error) = become_compiler(args);
    eprintln!("{PREFIX}{error}");
    ExitCode::from(NOT_STARTED)
}

fn become_compiler(args: &[String]) -> Result<std::convert::Infallible, Box<dyn StdError>> {
    let [
        parent,
        address_space,
        seconds,
        file_size,
        sizes,
        profile,
        base,
        program,
        rest @ ..,
    ] = args
    else {
        return Err("this subcommand is armorer's own".into());
    };
    std::env::set_current_dir(base).map_err(said(format!("cannot enter {base}")))?;
    close_fds::set_fds_cloexec(3, &[]);
    let texts = split(sizes)?;
    limit(Resource::As, address_space.parse()?)?;
    limit(Resource::Cpu, seconds.parse()?)?;
    limit(Resource::Fsize, file_size.parse()?)?;
    limit(Resource::Nofile, FILES)?;
    limit(Resource::Core, 0)?;

    set_no_new_privs(true)?;
    if !profile.is_empty() {
        // After no_new_privs: where that stands in the way, the kernel says so here, and not at the
        // exec. Before the change of user, after which these files are root's.
        enter_at_exec(profile).map_err(said(format!("{NO_PROFILE} {profile}")))?;
    }
    if geteuid().is_root() {
        become_nobody().map_err(said(
            "cannot become nobody: armorer needs the capabilities SETUID and SETGID to compile",
        ))?;
    }
    let _ = clear_ambient_capability_set();
    set_capabilities(None, NONE)?;

    // Last, since a change of user clears it. A parent that died before is noticed by its child
    // having another one.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Pid::from_raw(parent.parse()?) {
        return Err("the pass is over".into());
    }
    let mut command = Command::new(program);
    let error = command.args(rest).args(texts).env_clear().exec();
    Err(said(format!("cannot execute {program}"))(error))
}

/// The paths of files with what is in the standard input, in the program's order.
fn split(sizes: &str) -> Result<Vec<String>, Box<dyn StdError>> {
    let sizes: Vec<usize> = sizes
        .split_terminator(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let mut input = io::stdin().lock();
    let mut paths = Vec::new();
    for size in sizes {
        let mut text = vec![0; size];
        input.read_exact(&mut text)?;
        let file = sealed([text.as_slice()].into_iter())?;
        fcntl_setfd(&file, FdFlags::empty())?;
        // Left open for the program.
        paths.push(format!("/proc/self/fd/{}", file.into_raw_fd()));
    }
    let end = paths.pop();
    let followed = paths.into_iter().flat_map(|path| [Some(path), end.clone()]);
    Ok(followed.flatten().collect())
}

/// Has the kernel confine this process by `profile` from its next exec on.
fn enter_at_exec(profile: &str) -> io::Result<()> {
    let open = |file| OpenOptions::new().write(true).open(file);
    let mut file = match open("/proc/self/attr/apparmor/exec") {
        // Kernels before 5.8.
        Err(error) if error.kind() == io::ErrorKind::NotFound => open("/proc/self/attr/exec"),
        other => other,
    }?;
    file.write_all(format!("exec {profile}").as_bytes())
}

const NONE: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

fn become_nobody() -> io::Result<()> {
    // The bounding set can be emptied only with SETPCAP, which armorer does without: no_new_privs
    // and another user leave nothing to gain from it.
    for bit in 0..u64::BITS {
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
    }
    set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Lowers a limit; one that is lower already stays.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let most = rustix::process::getrlimit(resource)
        .maximum
        .map_or(most, |there| there.min(most));
    setrlimit(
        resource,
        Rlimit {
            current: Some(most),
            maximum: Some(most),
        },
    )?;
    Ok(())
}

fn said(what: impl Into<String>) -> impl FnOnce(io::Error) -> Box<dyn StdError> {
    let what = what.into();
    move |error| format!("{what}: {error}").into()
}

//! The compiler's cage: the rights of a running compiler, by the kernel's word, and its reach.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::kernel::is_loaded;
use crate::support::{Case, can_write, compile, raw_data, sh, until};

/// Rules whose automaton explodes: the compiler is busy for as long as it is let.
pub(crate) fn bomb(name: &str) -> String {
    let mut text = format!("profile {name} {{\n");
    for rule in 0..24_u8 {
        text.push('/');
        for part in 0..5 {
            text.push_str("**");
            text.push(char::from(b'a' + (rule * 7 + part * 3) % 26));
        }
        text.push_str(" r,\n");
    }
    text + "}\n"
}

/// The pids of running compilers.
pub(crate) fn compilers() -> Vec<u32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.trim() == "apparmor_parser" {
            pids.extend(entry.file_name().to_str().and_then(|pid| pid.parse().ok()) as Option<u32>);
        }
    }
    pids
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim_start_matches(':')
        .trim()
}

fn check_limits(limits: &str) {
    let limit = |name: &str| -> u64 {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let soft = line.unwrap().split_whitespace().next().unwrap().to_owned();
        soft.parse().unwrap_or_else(|_| panic!("{name}: {soft}"))
    };
    assert_eq!(limit("Max open files"), 64);
    assert_eq!(limit("Max core file size"), 0);
    assert_eq!(limit("Max cpu time"), 8);
    assert_eq!(limit("Max file size"), 16 << 20);
    assert!(limit("Max address space") <= 1 << 30);
}

/// No capability, no group, and a user and group of its own.
fn check_rights(status: &str) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(status, set), "0000000000000000", "{set}");
    }
    for ids in ["Uid", "Gid"] {
        let ids: Vec<u32> = field(status, ids)
            .split('\t')
            .map(|id| id.parse().unwrap())
            .collect();
        assert!((0x7000_0000..=0x7FFD_FFFF).contains(&ids[0]), "{ids:?}");
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
    assert_eq!(field(status, "Groups"), "");
    assert_eq!(field(status, "NoNewPrivs"), "1");
}

#[test]
fn a_running_compiler_has_nothing_to_give_away() {
    let case = Case::new();
    case.want("custom.bomb", &bomb("custom.bomb"));
    let secret = case.dir.join("secret");
    fs::write(&secret, "of another").unwrap();
    let mut command = Command::new("sh");
    // A descriptor that stays open across the exec, as a careless parent leaves it.
    command
        .args([
            "-c",
            "exec 9<\"$0\"; exec \"$TESTED_BINARY\" reconcile --max-compile-time 8s",
        ])
        .arg(&secret)
        .env("SECRET", "canary")
        .env("ARMORER_STATE_DIR", case.dir.join("state"))
        .env("PROFILES_DIR", case.source())
        .stderr(Stdio::piped());
    let pass = command.spawn().unwrap();
    until("the bomb is compiled", || {
        compilers().iter().any(|pid| {
            let path = format!("/proc/{pid}/stat");
            let stat = fs::read_to_string(path).unwrap_or_default();
            let ticks = stat.split(' ').nth(13).and_then(|n| n.parse::<u64>().ok());
            ticks.is_some_and(|ticks| ticks > 150)
        })
    });
    let pid = compilers()[0];
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let read = |file: &str| fs::read_to_string(proc.join(file)).unwrap();
    let status = read("status");
    check_rights(&status);
    assert_eq!(read("environ"), "");
    let mut open: Vec<String> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .flatten()
        .map(|fd| {
            fs::read_link(fd.path())
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    open.sort();
    open.dedup();
    let memory = |file: &String| file.starts_with("/memfd:armorer-");
    assert!(open.iter().all(memory), "{open:?}");
    check_limits(&read("limits"));
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap().to_str(), Some("/"));
    let output = pass.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("more than 8s of CPU time"), "{said}");
    assert!(!said.contains("canary"));
    assert!(compilers().is_empty());
    assert!(!is_loaded("custom.bomb"));
}

/// Each compiler has a user of its own, so that no other process of the node shares one.
#[test]
fn two_compilers_have_two_users() {
    let case = Case::new();
    let mut users = Vec::new();
    for name in ["custom.a", "custom.b"] {
        case.want(name, &bomb(name));
        let mut command = case.command(&["reconcile", "--max-compile-time", "1m"]);
        let mut pass = command.stderr(Stdio::null()).spawn().unwrap();
        until("a compiler runs", || !compilers().is_empty());
        let status = fs::read_to_string(format!("/proc/{}/status", compilers()[0])).unwrap();
        users.push(field(&status, "Uid").split('\t').next().unwrap().to_owned());
        pass.kill().unwrap();
        pass.wait().unwrap();
        until("the compiler died with its pass", || compilers().is_empty());
    }
    assert_ne!(users[0], users[1]);
}

const REACH: &str = "/usr/local/bin/reach";

/// A program in the compiler's place, for which only the cage is in the way: the file is readable for
/// everybody, the folder writable.
#[test]
fn a_caged_compiler_reaches_nothing_outside_of_its_list() {
    let case = Case::new();
    // The compiler's user cannot enter /job.
    fs::copy("/job/reach", REACH).unwrap();
    fs::write("/etc/elsewhere", "of another").unwrap();
    let address = SocketAddr::from_abstract_name("armorer-reach").unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let reached = |said: &str| {
        let words = said.split_once("reached: ").map(|(_, words)| words);
        let words = words.unwrap_or_else(|| panic!("{said}")).lines().next();
        words.unwrap().to_owned()
    };
    let free = Command::new(REACH).output().unwrap();
    let free = reached(&String::from_utf8_lossy(&free.stderr));
    assert_eq!(free, "read list write execute connect");
    fs::remove_file("/tmp/reach").unwrap();

    case.want_simple("custom.p");
    let pass = case.armorer(&["reconcile", "--parser", REACH]);
    // Linux 6.1's Landlock knows files, and no sockets.
    let expected = if is_linux_6_1() { "connect" } else { "nothing" };
    let said = reached(&pass.exits(1).said);
    assert!(said.starts_with(expected), "{said}");
    assert!(!Path::new("/tmp/reach").exists());
    fs::remove_file("/etc/elsewhere").unwrap();
}

fn is_linux_6_1() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.starts_with("6.1.")
}

/// With a file of its configuration out of reach, the compiler makes weaker policy without a word.
#[test]
fn caged_and_uncaged_policy_are_equal_byte_by_byte() {
    let case = Case::new();
    let head = "include <tunables/global>\n";
    let texts = [
        ("custom.base", format!("{head}profile custom.base {{\n include <abstractions/base>\n}}\n")),
        ("custom.net", format!("{head}profile custom.net {{\n network inet stream,\n network unix,\n unix (send) type=dgram,\n}}\n")),
        ("custom.abi", format!("abi <abi/3.0>,\n{head}profile custom.abi {{\n include <abstractions/nameservice>\n dbus,\n}}\n")),
        ("custom.ipc", "profile custom.ipc {\n signal (receive) peer=unconfined,\n ptrace (read),\n capability net_admin,\n mount,\n}\n".to_owned()),
        ("custom.kids", "profile custom.kids flags=(attach_disconnected) {\n file,\n profile kid { /a r, }\n}\n".to_owned()),
    ];
    for (name, text) in &texts {
        case.want(name, text);
    }
    case.pass().exits(0);
    for (name, text) in &texts {
        assert_eq!(raw_data(name).unwrap(), compile(text), "{name}");
    }
    let cage = case.json()["cage"].clone();
    let expected = if is_linux_6_1() { "partial" } else { "full" };
    assert_eq!(cage, expected);
    let status = case.armorer(&["status"]).said;
    assert_eq!(status.contains("Landlock"), cage != "full", "{status}");
}

/// `include if exists` of a file that the compiler cannot read would silently weaken the profile.
#[test]
fn an_include_that_only_root_can_read_is_refused_until_everybody_can() {
    let case = Case::new();
    let local = "/etc/apparmor.d/local/custom.p";
    let text =
        "profile custom.p {\n file, signal, capability,\n include if exists <local/custom.p>\n}\n";
    let mode = |mode| fs::set_permissions(local, PermissionsExt::from_mode(mode)).unwrap();
    fs::create_dir_all("/etc/apparmor.d/local").unwrap();
    fs::write(local, "deny /tmp/secret w,\n").unwrap();
    mode(0o600);
    case.want("custom.p", text);
    case.want_simple("custom.good");
    case.pass().exits(1).says("local/custom.p").says("line 3");
    assert!(!is_loaded("custom.p"));
    assert!(is_loaded("custom.good"));
    mode(0o644);
    case.pass().exits(0);
    assert!(!can_write("custom.p", "/tmp/secret"));
    mode(0o600);
    case.pass().exits(1).says("local/custom.p");
    assert!(
        !can_write("custom.p", "/tmp/secret"),
        "its last good version is gone"
    );
    fs::remove_file(local).unwrap();
    case.pass().exits(0);
    assert!(can_write("custom.p", "/tmp/secret"));
}

/// An administrator may have put the includes elsewhere and left a link.
#[test]
fn a_linked_base_folder_is_readable_in_the_cage() {
    let case = Case::new();
    let base = case.dir.join("base");
    sh(&format!("cp -a /etc/apparmor.d {0}.real", base.display()));
    symlink(format!("{}.real", base.display()), &base).unwrap();
    sh(&format!("chmod 755 {}", case.dir.display()));
    case.want(
        "custom.p",
        "include <tunables/global>\nprofile custom.p {\n include <abstractions/base>\n file,\n}\n",
    );
    case.armorer(&["reconcile", "--base", base.to_str().unwrap()])
        .exits(0);
    assert!(is_loaded("custom.p"));
}

/// A control group without a process left.
#[test]
fn a_compiler_that_cannot_be_started_is_the_nodes_failure() {
    const FEW: &str = "mkdir -p /tmp/few && mount -t cgroup2 none /tmp/few
        echo +pids >/tmp/few/cgroup.subtree_control
        mkdir -p /tmp/few/one && echo 1 >/tmp/few/one/pids.max
        echo $$ >/tmp/few/one/cgroup.procs
        exec \"$TESTED_BINARY\" reconcile";
    let case = Case::new();
    case.want_simple("custom.p");
    let mut command = Command::new("sh");
    command.args(["-ec", FEW]);
    for (name, value) in case.command(&[]).get_envs() {
        command.env(name, value.unwrap());
    }
    crate::support::run(command)
        .exits(1)
        .says("✗ failed")
        .says("the next pass");
    sh("umount /tmp/few");
    case.pass().exits(0);
    assert!(is_loaded("custom.p"));
}

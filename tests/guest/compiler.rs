//! The compiler's cage: what it has while it runs, by the kernel's word, and armorer's own
//! profile, which confines it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::kernel::{self, is_loaded, revision};
use crate::support::process::label;
use crate::support::{Case, compile, loaded, raw_data, run, sh, until};

const CAGE: &str = "armorer.compiler";

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
fn compilers() -> Vec<u32> {
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

#[test]
fn a_running_compiler_has_nothing_to_give_away() {
    kernel::remove_all(CAGE);
    let case = Case::new();
    case.want("custom.bomb", &bomb("custom.bomb"));
    let secret = case.dir.join("secret");
    fs::write(&secret, "of another").unwrap();
    let mut command = Command::new("sh");
    // A descriptor that stays open across the exec, as a careless parent leaves it.
    command
        .args([
            "-c",
            "exec 9<\"$0\"; exec \"$ARMORER_BIN\" reconcile --compile-timeout 8s",
        ])
        .arg(&secret)
        .env("SECRET", "canary")
        .env("ARMORER_STATE_DIR", case.dir.join("state"))
        .env("PROFILES_DIR", case.source())
        .stderr(Stdio::piped());
    let pass = command.spawn().unwrap();
    // The first compiler is short: it proves the cage. The one that stays is the bomb's.
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
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
    for ids in ["Uid", "Gid"] {
        assert_eq!(field(&status, ids), "65534\t65534\t65534\t65534");
    }
    assert_eq!(field(&status, "Groups"), "");
    assert_eq!(field(&status, "NoNewPrivs"), "1");
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
    let limits = read("limits");
    let limit = |name: &str| -> u64 {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let soft = line.unwrap().split_whitespace().next().unwrap().to_owned();
        soft.parse().unwrap_or_else(|_| panic!("{name}: {soft}"))
    };
    assert_eq!(limit("Max open files"), 64);
    assert_eq!(limit("Max core file size"), 0);
    assert_eq!(limit("Max cpu time"), 10);
    assert_eq!(limit("Max file size"), 32 << 20);
    assert!(limit("Max address space") <= 1 << 30);
    assert_eq!(label(pid), format!("{CAGE} (enforce)"));
    let output = pass.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("custom.bomb was not compiled within 8s"),
        "{said}"
    );
    assert!(!said.contains("canary"));
    assert!(compilers().is_empty());
    assert!(!is_loaded("custom.bomb"));
}

/// What the cage keeps even root's compiler from, which without it does it.
#[test]
fn the_cage_lets_the_compiler_read_no_secret_and_write_no_file() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let parse = |text: &str, cage: &str, arguments: &str| {
        let mut command = Command::new("sh");
        let script = format!("echo '{text}' | {cage} apparmor_parser -Q -K {arguments}");
        command.args(["-c", &script]);
        run(command)
    };
    // Readable for everybody, so that only the cage can be in the way.
    fs::write("/etc/elsewhere", "file,\n").unwrap();
    let text = "profile custom.q { include \"/etc/elsewhere\" }";
    let caged = format!("aa-exec -p {CAGE} --");
    parse(text, "", "-S").exits(0);
    let shut = parse(text, &caged, "-S").says("Could not open '/etc/elsewhere'");
    assert_ne!(shut.code, 0);
    fs::remove_file("/etc/elsewhere").unwrap();
    let text = "profile custom.q { file, }";
    parse(text, &caged, "-S").exits(0);
    let out = case.dir.join("out");
    let write = format!("-o {}", out.display());
    parse(text, "", &write).exits(0);
    assert!(fs::metadata(&out).unwrap().len() > 0);
    fs::remove_file(&out).unwrap();
    parse(text, &caged, &write);
    assert!(fs::metadata(&out).is_err(), "the cage let it write a file");

    // It is no shell for whoever might take the compiler over.
    for program in [
        "cat /etc/passwd",
        "sh -c /bin/true",
        "sh -c 'echo x >/tmp/written'",
        "sh -c 'read line </etc/passwd'",
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{caged} {program}")]);
        assert_ne!(run(command).code, 0, "{program}");
    }
}

#[test]
fn it_is_owned_shown_repaired_and_goes_with_the_last_set() {
    let case = Case::new();
    kernel::remove_all(CAGE);
    case.want_simple("custom.p");
    case.armorer(&["plan", "--exit-code"]).exits(4).says(CAGE);
    assert!(!is_loaded(CAGE));
    case.pass().exits(0).says(&format!("+ load      {CAGE}"));
    assert_eq!(loaded()[CAGE], "enforce");
    case.armorer(&["status"]).exits(0).says(CAGE);
    assert!(
        !case
            .armorer(&["status"])
            .said
            .contains("outside armorer's own profile")
    );
    let before = revision();
    case.pass().exits(0);
    assert_eq!(revision(), before, "a pass with nothing to do wrote");

    kernel::remove(CAGE);
    case.pass().exits(0);
    assert!(is_loaded(CAGE), "its removal was not repaired");
    kernel::remove(CAGE);
    case.armorer(&["restore"]).exits(0);
    assert!(is_loaded(CAGE), "restore left it out");

    let other = |arguments: &[&str]| {
        let mut command = case.command(arguments);
        command.env("ARMORER_SET", "other");
        run(command)
    };
    case.unwant("custom.p");
    case.want_simple("custom.q");
    other(&["reconcile", "--remove-after", "0s"]).exits(0);
    assert!(is_loaded("custom.p") && is_loaded("custom.q"));
    case.armorer(&["remove", "--all", "--remove-after", "0s"])
        .exits(0);
    assert!(is_loaded(CAGE), "another set still compiles in it");
    other(&["remove", "--all", "--remove-after", "0s"]).exits(0);
    assert!(!is_loaded(CAGE), "an uninstall left it");
    assert!(!loaded().keys().any(|name| name.starts_with("custom.")));
}

#[test]
fn a_foreign_profile_of_its_name_is_not_touched_and_not_entered() {
    let case = Case::new();
    kernel::remove_all(CAGE);
    let foreign = compile(&format!("profile {CAGE} {{ file, }}"));
    kernel::replace(&foreign);
    case.want_simple("custom.p");
    case.pass().exits(0);
    assert_eq!(raw_data(CAGE).unwrap(), foreign);
    assert!(is_loaded("custom.p"));
    case.armorer(&["status"])
        .says("outside armorer's own profile");
    kernel::remove(CAGE);
}

#[test]
fn never_means_never_and_takes_it_away() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    assert!(is_loaded(CAGE));
    case.armorer(&["reconcile", "--confine-compiler", "never"])
        .exits(0);
    assert!(!is_loaded(CAGE));
    assert!(is_loaded("custom.p"));
    let before = revision();
    case.armorer(&["reconcile", "--confine-compiler", "never"])
        .exits(0);
    assert_eq!(revision(), before);
}

/// Where it cannot be entered, or the compiler does not work in it, profiles are loaded all the
/// same, and `status` says that the cage is missing.
#[test]
fn a_cage_that_does_not_work_costs_no_profile() {
    let case = Case::new();
    case.pass().exits(0);
    case.want_simple("custom.p");
    // A container's own profile without a rule to change profiles.
    kernel::replace(&compile(
        "profile host.container { file, capability, network, signal, ptrace, mount, }",
    ));
    let binary = std::env::var("ARMORER_BIN").unwrap();
    let mut command = Command::new("aa-exec");
    command
        .args(["-p", "host.container", "--", &binary, "reconcile"])
        .env("ARMORER_STATE_DIR", case.dir.join("state"))
        .env("PROFILES_DIR", case.source());
    run(command).exits(0).says("Permission denied");
    kernel::remove("host.container");
    assert!(is_loaded("custom.p"));
    case.armorer(&["status"])
        .exits(0)
        .says("outside armorer's own profile: armorer.compiler was not compiled: cannot enter");

    // A wrapper, which needs a shell.
    let wrapper = case.dir.join("wrapper");
    fs::write(&wrapper, "#!/bin/sh\nexec /sbin/apparmor_parser \"$@\"\n").unwrap();
    fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(&case.dir, PermissionsExt::from_mode(0o755)).unwrap();
    case.want_simple("custom.q");
    let wrapper = wrapper.to_str().unwrap();
    case.armorer(&["reconcile", "--parser", wrapper]).exits(0);
    assert!(is_loaded("custom.q"));
    case.armorer(&["status"])
        .exits(0)
        .says("outside armorer's own profile");

    // And back in: the note goes.
    case.want_simple("custom.r");
    case.pass().exits(0);
    assert!(
        !case
            .armorer(&["status"])
            .said
            .contains("outside armorer's own profile")
    );
}

/// An administrator may have put the includes elsewhere and left a link.
#[test]
fn a_linked_base_folder_is_readable_in_the_cage() {
    let case = Case::new();
    kernel::remove_all(CAGE);
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
    assert!(
        !case
            .armorer(&["status"])
            .said
            .contains("outside armorer's own profile")
    );
    kernel::remove(CAGE);
}

//! The other commands, and the obstacles to a pass.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::kernel::{self, is_loaded, remove, revision};
use crate::support::{Case, Run, can_write, compile, exists, hold, raw_data, run, sh, simple};

#[test]
fn restore_loads_without_source_network_or_compiler() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    let before = raw_data("custom.p").unwrap();
    remove("custom.p");
    remove("custom.q");
    fs::remove_dir_all(case.source()).unwrap();
    let parser = sh("command -v apparmor_parser").trim().to_owned();
    let parser = fs::canonicalize(parser).unwrap();
    let hidden = parser.with_extension("hidden");
    fs::rename(&parser, &hidden).unwrap();
    let restored = case.armorer(&["restore"]);
    let passed = case.pass();
    fs::rename(&hidden, &parser).unwrap();
    restored.exits(0);
    passed.exits(3);
    assert_eq!(raw_data("custom.p").unwrap(), before);
    assert!(!can_write("custom.q", "/tmp/secret"));
    case.armorer(&["restore"]).exits(0);
    fs::create_dir(case.source()).unwrap();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    let unchanged = revision();
    case.pass().exits(0);
    assert_eq!(revision(), unchanged, "a restored profile needs no load");
}

#[test]
fn restore_does_not_load_damaged_policy_and_the_next_pass_mends_it() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    let expected = compile(&simple("custom.p", "secret"));
    remove("custom.p");
    remove("custom.q");
    for entry in fs::read_dir(case.dir.join("state/policy"))
        .unwrap()
        .flatten()
    {
        if fs::read(entry.path()).unwrap() == expected {
            fs::write(entry.path(), compile("profile custom.p { file, signal, }")).unwrap();
        }
    }
    case.armorer(&["restore"]).exits(1).says("damaged");
    assert_eq!(
        [is_loaded("custom.p"), is_loaded("custom.q")],
        [false, true]
    );
    case.pass().exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), expected);
}

#[test]
fn remove_removes_owned_and_unused_profiles() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    case.armorer(&["remove", "custom.p"]).exits(1).says("15m");
    assert!(is_loaded("custom.p"));
    case.armorer(&["remove", "docker-default", "--remove-after", "0s"])
        .exits(1);
    let held = hold("main", "custom.q");
    case.armorer(&["remove", "--all", "--remove-after", "0s"])
        .exits(1);
    assert_eq!(
        [is_loaded("custom.p"), is_loaded("custom.q")],
        [false, true]
    );
    drop(held);
    crate::support::process::until_free("custom.q");
    case.armorer(&["remove", "--all", "--remove-after", "0s"])
        .exits(0);
    assert!(!is_loaded("custom.q"));
    case.armorer(&["remove", "--all"]).exits(0);
}

#[test]
fn wait_opens_as_soon_as_the_profile_is_there() {
    let case = Case::new();
    case.want_simple("custom.p");
    for from in ["self", "kernel"] {
        let wait =
            |timeout| case.armorer(&["wait", "custom.p", "--from", from, "--timeout", timeout]);
        wait("0s").exits(1).says("custom.p");
        let start = Instant::now();
        let waiting = case
            .command(&["wait", "custom.p", "--from", from, "--timeout", "60s"])
            .spawn();
        std::thread::sleep(Duration::from_secs(1));
        case.pass().exits(0);
        assert!(waiting.unwrap().wait().unwrap().success(), "{from}");
        assert!(start.elapsed() < Duration::from_secs(20), "{from}");
        wait("0s").exits(0);
        let kernel_mode = case.armorer(&[
            "wait",
            "custom.p",
            "--from",
            "kernel",
            "--mode",
            "complain",
            "--timeout",
            "0s",
        ]);
        kernel_mode.exits(1).says("enforce");
        case.armorer(&["remove", "--all", "--remove-after", "0s"])
            .exits(0);
    }
}

#[test]
fn wait_from_self_needs_no_right() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let ask = |name: &str| {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--no-new-privs",
        ]);
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
        command.arg(std::env::var("TESTED_BINARY").unwrap());
        command.args(["wait", name, "--timeout", "0s"]);
        run(command)
    };
    ask("custom.p").exits(0);
    ask("custom.missing").exits(1);
}

/// Nothing was touched: neither the kernel, nor a state folder made.
fn could_not_run(case: &Case, pass: Run, before: u64, words: &str) {
    pass.exits(3).says(words);
    assert_eq!(revision(), before);
    assert!(!exists(&case.dir.join("state/state.json")));
    assert!(!is_loaded("custom.p"));
}

#[test]
fn without_securityfs_or_right_nothing_is_touched() {
    let case = Case::new();
    case.want_simple("custom.p");
    let before = revision();
    let nowhere = case.armorer(&["reconcile", "--securityfs", "/nowhere"]);
    could_not_run(&case, nowhere, before, "--securityfs");

    let binary = std::env::var("TESTED_BINARY").unwrap();
    let with = |options: &[&str]| {
        let plain = case.command(&[]);
        let mut command = Command::new("setpriv");
        command.args(options).args(["--", &binary, "reconcile"]);
        for (name, value) in plain.get_envs() {
            command.env(name, value.unwrap());
        }
        run(command)
    };
    could_not_run(
        &case,
        with(&["--bounding-set=-mac_admin"]),
        before,
        "MAC_ADMIN",
    );
    let unprivileged = with(&["--reuid=65534", "--regid=65534", "--clear-groups"]);
    could_not_run(&case, unprivileged, before, "MAC_ADMIN");

    let mut user = Command::new("unshare");
    user.args(["--user", "--map-root-user", &binary, "reconcile"]);
    for (name, value) in case.command(&[]).get_envs() {
        user.env(name, value.unwrap());
    }
    could_not_run(&case, run(user), before, "user namespace");
}

#[test]
fn a_profile_that_denies_securityfs_is_named_and_another_mount_helps() {
    let case = Case::new();
    case.want_simple("custom.p");
    crate::support::kernel::replace(&compile(
        "profile runtime-like { file, capability, signal, mount, unix, change_profile, ptrace,\n deny /sys/kernel/security/** rwklx, deny /sys/[^f]*/** wklx, }",
    ));
    let before = revision();
    let binary = std::env::var("TESTED_BINARY").unwrap();
    let confined = |arguments: &[&str]| {
        let mut command = crate::support::confined("runtime-like", &[&binary, "reconcile"]);
        command.args(arguments).stderr(std::process::Stdio::piped());
        for (name, value) in case.command(&[]).get_envs() {
            command.env(name, value.unwrap());
        }
        run(command)
    };
    could_not_run(&case, confined(&[]), before, "runtime-like");
    sh("mkdir -p /host/security && mount -t securityfs none /host/security");
    let elsewhere = confined(&["--securityfs", "/host/security"]);
    sh("umount /host/security");
    elsewhere.exits(0);
    // Compiled for this kernel all the same.
    assert_eq!(
        raw_data("custom.p").unwrap(),
        compile(&simple("custom.p", "secret"))
    );
    crate::support::kernel::remove("runtime-like");
}

#[test]
fn plan_changes_nothing_and_predicts_the_pass() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want("custom.bad", "nonsense");
    let before = revision();
    case.armorer(&["plan", "--exit-code"])
        .exits(4)
        .says("+ load")
        .says("custom.bad");
    case.armorer(&["plan"]).exits(1);
    assert_eq!(revision(), before);
    assert!(!exists(&case.dir.join("state")));
    case.pass().exits(1);
    case.unwant("custom.bad");
    case.pass().exits(0);
    case.armorer(&["plan", "--exit-code"])
        .exits(0)
        .says("nothing to do");
    case.want("custom.p", &simple("custom.p", "other"));
    case.want_simple("custom.q");
    let state = case.state();
    case.armorer(&["plan", "--exit-code"])
        .exits(4)
        .says("~ replace");
    assert_eq!(case.state(), state);
}

#[test]
fn status_counts_processes_and_shows_drift() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let _held = hold("main", "custom.p");
    let status = case.armorer(&["status", "--output", "json"]).exits(0);
    assert!(status.said.contains("\"processes\": 1"), "{}", status.said);
    assert!(status.said.contains("in force"));
    crate::support::kernel::replace(&compile("profile custom.p { file, signal, }"));
    case.armorer(&["status"]).exits(1).says("drifted");
}

#[test]
fn copies_are_kept_equal_and_others_files_stay() {
    let case = Case::new();
    let copies = case.dir.join("copies");
    fs::create_dir(&copies).unwrap();
    fs::write(copies.join("custom.theirs"), "theirs").unwrap();
    fs::write(copies.join("custom.q"), "theirs too").unwrap();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    let to = copies.to_str().unwrap();
    let pass = || case.armorer(&["reconcile", "--remove-after", "0s", "--copy-to", to]);
    pass().exits(0).says("custom.q");
    let read = |name: &str| fs::read_to_string(copies.join(name)).unwrap_or_default();
    assert_eq!(read("custom.p"), simple("custom.p", "secret"));
    case.unwant("custom.p");
    pass().exits(0);
    assert!(!exists(&copies.join("custom.p")));
    assert_eq!(
        [read("custom.theirs"), read("custom.q")],
        ["theirs", "theirs too"]
    );
    let nowhere = Path::new("/proc/nowhere").to_str().unwrap();
    case.want_simple("custom.p");
    case.armorer(&["reconcile", "--copy-to", nowhere])
        .exits(0)
        .says("warning");
    assert!(is_loaded("custom.p"));
}

/// The gate stays shut where its own profile forbids the question.
#[test]
fn wait_under_a_profile_that_denies_the_question_fails_closed() {
    let case = Case::new();
    case.want_simple("custom.p");
    kernel::replace(&compile(
        "profile custom.deaf { file, signal, deny /proc/*/attr/{,apparmor/}current rw, }",
    ));
    let binary = std::env::var("TESTED_BINARY").unwrap();
    let ask = |name: &str| {
        let mut command = std::process::Command::new("aa-exec");
        command.args(["-p", "custom.deaf", "--", &binary, "wait", name]);
        command.args(["--timeout", "0s"]);
        run(command)
    };
    ask("custom.p").exits(3).says("cannot query the kernel");
    kernel::remove("custom.deaf");
}

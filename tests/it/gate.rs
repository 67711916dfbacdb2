//! `wait`: the gate. The kernel's answers without privileges are tested on one (tests/guest).

use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Node, Run, binary};

#[test]
fn it_waits_until_the_kernels_list_has_every_name() {
    let node = Node::with(&["custom.a"]);
    let wait = |names: &[&str], timeout: &str| {
        let options = [
            "--from",
            "kernel",
            "--timeout",
            timeout,
            "--interval",
            "100ms",
        ];
        node.run(&[&["wait"], names, &options].concat())
    };
    wait(&["custom.a"], "10s")
        .assert(0)
        .line(&["loaded: custom.a"]);
    let start = Instant::now();
    let run = wait(&["custom.a", "custom.b"], "1s").assert(1);
    assert!(start.elapsed() >= Duration::from_secs(1));
    run.line(&["waiting for custom.b"]);
    run.line(&["still missing: custom.b", "status"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            node.load("custom.b", "profile custom.b {\n}\n");
        });
        wait(&["custom.a", "custom.b"], "30s").assert(0);
    });
}

#[test]
fn it_waits_for_a_mode_where_that_is_asked_for() {
    let node = Node::new();
    node.load_all(&[("custom.a", "complain")], b"policy");
    let wait = |mode: &str| {
        node.run(&[
            "wait",
            "custom.a",
            "--from",
            "kernel",
            "--timeout",
            "0s",
            "--mode",
            mode,
        ])
    };
    wait("complain").assert(0);
    wait("enforce").assert(1).line(&["custom.a", "complain"]);
}

#[test]
fn a_misspelt_variable_is_a_warning_that_stops_no_pod() {
    let node = Node::with(&["custom.a"]);
    let wait = ["wait", "custom.a", "--from", "kernel"];
    let run = node
        .run_with(&wait, &[("ARMORER_TIMEOUTS", "1s")])
        .assert(0);
    run.line(&[
        "warning",
        "ARMORER_TIMEOUTS",
        "did you mean ARMORER_TIMEOUT?",
    ]);
}

/// `wait --from self` as user 65534, with the attribute file that the shell `script` makes in `$attribute`.
fn asked_with(script: &str) -> Run {
    let script = format!(
        "mount -t tmpfs -o mode=755 none /proc
        attribute=/proc/self/attr/apparmor/current
        mkdir -p /proc/self/attr/apparmor
        {script}
        exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" wait custom.a --timeout 0s"
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec", &script])
        .arg(binary())
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    Run::of(&mut command)
}

#[test]
fn an_attribute_file_that_cannot_be_opened_keeps_the_gate_shut() {
    // As under a profile that denies the file; a writable one stands for a kernel that says yes.
    asked_with("echo >$attribute; chmod 666 $attribute").assert(0);
    for denied in [
        "echo >$attribute; chmod 444 $attribute",
        "mkdir $attribute",
        ":",
    ] {
        asked_with(denied).fails(
            3,
            &["cannot query the kernel", "RuntimeDefault", "--from kernel"],
        );
    }
}

//! A node or a container that cannot do it: exit 3, with the way to get it, and nothing is touched.

use harness::Node;

/// Asserts that every command that writes fails with `words`, before it touches anything.
#[track_caller]
fn assert_stopped(node: &Node, words: &[&str]) {
    for command in [
        &["reconcile", "profiles"][..],
        &["restore"],
        &["remove", "--all"],
    ] {
        node.run(command).fails(3, words);
    }
    assert!(!node.exists("var"), "the state folder was made");
}

#[test]
fn without_apparmor_in_the_kernel() {
    let node = Node::with(&["custom.a"]);
    node.write("sys/module/apparmor/parameters/enabled", "N\n");
    let words = ["AppArmor is switched off", "apparmor=1 security=apparmor"];
    assert_stopped(&node, &words);
    node.plan(&[]).fails(3, &words);
    node.remove("sys/module");
    node.remove("sys/kernel/security/apparmor");
    assert_stopped(&node, &["AppArmor is missing", words[1]]);
}

#[test]
fn without_securityfs() {
    let node = Node::with(&["custom.a"]);
    node.remove("sys/kernel/security/apparmor");
    let words = [
        "mount -t securityfs",
        "hostPath",
        "--securityfs",
        "sys/kernel/security",
    ];
    assert_stopped(&node, &words);
    node.plan(&[]).fails(3, &words);
    node.run(&["wait", "custom.a", "--from", "kernel"])
        .fails(3, &words);
}

#[test]
fn without_the_capability() {
    let node = Node::with(&["custom.a"]);
    node.write("proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\n");
    assert_stopped(
        &node,
        &["CAP_MAC_ADMIN", "capabilities: {add: [MAC_ADMIN]}"],
    );
    node.plan(&[]).assert(0);
}

#[test]
fn in_a_user_namespace_of_its_own() {
    let node = Node::with(&["custom.a"]);
    node.write("proc/self/uid_map", "         0     100000      65536\n");
    assert_stopped(&node, &["user namespace", "hostUsers"]);
}

#[test]
fn where_policy_is_locked() {
    let node = Node::with(&["custom.a"]);
    node.write("sys/module/apparmor/parameters/lock_policy", "Y\n");
    assert_stopped(&node, &["locked until the next boot"]);
    node.write("sys/module/apparmor/parameters/lock_policy", "N\n");
    node.reconcile(&[]).assert(0);
}

#[test]
fn where_the_kernel_cannot_be_written() {
    for file in [".load", ".replace", ".remove"] {
        let node = Node::with(&["custom.a"]);
        node.remove(&format!("sys/kernel/security/apparmor/{file}"));
        assert_stopped(&node, &["cannot open", file]);
    }
}

#[test]
fn without_a_boot() {
    let node = Node::with(&["custom.a"]);
    node.remove("proc/sys/kernel/random/boot_id");
    node.reconcile(&[]).fails(3, &["the boot ID", "--proc"]);
    node.plan(&[]).fails(3, &["--proc"]);
    node.probe("ready", &[]).fails(3, &["--proc"]);
}

#[test]
fn a_status_that_cannot_read_the_kernel_is_not_well() {
    let node = Node::settled(&["custom.a"]);
    node.run(&["status"]).assert(0);
    node.remove("sys/kernel/security/apparmor");
    let run = node.run(&["status"]).assert(1);
    run.line(&["custom.a", "unknown"]);
    run.line(&["note: the kernel's state is unknown"]);
}

#[test]
fn a_probe_gives_the_reason_why_no_pass_can_run() {
    let node = Node::with(&["custom.a"]);
    node.remove("sys/kernel/security/apparmor");
    node.loop_pass("one", &[]).assert(3);
    let run = node.probe("ready", &[]).assert(1);
    assert!(run.stdout().contains("no folder apparmor"), "{run}");
}

/// No text is blamed.
#[test]
fn without_a_compiler_or_its_includes() {
    let node = Node::with(&["custom.a"]);
    for (option, words) in [
        ("--parser", "no compiler at /nowhere"),
        ("--base", "no folder /nowhere for includes"),
    ] {
        for command in ["reconcile", "plan", "check"] {
            let run = node.run(&[command, "profiles", option, "/nowhere"]);
            run.fails(3, &[words, option]);
        }
    }
    assert!(!node.exists("var/lib/armorer/state.json"));
}

//! Compilers that misbehave. What runs here is a script in the place of apparmor_parser.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::node::{Node, Run, assert_plain, parser, profile};

/// A plan of one profile with the compiler `script`.
fn plan(script: &str, arguments: &[&str]) -> Run {
    let node = Node::new();
    node.want("custom.a", profile("custom.a"));
    let parser = install(&node, script);
    node.plan(&[&["--parser", parser.as_str()], arguments].concat())
}

/// Puts `script` in the compiler's place, and says where that is.
fn install(node: &Node, script: &str) -> String {
    node.write("parser", format!("#!/bin/sh\n{script}\n"));
    let parser = node.path("parser");
    std::fs::set_permissions(&parser, PermissionsExt::from_mode(0o755)).unwrap();
    node.arg("parser")
}

#[track_caller]
fn assert_refused(script: &str, words: &str) {
    let run = plan(script, &[]).assert(1);
    let line = format!("✗ refused   {words}");
    assert_plain(run.stdout());
    let run = run.prints(&[&line, "1 refused"]);
    assert_eq!(run.stderr(), "");
}

#[test]
fn one_that_hangs_is_killed_when_its_time_is_up() {
    let start = Instant::now();
    let run = plan("exec sleep 60", &["--compile-timeout", "500ms"]).assert(1);
    assert!(start.elapsed() < Duration::from_secs(20));
    run.prints(&[
        "✗ refused   custom.a was not compiled within 500ms: several ** in one rule are what takes long",
        "1 refused",
    ]);
}

#[test]
fn one_that_was_exchanged_compiles_everything_anew() {
    let node = Node::with(&["custom.a", "custom.b"]);
    let real = parser().display().to_string();
    let parser = install(&node, &format!("exec {real} \"$@\""));
    let pass = || node.reconcile(&["--parser", &parser]);
    pass().assert(0);
    node.want("custom.c", profile("custom.c"));
    // The node does not load it.
    assert!(!pass().assert(1).stderr().contains("custom.a"));
    install(&node, "echo not today >&2; exit 1");
    let run = pass().assert(1);
    for name in ["custom.a", "custom.b", "custom.c"] {
        let refused = format!("✗ refused   {name} was not compiled: not today");
        assert!(run.stderr().contains(&refused), "{run}");
    }
}

#[test]
fn its_children_are_killed_with_it() {
    let node = Node::new();
    let mark = "60.123";
    let run = plan(
        &format!("sleep {mark} & wait"),
        &["--compile-timeout", "300ms"],
    )
    .assert(1);
    drop(node);
    std::thread::sleep(Duration::from_millis(100));
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        assert!(!line.starts_with(&format!("sleep\0{mark}")), "{run}");
    }
}

#[test]
fn the_deadline_of_the_pass_counts_too() {
    let start = Instant::now();
    let run = plan("exec sleep 60", &["--deadline", "400ms"]).assert(1);
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(
        run.stdout()
            .contains("✗ refused   custom.a was not compiled"),
        "{run}"
    );
}

/// Large texts that take for ever come first; in the next pass they are held, and what had no turn
/// has it.
#[test]
fn what_had_no_turn_is_the_next_passes_first() {
    let node = Node::new();
    node.want("custom.good", profile("custom.good"));
    let bomb = format!("{}# bomb {}\n", profile("custom.bomb"), "x".repeat(9000));
    node.want("custom.bomb", bomb);
    let real = parser();
    let real = real.display();
    node.write(
        "parser",
        format!("#!/bin/sh\ngrep -q bomb /proc/self/fd/0 && exec sleep 60\nexec {real} \"$@\"\n"),
    );
    let path = node.path("parser");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let path = node.arg("parser");
    let pass = |deadline| {
        node.reconcile(&["--parser", &path, "--jobs", "1", "--deadline", deadline])
            .assert(1)
    };
    let first = pass("1s");
    assert!(
        first
            .stderr()
            .contains("custom.good was not compiled: the time"),
        "{first}"
    );
    assert_eq!(node.written(), b"");
    let second = pass("60s");
    assert!(
        second.stderr().contains("+ load      custom.good"),
        "{second}"
    );
    assert!(
        !second.stderr().contains("custom.good was not compiled"),
        "{second}"
    );
}

#[test]
fn one_that_dies() {
    assert_refused(
        "kill -SEGV $$",
        "custom.a was not compiled: the compiler died of signal 11",
    );
    assert_refused(
        "kill -KILL $$",
        "custom.a was not compiled: somebody killed the compiler, maybe for want of memory",
    );
}

#[test]
fn one_that_says_nothing() {
    assert_refused(
        "exit 7",
        "custom.a was not compiled: the compiler ended with status 7, without a word",
    );
    assert_refused("exit 0", "custom.a defines no profile");
}

#[test]
fn one_that_shouts() {
    assert_refused(
        "printf 'a\\033[31m\\nb\\n' >&2; exit 1",
        "custom.a was not compiled: a\\u{1b}[31m; b",
    );
    let run = plan("head -c 200000 /dev/zero | tr '\\0' x >&2; exit 1", &[]).assert(1);
    assert!(run.stdout().len() < 2000, "{run}");
}

#[test]
fn one_that_writes_no_policy() {
    let run = plan("echo nonsense", &[]).assert(1);
    assert!(
        run.stdout().contains(
            "✗ refused   custom.a: the compiler's output cannot be read: the compiled policy cannot be read"
        ),
        "{run}"
    );
    // Parser 5 may compress.
    let run = plan("printf '12345678\\050\\265\\057\\375xx'", &[]).assert(1);
    assert!(run.stdout().contains("is compressed"), "{run}");
}

#[test]
fn one_that_writes_without_end() {
    assert_refused(
        "exec cat /dev/zero",
        "custom.a becomes more than 33554432 bytes of policy",
    );
}

#[test]
fn one_that_cannot_be_executed() {
    let node = Node::new();
    node.want("custom.a", profile("custom.a"));
    node.write("parser", "#!/bin/sh\n");
    let run = node.plan(&["--parser", &node.arg("parser")]).assert(1);
    let said = format!(
        "✗ refused   custom.a was not compiled: cannot execute {}: Permission denied",
        node.arg("parser")
    );
    assert!(run.stdout().contains(&said), "{run}");
}

#[test]
fn it_sees_nothing_of_ours() {
    let node = Node::new();
    node.want("custom.a", profile("custom.a"));
    node.write(
        "parser",
        "#!/bin/sh\n{ id -u; env; ls /proc/self/fd | wc -l; grep CapEff /proc/self/status; } >&2; exit 1\n",
    );
    let parser = node.path("parser");
    std::fs::set_permissions(&parser, PermissionsExt::from_mode(0o755)).unwrap();
    let run = node.run_with(
        &["check", "profiles", "--parser", &node.arg("parser")],
        &[("SECRET", "canary")],
    );
    assert!(!run.stdout().contains("canary"), "{run}");
    // Root becomes nobody, others stay who they are.
    let root = std::fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    if root.unwrap() == 0 {
        assert!(run.stdout().contains("not compiled: 65534; "), "{run}");
    }
}

/// What may have been chance is tried again; what is certain is not.
#[test]
fn a_timeout_is_not_held_against_a_text_for_ever() {
    let node = Node::settled(&["custom.good"]);
    node.want("custom.a", profile("custom.a"));
    node.write("parser", "#!/bin/sh\nexec sleep 60\n");
    let parser = node.path("parser");
    std::fs::set_permissions(&parser, PermissionsExt::from_mode(0o755)).unwrap();
    let arguments = [
        "--parser",
        &node.arg("parser"),
        "--compile-timeout",
        "200ms",
    ];
    let run = node.reconcile(&arguments).assert(1);
    assert!(
        run.stderr()
            .contains("custom.a was not compiled within 200ms"),
        "{run}"
    );
    let start = Instant::now();
    node.reconcile(&arguments).assert(1);
    assert!(start.elapsed() < Duration::from_millis(200));
    node.edit_state(|state| {
        let problem = &mut state["sets"]["default"]["problems"]["custom.a"];
        problem["since"]["uptime"] = 0.into();
    });
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let up: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    if up > 600.0 {
        let start = Instant::now();
        node.reconcile(&arguments).assert(1);
        assert!(start.elapsed() >= Duration::from_millis(200));
    }
}

//! A reader that goes away, and a full disk behind standard output or standard error.

use std::fs::{File, OpenOptions};
use std::process::Stdio;

use harness::{Node, Run, profile};

/// A node with much to print.
fn node() -> Node {
    let node = Node::new();
    for n in 0..200 {
        node.put(&format!("custom.{n}"), "bogus");
    }
    node.put("custom.good", profile("custom.good"));
    node
}

const PRINTING: [&[&str]; 11] = [
    &["plan", "profiles"],
    &["plan", "profiles", "--output", "json"],
    &["check", "profiles"],
    &["status"],
    &["status", "--probe", "ready"],
    &["can", "profiles/custom.good", "read", "/etc/hosts"],
    &["denials", "/dev/null"],
    &["denials", "/dev/null", "--output", "json"],
    &["features"],
    &["--help"],
    &["--version"],
];

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[test]
fn a_pipe_whose_reader_is_gone_ends_a_command_quietly() {
    let node = node();
    for arguments in PRINTING {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = Run::of(node.command(arguments).stdout(writer));
        assert!([0, 1].contains(&run.code()), "{arguments:?}: {run}");
        assert_eq!(run.stderr(), "", "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_one_line_and_exit_3() {
    let node = node();
    for arguments in PRINTING {
        let run = Run::of(node.command(arguments).stdout(full()));
        run.fails(3, &["standard output", "No space left"]);
    }
}

#[test]
fn a_log_that_cannot_be_written_changes_no_exit_code() {
    let node = Node::settled(&["custom.a"]);
    for (arguments, code) in [
        (&["reconcile", "profiles"][..], 0),
        (&["reconcile", "nowhere"], 3),
        (&["plan", "--nope"], 2),
        (&[], 2),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        for stderr in [Stdio::from(full()), Stdio::from(writer)] {
            let run = Run::of(node.command(arguments).stderr(stderr));
            assert_eq!(run.code(), code, "{arguments:?}");
        }
    }
}

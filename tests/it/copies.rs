//! Readable copies of the loaded texts, beside the files of others.

use harness::{Node, Run, profile};

const COPY: [&str; 2] = ["--copy-to", "/copies"];

#[test]
fn copies_are_made_kept_equal_and_removed() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    let run = node.reconcile(&COPY).assert(0);
    assert_eq!(run.stderr().lines().count(), 1, "{run}");
    assert_eq!(node.read("copies/custom.a"), profile("custom.a"));
    assert_eq!(node.mode("copies/custom.a"), 0o644);
    // Changed or removed by another program, they come back.
    node.write("copies/custom.a", "changed");
    node.remove("copies/custom.b");
    node.reconcile(&COPY).assert(0);
    for name in ["custom.a", "custom.b"] {
        assert_eq!(node.read(&format!("copies/{name}")), profile(name));
    }
    node.remove("copies");
    node.reconcile(&COPY).assert(0);
    assert_eq!(node.read("copies/custom.a"), profile("custom.a"));
    node.take_out("custom.b");
    node.reconcile(&[&COPY[..], &["--remove-after", "0s"]].concat())
        .assert(0);
    assert!(!node.exists("copies/custom.b"));
}

#[test]
fn files_of_others_are_left_alone_and_named() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    node.write("copies/custom.a", "theirs");
    node.write("target", "theirs");
    node.link("../target", "copies/custom.b");
    let run = node.reconcile(&COPY).assert(0);
    run.line(&["warning", "copies/custom.a", "another program"]);
    run.line(&["warning", "copies/custom.b", "not a regular file"]);
    assert_eq!(node.read("copies/custom.a"), "theirs");
    assert_eq!(node.read("target"), "theirs");
}

#[test]
fn a_planted_link_leads_no_copy_elsewhere() {
    let node = Node::settled(&["custom.a"]);
    node.write("target", "theirs");
    node.folder("copies");
    for planted in ["custom.a.tmp", "custom.a.new", ".custom.a"] {
        node.link("../target", &format!("copies/{planted}"));
    }
    node.reconcile(&COPY).assert(0);
    assert_eq!(node.read("copies/custom.a"), profile("custom.a"));
    assert_eq!(node.read("target"), "theirs");
}

#[test]
fn a_folder_that_cannot_be_made_is_a_warning() {
    let node = Node::settled(&["custom.a"]);
    node.write("copies", "a file");
    let run = node.reconcile(&COPY).assert(0);
    run.line(&["warning", "copies", "--copy-to"]);
}

#[test]
fn leftovers_of_a_killed_pass_are_removed_and_no_other_file() {
    let node = Node::with(&["custom.a"]);
    for left in ["copies/custom.a.0123abcd.tmp", "metrics.prom.0123abcd.tmp"] {
        node.write(left, "half");
    }
    let theirs = [
        "copies/custom.x.0123abcd.tmp",
        "copies/custom.a.old.tmp",
        "x.prom.0123abcd.tmp",
    ];
    for file in theirs {
        node.write(file, "theirs");
    }
    let metrics = ["--metrics-file", "/metrics.prom"];
    node.reconcile(&[&COPY[..], &metrics].concat()).assert(0);
    assert!(!node.exists("copies/custom.a.0123abcd.tmp"));
    assert!(!node.exists("metrics.prom.0123abcd.tmp"));
    for file in theirs {
        assert_eq!(node.read(file), "theirs");
    }
}

#[test]
fn the_longest_name_has_a_copy() {
    let name = format!("custom.{}", "a".repeat(232));
    let node = Node::with(&[&name]);
    node.reconcile(&COPY).assert(0);
    assert_eq!(node.read(&format!("copies/{name}")), profile(&name));
}

#[test]
fn a_fifo_in_the_place_of_a_copy_hangs_no_pass() {
    for plant in ["mkfifo copies/custom.a", "ln -s /dev/zero copies/custom.a"] {
        let node = Node::settled(&["custom.a"]);
        node.reconcile(&COPY).assert(0);
        node.remove("copies/custom.a");
        let mut shell = std::process::Command::new("sh");
        let planted = shell
            .args(["-c", plant])
            .current_dir(node.path(""))
            .status();
        assert!(planted.unwrap().success());
        let pass = [&["reconcile", "profiles"], &COPY[..]].concat();
        let run = Run::of(&mut node.under(&["timeout", "60"], &pass)).assert(0);
        run.line(&["warning", "copies/custom.a", "not a regular file"]);
    }
}

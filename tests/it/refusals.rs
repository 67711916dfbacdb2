//! Every way in which a file can be refused: on one line with the place and the way out, and no other
//! profile is harmed.

use harness::{Node, Run, assert_plain, profile};

/// A profile's name, its text with `$` for that name, the reason's word, and words of the message.
struct Case(
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const CASES: &[Case] = &[
    // Names.
    Case(
        "other",
        "profile $ {\n}\n",
        "name",
        &["prefix \"custom.\"", "--prefix"],
    ),
    Case(
        "custom.n1",
        "profile custom.b {\n}\n",
        "name",
        &["\"custom.b\"", "\"custom.n1\"", "/ written as ."],
    ),
    Case(
        "custom.n2",
        "profile $ {\n}\nprofile docker-default {\n}\n",
        "name",
        &["\"docker-default\"", "prefix"],
    ),
    Case(
        "custom.n3",
        "@{N}=docker-default\nprofile $ {\n}\nprofile @{N} {\n}\n",
        "name",
        &["\"docker-default\"", "prefix"],
    ),
    Case(
        "custom.n4",
        "profile $ {\n}\nprofile custom./../x {\n}\n",
        "name",
        &["\"custom./../x\"", "not a plain name"],
    ),
    Case(
        "custom.n5",
        "profile $ {\n}\nprofile \"custom.\u{1b}c\" {\n}\n",
        "name",
        &["custom.\\u{1b}c", "not a plain name"],
    ),
    Case(
        "custom.\u{1b}[31mred\u{202e}",
        "x",
        "name",
        &["custom.\\u{1b}[31mred\\u{202e}", "control character"],
    ),
    Case(
        "custom.\nnew",
        "x",
        "name",
        &["custom.\\u{a}new", "control character"],
    ),
    // The kernel would read a stack of two profiles.
    Case(
        "custom.n6",
        "@{X}=&custom.b\nprofile $ {\n  profile @{X} {\n  }\n}\n",
        "name",
        &["//&custom.b", "not a plain name"],
    ),
    Case(
        "custom.n7",
        "profile $ {\n}\nprofile :ns1:custom.b {\n}\n",
        "namespace",
        &["\"ns1\"", "namespace"],
    ),
    Case(
        "custom.n8",
        "profile $ {\n}\nprofile $ {\n}\n",
        "compile",
        &["Multiple definitions for profile custom.n8"],
    ),
    // Acceptance rules.
    Case(
        "custom.r1",
        "profile $ /** {\n}\n",
        "attachment",
        &["\"custom.r1\"", "--allow-attachment"],
    ),
    Case(
        "custom.r2",
        "profile $ flags=(unconfined) {\n}\n",
        "unconfined",
        &["\"custom.r2\"", "--allow-unconfined"],
    ),
    // Includes.
    Case(
        "custom.i1",
        "profile $ {\n  include \"/etc/shadow\"\n}\n",
        "include",
        &["line 2:", "\"/etc/shadow\"", "absolute path"],
    ),
    Case(
        "custom.i2",
        "profile $ {\n  include <../shadow>\n}\n",
        "include",
        &["line 2:", "\"../shadow\"", "'..'"],
    ),
    Case(
        "custom.i3",
        "profile $ {\n  include <nope>\n}\n",
        "compile",
        &["line 2:", "'nope'"],
    ),
    // Texts.
    Case(
        "custom.t1",
        "# nothing\n",
        "compile",
        &["defines no profile"],
    ),
    Case("custom.t2", "", "compile", &["defines no profile"]),
    Case(
        "custom.t3",
        "profile $ {\n  bogus\n}\n",
        "compile",
        &["line 2:", "bogus"],
    ),
    Case(
        "custom.t4",
        "profile $ {\n  capability nope,\n}\n",
        "compile",
        &["line 2:", "capability nope"],
    ),
    Case(
        "custom.t5",
        "profile $ {\n  @{PROC}/x r,\n}\n",
        "compile",
        &["@{PROC}", "include <tunables/global>"],
    ),
    Case("custom.t6", "ab\0c", "text", &["byte 2", "NUL"]),
    Case(
        "custom.t7",
        "profile $ {\n \u{1b}[31m\u{202e}\n}\n",
        "compile",
        &["line "],
    ),
    Case(
        "custom.t8",
        "profile $ {\n capability \u{1b}[31m,\n}\n",
        "compile",
        &["line 2:"],
    ),
    // A byte-order mark the compiler itself refuses.
    Case(
        "custom.t9",
        "\u{feff}profile $ {\n}\n",
        "compile",
        &["line 1:"],
    ),
];

/// A node that desires each of the cases, and one good profile.
fn hostile() -> Node {
    let node = Node::new();
    node.put("custom.good", profile("custom.good"));
    for Case(name, text, ..) in CASES {
        node.put(name, text.replace('$', name));
    }
    node
}

#[test]
fn each_bad_text_is_refused_with_its_reason_and_the_way_out() {
    let node = hostile();
    let document = node.plan(&["--output", "json"]).assert(1).json();
    let outcomes = document["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), CASES.len() + 1, "{document:#}");
    let of = |name: &str| outcomes.iter().find(|outcome| outcome["profile"] == name);
    assert_eq!(of("custom.good").unwrap()["kind"], "load");
    for Case(name, _, reason, words) in CASES {
        let outcome = of(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(outcome["kind"], "refused", "{outcome}");
        assert_eq!(outcome["reason"], *reason, "{outcome}");
        let message = outcome["message"].as_str().unwrap();
        assert_plain(message);
        assert!(!message.contains('\n'), "{outcome}");
        for word in *words {
            assert!(
                message.contains(word),
                "{name}: {word:?} is not in: {message}"
            );
        }
    }
}

/// A plan in which `node`'s custom.a is refused for `reason` and custom.good is loaded.
#[track_caller]
fn assert_refused(node: &Node, arguments: &[&str], words: &[&str]) -> Run {
    node.put("custom.good", profile("custom.good"));
    let run = node.plan(arguments).assert(1);
    run.line(&["+ load", "custom.good"]);
    run.line(&[&["✗ refused"], words].concat());
    assert!(run.stdout().ends_with("1 to load, 1 refused\n"), "{run}");
    run
}

#[test]
fn a_name_has_at_most_239_bytes() {
    let long = format!("custom.{}", "x".repeat(233));
    let node = Node::new();
    node.put(&long, "x");
    assert_refused(&node, &[], &[&long[..80], "longer than 239 bytes"]);
    let node = Node::new();
    node.put(
        "custom.a",
        format!("profile custom.a {{\n}}\nprofile {long} {{\n}}\n"),
    );
    assert_refused(&node, &[], &["custom.a", &long[..80], "240 bytes", "239"]);
    let node = Node::new();
    node.put(&long[..239], format!("profile {} {{\n}}\n", &long[..239]));
    node.plan(&[]).assert(0);
}

#[test]
fn without_a_prefix_a_name_that_the_kernel_reads_differently_is_refused() {
    for (name, word) in [
        (" :evil:x", "not a plain name"),
        ("x//&y", "not a plain name"),
        (":evil:x", "namespace \"evil\""),
    ] {
        let node = Node::new();
        node.put(
            "usr.bin.x",
            format!("profile /usr/bin/x {{\n}}\nprofile \"{name}\" {{\n}}\n"),
        );
        let run = node.plan(&["--prefix", "", "--allow-attachment"]).assert(1);
        run.line(&["✗ refused", "usr.bin.x", word]);
    }
}

#[test]
fn a_profile_named_by_a_path_has_a_file_with_dots_for_slashes() {
    let node = Node::new();
    node.put("usr.bin.x", "profile /usr/bin/x {\n}\n");
    let run = node.plan(&["--prefix", "", "--allow-attachment"]).assert(0);
    run.line(&["+ load", "usr.bin.x"]);
    node.put("usr.bin.y", "profile /usr/bin/z {\n}\n");
    let run = node.plan(&["--prefix", "", "--allow-attachment"]).assert(1);
    run.line(&["✗ refused", "usr.bin.y", "\"/usr/bin/z\"", "/ written as ."]);
}

#[test]
fn of_two_files_that_bring_one_profile_the_one_of_its_name_is_loaded() {
    let node = Node::new();
    node.put(
        "custom.a",
        "profile custom.a {\n}\nprofile custom.good {\n}\n",
    );
    assert_refused(&node, &[], &["custom.a", "custom.good", "keep one"]);
}

#[test]
fn a_further_profile_of_two_files_is_loaded_once() {
    let node = Node::new();
    for name in ["custom.a", "custom.b"] {
        node.put(
            name,
            format!("profile {name} {{\n}}\nprofile custom.x {{\n}}\n"),
        );
    }
    let run = node.plan(&[]).assert(1);
    run.line(&["+ load", "custom.a"]);
    run.line(&[
        "✗ refused",
        "custom.b",
        "custom.x is defined by custom.a too",
        "keep one",
    ]);
}

#[test]
fn the_same_file_name_in_two_folders_is_refused() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    node.put("sub/custom.a", profile("custom.a"));
    let (one, two) = (node.source(), node.arg("profiles/sub"));
    assert_refused(&node, &[], &["custom.a", &one, &two, "keep one"]);
}

#[test]
fn a_text_that_is_not_utf8_is_refused() {
    let node = Node::new();
    node.put("custom.a", b"abc\xff");
    assert_refused(&node, &[], &["custom.a", "byte 3", "UTF-8"]);
}

#[test]
fn a_file_name_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let node = Node::new();
    let name = std::ffi::OsStr::from_bytes(b"custom.\xff");
    std::fs::write(node.path("profiles").join(name), "x").unwrap();
    assert_refused(&node, &[], &["custom.\u{fffd}", "UTF-8", "rename"]);
}

#[test]
fn a_text_over_the_limit_is_refused() {
    let node = Node::new();
    node.put("custom.a", "#".repeat(200));
    assert_refused(
        &node,
        &["--max-profile-size", "150"],
        &["150 bytes", "--max-profile-size"],
    );
    let node = Node::new();
    node.put("custom.a", "#".repeat(128 * 1024 + 1));
    assert_refused(&node, &[], &["131072 bytes", "--max-profile-size"]);
}

#[test]
fn a_link_out_of_the_source_and_a_fifo_are_refused() {
    let node = Node::new();
    node.write("secret", "canary");
    node.link("../secret", "profiles/custom.a");
    assert_refused(&node, &[], &["custom.a", "link", "outside the source"]);
    node.remove("profiles/custom.a");
    node.link("gone", "profiles/custom.a");
    assert_refused(&node, &[], &["custom.a", "link", "missing file"]);
    node.remove("profiles/custom.a");
    let fifo = std::process::Command::new("mkfifo")
        .arg(node.path("profiles/custom.a"))
        .status();
    assert!(fifo.unwrap().success());
    assert_refused(&node, &[], &["custom.a", "fifo", "regular file"]);
}

/// A secret beside the source, in every place that a text can reach for it.
#[test]
fn no_text_gets_a_secret_shown() {
    const CANARY: &str = "CANARY-7f3a";
    let node = Node::new();
    let secret = format!("{CANARY}\n {CANARY} {{\n");
    node.write("secret", &secret);
    node.write("base/broken", &secret);
    node.set_mode("secret", 0o600);
    let path = node.arg("secret");
    let file = |name: &str, line: &str| node.put(name, format!("profile {name} {{\n{line}\n}}\n"));
    file("custom.a", &format!("include \"{path}\""));
    file("custom.b", &format!("#include {path}"));
    file("custom.c", "include <../secret>");
    file("custom.d", "include <broken>");
    file("custom.e", "include if exists <broken>");
    node.put(
        "custom.f",
        format!("abi \"{path}\",\nprofile custom.f {{\n}}\n"),
    );
    node.link("../secret", "profiles/custom.g");
    node.link(&path, "profiles/custom.h");
    node.link("/proc/self/environ", "profiles/custom.i");
    let source = node.source();
    for run in [
        node.plan(&[]),
        node.plan(&["--output", "json"]),
        node.reconcile(&[]),
        node.reconcile(&["--log-format", "json", "--output", "json"]),
        node.run(&["status"]),
        node.run(&["status", "--output", "json"]),
        node.run(&["check", &source]),
        node.run(&["check", &source, "--output", "json"]),
        node.run(&["check", &source, "--output", "github"]),
    ] {
        let run = run.assert(1);
        run.lacks(CANARY);
    }
    assert!(node.plan(&[]).stdout().ends_with("\n9 refused\n"));
    for (path, (bytes, _)) in node.files(&[]) {
        let kept =
            path.starts_with(node.path("var")) && String::from_utf8_lossy(&bytes).contains(CANARY);
        assert!(!kept, "{}", path.display());
    }
}

#[test]
fn every_valid_form_is_accepted() {
    let node = Node::new();
    let forms = [
        ("custom.quoted", "profile \"$\" {\n}\n"),
        ("custom.tab", "profile\t$\t{\n}\n"),
        ("custom.brace", "profile $\n{\n}\n"),
        ("custom.crlf", "profile $ {\r\n  file,\r\n}\r\n"),
        ("custom.comment", "# } profile x {\nprofile $ {\n}\n"),
        ("custom.var", "@{N}=$\nprofile @{N} {\n}\n"),
        ("custom.with space", "profile \"$\" {\n}\n"),
        (
            "custom.hats",
            "profile $ {\n ^a {\n }\n hat b {\n }\n profile c {\n }\n}\n",
        ),
        ("custom.two", "profile $.x {\n}\nprofile $ {\n}\n"),
        ("custom.complain", "profile $ flags=(complain) {\n}\n"),
        (
            "custom.include",
            "profile $ {\n  #include <abstractions/base>\n}\n",
        ),
        ("custom.kill", "profile $ flags=(kill) {\n}\n"),
    ];
    for (name, text) in forms {
        node.put(name, text.replace('$', name));
    }
    let run = node.plan(&[]).assert(0);
    assert!(run.stdout().ends_with("\n12 to load\n"), "{run}");
    // One of them under an acceptance rule that is off by default.
    let run = node.plan(&["--deny-complain"]).assert(1);
    run.line(&["✗ refused", "custom.complain", "--deny-complain"]);
    assert!(run.stdout().ends_with("\n11 to load, 1 refused\n"), "{run}");
}

#[test]
fn no_refusal_reaches_the_terminal_as_more_than_one_plain_line() {
    let node = hostile();
    for run in [
        node.plan(&[]),
        node.plan(&["--output", "json"]),
        node.reconcile(&[]),
        node.run(&["status"]),
        node.probe("ready", &["--strict"]),
        node.run(&["check", &node.source()]),
        node.run(&["check", &node.source(), "--output", "github"]),
    ] {
        let run = run.assert(1);
        assert_plain(run.stdout());
        assert_plain(run.stderr());
    }
    // One line an outcome, and the total.
    let lines = node.plan(&[]).stdout().lines().count();
    assert_eq!(lines, CASES.len() + 2);
    let lines = node
        .run(&["check", &node.source()])
        .stdout()
        .lines()
        .count();
    assert!(lines > CASES.len());
}

#[test]
fn no_name_that_is_passed_over_forges_a_line() {
    let node = Node::with(&["custom.a"]);
    node.put("custom.\u{1b}[31mred~", "");
    node.put("custom.a\nconverged: 9 profiles in force~", "");
    for run in [
        node.plan(&[]),
        node.reconcile(&[]),
        node.run(&["status"]),
        node.run(&["check", &node.source()]),
    ] {
        let run = run.assert(0);
        assert_plain(run.stdout());
        assert_plain(run.stderr());
        let mut lines = run.stdout().lines().chain(run.stderr().lines());
        assert!(!lines.any(|line| line.starts_with("converged: 9")), "{run}");
    }
}

//! Every way a file can be refused: in its own words, on one line, and nobody else is harmed.

use crate::node::{Node, Run, assert_plain, profile};

/// A plan of `node`, in which `file` is refused in exactly these words and custom.good is not.
#[track_caller]
fn assert_refused(node: &Node, arguments: &[&str], line: &str) -> Run {
    let good = profile("custom.good");
    node.want("custom.good", &good);
    let run = node.plan(arguments).assert(1);
    let mut expected = [line, "+ load      custom.good: new", "1 to load, 1 refused"];
    // By name.
    if run.stdout().starts_with('+') {
        expected.swap(0, 1);
    }
    let lines: Vec<&str> = run.stdout().lines().collect();
    assert_eq!(lines, expected, "{run}");
    assert_eq!(run.stderr(), "");
    assert_plain(run.stdout());
    run
}

/// The file `name` holds `text`, and is refused with `words`.
#[track_caller]
fn refused(name: &str, text: impl AsRef<[u8]>, words: &str) {
    let node = Node::new();
    node.want(name, text);
    assert_refused(&node, &[], &format!("✗ refused   {words}"));
}

#[test]
fn a_name_without_the_prefix() {
    refused(
        "other",
        profile("other"),
        "other: the file \"other\" does not start with the prefix \"custom.\": rename file and profile, or set --prefix",
    );
}

#[test]
fn another_profile_than_the_file_says() {
    refused(
        "custom.a",
        profile("custom.b"),
        "custom.a: defines \"custom.b\", not \"custom.a\": give file and profile the same name",
    );
}

#[test]
fn a_second_profile_without_the_prefix() {
    refused(
        "custom.a",
        "profile custom.a {\n}\nprofile docker-default {\n}\n",
        "custom.a: defines \"docker-default\", which does not start with the prefix \"custom.\"",
    );
}

#[test]
fn a_name_without_the_prefix_through_a_variable() {
    refused(
        "custom.a",
        "@{N}=docker-default\nprofile custom.a {\n}\nprofile @{N} {\n}\n",
        "custom.a: defines \"docker-default\", which does not start with the prefix \"custom.\"",
    );
}

#[test]
fn another_policy_namespace() {
    refused(
        "custom.a",
        "profile custom.a {\n}\nprofile :ns1:custom.b {\n}\n",
        "custom.a: \"custom.b\" is in the policy namespace \"ns1\": only the node's own namespace is served",
    );
}

#[test]
fn an_attachment() {
    refused(
        "custom.a",
        "profile custom.a /** {\n}\n",
        "custom.a: \"custom.a\" attaches itself to programs by path, and so would confine the host's processes: take \
         the path out of its first line, or set --allow-attachment",
    );
}

#[test]
fn mode_unconfined() {
    refused(
        "custom.a",
        "profile custom.a flags=(unconfined) {\n}\n",
        "custom.a: \"custom.a\" is in mode unconfined, and so confines nobody: take the flag out, or set \
         --allow-unconfined",
    );
}

#[test]
fn an_include_by_absolute_path() {
    refused(
        "custom.a",
        "profile custom.a {\n  include \"/etc/shadow\"\n}\n",
        "custom.a: line 2: includes \"/etc/shadow\" by absolute path: only files under the base folder may be \
         included, as <abstractions/base>",
    );
}

#[test]
fn an_include_that_climbs() {
    refused(
        "custom.a",
        "profile custom.a {\n  include <../shadow>\n}\n",
        "custom.a: line 2: includes \"../shadow\" with '..': only files under the base folder may be included",
    );
}

#[test]
fn a_file_that_defines_no_profile() {
    refused("custom.a", "# nothing\n", "custom.a defines no profile");
    refused("custom.a", "", "custom.a defines no profile");
}

#[test]
fn a_further_profile_that_has_a_file_of_its_own() {
    let node = Node::new();
    node.want(
        "custom.a",
        "profile custom.a {\n}\nprofile custom.good {\n}\n",
    );
    assert_refused(
        &node,
        &[],
        "✗ refused   custom.a: defines \"custom.good\" too, which has a file of its own: keep one",
    );
}

#[test]
fn the_same_further_profile_in_two_files() {
    let node = Node::new();
    for name in ["custom.a", "custom.b"] {
        node.want(
            name,
            format!("profile {name} {{\n}}\nprofile custom.x {{\n}}\n"),
        );
    }
    let run = node.plan(&[]).assert(1);
    for name in ["custom.a", "custom.b"] {
        let line =
            format!("✗ refused   {name}: custom.x is defined by custom.a and custom.b: keep one\n");
        assert!(run.stdout().contains(&line), "{run}");
    }
    assert!(run.stdout().ends_with("\n2 refused\n"), "{run}");
}

#[test]
fn the_same_profile_in_two_folders() {
    let node = Node::new();
    node.want("custom.a", profile("custom.a"));
    node.want("sub/custom.a", profile("custom.a"));
    let line = format!(
        "✗ refused   custom.a is wanted twice, by {0} and {0}/sub: keep one",
        node.profiles()
    );
    assert_refused(&node, &[], &line);
}

#[test]
fn one_profile_twice_in_a_file() {
    refused(
        "custom.a",
        "profile custom.a {\n}\nprofile custom.a {\n}\n",
        "custom.a was not compiled: Multiple definitions for profile custom.a exist,bailing out.",
    );
}

#[test]
fn a_name_of_240_bytes() {
    let long = format!("custom.{}", "x".repeat(233));
    refused(
        &long,
        "x",
        &format!(
            "{long}: the name \"{}…\" has 240 bytes: the limit is 239",
            &long[..80]
        ),
    );
    refused(
        "custom.a",
        format!("profile custom.a {{\n}}\nprofile {long} {{\n}}\n"),
        &format!(
            "custom.a: defines \"{}…\" of 240 bytes: the limit is 239",
            &long[..80]
        ),
    );
}

#[test]
fn a_path_trick_in_a_name() {
    refused(
        "custom.a",
        "profile custom.a {\n}\nprofile custom./../x {\n}\n",
        "custom.a: defines \"custom./../x\", which is no plain name",
    );
}

#[test]
fn a_terminal_escape_in_a_file_name() {
    refused(
        "custom.\u{1b}[31mred\u{202e}",
        "x",
        "custom.\\u{1b}[31mred\\u{202e}: the name \"custom.\\u{1b}[31mred\\u{202e}\" holds a control character",
    );
    refused(
        "custom.\nnew",
        "x",
        "custom. new: the name \"custom.\\u{a}new\" holds a control character",
    );
}

#[test]
fn a_terminal_escape_in_a_text() {
    let node = Node::new();
    node.want("custom.a", "profile custom.a {\n \u{1b}[31m\u{202e}\n}\n");
    node.want(
        "custom.b",
        "profile custom.b {\n}\nprofile \"custom.\u{1b}[31m\" {\n}\n",
    );
    node.want("custom.c", "profile custom.c {\n include <\u{1b}[31m>\n}\n");
    node.want(
        "custom.d",
        "profile custom.d {\n include \"/\u{1b}[31m\n\"\n}\n",
    );
    node.want(
        "custom.e",
        "profile custom.e {\n capability \u{1b}[31m,\n}\n",
    );
    for run in [
        node.plan(&[]),
        node.plan(&["--output", "json"]),
        node.reconcile(&[]),
        node.run(&["status"]),
        node.run(&["check", &node.profiles()]),
        node.run(&["check", &node.profiles(), "--output", "github"]),
        node.run(&["status", "--probe", "ready", "--strict"]),
    ] {
        let run = run.assert(1);
        assert_plain(run.stdout());
        assert_plain(run.stderr());
    }
    let run = node.plan(&[]);
    assert_eq!(run.stdout().lines().count(), 6, "{run}");
    assert!(run.stdout().ends_with("\n5 refused\n"), "{run}");
}

#[test]
fn a_nul_and_what_is_not_utf8() {
    refused(
        "custom.a",
        b"ab\0c",
        "custom.a: byte 2 is a NUL: a profile is text",
    );
    refused(
        "custom.a",
        b"abc\xff",
        "custom.a: byte 3 is not UTF-8: a profile is UTF-8 text",
    );
}

#[test]
fn a_file_name_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt as _;
    let node = Node::new();
    let name = std::ffi::OsStr::from_bytes(b"custom.\xff");
    std::fs::write(node.path("profiles").join(name), "x").unwrap();
    assert_refused(
        &node,
        &[],
        "✗ refused   custom.\u{fffd}: the file's name is not UTF-8: rename it",
    );
}

#[test]
fn a_text_over_the_limit() {
    let node = Node::new();
    node.want("custom.a", "#".repeat(200));
    let line = "✗ refused   custom.a: larger than 150 bytes: raise --max-profile-size, or split the profile";
    assert_refused(&node, &["--max-profile-size", "150"], line);
    let node = Node::new();
    node.want("custom.a", "#".repeat(512 * 1024 + 1));
    let line = "✗ refused   custom.a: larger than 524288 bytes: raise --max-profile-size, or split the profile";
    assert_refused(&node, &[], line);
}

#[test]
fn a_link_that_leads_outside() {
    let node = Node::new();
    node.write("secret", "canary");
    node.link("../secret", "profiles/custom.a");
    assert_refused(
        &node,
        &[],
        "✗ refused   custom.a: a link that leads outside the source: put the file itself there",
    );
}

#[test]
fn what_is_no_file() {
    let node = Node::new();
    let fifo = std::process::Command::new("mkfifo")
        .arg(node.path("profiles/custom.a"))
        .status();
    assert!(fifo.unwrap().success());
    assert_refused(
        &node,
        &[],
        "✗ refused   custom.a: a fifo: a profile is a regular file",
    );
}

#[test]
fn what_the_compiler_does_not_take() {
    for (text, words) in [
        (
            "profile custom.a {\n  bogus\n}\n",
            "custom.a line 3: syntax error, unexpected TOK_CLOSE, expecting TOK_MODE",
        ),
        (
            "profile custom.a {\n  capability nope,\n}\n",
            "custom.a line 2: Invalid capability nope.",
        ),
        (
            "profile custom.a {\n  @{PROC}/x r,\n}\n",
            "custom.a uses the variable @{PROC} and does not declare it: is `include <tunables/global>` missing \
             before the profile?",
        ),
    ] {
        refused("custom.a", text, words);
    }
}

#[test]
fn an_include_that_is_not_there() {
    let node = Node::new();
    node.want("custom.a", "profile custom.a {\n  include <nope>\n}\n");
    let line = format!(
        "✗ refused   custom.a line 2: Could not open 'nope'; includes are looked for in {}, and must be readable \
         for everybody",
        node.arg("base")
    );
    assert_refused(&node, &[], &line);
}

/// A secret beside the source, in every place a text can reach for it.
#[test]
fn a_secret_never_shows() {
    const CANARY: &str = "CANARY-7f3a";
    let node = Node::new();
    let secret = format!("{CANARY}\n {CANARY} {{\n");
    node.write("secret", &secret);
    node.write("base/broken", &secret);
    std::fs::set_permissions(
        node.path("secret"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let path = node.arg("secret");
    let file = |name: &str, line: &str| {
        node.want(name, format!("profile {name} {{\n{line}\n}}\n"));
    };
    file("custom.a", &format!("include \"{path}\""));
    file("custom.b", &format!("#include {path}"));
    file("custom.c", "include <../secret>");
    file("custom.d", "include <broken>");
    file("custom.e", "include if exists <broken>");
    node.want(
        "custom.f",
        format!("abi \"{path}\",\nprofile custom.f {{\n}}\n"),
    );
    node.link("../secret", "profiles/custom.g");
    node.link(&path, "profiles/custom.h");
    node.link("/proc/self/environ", "profiles/custom.i");
    let profiles = node.profiles();
    for run in [
        node.plan(&[]),
        node.plan(&["--output", "json"]),
        node.reconcile(&[]),
        node.reconcile(&["--log-format", "json", "--output", "json"]),
        node.run(&["status"]),
        node.run(&["status", "--output", "json"]),
        node.run(&["check", &profiles]),
        node.run(&["check", &profiles, "--output", "json"]),
        node.run(&["check", &profiles, "--output", "github"]),
    ] {
        assert_eq!(run.code(), 1, "{run}");
        assert!(!run.to_string().contains(CANARY), "{run}");
    }
    let run = node.plan(&[]);
    assert!(run.stdout().ends_with("\n9 refused\n"), "{run}");
    for entry in walkdir::WalkDir::new(node.path("var")) {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains(CANARY));
    }
}

#[test]
fn every_valid_form_is_accepted() {
    let node = Node::new();
    for (name, text) in [
        ("custom.quoted", "profile \"custom.quoted\" {\n}\n"),
        ("custom.tab", "profile\tcustom.tab\t{\n}\n"),
        ("custom.brace", "profile custom.brace\n{\n}\n"),
        ("custom.crlf", "profile custom.crlf {\r\n  file,\r\n}\r\n"),
        (
            "custom.comment",
            "# } profile x {\nprofile custom.comment {\n}\n",
        ),
        ("custom.var", "@{N}=custom.var\nprofile @{N} {\n}\n"),
        ("custom.with space", "profile \"custom.with space\" {\n}\n"),
        (
            "custom.hats",
            "profile custom.hats {\n ^a {\n }\n hat b {\n }\n profile c {\n }\n}\n",
        ),
        (
            "custom.two",
            "profile custom.two.x {\n}\nprofile custom.two {\n}\n",
        ),
        (
            "custom.complain",
            "profile custom.complain flags=(complain) {\n}\n",
        ),
        (
            "custom.include",
            "profile custom.include {\n  #include <abstractions/base>\n}\n",
        ),
        ("custom.kill", "profile custom.kill flags=(kill) {\n}\n"),
    ] {
        node.want(name, text);
    }
    let run = node.plan(&[]).assert(0);
    assert!(run.stdout().ends_with("\n12 to load\n"), "{run}");
    // A byte-order mark the compiler itself refuses.
    let node = Node::new();
    node.want("custom.bom", "\u{feff}profile custom.bom {\n}\n");
    node.plan(&[]).assert(1);
}

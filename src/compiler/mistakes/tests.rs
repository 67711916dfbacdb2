use std::fs::File;
use std::io::{Seek, Write};
use std::process::Command;

use super::plain;

const TEXT: &str = "/proc/self/fd/0";

/// A text and its explanation; the part after a `|` is for parsers older than 4.
const TEXTS: [(&str, &str); 47] = [
    // A comma is missing.
    (
        "profile custom.x {\n  file,\n  /etc/passwd r\n  /etc/hosts r,\n}\n",
        "line 3: the comma at the end of this rule is missing",
    ),
    (
        "profile custom.x {\n  file,\n  capability kill\n}\n",
        "line 3: the comma at the end of this rule is missing",
    ),
    (
        "profile custom.x {\n  network inet stream\n  network inet6 stream,\n}\n",
        "line 2: the comma at the end of this rule is missing",
    ),
    (
        "profile custom.x {\n  signal (send) peer=x\n}\n",
        "line 2: the comma at the end of this rule is missing",
    ),
    (
        "profile custom.x {\n  file\n  capability kill,\n}\n",
        "line 2: the comma at the end of this rule is missing",
    ),
    (
        "profile custom.x {\n  \"/a b\" r # why\n  # a comment,\n\n  /c r,\n}\n",
        "line 2: the comma at the end of this rule is missing",
    ),
    (
        "profile custom.x {\n  mount fstype=proc\n  capability kill,\n}\n",
        "line 2: the comma at the end of this rule is missing",
    ),
    (
        "abi <abi/3.0>\nprofile custom.x {\n  /c r,\n}\n",
        "line 1: the comma at the end of this rule is missing",
    ),
    (
        "profile custom.x {\n  capability kill\n  include <abstractions/base>\n}\n",
        "line 2: the comma at the end of this rule is missing",
    ),
    (
        "profile custom.x {\n  capability kill\n  #include <abstractions/base>\n}\n",
        "line 2: the comma at the end of this rule is missing",
    ),
    // A rule or a path that is none.
    (
        "profile custom.x {\n  netwrok inet,\n}\n",
        "line 2: unknown rule netwrok: did you mean network?",
    ),
    (
        "profile custom.x {\n  audit deny capabilty kill,\n}\n",
        "line 2: unknown rule capabilty: did you mean capability?",
    ),
    (
        "profile custom.x {\n  sginal (send),\n}\n",
        "line 2: unknown rule sginal: did you mean signal?",
    ),
    (
        "profile custom.x {\n  netwrok,\n}\n",
        "line 2: unknown rule netwrok: did you mean network?",
    ),
    (
        "profile custom.x {\n  read /etc/passwd,\n}\n",
        "line 2: unknown rule read",
    ),
    (
        "profile custom.x {\n  etc/passwd r,\n}\n",
        "line 2: etc/passwd is not a path: a path begins with a slash",
    ),
    (
        "profile custom.x {\n  /etc/passwd rz,\n}\n",
        "line 2: permissions are r w a k l m ix px cx ux; a path with spaces is quoted",
    ),
    (
        "profile custom.x {\n  owner /etc/a b r,\n}\n",
        "line 2: permissions are",
    ),
    (
        "profile custom.x {\n  /etc/passwd r;\n}\n",
        "line 2: permissions are",
    ),
    // Rules of newer parsers.
    (
        "profile custom.x {\n  userns,\n}\n",
        "|line 2: userns needs parser 4.1; parser 3.0 lacks it",
    ),
    (
        "profile custom.x {\n  userns create,\n}\n",
        "|line 2: userns needs parser 4.1; parser 3.0 lacks it",
    ),
    (
        "profile custom.x {\n  mqueue (read) type=posix /q,\n}\n",
        "|line 2: mqueue needs parser 4.1; parser 3.0 lacks it",
    ),
    (
        "profile custom.x {\n  io_uring sqpoll,\n}\n",
        "|line 2: io_uring needs parser 4.1; parser 3.0 lacks it",
    ),
    (
        "profile custom.x {\n  allow all,\n}\n",
        "|line 2: all needs parser 4.1; parser 3.0 lacks it",
    ),
    (
        "profile custom.x {\n  priority=10 /etc/passwd r,\n}\n",
        "|line 2: priority needs parser 4.1; parser 3.0 lacks it",
    ),
    // Braces.
    (
        "profile custom.x {\n  /etc/passwd r,\n}\n  /etc/hosts r,\n}\n",
        "line 3: this } leaves line 4 outside",
    ),
    (
        "profile custom.x {\n  profile child {\n    file,\n  }\n  }\n  capability kill,\n}\n",
        "line 5: this } leaves line 6 outside",
    ),
    (
        "profile custom.x {\n  file,\n}\n}\n",
        "line 4: this } is one too many",
    ),
    (
        "profile custom.x {\n  /{a,b} r,\n",
        "line 3: the last } is missing",
    ),
    (
        "profile custom.x flags=(complain) {\n  profile child {\n  file,\n}\n",
        "line 5: the last } is missing",
    ),
    (
        "/etc/passwd r,\n",
        "line 1: outside a profile: rules go between profile NAME { and }",
    ),
    (
        "@{A}=/a\n/etc/passwd r,\n",
        "line 2: outside a profile: rules go between profile NAME { and }",
    ),
    (
        "include <tunables/global>\n/etc/passwd r,\n",
        "line 2: outside a profile: rules go between profile NAME { and }",
    ),
    (
        "profile custom.x {\n  /{a,b} r,\n  netwrok,\n}\n",
        "line 3: unknown rule netwrok: did you mean network?",
    ),
    // Includes.
    (
        "include <tunables/global>\ninclude <abstractions/base>\nprofile custom.x {\n}\n",
        "line 2: outside a profile",
    ),
    (
        "include <abstractions/base>\nprofile custom.x {\n  file,\n}\n",
        "line 1: outside a profile",
    ),
    (
        "profile custom.x {\n  file,\n}\ninclude <abstractions/base>\n",
        "line 4: outside a profile",
    ),
    (
        "profile custom.x {\n  include <tunables/global>\n  file,\n}\n",
        "line 2: declares variables: move the line before the profile",
    ),
    // Variables.
    (
        "include <tunables/global>\n@{PROC}=/proc/\nprofile custom.x {\n  file,\n}\n",
        "line 2: @{PROC} is declared twice: keep one, or add to the first with += (lines 1, 2)",
    ),
    (
        "@{PROC}=/proc/\ninclude <tunables/global>\nprofile custom.x {\n  file,\n}\n",
        "line 2: @{PROC} is declared twice: keep one, or add to the first with += (lines 1, 2)",
    ),
    (
        "include <tunables/home>\n@{HOME} = /x/\ninclude <tunables/proc>\nprofile custom.x {\n  @{HOME} r,\n}\n",
        "line 3: @{HOME} is declared twice: keep one, or add to the first with += (lines 1, 2, 3)",
    ),
    (
        "@{A}=/a\n@{A}=/b\nprofile custom.x {\n  @{A} r,\n}\n",
        "line 2: @{A} is declared twice: keep one, or add to the first with += (lines 1, 2)",
    ),
    // Ways to execute.
    (
        "profile custom.x {\n  /bin/sh ix,\n  /bin/ls ix,\n  /bin/sh px,\n}\n",
        "line 4: a program is executed in two ways: keep one of ix, px, cx, ux for it (lines 2, 4)",
    ),
    (
        "profile custom.x {\n  /bin/* ix,\n  /*/sh px,\n}\n",
        "line 3: a program is executed in two ways: keep one of ix, px, cx, ux for it (lines 2, 3)",
    ),
    // The compiler's message is plain enough.
    ("profile custom.x {\n  capability sys_admn,\n}\n", ""),
    ("profile custom.x {\n  signal set=(trem),\n}\n", ""),
    (
        "profile custom.x {\n  include <abstractions/nope>\n  file,\n}\n",
        "",
    ),
];

/// The explanation of the real compiler's message about `text`; empty where there is none.
fn said_of(text: &str, compiler: &[&str]) -> String {
    let mut input = tempfile();
    input.write_all(text.as_bytes()).unwrap();
    input.rewind().unwrap();
    let (program, arguments) = compiler.split_first().unwrap();
    let output = Command::new(program)
        .args(arguments)
        .stdin(input)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let found = stderr.lines().find_map(|line| {
        let Some(rest) = line.strip_prefix("AppArmor parser error") else {
            return plain(text, false, 0, line);
        };
        let (place, rest) = rest.split_once(" at line ")?;
        let (number, said) = rest.split_once(": ")?;
        plain(text, !place.ends_with(TEXT), number.parse().unwrap(), said)
    });
    found.map_or_else(String::new, |(number, words)| {
        format!("line {number}: {words}")
    })
}

fn tempfile() -> File {
    use rustix::fs::{MemfdFlags, memfd_create};
    memfd_create("text", MemfdFlags::empty()).unwrap().into()
}

fn check(compiler: &[&str]) {
    let version = Command::new(compiler[0])
        .args(&compiler[1..compiler.len() - 6])
        .arg("--version")
        .output()
        .unwrap();
    let is_old = String::from_utf8(version.stdout)
        .unwrap()
        .contains("version 3.");
    for (text, words) in TEXTS {
        let expected = match words.strip_prefix('|') {
            Some(words) if is_old => words,
            Some(_) => "",
            None => words,
        };
        let said = said_of(text, compiler);
        let is_right = if expected.is_empty() {
            said.is_empty()
        } else {
            said.starts_with(expected)
        };
        assert!(is_right, "{text}\nsaid: {said}\nnot:  {expected}");
    }
}

#[test]
fn the_compilers_words_become_plain_ones() {
    check(&[
        "/sbin/apparmor_parser",
        "-Q",
        "-K",
        "-S",
        "-b",
        "/etc/apparmor.d",
        TEXT,
    ]);
}

/// With the parser of another Debian, in the folder that scripts/rootfs makes of it. Needs root.
#[test]
fn the_words_of_another_parser_do_too() {
    let Ok(root) = std::env::var("ARMORER_TEST_ROOTFS") else {
        eprintln!("left out: ARMORER_TEST_ROOTFS names no folder");
        return;
    };
    let script =
        format!("mount -t proc proc {root}/proc && exec chroot {root} apparmor_parser \"$@\"");
    check(&[
        "unshare",
        "-m",
        "sh",
        "-c",
        &script,
        "sh",
        "-Q",
        "-K",
        "-S",
        "-b",
        "/etc/apparmor.d",
        TEXT,
    ]);
}

#[test]
fn any_text_and_message_are_read() {
    for (text, _) in TEXTS {
        for at in 0..=text.len() {
            let said = "syntax error, unexpected TOK_ID, expecting end of file or TOK_OPEN";
            for said in [
                said,
                "variable @{A} was previously declared",
                "conflicting x modifiers",
            ] {
                for line in [0, 1, 3, usize::MAX] {
                    let _ = plain(&text[..at], line == 1, line, said);
                }
            }
        }
    }
}

/// Of an included file, which may be one that the author of the text may not read, nothing is said.
#[test]
fn no_word_of_an_included_file_is_said() {
    let text = "include <abstractions/base>\nprofile custom.x {\n  file,\n}\n";
    for said in [
        "variable @{SECRET} was previously declared",
        "Invalid capability SECRET.",
        "syntax error, unexpected SECRET, expecting TOK_OPEN",
    ] {
        let words = plain(text, true, 7, said)
            .map(|(_, words)| words)
            .unwrap_or_default();
        assert!(!words.contains("SECRET"), "{words}");
    }
}

use std::process::ExitStatus;
use std::time::Duration;

use super::*;
use crate::compiler::Settings;
use crate::compiler::resources::Resources;
use crate::outcome::Kind;

const TEXT_OF_X: Text = Text {
    name: "custom.x",
    contents: "profile custom.x {\n  /a r\n}\n",
    last: false,
};

fn compiler() -> Compiler {
    Compiler {
        program: "/usr/sbin/apparmor_parser".into(),
        settings: Settings {
            program: None,
            base: "/etc/apparmor.d".into(),
            features: "/nowhere".into(),
            proc: "/proc".into(),
            time: Duration::from_secs(30),
            jobs: None,
            complain: false,
            policy_bytes: 1000,
        },
        resources: Resources {
            jobs: 2,
            address_space: 160 << 20,
        },
        launcher: Vec::new(),
        features_name: String::new(),
        other_features: None,
    }
}

fn status(code: i32) -> ExitStatus {
    ExitStatus::from_raw(code << 8)
}

fn signal(signal: Signal) -> ExitStatus {
    ExitStatus::from_raw(signal.as_raw())
}

fn explained(messages: &str, ended: ExitStatus) -> Refusal {
    explain(&TEXT_OF_X, &compiler(), messages, ended, 1000)
}

/// The refusal of a compiler that ended with status 1.
#[track_caller]
fn complaint(messages: &str) -> Refusal {
    let refusal = explained(messages, status(1));
    assert_eq!(refusal.kind, Kind::Refused, "{refusal}");
    refusal
}

#[test]
fn a_complaint_becomes_line_and_message() {
    for (messages, line, message) in [
        (
            "Cache read/write disabled: interface file missing. (Kernel needs AppArmor 2.4 compatibility patch.)\n\
             AppArmor parser error for /proc/self/fd/0 in profile /proc/self/fd/0 at line 3: syntax error, unexpected TOK_CLOSE\n",
            Some(2),
            "the comma at the end of this rule is missing",
        ),
        (
            "armorer-cage: full\nAppArmor parser error at line 2: Invalid capability foo.\n",
            Some(2),
            "Invalid capability foo.",
        ),
        (
            "AppArmor parser error for /proc/self/fd/0 in /proc/self/fd/0 at line 4: bad\n",
            Some(4),
            "bad",
        ),
        (
            "AppArmor parser error for /proc/self/fd/0 in profile /proc/self/fd/0 at line 2: Could not open 'abstractions/nope'\n",
            Some(2),
            "Could not open 'abstractions/nope'",
        ),
        (
            "Warning from profile custom.x (/proc/self/fd/0): network rules not enforced\n\
             /usr/sbin/apparmor_parser: Regex grouping error: Unclosed grouping\n\
             /usr/sbin/apparmor_parser: Unable to parse input line '/x{'\nERROR processing regexs\n",
            None,
            "the compiler says: Regex grouping error: Unclosed grouping; Unable to parse input line '/x{'",
        ),
        (
            "Profile /proc/self/fd/0 is odd\n",
            None,
            "the compiler says: Profile custom.x is odd",
        ),
    ] {
        let refusal = complaint(messages);
        assert_eq!((refusal.line, &*refusal.message), (line, message));
        assert_eq!(refusal.reason, "compile");
    }
}

#[test]
fn an_undeclared_variable_is_answered_with_the_include_that_declares_it() {
    let refusal = complaint("Found reference to variable PROC, but is never declared\n");
    for word in ["@{PROC}", "include <tunables/global>"] {
        assert!(refusal.message.contains(word), "{refusal}");
    }
}

#[test]
fn the_contents_of_an_included_file_are_not_passed_on() {
    let refusal = complaint(
        "AppArmor parser error for /proc/self/fd/0 in profile /etc/apparmor.d/abstractions/z at line 7: Invalid capability SECRET.\n",
    );
    assert_eq!(refusal.line, None);
    for word in [" abstractions/z ", "line 7"] {
        assert!(refusal.message.contains(word), "{refusal}");
    }
    assert!(!refusal.message.contains("SECRET"), "{refusal}");
}

/// A refusal lasts; a failure is tried again.
#[test]
fn each_end_is_the_texts_fault_or_the_nodes() {
    let unwritten = "/usr/sbin/apparmor_parser: Unable to write to stdout";
    let cases = [
        ("", signal(Signal::XCPU), Some("cost")),
        ("", signal(Signal::XFSZ), Some("limit")),
        (unwritten, status(1), Some("limit")),
        ("std::bad_alloc", signal(Signal::ABORT), Some("limit")),
        ("Out of memory\n", status(1), Some("limit")),
        ("Cannot allocate memory\n", status(1), Some("limit")),
        ("", signal(Signal::ABORT), Some("compile")),
        ("", signal(Signal::SEGV), Some("compile")),
        ("", signal(Signal::ILL), Some("compile")),
        ("", signal(Signal::BUS), Some("compile")),
        ("", signal(Signal::FPE), Some("compile")),
        ("bad", status(1), Some("compile")),
        ("", status(1), None),
        ("", signal(Signal::KILL), None),
        ("", signal(Signal::TERM), None),
        ("armorer: no such thing", status(NOT_STARTED), None),
        ("", status(NOT_STARTED), None),
    ];
    for (messages, ended, expected) in cases {
        let refusal = explained(messages, ended);
        let reason = (refusal.kind == Kind::Refused).then_some(refusal.reason);
        assert_eq!(reason, expected, "{messages:?} {ended:?}");
    }
    // Not written for want of room, and not for its size.
    let ended = explain(&TEXT_OF_X, &compiler(), unwritten, status(1), 999);
    assert_eq!(ended.kind, Kind::Failed, "{ended}");
}

#[test]
fn each_limit_says_its_size_and_the_option_that_raises_it() {
    for (messages, ended, words) in [
        ("", signal(Signal::XCPU), ["30s", "--max-compile-time"]),
        ("", signal(Signal::XFSZ), ["1000", "split"]),
        ("Out of memory", status(1), ["160 MiB", "--jobs"]),
    ] {
        let refusal = explained(messages, ended);
        for word in words {
            assert!(refusal.message.contains(word), "{refusal}");
        }
    }
    let messages = "armorer-cage: none\narmorer: cannot execute /x: No such file\n";
    let refusal = explained(messages, status(NOT_STARTED));
    let words = "cannot execute /x: No such file";
    assert!(refusal.message.contains(words), "{refusal}");
}

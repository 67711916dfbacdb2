use std::os::unix::ffi::OsStringExt as _;

use super::fold::Folded;
use super::*;
use crate::error::Exit;

type Env<'a> = [(&'a str, &'a str)];

fn variables(env: &Env) -> Vec<(OsString, OsString)> {
    env.iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn fold(command: &str, words: &[&str], env: &[(OsString, OsString)]) -> Result<Folded, Error> {
    let command = COMMANDS.iter().find(|known| known.name == command).unwrap();
    fold::fold(command, words, env)
}

/// The words that argh is given, without the defaults.
#[track_caller]
fn folded(command: &str, words: &[&str], env: &Env) -> Vec<String> {
    let defaults = fold(command, &[], &[]).unwrap().words;
    let mut words = fold(command, words, &variables(env)).unwrap().words;
    for default in defaults.chunks_exact(2) {
        if let Some(at) = words.windows(2).position(|pair| pair == default) {
            words.drain(at..at + 2);
        }
    }
    words
}

/// The line of bad usage.
#[track_caller]
fn usage(words: &[&str], env: &Env) -> String {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    let Err(error) = parse(&words, &variables(env)) else {
        panic!("accepted: {words:?} {env:?}");
    };
    assert_eq!(error.exit(), Exit::Usage, "{error}");
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

/// Whether `reconcile /p` takes this value of `option`.
fn accepts(option: &str, value: &str) -> bool {
    let words = ["reconcile", "/p", option, value].map(str::to_owned);
    parse(&words, &[]).is_ok()
}

#[test]
fn an_option_on_the_command_line_wins_over_its_variable() {
    let env = [("ARMORER_SET", "of-env"), ("ARMORER_JOBS", "2")];
    assert_eq!(folded("status", &[], &env), ["--set", "of-env", "--"]);
    let words = folded("status", &["--set", "of-line"], &env);
    assert_eq!(words, ["--set", "of-line", "--"]);
}

#[test]
fn a_repeatable_option_is_taken_from_one_place() {
    let env = [("ARMORER_ADOPT", "a.*  b.?")];
    let words = folded("plan", &["/p"], &env);
    assert_eq!(words, ["--adopt", "a.*", "--adopt", "b.?", "--", "/p"]);
    let words = folded("plan", &["--adopt", "c", "/p", "--adopt", "d"], &env);
    assert_eq!(words, ["--adopt", "c", "--adopt", "d", "--", "/p"]);
}

#[test]
fn a_value_may_stand_behind_an_equals_sign_and_be_empty() {
    for words in [&["--prefix="][..], &["--prefix", ""]] {
        assert_eq!(folded("check", words, &[]), ["--prefix", "", "--"]);
    }
    let env = [("ARMORER_PREFIX", "")];
    assert_eq!(folded("check", &[], &env), ["--prefix", "", "--"]);
    let words = folded("check", &["--prefix=a=b"], &env);
    assert_eq!(words, ["--prefix", "a=b", "--"]);
    // A value is a value, whatever it looks like.
    let words = folded("check", &["--prefix", "--strict"], &[]);
    assert_eq!(words, ["--prefix", "--strict", "--"]);
}

#[test]
fn words_that_are_no_options_stay_in_their_order() {
    let words = ["a", "--strict", "-", "--", "--base", "-x"];
    let expected = ["--strict", "--", "a", "-", "--base", "-x"];
    assert_eq!(folded("check", &words, &[]), expected);
}

#[test]
fn a_switch_is_true_or_false_in_a_variable() {
    for value in ["true", "1", "yes", "on", "True", " true "] {
        let env = [("ARMORER_ALLOW_EMPTY", value)];
        assert_eq!(folded("plan", &[], &env), ["--allow-empty", "--"]);
    }
    for value in ["false", "0", "no", "off"] {
        let env = [("ARMORER_ALLOW_EMPTY", value)];
        assert_eq!(folded("plan", &[], &env), ["--"]);
        // The command line's word stands.
        let words = folded("plan", &["--allow-empty"], &env);
        assert_eq!(words, ["--allow-empty", "--"]);
    }
    for value in ["", "maybe"] {
        let line = usage(&["plan", "/p"], &[("ARMORER_ALLOW_EMPTY", value)]);
        assert!(line.contains("ARMORER_ALLOW_EMPTY"), "{line}");
    }
    let line = usage(&["plan", "/p", "--allow-empty=maybe"], &[]);
    assert!(line.contains("--allow-empty"), "{line}");
}

#[test]
fn an_acceptance_rule_is_a_switch_like_others() {
    let words = folded("check", &["--deny-complain"], &[]);
    assert_eq!(words, ["--rule", "deny-complain", "--"]);
    let env = [("ARMORER_ALLOW_ATTACHMENT", "true")];
    let words = folded("check", &[], &env);
    assert_eq!(words, ["--rule", "allow-attachment", "--"]);
    assert_eq!(folded("status", &[], &env), ["--"]);
}

#[test]
fn unknown_options_and_commands_are_answered_with_the_nearest() {
    for (words, expected) in [
        (&["plan", "/p", "--remove-aftr", "1m"][..], "--remove-after"),
        (&["plan", "/p", "--probe", "ready"], "status"),
        (&["plan", "/p", "--nonsense"], "--help"),
        (&["plan", "/p", "-x"], "--help"),
        (&["plan", "/p", "--rule", "x"], "--help"),
        (&["reconsile"], "reconcile"),
        (&[], "--help"),
        (&["plan", "/p", "--adopt"], "--adopt"),
        (&["plan", "/p", "--set", "a", "--set", "b"], "set"),
    ] {
        let line = usage(words, &[]);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn an_unknown_variable_is_an_error_and_a_warning_where_a_pod_depends_on_it() {
    let env = [("ARMORER_REMOVE_AFTR", "never")];
    let line = usage(&["status"], &env);
    for word in ["ARMORER_REMOVE_AFTR", "ARMORER_REMOVE_AFTER"] {
        assert!(line.contains(word), "{line}");
    }
    for command in ["reconcile", "wait"] {
        assert_eq!(folded(command, &[], &env), ["--"]);
        let folded = fold(command, &[], &variables(&env)).unwrap();
        let [warning] = folded.warnings.as_slice() else {
            panic!("{folded:?}");
        };
        assert!(warning.contains("ARMORER_REMOVE_AFTER"), "{warning}");
    }
}

#[test]
fn variables_of_scripts_services_and_other_commands_are_passed_over() {
    let env = [
        ("ARMORER_WAIT_FOR", "custom.a"),
        ("ARMORER_SERVICE_HOST", "10.0.0.1"),
        ("ARMORER_SERVICE_PORT", "80"),
        ("ARMORER_SERVICE_PORT_HTTP", "80"),
        ("ARMORER_PORT", "tcp://10.0.0.1:80"),
        ("ARMORER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("ARMORER_WEB_SERVICE_HOST", "10.0.0.1"),
        ("ARMORER_REMOVE_AFTER", "nonsense of another command"),
        ("HOME", "/root"),
    ];
    assert_eq!(folded("status", &[], &env), ["--"]);
    let folded = fold("status", &[], &variables(&env)).unwrap();
    assert!(folded.warnings.is_empty(), "{folded:?}");
}

#[test]
fn a_variable_that_is_not_utf8_is_refused_if_it_is_read() {
    let env = |name: &str| vec![(name.into(), OsString::from_vec(vec![0xff]))];
    for name in ["ARMORER_SET", "ARMORER_OTHER", "PROFILES_DIR", "POLL_TIME"] {
        let error = fold("reconcile", &[], &env(name)).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    assert!(fold("reconcile", &[], &env("LESSOPEN")).is_ok());
}

#[test]
fn a_wrong_value_names_its_place() {
    let line = usage(&["plan", "/p", "--remove-after", "soon"], &[]);
    assert!(
        line.starts_with("--remove-after: \"soon\" is not "),
        "{line}"
    );
    let line = usage(&["plan", "/p"], &[("ARMORER_REMOVE_AFTER", "soon")]);
    assert!(
        line.starts_with("ARMORER_REMOVE_AFTER: \"soon\" is not "),
        "{line}"
    );
    // The wrong one of both.
    let env = [("ARMORER_SET", "web")];
    let line = usage(&["plan", "/p", "--jobs", "0"], &env);
    assert!(line.starts_with("--jobs: \"0\" is not "), "{line}");
    let line = usage(&["status"], &[("POLL_TIME", "0")]);
    assert!(
        line.contains("POLL_TIME") && line.contains("\"0\""),
        "{line}"
    );
}

#[test]
fn times_have_a_unit_and_at_most_a_year() {
    for value in ["15m", "0s", "1d", "1h 30m", "2h", "500ms", "366d"] {
        assert!(accepts("--remove-after", value), "{value}");
    }
    assert!(accepts("--remove-after", "never") && !accepts("--deadline", "never"));
    for value in [
        "",
        "15",
        "m",
        "-1s",
        "99999999999999999999s",
        "400d",
        "never ever",
    ] {
        assert!(!accepts("--remove-after", value), "{value}");
    }
}

#[test]
fn sizes_are_bytes_or_binary_units() {
    for value in ["512KiB", "7", "1MiB", "64K", "1024MiB"] {
        assert!(accepts("--max-profile-size", value), "{value}");
    }
    for value in [
        "",
        "0",
        "KiB",
        "1TB",
        "-1",
        "1025MiB",
        "99999999999999999999",
    ] {
        assert!(!accepts("--max-profile-size", value), "{value}");
    }
}

#[test]
fn names_of_sets_are_small_letters_digits_and_dashes() {
    let long = "a".repeat(63);
    for value in ["web", "web-2", &long] {
        assert!(accepts("--set", value), "{value}");
    }
    for value in ["", "A", "../x", "a.b", &format!("{long}a")] {
        assert!(!accepts("--set", value), "{value}");
    }
}

#[test]
fn arguments_that_do_not_fit_together_are_refused() {
    let token = [("NODE_NAME", "node-1")];
    for (words, env, expected) in [
        (&["reconcile"][..], &[][..], "PROFILES_DIR"),
        (&["reconcile", "/p", "/p"], &[], "twice"),
        (&["reconcile", "/p", "--output", "github"], &[], "check"),
        (&["wait"], &[], "ARMORER_WAIT_FOR"),
        (&["wait", "localhost/custom.a"], &[], "localhost/"),
        (&["wait", "custom.a,custom.b"], &[], "custom.a,custom.b"),
        (
            &["wait", "custom.a", "--mode", "enforce"],
            &[],
            "--from kernel",
        ),
        (&["status", "x"], &[], "\"x\""),
        (&["restore", "x"], &[], "\"x\""),
        (&["check"], &[], "check"),
        (&["remove"], &[], "--all"),
        (&["remove", "--all", "custom.a"], &[], "--all"),
        (
            &["reconcile", "/p", "--clear-taint", "a b"],
            &token,
            "--clear-taint",
        ),
        (&["reconcile", "/p", "--events"], &[], "NODE_NAME"),
        (&["reconcile", "/p", "--label-node"], &token, "--api-server"),
    ] {
        let line = usage(words, env);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn sources_and_names_come_from_variables_too() {
    for (command, env) in [
        ("reconcile", ("PROFILES_DIR", "/p")),
        ("wait", ("ARMORER_WAIT_FOR", "custom.a custom.b")),
    ] {
        let words = [command.to_owned()];
        assert!(parse(&words, &variables(&[env])).is_ok(), "{command}");
    }
}

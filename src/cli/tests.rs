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
    fold::fold(&find(command).unwrap(), words, env)
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
fn a_value_may_stand_behind_an_equals_sign_and_be_empty() {
    for words in [&["--prefix="][..], &["--prefix", ""]] {
        assert_eq!(folded("check", words, &[]), ["--prefix", "", "--"]);
    }
    let env = [("ARMORER_PREFIX", "")];
    assert_eq!(folded("check", &[], &env), ["--prefix", "", "--"]);
    let words = folded("check", &["--prefix=a=b"], &env);
    assert_eq!(words, ["--prefix", "a=b", "--"]);
    // A value may look like an option.
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
fn an_acceptance_rule_is_a_switch_like_others() {
    let words = folded("check", &["--deny-complain"], &[]);
    assert_eq!(words, ["--rule", "deny-complain", "--"]);
    let env = [("ARMORER_ALLOW_ATTACHMENT", "true")];
    let words = folded("check", &[], &env);
    assert_eq!(words, ["--rule", "allow-attachment", "--"]);
    assert_eq!(folded("status", &[], &env), ["--"]);
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
    let node = [("NODE_NAME", "node-1")];
    for (words, env, expected) in [
        (
            &["reconcile", "/p", "--clear-taint", "a b"][..],
            &node[..],
            "--clear-taint",
        ),
        (&["reconcile", "/p", "--events"], &[], "NODE_NAME"),
        (&["reconcile", "/p", "--label-node"], &node, "--api-server"),
    ] {
        let line = usage(words, env);
        assert!(line.contains(expected), "{line}");
    }
}

//! Promises 2, 3 and 4: it touches only what it owns, repairs it, and one bad profile harms
//! nobody else.

use std::fs;

use crate::support::kernel::{is_loaded, remove, replace, revision};
use crate::support::{
    Case, can_write, compile, confined, hold, kernel, loaded, raw_data, run, simple,
};

#[test]
fn what_is_loaded_is_what_was_compiled() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let expected = compile(&simple("custom.p", "secret"));
    assert_eq!(raw_data("custom.p").unwrap(), expected);
    assert_eq!(loaded()["custom.p"], "enforce");
    assert!(!can_write("custom.p", "/tmp/secret"));
    assert!(can_write("custom.p", "/tmp/public"));
}

#[test]
fn an_edit_reaches_the_running_process() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let held = hold("main", "custom.p");
    case.want("custom.p", &simple("custom.p", "other"));
    case.pass().exits(0);
    assert!(held.label().starts_with("custom.p"));
    assert_eq!(
        raw_data("custom.p").unwrap(),
        compile(&simple("custom.p", "other"))
    );
    assert!(!can_write("custom.p", "/tmp/other"));
    assert!(can_write("custom.p", "/tmp/secret"));
}

#[test]
fn somebody_elses_profile_of_the_same_name_is_a_conflict() {
    let case = Case::new();
    let theirs = compile("profile custom.p { file, signal, }");
    replace(&theirs);
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    let before = revision();
    case.pass().exits(1).says("custom.p");
    assert_eq!(raw_data("custom.p").unwrap(), theirs);
    assert!(is_loaded("custom.q"));
    assert_eq!(revision(), before + 1, "one write, for custom.q");
    case.unwant("custom.p");
    case.pass().exits(0);
    assert_eq!(
        raw_data("custom.p").unwrap(),
        theirs,
        "removed what was never owned"
    );
}

#[test]
fn with_the_state_lost_equal_contents_prove_ownership() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    fs::remove_dir_all(case.dir.join("state")).unwrap();
    let before = revision();
    case.pass().exits(0);
    assert_eq!(revision(), before, "proof needs no write");
    case.unwant("custom.p");
    case.pass().exits(0);
    assert!(!is_loaded("custom.p"), "owned again, and so removed");
}

#[test]
fn with_the_state_lost_other_contents_are_a_conflict_until_adopted() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    fs::remove_dir_all(case.dir.join("state")).unwrap();
    case.want("custom.p", &simple("custom.p", "other"));
    case.pass().exits(1).says("--adopt");
    assert_eq!(
        raw_data("custom.p").unwrap(),
        compile(&simple("custom.p", "secret"))
    );
    let held = hold("main", "custom.p");
    case.armorer(&["reconcile", "--adopt", "custom.x*"])
        .exits(1);
    case.armorer(&["reconcile", "--adopt", "custom.*"]).exits(0);
    assert_eq!(
        raw_data("custom.p").unwrap(),
        compile(&simple("custom.p", "other"))
    );
    assert!(
        held.label().starts_with("custom.p"),
        "adoption unconfined a process"
    );
    case.pass().exits(0);
}

#[test]
fn two_sets_do_not_touch_each_other() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let other = case.dir.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("custom.q"), simple("custom.q", "secret")).unwrap();
    fs::write(other.join("custom.p"), simple("custom.p", "other")).unwrap();
    let pass = || {
        let mut command = case.command(&["reconcile", "--set", "other", "--remove-after", "0s"]);
        command.args(["--adopt", "custom.*"]).arg(&other);
        run(command)
    };
    pass().exits(1).says("default");
    assert_eq!(
        raw_data("custom.p").unwrap(),
        compile(&simple("custom.p", "secret"))
    );
    assert!(is_loaded("custom.q"));
    case.pass().exits(0);
    assert!(is_loaded("custom.q"), "one set removed the other's");
    fs::remove_file(other.join("custom.p")).unwrap();
    pass().exits(0);
    assert!(is_loaded("custom.p"));
    fs::remove_file(other.join("custom.q")).unwrap();
    fs::write(other.join("custom.r"), simple("custom.r", "secret")).unwrap();
    pass().exits(0);
    assert_eq!(
        [is_loaded("custom.p"), is_loaded("custom.q")],
        [true, false]
    );
}

#[test]
fn another_source_list_removes_nothing_without_a_word() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let other = case.dir.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("custom.q"), simple("custom.q", "secret")).unwrap();
    let path = other.to_str().unwrap();
    let pass = || case.armorer(&["reconcile", "--remove-after", "0s", path]);
    pass().exits(1).says("--take-over");
    pass().exits(1);
    assert!(is_loaded("custom.p"));
    case.armorer(&["reconcile", "--remove-after", "0s", "--take-over", path])
        .exits(0);
    assert!(!is_loaded("custom.p"));
}

#[test]
fn an_empty_source_removes_nothing_without_a_word() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    case.unwant("custom.p");
    case.pass().exits(1).says("--allow-empty");
    assert!(is_loaded("custom.p"));
    case.armorer(&["reconcile", "--remove-after", "0s", "--allow-empty"])
        .exits(0);
    assert!(!is_loaded("custom.p"));
}

#[test]
fn what_somebody_removes_replaces_or_sets_to_complain_is_repaired() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    let wanted = raw_data("custom.p").unwrap();

    remove("custom.p");
    case.pass().exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), wanted);

    replace(&compile("profile custom.p { file, signal, }"));
    case.pass().exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), wanted);

    replace(&kernel::compile_with(
        &simple("custom.p", "secret"),
        &["-C"],
    ));
    assert_eq!(loaded()["custom.p"], "complain");
    case.pass().exits(0);
    assert_eq!(loaded()["custom.p"], "enforce");
    assert_eq!(raw_data("custom.p").unwrap(), wanted);
}

#[test]
fn a_sha1_is_recorded_where_the_kernel_has_nothing_better_and_contents_are_still_compared() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    let state: serde_json::Value = serde_json::from_str(&case.state()).unwrap();
    for name in ["custom.p", "custom.q"] {
        let told = |file| kernel::told(name, file).map(|word| String::from_utf8(word).unwrap());
        let expected = match (told("raw_sha256"), told("raw_sha1")) {
            (None, Some(sha1)) => serde_json::json!(sha1.trim()),
            _ => serde_json::Value::Null,
        };
        assert_eq!(state["sets"]["default"]["profiles"][name]["sha1"], expected);
    }
    // Its hash is known by now, as is the other's: neither may be taken for it.
    let (p, q) = (raw_data("custom.p").unwrap(), raw_data("custom.q").unwrap());
    replace(&compile("profile custom.p { file, signal, }"));
    case.pass().exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), p);
    assert_eq!(raw_data("custom.q").unwrap(), q);
}

#[test]
fn after_three_repairs_it_is_contested() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    let theirs = compile("profile custom.p { file, signal, }");
    for _ in 0..3 {
        replace(&theirs);
        case.pass().exits(0);
        assert_ne!(raw_data("custom.p").unwrap(), theirs);
    }
    replace(&theirs);
    for _ in 0..2 {
        case.pass().exits(1).says("contested");
        assert_eq!(raw_data("custom.p").unwrap(), theirs, "did not back off");
    }
    case.want("custom.p", &simple("custom.p", "other"));
    case.pass().exits(0);
    assert_eq!(
        raw_data("custom.p").unwrap(),
        compile(&simple("custom.p", "other"))
    );
}

#[test]
fn one_bad_profile_among_twenty_harms_nobody_else() {
    let case = Case::new();
    for n in 0..20 {
        case.want_simple(&format!("custom.p{n:02}"));
    }
    case.pass().exits(0);
    for n in 0..20 {
        let name = format!("custom.p{n:02}");
        case.want(&name, &simple(&name, "other"));
    }
    case.want("custom.p07", "profile custom.p07 {\n  nonsense\n}\n");
    case.want_simple("custom.new");
    case.pass().exits(1).says("custom.p07 line 3");
    for n in 0..20 {
        let name = format!("custom.p{n:02}");
        let denied = if n == 7 { "secret" } else { "other" };
        assert_eq!(
            raw_data(&name).unwrap(),
            compile(&simple(&name, denied)),
            "{name}"
        );
    }
    assert!(is_loaded("custom.new"));
    assert!(
        !can_write("custom.p07", "/tmp/secret"),
        "its last good version stays"
    );

    // Its last good version also comes back when somebody removes it.
    remove("custom.p07");
    case.pass().exits(1);
    assert!(!can_write("custom.p07", "/tmp/secret"));
}

#[test]
fn a_name_that_moves_to_another_file_is_never_gone() {
    let case = Case::new();
    case.want(
        "custom.p",
        "profile custom.p { file, signal, }\nprofile custom.q { file, signal, }\n",
    );
    case.pass().exits(0);
    let held = hold("main", "custom.q");
    case.want("custom.p", "profile custom.p { file, signal, }\n");
    case.want(
        "custom.q",
        "profile custom.q { file, signal, deny /tmp/secret w, }\n",
    );
    case.pass().exits(0);
    assert!(held.label().starts_with("custom.q"));
    assert!(!can_write("custom.q", "/tmp/secret"));
    assert!(confined("custom.p", &["true"]).status().unwrap().success());
    case.pass().exits(0);
}

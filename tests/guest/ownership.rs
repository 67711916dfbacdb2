//! Promises 2, 3 and 4: armorer touches only its own profiles, repairs them, and one bad profile harms
//! no other.

use std::fs;

use crate::support::kernel::{is_loaded, remove, replace, revision};
use crate::support::{
    Case, can_write, compile, confined, hold, kernel, loaded, raw_data, run, simple,
};

#[test]
fn the_loaded_policy_is_the_compiled_one() {
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
fn another_programs_profile_of_the_same_name_is_a_conflict() {
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
        "removed a profile that was never owned"
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
fn a_profile_that_is_removed_replaced_or_set_to_complain_is_repaired() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    let expected = raw_data("custom.p").unwrap();

    remove("custom.p");
    case.pass().exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), expected);

    replace(&compile("profile custom.p { file, signal, }"));
    case.pass().exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), expected);

    replace(&kernel::compile_with(
        &simple("custom.p", "secret"),
        &["-C"],
    ));
    assert_eq!(loaded()["custom.p"], "complain");
    case.pass().exits(0);
    assert_eq!(loaded()["custom.p"], "enforce");
    assert_eq!(raw_data("custom.p").unwrap(), expected);
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
fn one_bad_profile_among_twenty_harms_no_other() {
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
    case.pass().exits(1).says("custom.p07: line 2");
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

    // Its last good version also comes back when another program removes it.
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

/// A text that the compiler needs seconds for.
fn slow(name: &str, rules: u8) -> String {
    let mut text = format!("profile {name} {{\n  file, capability, signal,\n");
    for rule in 0..rules {
        let letter = |n: u8| char::from(b'a' + (rule * 7 + n * 3) % 26);
        text += &format!("  deny /**{}**{}**{} w,\n", letter(0), letter(1), letter(2));
    }
    text + "}\n"
}

/// Starts a pass, and calls `meanwhile` while the compiler works.
fn during_the_compile(case: &Case, meanwhile: impl FnOnce()) -> std::process::Output {
    let mut command = case.command(&["reconcile", "--max-compile-time", "5m"]);
    command.stderr(std::process::Stdio::piped());
    let pass = command.spawn().unwrap();
    crate::support::until("the compiler works", || {
        !crate::compiler::compilers().is_empty()
    });
    meanwhile();
    assert!(
        !crate::compiler::compilers().is_empty(),
        "the compiler was too quick for this test"
    );
    pass.wait_with_output().unwrap()
}

#[test]
fn a_name_that_another_program_loads_during_the_compile_is_a_conflict() {
    let case = Case::new();
    let theirs = compile("profile custom.p { file, signal, }");
    case.want("custom.p", &slow("custom.p", 7));
    let output = during_the_compile(&case, || replace(&theirs));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(raw_data("custom.p").unwrap(), theirs, "overwritten");
    let patient = ["reconcile", "--max-compile-time", "5m"];
    case.armorer(&patient).exits(1).says("--adopt");
    assert_eq!(raw_data("custom.p").unwrap(), theirs);
    case.unwant("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), theirs, "removed");
}

#[test]
fn a_profile_that_another_program_replaces_during_the_compile_is_not_overwritten_by_that_pass() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let theirs = compile("profile custom.p { file, signal, }");
    case.want("custom.p", &slow("custom.p", 7));
    let output = during_the_compile(&case, || replace(&theirs));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(raw_data("custom.p").unwrap(), theirs);
    case.armorer(&["reconcile", "--max-compile-time", "5m"])
        .exits(0);
    assert_ne!(raw_data("custom.p").unwrap(), theirs, "not repaired");
}

/// A killed pass leaves a claim.
#[test]
fn a_claim_owns_no_profile_that_another_program_loaded_later() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    let policy = case.json()["sets"]["default"]["owned"]["custom.p"]["policy"].clone();
    remove("custom.p");
    case.edit_state(|state| {
        let set = &mut state["sets"]["default"];
        set["owned"]["custom.p"]["pending"] = serde_json::json!({ "load": policy });
        set["profiles"].as_object_mut().unwrap().remove("custom.p");
    });
    let theirs = compile("profile custom.p { file, signal, }");
    replace(&theirs);
    case.pass().exits(1).says("--adopt");
    assert_eq!(raw_data("custom.p").unwrap(), theirs, "replaced");
    case.unwant("custom.p");
    case.armorer(&["reconcile", "--remove-after", "0s", "--take-over"])
        .exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), theirs, "removed");
}

#[test]
fn an_unwanted_profile_that_an_administrator_replaced_is_left_alone() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    case.unwant("custom.p");
    case.armorer(&["reconcile", "--remove-after", "1h"])
        .exits(0);
    let theirs = compile("profile custom.p { file, signal, }");
    replace(&theirs);
    case.pass().exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), theirs, "removed");
    case.pass().exits(0);
    assert_eq!(raw_data("custom.p").unwrap(), theirs, "removed later");
}

#[test]
fn one_relative_source_in_two_folders_is_two_sources() {
    let case = Case::new();
    let pass = |folder: &str, name: &str| {
        let folder = case.dir.join(folder);
        fs::create_dir_all(folder.join("profiles")).unwrap();
        fs::write(folder.join("profiles").join(name), simple(name, "secret")).unwrap();
        let mut command = case.command(&["reconcile", "--remove-after", "0s", "profiles"]);
        command.current_dir(folder);
        run(command)
    };
    pass("a", "custom.p").exits(0);
    pass("b", "custom.q").exits(1).says("--take-over");
    assert!(is_loaded("custom.p") && is_loaded("custom.q"));
}

/// Two state folders on one node are one set with two memories: each takes equal profiles for its own, as
/// after a lost state. One that still wants a profile loads it again.
#[test]
fn a_profile_that_a_second_state_folder_removes_comes_back_and_no_process_loses_it() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    let source = case.dir.join("other");
    fs::create_dir(&source).unwrap();
    for name in ["custom.p", "custom.q"] {
        fs::write(source.join(name), simple(name, "secret")).unwrap();
    }
    let other = || {
        let mut command = case.command(&["reconcile", "--remove-after", "0s"]);
        command
            .env("ARMORER_STATE_DIR", case.dir.join("second"))
            .env("PROFILES_DIR", &source);
        run(command)
    };
    other().exits(0);
    fs::remove_file(source.join("custom.p")).unwrap();
    let held = hold("main", "custom.p");
    other().exits(0);
    assert!(held.label().starts_with("custom.p"));
    drop(held);
    crate::support::process::until_free("custom.p");
    other().exits(0);
    assert!(!is_loaded("custom.p"));
    case.pass().exits(0).says("another program unloaded it");
    assert!(is_loaded("custom.p"));
    other().exits(0);
    assert!(is_loaded("custom.p"), "removed again");
}

#[test]
fn an_unloaded_profile_is_named_with_its_consequence_until_the_next_boot() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let held = hold("main", "custom.p");
    remove("custom.p");
    case.pass().exits(0).says("unconfined until");
    assert!(is_loaded("custom.p"));
    assert_eq!(held.label(), "unconfined");
    case.armorer(&["status"]).says("unconfined until");
    case.pass().exits(0);
    case.armorer(&["status"]).says("unconfined until");
}

#[test]
fn a_kernel_that_complains_is_reported_everywhere() {
    const MODE: &str = "/sys/module/apparmor/parameters/mode";
    let case = Case::new();
    // Deny rules hold in complain mode too: it writes by no rule.
    case.want(
        "custom.p",
        "profile custom.p { /** rix, signal, capability, }",
    );
    case.pass().exits(0);
    let loop_file = case.dir.join("loop");
    fs::write(&loop_file, "4000000000 id\n").unwrap();
    let metrics = case.dir.join("metrics.prom");
    let pass = || {
        let mut command = case.command(&["reconcile", "--loop", "id"]);
        command.args(["--metrics-file", metrics.to_str().unwrap()]);
        run(command)
    };
    let probe = || {
        let mut command = case.command(&["status", "--probe", "ready", "--strict"]);
        command.arg("--loop-heartbeat").arg(&loop_file);
        run(command)
    };
    pass().exits(0);
    probe().exits(0);
    fs::write(MODE, "complain").unwrap();
    let permitted = can_write("custom.p", "/tmp/secret");
    let said = pass();
    let (status, ready) = (case.armorer(&["status"]), probe());
    let figures = fs::read_to_string(&metrics).unwrap();
    fs::write(MODE, "enforce").unwrap();
    assert!(permitted, "the kernel's mode has no effect here");
    said.says("complain");
    status.says("NOTHING IS ENFORCED");
    ready.exits(1).says("complain");
    assert!(figures.contains("armorer_kernel_enforcing{set=\"default\"} 0"));
    assert!(!can_write("custom.p", "/tmp/secret"));
}

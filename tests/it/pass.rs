//! A pass: its writes, its log and its reports.

use harness::{BOOT, Node, assert_plain, profile};
use serde_json::json;

#[test]
fn a_loaded_profile_is_owned_by_its_contents() {
    let node = Node::with(&["custom.a", "custom.b"]);
    let run = node.reconcile(&[]).assert(0);
    assert_eq!(run.stdout(), "");
    assert_eq!(run.stderr().lines().count(), 3, "{run}");
    run.line(&["= own", "custom.a"]);
    run.line(&["converged: 2 profiles in force; 2 own"]);
    node.assert_untouched();
    assert_eq!(node.state()["boot_id"], BOOT);
    assert_eq!(node.set()["owned"].as_object().unwrap().len(), 2);
    assert_eq!(node.set()["sources"], json!([node.source()]));
}

#[test]
fn a_pass_that_changes_nothing_writes_the_status_only_and_logs_a_line() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    let files = || node.files(&["status.json"]);
    let before = files();
    for level in ["info", "warn", "debug"] {
        let run = node.run_with(&["reconcile", &node.source()], &[("RUST_LOG", level)]);
        let lines = usize::from(level != "warn");
        assert_eq!(run.assert(0).stderr().lines().count(), lines);
    }
    assert!(files() == before);
    let status = node.status();
    assert_eq!(status["schema"], 1);
    assert_eq!(status["last_pass"]["exit"], 0);
    assert_eq!(status["last_pass"]["ready"], true);
}

/// The kernel's revision says that no policy changed; this folder changes without one.
#[test]
fn a_pass_that_changes_nothing_does_not_look_at_the_loaded_profiles() {
    let node = Node::settled(&["custom.a"]);
    node.write("sys/kernel/security/apparmor/profiles", "");
    let run = node.reconcile(&[]).assert(0);
    assert_eq!(run.stderr().lines().count(), 1, "{run}");
    node.put("custom.b", profile("custom.b"));
    node.reconcile(&[]).line(&["+ load", "custom.a"]);
}

#[test]
fn a_new_profile_goes_to_the_kernel_in_one_write_of_the_compilers_output() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    let run = node.reconcile(&[]).assert(1);
    assert_eq!(node.load_written(), node.compile(&profile("custom.a"), &[]));
    assert_eq!(node.replace_written(), b"");
    // The snapshot did not load it, and the pass says so.
    run.line(&["+ load", "custom.a", "new"]);
    run.line(&["✗ failed", "custom.a is not loaded"]);
    run.line(&["not converged", "problems: custom.a failed"]);
    assert_eq!(node.set()["problems"]["custom.a"]["kind"], "failed");
}

#[test]
fn a_changed_profile_replaces_the_loaded_one() {
    let node = Node::settled(&["custom.a"]);
    let text = "profile custom.a {\n  deny /x w,\n}\n";
    node.put("custom.a", text);
    node.reconcile(&[]).assert(1);
    assert_eq!(node.replace_written(), node.compile(text, &[]));
    assert_eq!(node.load_written(), b"");
}

#[test]
fn with_complain_every_profile_is_compiled_for_complain_mode() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    node.reconcile(&["--complain"]).assert(1);
    let policy = node.compile(&profile("custom.a"), &["-C"]);
    assert_eq!(node.load_written(), policy);
    node.load_all(&[("custom.a", "complain")], &policy);
    node.reconcile(&["--complain"]).assert(0);
    node.plan(&[])
        .assert(0)
        .line(&["~ replace", "custom.a", "changed"]);
}

#[test]
fn a_write_that_the_kernel_refuses_is_a_problem_of_one_profile() {
    let node = Node::settled(&["custom.a"]);
    node.put("custom.b", profile("custom.b"));
    // Every write to it fails, as if the disk were full.
    node.remove("sys/kernel/security/apparmor/.load");
    node.link("/dev/full", "sys/kernel/security/apparmor/.load");
    let run = node.reconcile(&[]).assert(1);
    run.line(&["✗ failed", "custom.b", "the kernel's limit"]);
    run.line(&["1 profile in force", "problems: custom.b failed"]);
    assert!(
        node.set()["owned"]["custom.b"].is_null(),
        "it was not loaded"
    );
}

#[test]
fn changes_of_other_programs_are_undone_and_reported() {
    let node = Node::settled(&["custom.a", "custom.b", "custom.c"]);
    node.unload("custom.a");
    node.load("custom.b", "profile custom.b {\n}\n");
    let policy = node.compile(&profile("custom.c"), &[]);
    node.load_all(&[("custom.c", "complain")], &policy);
    let run = node.plan(&[]).assert(0);
    run.line(&[
        "+ load",
        "custom.a",
        "unloaded",
        "unconfined until restarted",
    ]);
    run.line(&["~ replace", "custom.b", "replaced"]);
    run.line(&["~ replace", "custom.c", "complain"]);
    assert!(
        run.stdout().ends_with("\n1 to load, 2 to replace\n"),
        "{run}"
    );
}

#[test]
fn after_three_repairs_a_profile_is_contested_and_left_alone() {
    let node = Node::settled(&["custom.a"]);
    node.edit_state(|state| {
        let profile = &mut state["sets"]["default"]["profiles"]["custom.a"];
        // Of this moment, whichever it is.
        let repair = json!({"at": "2026-01-01T00:00:00Z", "uptime": 1_u64 << 40});
        profile["repairs"] = json!([repair, repair, repair]);
    });
    node.unload("custom.a");
    let run = node.reconcile(&[]).assert(1);
    run.line(&["! contested", "custom.a", "3 times", "10m", "stop it"]);
    node.assert_untouched();
}

#[test]
fn the_log_as_json_is_one_event_a_line() {
    let node = Node::with(&["custom.a"]);
    node.put("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node.put("custom.\u{1b}[2J", "x");
    node.put("custom.new", profile("custom.new"));
    let run = node.reconcile(&["--log-format", "json"]).assert(1);
    let events = run.events();
    assert_eq!(events.len(), 6, "{run}");
    for event in &events {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("time").len(), "2026-01-01T00:00:00Z".len());
        assert!(["info", "warn", "error"].contains(&&*text("level")));
        assert_plain(&text("message"));
        assert!(!text("message").is_empty());
        assert!(!text("action").is_empty(), "{event}");
        if text("action") != "pass" {
            assert!(text("profile").starts_with("custom."), "{event}");
            assert!(!text("reason").is_empty(), "{event}");
        }
    }
    let action = |n: usize| events[n]["action"].as_str().unwrap();
    assert_eq!((action(0), action(5)), ("refused", "pass"));
    // An error that ends the pass is an event too.
    let run = node.run(&["reconcile", "/nowhere", "--log-format", "json"]);
    let events = run.assert(3).events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["level"], "error");
}

#[test]
fn a_loop_logs_a_standing_state_once_and_a_person_sees_it_each_time() {
    let node = Node::with(&["custom.a"]);
    node.put("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    let first = node.loop_pass("one", &[]).assert(1);
    assert_eq!(first.stderr().lines().count(), 3, "{first}");
    // Its summary differs: nothing is new any more.
    node.loop_pass("one", &[]).assert(1);
    let again = node.loop_pass("one", &[]).assert(1);
    assert_eq!(again.stderr(), "");
    for _ in 0..2 {
        let run = node.reconcile(&[]).assert(1);
        assert_eq!(run.stderr().lines().count(), 2, "{run}");
        run.line(&["refused", "custom.bad", "bogus"]);
        run.line(&["problems: custom.bad refused"]);
    }
}

#[test]
fn outcomes_are_printed_where_that_is_asked_for() {
    let node = Node::with(&["custom.a"]);
    let document = node.reconcile(&["--output", "json"]).assert(0).json();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["result"], "converged");
    assert_eq!(document["outcomes"][0]["kind"], "own");
    node.reconcile(&["--output", "text"])
        .assert(0)
        .prints(&["nothing to do"]);
}

#[test]
fn the_last_good_version_stays_where_the_new_one_is_refused() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    for bad in ["bogus", "profile other {\n}\n", "include \"/etc/shadow\"\n"] {
        node.put("custom.a", bad);
        let run = node.reconcile(&["--remove-after", "0s"]).assert(1);
        run.line(&["2 profiles in force", "problems: custom.a refused"]);
        node.assert_untouched();
    }
    // And it is repaired, too.
    node.unload("custom.a");
    node.reconcile(&[]).assert(1);
    assert_eq!(node.load_written(), node.compile(&profile("custom.a"), &[]));
}

#[test]
fn further_profiles_children_and_hats_are_owned_and_go_on_their_own() {
    let node = Node::new();
    let further = "profile custom.more {\n}\n";
    let text =
        format!("profile custom.a {{\n  ^hat {{\n  }}\n  profile kid {{\n  }}\n}}\n{further}");
    let members =
        ["custom.a", "custom.a//hat", "custom.a//kid", "custom.more"].map(|name| (name, "enforce"));
    node.put("custom.a", &text);
    node.load_all(&members, &node.compile(&text, &[]));
    node.reconcile(&[]).assert(0);
    assert_eq!(node.set()["owned"].as_object().unwrap().len(), 4);
    // The kernel keeps a child that the new version dropped.
    let text = format!("profile custom.a {{\n  ^hat {{\n  }}\n}}\n{further}");
    node.put("custom.a", &text);
    node.load_all(&members, &node.compile(&text, &[]));
    let run = node.reconcile(&["--remove-after", "0s"]);
    assert_eq!(node.removed(), "custom.a//kid", "{run}");
}

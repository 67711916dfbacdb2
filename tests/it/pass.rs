//! A pass: what it writes where, and what it says.

use crate::node::{Node, profile};

#[test]
fn what_is_loaded_already_is_found_by_its_contents() {
    let node = Node::with(&["custom.a", "custom.b"]);
    let run = node.reconcile(&[]).assert(0);
    assert_eq!(run.stdout(), "");
    let lines: Vec<&str> = run.stderr().lines().collect();
    assert_eq!(lines.len(), 3, "{run}");
    assert!(lines[2].ends_with("converged: 2 profiles in force; 2 found loaded"));
    assert_eq!(node.written(), b"");
    let state = node.state();
    let set = &state["sets"]["default"];
    assert_eq!(state["boot_id"], crate::node::BOOT);
    assert_eq!(set["owned"].as_object().unwrap().len(), 2);
    assert_eq!(set["sources"], serde_json::json!([node.profiles()]));
}

#[test]
fn a_pass_that_changes_nothing_logs_one_line_and_writes_the_heartbeat_only() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    let files = || {
        let mut files = std::collections::BTreeMap::new();
        for entry in walkdir::WalkDir::new(node.path("")) {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if entry.file_name() != "heartbeat" && metadata.is_file() {
                let bytes = std::fs::read(entry.path()).unwrap();
                let modified = metadata.modified().unwrap();
                files.insert(entry.path().to_owned(), (bytes, modified));
            }
        }
        files
    };
    let before = files();
    for level in ["info", "warn", "debug"] {
        let run = node.run_with(&["reconcile", &node.profiles()], &[("RUST_LOG", level)]);
        let lines = usize::from(level != "warn");
        assert_eq!(run.assert(0).stderr().lines().count(), lines);
    }
    assert!(files() == before);
    let heartbeat: serde_json::Value =
        serde_json::from_str(&node.read("var/lib/armorer/heartbeat")).unwrap();
    assert_eq!(heartbeat["schema"], 1);
    assert_eq!(heartbeat["exit"], 0);
    assert_eq!(heartbeat["ready"], true);
}

#[test]
fn one_write_of_what_the_compiler_made_goes_to_the_kernel() {
    let node = Node::new();
    node.want("custom.a", profile("custom.a"));
    let run = node.reconcile(&[]).assert(1);
    assert_eq!(node.written(), node.compile(&profile("custom.a"), &[]));
    // The snapshot did not load it, and that is said.
    let said = run.stderr();
    assert!(said.contains("+ load      custom.a: new"), "{run}");
    assert!(said.contains("custom.a is not loaded"), "{run}");
    assert!(said.contains("in the way: custom.a failed"), "{run}");
    let log = &node.state()["sets"]["default"]["problems"]["custom.a"];
    assert_eq!(log["kind"], "failed");
}

#[test]
fn with_complain_everything_is_compiled_for_complain_mode() {
    let node = Node::new();
    node.want("custom.a", profile("custom.a"));
    node.reconcile(&["--complain"]).assert(1);
    let blob = node.compile(&profile("custom.a"), &["-C"]);
    assert_eq!(node.written(), blob);
    node.load_all(&[("custom.a", "complain")], &blob);
    node.reconcile(&["--complain"]).assert(0);
    let run = node.plan(&[]).assert(0);
    assert_eq!(
        run.stdout(),
        "~ replace   custom.a: changed\n1 to replace\n"
    );
}

#[test]
fn what_the_kernel_does_not_take_is_a_problem_of_one_profile() {
    let node = Node::settled(&["custom.a"]);
    node.want("custom.b", profile("custom.b"));
    // Every write to it fails, and as if the disk were full.
    node.remove("sys/kernel/security/apparmor/.replace");
    node.link("/dev/full", "sys/kernel/security/apparmor/.replace");
    let run = node.reconcile(&[]).assert(1);
    let said = run.stderr();
    assert!(
        said.contains("✗ failed    custom.b: the kernel's limit"),
        "{run}"
    );
    assert!(
        said.contains("1 profile in force; in the way: custom.b failed"),
        "{run}"
    );
    let set = &node.state()["sets"]["default"];
    assert!(set["owned"]["custom.b"].is_null(), "it was not loaded");
}

#[test]
fn somebody_elses_changes_are_undone() {
    let node = Node::settled(&["custom.a", "custom.b", "custom.c"]);
    let blob = node.compile(&profile("custom.c"), &[]);
    node.unload("custom.a");
    node.load("custom.b", "profile custom.b {\n}\n");
    node.load_all(&[("custom.c", "complain")], &blob);
    let run = node.plan(&[]).assert(0);
    let mut lines: Vec<&str> = run.stdout().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "+ load      custom.a: removed by somebody else",
            "1 to load, 2 to replace",
            "~ replace   custom.b: replaced by somebody else",
            "~ replace   custom.c: set to complain by somebody else",
        ]
    );
}

/// As a kernel without SHA-256 tells of `name`.
fn tell_by_sha1(node: &Node, name: &str, sha1: &str, blob: Option<&[u8]>) {
    let entry = format!("sys/kernel/security/apparmor/policy/profiles/{name}.1");
    for file in ["raw_sha256", "raw_data"] {
        if node.exists(&format!("{entry}/{file}")) {
            node.remove(&format!("{entry}/{file}"));
        }
    }
    node.write(
        &format!("{entry}/raw_sha1"),
        format!("{}\n", sha1.repeat(40)),
    );
    if let Some(blob) = blob {
        node.write(&format!("{entry}/raw_data"), blob);
    }
}

#[test]
fn where_the_kernel_tells_a_sha1_only_contents_are_read_once() {
    let node = Node::with(&["custom.a", "custom.b"]);
    let blobs = ["custom.a", "custom.b"].map(|name| node.compile(&profile(name), &[]));
    tell_by_sha1(&node, "custom.a", "a", Some(&blobs[0]));
    tell_by_sha1(&node, "custom.b", "b", Some(&blobs[1]));
    node.reconcile(&[]).assert(0);
    let sha1 = |name: &str| node.state()["sets"]["default"]["profiles"][name]["sha1"].clone();
    assert_eq!(
        [sha1("custom.a"), sha1("custom.b")],
        ["a".repeat(40), "b".repeat(40)]
    );
    // Somebody else loaded something: all is looked at, by its hash.
    node.load("other", &profile("other"));
    for (name, digit) in [("custom.a", "a"), ("custom.b", "b")] {
        tell_by_sha1(&node, name, digit, None);
    }
    let run = node.reconcile(&[]).assert(0);
    assert!(run.stderr().contains("2 profiles in force"), "{run}");
    // Somebody else's contents have another hash, and are read.
    node.load("other", &profile("other"));
    tell_by_sha1(&node, "custom.a", "c", Some(b"theirs"));
    let run = node.plan(&[]).assert(0);
    let line = "~ replace   custom.a: replaced by somebody else";
    assert_eq!(run.stdout().lines().next(), Some(line));
    // A version of ours that is not known by this hash is read too, and compared.
    tell_by_sha1(&node, "custom.a", "c", Some(&blobs[0]));
    node.reconcile(&[]).assert(0);
    assert_eq!(sha1("custom.a"), "c".repeat(40));
    // A new version has not the old one's hash: that would say that it is loaded.
    let new = profile("custom.a").replace('}', "  deny /srv/new w,\n}");
    node.want("custom.a", new);
    let run = node.reconcile(&[]).assert(1);
    assert!(
        run.stderr().contains("custom.a has other contents"),
        "{run}"
    );
}

#[test]
fn after_three_repairs_it_is_contested_and_left_alone() {
    let node = Node::settled(&["custom.a"]);
    node.unload("custom.a");
    for _ in 0..3 {
        node.reconcile(&[]).assert(1);
    }
    let before = node.written();
    let run = node.reconcile(&[]).assert(1);
    assert!(
        run.stderr().contains(
            "! contested custom.a: contested: removed by somebody else, 3 times within 10m; find who else \
             loads custom.a and stop them"
        ),
        "{run}"
    );
    assert_eq!(node.written(), before);
}

#[test]
fn a_new_boot_ends_ownership() {
    let node = Node::settled(&["custom.a"]);
    node.write("proc/sys/kernel/random/boot_id", "another\n");
    let run = node.reconcile(&[]).assert(0);
    assert!(run.stderr().contains("= own       custom.a"), "{run}");
    node.write("proc/sys/kernel/random/boot_id", "yet another\n");
    node.load("custom.a", "profile custom.a {\n}\n");
    let run = node.reconcile(&[]).assert(1);
    assert!(run.stderr().contains("! conflict  custom.a"), "{run}");
    assert_eq!(node.written(), b"");
}

#[test]
fn two_sets_do_not_touch_each_other() {
    let node = Node::settled(&["custom.a"]);
    node.write("web/custom.a", profile("custom.a"));
    node.write("web/custom.w", profile("custom.w"));
    node.load("custom.w", &profile("custom.w"));
    let web = ["reconcile", "web", "--set", "web", "--remove-after", "0s"];
    let run = node.run(&web).assert(1);
    assert!(
        run.stderr()
            .contains("custom.a belongs to the set default: want it in one set only"),
        "{run}"
    );
    node.remove("web/custom.a");
    node.run(&web).assert(0);
    // Each has its own heartbeat.
    assert!(node.exists("var/lib/armorer/heartbeat-web"));
    node.remove("profiles/custom.a");
    node.want("custom.b", profile("custom.b"));
    node.load("custom.b", &profile("custom.b"));
    node.reconcile(&["--remove-after", "0s"]).assert(0);
    assert_eq!(node.removed(), "custom.a");
}

#[test]
fn an_unwanted_profile_is_removed_when_nobody_uses_it() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    node.remove("profiles/custom.b");
    let run = node.reconcile(&[]).assert(0);
    assert!(
        run.stderr()
            .contains("… deferred  custom.b: unwanted and unused; due in 15m"),
        "{run}"
    );
    // The clock runs: nothing new is said.
    let run = node.reconcile(&[]).assert(0);
    assert_eq!(run.stderr().lines().count(), 1, "{run}");
    assert!(run.stderr().contains("1 removal deferred"), "{run}");
    node.process(77, "sleep", "custom.b (enforce)");
    let run = node.reconcile(&["--remove-after", "0s"]).assert(0);
    assert_eq!(node.removed(), "");
    assert!(run.stderr().contains("1 removal deferred"), "{run}");
    node.remove("proc/77");
    node.process(78, "runc:[2:INIT]", "unconfined");
    let run = node.reconcile(&["--remove-after", "0s"]).assert(0);
    assert_eq!(node.removed(), "");
    assert!(
        run.stderr().contains("a container is being started"),
        "{run}"
    );
    node.remove("proc/78");
    let run = node.reconcile(&["--remove-after", "never"]).assert(0);
    assert_eq!(node.removed(), "", "{run}");
    let run = node.reconcile(&["--remove-after", "0s"]).assert(0);
    assert_eq!(node.removed(), "custom.b");
    assert!(run.stderr().contains("- remove    custom.b"), "{run}");
    assert!(node.state()["sets"]["default"]["owned"]["custom.b"].is_null());
}

#[test]
fn where_the_scan_is_incomplete_nothing_is_removed() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    node.remove("profiles/custom.b");
    node.remove("proc/1");
    let run = node.reconcile(&["--remove-after", "0s"]).assert(1);
    assert_eq!(node.removed(), "");
    assert!(
        run.stderr()
            .contains("! kept      custom.b: nobody can tell whether it is in use: process 1"),
        "{run}"
    );
}

#[test]
fn the_log_as_json_is_one_event_a_line() {
    let node = Node::with(&["custom.a"]);
    node.want("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    node.want("custom.\u{1b}[2J", "x");
    node.want("custom.new", profile("custom.new"));
    let run = node.reconcile(&["--log-format", "json"]).assert(1);
    let events = run.events();
    assert_eq!(events.len(), 6, "{run}");
    for event in &events {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("time").len(), "2026-01-01T00:00:00Z".len());
        assert!(["info", "warn", "error"].contains(&&*text("level")));
        crate::node::assert_plain(&text("message"));
        assert!(!text("message").is_empty());
        assert!(!text("action").is_empty(), "{event}");
        if text("action") != "pass" {
            assert!(text("profile").starts_with("custom."), "{event}");
            assert!(!text("reason").is_empty(), "{event}");
        }
    }
    let actions: Vec<_> = events
        .iter()
        .map(|event| event["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions[0], "refused");
    assert_eq!(actions[5], "pass");
    // An error that ends the pass is an event too.
    let run = node.run(&["reconcile", "/nowhere", "--log-format", "json"]);
    let events = run.assert(3).events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["level"], "error");
}

#[test]
fn a_standing_problem_is_logged_once() {
    let node = Node::with(&["custom.a"]);
    node.want("custom.bad", "profile custom.bad {\n  bogus\n}\n");
    let run = node.reconcile(&[]).assert(1);
    assert_eq!(run.stderr().lines().count(), 3, "{run}");
    let run = node.reconcile(&[]).assert(1);
    assert_eq!(run.stderr().lines().count(), 1, "{run}");
    assert!(
        run.stderr().contains("in the way: custom.bad refused"),
        "{run}"
    );
}

#[test]
fn the_changes_are_printed_when_asked_for() {
    let node = Node::with(&["custom.a"]);
    let document = node.reconcile(&["--output", "json"]).assert(0).json();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["result"], "converged");
    assert_eq!(document["changes"][0]["action"], "own");
    let run = node.reconcile(&["--output", "text"]).assert(0);
    assert_eq!(run.stdout(), "nothing to do\n");
}

#[test]
fn the_last_good_version_stays_where_the_new_one_is_refused() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    for bad in ["bogus", "profile other {\n}\n", "include \"/etc/shadow\"\n"] {
        node.want("custom.a", bad);
        let run = node.reconcile(&["--remove-after", "0s"]).assert(1);
        assert!(
            run.stderr()
                .contains("2 profiles in force; in the way: custom.a refused"),
            "{run}"
        );
        assert_eq!(node.removed(), "");
        assert_eq!(node.written(), b"");
    }
    // And is repaired, too.
    node.unload("custom.a");
    node.reconcile(&[]).assert(1);
    assert_eq!(node.written(), node.compile(&profile("custom.a"), &[]));
}

#[test]
fn further_profiles_children_and_hats_are_found_and_kept() {
    let node = Node::new();
    let text =
        "profile custom.a {\n  ^hat {\n  }\n  profile kid {\n  }\n}\nprofile custom.more {\n}\n";
    let blob = node.compile(text, &[]);
    node.want("custom.a", text);
    let members = [
        ("custom.a", "enforce"),
        ("custom.a//hat", "enforce"),
        ("custom.a//kid", "enforce"),
        ("custom.more", "enforce"),
    ];
    node.load_all(&members, &blob);
    node.reconcile(&[]).assert(0);
    let state = node.state();
    let owned = state["sets"]["default"]["owned"].as_object().unwrap();
    assert_eq!(owned.len(), 4);
    // A child that the new version dropped goes on its own.
    let text = "profile custom.a {\n  ^hat {\n  }\n}\nprofile custom.more {\n}\n";
    let blob = node.compile(text, &[]);
    node.want("custom.a", text);
    node.load_all(&members, &blob);
    let run = node.reconcile(&["--remove-after", "0s"]);
    assert_eq!(node.removed(), "custom.a//kid", "{run}");
}

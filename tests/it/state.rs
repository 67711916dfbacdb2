//! The state folder: who may hold it, and what is done where it is damaged.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::time::{Duration, Instant};

use crate::node::{Node, Run};

const STATE: &str = "var/lib/armorer/state.json";

#[test]
fn the_folder_is_closed_to_others_and_the_status_is_not() {
    let node = Node::settled(&["custom.a"]);
    let mode = |path: &str| {
        let path = node.path("var/lib/armorer").join(path);
        path.metadata().unwrap().permissions().mode() & 0o7777
    };
    for (path, expected) in [
        ("", 0o700),
        ("state.json", 0o600),
        ("lock", 0o600),
        ("heartbeat", 0o600),
        ("policy", 0o700),
        ("public", 0o755),
        ("public/status.json", 0o644),
    ] {
        assert_eq!(mode(path), expected, "{path}");
    }
    // One that was open is closed.
    let folder = node.path("var/lib/armorer");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    node.reconcile(&[]).assert(0);
    assert_eq!(mode(""), 0o700);
}

#[test]
fn a_second_pass_waits_for_the_first() {
    let node = Node::settled(&["custom.a"]);
    let lock = std::fs::File::open(node.path("var/lib/armorer/lock")).unwrap();
    lock.lock().unwrap();
    let mut command = node.command(&["reconcile", "profiles", "--lock-timeout", "20s"]);
    let pass = std::thread::spawn(move || Run(command.output().unwrap()));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!pass.is_finished());
    drop(lock);
    pass.join().unwrap().assert(0);
}

#[test]
fn a_lock_that_is_not_had_in_time_is_exit_3() {
    let node = Node::settled(&["custom.a"]);
    let lock = std::fs::File::open(node.path("var/lib/armorer/lock")).unwrap();
    lock.lock().unwrap();
    let before = node.read(STATE);
    let start = Instant::now();
    for command in [
        &["reconcile", "profiles"][..],
        &["restore"],
        &["remove", "--all"],
    ] {
        let arguments = [command, &["--lock-timeout", "200ms"]].concat();
        node.run(&arguments)
            .fails(3, &["another pass held", "for 200ms", "--lock-timeout"]);
    }
    assert!(start.elapsed() >= Duration::from_millis(600));
    assert_eq!(node.read(STATE), before);
    assert_eq!(node.removed(), "");
}

#[test]
fn a_damaged_state_is_refused_with_the_way_out_and_left_as_it_is() {
    for damaged in ["", "{", "[]", "{\"schema\":1,\"sets\":7}", "\0\0\0"] {
        let node = Node::settled(&["custom.a"]);
        node.write(STATE, damaged);
        for command in [
            &["reconcile", "profiles"][..],
            &["plan", "profiles"],
            &["restore"],
            &["remove", "--all", "--force"],
            &["status"],
        ] {
            node.run(command)
                .fails(3, &["state file", "damaged", "move", &node.arg(STATE)]);
        }
        assert_eq!(node.read(STATE), damaged);
        assert_eq!(node.removed(), "");
        // The way out leads out.
        node.remove(STATE);
        node.reconcile(&[]).assert(0);
    }
}

#[test]
fn a_newer_schema_is_refused_and_never_overwritten() {
    let node = Node::settled(&["custom.a"]);
    let newer = "{\"schema\": 2, \"sets\": []}";
    node.write(STATE, newer);
    for command in [
        &["reconcile", "profiles"][..],
        &["plan", "profiles"],
        &["restore"],
        &["remove", "--all"],
        &["status"],
    ] {
        node.run(command)
            .fails(3, &["schema 2", "newer armorer", &node.arg(STATE)]);
    }
    assert_eq!(node.read(STATE), newer);
}

#[test]
fn a_state_folder_that_is_none_is_exit_3() {
    let node = Node::with(&["custom.a"]);
    node.write("var/lib/armorer", "a file");
    node.reconcile(&[])
        .fails(3, &["the state folder", "--state-dir"]);
    node.run(&["restore"]).fails(3, &["the state folder"]);
    let node = Node::with(&["custom.a"]);
    node.write("var", "a file");
    node.reconcile(&[]).fails(3, &["the state folder"]);
    assert_eq!(node.written(), b"");
}

#[test]
fn a_state_folder_that_cannot_be_written_is_exit_3_before_the_kernel_is_touched() {
    let node = Node::new();
    node.want("custom.a", crate::node::profile("custom.a"));
    // Not even root creates a file there.
    node.folder("var/lib");
    node.link("/proc/self", "var/lib/armorer");
    node.reconcile(&[])
        .fails(3, &["the state folder", "writable disk"]);
    assert_eq!(node.written(), b"");
}

#[test]
fn a_state_that_cannot_be_saved_stops_the_pass_before_the_kernel_is_touched() {
    let node = Node::settled(&["custom.a"]);
    node.want("custom.b", crate::node::profile("custom.b"));
    // Where the new state would be written.
    node.folder("var/lib/armorer/state.json.tmp/x");
    node.reconcile(&[]).fails(3, &["cannot save the state"]);
    assert_eq!(node.written(), b"");
    node.remove("var/lib/armorer/state.json.tmp");
    node.reconcile(&[]).assert(1);
    assert_ne!(node.written(), b"");
}

#[test]
fn a_pass_with_nothing_to_do_leaves_the_state_file_as_it_is() {
    let node = Node::settled(&["custom.a"]);
    let look = || {
        let metadata = node.path(STATE).metadata().unwrap();
        (node.read(STATE), metadata.ino(), metadata.mtime_nsec())
    };
    let before = look();
    node.reconcile(&[]).assert(0);
    assert!(look() == before);
    // Looking at everything again, and finding nothing, writes nothing else but the revision.
    node.load("foreign", "profile foreign {\n}\n");
    node.reconcile(&[]).assert(0);
    let without_revision = |text: &str| {
        let mut state: serde_json::Value = serde_json::from_str(text).unwrap();
        state["sets"]["default"]["kernel_revision"] = serde_json::Value::Null;
        state
    };
    assert_eq!(
        without_revision(&node.read(STATE)),
        without_revision(&before.0)
    );
}

#[test]
fn stored_policy_that_is_damaged_is_compiled_again() {
    let node = Node::settled(&["custom.a"]);
    for entry in std::fs::read_dir(node.path("var/lib/armorer/policy")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "blob") {
            std::fs::write(path, "damaged").unwrap();
        }
    }
    node.unload("custom.a");
    let run = node.reconcile(&[]).assert(1);
    assert!(run.stderr().contains("damaged"), "{run}");
    assert_eq!(node.written(), b"");
    node.reconcile(&[]).assert(1);
    let text = crate::node::profile("custom.a");
    assert_eq!(node.written(), node.compile(&text, &[]));
}

#[test]
fn the_policy_folder_holds_what_is_recorded_and_nothing_else() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    let stored = || {
        std::fs::read_dir(node.path("var/lib/armorer/policy"))
            .unwrap()
            .count()
    };
    assert_eq!(stored(), 4);
    node.write("var/lib/armorer/policy/left.blob.tmp", "x");
    node.remove("profiles/custom.b");
    node.reconcile(&["--remove-after", "0s"]).assert(0);
    assert_eq!(stored(), 2);
    // A new version takes the place of the old one.
    let text = crate::node::profile("custom.a").replace('}', "  deny /srv/new w,\n}");
    node.want("custom.a", &text);
    node.load("custom.a", &text);
    node.reconcile(&[]).assert(0);
    assert_eq!(stored(), 2);
    // What was compiled and then refused is not kept.
    for name in ["custom.c", "custom.d"] {
        let both = crate::node::profile(name) + &crate::node::profile("custom.x");
        node.want(name, both);
    }
    let run = node.reconcile(&[]).assert(1);
    assert!(run.stderr().contains("custom.x is defined by"), "{run}");
    assert_eq!(stored(), 2);
}

#[test]
fn what_another_set_stored_too_is_kept() {
    let node = Node::settled(&["custom.a"]);
    // As if the other set had recorded the same text.
    node.edit_state(|state| {
        let mut other = state["sets"]["default"].clone();
        other["owned"] = serde_json::json!({});
        state["sets"]["other"] = other;
    });
    node.remove("profiles/custom.a");
    node.want("custom.b", crate::node::profile("custom.b"));
    node.load("custom.b", &crate::node::profile("custom.b"));
    node.reconcile(&["--remove-after", "0s"]).assert(0);
    let state = node.state();
    assert!(state["sets"]["default"]["profiles"]["custom.a"].is_null());
    let record = &state["sets"]["other"]["profiles"]["custom.a"];
    for (field, kind) in [("text", "text"), ("blob", "blob")] {
        let digest = record[field].as_str().unwrap();
        assert!(node.exists(&format!("var/lib/armorer/policy/{digest}.{kind}")));
    }
}

#[test]
fn the_published_status_says_what_is_loaded_and_what_is_in_the_way() {
    let node = Node::with(&["custom.a"]);
    node.want("custom.bad", "bogus");
    node.reconcile(&["--node-name", "n1"]).assert(1);
    let status: serde_json::Value =
        serde_json::from_str(&node.read("var/lib/armorer/public/status.json")).unwrap();
    assert_eq!(status["schema"], 1);
    assert_eq!(status["node"], "n1");
    assert_eq!(status["boot_id"], crate::node::BOOT);
    let set = &status["sets"]["default"];
    assert_eq!(set["profiles"]["custom.a"]["mode"], "enforce");
    assert!(set["problems"]["custom.bad"].is_string());
}

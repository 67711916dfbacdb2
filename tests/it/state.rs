//! The state folder: its owner, its lock, and the handling of damage.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Node, Run, profile};

const STATE: &str = "var/lib/armorer/state.json";

#[test]
fn the_folder_is_closed_to_others() {
    let node = Node::settled(&["custom.a"]);
    let modes = [
        ("", 0o700),
        ("state.json", 0o600),
        ("status.json", 0o600),
        ("lock", 0o600),
        ("policy", 0o700),
    ];
    for (path, mode) in modes {
        assert_eq!(
            node.mode(&format!("var/lib/armorer/{path}")),
            mode,
            "{path}"
        );
    }
    // One that was opened is closed again, and one that was made beforehand is taken if it is empty.
    node.set_mode("var/lib/armorer", 0o755);
    node.reconcile(&[]).assert(0);
    assert_eq!(node.mode("var/lib/armorer"), 0o700);
    node.folder("empty");
    node.set_mode("empty", 0o755);
    node.reconcile(&["--state-dir", "/empty"]).assert(0);
    assert_eq!(node.mode("empty"), 0o700);
}

#[test]
fn a_folder_of_others_is_neither_closed_nor_used() {
    let node = Node::with(&["custom.a"]);
    node.write("shared/data", "theirs");
    node.set_mode("shared", 0o755);
    node.reconcile(&["--state-dir", "/shared"])
        .fails(3, &["shared", "open to other users", "--state-dir"]);
    assert_eq!(node.mode("shared"), 0o755);
    node.folder("foreign");
    node.set_mode("foreign", 0o700);
    if std::os::unix::fs::chown(node.path("foreign"), Some(65534), None).is_ok() {
        node.reconcile(&["--state-dir", "/foreign"])
            .fails(3, &["foreign", "user 65534", "--state-dir"]);
    }
    node.write("file", "a file");
    node.reconcile(&["--state-dir", "/file"])
        .fails(3, &["file", "--state-dir"]);
    node.assert_untouched();
    assert_eq!(node.read("shared/data"), "theirs");
}

#[test]
fn a_disk_of_its_own_is_taken() {
    let node = Node::with(&["custom.a"]);
    node.folder("disk/lost+found");
    node.set_mode("disk", 0o755);
    node.reconcile(&["--state-dir", "/disk"]).assert(0);
    assert_eq!(node.mode("disk"), 0o700);
    assert!(node.exists("disk/lost+found"));
}

#[test]
fn a_planted_link_leads_no_removal_elsewhere() {
    let node = Node::with(&["custom.a"]);
    node.write("theirs/data", "theirs");
    node.folder("var/lib/armorer");
    node.set_mode("var/lib/armorer", 0o700);
    node.link(node.path("theirs"), "var/lib/armorer/policy");
    node.reconcile(&[]).fails(3, &["policy", "--state-dir"]);
    assert_eq!(node.read("theirs/data"), "theirs");
    node.assert_untouched();
}

#[test]
fn a_second_pass_waits_for_the_first() {
    let node = Node::settled(&["custom.a"]);
    let lock = std::fs::File::open(node.path("var/lib/armorer/lock")).unwrap();
    lock.lock().unwrap();
    let mut command = node.command(&["reconcile", "profiles", "--lock-timeout", "20s"]);
    let pass = std::thread::spawn(move || Run::of(&mut command));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!pass.is_finished());
    drop(lock);
    pass.join().unwrap().assert(0);
}

#[test]
fn a_lock_that_stays_taken_is_exit_3() {
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
            .fails(3, &["another pass held", "200ms", "--lock-timeout"]);
    }
    assert!(start.elapsed() >= Duration::from_millis(600));
    assert_eq!(node.read(STATE), before);
    node.assert_untouched();
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
            node.run(command).fails(
                3,
                &[&node.arg(STATE), "damaged", "move", "nothing was changed"],
            );
        }
        assert_eq!(node.read(STATE), damaged);
        node.assert_untouched();
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
            .fails(3, &[&node.arg(STATE), "schema 2", "newer armorer"]);
    }
    assert_eq!(node.read(STATE), newer);
}

#[test]
fn a_state_folder_that_cannot_be_made_or_written_is_exit_3_before_the_kernel_is_touched() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    node.write("var", "a file");
    node.reconcile(&[])
        .fails(3, &["the state folder", "--state-dir"]);
    node.remove("var");
    // Not even root creates a file there.
    node.folder("var/lib");
    node.link("/proc/self", "var/lib/armorer");
    node.reconcile(&[]).assert(3).line(&["--state-dir"]);
    node.assert_untouched();
}

#[test]
fn a_state_that_cannot_be_saved_stops_the_pass_before_the_kernel_is_touched() {
    let node = Node::settled(&["custom.a"]);
    node.put("custom.b", profile("custom.b"));
    // A file system of one page, which the lock and the old state fill.
    node.folder("full");
    let script = "mount -t tmpfs -o size=16k,mode=700 none full
        cp -a var/lib/armorer/. full 2>/dev/null || true
        head -c 65536 /dev/zero >full/filler 2>/dev/null || true
        exec \"$@\"";
    let pass = ["reconcile", "profiles", "--state-dir", "/full"];
    let mut command = node.under(&["unshare", "--mount", "sh", "-c", script, "sh"], &pass);
    let run = Run::of(&mut command).assert(3);
    run.line(&["the state folder", "full", "No space left"]);
    node.assert_untouched();
    node.reconcile(&[]).assert(1);
    assert_ne!(node.load_written(), b"");
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
    // A pass that looks at everything again and finds nothing records the revision and no more.
    let before = node.set();
    node.load("foreign", "profile foreign {\n}\n");
    node.reconcile(&[]).assert(0);
    let mut after = node.set();
    assert_ne!(
        after["basis"]["kernel_revision"],
        before["basis"]["kernel_revision"]
    );
    after["basis"]["kernel_revision"] = before["basis"]["kernel_revision"].clone();
    assert_eq!(after, before);
}

fn stored(node: &Node) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(node.path("var/lib/armorer/policy")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn stored_policy_that_is_damaged_is_compiled_again() {
    let node = Node::settled(&["custom.a"]);
    for path in stored(&node) {
        if path.extension().is_some_and(|end| end == "policy") {
            std::fs::write(path, "damaged").unwrap();
        }
    }
    node.unload("custom.a");
    node.reconcile(&[])
        .assert(1)
        .line(&["✗ failed", "custom.a", "damaged", "the next pass"]);
    node.assert_untouched();
    node.reconcile(&[]).assert(1);
    assert_eq!(node.load_written(), node.compile(&profile("custom.a"), &[]));
}

#[test]
fn the_policy_folder_holds_only_recorded_files() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    assert_eq!(stored(&node).len(), 4);
    node.write("var/lib/armorer/policy/left.policy.tmp", "x");
    node.take_out("custom.b");
    node.reconcile(&["--remove-after", "0s"]).assert(0);
    assert_eq!(stored(&node).len(), 2);
    // A new version takes the place of the old one.
    let text = profile("custom.a").replace('}', "  deny /srv/new w,\n}");
    node.put_loaded("custom.a", &text);
    node.reconcile(&[]).assert(0);
    assert_eq!(stored(&node).len(), 2);
    // A text that was compiled and then refused is not kept.
    node.put("custom.c", profile("custom.c") + &profile("custom.a"));
    node.reconcile(&[])
        .assert(1)
        .line(&["✗ refused", "custom.c", "custom.a"]);
    assert_eq!(stored(&node).len(), 2);
}

#[test]
fn policy_that_another_set_has_stored_too_is_kept() {
    let node = Node::settled(&["custom.a"]);
    // As if the other set had recorded the same text.
    node.edit_state(|state| {
        let mut other = state["sets"]["default"].clone();
        other["owned"] = serde_json::json!({});
        state["sets"]["other"] = other;
    });
    node.take_out("custom.a");
    node.put_loaded("custom.b", &profile("custom.b"));
    node.reconcile(&["--remove-after", "0s"]).assert(0);
    let state = node.state();
    assert!(state["sets"]["default"]["profiles"]["custom.a"].is_null());
    let record = &state["sets"]["other"]["profiles"]["custom.a"];
    for kind in ["text", "policy"] {
        let digest = record[kind].as_str().unwrap();
        assert!(node.exists(&format!("var/lib/armorer/policy/{digest}.{kind}")));
    }
}

#[test]
fn a_stored_policy_that_is_lost_is_stored_again_by_the_next_pass() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    let lose: [fn(&Node); 2] = [
        |node| node.remove("var/lib/armorer/policy"),
        |node| {
            let digest = node.state()["sets"]["default"]["profiles"]["custom.b"]["policy"].clone();
            let file = format!("{}.policy", digest.as_str().unwrap());
            node.remove(&format!("var/lib/armorer/policy/{file}"));
        },
    ];
    for lose in lose {
        lose(&node);
        node.reconcile(&[]).assert(0);
        node.reboot("another");
        let run = node.run(&["restore"]).assert(1);
        run.line(&["+ load", "custom.a"]);
        run.line(&["+ load", "custom.b"]);
        node.load("custom.a", &profile("custom.a"));
        node.load("custom.b", &profile("custom.b"));
        node.reconcile(&[]).assert(0);
    }
}

#[test]
fn a_restore_loads_the_last_good_versions_of_every_set_after_a_boot() {
    let node = Node::settled(&["custom.a"]);
    node.write("web/custom.w", profile("custom.w"));
    node.load("custom.w", &profile("custom.w"));
    node.run(&["reconcile", "web", "--set", "web"]).assert(0);
    node.reboot("another");
    node.remove("profiles");
    node.remove("web");
    // The folder loads none of it, which the pass sees.
    let run = node
        .run_with(&["restore"], &[("ARMORER_PARSER", "/nowhere")])
        .assert(1);
    for name in ["custom.a", "custom.w"] {
        run.line(&["+ load", name, "not loaded since boot"]);
    }
    node.run(&["restore", "--state-dir", "/none"])
        .assert(0)
        .line(&["nothing to restore"]);
}

#[test]
fn a_fifo_in_the_folder_hangs_no_command() {
    for file in ["state.json", "lock", "status.json"] {
        let node = Node::settled(&["custom.a"]);
        let path = format!("var/lib/armorer/{file}");
        node.remove(&path);
        assert!(
            Command::new("mkfifo")
                .arg(node.path(&path))
                .status()
                .unwrap()
                .success()
        );
        node.beat("one");
        for arguments in [
            &["reconcile", "profiles"][..],
            &["plan", "profiles"],
            &["status"],
            &["status", "--probe", "ready"],
            &["remove", "--all"],
        ] {
            let run = Run::of(&mut node.under(&["timeout", "60"], arguments));
            assert_ne!(run.code(), 124, "{file} {arguments:?} hangs");
        }
    }
}

#[test]
fn a_closed_folder_of_another_program_loses_no_file() {
    let node = Node::with(&["custom.a"]);
    node.write("home/notes.tmp", "theirs");
    node.set_mode("home", 0o700);
    node.reconcile(&["--state-dir", "/home"]).assert(0);
    assert_eq!(node.read("home/notes.tmp"), "theirs");
    node.write("house/policy/data", "theirs");
    node.set_mode("house", 0o700);
    node.reconcile(&["--state-dir", "/house"])
        .fails(3, &["house", "policy", "--state-dir"]);
    assert_eq!(node.read("house/policy/data"), "theirs");
}

//! Where profiles come from, and that a source that cannot be read completely is never taken for an
//! empty one.

use harness::{Node, profile};

/// Lays `files` out as the kubelet does in `volume`, over its contents.
fn publish(node: &Node, volume: &str, generation: u32, files: &[(&str, String)]) {
    let dated = format!("..2026_01_01_00_00_00.{generation}");
    for (name, text) in files {
        node.write(&format!("{volume}/{dated}/{name}"), text);
        if !node.exists(&format!("{volume}/{name}")) {
            node.link(format!("..data/{name}"), &format!("{volume}/{name}"));
        }
    }
    node.folder(&format!("{volume}/{dated}"));
    node.link(&dated, &format!("{volume}/..data_tmp"));
    std::fs::rename(
        node.path(&format!("{volume}/..data_tmp")),
        node.path(&format!("{volume}/..data")),
    )
    .unwrap();
}

/// Of a file that every kernel has and none gives to a reader: this folder's write-only ones.
#[test]
fn a_file_that_cannot_be_read_fails_the_whole_source() {
    let node = Node::settled(&["custom.a"]);
    let run = node.run(&["reconcile", "/sys/bus/cpu", "--take-over", "--allow-empty"]);
    run.fails(3, &["cannot read /sys/bus/cpu/", "all of a source"]);
    node.assert_untouched();
}

#[test]
fn a_tree_is_read_without_dot_files_and_leftovers() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    node.put("deep/er/custom.b", profile("custom.b"));
    for name in [".hidden", "..x", "README", "custom.c~", "custom.d.dpkg-old"] {
        node.put(name, "no");
    }
    let run = node.plan(&[]).assert(0);
    run.line(&["+ load", "custom.a"]);
    run.line(&["+ load", "custom.b"]);
    assert!(run.stdout().ends_with("\n2 to load\n"), "{run}");
}

#[test]
fn a_config_map_is_read_through_its_links() {
    let node = Node::new();
    let text = profile("custom.a");
    publish(&node, "volume", 1, &[("custom.a", text.clone())]);
    node.load("custom.a", &text);
    node.run(&["reconcile", "volume"]).assert(0);
    publish(
        &node,
        "volume",
        2,
        &[
            ("custom.a", text.clone()),
            ("custom.b", profile("custom.b")),
        ],
    );
    let run = node.run(&["plan", "volume"]).assert(0);
    run.line(&["+ load", "custom.b"]);
    assert!(run.stdout().ends_with("\n1 to load\n"), "{run}");
    // Keys that are only in the old folder count no more, though their links still hang there.
    publish(&node, "volume", 3, &[("custom.a", text)]);
    node.run(&["plan", "volume"])
        .assert(0)
        .prints(&["nothing to do"]);
}

#[test]
fn a_config_map_half_gone_removes_nothing() {
    let node = Node::new();
    let text = profile("custom.a");
    publish(&node, "volume", 1, &[("custom.a", text.clone())]);
    node.load("custom.a", &text);
    node.run(&["reconcile", "volume"]).assert(0);
    let before = node.read("var/lib/armorer/state.json");
    node.remove("volume/..2026_01_01_00_00_00.1");
    let pass = ["reconcile", "volume", "--remove-after", "0s"];
    let words = ["volume/..data", "..2026_01_01_00_00_00.1", "does not exist"];
    node.run(&pass).fails(3, &words);
    node.remove("volume/..data");
    // No volume any more, and its links lead nowhere: the file is refused, and its profile stays.
    node.run(&pass)
        .assert(1)
        .line(&["✗ refused", "custom.a", "link"]);
    node.assert_untouched();
    assert!(before.contains("custom.a"));
}

#[test]
fn a_missing_source_is_an_error() {
    let node = Node::settled(&["custom.a"]);
    let before = node.read("var/lib/armorer/state.json");
    let gone = node.arg("gone");
    node.run(&["reconcile", &gone, "--allow-empty", "--take-over"])
        .fails(3, &["gone does not exist", "create or mount it"]);
    std::fs::rename(node.path("profiles"), node.path("gone")).unwrap();
    node.reconcile(&["--allow-empty", "--remove-after", "0s"])
        .fails(3, &["profiles does not exist"]);
    // One of several is enough.
    node.run(&["plan", &gone, &node.source()])
        .fails(3, &["profiles does not exist"]);
    assert_eq!(node.removed(), "");
    assert_eq!(node.read("var/lib/armorer/state.json"), before);
    assert_eq!(node.status()["last_pass"]["ready"], false);
}

#[test]
fn a_source_that_is_no_readable_folder_or_file_is_an_error() {
    let node = Node::settled(&["custom.a"]);
    // Even root cannot read it from its start.
    node.run(&["plan", "/proc/self/mem"])
        .fails(3, &["cannot read /proc/self/mem"]);
    node.run(&["plan", "/dev/null"]).fails(3, &["is a device"]);
    node.folder("volume");
    node.link("/etc", "volume/..data");
    node.run(&["plan", "volume"])
        .fails(3, &["..data", "ConfigMap volume"]);
}

#[test]
fn a_file_that_this_user_may_not_read_makes_the_source_unread() {
    let node = Node::settled(&["custom.a"]);
    node.put("custom.b", profile("custom.b"));
    let path = node.path("profiles/custom.b");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o0);
    std::fs::set_permissions(&path, mode).unwrap();
    // Root may read it all the same.
    if std::fs::read(&path).is_ok() {
        node.plan(&[]).assert(0);
    } else {
        node.plan(&[]).fails(3, &["custom.b", "Permission denied"]);
    }
}

#[test]
fn an_empty_source_removes_nothing_until_it_may() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    node.take_out("custom.a");
    node.take_out("custom.b");
    let run = node.reconcile(&["--remove-after", "0s"]).assert(1);
    for name in ["custom.a", "custom.b"] {
        run.line(&["! blocked", name, "its source is empty", "--allow-empty"]);
    }
    node.assert_untouched();
    node.reconcile(&["--remove-after", "0s", "--allow-empty"])
        .assert(0);
    assert!(node.removed().starts_with("custom."));
    assert_eq!(node.set()["owned"], serde_json::json!({}));
}

#[test]
fn one_of_several_sources_that_is_empty_removes_nothing_of_its_own() {
    let node = Node::with(&["custom.a"]);
    node.write("more/custom.b", profile("custom.b"));
    node.load("custom.b", &profile("custom.b"));
    let both = [&node.source(), "more", "--remove-after", "0s"];
    let pass = [&["reconcile"], &both[..]].concat();
    node.run(&pass).assert(0);
    node.remove("more/custom.b");
    let run = node.run(&pass).assert(1);
    run.line(&["! blocked", "custom.b", "its source is empty"]);
    node.write("more/custom.c", profile("custom.c"));
    node.load("custom.c", &profile("custom.c"));
    node.run(&pass).assert(0);
    assert_eq!(node.removed(), "custom.b");
}

#[test]
fn sources_add_up_and_one_profile_from_two_is_an_error_that_names_both() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    node.write("more/custom.b", profile("custom.b"));
    let (one, two) = (node.source(), node.arg("more"));
    let run = node.run(&["plan", &one, &two]).assert(0);
    assert!(run.stdout().ends_with("2 to load\n"), "{run}");
    node.write("more/custom.a", profile("custom.a"));
    let run = node.run(&["plan", &one, &two]).assert(1);
    run.line(&["✗ refused", "custom.a", &one, &two, "keep one"]);
    assert!(run.stdout().ends_with("1 to load, 1 refused\n"), "{run}");
}

#[test]
fn another_list_of_sources_removes_nothing_until_it_may() {
    let node = Node::settled(&["custom.a"]);
    node.write("other/custom.b", profile("custom.b"));
    node.load("custom.b", &profile("custom.b"));
    let other = ["reconcile", "other", "--remove-after", "0s"];
    let run = node.run(&other).assert(1);
    run.line(&["! blocked", "custom.a", &node.source(), "--take-over"]);
    assert_eq!(node.removed(), "");
    node.run(&[&other[..], &["--take-over"]].concat()).assert(0);
    assert_eq!(node.removed(), "custom.a");
}

/// Two folders of one name, from which each pass is started.
#[test]
fn a_relative_source_is_recorded_as_the_folder_that_it_is() {
    let node = Node::new();
    for (folder, name) in [("one", "custom.a"), ("two", "custom.b")] {
        node.write(&format!("{folder}/profiles/{name}"), profile(name));
        node.load(name, &profile(name));
    }
    let pass = |folder: &str| {
        let mut command = node.command(&["reconcile", "profiles", "--remove-after", "0s"]);
        harness::Run::of(command.current_dir(node.path(folder)))
    };
    pass("one").assert(0);
    assert_eq!(
        node.set()["sources"],
        serde_json::json!([node.arg("one/profiles")])
    );
    pass("two")
        .assert(1)
        .line(&["! blocked", "custom.a", "one/profiles", "--take-over"]);
    assert_eq!(node.removed(), "");
}

#[test]
fn places_may_be_given_relative_to_the_working_folder() {
    let node = Node::with(&["custom.a"]);
    std::fs::copy(harness::parser(), node.path("parser")).unwrap();
    let mut command = harness::armorer(&[
        "reconcile",
        "../profiles",
        "--root",
        "..",
        "--base",
        "../base",
    ]);
    command
        .args(["--parser", "../parser"])
        .current_dir(node.path("sys"));
    harness::Run::of(&mut command).assert(0);
    assert_eq!(node.set()["profiles"].as_object().unwrap().len(), 1);
    // Without a root, the mounts too.
    let mut command = harness::armorer(&["reconcile", "profiles", "--base", "base"]);
    command.args([
        "--securityfs",
        "sys/kernel/security",
        "--proc",
        "proc",
        "--state-dir",
        "state",
    ]);
    harness::Run::of(command.current_dir(node.path(""))).assert(0);
    assert!(node.exists("state/state.json"));
}

#[test]
fn more_than_the_limits_is_an_error_and_removes_nothing() {
    let node = Node::settled(&["custom.a"]);
    for n in 0..5 {
        node.put(&format!("custom.{n}"), "x");
    }
    node.plan(&["--max-profiles", "5"])
        .fails(3, &["5 profiles", "--max-profiles"]);
    node.remove("profiles");
    node.put(&format!("{}custom.a", "d/".repeat(20)), profile("custom.a"));
    node.plan(&[]).fails(3, &["folders deep"]);
}

#[test]
fn one_file_is_a_source_too() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    let run = node
        .run(&["plan", &node.arg("profiles/custom.a")])
        .assert(0);
    run.line(&["+ load", "custom.a"]);
}

#[test]
fn the_source_may_be_named_by_a_variable() {
    let node = Node::with(&["custom.a"]);
    let profiles = node.source();
    node.run_with(&["plan"], &[("PROFILES_DIR", &profiles)])
        .assert(0);
    node.run_with(&["plan", &profiles], &[("PROFILES_DIR", "/nowhere")])
        .assert(0);
}

/// The guest's test of the same name asks a real kernel, with fewer seeds.
#[test]
fn a_mount_swapped_while_it_is_read_never_loses_a_desired_profile() {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    const SEEDS: u64 = 300;
    let node = Node::new();
    let names = ["custom.a", "custom.b", "custom.c", "custom.d"];
    let files: Vec<(&str, String)> = names.iter().map(|name| (*name, profile(name))).collect();
    for (name, text) in &files {
        node.load(name, text);
    }
    let generation = AtomicU32::new(1);
    // Exchanges that were done before the pass was over: how fast either is decides nothing else.
    let met = AtomicU32::new(0);
    let mut whole = 0;
    publish(&node, "volume", 1, &files);
    let pass = ["reconcile", "volume", "--remove-after", "0s"];
    node.run(&pass).assert(0);
    let before = node.read("var/lib/armorer/state.json");
    for seed in 0..SEEDS {
        let over = AtomicBool::new(false);
        let run = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Another rhythm for each seed; a folder that never rests is given up.
                let pause =
                    || std::thread::sleep(std::time::Duration::from_micros(seed * 37 % 900));
                for _ in 0..seed % 12 {
                    let old = generation.fetch_add(1, Ordering::Relaxed);
                    publish(&node, "volume", old + 1, &files);
                    met.fetch_add(u32::from(!over.load(Ordering::Relaxed)), Ordering::Relaxed);
                    pause();
                    let old = format!("volume/..2026_01_01_00_00_00.{old}");
                    for name in names {
                        std::fs::remove_file(node.path(&format!("{old}/{name}"))).unwrap();
                        pause();
                    }
                    std::fs::remove_dir(node.path(&old)).unwrap();
                }
            });
            let run = node.run(&pass);
            over.store(true, Ordering::Relaxed);
            run
        });
        assert!(
            [0, 3].contains(&run.code()),
            "seed {seed}: exit {}: {}",
            run.code(),
            run.stderr()
        );
        whole += u64::from(run.code() == 0);
        assert_eq!(node.removed(), "", "seed {seed}: {}", run.stderr());
        assert_eq!(
            node.read("var/lib/armorer/state.json"),
            before,
            "seed {seed}: {}",
            run.stderr()
        );
    }
    let met = u64::from(met.into_inner());
    println!("{met} exchanges met a pass; {whole} of {SEEDS} read the folder whole");
    assert!(met > SEEDS / 2, "hardly ever swapped: {met} times");
    assert!(whole > SEEDS / 2, "hardly ever read: {whole} times");
}

//! Where profiles come from, and that what cannot be read wholly is never an empty wish.

use crate::node::{Node, profile};

/// Lays `files` out as the kubelet does in `volume`, over what was there.
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

#[test]
fn a_tree_is_read_without_dot_files_and_leftovers() {
    let node = Node::new();
    node.want("custom.a", profile("custom.a"));
    node.want("deep/er/custom.b", profile("custom.b"));
    for name in [".hidden", "..x", "README", "custom.c~", "custom.d.dpkg-old"] {
        node.want(name, "no");
    }
    let run = node.plan(&[]).assert(0);
    assert_eq!(
        run.stdout(),
        "+ load      custom.a: new\n+ load      custom.b: new\n2 to load\n"
    );
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
    assert_eq!(run.stdout(), "+ load      custom.b: new\n1 to load\n");
    // Keys that are only in the old folder count no more, though their links still hang there.
    publish(&node, "volume", 3, &[("custom.a", text)]);
    node.run(&["plan", "volume"])
        .assert(0)
        .prints(&["nothing to do"]);
}

#[test]
fn a_config_map_half_gone_is_no_empty_wish() {
    let node = Node::new();
    let text = profile("custom.a");
    publish(&node, "volume", 1, &[("custom.a", text.clone())]);
    node.load("custom.a", &text);
    node.run(&["reconcile", "volume"]).assert(0);
    let before = node.read("var/lib/armorer/state.json");
    node.remove("volume/..2026_01_01_00_00_00.1");
    let pass = ["reconcile", "volume", "--remove-after", "0s"];
    let dated = "volume/..data leads to ..2026_01_01_00_00_00.1, which is not there";
    node.run(&pass).fails(3, &[dated, "next pass"]);
    node.remove("volume/..data");
    let link = "volume/custom.a leads to ..data, which is not there";
    node.run(&pass).fails(3, &[link, "next pass"]);
    assert_eq!(node.removed(), "");
    assert_eq!(node.read("var/lib/armorer/state.json"), before);
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
    node.run(&["plan", &gone, &node.profiles()])
        .fails(3, &["profiles does not exist"]);
    assert_eq!(node.removed(), "");
    assert_eq!(node.read("var/lib/armorer/state.json"), before);
    let heartbeat = node.read("var/lib/armorer/heartbeat");
    assert!(heartbeat.contains("\"ready\":false"), "{heartbeat}");
}

#[test]
fn what_cannot_be_read_makes_the_source_unread() {
    let node = Node::settled(&["custom.a"]);
    // Even root cannot read it from its start.
    node.run(&["plan", "/proc/self/mem"])
        .fails(3, &["cannot read /proc/self/mem"]);
    node.run(&["plan", "/dev/null"]).fails(3, &["is a device"]);
    node.folder("volume");
    node.link("/etc", "volume/..data");
    node.run(&["plan", "volume"])
        .fails(3, &["which is no folder of a ConfigMap volume"]);
}

#[test]
fn a_file_that_others_may_not_read_makes_the_source_unread() {
    let node = Node::settled(&["custom.a"]);
    node.want("custom.b", profile("custom.b"));
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
    node.remove("profiles/custom.a");
    node.remove("profiles/custom.b");
    let run = node.reconcile(&["--remove-after", "0s"]).assert(1);
    for name in ["custom.a", "custom.b"] {
        let line = format!(
            "! kept      {name}: its source is empty: --allow-empty lets an empty source remove it"
        );
        assert!(run.stderr().contains(&line), "{run}");
    }
    assert_eq!(node.removed(), "");
    node.reconcile(&["--remove-after", "0s", "--allow-empty"])
        .assert(0);
    assert!(node.removed().starts_with("custom."));
    assert!(
        node.state()["sets"]["default"]["owned"]
            .as_object()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn an_empty_source_is_fine_where_nothing_is_owned() {
    let node = Node::new();
    node.reconcile(&[]).assert(0);
    node.plan(&[]).assert(0).prints(&["nothing to do"]);
}

#[test]
fn one_of_several_sources_that_is_empty_removes_nothing_of_its_own() {
    let node = Node::with(&["custom.a"]);
    node.write("more/custom.b", profile("custom.b"));
    node.load("custom.b", &profile("custom.b"));
    let both = [&node.profiles(), "more", "--remove-after", "0s"];
    let pass = [&["reconcile"], &both[..]].concat();
    node.run(&pass).assert(0);
    node.remove("more/custom.b");
    let run = node.run(&pass).assert(1);
    assert!(
        run.stderr().contains("custom.b: its source is empty"),
        "{run}"
    );
    node.write("more/custom.c", profile("custom.c"));
    node.load("custom.c", &profile("custom.c"));
    node.run(&pass).assert(0);
    assert_eq!(node.removed(), "custom.b");
}

#[test]
fn sources_add_up_and_one_profile_from_two_is_an_error_that_names_both() {
    let node = Node::new();
    node.want("custom.a", profile("custom.a"));
    node.write("more/custom.b", profile("custom.b"));
    let (one, two) = (node.profiles(), node.arg("more"));
    let run = node.run(&["plan", &one, &two]).assert(0);
    assert!(run.stdout().ends_with("2 to load\n"), "{run}");
    node.write("more/custom.a", profile("custom.a"));
    let run = node.run(&["plan", &one, &two]).assert(1);
    let line = format!("✗ refused   custom.a is wanted twice, by {one} and {two}: keep one\n");
    assert!(run.stdout().contains(&line), "{run}");
    assert!(run.stdout().ends_with("1 to load, 1 refused\n"), "{run}");
}

#[test]
fn another_list_of_sources_removes_nothing_until_it_may() {
    let node = Node::settled(&["custom.a"]);
    node.write("other/custom.b", profile("custom.b"));
    node.load("custom.b", &profile("custom.b"));
    let other = ["reconcile", "other", "--remove-after", "0s"];
    let run = node.run(&other).assert(1);
    let line = format!(
        "! kept      custom.a: the sources were {} before: --take-over lets the new list remove it",
        node.profiles()
    );
    assert!(run.stderr().contains(&line), "{run}");
    assert_eq!(node.removed(), "");
    node.run(&[&other[..], &["--take-over"]].concat()).assert(0);
    assert_eq!(node.removed(), "custom.a");
}

#[test]
fn too_much_is_no_empty_wish() {
    let node = Node::settled(&["custom.a"]);
    for n in 0..5 {
        node.want(&format!("custom.{n}"), "x");
    }
    node.plan(&["--max-profiles", "5"])
        .fails(3, &["more than 5 profiles", "--max-profiles"]);
    node.remove("profiles");
    node.want(&format!("{}custom.a", "d/".repeat(20)), profile("custom.a"));
    node.plan(&[]).fails(3, &["folders deep"]);
}

#[test]
fn one_file_is_a_source_too() {
    let node = Node::new();
    node.want("custom.a", profile("custom.a"));
    node.run(&["plan", &node.arg("profiles/custom.a")])
        .assert(0)
        .prints(&["+ load      custom.a: new", "1 to load"]);
}

#[test]
fn the_source_may_be_named_by_a_variable() {
    let node = Node::with(&["custom.a"]);
    let profiles = node.profiles();
    node.run_with(&["plan"], &[("PROFILES_DIR", &profiles)])
        .assert(0);
    node.run_with(&["plan", &profiles], &[("PROFILES_DIR", "/nowhere")])
        .assert(0);
}

/// The guest's test of the same name asks a real kernel, with fewer seeds.
#[test]
fn a_mount_swapped_while_it_is_read_never_loses_a_wanted_profile() {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    const SEEDS: u64 = 1000;
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

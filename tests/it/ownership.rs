//! Only a set's own profiles are touched: sets, boots, claims of killed passes, other programs' policy.

use harness::{Background, Node, deeds, profile, sha256, until};
use serde_json::json;

const THEIRS: &str = "profile custom.a {\n  deny /theirs w,\n}\n";
/// A new version of ours.
const OURS: &str = "profile custom.a {\n  deny /ours w,\n}\n";
const NOW: [&str; 2] = ["--remove-after", "0s"];

#[test]
fn a_loaded_profile_of_another_program_is_a_conflict_and_stays() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    node.load("custom.a", THEIRS);
    let run = node.reconcile(&[]).assert(1);
    run.line(&["! conflict", "custom.a", "--adopt 'custom.a'"]);
    // Nor is it removed, desired or not.
    node.take_out("custom.a");
    node.reconcile(&[&NOW[..], &["--allow-empty", "--take-over"]].concat())
        .assert(0);
    node.assert_untouched();
}

#[test]
fn profiles_are_taken_over_by_pattern() {
    let node = Node::new();
    for name in ["custom.a", "custom.b", "custom.c"] {
        node.put(name, profile(name));
        node.load(name, &format!("profile {name} {{\n}}\n"));
    }
    let patterns = [
        "--adopt",
        "custom.a",
        "--adopt",
        "custom.[b]",
        "--adopt",
        "*.c",
    ];
    let run = node.plan(&patterns).assert(1);
    run.line(&["~ replace", "custom.a", "--adopt"]);
    run.line(&["! conflict", "custom.b"]);
    run.line(&["~ replace", "custom.c"]);
}

#[test]
fn a_new_boot_ends_ownership() {
    let node = Node::settled(&["custom.a"]);
    node.write("proc/sys/kernel/random/boot_id", "another\n");
    node.reconcile(&[]).assert(0).line(&["= own", "custom.a"]);
    node.write("proc/sys/kernel/random/boot_id", "yet another\n");
    node.load("custom.a", THEIRS);
    node.reconcile(&[])
        .assert(1)
        .line(&["! conflict", "custom.a"]);
    node.assert_untouched();
}

#[test]
fn two_sets_do_not_touch_each_other() {
    let node = Node::settled(&["custom.a"]);
    node.write("web/custom.a", profile("custom.a"));
    node.write("web/custom.w", profile("custom.w"));
    node.load("custom.w", &profile("custom.w"));
    let web = [&["reconcile", "web", "--set", "web"], &NOW[..]].concat();
    node.run(&web)
        .assert(1)
        .line(&["! conflict", "custom.a", "the set default"]);
    node.remove("web/custom.a");
    node.run(&web).assert(0);
    assert!(node.exists("var/lib/armorer/status-web.json"));
    node.take_out("custom.a");
    node.put_loaded("custom.b", &profile("custom.b"));
    node.reconcile(&NOW).assert(0);
    assert_eq!(node.removed(), "custom.a");
}

/// Ownership is the state's: of two with equal texts, both own, and each repairs the other's changes.
#[test]
fn two_state_folders_own_a_profile_of_equal_contents_both() {
    let node = Node::settled(&["custom.a"]);
    let second = ["--state-dir", "/second"];
    node.reconcile(&second)
        .assert(0)
        .line(&["= own", "custom.a", "desired contents"]);
    node.assert_untouched();
    node.unload("custom.a");
    node.plan(&[])
        .assert(0)
        .line(&["+ load", "custom.a", "another program"]);
}

/// The state after a pass that was killed before its write.
fn claim(node: &Node, name: &str, kind: &str) {
    let policy = sha256(node.compile(&profile(name), &[]));
    node.edit_state(|state| {
        state["sets"]["default"]["owned"][name] =
            json!({"profile": name, "policy": policy, "pending": {kind: policy}});
    });
    node.write("sys/kernel/security/apparmor/revision", "999\n");
}

#[test]
fn the_claim_of_a_killed_pass_owns_nothing_that_another_program_loaded_since() {
    let node = Node::settled(&["custom.b"]);
    node.put("custom.a", profile("custom.a"));
    claim(&node, "custom.a", "load");
    node.load("custom.a", THEIRS);
    let run = node.reconcile(&[]).assert(1);
    run.line(&["! conflict", "custom.a"]);
    // Of a name that was owned before, another program's change is left alone once it is unwanted.
    node.take_out("custom.a");
    for kind in ["load", "replace"] {
        claim(&node, "custom.a", kind);
        node.reconcile(&[&NOW[..], &["--take-over"]].concat())
            .assert(0);
        node.assert_untouched();
    }
}

#[test]
fn the_claim_of_a_killed_pass_owns_the_profiles_that_it_loaded() {
    let node = Node::settled(&["custom.b"]);
    claim(&node, "custom.a", "load");
    node.load("custom.a", &profile("custom.a"));
    node.reconcile(&NOW).assert(0);
    assert_eq!(node.removed(), "custom.a");
}

#[test]
fn an_unwanted_profile_that_another_program_replaced_is_not_removed() {
    let node = Node::settled(&["custom.a", "custom.b"]);
    node.take_out("custom.a");
    node.reconcile(&[])
        .assert(0)
        .line(&["… deferred", "custom.a"]);
    node.load("custom.a", THEIRS);
    node.reconcile(&NOW).assert(0);
    node.assert_untouched();
    assert!(node.set()["owned"]["custom.a"].is_null());
}

/// A pass over custom.a, as it is when its compiler has been started.
fn compiling(node: &Node) -> Background {
    let parser = node.stand_in();
    node.put("custom.a", deeds("custom.a", &["await go", "copy ours"]));
    node.write("base/ours", node.compile(OURS, &[]));
    let mut command = node.command(&["reconcile", "profiles", "--parser", &parser]);
    let pass = Background::start(command.stderr(std::fs::File::create(node.path("log")).unwrap()));
    until("the compiler runs", || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines
            .into_iter()
            .any(|line| line.starts_with(parser.as_bytes()))
    });
    pass
}

/// Lets the compiler end, and returns the pass' exit code and log.
fn ended(node: &Node, mut pass: Background) -> (i32, String) {
    node.write("base/go", "");
    let code = pass.0.wait().unwrap().code().unwrap();
    (code, node.read("log"))
}

#[test]
fn a_name_that_was_not_loaded_when_the_pass_looked_is_never_replaced() {
    let node = Node::new();
    let pass = compiling(&node);
    node.load("custom.a", THEIRS);
    let (code, log) = ended(&node, pass);
    // A kernel answers this write with EEXIST.
    assert_eq!(node.load_written(), node.compile(OURS, &[]), "{log}");
    assert_eq!(node.replace_written(), b"");
    assert_eq!(code, 1, "{log}");
}

#[test]
fn a_profile_that_another_program_changes_while_its_text_compiles_is_not_replaced() {
    let node = Node::settled(&["custom.a"]);
    let pass = compiling(&node);
    node.load("custom.a", THEIRS);
    let (code, log) = ended(&node, pass);
    node.assert_untouched();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("another program while this pass ran"), "{log}");
}

#[test]
fn a_new_child_that_another_program_loads_while_its_text_compiles_is_not_replaced() {
    let node = Node::settled(&["custom.a"]);
    let both = format!("{}{}", profile("custom.a"), profile("custom.more"));
    let pass = compiling(&node);
    node.write("base/ours", node.compile(&both, &[]));
    node.load("custom.more", "profile custom.more {\n}\n");
    let (code, log) = ended(&node, pass);
    node.assert_untouched();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("custom.more was changed"), "{log}");
}

#[test]
fn a_first_pass_that_was_killed_leaves_its_sources_recorded() {
    let node = Node::new();
    let parser = node.stand_in();
    node.put("custom.a", deeds("custom.a", &["copy a"]));
    node.put("custom.b", deeds("custom.b", &["await go"]));
    let policy = node.compile("profile custom.a {\n}\n", &[]);
    node.write("base/a", &policy);
    let mut pass =
        Background::start(&mut node.command(&["reconcile", "profiles", "--parser", &parser]));
    until("custom.a is written", || !node.load_written().is_empty());
    pass.0.kill().unwrap();
    pass.0.wait().unwrap();
    node.load_all(&[("custom.a", "enforce")], &policy);
    // Less is desired by now.
    node.take_out("custom.a");
    node.put("custom.b", "profile custom.b {\n}\n");
    node.load("custom.b", "profile custom.b {\n}\n");
    node.reconcile(&NOW).assert(0);
    assert_eq!(node.removed(), "custom.a");
}

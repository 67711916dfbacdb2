//! Includes of a file that the compiler cannot read: it would pass over them, and so weaken the profile.

use harness::Node;

/// custom.a, which includes local/x where it exists, and is loaded without it.
fn node() -> Node {
    let node = Node::new();
    node.put_loaded(
        "custom.a",
        "profile custom.a {\n  include if exists <local/x>\n}\n",
    );
    node.put_loaded("custom.good", "profile custom.good {\n}\n");
    node.reconcile(&[]).assert(0);
    node
}

#[track_caller]
fn assert_refused(node: &Node, words: &[&str]) {
    let run = node.plan(&[]).assert(1);
    run.line(
        &[
            &["✗ refused", "custom.a", "line 2:", "local/x", "cannot read"],
            words,
        ]
        .concat(),
    );
    assert!(run.stdout().ends_with("\n1 refused\n"), "{run}");
}

#[test]
fn a_file_that_is_closed_after_it_was_compiled_is_noticed() {
    let node = Node::new();
    node.write("base/local/x", "deny /srv/** w,\n");
    node.put_loaded(
        "custom.a",
        "profile custom.a {\n  include if exists <local/x>\n}\n",
    );
    node.reconcile(&[]).assert(0);
    node.set_mode("base/local/x", 0o600);
    assert_refused(&node, &[]);
    // The last good version stays.
    node.reconcile(&[])
        .assert(1)
        .line(&["1 profile in force", "custom.a refused"]);
    node.assert_untouched();
}

#[test]
fn a_file_that_an_abstraction_includes_counts_too() {
    let node = Node::new();
    node.write(
        "base/abstractions/more",
        "include if exists <abstractions/more.d>\n",
    );
    node.write("base/abstractions/more.d/site", "deny /srv/** w,\n");
    node.put(
        "custom.a",
        "profile custom.a {\n  include <abstractions/more>\n}\n",
    );
    node.put("custom.good", "profile custom.good {\n}\n");
    node.set_mode("base/abstractions/more.d/site", 0o600);
    let run = node.plan(&[]).assert(1);
    run.line(&[
        "✗ refused",
        "custom.a",
        "line 2:",
        "abstractions/more.d/site",
    ]);
    run.line(&["+ load", "custom.good"]);
}

#[test]
fn a_file_that_others_may_not_read_is_refused_and_accepted_once_they_may() {
    let node = node();
    node.write("base/local/x", "deny /srv/** w,\n");
    node.set_mode("base/local/x", 0o600);
    assert_refused(&node, &["readable for all users"]);
    node.set_mode("base/local/x", 0o644);
    let run = node.plan(&[]).assert(0);
    run.line(&["~ replace", "custom.a", "changed"]);
}

#[test]
fn a_folder_that_others_may_not_list_or_enter_is_refused() {
    let node = node();
    node.write("base/local/x/part", "deny /srv/** w,\n");
    node.set_mode("base/local/x", 0o700);
    assert_refused(&node, &[]);
    node.set_mode("base/local/x", 0o755);
    node.plan(&[]).assert(0).line(&["~ replace", "custom.a"]);
    node.set_mode("base/local", 0o700);
    assert_refused(&node, &[]);
}

#[test]
fn a_link_out_of_the_base_folder_is_refused() {
    let node = node();
    node.write("elsewhere", "deny /srv/** w,\n");
    node.folder("base/local");
    node.link("../../elsewhere", "base/local/x");
    assert_refused(&node, &["outside the base folder"]);
}

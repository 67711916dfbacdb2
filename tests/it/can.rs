//! `can`: a profile's permissions, by its compiled policy. That the kernel answers alike is tested on one
//! (tests/guest).

use harness::{Node, Run};

const TEXT: &str = "profile custom.a {
  /etc/hosts r,
  owner /home/** rw,
  /bin/* ix,
  /bin/tool cx -> tool,
  deny /etc/passwd w,
  capability net_admin,
  signal (receive) set=(term) peer=runc,

  profile tool {
    /tool r,
  }
}
";

fn node() -> Node {
    let node = Node::new();
    node.write("custom.a", TEXT);
    node
}

fn can(node: &Node, words: &str) -> Run {
    let mut arguments = vec!["can"];
    arguments.extend(words.split(' '));
    node.run(&arguments)
}

#[test]
fn an_answer_is_a_line_and_an_exit_code() {
    let node = node();
    for (words, code, answer) in [
        ("custom.a read /etc/hosts", 0, "allowed"),
        ("custom.a write /etc/hosts", 1, "denied"),
        ("custom.a write /etc/passwd", 1, "denied by a deny rule"),
        ("custom.a read /home/x", 1, "denied"),
        ("--owner custom.a read /home/x", 0, "allowed"),
        (
            "custom.a exec /bin/sh",
            0,
            "allowed by ix: under the same profile",
        ),
        ("custom.a capability net_admin", 0, "allowed"),
        ("custom.a capability sys_admin", 1, "denied"),
        ("custom.a signal receive term runc", 0, "allowed"),
        ("custom.a signal receive kill runc", 1, "denied"),
        ("custom.a#tool read /tool", 0, "allowed"),
        ("custom.a#tool read /etc/hosts", 1, "denied"),
    ] {
        can(&node, words).assert(code).prints(&[answer]);
    }
    let run = can(&node, "custom.a exec /bin/tool").assert(0);
    run.line(&["allowed", "custom.a//tool", "if such a profile is loaded"]);
}

/// The kernel of this node has no class for user namespaces.
#[test]
fn a_class_that_the_features_lack_is_not_mediated() {
    let node = node();
    can(&node, "custom.a userns")
        .assert(0)
        .line(&["not mediated", "features"]);
    node.write("list", "allow userns\ndeny userns\n");
    let run = node.run(&["can", "custom.a", "--expect", "list"]).assert(1);
    run.line(&["list:2: error: deny userns: not mediated"]);
    run.lacks("list:1");
}

#[test]
fn a_list_of_expected_answers_names_each_line_that_differs() {
    let node = node();
    node.write(
        "list",
        "# unit tests\nallow read /etc/hosts\n\ndeny write /etc/passwd\nallow owner read /home/x # own\n",
    );
    let asked = ["can", "custom.a", "--expect", "list"];
    node.run(&asked).assert(0).prints(&["3 expected, 0 failed"]);
    node.write("list", "allow read /etc/hosts\nallow write /etc/hosts\n");
    let run = node.run(&asked).assert(1);
    run.line(&["list:2: error: allow write /etc/hosts: denied"]);
    run.line(&["2 expected, 1 failed"]);
    run.lacks("list:1");
    node.write("list", "allow read /etc/hosts\nallow reed /etc/hosts\n");
    node.run(&asked).fails(2, &["list:2", "reed", "read PATH"]);
    node.write("list", "# nothing yet\n");
    node.run(&asked).fails(2, &["list", "expects nothing"]);
    let endless = ["can", "custom.a", "--expect", "/dev/zero"];
    node.run(&endless).fails(3, &["/dev/zero", "1048576 bytes"]);
}

#[test]
fn a_name_stands_for_the_policy_that_was_loaded() {
    let node = Node::settled(&["custom.b"]);
    can(&node, "custom.b read /etc/hosts").assert(0);
    can(&node, "custom.c read /etc/hosts").fails(2, &["custom.c", "neither a file", "state"]);
    can(&node, "custom.b#kid read /x").fails(2, &["custom.b", "append #"]);
}

#[test]
fn a_wrong_question_is_one_line_that_names_the_nearest() {
    let node = node();
    for (words, expected) in [
        ("custom.a wirte /x", vec!["wirte", "write PATH"]),
        ("custom.a read hosts", vec!["hosts", "begins with /"]),
        (
            "custom.a capability net_admim",
            vec!["net_admim", "net_admin"],
        ),
        ("custom.a", vec!["question", "--expect"]),
        ("custom.a read /etc//hosts", vec!["/etc//hosts", "resolved"]),
        ("custom.a write /etc/./passwd", vec!["resolved path"]),
        ("custom.a owner exec /etc/../bin/sh", vec!["resolved path"]),
        ("custom.a link /a /b/..", vec!["resolved path"]),
    ] {
        can(&node, words).fails(2, &expected);
    }
    node.write("bad", "profile bad {\n  /x\n}\n");
    can(&node, "bad read /x").fails(3, &["bad: line 2", "comma"]);
}

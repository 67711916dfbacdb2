//! The uninstall overlay's script on a node, in busybox' shell as in the image.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use harness::{Background, Node, binary, profile, until};

const LEFT: &str = "run/armorer/left";

/// A running uninstall.
struct Uninstall<'a> {
    node: &'a Node,
    process: Background,
}

impl<'a> Uninstall<'a> {
    /// Needs the package busybox-static.
    fn start(node: &'a Node, poll_time: &str, env: &[(&str, &str)]) -> Self {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("kustomize/overlays/uninstall/uninstall");
        node.folder("run/armorer");
        let path = format!("{}:/usr/bin:/bin", binary().parent().unwrap().display());
        let mut command = Command::new("busybox");
        command
            .arg("sh")
            .arg(script)
            .env_clear()
            .env("PATH", path)
            .env("ARMORER_ROOT", node.path(""))
            .env("ARMORER_REMOVE_AFTER", "0s")
            .env("POLL_TIME", poll_time)
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(File::create(node.path("log")).unwrap());
        Self {
            node,
            process: Background::start(&mut command),
        }
    }

    fn log(&self) -> String {
        self.node.read("log")
    }

    fn left(&self) -> Option<String> {
        fs::read_to_string(self.node.path(LEFT)).ok()
    }

    #[track_caller]
    fn until(&self, purpose: &str, holds: impl Fn(&Self) -> bool) {
        let state = format!("{purpose}\nleft: {:?}\n{}", self.left(), self.log());
        until(&state, || holds(self));
    }
}

#[test]
fn every_set_is_removed_and_a_profile_in_use_waits() {
    let node = Node::settled(&["custom.a"]);
    node.write("other/custom.b", profile("custom.b"));
    node.load("custom.b", &profile("custom.b"));
    node.run(&["reconcile", "other", "--set", "canary"])
        .assert(0);
    node.process(7, "web", "custom.b (enforce)");

    let uninstall = Uninstall::start(&node, "1", &[]);
    uninstall.until("the default set's profile is removed", |_| {
        node.removed().contains("custom.a")
    });
    uninstall.until("the set that is left is named", |uninstall| {
        uninstall.left().is_some_and(|left| left.contains("canary"))
    });
    let left = uninstall.left().unwrap();
    for words in ["custom.b", "in use by 1 process (7 web)"] {
        assert!(left.contains(words), "{left}");
        uninstall.until("the log says it", |uninstall| {
            uninstall.log().contains(words)
        });
    }
    assert!(!left.contains("default"), "{left}");
    assert!(left.starts_with("set canary: "), "{left}");
    assert!(!left.contains("Z "), "{left}");
    // A state that stays is logged once.
    sleep(Duration::from_secs(3));
    let times = uninstall.log().matches("in use by").count();
    assert_eq!(times, 1, "{}", uninstall.log());
    assert!(!uninstall.log().contains("done"), "{}", uninstall.log());

    node.remove("proc/7");
    uninstall.until("all is removed", |uninstall| uninstall.left().is_none());
    assert!(node.removed().contains("custom.b"), "{}", node.removed());
    uninstall.until("it says so", |uninstall| {
        uninstall
            .log()
            .matches("done: no set owns a profile")
            .count()
            == 1
    });
}

#[test]
fn a_state_folder_with_a_dot_in_its_path_is_emptied_too() {
    let node = Node::with(&["custom.a"]);
    let place = ("ARMORER_STATE_DIR", "/var/lib/armorer.d/v1.0");
    node.run_with(&["reconcile", "profiles"], &[place])
        .assert(0);
    let uninstall = Uninstall::start(&node, "1", &[place]);
    uninstall.until("it is done", |uninstall| uninstall.log().contains("done: "));
    assert_eq!(node.removed(), "custom.a");
}

#[test]
fn a_node_without_apparmor_is_done() {
    let node = Node::settled(&["custom.a"]);
    node.write("sys/module/apparmor/parameters/enabled", "N\n");
    let uninstall = Uninstall::start(&node, "1", &[]);
    uninstall.until("it is done", |uninstall| {
        uninstall.log().contains("done: AppArmor is off") && uninstall.left().is_none()
    });
    node.assert_untouched();
}

#[test]
fn sigterm_does_not_wait_for_the_next_try() {
    let node = Node::settled(&["custom.a"]);
    let mut uninstall = Uninstall::start(&node, "86400", &[]);
    uninstall.until("one try is over", |uninstall| {
        uninstall.log().contains("done")
    });
    assert_eq!(uninstall.process.terminate().code(), Some(0));
}

#[test]
fn a_wrong_poll_time_ends_it_with_an_explanation() {
    let node = Node::settled(&["custom.a"]);
    for wrong in ["0", "abc", "-1", "1s"] {
        let mut uninstall = Uninstall::start(&node, wrong, &[]);
        assert_eq!(
            uninstall.process.0.wait().unwrap().code(),
            Some(2),
            "{wrong}"
        );
        let log = uninstall.log();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("POLL_TIME"), "{log}");
    }
    node.assert_untouched();
}

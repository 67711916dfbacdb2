//! What the uninstall overlay runs on every node, in busybox' shell as in the image.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::node::Node;

const LEFT: &str = "run/armorer/left";

/// A running uninstall; killed when dropped.
struct Uninstall<'a> {
    node: &'a Node,
    child: Child,
}

impl<'a> Uninstall<'a> {
    fn start(node: &'a Node, poll_time: &str) -> Self {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("kustomize/overlays/uninstall/uninstall");
        node.folder("run/armorer");
        let program = PathBuf::from(assert_cmd::cargo::cargo_bin!("armorer"));
        let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
        let child = Command::new("busybox")
            .arg("sh")
            .arg(script)
            .env_clear()
            .env("PATH", path)
            .env("ARMORER_ROOT", node.path(""))
            .env("ARMORER_REMOVE_AFTER", "0s")
            .env("POLL_TIME", poll_time)
            .stdout(Stdio::null())
            .stderr(File::create(node.path("log")).unwrap())
            .spawn()
            .expect("busybox is there: install it, or use scripts/test");
        Self { node, child }
    }

    fn log(&self) -> String {
        self.node.read("log")
    }

    fn left(&self) -> Option<String> {
        fs::read_to_string(self.node.path(LEFT)).ok()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "never: {what}\nleft: {:?}\n{}",
                self.left(),
                self.log()
            );
            sleep(Duration::from_millis(20));
        }
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").arg(&pid).status().unwrap();
        assert!(kill.success());
        self.wait_for("it ends", |uninstall| !uninstall.is_running());
        self.child.wait().unwrap()
    }

    fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }
}

impl Drop for Uninstall<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_set_is_removed_and_what_is_in_use_waits() {
    let node = Node::settled(&["custom.a"]);
    let other = node.arg("other");
    let text = node
        .read("profiles/custom.a")
        .replace("custom.a", "custom.b");
    node.write("other/custom.b", &text);
    node.load("custom.b", &text);
    node.run(&["reconcile", &other, "--set", "canary"])
        .assert(0);
    node.process(7, "web", "custom.b (enforce)");

    let uninstall = Uninstall::start(&node, "1");
    uninstall.wait_for("the default set's profile is removed", |_| {
        node.removed().contains("custom.a")
    });
    uninstall.wait_for("the set that is in the way is named", |uninstall| {
        uninstall.left().is_some_and(|left| left.contains("canary"))
    });
    let left = uninstall.left().unwrap();
    for words in ["custom.b", "in use by 1 process (7 web)"] {
        assert!(left.contains(words), "{left}");
        uninstall.wait_for("the log says it", |uninstall| {
            uninstall.log().contains(words)
        });
    }
    assert!(!left.contains("default"), "{left}");
    // What stays as it is, is not said at each try.
    assert!(left.starts_with("set canary: "), "{left}");
    assert!(!left.contains("Z "), "{left}");
    sleep(Duration::from_secs(3));
    let times = uninstall.log().matches("1 removal deferred").count();
    assert!(times <= 2, "{}", uninstall.log());
    assert!(!uninstall.log().contains("done"), "{}", uninstall.log());

    node.remove("proc/7");
    uninstall.wait_for("all is removed", |uninstall| uninstall.left().is_none());
    assert!(node.removed().contains("custom.b"), "{}", node.removed());
    uninstall.wait_for("it says so", |uninstall| {
        let done = "armorer-uninstall: done: no set owns a profile on this node any more";
        uninstall.log().matches(done).count() == 1
    });
}

#[test]
fn a_node_without_apparmor_is_done() {
    let node = Node::settled(&["custom.a"]);
    node.write("sys/module/apparmor/parameters/enabled", "N\n");
    let uninstall = Uninstall::start(&node, "1");
    uninstall.wait_for("it is done", |uninstall| {
        uninstall.log().contains("done: AppArmor is off") && uninstall.left().is_none()
    });
    assert_eq!(node.removed(), "");
}

#[test]
fn being_told_to_stop_does_not_wait_for_the_next_try() {
    let node = Node::settled(&["custom.a"]);
    let mut uninstall = Uninstall::start(&node, "86400");
    uninstall.wait_for("one try is over", |uninstall| {
        uninstall.log().contains("done")
    });
    assert_eq!(uninstall.terminate().code(), Some(0));
}

#[test]
fn a_poll_time_that_is_none_is_refused() {
    let node = Node::settled(&["custom.a"]);
    for wrong in ["0", "abc", "-1", "1s"] {
        let mut uninstall = Uninstall::start(&node, wrong);
        assert_eq!(uninstall.child.wait().unwrap().code(), Some(2), "{wrong}");
        let log = uninstall.log();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("POLL_TIME"), "{log}");
    }
    assert_eq!(node.removed(), "");
}

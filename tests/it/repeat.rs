//! The loop of the image (`scripts/loop`) under busybox' shell, with armorer on a node.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::node::{Node, Run};

/// A loop that runs; killed when dropped.
struct Loop<'a> {
    node: &'a Node,
    child: Child,
}

fn command(node: &Node, poll_time: &str) -> Command {
    let armorer = Path::new(env!("CARGO_BIN_EXE_armorer")).parent().unwrap();
    // Below, PATH is the loop's.
    let mut command = Command::new("/bin/busybox");
    command
        .args(["sh", concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/loop")])
        .args(["--log-format", "json"])
        .env_clear()
        .env("PATH", armorer)
        .env("POLL_TIME", poll_time)
        .env("PROFILES_DIR", node.profiles())
        .env("ARMORER_ROOT", node.path(""))
        .env("ARMORER_BASE", node.path("base"))
        .env("ARMORER_LOOP_HEARTBEAT", node.path("run/loop"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

impl<'a> Loop<'a> {
    fn start(node: &'a Node, poll_time: &str) -> Self {
        node.folder("run");
        let log = File::create(node.path("log")).unwrap();
        let child = command(node, poll_time).stderr(log).spawn();
        let child = child.expect("these tests need busybox: install the package busybox-static");
        Self { node, child }
    }

    fn log(&self) -> String {
        self.node.read("log")
    }

    /// How often `words` stand in the log.
    fn said(&self, words: &str) -> usize {
        self.log().matches(words).count()
    }

    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is(self) {
            let late = start.elapsed() > Duration::from_secs(60);
            assert!(!late, "not within a minute: {what}\n{}", self.log());
            sleep(Duration::from_millis(50));
        }
    }

    /// The passes that run right now.
    fn passes(&self) -> Vec<u32> {
        let parent = format!("PPid:\t{}\n", self.child.id());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}"));
                read("status").is_ok_and(|text| text.contains(&parent))
                    && read("comm").is_ok_and(|text| text == "armorer\n")
            })
            .collect()
    }

    /// Ends it as the kubelet does. What it waits for takes longer than is waited here.
    #[track_caller]
    fn terminate(&mut self) {
        let start = Instant::now();
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").arg(&pid).status().unwrap();
        assert!(kill.success());
        while start.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0), "{}", self.log());
                return;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("it goes on after SIGTERM:\n{}", self.log());
    }

    fn probe(&self, what: &str, poll_time: &str) -> Run {
        let mut arguments = vec!["status", "--probe", what, "--poll-time", poll_time];
        if what == "live" {
            arguments.extend(["--loop-heartbeat", "/run/loop"]);
        }
        self.node.run(&arguments)
    }
}

impl Drop for Loop<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One that should end by itself, and is ended after a minute if it does not.
fn ended(node: &Node, poll_time: &str) -> Run {
    let mut command = assert_cmd::Command::from_std(command(node, poll_time));
    Run(command.timeout(Duration::from_secs(60)).output().unwrap())
}

#[test]
fn a_wrong_poll_time_is_told_and_ends_it() {
    let node = Node::new();
    for wrong in [
        "0",
        "abc",
        "99999",
        "86401",
        "-1",
        "1.5",
        "030",
        " 5",
        "5s",
        "9999999999999999999999",
    ] {
        let run = ended(&node, wrong);
        let told = format!("POLL_TIME is '{wrong}': give whole seconds from 1 to 86400");
        run.fails(2, &[&told]);
    }
    let run = ended(&node, "\u{1b}[31m");
    run.fails(2, &["POLL_TIME is '?[31m'"]);
    assert!(!node.exists("var/lib/armorer"), "a pass was begun");
}

#[test]
fn passes_follow_each_other_and_both_probes_answer() {
    let node = Node::with(&["custom.a"]);
    let repeat = Loop::start(&node, "1");
    repeat.until("three passes", |l| l.said("\"action\":\"pass\"") >= 3);
    repeat
        .probe("ready", "1")
        .assert(0)
        .prints(&["ready: converged: 1 profile in force"]);
    repeat.probe("live", "1").assert(0);

    let old = node.read("run/loop").trim().parse::<u64>().unwrap() - 400;
    drop(repeat);
    // Three polls, the deadline of five minutes, and one more: then it is given up on.
    node.write("run/loop", format!("{old}\n"));
    let live = |arguments: &[&str]| {
        let all = [
            &["status", "--probe", "live", "--loop-heartbeat", "/run/loop"],
            arguments,
        ];
        node.run(&all.concat())
    };
    live(&["--poll-time", "1"]).assert(1);
    live(&["--poll-time", "60"]).assert(0);
    live(&["--poll-time", "1", "--deadline", "10m"]).assert(0);
}

#[test]
fn it_ends_at_once_while_it_sleeps() {
    let node = Node::with(&["custom.a"]);
    let mut repeat = Loop::start(&node, "86400");
    repeat.until("the first pass", |l| l.said("\"action\":\"pass\"") == 1);
    repeat.until("its end", |l| l.passes().is_empty());
    repeat.terminate();
    assert_eq!(repeat.said("told to stop"), 1);
}

#[test]
fn it_runs_one_pass_at_a_time_and_ends_it_with_itself() {
    let node = Node::settled(&["custom.a"]);
    let lock = OpenOptions::new()
        .write(true)
        .mode(0o600)
        .open(node.path("var/lib/armorer/lock"))
        .unwrap();
    lock.lock().unwrap();
    // A pass waits 30 s for the lock that this test holds, and POLL_TIME is over meanwhile.
    let mut repeat = Loop::start(&node, "1");
    repeat.until("a pass", |l| !l.passes().is_empty());
    let pass = repeat.passes();
    for _ in 0..30 {
        assert_eq!(repeat.passes(), pass, "{}", repeat.log());
        sleep(Duration::from_millis(100));
    }
    repeat.terminate();
    let gone = || fs::read_to_string(format!("/proc/{}/comm", pass[0])).is_err();
    let start = Instant::now();
    while !gone() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the pass goes on"
        );
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_pass_that_cannot_run_is_repeated_and_the_reason_is_told() {
    let node = Node::with(&["custom.a"]);
    // The kubelet makes it (DirectoryOrCreate).
    node.folder("var/lib/armorer");
    node.write("sys/module/apparmor/parameters/enabled", "N\n");
    let mut repeat = Loop::start(&node, "2");
    repeat.until("three passes", |l| {
        l.said("the pass ended with 3; the next one begins in 2 s") >= 3
    });
    assert_eq!(repeat.child.try_wait().unwrap(), None);
    repeat.probe("live", "2").assert(0);
    let ready = repeat.probe("ready", "2").assert(1);
    assert!(ready.stdout().starts_with("not ready: "), "{ready}");
    assert!(
        ready.stdout().contains("AppArmor is switched off"),
        "{ready}"
    );

    node.write("sys/module/apparmor/parameters/enabled", "Y\n");
    repeat.until("it recovers", |l| l.probe("ready", "2").code() == 0);
}

#[test]
fn failures_are_repeated_more_and_more_slowly() {
    let node = Node::new();
    node.remove("sys/kernel/security/apparmor");
    let repeat = Loop::start(&node, "86400");
    repeat.until("two passes", |l| l.said("the next one begins in 10 s") == 1);
    assert_eq!(repeat.said("the next one begins in 5 s"), 1);
}

#[test]
fn a_heartbeat_that_cannot_be_written_is_told_once() {
    let node = Node::with(&["custom.a"]);
    let mut command = command(&node, "1");
    command.env("ARMORER_LOOP_HEARTBEAT", "/proc/none/loop");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    sleep(Duration::from_secs(4));
    child.kill().unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    child.wait().unwrap();
    assert_eq!(
        said.matches("cannot write /proc/none/loop").count(),
        1,
        "{said}"
    );
}

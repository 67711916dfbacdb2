//! The loop of the image (`scripts/loop`) under busybox' shell, with armorer on a node.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::{Background, Node, Run, binary, until};

/// A running loop.
struct Loop<'a> {
    node: &'a Node,
    process: Background,
}

fn command(node: &Node, poll_time: &str) -> Command {
    // Below, PATH is the loop's.
    let mut command = Command::new("/bin/busybox");
    command
        .args(["sh", concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/loop")])
        .args(["--log-format", "json"])
        .env_clear()
        .env("PATH", binary().parent().unwrap())
        .env("POLL_TIME", poll_time)
        .env("PROFILES_DIR", node.source())
        .env("ARMORER_ROOT", node.path(""))
        .env("ARMORER_BASE", node.path("base"))
        .env("ARMORER_LOOP_HEARTBEAT", node.path("run/armorer/loop"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

impl<'a> Loop<'a> {
    /// Needs the package busybox-static.
    fn start(node: &'a Node, poll_time: &str) -> Self {
        node.folder("run/armorer");
        let log = File::create(node.path("log")).unwrap();
        let process = Background::start(command(node, poll_time).stderr(log));
        Self { node, process }
    }

    fn log(&self) -> String {
        self.node.read("log")
    }

    /// How often `words` stand in the log.
    fn count(&self, words: &str) -> usize {
        self.log().matches(words).count()
    }

    /// How many passes have ended, by the status file.
    fn passes(&self) -> u64 {
        if !self.node.exists("var/lib/armorer/status.json") {
            return 0;
        }
        let status = self.node.status();
        status["passes"]
            .as_object()
            .unwrap()
            .values()
            .filter_map(serde_json::Value::as_u64)
            .sum()
    }

    #[track_caller]
    fn until(&self, purpose: &str, holds: impl Fn(&Self) -> bool) {
        until(&format!("{purpose}\n{}", self.log()), || holds(self));
    }

    /// The running passes.
    fn running(&self) -> Vec<u32> {
        let parent = format!("PPid:\t{}\n", self.process.pid());
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

    #[track_caller]
    fn terminate(&mut self) {
        let status = self.process.terminate();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

#[test]
fn a_wrong_poll_time_ends_it_with_an_explanation() {
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
        let run = Run::of(&mut command(&node, wrong));
        run.fails(2, &[&format!("POLL_TIME is '{wrong}'"), "1 to 86400"]);
    }
    let run = Run::of(&mut command(&node, "\u{1b}[31m"));
    run.fails(2, &["POLL_TIME is '?[31m'"]);
    assert!(!node.exists("var/lib/armorer"), "a pass was begun");
}

#[test]
fn passes_follow_each_other_and_both_probes_answer() {
    let node = Node::with(&["custom.a"]);
    let running = Loop::start(&node, "1");
    running.until("three passes", |running| running.passes() >= 3);
    let poll = ["--poll-time", "1"];
    node.probe("ready", &poll)
        .assert(0)
        .line(&["ready: converged: 1 profile in force"]);
    node.probe("live", &poll).assert(0);
    // The idle ones say nothing.
    assert_eq!(running.count("\"action\":\"pass\""), 2, "{}", running.log());

    let line = node.read("run/armorer/loop");
    let (time, id) = line.trim().split_once(' ').unwrap();
    assert_eq!(id.len(), 36, "{line}");
    assert_eq!(node.status()["loop"], id);
    let old = time.parse::<u64>().unwrap() - 400;
    drop(running);
    // Three polls, the deadline of five minutes and one more: then it is given up.
    node.write("run/armorer/loop", format!("{old} {id}\n"));
    node.probe("live", &poll)
        .assert(1)
        .line(&["not live: ", "ago"]);
    node.probe("live", &["--poll-time", "60"]).assert(0);
    node.probe("live", &["--poll-time", "1", "--deadline", "10m"])
        .assert(0);
}

#[test]
fn a_new_loop_is_not_ready_by_the_pass_of_an_earlier_one() {
    let node = Node::with(&["custom.a"]);
    let first = Loop::start(&node, "86400");
    first.until("the first loop's pass", |_| {
        node.probe("ready", &[]).code() == 0
    });
    drop(first);
    // The new one's first pass waits for the lock that this test holds.
    let lock = OpenOptions::new()
        .write(true)
        .open(node.path("var/lib/armorer/lock"))
        .unwrap();
    lock.lock().unwrap();
    let second = Loop::start(&node, "86400");
    second.until("the second loop's pass", |second| {
        !second.running().is_empty()
    });
    node.probe("ready", &[])
        .assert(1)
        .line(&["not ready: ", "first pass has not ended"]);
    node.probe("live", &[]).assert(0);
    drop(lock);
    second.until("the second is ready", |_| {
        node.probe("ready", &[]).code() == 0
    });
}

#[test]
fn sigterm_ends_it_at_once_while_it_sleeps() {
    let node = Node::with(&["custom.a"]);
    let mut running = Loop::start(&node, "86400");
    running.until("the first pass", |running| running.passes() == 1);
    running.until("its end", |running| running.running().is_empty());
    running.terminate();
    running.until("its last words", |running| {
        running.count("stopped by a signal") == 1
    });
    node.assert_untouched();
}

/// A fifo without a reader holds the writer.
#[test]
fn sigterm_while_the_heartbeat_is_written_is_reported_too() {
    let node = Node::with(&["custom.a"]);
    node.folder("run/armorer");
    let fifo = node.path("run/armorer/loop.new");
    assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
    let mut running = Loop::start(&node, "86400");
    running.until("its first words", |running| {
        running.count("a pass every") == 1
    });
    running.terminate();
    assert_eq!(running.count("stopped by a signal"), 1, "{}", running.log());
}

#[test]
fn one_pass_runs_at_a_time_and_ends_with_the_loop() {
    let node = Node::settled(&["custom.a"]);
    let lock = OpenOptions::new()
        .write(true)
        .mode(0o600)
        .open(node.path("var/lib/armorer/lock"))
        .unwrap();
    lock.lock().unwrap();
    // A pass waits 30 s for the lock that this test holds, and POLL_TIME is over meanwhile.
    let mut running = Loop::start(&node, "1");
    running.until("a pass", |running| !running.running().is_empty());
    let pass = running.running();
    for _ in 0..30 {
        assert_eq!(running.running(), pass, "{}", running.log());
        sleep(Duration::from_millis(100));
    }
    running.terminate();
    until("the pass ends", || {
        fs::read_to_string(format!("/proc/{}/comm", pass[0])).is_err()
    });
}

#[test]
fn a_pass_that_cannot_run_is_repeated_and_the_reason_stays_readable() {
    let node = Node::with(&["custom.a"]);
    node.reconcile(&[]).assert(0);
    node.write("sys/module/apparmor/parameters/enabled", "N\n");
    let mut running = Loop::start(&node, "2");
    running.until("three passes", |running| {
        running.count("the pass ended with 3; the next one begins in 2 s") >= 3
    });
    assert!(running.process.is_running());
    let poll = ["--poll-time", "2"];
    node.probe("live", &poll).assert(0);
    node.probe("ready", &poll)
        .assert(1)
        .line(&["not ready: ", "AppArmor is switched off"]);
    node.write("sys/module/apparmor/parameters/enabled", "Y\n");
    running.until("it recovers", |_| node.probe("ready", &poll).code() == 0);
}

#[test]
fn failures_are_repeated_more_and_more_slowly() {
    let node = Node::new();
    node.remove("sys/kernel/security/apparmor");
    let running = Loop::start(&node, "86400");
    running.until("two passes", |running| {
        running.count("the next one begins in 10 s") == 1
    });
    assert_eq!(running.count("the next one begins in 5 s"), 1);
}

#[test]
fn a_heartbeat_that_cannot_be_written_is_reported_once() {
    let node = Node::with(&["custom.a"]);
    let mut command = command(&node, "1");
    let log = File::create(node.path("log")).unwrap();
    command
        .env("ARMORER_LOOP_HEARTBEAT", "/proc/none/loop")
        .stderr(log);
    let running = Loop {
        node: &node,
        process: Background::start(&mut command),
    };
    let start = Instant::now();
    running.until("three passes", |running| running.passes() >= 3);
    assert_eq!(
        running.count("cannot write /proc/none/loop"),
        1,
        "{:?}",
        start.elapsed()
    );
}

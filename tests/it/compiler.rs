//! Compilers that misbehave, and the failures that count against a text. In the compiler's place runs a
//! program that obeys the text (tests/harness/src/compiler.c).

use std::time::{Duration, Instant};

use harness::{Node, Run, assert_plain, deeds, eventually, parser, profile};

/// A node whose compiler is the stand-in, with a text for each of `texts`.
struct Stage {
    node: Node,
    parser: String,
}

impl Stage {
    fn new(texts: &[(&str, &[&str])]) -> Self {
        let node = Node::new();
        for (name, lines) in texts {
            node.put(name, deeds(name, lines));
        }
        let parser = node.stand_in();
        Self { node, parser }
    }

    fn plan(&self, arguments: &[&str]) -> Run {
        self.node
            .plan(&[&["--parser", &self.parser], arguments].concat())
    }

    fn pass(&self, arguments: &[&str]) -> Run {
        self.node
            .reconcile(&[&["--parser", &self.parser], arguments].concat())
    }

    /// The one outcome of a plan over one text: kind, reason, message.
    #[track_caller]
    fn outcome(&self) -> (String, String, String) {
        let document = self.plan(&["--output", "json"]).assert(1).json();
        let outcomes = document["outcomes"].as_array().unwrap();
        assert_eq!(outcomes.len(), 1, "{document:#}");
        let word = |key: &str| outcomes[0][key].as_str().unwrap_or_default().to_owned();
        assert_plain(&word("message"));
        (word("kind"), word("reason"), word("message"))
    }
}

#[track_caller]
fn assert_outcome(lines: &[&str], kind: &str, reason: &str, words: &[&str]) {
    let outcome = Stage::new(&[("custom.a", lines)]).outcome();
    assert_eq!((&*outcome.0, &*outcome.1), (kind, reason), "{outcome:?}");
    for word in words {
        assert!(
            outcome.2.contains(word),
            "{word:?} is not in: {}",
            outcome.2
        );
    }
}

#[test]
fn a_complaint_is_about_the_text() {
    let lines = ["say a\\e[31m\\nb\\nc\\n", "exit 1"];
    assert_outcome(&lines, "refused", "compile", &["a\\u{1b}[31m; b"]);
    let crash = ["signal 11"];
    assert_outcome(&crash, "refused", "compile", &["signal 11"]);
    assert_outcome(&["print \\n"], "refused", "compile", &["cannot be read"]);
    // Parser 5 may compress.
    let compressed = ["print 12345678\\x28\\xb5\\x2f\\xfdxx"];
    assert_outcome(&compressed, "refused", "compile", &["compressed"]);
    assert_outcome(&["flood"], "refused", "limit", &["bytes of policy"]);
    assert_outcome(&[], "refused", "compile", &["defines no profile"]);
}

#[test]
fn a_program_that_cannot_be_executed_is_the_nodes_failure() {
    let node = Node::new();
    node.put("custom.a", profile("custom.a"));
    node.write("parser", "#!/bin/sh\nexit 0\n");
    for mode in [0o644, 0o755] {
        node.set_mode("parser", mode);
        let run = node.plan(&["--parser", &node.arg("parser")]).assert(1);
        run.line(&[
            "✗ failed",
            "custom.a",
            "cannot execute",
            &node.arg("parser"),
        ]);
    }
}

#[test]
fn long_messages_are_cut() {
    let run = Stage::new(&[("custom.a", &["shout", "exit 1"])])
        .plan(&[])
        .assert(1);
    assert!(run.stdout().len() < 2000, "{run}");
}

#[test]
fn a_compiler_that_waits_is_killed_and_tried_again_in_the_next_pass() {
    let stage = Stage::new(&[("custom.a", &["hang"])]);
    // Four times as long as it may compute.
    let short = ["--max-compile-time", "1s"];
    for _ in 0..2 {
        let start = Instant::now();
        let run = stage.pass(&short).assert(1);
        run.line(&["✗ failed", "custom.a", "waited too long", "the next pass"]);
        assert!(
            start.elapsed() > Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
    }
    assert_eq!(stage.node.set()["problems"]["custom.a"]["kind"], "failed");
    assert_eq!(stage.node.status()["last_pass"]["ready"], false);
}

#[test]
fn a_compiler_that_may_not_be_killed_names_the_missing_capability() {
    let stage = Stage::new(&[("custom.a", &["hang"])]);
    let without = ["setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill"];
    let source = stage.node.source();
    let arguments = ["reconcile", &*source, "--parser", &stage.parser];
    let arguments = [&arguments[..], &["--max-compile-time", "1s"]].concat();
    let run = Run::of(&mut stage.node.under(&without, &arguments)).assert(1);
    run.line(&[
        "✗ failed",
        "custom.a",
        "cannot be killed",
        "capability KILL",
    ]);
}

#[test]
fn a_text_that_takes_too_much_processor_time_is_refused_until_it_changes() {
    let stage = Stage::new(&[("custom.a", &["spin"])]);
    let short = ["--max-compile-time", "1s"];
    let mut run = stage.pass(&short).assert(1);
    // On a busy machine its compiler may wait too long first, and is tried again.
    for _ in 0..5 {
        if run.stderr().contains("custom.a refused") {
            break;
        }
        run = stage.pass(&short).assert(1);
    }
    run.line(&[
        "✗ refused",
        "custom.a",
        "1s of CPU time",
        "--max-compile-time",
    ]);
    assert_eq!(stage.node.set()["problems"]["custom.a"]["reason"], "cost");
    assert_eq!(stage.node.status()["last_pass"]["ready"], true);
    let start = Instant::now();
    stage.pass(&short).assert(1).line(&["custom.a refused"]);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "it was compiled again"
    );
    // With more time it is tried again.
    let start = Instant::now();
    stage.pass(&["--max-compile-time", "2s"]).assert(1);
    assert!(
        start.elapsed() > Duration::from_secs(1),
        "it was not compiled"
    );
}

#[test]
fn the_deadline_of_the_pass_ends_a_compiler_too() {
    let stage = Stage::new(&[("custom.a", &["hang"]), ("custom.b", &["hang"])]);
    let start = Instant::now();
    let run = stage.pass(&["--deadline", "1s", "--jobs", "1"]).assert(1);
    assert!(start.elapsed() < Duration::from_secs(20));
    run.line(&["✗ failed", "custom.a", "waited too long"]);
    run.line(&["✗ failed", "custom.b", "--deadline"]);
    assert_eq!(stage.node.status()["last_pass"]["ready"], false);
}

/// The compilers at once of a pass in a control group, of which /proc/self/cgroup shows `groups`, and
/// /sys/fs/cgroup has `files`.
fn compilers_at_once(groups: &str, files: &[(&str, &str)]) -> usize {
    let names = ["custom.a", "custom.b", "custom.c"];
    let stage = Stage::new(&names.map(|name| (name, &["hang"][..])));
    let node = &stage.node;
    node.write("groups", groups);
    node.write("control/pods/web/cgroup.controllers", "cpu memory\n");
    for (path, text) in files {
        node.write(&format!("control/{path}"), format!("{text}\n"));
    }
    let mounts = "mount --bind control /sys/fs/cgroup
        mount --bind groups /proc/$$/cgroup
        exec \"$@\"";
    let wrapper = ["unshare", "--mount", "sh", "-ec", mounts, "sh"];
    let pass = [
        "reconcile",
        "profiles",
        "--parser",
        &stage.parser,
        "--deadline",
        "2s",
    ];
    let run = Run::of(&mut node.under(&wrapper, &pass)).assert(1);
    // Each compiler takes all of the time; the texts that have no turn wait.
    let count = |words| run.stderr().matches(words).count();
    let at_once = count("waited too long");
    assert_eq!(
        at_once + count("before the pass' deadline"),
        names.len(),
        "{run}"
    );
    at_once
}

#[test]
fn the_control_group_limits_how_many_compilers_run_at_once() {
    const UNIFIED: &str = "0::/pods/web\n";
    const SPLIT: &str = "4:memory:/pods/web\n3:cpu,cpuacct:/pods/web\n0::/\n";
    const MAX: &str = "pods/web/cpu.max";
    const QUOTA: &str = "cpu,cpuacct/pods/web/cpu.cfs_quota_us";
    const PERIOD: &str = "cpu,cpuacct/pods/web/cpu.cfs_period_us";
    const LIMIT: &str = "memory/pods/web/memory.limit_in_bytes";
    let processors = std::thread::available_parallelism().unwrap().get();
    assert!(processors > 1, "this test needs two processors");
    let cases: [(_, &[(&str, &str)], _); 8] = [
        // As a container sees its own group.
        (
            "0::/\n",
            &[("cgroup.controllers", "cpu"), ("cpu.max", "100000 100000")],
            1,
        ),
        (UNIFIED, &[(MAX, "max 100000")], processors.min(3)),
        (UNIFIED, &[(MAX, "100000 100000")], 1),
        // Of the pod, not of its container.
        (UNIFIED, &[("pods/cpu.max", "150000 100000")], 1),
        (UNIFIED, &[("pods/web/memory.max", "268435456")], 1),
        (
            SPLIT,
            &[(QUOTA, "-1"), (PERIOD, "100000")],
            processors.min(3),
        ),
        (SPLIT, &[(QUOTA, "50000"), (PERIOD, "50000")], 1),
        (SPLIT, &[(LIMIT, "268435456")], 1),
    ];
    std::thread::scope(|scope| {
        for (groups, files, expected) in cases {
            scope
                .spawn(move || assert_eq!(compilers_at_once(groups, files), expected, "{files:?}"));
        }
    });
}

#[test]
fn processes_that_a_compiler_started_are_killed_with_it() {
    let stage = Stage::new(&[("custom.a", &["fork", "hang"])]);
    stage.plan(&["--deadline", "500ms"]).assert(1);
    eventually("all of its processes are gone", || {
        let of_stage = |entry: &std::fs::DirEntry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with(stage.parser.as_bytes())
        };
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
        (!processes.any(|process| of_stage(&process))).then_some(())
    });
}

#[test]
fn a_compiler_has_a_user_of_its_own_and_nothing_of_ours() {
    let texts: [(&str, &[&str]); 2] = [
        ("custom.a", &["show", "exit 1"]),
        ("custom.b", &["show", "exit 1"]),
    ];
    let stage = Stage::new(&texts);
    let plan = ["plan", &stage.node.source(), "--parser", &stage.parser];
    let run = stage
        .node
        .run_with(&plan, &[("ANY_SECRET", "canary")])
        .assert(1);
    let shown = |name: &str| {
        let line = run.line(&["✗ refused", name, "user "]);
        let words = line[line.find("user ").unwrap()..].to_owned();
        let user = words.split(' ').nth(1).unwrap().parse::<u32>().unwrap();
        (user, words)
    };
    let (one, words) = shown("custom.a");
    let (other, _) = shown("custom.b");
    assert!(
        words.ends_with("folder / capabilities 0000000000000000"),
        "{words}"
    );
    if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0 {
        for user in [one, other] {
            assert!((0x7000_0000..=0x7FFD_FFFF).contains(&user), "{user}");
        }
        assert_ne!(one, other);
        assert!(
            words.starts_with(&format!("user {one} group {one} ")),
            "{words}"
        );
    }
}

#[test]
fn another_compiler_compiles_everything_anew() {
    let node = Node::with(&["custom.a", "custom.b"]);
    let exchange = |end: &[u8]| {
        let mut program = std::fs::read(parser()).unwrap();
        program.extend(end);
        node.write("parser", program);
        node.set_mode("parser", 0o755);
    };
    exchange(b"");
    let arguments = ["--parser", &node.arg("parser"), "--adopt", "*"];
    let pass = |code| node.reconcile(&arguments).assert(code);
    pass(0);
    pass(0);
    let keys = || ["custom.a", "custom.b"].map(|name| node.set()["profiles"][name]["key"].clone());
    let before = keys();
    pass(0);
    assert_eq!(keys(), before);
    exchange(b"another version");
    pass(0);
    let after = keys();
    assert_ne!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
}

#[test]
fn a_compiler_that_could_not_work_is_the_nodes_failure() {
    let next = "the next pass";
    assert_outcome(&["signal 9"], "failed", "failed", &["killed", next]);
    assert_outcome(&["signal 15"], "failed", "failed", &["a signal", next]);
    // It says nothing: a compiler that objects to a text says why.
    assert_outcome(&["exit 7"], "failed", "failed", &["status 7", next]);
    // As the loader ends where a library is missing.
    let loader = [
        "say parser: error while loading shared libraries: libx.so\\n",
        "exit 127",
    ];
    assert_outcome(
        &loader,
        "failed",
        "failed",
        &["loading shared libraries", next],
    );
}

/// Large texts come first; one that took all the time of a pass is the last of the next.
#[test]
fn a_text_that_had_no_turn_is_compiled_by_the_next_pass() {
    let stage = Stage::new(&[
        ("custom.bomb", &["hang", &"x".repeat(9000)]),
        ("custom.good", &["copy good"]),
    ]);
    let good = stage.node.compile(&profile("custom.good"), &[]);
    stage.node.write("base/good", &good);
    let first = stage.pass(&["--jobs", "1", "--deadline", "1s"]).assert(1);
    first.line(&["✗ failed", "custom.good", "before the pass' deadline"]);
    stage.node.assert_untouched();
    let second = stage.pass(&["--jobs", "1", "--deadline", "3s"]).assert(1);
    second.line(&["+ load", "custom.good"]);
    assert_eq!(stage.node.load_written(), good);
}

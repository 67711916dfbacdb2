//! Pass after pass on one node while everything around them changes, against a model of the
//! conditions. `SOAK_PASSES` passes (60), the same again with the printed `SOAK_SEED`.

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crate::policy::{contents, settle};
use crate::support::kernel::{compile, loaded, remove, remove_all, replace};
use crate::support::{sh, until};
use model::{Held, Model, Text};

const DIR: &str = "/tmp/soak";
/// Profiles that another program has loaded, one of them under armorer's own prefix.
const THEIRS: [&str; 2] = ["docker-default", "custom.theirs"];
/// So many names there are; each is interfered with three times at most, or it would rightly be
/// called contested.
const NAMES: usize = 40;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Numbers that are the same for the same seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.below(all.len())].clone())
    }
}

struct Soak {
    chance: Chance,
    model: Model,
    counts: BTreeMap<&'static str, usize>,
    interfered: BTreeMap<String, usize>,
    theirs: BTreeMap<String, Vec<u8>>,
    boots: usize,
    /// The largest resident set of each pass, in KiB.
    memory: Vec<u64>,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn everything_changes_and_every_pass_converges() {
    let passes = number("SOAK_PASSES").unwrap_or(60);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let seed = number("SOAK_SEED").unwrap_or(now.as_secs());
    println!("\nSOAK_SEED={seed} SOAK_PASSES={passes}");
    let start = Instant::now();
    let mut soak = Soak::new(seed);
    let before = Resources::now();
    for pass in 0..passes {
        let step = soak.step();
        if pass % 50 == 49 {
            println!(
                "{} passes, {} s; last: {step}",
                pass + 1,
                start.elapsed().as_secs()
            );
        }
    }
    soak.plain_pass("the last");
    let after = Resources::now();
    println!(
        "seed {seed}: {passes} steps and {} passes in {} s:",
        soak.memory.len(),
        start.elapsed().as_secs()
    );
    for (event, count) in &soak.counts {
        println!("{count:6} {event}");
    }
    let fifth = soak.memory.len() / 5;
    let peak = |part: &[u64]| *part.iter().max().unwrap();
    let [first, last] = [
        peak(&soak.memory[..fifth]),
        peak(&soak.memory[soak.memory.len() - fifth..]),
    ];
    println!("largest resident set: {first} KiB in the first fifth, {last} KiB in the last");
    for (when, now) in [("before", &before), ("after", &after)] {
        let Resources { descriptors, slab } = now;
        println!("{when}: {descriptors} open files, {slab} KiB of the kernel's own memory");
    }
    assert!(
        last <= first + first / 4,
        "passes take more and more memory"
    );
    // The kernel counts them in lots of 32.
    let most = before.descriptors + 64;
    assert!(after.descriptors <= most, "open files are left behind");
    sh(&format!("umount {BOOT_ID} 2>/dev/null || true"));
}

struct Resources {
    /// Open files of the whole system.
    descriptors: u64,
    /// The kernel's own memory that holds policy and the like, in KiB.
    slab: u64,
}

impl Resources {
    fn now() -> Self {
        let files = fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
        let memory = fs::read_to_string("/proc/meminfo").unwrap();
        let slab = memory
            .lines()
            .find_map(|line| line.strip_prefix("SUnreclaim:"))
            .unwrap();
        Self {
            descriptors: files.split_whitespace().next().unwrap().parse().unwrap(),
            slab: slab.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}

impl Soak {
    fn new(seed: u64) -> Self {
        remove_all("custom.");
        sh(&format!(
            "mkdir -p {DIR}/source {DIR}/state; mount -t tmpfs -o size=2m none {DIR}/state"
        ));
        for name in THEIRS {
            replace(&compile(&format!("profile {name} {{ file, signal, }}")));
        }
        let mut soak = Self {
            chance: Chance(seed),
            model: Model::default(),
            counts: BTreeMap::new(),
            interfered: BTreeMap::new(),
            theirs: contents()
                .into_iter()
                .filter(|(name, _)| THEIRS.contains(&&**name))
                .collect(),
            boots: 0,
            memory: Vec::new(),
        };
        soak.put("custom.always", Text::Version(0));
        for name in THEIRS {
            soak.model.held.extend(Held::start(name));
        }
        soak.plain_pass("the first");
        soak
    }

    fn count(&mut self, event: &'static str) {
        *self.counts.entry(event).or_default() += 1;
    }

    /// Some changes, and a pass of some kind. Says which.
    fn step(&mut self) -> &'static str {
        for _ in 0..=self.chance.below(4) {
            self.change();
        }
        let kind = match self.chance.below(12) {
            0 | 1 => self.killed_pass(),
            2 => self.full_disk(),
            3 => self.two_at_once(),
            4 if self.chance.below(2) == 0 => self.reboot(),
            4 => self.other_boot_id(),
            _ => {
                self.plain_pass("a plain one");
                "plain passes"
            }
        };
        self.count(kind);
        kind
    }

    fn a_name(&mut self) -> String {
        format!("custom.s{}", self.chance.below(NAMES))
    }

    fn change(&mut self) {
        let desired: Vec<String> = self.model.desired.keys().skip(1).cloned().collect();
        match self.chance.below(10) {
            0..=2 if desired.len() < 12 => {
                let (name, version) = (self.a_name(), self.chance.below(4));
                self.put(&name, Text::Version(version));
                self.count("texts added or edited");
            }
            3 => {
                if let Some(name) = self.chance.of(&desired) {
                    self.put(&name, Text::Broken);
                    self.count("texts broken");
                }
            }
            4 | 5 => {
                if let Some(name) = self.chance.of(&desired) {
                    self.model.desired.remove(&name);
                    fs::remove_file(format!("{DIR}/source/{name}")).unwrap();
                    self.count("texts removed");
                }
            }
            6 => {
                let now: Vec<String> = loaded()
                    .into_keys()
                    .filter(|n| n.starts_with("custom.s"))
                    .collect();
                if let (Some(name), true) = (self.chance.of(&now), self.model.held.len() < 10) {
                    self.model.held.extend(Held::start(&name));
                    self.count("processes started");
                }
            }
            7 => {
                if self.model.held.len() > THEIRS.len() {
                    let range = self.model.held.len() - THEIRS.len();
                    let at = THEIRS.len() + self.chance.below(range);
                    self.model.held.remove(at);
                    self.count("processes ended");
                }
            }
            8 => self.interfere(),
            _ => {
                let name = self.a_name();
                if self.model.desired.contains_key(&name) {
                    let version = self.chance.below(4);
                    self.put(&name, Text::Version(version));
                    self.count("texts added or edited");
                }
            }
        }
    }

    fn put(&mut self, name: &str, text: Text) {
        fs::write(format!("{DIR}/source/{name}"), text.of(name)).unwrap();
        self.model.desired.insert(name.to_owned(), text);
    }

    /// Another program replaces or removes an owned profile; not from under a process, which could not be
    /// made good.
    fn interfere(&mut self) {
        let idle: Vec<String> = self
            .model
            .good
            .keys()
            .filter(|name| loaded().contains_key(*name) && !self.model.is_used(name))
            .cloned()
            .collect();
        let Some(name) = self.chance.of(&idle) else {
            return;
        };
        let times = self.interfered.entry(name.clone()).or_default();
        if *times == 3 {
            return;
        }
        *times += 1;
        settle();
        if self.chance.below(2) == 0 {
            remove(&name);
            self.count("policy removed behind its back");
        } else {
            replace(&compile(&format!("profile {name} {{ /behind r, }}")));
            self.model.replaced.insert(name);
            self.count("policy replaced behind its back");
        }
    }

    fn pass() -> Command {
        let mut pass = Command::new("/run/guest/busybox");
        pass.args(["time", "-a", "-o", &format!("{DIR}/memory"), "-f", "%M"]);
        pass.arg(harness::binary());
        pass.args([
            "reconcile",
            &format!("{DIR}/source"),
            "--remove-after",
            "0s",
        ]);
        pass.args(["--state-dir", &format!("{DIR}/state")]);
        pass.env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        pass.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        pass
    }

    /// An undisturbed pass: afterwards everything is as the model says.
    fn plain_pass(&mut self, which: &str) {
        let before = loaded().into_keys().collect();
        let output = Self::pass().output().unwrap();
        self.converged(which, &before, &output);
    }

    fn converged(&mut self, which: &str, before: &BTreeSet<String>, output: &std::process::Output) {
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = self.model.after_pass(before);
        assert_eq!(output.status.code(), Some(expected.exit), "{which}: {log}");
        self.safe(which);
        let now = contents();
        let names: BTreeSet<&String> = now
            .keys()
            .filter(|n| n.starts_with("custom.") && !THEIRS.contains(&&***n))
            .collect();
        let must: BTreeSet<&String> = expected.loaded.iter().collect();
        assert_eq!(
            names, must,
            "{which}: loaded on the left, to be loaded on the right: {log}"
        );
        for (name, hash) in &expected.contents {
            assert_eq!(
                now.get(name),
                Some(hash),
                "{which}: {name} has other contents: {log}"
            );
        }
        self.files(which, &log);
        self.note_memory();
        for name in self
            .model
            .left()
            .iter()
            .filter(|name| now.contains_key(*name))
        {
            // By the program that replaced it.
            remove(name);
            self.count("replaced policy left alone");
        }
        self.model.replaced.clear();
    }

    fn note_memory(&mut self) {
        let file = format!("{DIR}/memory");
        let text = fs::read_to_string(&file).unwrap_or_default();
        // A line of words comes first where the exit code is not 0.
        self.memory
            .extend(text.lines().filter_map(|line| line.parse::<u64>().ok()));
        let _ = fs::remove_file(file);
    }

    /// The conditions at any moment, after a killed pass too.
    fn safe(&mut self, which: &str) {
        for held in &self.model.held {
            assert_eq!(
                held.now(),
                held.label,
                "{which}: a process changed its confinement"
            );
        }
        let now = contents();
        for (name, hash) in &self.theirs {
            assert_eq!(
                now.get(name),
                Some(hash),
                "{which}: {name} is another program's"
            );
        }
        if let Ok(text) = fs::read(format!("{DIR}/state/state.json")) {
            let state: Result<serde_json::Value, _> = serde_json::from_slice(&text);
            assert!(state.is_ok(), "{which}: the state does not read");
        }
    }

    /// The state folder holds the profiles' files, and no more.
    fn files(&self, which: &str, log: &str) {
        let names = |path: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(Path::new(DIR).join(path))
                .into_iter()
                .flatten()
                .flatten();
            entries
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect()
        };
        let state = names("state");
        let known = ["lock", "policy", "state.json", "status.json"];
        assert!(
            state.iter().all(|name| known.contains(&&**name)),
            "{which}: {state:?}: {log}"
        );
        let stored = names("state/policy");
        let expected = 2 * self.model.good.len();
        assert_eq!(stored.len(), expected, "{which}: {stored:?}: {log}");
    }

    fn killed_pass(&mut self) -> &'static str {
        let mut pass = Command::new(harness::binary());
        pass.args([
            "reconcile",
            &format!("{DIR}/source"),
            "--remove-after",
            "0s",
        ]);
        pass.args(["--state-dir", &format!("{DIR}/state")])
            .stderr(Stdio::null());
        let mut pass = pass.spawn().unwrap();
        sleep(Duration::from_millis(self.chance.next() % 900));
        let _ = pass.kill();
        let _ = pass.wait();
        self.safe("a killed pass");
        self.plain_pass("after a killed pass");
        "passes killed"
    }

    fn full_disk(&mut self) -> &'static str {
        let leave = self.chance.below(40) << 10;
        let filler = format!("{DIR}/state/filler");
        let _ = fs::write(&filler, vec![0; 2 << 20]);
        let length = fs::metadata(&filler).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&filler).unwrap();
        file.set_len(length.saturating_sub(leave as u64)).unwrap();
        let pass = Self::pass().output().unwrap();
        let log = String::from_utf8_lossy(&pass.stderr).into_owned();
        let code = pass.status.code();
        drop(file);
        fs::remove_file(filler).unwrap();
        assert!(
            [Some(0), Some(1), Some(3)].contains(&code),
            "a full disk: {code:?} {log}"
        );
        self.safe("a full disk");
        self.plain_pass("after a full disk");
        "passes with a full disk"
    }

    fn two_at_once(&mut self) -> &'static str {
        let before = loaded().into_keys().collect();
        let mut pair = [Self::pass(), Self::pass()].map(|mut pass| Some(pass.spawn().unwrap()));
        for pass in &mut pair {
            let output = pass.take().unwrap().wait_with_output().unwrap();
            // The first to end is as good as the second.
            let code = self.model.after_pass(&before).exit;
            let log = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "two at once: {log}");
        }
        self.plain_pass("after two at once");
        "pairs of passes at once"
    }

    fn set_boot_id(&mut self) {
        self.boots += 1;
        let file = format!("{DIR}/boot_id");
        fs::write(
            &file,
            format!("00000000-0000-0000-0000-{:012}\n", self.boots),
        )
        .unwrap();
        sh(&format!(
            "umount {BOOT_ID} 2>/dev/null || true; mount --bind {file} {BOOT_ID}"
        ));
    }

    /// As after a reboot: no process, no policy, another boot.
    fn reboot(&mut self) -> &'static str {
        self.plain_pass("before a reboot");
        self.model.held.truncate(THEIRS.len());
        until("the processes are gone", Model::only_others);
        let keep: Vec<String> = loaded()
            .into_keys()
            .filter(|n| n.starts_with("custom.") && !n.contains("//"))
            .collect();
        for name in keep.iter().filter(|name| !THEIRS.contains(&&***name)) {
            remove(name);
        }
        settle();
        self.set_boot_id();
        if self.chance.below(2) == 0 {
            let mut restore = Command::new(harness::binary());
            restore.args(["restore", "--state-dir", &format!("{DIR}/state")]);
            let output = restore.output().unwrap();
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "restore: {log}");
            let now = contents();
            for (name, version) in &self.model.good {
                let hash = self.model.hash(name, *version);
                assert_eq!(now.get(name), Some(&hash), "{name} was not restored: {log}");
            }
            self.count("restores");
        }
        self.plain_pass("after a reboot");
        "reboots"
    }

    /// Another boot's state, though the policy is still there: profiles as desired are owned again, the rest
    /// has no owner and stays.
    fn other_boot_id(&mut self) -> &'static str {
        self.plain_pass("before another boot id");
        let was = contents();
        self.set_boot_id();
        let output = Self::pass().output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        self.safe("another boot id");
        assert_eq!(
            contents(),
            was,
            "another boot id: nothing is to be loaded or removed: {log}"
        );
        // Their owner removes undesired profiles.
        self.model.held.truncate(THEIRS.len());
        until("the processes are gone", Model::only_others);
        let desired = self.model.members();
        let mut orphans: Vec<String> = was
            .into_keys()
            .filter(|n| n.starts_with("custom.s") && !desired.contains(n))
            .collect();
        orphans.sort_by_key(|name| std::cmp::Reverse(name.len()));
        for name in orphans {
            remove(&name);
            self.model.good.remove(&name);
        }
        self.plain_pass("after another boot id");
        "changes of the boot id"
    }
}

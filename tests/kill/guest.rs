//! The running kernel as the node; in a virtual machine of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::policy::{contents, settle};
use crate::support::kernel::{compile, loaded, remove, remove_all, replace};
use crate::support::{confined, process::label, until};
use crate::sweep::{InForce, Node, all, faults, kills, kills_at_writes, sweep, undisturbed};
use crate::trace::{At, Trace, run};

const DIR: &str = "/tmp/kill";
const KEPT: [&str; 3] = ["custom.keep", "custom.change", "custom.busy"];
const THEIRS: [&str; 2] = ["docker-default", "custom.foreign"];
const CHANGE: [&str; 2] = [
    "profile custom.change { file, signal, }\n",
    "profile custom.change { file, signal, deny /x w, }\n",
];
const FAMILY: [&str; 2] = [
    "profile custom.family { file, profile kid { file, } }\n",
    "profile custom.family { file, }\n",
];

fn plain(name: &str) -> String {
    format!("profile {name} {{ file, signal, }}\n")
}

struct Guest {
    held: Vec<(Child, String)>,
    theirs: InForce,
    /// The policies that are loaded before each pass, in this order.
    blobs: Vec<Vec<u8>>,
}

impl Guest {
    /// Before a pass that has to load, replace, remove a child and remove a profile. With
    /// `compiling` the texts have changed; without, another program undid the pass in the kernel,
    /// so that no compiler is needed, which takes long where the processor is emulated.
    fn new(compiling: bool) -> Self {
        remove_all("custom.");
        let _ = fs::remove_dir_all(DIR);
        for name in THEIRS {
            replace(&compile(&plain(name)));
        }
        for name in ["custom.keep", "custom.gone", "custom.busy"] {
            put(name, &plain(name));
        }
        put("custom.change", CHANGE[0]);
        put("custom.family", FAMILY[0]);
        must(&armorer("reconcile", &["--remove-after", "0s"]));
        let held = KEPT.iter().chain(&THEIRS).map(|name| hold(name)).collect();
        put("custom.change", CHANGE[1]);
        put("custom.family", FAMILY[1]);
        put("custom.new", &plain("custom.new"));
        for name in ["custom.gone", "custom.busy"] {
            fs::remove_file(format!("{DIR}/source/{name}")).unwrap();
        }
        let gone = plain("custom.gone");
        let mut texts = vec![FAMILY[0], CHANGE[0], &gone];
        if !compiling {
            must(&armorer("reconcile", &["--remove-after", "never"]));
            texts.insert(1, FAMILY[1]);
        }
        copy("state", "before");
        let theirs = contents()
            .into_iter()
            .filter(|(name, _)| THEIRS.contains(&&**name))
            .collect();
        let blobs = texts.iter().map(|text| compile(text)).collect();
        Self {
            held,
            theirs,
            blobs,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for (child, _) in &mut self.held {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Node for Guest {
    fn reset(&self) {
        if loaded().contains_key("custom.new") {
            remove("custom.new");
        }
        settle();
        for (number, blob) in self.blobs.iter().enumerate() {
            replace(blob);
            // The next may be the one that this one replaced.
            if number == 0 {
                settle();
            }
        }
        copy("before", "state");
    }

    fn pass(&self, at: Option<At>) -> Trace {
        let pass = armorer("reconcile", &["--remove-after", "0s"]);
        run(&pass, None, at)
    }

    fn next_pass(&self) -> Trace {
        let pass = armorer("reconcile", &["--remove-after", "0s"]);
        let output = Command::new(&pass[0]).args(&pass[1..]).output().unwrap();
        Trace {
            ended: output.status.code().unwrap_or(-1),
            calls: Vec::new(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn plan(&self) -> i32 {
        let plan = armorer("plan", &["--remove-after", "0s", "--exit-code"]);
        let output = Command::new(&plan[0]).args(&plan[1..]).output().unwrap();
        output.status.code().unwrap_or(-1)
    }

    fn in_force(&self) -> InForce {
        contents()
    }

    fn state_dir(&self) -> PathBuf {
        PathBuf::from(DIR).join("state")
    }

    fn untouchable(&self) -> BTreeSet<String> {
        let names = KEPT.iter().chain(&THEIRS).chain(&["custom.family"]);
        names.map(|&name| name.to_owned()).collect()
    }

    fn harmed(&self) -> Option<String> {
        for (child, name) in &self.held {
            let now = label(child.id());
            if now != format!("{name} (enforce)") {
                return Some(format!("a process under {name} is now {now}"));
            }
        }
        let now = contents();
        let touched = self
            .theirs
            .iter()
            .find(|(name, was)| now.get(*name) != Some(was));
        touched.map(|(name, _)| format!("{name} is another program's, and was replaced"))
    }

    fn files(&self) -> BTreeSet<String> {
        let found = walkdir::WalkDir::new(self.state_dir())
            .into_iter()
            .map(Result::unwrap);
        let files = found.filter(|entry| !entry.file_type().is_dir());
        files
            .map(|file| file.path().to_str().unwrap().to_owned())
            .collect()
    }
}

fn put(name: &str, text: &str) {
    fs::create_dir_all(format!("{DIR}/source")).unwrap();
    fs::write(format!("{DIR}/source/{name}"), text).unwrap();
}

fn armorer(command: &str, more: &[&str]) -> Vec<String> {
    let (source, state) = (format!("{DIR}/source"), format!("{DIR}/state"));
    let words = [command, &source, "--state-dir", &state, "--jobs", "1"];
    let words = words.iter().chain(more).map(|&word| word.to_owned());
    let binary = harness::binary().display().to_string();
    std::iter::once(binary).chain(words).collect()
}

fn must(program: &[String]) {
    let status = Command::new(&program[0])
        .args(&program[1..])
        .status()
        .unwrap();
    assert!(status.success(), "{program:?}: {status}");
}

fn hold(name: &str) -> (Child, String) {
    let mut command = confined(name, &["sleep", "100000"]);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until(name, || label(child.id()) == format!("{name} (enforce)"));
    (child, name.to_owned())
}

fn copy(from: &str, to: &str) {
    let _ = fs::remove_dir_all(format!("{DIR}/{to}"));
    let words = [
        "-a".to_owned(),
        format!("{DIR}/{from}"),
        format!("{DIR}/{to}"),
    ];
    assert!(Command::new("cp").args(words).status().unwrap().success());
}

fn sweep_all(compiling: bool, words: &str) {
    let guest = Guest::new(compiling);
    let undisturbed = undisturbed(&guest);
    let calls = &undisturbed.calls;
    let killed = if all() {
        kills(calls)
    } else {
        kills_at_writes(calls)
    };
    println!(
        "\nan unkilled pass makes {} calls; killed at {}",
        calls.len(),
        killed.len()
    );
    let failing = faults(&undisturbed.calls);
    let nodes = [(guest, undisturbed)];
    sweep(&format!("SIGKILL, real kernel, {words}"), &nodes, &killed);
    sweep(
        &format!("each writing call failing, real kernel, {words}"),
        &nodes,
        &failing,
    );
}

#[test]
fn killed_and_failing_with_policy_that_is_stored() {
    sweep_all(false, "stored policy");
}

#[test]
fn killed_and_failing_with_policy_that_is_compiled() {
    if all() {
        sweep_all(true, "compiled policy");
    }
}

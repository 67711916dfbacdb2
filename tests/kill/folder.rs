//! A folder as the node, with a kernel that obeys: the pass stands still at each write to it until the
//! folder shows the files that the kernel would.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::{Node as Folder, binary, profile};

use crate::support::blob;
use crate::sweep::{
    InForce, Node, all, chosen, day, faults, kills, kills_at_writes, sweep, undisturbed,
};
use crate::trace::{At, Kernel, Trace, run};

const POLICY: &str = "sys/kernel/security/apparmor";
const THEIRS: [&str; 2] = ["docker-default", "custom.foreign"];
const FAMILY: &str = "profile custom.family {
  file,
  profile kid { file, }
}
";

pub(crate) struct Native {
    folder: Folder,
    /// The folder as it is before the pass.
    before: PathBuf,
}

impl Native {
    /// A node before a pass that has to load, replace, remove a child and remove a profile, and to repair
    /// another program's replacement and removal, while processes are confined by the rest; if `busy`,
    /// one of them by a profile that is not desired any more, so that each pass has to look again.
    pub(crate) fn new(number: usize, busy: bool) -> Self {
        let folder = Folder::new();
        let before =
            std::env::temp_dir().join(format!("armorer-kill-{}-{number}", std::process::id()));
        let native = Self { folder, before };
        let node = &native.folder;
        for (pid, name) in [(90, THEIRS[0]), (91, THEIRS[1])] {
            node.load(name, &profile(name));
            node.process(pid, "theirs", &format!("{name} (enforce)"));
        }
        for name in ["keep", "change", "gone", "busy", "replaced", "unloaded"] {
            node.put(
                &format!("custom.{name}"),
                format!("profile custom.{name} {{ file, }}\n"),
            );
        }
        node.put("custom.family", FAMILY);
        node.write("other/custom.other", "profile custom.other { file, }\n");
        node.write("copies/custom.theirs", "theirs\n");
        assert_eq!(native.pass(None).ended, 0);
        assert_eq!(native.other_pass().ended, 0);
        node.load("custom.replaced", "profile custom.replaced {\n}\n");
        node.unload("custom.unloaded");
        for (pid, name) in [
            (100, "keep"),
            (101, "change"),
            (102, "family"),
            (103, "busy"),
        ] {
            node.process(pid, "app", &format!("custom.{name} (enforce)"));
        }
        node.put(
            "custom.change",
            "profile custom.change { file, deny /x w, }\n",
        );
        node.put("custom.family", "profile custom.family { file, }\n");
        node.put("custom.new", "profile custom.new { file, }\n");
        node.take_out("custom.gone");
        if busy {
            node.take_out("custom.busy");
        }
        copy(&node.path(""), &native.before);
        native
    }

    fn armorer(&self, command: &str, source: &str, more: &[&str]) -> Vec<String> {
        let root = self.folder.arg("");
        let mut arguments = vec![
            binary().display().to_string(),
            command.to_owned(),
            self.folder.arg(source),
        ];
        arguments.extend(["--root", &root, "--jobs", "1", "--base"].map(str::to_owned));
        arguments.push(self.folder.arg("base"));
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        arguments
    }

    fn run(&self, program: &[String], at: Option<At>) -> Trace {
        self.synced_run(program, at, true)
    }

    /// As `run`; unless `synced`, no fsync is made.
    fn synced_run(&self, program: &[String], at: Option<At>, synced: bool) -> Trace {
        let folder = self.folder.path(POLICY);
        let obey = |file: &str| self.obey(file);
        run(
            program,
            Some(&Kernel {
                folder,
                obey: &obey,
                synced,
            }),
            at,
        )
    }

    /// The pass of the other set.
    pub(crate) fn other_pass(&self) -> Trace {
        let words = self.armorer("reconcile", "other", &["--set", "other"]);
        self.run(&words, None)
    }

    fn reconcile(&self) -> Vec<String> {
        let more = [
            "--remove-after",
            "0s",
            "--copy-to",
            "/copies",
            "--metrics-file",
            "/metrics.prom",
        ];
        self.armorer("reconcile", "profiles", &more)
    }

    /// The pass, as `synced_run` does it.
    pub(crate) fn synced_pass(&self, at: Option<At>, synced: bool) -> Trace {
        self.synced_run(&self.reconcile(), at, synced)
    }

    /// Puts the state folder at `dir`, and a link in its place.
    pub(crate) fn keep_state_in(&self, dir: &Path) {
        let state = self.before.join("var/lib/armorer");
        copy(&state, dir);
        fs::remove_dir_all(&state).unwrap();
        std::os::unix::fs::symlink(dir, state).unwrap();
        copy(dir, &dir.with_extension("before"));
    }

    /// Puts back the state folder that `keep_state_in` has moved.
    pub(crate) fn reset_state(&self) {
        let dir = fs::read_link(self.before.join("var/lib/armorer")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        copy(&dir.with_extension("before"), &dir);
    }

    /// Puts everything back that is not in the state folder that `keep_state_in` has moved.
    pub(crate) fn reset_folder(&self) {
        fs::remove_dir_all(self.folder.path("")).unwrap();
        copy(&self.before, &self.folder.path(""));
    }

    /// Another boot: no process, and no policy but that of others.
    pub(crate) fn boot(&self) {
        for name in self
            .in_force()
            .into_keys()
            .filter(|name| !THEIRS.contains(&&**name))
        {
            self.folder.unload(&name);
        }
        for pid in 100..=103 {
            self.folder.remove(&format!("proc/{pid}"));
        }
        self.folder
            .write("proc/sys/kernel/random/boot_id", "another\n");
    }

    pub(crate) fn restore(&self, at: Option<At>) -> Trace {
        let words = [
            binary().display().to_string(),
            "restore".into(),
            "--root".into(),
            self.folder.arg(""),
        ];
        self.run(&words, at)
    }

    /// `reset` restores the folder as it is now.
    pub(crate) fn begin_here(&self) {
        fs::remove_dir_all(&self.before).unwrap();
        copy(&self.folder.path(""), &self.before);
    }

    fn obey(&self, file: &str) {
        let path = self.folder.path(POLICY).join(format!(".{file}"));
        let written = fs::read(&path).unwrap();
        fs::write(&path, "").unwrap();
        let revision = format!("{POLICY}/revision");
        let before: u64 = self.folder.read(&revision).trim().parse().unwrap();
        if file == "remove" {
            let name = String::from_utf8(written).unwrap();
            for loaded in self.in_force().into_keys() {
                if loaded == name || loaded.starts_with(&format!("{name}//")) {
                    self.folder.unload(&loaded);
                }
            }
        } else {
            let names = blob::names(&written);
            let members: Vec<(&str, &str)> =
                names.iter().map(|name| (&**name, "enforce")).collect();
            self.folder.load_all(&members, &written);
        }
        // One write, one step, however many names it brings.
        self.folder.write(&revision, format!("{}\n", before + 1));
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.before);
    }
}

impl Node for Native {
    fn reset(&self) {
        self.reset_folder();
        if self.before.join("var/lib/armorer").is_symlink() {
            self.reset_state();
        }
    }

    fn pass(&self, at: Option<At>) -> Trace {
        self.synced_pass(at, true)
    }

    fn plan(&self) -> i32 {
        let more = [
            "--remove-after",
            "0s",
            "--exit-code",
            "--copy-to",
            "/copies",
            "--metrics-file",
            "/metrics.prom",
        ];
        let plan = self.armorer("plan", "profiles", &more);
        let output = Command::new(&plan[0]).args(&plan[1..]).env_clear().output();
        output.unwrap().status.code().unwrap_or(-1)
    }

    fn in_force(&self) -> InForce {
        let list = self.folder.read(&format!("{POLICY}/profiles"));
        let names = list.lines().filter_map(|line| line.rsplit_once(" ("));
        names
            .map(|(name, _)| {
                let hash = format!("{POLICY}/policy/profiles/{name}.1/raw_sha256");
                let known = self.folder.exists(&hash).then(|| self.folder.read(&hash));
                (name.to_owned(), known.unwrap_or_default().into_bytes())
            })
            .collect()
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.path("var/lib/armorer")
    }

    fn untouchable(&self) -> BTreeSet<String> {
        let names = [
            "docker-default",
            "custom.foreign",
            "custom.other",
            "custom.keep",
            "custom.change",
            "custom.family",
            "custom.busy",
        ];
        names.map(str::to_owned).into()
    }

    /// Processes of a folder cannot lose anything that their profile does not; files can.
    fn harmed(&self) -> Option<String> {
        let alike = |path: &str| {
            fs::read(self.folder.path(path)).ok() == fs::read(self.before.join(path)).ok()
        };
        let not_ours = [
            "copies/custom.theirs",
            "profiles/custom.change",
            "other/custom.other",
            "base/abstractions/base",
            "proc/101/attr/current",
        ];
        not_ours
            .into_iter()
            .find(|path| !alike(path))
            .map(|path| format!("{path} was changed"))
    }

    fn files(&self) -> BTreeSet<String> {
        let root = self.folder.path("");
        let found = walkdir::WalkDir::new(&root).into_iter().map(Result::unwrap);
        let files = found.filter(|entry| !entry.file_type().is_dir());
        let names = files.map(|file| {
            let name = file.path().strip_prefix(&root).unwrap();
            name.to_str().unwrap().to_owned()
        });
        names.filter(|name| !name.starts_with(POLICY)).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(
        status.unwrap().success(),
        "cp -a {} {}",
        from.display(),
        to.display()
    );
}

/// One node for each processor.
fn nodes(busy: bool) -> Vec<(Native, crate::sweep::Undisturbed)> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let make = |number| {
        let native = Native::new(number, busy);
        let undisturbed = undisturbed(&native);
        (native, undisturbed)
    };
    (0..count).map(make).collect()
}

#[test]
fn killed_at_each_system_call() {
    let nodes = nodes(true);
    let points = chosen(&nodes[0].1.calls, kills(&nodes[0].1.calls), 100);
    sweep("SIGKILL at each call, folder as root", &nodes, &points);
}

#[test]
fn each_write_failing_in_each_way() {
    let nodes = nodes(true);
    let points = faults(&nodes[0].1.calls);
    sweep("each writing call failing, folder as root", &nodes, &points);
}

/// A pass that leaves nothing to do is not looked into by the next: nothing may be left undone
/// when the record says so.
#[test]
fn killed_after_it_is_settled() {
    let nodes = nodes(false);
    let writes = kills_at_writes(&nodes[0].1.calls);
    let own = writes.into_iter().filter(|(at, _)| at.process == 0);
    let own: Vec<_> = own.collect();
    let last = &own[own.len() - 60..];
    sweep("SIGKILL near the end of a pass that settles", &nodes, last);
}

/// A profile that a killed pass has loaded is known as ours, even if its text is another by the next pass:
/// then no blob proves it.
#[test]
fn edited_after_a_kill() {
    const EDITED: &str = "profile custom.new { file, deny /edited w, }\n";
    let nodes = nodes(false);
    let writes = kills_at_writes(&nodes[0].1.calls);
    let own = writes.into_iter().filter(|(at, _)| at.process == 0);
    let own = own
        .enumerate()
        .filter(|(n, _)| all() || (n + day()).is_multiple_of(4));
    let points: Vec<_> = own.map(|(_, point)| point).collect();
    let (next, alone) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (native, _) in &nodes {
            scope.spawn(|| {
                while let Some((at, call)) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    native.reset();
                    native.pass(Some(*at));
                    let left = native.in_force().contains_key("custom.new");
                    alone.fetch_add(usize::from(left), Ordering::Relaxed);
                    native.folder.put("custom.new", EDITED);
                    let next = native.pass(None);
                    assert_eq!(next.ended, 0, "killed at {call}: {}", next.log);
                }
            });
        }
    });
    let alone = alone.into_inner();
    println!(
        "killed at {} calls, {alone} left the new profile behind",
        points.len()
    );
    assert!(alone > 0, "no kill left the new profile behind");
}

//! A folder that looks like a node: what armorer is told to take for `/` (`--root`).
//!
//! It is a snapshot of what a kernel shows, and no emulation: nothing that is written to
//! `.replace` is loaded. So a pass converges here only where what it wants is loaded already;
//! what a kernel does is tested on one (tests/guest).

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

pub(crate) const BOOT: &str = "11111111-2222-3333-4444-555555555555";

/// What the kernel of this node mediates: enough for the compiler.
const FEATURES: [(&str, &str); 10] = [
    (
        "caps/mask",
        "chown dac_override dac_read_search fowner fsetid kill",
    ),
    ("domain/change_hat", "yes"),
    ("domain/change_profile", "yes"),
    ("domain/version", "1.2"),
    (
        "file/mask",
        "create read write exec append mmap_exec link lock",
    ),
    ("network_v8/af_mask", "inet inet6 unix"),
    ("policy/set_load", "yes"),
    ("policy/versions/v7", "yes"),
    ("policy/versions/v8", "yes"),
    ("signal/mask", "hup int quit kill term"),
];

/// One node, gone when dropped.
pub(crate) struct Node {
    root: PathBuf,
}

impl Node {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // Where nobody may enter too: the compiler runs as that.
        let root = std::env::temp_dir().join(format!(
            "armorer-it-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let _ = fs::remove_dir_all(&root);
        let node = Self { root };
        node.write("sys/module/apparmor/parameters/enabled", "Y\n");
        for (file, text) in FEATURES {
            let path = format!("sys/kernel/security/apparmor/features/{file}");
            node.write(&path, format!("{text}\n"));
        }
        for file in ["profiles", ".load", ".replace", ".remove"] {
            node.write(&format!("sys/kernel/security/apparmor/{file}"), "");
        }
        node.write("sys/kernel/security/apparmor/revision", "1\n");
        node.folder("sys/kernel/security/apparmor/policy/profiles");
        node.process(1, "init", "unconfined");
        node.write("proc/sys/kernel/random/boot_id", format!("{BOOT}\n"));
        node.write("proc/self/status", "Name:\tx\nCapEff:\t00000002000000c0\n");
        node.write("proc/self/uid_map", "         0          0 4294967295\n");
        node.write(
            "base/abstractions/base",
            "  signal (receive) peer=unconfined,\n  /lib/** mr,\n",
        );
        node.folder("profiles");
        node
    }

    /// One whose kernel has loaded, and whose source holds, a profile for each of `names`; the
    /// first pass finds all of them loaded.
    pub(crate) fn with(names: &[&str]) -> Self {
        let node = Self::new();
        for name in names {
            node.want(name, profile(name));
            node.load(name, &profile(name));
        }
        node
    }

    /// As `with`, and the first pass has been.
    pub(crate) fn settled(names: &[&str]) -> Self {
        let node = Self::with(names);
        node.reconcile(&[]).assert(0);
        node
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A path as an argument.
    pub(crate) fn arg(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    /// The source.
    pub(crate) fn profiles(&self) -> String {
        self.arg("profiles")
    }

    pub(crate) fn folder(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    pub(crate) fn link(&self, target: impl AsRef<Path>, path: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    /// Puts a profile into the source.
    pub(crate) fn want(&self, name: &str, text: impl AsRef<[u8]>) {
        self.write(&format!("profiles/{name}"), text);
    }

    /// A process with one thread, confined by `label` (with its mode).
    pub(crate) fn process(&self, pid: u32, comm: &str, label: &str) {
        self.write(&format!("proc/{pid}/comm"), format!("{comm}\n"));
        self.write(
            &format!("proc/{pid}/stat"),
            format!("{pid} ({comm}) S 0 0\n"),
        );
        let thread = format!("proc/{pid}/task/{pid}");
        self.write(&format!("{thread}/comm"), format!("{comm}\n"));
        for file in ["attr/apparmor/current", "attr/current"] {
            let label = format!("{label}\n");
            self.write(&format!("proc/{pid}/{file}"), &label);
            self.write(&format!("{thread}/{file}"), &label);
        }
    }

    /// Has the kernel hold what `text` compiles to: one profile, `name`, in mode enforce.
    pub(crate) fn load(&self, name: &str, text: &str) {
        self.load_all(&[(name, "enforce")], &self.compile(text, &[]));
    }

    /// Has the kernel hold `blob`, which brings `members` (name and mode).
    pub(crate) fn load_all(&self, members: &[(&str, &str)], blob: &[u8]) {
        for (name, mode) in members {
            self.unload(name);
            let path = "sys/kernel/security/apparmor/profiles";
            let mut lines = self.read(path);
            let _ = writeln!(lines, "{name} ({mode})");
            self.write(path, lines);
            let entry = format!(
                "sys/kernel/security/apparmor/policy/profiles/{}",
                entry_of(name)
            );
            if !name.contains("//") {
                self.write(&format!("{entry}/name"), format!("{name}\n"));
                self.write(&format!("{entry}/mode"), format!("{mode}\n"));
                self.write(
                    &format!("{entry}/raw_sha256"),
                    format!("{}\n", sha256(blob)),
                );
            }
        }
        self.bump_revision();
    }

    /// Has the kernel hold `name` no more.
    pub(crate) fn unload(&self, name: &str) {
        let path = "sys/kernel/security/apparmor/profiles";
        let lines = self.read(path);
        let left = lines
            .lines()
            .filter(|line| !line.starts_with(&format!("{name} (")));
        let left: Vec<&str> = left.collect();
        let left = left.join("\n") + "\n";
        self.write(path, left);
        let entry = format!(
            "sys/kernel/security/apparmor/policy/profiles/{}",
            entry_of(name)
        );
        if self.exists(&entry) {
            self.remove(&entry);
        }
        self.bump_revision();
    }

    fn bump_revision(&self) {
        let path = "sys/kernel/security/apparmor/revision";
        let revision: u64 = self.read(path).trim().parse().unwrap();
        self.write(path, format!("{}\n", revision + 1));
    }

    /// What the kernel was last told to load: the snapshot keeps it.
    pub(crate) fn written(&self) -> Vec<u8> {
        fs::read(self.path("sys/kernel/security/apparmor/.replace")).unwrap()
    }

    /// What the kernel was last told to remove.
    pub(crate) fn removed(&self) -> String {
        self.read("sys/kernel/security/apparmor/.remove")
    }

    /// The compiled policy of `text`, without armorer.
    pub(crate) fn compile(&self, text: &str, options: &[&str]) -> Vec<u8> {
        let base = self.path("base");
        self.write("compile", text);
        let output = Command::new(parser())
            .args(["-Q", "-K", "-S", "-j0", "-b"])
            .arg(base)
            .arg("--kernel-features")
            .arg(self.path("sys/kernel/security/apparmor/features"))
            .args(options)
            .arg(self.path("compile"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    /// A pass over the source, with further arguments.
    pub(crate) fn reconcile(&self, arguments: &[&str]) -> Run {
        self.pass("reconcile", arguments)
    }

    /// A plan over the source, with further arguments.
    pub(crate) fn plan(&self, arguments: &[&str]) -> Run {
        self.pass("plan", arguments)
    }

    fn pass(&self, command: &str, arguments: &[&str]) -> Run {
        let profiles = self.profiles();
        let mut all = vec![command, profiles.as_str()];
        all.extend(arguments);
        self.run(&all)
    }

    /// armorer on this node.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, &[])
    }

    /// armorer on this node, with these variables and no others.
    pub(crate) fn run_with(&self, arguments: &[&str], env: &[(&str, &str)]) -> Run {
        let mut command = self.command(arguments);
        command.envs(env.iter().copied());
        Run(command.output().unwrap())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = armorer(arguments);
        command
            .arg("--root")
            .arg(&self.root)
            .env("ARMORER_BASE", self.path("base"))
            .current_dir(&self.root);
        command
    }

    /// The state as JSON.
    pub(crate) fn state(&self) -> serde_json::Value {
        serde_json::from_str(&self.read("var/lib/armorer/state.json")).unwrap()
    }

    /// Changes the recorded state.
    pub(crate) fn edit_state(&self, edit: impl FnOnce(&mut serde_json::Value)) {
        let mut state = self.state();
        edit(&mut state);
        self.write("var/lib/armorer/state.json", format!("{state}\n"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// armorer with an empty environment.
pub(crate) fn armorer<S: AsRef<OsStr>>(arguments: &[S]) -> assert_cmd::Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("armorer");
    command.env_clear().args(arguments);
    command
}

/// As `armorer`, done.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Run {
    Run(armorer(arguments).output().unwrap())
}

/// How a command ended.
pub(crate) struct Run(pub(crate) Output);

impl Run {
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().expect("it was not killed")
    }

    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.0.stdout).unwrap()
    }

    pub(crate) fn stderr(&self) -> &str {
        std::str::from_utf8(&self.0.stderr).unwrap()
    }

    /// That it ended with `code`.
    #[track_caller]
    pub(crate) fn assert(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{self}");
        self
    }

    /// That it printed `lines` and nothing else.
    #[track_caller]
    pub(crate) fn prints(self, lines: &[&str]) -> Self {
        let printed: Vec<&str> = self.stdout().lines().collect();
        assert_eq!(printed, lines, "{self}");
        self
    }

    /// That it ended with `code`, printed nothing and said one line that holds all of `words`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        let run = self.assert(code);
        assert_eq!(run.stdout(), "", "{run}");
        let said = run.stderr();
        assert_eq!(said.lines().count(), 1, "{run}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        assert_plain(said);
        run
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.stdout()).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// What it logged, a line each, as JSON.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<serde_json::Value> {
        let event = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self}"));
        self.stderr().lines().map(event).collect()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        write!(
            f,
            "{}\n--- stdout\n{}--- stderr\n{}",
            self.0.status,
            text(&self.0.stdout),
            text(&self.0.stderr)
        )
    }
}

/// That no terminal obeys anything in `text`.
#[track_caller]
pub(crate) fn assert_plain(text: &str) {
    let obeyed = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(obeyed), "{text:?}");
}

/// A profile that hurts nobody, and that `check` has nothing to say about.
pub(crate) fn profile(name: &str) -> String {
    format!(
        "profile {name} flags=(attach_disconnected) {{\n  include <abstractions/base>\n  file,\n}}\n"
    )
}

/// The compiler. There is no test here without it, and none is passed over.
pub(crate) fn parser() -> PathBuf {
    ["/sbin", "/usr/sbin", "/bin", "/usr/bin", "/usr/local/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join("apparmor_parser"))
        .find(|path| path.is_file())
        .expect("these tests need apparmor_parser: install the package apparmor")
}

/// The kernel's name of a profile's folder, for the simple names used here.
fn entry_of(name: &str) -> String {
    format!("{}.1", name.replace('/', "."))
}

fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

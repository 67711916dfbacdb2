//! A folder that looks like a node, for `--root`.
//!
//! It is a snapshot of a kernel's files, not an emulation: nothing that is written to `.load`,
//! `.replace` or `.remove` happens. So a pass converges here only where the desired profiles are loaded
//! already; the kernel's behaviour is tested on one (tests/guest).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{Run, armorer, parser};

/// The boot of every node.
pub const BOOT: &str = "11111111-2222-3333-4444-555555555555";

const POLICY: &str = "sys/kernel/security/apparmor";

/// The features of this node's kernel: enough for the compiler.
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
pub struct Node {
    root: PathBuf,
}

impl Node {
    /// A node with AppArmor, process 1, an empty source and nothing loaded.
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // Where any user may enter: each compiler is another one.
        let root = std::env::temp_dir().join(format!(
            "armorer-node-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let _ = fs::remove_dir_all(&root);
        let node = Self { root };
        node.write("sys/module/apparmor/parameters/enabled", "Y\n");
        for (file, text) in FEATURES {
            node.write(&format!("{POLICY}/features/{file}"), format!("{text}\n"));
        }
        for file in ["profiles", ".load", ".replace", ".remove"] {
            node.write(&format!("{POLICY}/{file}"), "");
        }
        node.write(&format!("{POLICY}/revision"), "1\n");
        node.folder(&format!("{POLICY}/policy/profiles"));
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

    /// One whose kernel has loaded, and whose source holds, a profile for each of `names`; no pass
    /// has been.
    pub fn with(names: &[&str]) -> Self {
        let node = Self::new();
        for name in names {
            node.put_loaded(name, &profile(name));
        }
        node
    }

    /// As [`Self::with`]; the set `default` owns them all, and a further pass would change nothing.
    pub fn settled(names: &[&str]) -> Self {
        let node = Self::with(names);
        node.reconcile(&[]).assert(0);
        node
    }

    /// A path below the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A path below the root, as an argument.
    pub fn arg(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    /// The source.
    pub fn source(&self) -> String {
        self.arg("profiles")
    }

    /// Makes a folder.
    pub fn folder(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    /// Writes a file, and makes its folder.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// The text of a file.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let text = fs::read_to_string(self.path(path));
        text.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Whether there is anything at `path`, if only a link that leads nowhere.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Removes a file, a link or a whole folder.
    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// Makes a link.
    pub fn link(&self, target: impl AsRef<Path>, path: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    /// Sets the mode of a file or folder.
    pub fn set_mode(&self, path: &str, mode: u32) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(self.path(path), mode).unwrap();
    }

    /// The mode of a file or folder.
    pub fn mode(&self, path: &str) -> u32 {
        let metadata = self.path(path).metadata().unwrap();
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777
    }

    /// Every file below the root but those called one of `without`, with its contents and the time of
    /// its last change.
    pub fn files(&self, without: &[&str]) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let entries = walkdir::WalkDir::new(&self.root).into_iter();
        let entries = entries.map(Result::unwrap).filter(|entry| {
            entry.file_type().is_file() && without.iter().all(|name| entry.file_name() != *name)
        });
        let files = entries.map(|entry| {
            let changed = entry.metadata().unwrap().modified().unwrap();
            let bytes = fs::read(entry.path()).unwrap_or_default();
            (entry.into_path(), (bytes, changed))
        });
        files.collect()
    }

    /// Puts a profile into the source.
    pub fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        self.write(&format!("profiles/{name}"), text);
    }

    /// Puts a profile into the source and has the kernel hold it.
    pub fn put_loaded(&self, name: &str, text: &str) {
        self.put(name, text);
        self.load(name, text);
    }

    /// Takes a profile out of the source.
    pub fn take_out(&self, name: &str) {
        self.remove(&format!("profiles/{name}"));
    }

    /// A process with one thread, confined by `label` (with its mode).
    pub fn process(&self, pid: u32, comm: &str, label: &str) {
        self.write(&format!("proc/{pid}/comm"), format!("{comm}\n"));
        let stat = format!("{pid} ({comm}) S 0 0\n");
        self.write(&format!("proc/{pid}/stat"), stat);
        let thread = format!("proc/{pid}/task/{pid}");
        self.write(&format!("{thread}/comm"), format!("{comm}\n"));
        for file in ["attr/apparmor/current", "attr/current"] {
            let label = format!("{label}\n");
            self.write(&format!("proc/{pid}/{file}"), &label);
            self.write(&format!("{thread}/{file}"), &label);
        }
    }

    /// Begins another boot, in which nothing is loaded.
    pub fn reboot(&self, boot_id: &str) {
        for line in self.read(&format!("{POLICY}/profiles")).lines() {
            self.unload(line.rsplit_once(" (").unwrap().0);
        }
        self.write("proc/sys/kernel/random/boot_id", format!("{boot_id}\n"));
    }

    /// Has the kernel hold the policy of `text`: one profile, `name`, in mode enforce.
    pub fn load(&self, name: &str, text: &str) {
        self.load_all(&[(name, "enforce")], &self.compile(text, &[]));
    }

    /// Has the kernel hold `policy`, which brings `members` (name and mode).
    pub fn load_all(&self, members: &[(&str, &str)], policy: &[u8]) {
        let hash = sha256(policy);
        for (name, mode) in members {
            self.unload(name);
            let mut lines = self.read(&format!("{POLICY}/profiles"));
            let _ = writeln!(lines, "{name} ({mode})");
            self.write(&format!("{POLICY}/profiles"), lines);
            if !name.contains("//") {
                let entry = entry_of(name);
                self.write(&format!("{entry}/name"), format!("{name}\n"));
                self.write(&format!("{entry}/mode"), format!("{mode}\n"));
                self.write(&format!("{entry}/raw_sha256"), format!("{hash}\n"));
            }
        }
        self.bump_revision();
    }

    /// Has the kernel hold `name` no more.
    pub fn unload(&self, name: &str) {
        let lines = self.read(&format!("{POLICY}/profiles"));
        let other = |line: &&str| !line.starts_with(&format!("{name} ("));
        let left: String = lines.split_inclusive('\n').filter(other).collect();
        self.write(&format!("{POLICY}/profiles"), left);
        if self.exists(&entry_of(name)) {
            self.remove(&entry_of(name));
        }
        self.bump_revision();
    }

    fn bump_revision(&self) {
        let path = format!("{POLICY}/revision");
        let revision: u64 = self.read(&path).trim().parse().unwrap();
        self.write(&path, format!("{}\n", revision + 1));
    }

    /// The last policy that was written for names of which none was loaded.
    pub fn load_written(&self) -> Vec<u8> {
        self.written(".load")
    }

    /// The last policy that was written in place of a loaded one.
    pub fn replace_written(&self) -> Vec<u8> {
        self.written(".replace")
    }

    /// The last name that was to be removed.
    pub fn removed(&self) -> String {
        String::from_utf8(self.written(".remove")).unwrap()
    }

    fn written(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(&format!("{POLICY}/{file}"))).unwrap()
    }

    /// Asserts that the kernel was not asked for any change.
    #[track_caller]
    pub fn assert_untouched(&self) {
        for file in [".load", ".replace", ".remove"] {
            let written = self.written(file);
            assert_eq!(String::from_utf8_lossy(&written), "", "written to {file}");
        }
    }

    /// Forgets the writes.
    pub fn forget_writes(&self) {
        for file in [".load", ".replace", ".remove"] {
            self.write(&format!("{POLICY}/{file}"), "");
        }
    }

    /// The compiled policy of `text`, without armorer.
    pub fn compile(&self, text: &str, options: &[&str]) -> Vec<u8> {
        let base = self.path("base");
        self.write("compile", text);
        let output = Command::new(parser())
            .args(["-Q", "-K", "-S", "-j0", "-b"])
            .arg(base)
            .arg("--kernel-features")
            .arg(self.path(&format!("{POLICY}/features")))
            .args(options)
            .arg(self.path("compile"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    /// A pass over the source, with further arguments.
    pub fn reconcile(&self, arguments: &[&str]) -> Run {
        self.run(&[&["reconcile", &self.source()], arguments].concat())
    }

    /// A plan over the source, with further arguments.
    pub fn plan(&self, arguments: &[&str]) -> Run {
        self.run(&[&["plan", &self.source()], arguments].concat())
    }

    /// armorer on this node.
    pub fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, &[])
    }

    /// armorer on this node, with these variables and no others.
    pub fn run_with(&self, arguments: &[&str], env: &[(&str, &str)]) -> Run {
        let mut command = self.command(arguments);
        command.envs(env.iter().copied());
        Run::to_the_end(command)
    }

    /// armorer on this node, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = armorer(arguments);
        command
            .env("ARMORER_ROOT", &self.root)
            .env("ARMORER_BASE", self.path("base"))
            .current_dir(&self.root);
        command
    }

    /// armorer on this node as the last words of the command `wrapper`, not started yet.
    pub fn under(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let armorer = self.command(arguments);
        let variables = armorer
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        let mut command = Command::new(wrapper[0]);
        command
            .args(&wrapper[1..])
            .arg(armorer.get_program())
            .args(armorer.get_args())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(variables)
            .stdin(Stdio::null())
            .current_dir(&self.root);
        command
    }

    /// The state.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.read("var/lib/armorer/state.json")).unwrap()
    }

    /// The record of the set `default`.
    pub fn set(&self) -> Value {
        self.state()["sets"]["default"].clone()
    }

    /// Changes the recorded state.
    pub fn edit_state(&self, edit: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        edit(&mut state);
        self.write("var/lib/armorer/state.json", format!("{state}\n"));
    }

    /// The status file of the set `default`.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.read("var/lib/armorer/status.json")).unwrap()
    }

    /// Has the loop `id` turn now.
    pub fn beat(&self, id: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let line = format!("{} {id}\n", now.as_secs());
        self.write("run/armorer/loop", line);
    }

    /// A pass of the loop `id`, with further arguments.
    pub fn loop_pass(&self, id: &str, arguments: &[&str]) -> Run {
        self.beat(id);
        self.reconcile(&[&["--loop", id], arguments].concat())
    }

    /// The answer to a Kubernetes probe: `ready` or `live`.
    pub fn probe(&self, question: &str, arguments: &[&str]) -> Run {
        self.run(&[&["status", "--probe", question], arguments].concat())
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// As the kernel writes it: 64 hexadecimal digits.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A profile that harms no process.
pub fn profile(name: &str) -> String {
    format!(
        "profile {name} flags=(attach_disconnected) {{\n  include <abstractions/base>\n  file,\n}}\n"
    )
}

/// The kernel's folder of a profile, for the simple names used here.
fn entry_of(name: &str) -> String {
    let name = name.trim_start_matches('/').replace('/', ".");
    format!("{POLICY}/policy/profiles/{name}.1")
}

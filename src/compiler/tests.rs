//! The cage, with the real apparmor_parser and with a program that looks around in it.

use std::fs::File;
use std::io::Seek as _;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::{Arc, Mutex, Weak};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::outcome::Kind;
use crate::policy;
use crate::tests::Folder;

/// Becomes the compiler in the child: the test program is not armorer, and runs this "test".
#[test]
fn as_child() {
    let args: Vec<String> = std::env::args().collect();
    let Some(at) = args.iter().position(|arg| arg == CHILD) else {
        return;
    };
    // The test program has printed a line.
    let mut stdout = File::from(rustix::io::dup(rustix::stdio::stdout()).unwrap());
    stdout.set_len(0).unwrap();
    stdout.rewind().unwrap();
    child(&args[at + 1..]);
    std::process::exit(child::NOT_STARTED);
}

/// Is the pass that another test kills: compiles a text that never ends with the program behind the
/// word.
#[test]
fn as_pass() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "as-a-pass") {
        let compiler = compiler(Settings {
            program: Some(PathBuf::from(&args[at + 1])),
            ..settings()
        });
        compile(&compiler, &["pause"]);
    }
}

fn settings() -> Settings {
    Settings {
        program: None,
        base: "/etc/apparmor.d".into(),
        features: "/nowhere".into(),
        proc: "/proc".into(),
        time: Duration::from_secs(20),
        jobs: Some(2),
        complain: false,
        policy_bytes: 16 << 20,
    }
}

fn compiler(settings: Settings) -> Compiler {
    let mut compiler = Compiler::find(settings).unwrap();
    let launcher = [
        "/proc/self/exe",
        "--exact",
        "compiler::tests::as_child",
        "--nocapture",
        "--test-threads=1",
        "--",
        CHILD,
    ];
    compiler.launcher = launcher.map(str::to_owned).to_vec();
    compiler
}

/// The program `stand-in` as a compiler, which obeys its text.
struct Looking {
    compiler: Compiler,
    folder: Arc<Folder>,
}

impl std::ops::Deref for Looking {
    type Target = Compiler;

    fn deref(&self) -> &Compiler {
        &self.compiler
    }
}

fn looking(settings: Settings) -> Looking {
    static FOLDER: Mutex<Weak<Folder>> = Mutex::new(Weak::new());
    let mut shared = FOLDER.lock().unwrap();
    let folder = shared.upgrade().unwrap_or_else(|| {
        let folder = Folder::new();
        folder.write("stand-in.c", include_str!("tests/stand-in.c"));
        let files = [folder.at("stand-in"), folder.at("stand-in.c")];
        let mut command = Command::new("cc");
        let status = command
            .args(["-Wall", "-Werror", "-o"])
            .args(files)
            .status();
        assert!(status.expect("cc is needed here").success());
        Arc::new(folder)
    });
    *shared = Arc::downgrade(&folder);
    let settings = Settings {
        program: Some(folder.at("stand-in")),
        ..settings
    };
    Looking {
        compiler: compiler(settings),
        folder,
    }
}

/// In the order in which they were given out.
type Results = Vec<(usize, Result<Compiled, Refusal>)>;

fn compile_until(compiler: &Compiler, texts: &[Text], deadline: Instant) -> Results {
    let mut results = Vec::new();
    let end = compiler.compile(texts, deadline, &mut |result| {
        results.extend(result);
        Ok(())
    });
    end.unwrap();
    results
}

fn text(contents: &str) -> Text<'_> {
    Text {
        name: "custom.x",
        contents,
        last: false,
    }
}

fn compile(compiler: &Compiler, texts: &[&str]) -> Results {
    let texts: Vec<_> = texts.iter().map(|contents| text(contents)).collect();
    compile_until(compiler, &texts, Instant::now() + Duration::from_mins(1))
}

fn one(compiler: &Compiler, text: &str) -> Result<Compiled, Refusal> {
    compile(compiler, &[text]).remove(0).1
}

/// The answer of the program that stands in for the compiler.
fn answer(compiler: &Compiler, text: &str) -> String {
    String::from_utf8(one(compiler, text).unwrap().policy).unwrap()
}

/// The refusal of a text for its own sake.
#[track_caller]
fn refusal(result: Result<Compiled, Refusal>) -> Refusal {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.kind, Kind::Refused, "{refusal}");
    refusal
}

/// Texts with everything that makes a compiler read or write something.
const TEXTS: [&str; 6] = [
    "include <tunables/global>\nprofile custom.a {\n include <abstractions/base>\n /a/** rw,\n}\n",
    "@{DIR}=/a /b\n@{DIR}+=/c\nprofile custom.b { @{DIR}/x r, }\n",
    "profile custom.d flags=(attach_disconnected) {\n /d r,\n ^hat { /h r, }\n profile sub { /s r, }\n}\n",
    "alias /usr/ -> /mnt/usr/,\nprofile custom.e { /usr/bin/x mr, }\n",
    "abi <abi/3.0>,\nprofile custom.g {\n capability net_admin,\n signal (send) peer=x,\n unix,\n dbus,\n}\n",
    "profile custom.i { set rlimit nofile <= 8, deny /x** w, ptrace, mount, network inet, }\n",
];

/// TEXTS, and the samples that a user is given.
fn texts() -> Vec<String> {
    let samples = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/kustomize/overlays/samples/profiles"
    );
    let samples = fs::read_dir(samples).unwrap();
    let samples = samples.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    // The compilers of older distributions bring no newer abi.
    let newer = !Path::new("/etc/apparmor.d/abi/4.0").exists();
    let samples = samples.filter(|text| !(newer && text.contains("abi <abi/4.0>")));
    let texts: Vec<String> = TEXTS
        .into_iter()
        .map(str::to_owned)
        .chain(samples)
        .collect();
    assert!(texts.len() > TEXTS.len());
    texts
}

/// The policy of `text` by the compiler outside the cage, with the same options.
fn uncaged(compiler: &Compiler, text: &str) -> Vec<u8> {
    let folder = Folder::new();
    folder.write("text", text);
    let Settings { base, features, .. } = &compiler.settings;
    let mut command = Command::new(&compiler.program);
    command.args(["-Q", "-K", "-S", "-j0", "-b"]).arg(base);
    if features.exists() {
        command.arg("--kernel-features").arg(features);
    }
    let input = File::open(folder.at("text")).unwrap();
    let output = command.arg(TEXT).env_clear().stdin(input).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// With its configuration, the features or an include out of reach, the compiler makes weaker policy
/// without a word.
#[test]
fn the_cage_changes_no_byte_of_the_policy() {
    let folder = Folder::new();
    fs::copy("/etc/apparmor.d/abi/3.0", folder.at("features")).unwrap();
    for features in [PathBuf::from("/nowhere"), folder.at("features")] {
        let compiler = compiler(Settings {
            features,
            ..settings()
        });
        let texts = texts();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for (index, result) in compile(&compiler, &texts) {
            let text = texts[index];
            let policy = result.unwrap().policy;
            assert!(policy == uncaged(&compiler, text), "{text}");
        }
    }
}

#[test]
fn each_text_has_a_result_of_its_own() {
    let compiler = compiler(settings());
    let texts = [
        "profile custom.x { /a r, }\n",
        "profile custom.x {\n  /a r\n}\n",
        "# nothing\n",
        "profile custom.x {\n include <nope/nope>\n}\n",
    ];
    let results = compile(&compiler, &texts);
    assert_eq!(results.len(), 4);
    for (index, result) in results {
        if index == 0 {
            let members = policy::members(&result.unwrap().policy).unwrap();
            assert_eq!(members[0].name, "custom.x");
            continue;
        }
        let refusal = refusal(result);
        assert_eq!(refusal.reason, "compile");
        let line = [None, Some(2), None, Some(2)][index];
        assert_eq!(refusal.line, line, "{refusal}");
    }
}

/// Which of `paths` the compiler can open, in the cage that `compiler` makes.
fn opened<'a>(compiler: &Compiler, paths: &[&'a str]) -> Vec<&'a str> {
    let answer = answer(compiler, &format!("open {}", paths.join(" ")));
    let results = answer.lines().zip(paths);
    results
        .filter_map(|(line, path)| (line == "0").then_some(*path))
        .collect()
}

#[test]
fn the_compiler_reads_its_own_files_and_no_other() {
    let outside = Folder::new();
    outside.write("file", "");
    let link = "/etc/apparmor.d/../passwd";
    let file = outside.at("file");
    let denied = [
        "/etc/passwd",
        "/etc",
        "/",
        "/proc/self/environ",
        "/proc/1/status",
        "/sys/kernel",
        "/dev/null",
        "/tmp",
        "/var/lib",
        "/bin/sh",
        link,
        file.to_str().unwrap(),
    ];
    let compiler = looking(settings());
    let mut allowed = vec!["/etc/apparmor.d", "/etc/apparmor.d/abstractions/base"];
    allowed.extend(["/etc/ld.so.cache", compiler.program.to_str().unwrap()]);
    let configured = configuration();
    allowed.extend(configured.iter().map(|path| path.to_str().unwrap()));
    assert_eq!(opened(&compiler, &allowed), allowed);
    if has_landlock(&compiler) {
        assert_eq!(opened(&compiler, &denied), Vec::<&str>::new());
        let features = looking(Settings {
            features: outside.at("file"),
            ..settings()
        });
        let file = file.to_str().unwrap();
        assert_eq!(opened(&features, &[file, "/etc/passwd"]), [file]);
    }
}

/// Whether this machine's kernel has Landlock, by the cage's report.
fn has_landlock(compiler: &Compiler) -> bool {
    one(compiler, "open /").unwrap().cage != "none"
}

#[test]
fn the_compiler_writes_executes_and_reaches_nothing() {
    let compiler = looking(settings());
    if !has_landlock(&compiler) {
        return;
    }
    let denied = "13";
    let made = std::env::temp_dir().join("armorer-unit-made");
    let made = made.display().to_string();
    for text in [
        format!("create {made}"),
        "execute /bin/sh".to_owned(),
        "execute /usr/bin/env".to_owned(),
    ] {
        assert_eq!(answer(&compiler, &text).trim(), denied, "{text}");
    }
    assert!(!Path::new(&made).exists());
    // The network is restricted from Linux 6.7 on.
    if one(&compiler, "open /").unwrap().cage == "full" {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = format!("connect {port}");
        assert_eq!(answer(&compiler, &text).trim(), denied);
    }
}

#[test]
fn the_compiler_inherits_nothing_and_has_no_rights() {
    let compiler = looking(Settings {
        complain: true,
        ..settings()
    });
    // Of the kind that a careless library leaves open.
    let leak = rustix::fs::memfd_create("leak", rustix::fs::MemfdFlags::empty()).unwrap();
    let answer = answer(&compiler, "look");
    drop(leak);
    let fields: std::collections::BTreeMap<&str, &str> = answer
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    for (field, value) in [
        ("groups", "0"),
        ("capabilities", "0"),
        ("no_new_privs", "1"),
        ("environment", "0"),
        ("descriptors", "0 1 2"),
        ("folder", "/"),
        ("core", "0 0"),
        ("files", "64 64"),
        ("processor", "20 22"),
        ("size", "16777216 16777216"),
        (
            "arguments",
            "-Q -K -S -j0 --warn=rule-not-enforced --warn=rule-downgraded -b /etc/apparmor.d -C /proc/self/fd/0",
        ),
    ] {
        if field != "groups" || rustix::process::geteuid().is_root() {
            assert_eq!(fields[field], value, "{field}");
        }
    }
    let memory = compiler.resources.address_space;
    assert_eq!(fields["memory"], format!("{memory} {memory}"));
}

#[test]
fn each_compiler_has_a_user_and_a_group_of_its_own() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let compiler = looking(settings());
    let results = compile(&compiler, &["look"; 6]);
    let users = results.into_iter().map(|(_, result)| {
        let answer = String::from_utf8(result.unwrap().policy).unwrap();
        let ids = |field| {
            let line = answer.lines().find_map(|line| line.strip_prefix(field));
            let ids = line.unwrap().split_whitespace();
            ids.map(|id| id.parse().unwrap()).collect::<Vec<u32>>()
        };
        let user = ids("user ")[0];
        // Real, effective and saved.
        assert_eq!(
            (ids("user "), ids("group ")),
            (vec![user; 3], vec![user; 3])
        );
        assert!(USERS.contains(&user), "{user}");
        user
    });
    assert_eq!(users.collect::<BTreeSet<_>>().len(), 6);
}

/// All users but one are those of processes.
#[test]
fn a_user_that_a_process_has_is_never_drawn() {
    let proc = Folder::new();
    let own = fs::metadata(proc.path()).unwrap().uid();
    let drawn = || {
        let user = free_users(proc.path(), own..=own + 1);
        (0..64).map(|_| user()).collect::<BTreeSet<_>>()
    };
    assert_eq!(drawn(), BTreeSet::from([own, own + 1]));
    proc.write("17/comm", "");
    assert_eq!(drawn(), BTreeSet::from([own + 1]));
}

#[test]
fn policy_above_the_limit_is_refused() {
    let compiler = compiler(Settings {
        policy_bytes: 1000,
        ..settings()
    });
    let refusal = refusal(one(&compiler, TEXTS[0]));
    assert_eq!(refusal.reason, "limit", "{refusal}");
    assert!(refusal.message.contains("1000"), "{refusal}");
    let compiler = looking(compiler.settings);
    assert_eq!(answer(&compiler, "write 1000").len(), 1000);
}

#[test]
fn no_more_compilers_run_at_once_than_jobs() {
    let compiler = looking(Settings {
        jobs: Some(3),
        ..settings()
    });
    assert_eq!(
        compiler.resources.jobs, 3,
        "this machine has too little memory"
    );
    let mut changes = Vec::new();
    for (_, result) in compile(&compiler, &["sleep 400"; 7]) {
        let answer = String::from_utf8(result.unwrap().policy).unwrap();
        let (start, end) = answer.trim().split_once(' ').unwrap();
        changes.extend([
            (start.parse::<u64>().unwrap(), 1),
            (end.parse().unwrap(), -1),
        ]);
    }
    changes.sort_unstable();
    let mut running = 0;
    let running = changes.iter().map(|(_, change)| {
        running += change;
        running
    });
    assert_eq!(running.max(), Some(3));
}

#[test]
fn large_texts_are_compiled_first_and_failed_ones_last() {
    let compiler = looking(Settings {
        jobs: Some(1),
        ..settings()
    });
    let contents = [1, 3, 2, 4, 5].map(|length| format!("sleep 0{}", "\n".repeat(length)));
    let mut texts: Vec<Text> = contents.iter().map(|contents| text(contents)).collect();
    texts[3].last = true;
    texts[4].last = true;
    let deadline = Instant::now() + Duration::from_mins(1);
    let results = compile_until(&compiler, &texts, deadline);
    let order: Vec<usize> = results.iter().map(|(index, _)| *index).collect();
    assert_eq!(order, [1, 2, 0, 4, 3]);
}

/// A program that stands in for the compiler, and whose processes are known by its path.
struct Endless {
    _looking: Looking,
    program: PathBuf,
}

impl Endless {
    fn new(name: &str) -> Self {
        let looking = looking(settings());
        let program = looking.folder.at(name);
        // Not a copy: a file that is still open for writing in a child of another test does not run.
        fs::hard_link(&looking.program, &program).unwrap();
        Self {
            _looking: looking,
            program,
        }
    }

    fn compiler(&self) -> Compiler {
        let mut compiler = compiler(settings());
        compiler.program.clone_from(&self.program);
        compiler
    }

    fn processes(&self) -> Vec<Pid> {
        let processes = fs::read_dir("/proc").unwrap();
        let processes = processes.filter_map(|process| {
            let process = process.ok()?;
            let program = fs::read_link(process.path().join("exe")).ok()?;
            let pid = process.file_name().to_str()?.parse().ok()?;
            (program == self.program).then(|| Pid::from_raw(pid))?
        });
        processes.collect()
    }

    /// Waits until so many processes are there.
    #[track_caller]
    fn until(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.processes().len() != count {
            assert!(Instant::now() < end, "{:?}", self.processes());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn an_error_ends_the_other_compilers() {
    let endless = Endless::new("dropped");
    let texts = [text("hang"), text("look")];
    let deadline = Instant::now() + Duration::from_mins(1);
    let compiler = endless.compiler();
    let end = compiler.compile(&texts, deadline, &mut |result| {
        let Some((index, _)) = result else {
            return Ok(());
        };
        assert_eq!(index, 1);
        endless.until(2);
        Err(Error::State("disk full".into()))
    });
    assert!(matches!(end, Err(Error::State(_))));
    endless.until(0);
}

#[test]
fn a_killed_pass_leaves_no_compiler() {
    let endless = Endless::new("orphan");
    let mut pass = Command::new("/proc/self/exe")
        .args(["--exact", "compiler::tests::as_pass", "--test-threads=1"])
        .args(["--", "as-a-pass"])
        .arg(&endless.program)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    endless.until(1);
    pass.kill().unwrap();
    pass.wait().unwrap();
    endless.until(0);
}

/// Where one of them differs, a text is compiled anew.
#[test]
fn the_digest_follows_compiler_options_and_features() {
    type Change = fn(&mut Compiler);
    let changes: [Change; 6] = [
        |compiler| compiler.settings.complain = true,
        |compiler| compiler.settings.policy_bytes += 1,
        |compiler| compiler.settings.time += Duration::from_secs(1),
        |compiler| compiler.settings.base = "/other".into(),
        |compiler| compiler.resources.address_space += 1,
        |compiler| compiler.program = "/bin/true".into(),
    ];
    let compiler = looking(settings());
    let digest = compiler.digest().unwrap();
    assert_eq!(compiler.digest().unwrap(), digest);
    for (n, change) in changes.iter().enumerate() {
        let mut other = looking(settings()).compiler;
        change(&mut other);
        assert_ne!(other.digest().unwrap(), digest, "{n}");
    }
    let node = Folder::new();
    node.write("features/file/mask", "create read\n");
    let compiler = looking(Settings {
        features: node.at("features"),
        ..settings()
    });
    let first = compiler.features().unwrap();
    assert_eq!(compiler.features().unwrap(), first);
    node.write("features/file/mask", "create\n");
    let second = compiler.features().unwrap();
    node.write("features/mount/mask", "");
    let third = compiler.features().unwrap();
    assert!(first != second && second != third && third != first);
}

#[test]
fn features_in_folders_are_written_as_in_an_abi_file() {
    let node = Folder::new();
    for (file, text) in [("a/b/c", "1\n"), ("file/mask", "create\n"), ("v", "x\n")] {
        node.write(file, text);
    }
    let expected = "a {b {c {1\n}\n}\n}\nfile {mask {create\n}\n}\nv {x\n}\n";
    assert_eq!(features::text(node.path()).unwrap(), expected);
    assert_eq!(features::text(&node.at("v")).unwrap(), "x\n");
}

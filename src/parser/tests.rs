//! The real compiler, limited for real.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::process::NAP;
use super::*;
use crate::profile::Text;

mod company;

/// What the launcher of these tests ends in: the test program is not armorer, so it is told to run
/// only this "test", which becomes the compiler.
#[test]
fn as_child() {
    let args: Vec<String> = std::env::args().collect();
    let Some(at) = args.iter().position(|arg| arg == CHILD) else {
        return;
    };
    // What the test program printed until here.
    let mut stdout = File::from(rustix::io::dup(rustix::stdio::stdout()).unwrap());
    stdout.set_len(0).unwrap();
    stdout.rewind().unwrap();
    child(&args[at + 1..]);
    std::process::exit(126);
}

fn settings() -> Settings {
    Settings {
        program: None,
        base: "/etc/apparmor.d".into(),
        securityfs: "/sys/kernel/security".into(),
        timeout: Duration::from_secs(20),
        jobs: Some(2),
        complain: false,
        max_blob: 16 * 1024 * 1024,
    }
}

fn compiler(settings: Settings) -> Compiler {
    let mut compiler = Compiler::find(settings).expect(
        "apparmor_parser is needed here: install the package apparmor, as scripts/test does",
    );
    compiler.launcher = [
        "/proc/self/exe",
        "--exact",
        "parser::tests::as_child",
        "--nocapture",
        "--test-threads=1",
        "--",
        CHILD,
    ]
    .map(str::to_owned)
    .to_vec();
    compiler
}

fn text_of<'a>(name: &'a str, contents: &'a str) -> Text<'a> {
    let source = "here";
    Text {
        name,
        contents,
        source,
    }
}

type Results = Vec<(usize, Result<Vec<u8>, Refusal>)>;

fn compile(compiler: &Compiler, texts: &[&str]) -> Results {
    let texts: Vec<_> = texts.iter().map(|text| text_of("custom.x", text)).collect();
    let mut results = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    let outside = compiler.compile(&texts, deadline, None, &mut |answers| {
        results.extend(answers);
    });
    assert_eq!(outside, Ok(()));
    results
}

fn refused(compiler: &Compiler, text: &str) -> Refusal {
    compile(compiler, &[text]).remove(0).1.unwrap_err()
}

/// Rules whose automaton explodes.
fn bomb() -> String {
    let mut text = "profile custom.x {\n".to_owned();
    for rule in 0..24_u8 {
        text.push('/');
        for part in 0..5 {
            text.push_str("**");
            text.push(char::from(b'a' + (rule * 7 + part * 3) % 26));
        }
        text.push_str(" r,\n");
    }
    text + "}\n"
}

/// A program that stands in for the compiler.
fn script(name: &str, body: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("armorer-test-{}-{name}", std::process::id()));
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn good_and_bad_texts_each_get_their_own_answer() {
    let compiler = compiler(settings());
    let results = compile(
        &compiler,
        &[
            "profile custom.x { /a r, }\n",
            "profile custom.x {\n  /a r\n}\n",
            "# nothing\n",
            "include <tunables/global>\nprofile custom.x flags=(complain) {\n include <abstractions/base>\n}\n",
            "profile custom.x {\n include <nope/nope>\n}\n",
        ],
    );
    assert_eq!(results.len(), 5);
    for (index, result) in results {
        match index {
            0 | 3 => assert_eq!(
                crate::blob::members(&result.unwrap()).unwrap()[0].name,
                "custom.x"
            ),
            1 => assert!(
                result
                    .unwrap_err()
                    .message
                    .starts_with("custom.x line 3: syntax error")
            ),
            2 => assert_eq!(result.unwrap_err().message, "custom.x defines no profile"),
            _ => assert!(
                result
                    .unwrap_err()
                    .message
                    .starts_with("custom.x line 2: Could not open 'nope/nope'")
            ),
        }
    }
}

#[test]
fn complain_is_for_all() {
    let compiler = compiler(Settings {
        complain: true,
        ..settings()
    });
    let blob = compile(&compiler, &["profile custom.x { /a r, }\n"])
        .remove(0)
        .1
        .unwrap();
    let mode = crate::blob::members(&blob).unwrap()[0].mode;
    assert_eq!(mode, crate::profile::Mode::Complain);
}

#[test]
fn a_text_that_takes_for_ever_holds_nobody_up() {
    let compiler = compiler(Settings {
        timeout: Duration::from_secs(2),
        ..settings()
    });
    let bomb = bomb();
    let small = "profile custom.x { /a r, }\n";
    let results = compile(&compiler, &[&bomb, small, small, small]);
    let order: Vec<_> = results.iter().map(|(index, _)| *index).collect();
    assert_eq!(order[3], 0, "{order:?}");
    let refusal = results[3].1.as_ref().unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::CompileTimeout, "{refusal}");
    assert!(results[..3].iter().all(|(_, result)| result.is_ok()));
}

#[test]
fn a_text_that_takes_all_memory_is_refused() {
    let mut compiler = compiler(settings());
    compiler.resources.address_space = 64 * 1024 * 1024;
    let refusal = refused(&compiler, &bomb());
    assert_eq!(refusal.kind, RefusalKind::Limit, "{refusal}");
    assert!(refusal.message.contains("memory"), "{refusal}");
}

#[test]
fn policy_that_is_too_large_is_refused() {
    let compiler = compiler(Settings {
        max_blob: 1000,
        ..settings()
    });
    let refusal = refused(
        &compiler,
        "include <tunables/global>\nprofile custom.x {\n include <abstractions/base>\n}\n",
    );
    assert_eq!(refusal.kind, RefusalKind::Limit, "{refusal}");
}

#[test]
fn what_nobody_may_read_the_compiler_cannot_include() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let compiler = compiler(settings());
    let refusal = refused(
        &compiler,
        "profile custom.x {\n include \"/etc/shadow\"\n}\n",
    );
    assert!(
        refusal
            .message
            .starts_with("custom.x line 2: Could not open '/etc/shadow'"),
        "{refusal}"
    );
}

#[test]
fn the_contents_of_an_included_file_are_not_told() {
    let compiler = compiler(settings());
    let refusal = refused(
        &compiler,
        "profile custom.x {\n include \"/etc/passwd\"\n}\n",
    );
    assert_eq!(
        refusal.message,
        "custom.x line 1 of the included file /etc/passwd: the compiler does not take it there"
    );
}

#[test]
fn the_compiler_inherits_nothing() {
    let program = script(
        "dump",
        "cat /proc/self/status /proc/self/limits; tr '\\0' '\\n' </proc/$$/environ; ls -l /proc/$$/fd; pwd; echo \"args $*\"",
    );
    let compiler = compiler(Settings {
        program: Some(program.clone()),
        complain: true,
        ..settings()
    });
    // One that may be inherited: of the kind that a careless library leaves behind.
    let leak = rustix::fs::memfd_create("leak", MemfdFlags::empty()).unwrap();
    let dump = compile(&compiler, &["x"]).remove(0).1.unwrap();
    drop(leak);
    fs::remove_file(program).unwrap();
    let dump = String::from_utf8(dump).unwrap();
    let field = |name: &str| {
        let line = dump
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {dump}"));
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    if rustix::process::geteuid().is_root() {
        assert_eq!(field("Uid:"), "65534 65534 65534 65534");
        assert_eq!(field("Gid:"), "65534 65534 65534 65534");
        assert_eq!(field("Groups:"), "");
    }
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert!(dump.contains("Max core file size        0"), "{dump}");
    assert!(dump.contains("Max open files            64"), "{dump}");
    assert!(dump.contains("\n/etc/apparmor.d\n"), "{dump}");
    assert!(
        !dump.contains("leak") && !dump.contains("HOME=") && !dump.contains("CARGO"),
        "{dump}"
    );
    assert!(
        dump.contains("args -Q -K -S -j0 -b /etc/apparmor.d"),
        "{dump}"
    );
}

#[test]
fn a_compiler_that_hangs_is_killed_with_its_children() {
    let program = script("hang", "sleep 1000 & echo $! >&2; wait");
    let compiler = compiler(Settings {
        program: Some(program.clone()),
        timeout: Duration::from_millis(500),
        ..settings()
    });
    let begin = Instant::now();
    let refusal = refused(&compiler, "x");
    fs::remove_file(program).unwrap();
    assert_eq!(refusal.kind, RefusalKind::CompileTimeout);
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[test]
fn after_the_deadline_nothing_starts() {
    let compiler = compiler(settings());
    let mut kinds = Vec::new();
    let texts = [text_of("custom.x", "x"), text_of("custom.y", "y")];
    let outside = compiler.compile(&texts, Instant::now(), None, &mut |answers| {
        kinds.extend(
            answers
                .into_iter()
                .map(|(_, result)| result.unwrap_err().kind),
        );
    });
    assert_eq!(outside, Ok(()));
    assert_eq!(kinds, [RefusalKind::NotCompiled; 2]);
}

#[test]
fn a_missing_compiler_is_said() {
    let error = Compiler::find(Settings {
        program: Some("/nowhere/parser".into()),
        ..settings()
    })
    .unwrap_err();
    assert!(matches!(error, Error::Node(_)));
}

#[test]
fn the_environment_is_the_same_twice_and_changes_with_the_mode() {
    let compiler = compiler(settings());
    let environment = |compiler: &Compiler| compiler.environment(compiler.digest().unwrap());
    let digest = environment(&compiler);
    assert_eq!(environment(&compiler), digest);
    let mut other = compiler;
    other.settings.complain = true;
    assert_ne!(environment(&other), digest);
}

/// Not a test of its own: the pass that the next one kills.
#[test]
fn as_pass() {
    let args: Vec<String> = std::env::args().collect();
    let Some(at) = args.iter().position(|arg| arg == "be-a-pass") else {
        return;
    };
    let program = Some(PathBuf::from(&args[at + 1]));
    compile(
        &compiler(Settings {
            program,
            ..settings()
        }),
        &["x"],
    );
}

/// A compiler that never ends, gone when dropped.
struct Endless {
    folder: PathBuf,
    program: PathBuf,
}

impl Endless {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("armorer-test-{}-{name}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let pid = folder.join("pid").display().to_string();
        let text = format!("echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000");
        Self {
            folder,
            program: script(&format!("{name}.sh"), &text),
        }
    }

    fn is_alive(&self) -> bool {
        let pid = fs::read_to_string(self.folder.join("pid")).unwrap_or_default();
        let line = Path::new("/proc").join(pid.trim()).join("cmdline");
        !pid.is_empty() && fs::read_to_string(line).is_ok_and(|line| line.contains("sleep"))
    }

    #[track_caller]
    fn until(&self, alive: bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.is_alive() != alive {
            assert!(Instant::now() < end, "alive: {}", !alive);
            std::thread::sleep(NAP);
        }
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.program);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_killed_pass_leaves_no_compiler_behind() {
    let endless = Endless::new("orphan");
    let mut pass = Command::new("/proc/self/exe")
        .args([
            "--exact",
            "parser::tests::as_pass",
            "--test-threads=1",
            "--",
            "be-a-pass",
        ])
        .arg(&endless.program)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    endless.until(true);
    pass.kill().unwrap();
    pass.wait().unwrap();
    endless.until(false);
}

#[test]
fn compilers_that_nobody_waits_for_any_more_are_killed() {
    let endless = Endless::new("dropped");
    let compiler = compiler(Settings {
        program: Some(endless.program.clone()),
        ..settings()
    });
    let texts = [text_of("custom.x", "x")];
    let work = compiler.begin(&texts, Instant::now() + Duration::from_secs(60), None);
    endless.until(true);
    drop(work);
    endless.until(false);
}

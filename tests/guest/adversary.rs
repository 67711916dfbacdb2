//! ConfigMaps written by an attacker. Each beside a good profile: the attack is refused in one
//! clean line or is harmless, the good profile is loaded, and the kernel holds nothing else.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::compiler::bomb;
use crate::support::kernel::is_loaded;
use crate::support::{Case, Run, loaded, names_within, sh};

const GOOD: &str = "custom.good";

/// The kernel's names besides those of the case: intruders.
fn intruders(before: &[String]) -> Vec<String> {
    loaded()
        .into_keys()
        .filter(|name| name != GOOD && !before.contains(name))
        .collect()
}

/// One pass over `files` and the good profile.
fn attack(files: &[(&str, &str)], arguments: &[&str]) -> (Case, Run) {
    attack_in(Case::new(), files, arguments)
}

fn attack_in(case: Case, files: &[(&str, &str)], arguments: &[&str]) -> (Case, Run) {
    case.want_simple(GOOD);
    for (name, text) in files {
        case.want(name, text);
    }
    let all = [&["reconcile", "--remove-after", "0s"], arguments].concat();
    let run = case.armorer(&all);
    (case, run)
}

/// That nothing in `said` is obeyed by a terminal, and that no line begins as if it were
/// armorer's own.
#[track_caller]
fn assert_clean(said: &str) {
    let obeyed = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!said.contains(obeyed), "{said:?}");
    for line in said.lines() {
        let stamped = line.len() > 20 && line.as_bytes()[4] == b'-' && line.as_bytes()[19] == b'Z';
        assert!(stamped, "a line that armorer did not begin: {line:?}");
        assert!(line.len() < 2500, "{} bytes in a line", line.len());
    }
}

/// That `files` are refused: exit 1, one line that holds `words`, no other profile harmed.
/// Gives all that was said and recorded.
#[track_caller]
fn is_refused(label: &str, files: &[(&str, &str)], words: &str) -> String {
    let case = Case::new();
    let before: Vec<String> = loaded().into_keys().collect();
    let (case, run) = attack_in(case, files, &["--max-compile-time", "6s"]);
    assert_eq!(run.code, 1, "{label}: {}", run.said);
    assert_clean(&run.said);
    let refusals: Vec<&str> = run
        .said
        .lines()
        .filter(|line| line.contains("✗ refused"))
        .collect();
    assert_eq!(refusals.len(), 1, "{label}: {}", run.said);
    assert!(refusals[0].contains(words), "{label}: {}", run.said);
    assert!(is_loaded(GOOD), "{label}: the good profile is not loaded");
    assert_eq!(intruders(&before), [""; 0], "{label}");
    // The text stays refused, and the refusal costs no compiler again.
    case.pass().exits(1);
    assert_eq!(intruders(&before), [""; 0], "{label}");
    run.said + &case.state()
}

#[test]
fn taking_over_the_name_of_another() {
    for name in [
        "docker-default",
        "cri-containerd.apparmor.d",
        "unconfined",
        "host.package",
        "usr.bin.foreign",
    ] {
        let text = format!("profile {name} {{ file, }}");
        is_refused("as a file", &[(name, &text)], "prefix");
        is_refused("in another file", &[("custom.x", &text)], name);
        let text = format!("profile custom.x {{ file, }}\n{text}");
        is_refused("as the second in a file", &[("custom.x", &text)], name);
    }
    for text in [
        "/usr/bin/foreign { file, }",
        "profile /usr/bin/foreign { file, }",
        "profile custom.x { file, }\n/usr/bin/foreign { file, }",
    ] {
        is_refused("by path", &[("custom.x", text)], "/usr/bin/foreign");
    }
}

#[test]
fn misleading_names() {
    for (text, words) in [
        (
            "@{N}=docker-default\nprofile @{N} { file, }",
            "docker-default",
        ),
        ("@{N}=custom.x docker-default\nprofile @{N} { file, }", ""),
        ("profile {custom.x,docker-default} { file, }", ""),
        ("profile custom.{x,y} { file, }", ""),
        ("profile custom.* { file, }", ""),
        ("profile \"custom.x\\ndocker-default\" { file, }", ""),
        ("profile \"docker-default custom.x\" { file, }", ""),
        ("profile custom.x//&docker-default { file, }", ""),
        (
            "profile custom.x { file, }\nprofile custom.good { file, }",
            "custom.good",
        ),
        (
            "profile custom.x { file, }\nprofile custom.good//kid { file, }",
            "custom.good//kid",
        ),
        (
            "profile custom.x { file, }\nprofile docker-default//kid { file, }",
            "docker-default//kid",
        ),
        (
            "profile custom.x { file, }\nprofile armorer.compiler { file, }",
            "armorer.compiler",
        ),
        (
            "profile custom.x { file, }\nprofile custom.x/../y { file, }",
            "",
        ),
    ] {
        is_refused(text, &[("custom.x", text)], words);
    }
    let long = "x".repeat(10_000);
    let text = format!("profile custom.x {{ file, }}\nprofile custom.{long} {{ file, }}");
    is_refused("10,000 characters", &[("custom.x", &text)], "");
    let text = format!("profile custom.x {{ file, profile {long} {{ file, }} }}");
    is_refused("a child of 10,000", &[("custom.x", &text)], "");
}

/// A child has its parent's name before its own, so it takes no other's.
#[test]
fn a_child_named_like_a_sibling_is_a_child() {
    let text =
        "profile custom.x { file, profile custom.good { file, } profile docker-default { file, } }";
    let (_case, run) = attack(&[("custom.x", text)], &[]);
    run.exits(0);
    assert_eq!(
        names_within("custom.x"),
        [
            "custom.x",
            "custom.x//custom.good",
            "custom.x//docker-default"
        ]
    );
    assert_eq!(names_within(GOOD), [GOOD]);
}

#[test]
fn other_policy_namespaces() {
    for text in [
        "profile :ns1:custom.x { file, }",
        "profile :ns1://custom.x { file, }",
        "profile custom.x { file, }\nprofile :ns1:custom.y { file, }",
        "profile :root:docker-default { file, }",
    ] {
        is_refused(text, &[("custom.x", text)], "");
        let namespaces = "/sys/kernel/security/apparmor/policy/namespaces";
        assert_eq!(fs::read_dir(namespaces).unwrap().count(), 0, "{text}");
    }
}

#[test]
fn confining_the_host() {
    for text in [
        "profile custom.x /** { file, }",
        "profile custom.x /usr/bin/armorer { file, }",
        "profile custom.x /{,usr/}{,s}bin/{kubelet,containerd} { file, }",
        "@{E}=/usr/bin/*\nprofile custom.x @{E} { file, }",
        "profile custom.x /** xattrs=(user.a=b) { file, }",
    ] {
        is_refused(text, &[("custom.x", text)], "attaches");
    }
    let text = "profile custom.x flags=(unconfined) { file, }";
    is_refused(text, &[("custom.x", text)], "unconfined");
    let text = "profile custom.x { file, profile kid flags=(unconfined) { file, } }";
    is_refused(text, &[("custom.x", text)], "unconfined");
}

#[test]
fn includes_of_foreign_files() {
    const CANARY: &str = "canary51c9";
    sh(&format!(
        "cp -p /etc/shadow /etc/shadow.kept; echo '{CANARY} {CANARY}' > /etc/shadow; chmod 600 /etc/shadow
         mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
         echo {CANARY} > /var/run/secrets/kubernetes.io/serviceaccount/token
         mkfifo -m 666 /etc/apparmor.d/fifo
         echo 'include <loop>' > /etc/apparmor.d/loop"
    ));
    let mut said = String::new();
    let includes = [
        "\"/etc/shadow\"",
        "</etc/shadow>",
        "<../shadow>",
        "\"../../../etc/shadow\"",
        "<abstractions/../../shadow>",
        "if exists \"/etc/shadow\"",
        "\"/var/run/secrets/kubernetes.io/serviceaccount/token\"",
        "\"/proc/1/environ\"",
        "\"/proc/self/environ\"",
        "\"/proc/self/fd/0\"",
        "\"/dev/zero\"",
        "\"/dev/stdin\"",
        "<fifo>",
        "\"custom.x\"",
        "<custom.x>",
        "<abstractions/nope\u{1b}[31m>",
    ];
    for (n, include) in includes.iter().enumerate() {
        let text = if n % 2 == 0 {
            format!("include {include}\nprofile custom.x {{ file, }}")
        } else {
            format!("profile custom.x {{ file,\n#include {include}\n}}")
        };
        said.push_str(&is_refused(&text, &[("custom.x", &text)], ""));
    }
    // The compiler includes a file once.
    let text = "include <loop>\nprofile custom.x { file, }";
    let (_case, run) = attack(&[("custom.x", text)], &[]);
    assert_clean(&run.said);
    said.push_str(&run.said);
    let text = "abi \"/etc/shadow\",\nprofile custom.x { file, }";
    said.push_str(&is_refused(text, &[("custom.x", text)], ""));
    sh("mv /etc/shadow.kept /etc/shadow; rm -f /etc/apparmor.d/fifo /etc/apparmor.d/loop");
    assert!(!said.contains(CANARY), "{said}");
}

#[test]
fn bombs() {
    let text = bomb("custom.x");
    is_refused("compile time", &[("custom.x", &text)], "CPU time");
    let text = format!("profile custom.x {{ file, }}\n#{}", "x".repeat(600_000));
    is_refused("size", &[("custom.x", &text)], "131072");
    // Alternations multiply before the automaton is even built.
    let text = format!(
        "profile custom.x {{ /{} r, }}",
        "{a,b,c,d,e,f,g,h}".repeat(4000)
    );
    is_refused("alternations", &[("custom.x", &text)], "");
    let text = format!("profile custom.x {{ /{} r, }}", "(".repeat(100_000));
    is_refused("depth", &[("custom.x", &text)], "");
    let mut text = "profile custom.x { file,\n".to_owned();
    for n in 0..3000 {
        let _ = writeln!(text, "profile kid{n} {{ /{n}/** rw, }}");
    }
    text.push('}');
    let variables = format!(
        "@{{V}}={}\nprofile custom.x {{ /{} r, }}",
        "a b c d e f g h ".repeat(8),
        "@{V}".repeat(12)
    );
    for text in [text, variables] {
        // Large, and no more than that.
        let (_case, run) = attack(&[("custom.x", &text)], &["--max-compile-time", "6s"]);
        assert_clean(&run.said);
        assert!(is_loaded(GOOD), "{}", run.said);
    }
}

#[test]
fn too_many_files_are_not_an_empty_source() {
    let case = Case::new();
    case.want_simple(GOOD);
    case.pass().exits(0);
    for n in 0..200 {
        case.want_simple(&format!("custom.p{n}"));
    }
    let run = case
        .armorer(&["reconcile", "--remove-after", "0s", "--max-profiles", "100"])
        .exits(3);
    assert_clean(&run.said);
    assert_eq!(run.said.lines().count(), 1, "{}", run.said);
    assert!(is_loaded(GOOD));
    assert!(!is_loaded("custom.p0"));
}

#[test]
fn file_names_that_trick() {
    let long = format!("custom.{}", "x".repeat(248));
    for name in [
        "custom.a\nb",
        "custom.\u{1b}[2J\u{1b}]0;owned\u{7}",
        "custom.\u{202e}fdp",
        "custom.a:b&c ",
        ":ns:custom.x",
        long.as_str(),
    ] {
        let (_case, run) = attack(&[(name, "profile custom.x { file, }")], &[]);
        assert_eq!(run.code, 1, "{name:?}: {}", run.said);
        assert_clean(&run.said);
        assert!(is_loaded(GOOD) && !is_loaded("custom.x"), "{name:?}");
    }
    // Not UTF-8 at all.
    let case = Case::new();
    case.want_simple(GOOD);
    let name = std::ffi::OsStr::from_bytes(b"custom.\xff\xfe");
    fs::write(case.source().join(name), "profile custom.x { file, }").unwrap();
    let run = case.pass();
    assert_ne!(run.code, 0, "{}", run.said);
    assert_clean(&run.said);
}

#[test]
fn links_and_special_files_in_the_source() {
    let case = Case::new();
    case.want_simple(GOOD);
    case.pass().exits(0);
    for target in [
        "/etc/shadow",
        "../../../etc/shadow",
        "/dev/zero",
        "/proc/1/environ",
        "/proc/kmsg",
        "custom.x",
        "/nowhere",
    ] {
        symlink(target, case.source().join("custom.x")).unwrap();
        let run = case.pass();
        assert!(
            [1, 3].contains(&run.code),
            "{target}: {}: {}",
            run.code,
            run.said
        );
        assert_clean(&run.said);
        assert!(is_loaded(GOOD) && !is_loaded("custom.x"), "{target}");
        assert!(!case.state().contains("root:"), "{target}");
        case.unwant("custom.x");
    }
    for make in ["mkfifo", "mkdir", "mknod -m 666"] {
        let path = case.source().join("custom.x");
        let kind = if make.starts_with("mknod") {
            " c 1 5"
        } else {
            ""
        };
        sh(&format!("{make} {}{kind}", path.display()));
        let run = case.pass();
        assert!([0, 1, 3].contains(&run.code), "{make}: {}", run.said);
        assert_clean(&run.said);
        assert!(is_loaded(GOOD) && !is_loaded("custom.x"), "{make}");
        sh(&format!("rm -rf {}", path.display()));
    }
}

/// A link that points at a good text and at a secret in turn, as fast as it can be changed, with
/// rests in which the folder can be read.
#[test]
fn a_link_swapped_during_the_pass_brings_nothing_in() {
    const CANARY: &str = "canary77aa";
    let case = Case::new();
    case.want_simple(GOOD);
    let secret = case.dir.join("custom.x");
    fs::write(
        &secret,
        format!("profile custom.x {{ file, }}\n# {CANARY}\n"),
    )
    .unwrap();
    let stop = AtomicBool::new(false);
    let link = case.source().join("custom.x");
    let inside = case.source().join(".inside");
    fs::write(&inside, "profile custom.x { file, }\n").unwrap();
    let mut whole = 0;
    let said = thread::scope(|scope| {
        scope.spawn(|| {
            let next = case.dir.join("next");
            while !stop.load(Ordering::Relaxed) {
                for target in [&secret, &inside].repeat(16) {
                    let _ = fs::remove_file(&next);
                    symlink(target, &next).unwrap();
                    fs::rename(&next, &link).unwrap();
                    thread::sleep(Duration::from_micros(300));
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        let mut said = String::new();
        for _ in 0..20 {
            let run = case.pass();
            whole += u32::from(run.code != 3);
            said.push_str(&run.said);
            said.push_str(&case.state());
        }
        stop.store(true, Ordering::Relaxed);
        said
    });
    println!("{whole} of 20 passes read the folder");
    assert!(whole > 0);
    assert!(!said.contains(CANARY));
    let stored = sh(&format!(
        "grep -rl {CANARY} {} || true",
        case.dir.join("state").display()
    ));
    assert_eq!(stored, "", "the text behind the link was read and stored");
    assert!(is_loaded(GOOD));
}

#[test]
fn text_that_makes_the_compiler_print_control_characters() {
    for text in [
        "profile custom.x {\n  \u{1b}[31mred\u{1b}[0m\n}\n",
        "profile custom.x {\n  capability \u{1b}]0;owned\u{7},\n}\n",
        "profile custom.x {\n  /a\u{1b}[2J r\n}\n",
        "profile custom.x {\n  include <a\u{1b}[31m>\n}\n",
        "profile custom.x {\n  @{\u{202e}V} r,\n}\n",
        "profile custom.x {\n  oops\r2026-01-01T00:00:00Z converged: 9 profiles in force\n}\n",
        "profile custom.x {\n  \"oops\n2026-01-01T00:00:00Z converged: 9 profiles in force\n\"\n}\n",
        "profile custom.\u{1b}[31mx { file, }\n",
        "\u{feff}profile custom.x { file, }\n",
        "profile custom.x { file, }\u{0}",
    ] {
        is_refused(text, &[("custom.x", text)], "");
    }
}

/// All of it at once: the good ones converge, each bad one has its line, and a second pass says
/// the same without a compiler.
#[test]
fn an_attackers_whole_configmap() {
    let bombs = bomb("custom.b");
    let files = [
        ("custom.b", bombs.as_str()),
        ("custom.c", "profile docker-default { file, }"),
        ("custom.d", "profile custom.d /** { file, }"),
        (
            "custom.e",
            "include \"/etc/shadow\"\nprofile custom.e { file, }",
        ),
        ("custom.f", "profile :ns:custom.f { file, }"),
        ("custom.g", "profile custom.g flags=(unconfined) { file, }"),
        ("custom.h", "profile custom.h { \u{1b}[31m }"),
        ("custom.i", "profile custom.i { file, }"),
        ("docker-default", "profile docker-default { file, }"),
    ];
    let (case, run) = attack(&files, &["--max-compile-time", "6s"]);
    assert_eq!(run.code, 1);
    assert_clean(&run.said);
    // On a busy machine the compiler of the bomb may wait too long before its processor time is spent.
    let is_out = |line: &&str| line.contains("✗ refused") || line.contains("✗ failed    custom.b:");
    let out = run.said.lines().filter(is_out).count();
    assert_eq!(out, 8, "{}", run.said);
    let mut ours: Vec<String> = loaded().into_keys().collect();
    ours.retain(|name| name.starts_with("custom."));
    assert_eq!(ours, [GOOD, "custom.i"]);
    let check = case.armorer(&[
        "check",
        case.source().to_str().unwrap(),
        "--max-compile-time",
        "6s",
    ]);
    assert_eq!(check.code, 1);
    assert!(!check.said.contains('\u{1b}'));
}

/// The kernel skips blanks in front of a name, and then finds a policy namespace.
#[test]
fn a_name_that_the_kernel_reads_as_a_namespace() {
    let case = Case::new();
    let namespaces = || sh("ls /sys/kernel/security/apparmor/policy/namespaces");
    let before = namespaces();
    case.want("x", "profile x { file, }\nprofile \" :evil:x\" { file, }\n");
    case.armorer(&["reconcile", "--prefix", ""])
        .exits(1)
        .says("evil");
    assert!(!is_loaded("x"));
    assert_eq!(namespaces(), before, "a namespace was made");
}

/// Members share one policy: each look at the kernel reads it once.
#[test]
fn many_profiles_in_one_file_are_limited_and_quick() {
    let text = |count: usize| {
        let mut text = "profile custom.x { file, }\n".to_owned();
        for n in 1..count {
            let _ = writeln!(text, "profile custom.x{n} {{ file, }}");
        }
        text
    };
    let many = text(257);
    is_refused("257 profiles", &[("custom.x", &many)], "257");
    let case = Case::new();
    case.want("custom.x", &text(256));
    let start = std::time::Instant::now();
    case.pass().exits(0);
    assert!(is_loaded("custom.x255"));
    let took = start.elapsed();
    assert!(took < std::time::Duration::from_mins(1), "{took:?}");
}

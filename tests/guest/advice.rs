//! Each finding of `armorer check` on both sides of its line: the consequence happens under the one
//! profile, and not under the other.

use std::fs;
use std::process::Command;

use crate::support::{Case, compile, confined, kernel, sh};

/// Whether `armorer check` finds `kind` in `text`.
fn is_found(case: &Case, kind: &str, text: &str) -> bool {
    let file = case.dir.join("custom.p");
    fs::write(&file, text).unwrap();
    let run = case.armorer(&["check", "--output", "json", file.to_str().unwrap()]);
    let run = run.exits(0);
    assert!(run.said.contains("\"checked\": 1"), "{}", run.said);
    run.said.contains(&format!("\"kind\": \"{kind}\""))
}

/// Runs `script` under custom.p; its output.
fn python(script: &str) -> String {
    let output = confined("custom.p", &["python3", "-c", script]).output();
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

/// A profile under which Python runs.
fn profile(flags: &str, rules: &str) -> String {
    format!(
        "abi <abi/3.0>,\nprofile custom.p flags=({flags}) {{\n  capability,\n  ptrace,\n  /** rwm,\n  {rules}\n}}\n"
    )
}

#[test]
fn a_profile_that_cannot_be_stopped() {
    let case = Case::new();
    for runtime in ["runc", "crun"] {
        let all = format!("profile {runtime} {{ file, signal, capability, }}");
        kernel::replace(&compile(&all));
    }
    for (rules, hurts) in [
        ("signal (receive) peer={unconfined,runc,crun},", false),
        ("signal (receive) set=(term, kill),", false),
        ("signal, deny signal (receive) set=(hup),", false),
        ("signal (receive) peer=unconfined,", true),
        ("signal (receive) set=(term),", true),
        ("signal, deny signal (receive) peer=crun,", true),
        ("signal (send),", true),
    ] {
        let text = profile("attach_disconnected", &format!("/** ix, {rules}"));
        kernel::replace(&compile(&text));
        let mut denied = false;
        for runtime in ["unconfined", "runc", "crun"] {
            for signal in ["TERM", "KILL"] {
                // It ends by itself where it cannot be stopped.
                let mut stopped = confined("custom.p", &["sleep", "1"]).spawn().unwrap();
                while !fs::read_to_string(format!("/proc/{}/attr/current", stopped.id()))
                    .is_ok_and(|label| label.starts_with("custom.p"))
                {}
                let kill = format!("kill -{signal} {}", stopped.id());
                let status = match runtime {
                    "unconfined" => Command::new("sh").args(["-c", &kill]).status(),
                    _ => confined(runtime, &["sh", "-c", &kill]).status(),
                };
                denied |= !status.unwrap().success();
                stopped.wait().unwrap();
            }
        }
        assert_eq!(denied, hurts, "{rules}");
        assert_eq!(
            is_found(&case, "cannot-be-stopped", &text),
            hurts,
            "{rules}"
        );
    }
}

#[test]
fn a_profile_in_which_nothing_is_executable() {
    let case = Case::new();
    sh(
        "mkdir -p /tmp/app/.Private && cp /run/guest/busybox /tmp/app/x && cp /run/guest/busybox /tmp/app/.Private/x",
    );
    for (rules, hurts) in [
        ("/** ix,", false),
        ("/tmp/app/? ix,", false),
        ("owner /tmp/app/? ix,", false),
        ("/usr/** ix, deny /tmp/** x,", false),
        ("", true),
        ("/** ix, deny /** x,", true),
        ("profile kid { /** ix, }", true),
        // Only the rules of abstractions/base, which no container has.
        ("owner /**/.Private/** ix,", true),
    ] {
        let text = profile("attach_disconnected", &format!("signal, {rules}"));
        kernel::replace(&compile(&text));
        let tried = "import os
for path in ['/tmp/app/x', '/usr/bin/true', '/usr/bin/sh', '/sbin/ldconfig']:
    if os.fork() == 0:
        try:
            os.execv(path, ['true', '-c', 'exit'])
        except PermissionError:
            os._exit(99)
    if os.waitstatus_to_exitcode(os.wait()[1]) != 99:
        print('executed')";
        assert_eq!(!python(tried).contains("executed"), hurts, "{rules}");
        assert_eq!(
            is_found(&case, "nothing-executable", &text),
            hurts,
            "{rules}"
        );
    }
}

/// Executes `/tmp/app/x` under custom.p; the label of that program, or the error's number.
fn label(no_new_privs: bool) -> String {
    let before = if no_new_privs {
        "libc.prctl(38, 1, 0, 0, 0)"
    } else {
        ""
    };
    let script = format!(
        "import ctypes, os
libc = ctypes.CDLL(None)
{before}
try:
    os.execv('/tmp/app/x', ['cat', '/proc/self/attr/current'])
except OSError as error:
    print(error.errno)"
    );
    python(&script).trim().to_owned()
}

#[test]
fn executions_match_can_and_no_new_privs_forbids_those_that_check_reports() {
    let case = Case::new();
    sh("mkdir -p /tmp/app && cp /run/guest/busybox /tmp/app/x");
    for name in ["custom.other", "/tmp/app/x"] {
        kernel::replace(&compile(&format!("profile {name} {{ file, signal, }}")));
    }
    let kid = "profile kid { file, }";
    for (rule, answer, expected, forbidden) in [
        (
            "ix,",
            "ix: under the same profile",
            "custom.p (enforce)",
            false,
        ),
        (
            "px -> custom.other,",
            "px -> custom.other",
            "custom.other (enforce)",
            true,
        ),
        (
            "Px -> custom.other,",
            "Px -> custom.other",
            "custom.other (enforce)",
            true,
        ),
        // Not found, as the other profile is another text's: that it is loaded only the node knows.
        (
            "pix -> custom.gone,",
            "pix -> custom.gone",
            "custom.p (enforce)",
            false,
        ),
        ("px -> custom.gone,", "px -> custom.gone", "13", true),
        (
            "pux -> custom.gone,",
            "pux -> custom.gone",
            "unconfined",
            true,
        ),
        ("ux,", "ux: unconfined", "unconfined", true),
        ("px,", "px: if such", "/tmp/app/x (enforce)", true),
        (
            "cx -> kid,",
            "x -> custom.p//kid",
            "custom.p//kid (enforce)",
            true,
        ),
        (
            "cix -> kid,",
            "ix -> custom.p//kid",
            "custom.p//kid (enforce)",
            true,
        ),
        (
            "cix -> gone,",
            "ix -> custom.p//gone",
            "custom.p (enforce)",
            false,
        ),
    ] {
        let rules = format!("signal, /usr/** ix, /tmp/app/x {rule} {kid}");
        let text = profile("attach_disconnected", &rules);
        kernel::replace(&compile(&text));
        assert_eq!(label(false), expected, "{rule}");
        let with_no_new_privs = label(true);
        if expected != "13" {
            assert_eq!(
                with_no_new_privs == "1",
                forbidden,
                "{rule}: {with_no_new_privs}"
            );
        }
        assert_eq!(is_found(&case, "no-new-privs", &text), forbidden, "{rule}");
        let file = case.dir.join("custom.p");
        let can = case.armorer(&["can", file.to_str().unwrap(), "exec", "/tmp/app/x"]);
        can.exits(0).says(answer);
    }
    // A stack keeps the profile, so that no_new_privs lets it pass.
    let text = profile(
        "attach_disconnected",
        "signal, /usr/** ix, /tmp/app/x pix -> &custom.other,",
    );
    kernel::remove("/tmp/app/x");
    kernel::replace(&compile(&text));
    for no_new_privs in [false, true] {
        let label = label(no_new_privs);
        assert!(
            label.contains("custom.p") && label.contains("//&"),
            "{label}"
        );
    }
    assert!(!is_found(&case, "no-new-privs", &text));
}

#[test]
fn a_profile_that_does_not_attach_disconnected_paths() {
    let case = Case::new();
    for (flags, hurts) in [
        ("attach_disconnected", false),
        ("attach_disconnected, mediate_deleted", false),
        ("mediate_deleted", true),
        ("no_attach_disconnected", true),
    ] {
        let text = profile(flags, "signal, /** ix,");
        kernel::replace(&compile(&text));
        // The folder stays open while its mount goes.
        let script = "import os, subprocess
os.makedirs('/tmp/mount', exist_ok=True)
subprocess.check_call(['mount', '-t', 'tmpfs', 'none', '/tmp/mount'])
open('/tmp/mount/file', 'w').close()
folder = os.open('/tmp/mount', os.O_RDONLY)
subprocess.check_call(['umount', '-l', '/tmp/mount'])
fd = os.open('/proc/self/attr/current', os.O_WRONLY)
os.write(fd, b'changeprofile custom.p')
try:
    os.open('file', os.O_RDONLY, dir_fd=folder)
    print('opened')
except PermissionError:
    print('denied')";
        let output = Command::new("python3")
            .args(["-c", script])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim() == "denied", hurts, "{flags}: {said}");
        assert_eq!(
            is_found(&case, "no-attach-disconnected", &text),
            hurts,
            "{flags}"
        );
    }
}

#[test]
fn a_profile_in_complain_mode() {
    let case = Case::new();
    for (flags, hurts) in [
        ("attach_disconnected, complain", true),
        ("attach_disconnected", false),
    ] {
        let text = profile(
            flags,
            "signal, /usr/** ix, deny /tmp/denied w, deny /tmp/app/x x,",
        )
        .replace("/** rwm", "/** rm");
        kernel::replace(&compile(&text));
        let script = "import os
for path in ['/tmp/logged', '/tmp/denied']:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
        print('wrote', path, flush=True)
    except PermissionError:
        pass
try:
    os.execv('/tmp/app/x', ['echo', 'executed'])
except PermissionError:
    pass";
        sh("mkdir -p /tmp/app && cp /run/guest/busybox /tmp/app/x");
        let said = python(script);
        assert_eq!(said.contains("/tmp/logged"), hurts, "{flags}: {said}");
        assert_eq!(said.contains("executed"), hurts, "{flags}: {said}");
        assert!(!said.contains("/tmp/denied"), "{flags}: {said}");
        assert_eq!(is_found(&case, "complain-mode", &text), hurts, "{flags}");
    }
}

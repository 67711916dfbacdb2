//! The sample profiles, on a real kernel: the expectations beside each, and those
//! bubblewrap can do under those that are for it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Case, sh};

const SAMPLES: &str = "/job/samples/profiles";

/// A pass that loads all samples.
fn loaded() -> Case {
    let case = Case::new();
    for entry in fs::read_dir(SAMPLES).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        case.want(&name, &fs::read_to_string(entry.path()).unwrap());
    }
    case.pass().exits(0);
    case
}

#[test]
fn each_sample_meets_its_expectations() {
    let case = loaded();
    // Those who send signals, and files that the lines name.
    sh("for name in runc crun custom.another; do
            echo \"profile $name { file, signal, change_profile, }\" | apparmor_parser -qrK
        done
        mkdir -p /data /home/user
        for file in /tmp/file /run/file /srv/file /tmp/owned /data/file /home/user/file; do : >$file; done
        chown 5:5 /home/user/file");
    for name in fs::read_dir(SAMPLES).unwrap().flatten() {
        let name = name.file_name().into_string().unwrap();
        let expected = format!("/job/samples/expect/{name}");
        assert!(
            Path::new(&expected).exists(),
            "{name} has no file of expectations"
        );
        let said = sh(&format!("python3 -IS /job/expect.py {name} {expected}"));
        let text = format!("{SAMPLES}/{name}");
        case.armorer(&["can", &text, "--expect", &expected])
            .exits(0);
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    drop(case);
}

/// The output of `script`, run under `profile` in bubblewrap's sandbox by root and by another user.
#[track_caller]
fn in_sandbox(profile: &str, script: &str) -> String {
    let sandbox = "bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-all sh -c";
    let mut said = String::new();
    for user in [0, 1000] {
        let output = Command::new("aa-exec")
            .args(["-p", profile, "--", "sh", "-c"])
            .arg(format!(
                "setpriv --reuid={user} --clear-groups {sandbox} '{script}' 2>&1"
            ))
            .output()
            .unwrap();
        said += &String::from_utf8_lossy(&output.stdout);
    }
    said
}

#[test]
fn bubblewrap_runs_under_both_samples_that_are_for_it() {
    let case = loaded();
    for profile in ["custom.userns-sandbox", "custom.bubblewrap"] {
        let said = in_sandbox(
            profile,
            ": >/tmp/file && cat /proc/self/attr/current && id -u",
        );
        let inside = match profile {
            "custom.bubblewrap" => {
                "custom.bubblewrap//bwrap//&custom.bubblewrap//payload (enforce)"
            }
            _ => "custom.userns-sandbox (enforce)",
        };
        assert_eq!(said, format!("{inside}\n0\n{inside}\n1000\n"), "{profile}");
    }
    drop(case);
}

#[test]
fn only_bubblewrap_itself_makes_namespaces_under_its_sample() {
    let mask = fs::read_to_string("/sys/kernel/security/apparmor/features/namespaces/mask");
    if !mask.is_ok_and(|mask| mask.contains("userns_create")) {
        println!("left out: this kernel does not mediate user namespaces");
        return;
    }
    let case = loaded();
    let again = "unshare -U true && echo made";
    assert!(in_sandbox("custom.userns-sandbox", again).contains("made"));
    let payload = in_sandbox(
        "custom.bubblewrap",
        &format!("{again}; mount -t tmpfs none /tmp && echo mounted"),
    );
    assert!(
        !payload.contains("made") && !payload.contains("mounted"),
        "{payload}"
    );
    let outside = sh(&format!(
        "aa-exec -p custom.bubblewrap -- sh -c '{again}' 2>&1 || :"
    ));
    assert!(outside.contains("Permission denied"), "{outside}");
    // A pod with allowPrivilegeEscalation: false.
    let script = "setpriv --no-new-privs bwrap --ro-bind / / echo made 2>&1 || :";
    for (profile, is_made) in [
        ("custom.userns-sandbox", true),
        ("custom.bubblewrap", false),
    ] {
        let said = sh(&format!("aa-exec -p {profile} -- sh -c '{script}'"));
        assert_eq!(said.contains("made"), is_made, "{profile}: {said}");
    }
    drop(case);
}

//! Accepted and refused texts, by the kernel's profiles afterwards.

use std::fs;

use crate::support::kernel::{is_loaded, revision};
use crate::support::{Case, blob, compile, loaded, names_within, sh};

/// Valid AppArmor that simple parsers refuse.
const VALID: [(&str, &str); 12] = [
    ("custom.quoted", "profile \"custom.quoted\" {\n file,\n}\n"),
    ("custom.tab", "profile\tcustom.tab\t{\n file,\n}\n"),
    ("custom.brace", "profile custom.brace\n{\n file,\n}\n"),
    ("custom.crlf", "profile custom.crlf {\r\n file,\r\n}\r\n"),
    (
        "custom.abi",
        "abi <abi/3.0>,\nprofile custom.abi {\n file,\n}\n",
    ),
    ("custom.var", "@{N}=custom.var\nprofile @{N} {\n file,\n}\n"),
    (
        "custom.comment",
        "# profile { no, } {\nprofile custom.comment {\n file,\n}\n",
    ),
    (
        "custom.hats",
        "profile custom.hats {\n file,\n ^one {\n file,\n }\n hat two {\n file,\n }\n}\n",
    ),
    (
        "custom.kids",
        "profile custom.kids {\n file,\n profile kid {\n file,\n }\n}\n",
    ),
    (
        "custom.two",
        "profile custom.two { file, }\nprofile custom.second { file, }\n",
    ),
    (
        "custom.mode",
        "profile custom.mode flags=(complain) {\n file,\n}\n",
    ),
    (
        "custom.a space",
        "profile \"custom.a space\" {\n file,\n}\n",
    ),
];

#[test]
fn every_valid_form_is_loaded_and_its_names_are_the_kernels() {
    let case = Case::new();
    for (name, text) in VALID {
        case.want(name, text);
    }
    case.pass().exits(0);
    let mut expected: Vec<String> = VALID
        .iter()
        .flat_map(|(_, text)| blob::names(&compile(text)))
        .collect();
    expected.sort();
    let found: Vec<String> = loaded()
        .into_keys()
        .filter(|name| name.starts_with("custom."))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(loaded()["custom.mode"], "complain");
    for (name, _) in VALID {
        fs::remove_file(case.source().join(name)).unwrap();
    }
    case.want_simple("custom.last");
    case.pass().exits(0);
    let left: Vec<String> = loaded()
        .into_keys()
        .filter(|name| name.starts_with("custom."))
        .collect();
    assert_eq!(left, ["custom.last"]);
}

#[test]
fn a_refused_text_never_reaches_the_kernel() {
    let long = format!("custom.{}", "x".repeat(300));
    let refused: [(&str, String, &str); 16] = [
        ("other.p", "profile other.p { file, }".into(), "prefix"),
        (
            "custom.second",
            "profile custom.second { file, }\nprofile docker-default { file, }".into(),
            "docker-default",
        ),
        (
            "custom.var",
            "@{N}=docker-default\nprofile custom.var { file, }\nprofile @{N} { file, }".into(),
            "docker-default",
        ),
        (
            "custom.other",
            "profile custom.another { file, }".into(),
            "custom.another",
        ),
        (
            "custom.ns",
            "profile :ns1:custom.ns { file, }".into(),
            "namespace",
        ),
        (
            "custom.evil",
            "profile custom.evil /** { file, }".into(),
            "attaches",
        ),
        (
            "custom.two",
            "profile custom.{two,three} { file, }".into(),
            "custom.",
        ),
        (
            "custom.free",
            "profile custom.free flags=(unconfined) { file, }".into(),
            "unconfined",
        ),
        (
            "custom.include",
            "include \"/etc/shadow\"\nprofile custom.include { file, }".into(),
            "include",
        ),
        (
            "custom.up",
            "include <../shadow>\nprofile custom.up { file, }".into(),
            "include",
        ),
        ("custom.nothing", "# nothing here\n".into(), "no profile"),
        (
            "custom.long",
            format!("profile custom.long {{ file, }}\nprofile {long} {{ file, }}"),
            "239",
        ),
        (
            "custom.syntax",
            "profile custom.syntax {\n  oops\n}".into(),
            "line 2",
        ),
        ("custom.nul", "profile custom.nul { file, }\0".into(), "NUL"),
        (
            "custom.child",
            "profile custom.child { file, }\nprofile docker-default//x { file, }".into(),
            "docker-default",
        ),
        (
            "custom.big",
            format!("profile custom.big {{ file, }}\n#{}", "x".repeat(600_000)),
            "131072",
        ),
    ];
    for (name, text, words) in refused {
        let case = Case::new();
        case.want(name, &text);
        let before = (revision(), loaded());
        case.pass().exits(1).says(words);
        assert_eq!((revision(), loaded()), before, "{name} changed the kernel");
    }
}

#[test]
fn one_profile_in_two_files_is_loaded_once_at_most() {
    let case = Case::new();
    fs::create_dir(case.source().join("sub")).unwrap();
    case.want_simple("custom.p");
    fs::write(
        case.source().join("sub/custom.p"),
        "profile custom.p { file, signal, }",
    )
    .unwrap();
    case.want(
        "custom.q",
        "profile custom.q { file, }\nprofile custom.z { file, }",
    );
    case.want(
        "custom.r",
        "profile custom.r { file, }\nprofile custom.z { file, }",
    );
    case.want_simple("custom.good");
    case.pass().exits(1).says("keep one").says("custom.z");
    let found: Vec<String> = loaded()
        .into_keys()
        .filter(|name| name.starts_with("custom."))
        .collect();
    // Two files of one name: neither counts. A further profile belongs to the first file that brings it.
    assert_eq!(found, ["custom.good", "custom.q", "custom.z"]);
}

#[test]
fn an_attachment_is_loaded_only_when_allowed() {
    let case = Case::new();
    case.want(
        "custom.p",
        "profile custom.p /usr/local/bin/nothing { file, }",
    );
    case.pass().exits(1);
    assert!(!is_loaded("custom.p"));
    case.armorer(&["reconcile", "--allow-attachment"]).exits(0);
    assert!(is_loaded("custom.p"));
}

#[test]
fn a_secret_beside_the_source_never_shows() {
    const CANARY: &str = "canary7f3a";
    let case = Case::new();
    fs::write("/etc/apparmor.d/secret", format!("{CANARY} {CANARY}\n")).unwrap();
    fs::write("/etc/secret", format!("{CANARY} {CANARY}\n")).unwrap();
    sh("chmod 600 /etc/secret /etc/apparmor.d/secret");
    fs::write(case.dir.join("secret"), format!("{CANARY}\n")).unwrap();
    std::os::unix::fs::symlink("/etc/secret", case.source().join("custom.link")).unwrap();
    std::os::unix::fs::symlink("../secret", case.source().join("custom.up")).unwrap();
    for (n, include) in [
        "\"/etc/secret\"",
        "<secret>",
        "\"secret\"",
        "<../secret>",
        "if exists </etc/secret>",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("custom.p{n}");
        case.want(
            &name,
            &format!("include {include}\nprofile {name} {{ file, }}\n"),
        );
        case.want(
            &format!("{name}x"),
            &format!("profile {name}x {{ file,\n#include {include}\n}}\n"),
        );
    }
    let said = [
        case.armorer(&["plan"]).said,
        case.pass().exits(1).said,
        case.armorer(&["status"]).said,
        case.armorer(&["check", case.source().to_str().unwrap()])
            .said,
        case.state(),
    ];
    sh("rm -f /etc/secret /etc/apparmor.d/secret");
    assert!(!said.concat().contains(CANARY), "{}", said.concat());
    assert!(names_within("custom.p0").is_empty());
}

use super::*;
use crate::tests::name;

fn rules(switches: &[&'static str]) -> Rules {
    Rules {
        prefix: "custom.".into(),
        switches: switches.iter().copied().collect(),
        members: 256,
    }
}

fn member(name: &str) -> Member {
    Member {
        namespace: None,
        name: name.to_owned(),
        attaches: false,
        mode: Mode::Enforce,
    }
}

fn in_mode(name: &str, mode: Mode) -> Member {
    Member {
        mode,
        ..member(name)
    }
}

/// The names that are accepted from the policy of the file custom.a.
fn check(members: &[Member], rules: &Rules) -> Result<Vec<String>, Refusal> {
    let accepted = rules.check(&name("custom.a"), members)?;
    Ok(accepted.into_iter().map(|member| member.name).collect())
}

/// That `members` of the file custom.a are refused for `reason`, with all of `words` in the message.
#[track_caller]
fn assert_refused(members: &[Member], rules: &Rules, reason: &str, words: &[&str]) {
    let refusal = check(members, rules).unwrap_err();
    assert_eq!(refusal.reason, reason, "{refusal}");
    for word in words {
        assert!(refusal.message.contains(word), "{refusal}");
    }
}

#[test]
fn a_file_has_the_prefix_and_a_plain_name() {
    let rules = rules(&[]);
    assert_eq!(rules.file_name("custom.a").unwrap(), name("custom.a"));
    let refusal = rules.file_name("other").unwrap_err();
    assert_eq!(refusal.reason, "name");
    assert!(refusal.message.contains("--prefix"), "{refusal}");
    let refusal = rules.file_name("custom.\u{1b}[2J").unwrap_err();
    assert!(!refusal.message.contains(char::is_control), "{refusal}");
    let any = Rules {
        prefix: String::new(),
        ..rules
    };
    assert!(any.file_name("other").is_ok());
}

#[test]
fn the_files_own_profile_comes_first_and_the_others_as_they_were() {
    let members = ["custom.0", "custom.a//kid", "custom.a", "custom.z"].map(member);
    let expected = ["custom.a", "custom.0", "custom.a//kid", "custom.z"];
    assert_eq!(check(&members, &rules(&[])).unwrap(), expected);
}

#[test]
fn a_file_without_its_own_profile_is_refused() {
    let members = [member("custom.b"), member("custom.c")];
    let words = ["\"custom.b\", \"custom.c\"", "\"custom.a\""];
    assert_refused(&members, &rules(&[]), "name", &words);
    assert_refused(&[], &rules(&[]), "name", &["\"custom.a\""]);
}

#[test]
fn another_policy_namespace_is_refused() {
    let elsewhere = Member {
        namespace: Some("ns1".into()),
        ..member("custom.b")
    };
    let members = [member("custom.a"), elsewhere];
    assert_refused(
        &members,
        &rules(&[]),
        "namespace",
        &["\"custom.b\"", "\"ns1\""],
    );
}

#[test]
fn a_further_profile_without_the_prefix_is_refused() {
    let members = [member("custom.a"), member("docker-default")];
    let words = ["\"docker-default\"", "\"custom.\""];
    assert_refused(&members, &rules(&[]), "name", &words);
}

#[test]
fn a_name_of_240_bytes_is_refused_and_one_of_239_is_not() {
    let long = format!("custom.x{}", "ü".repeat(116));
    assert_eq!(long.len(), 240);
    let members = [member("custom.a"), member(&long)];
    assert_refused(&members, &rules(&[]), "name", &["240", "239"]);
    let fits = long.replacen('ü', "u", 1);
    assert!(check(&[member("custom.a"), member(&fits)], &rules(&[])).is_ok());
}

/// Names that the kernel would read otherwise than they stand: it skips blanks, takes `:NAME:` for a
/// namespace and `//&` for a stack.
#[test]
fn names_that_mislead_are_refused() {
    let any = Rules {
        prefix: String::new(),
        ..rules(&[])
    };
    for misleading in [
        "",
        " x",
        "x ",
        " :evil:x",
        ":ns:x",
        "&x",
        "custom.a//&custom.b",
        "custom.a//:ns:x",
        "custom.a// x",
        "custom.a//",
        "custom.a//../x",
        "custom.a/./x",
        "custom.x/..",
        "custom.\n",
        "custom.\u{1b}]0;x\u{7}",
    ] {
        let refusal = check(&[member("custom.a"), member(misleading)], &any).unwrap_err();
        assert_eq!(refusal.reason, "name", "{misleading:?}");
        assert!(!refusal.message.contains(char::is_control), "{refusal:?}");
    }
    for plain in [
        "custom.b c",
        "custom.b/c",
        "/usr/bin/x",
        "custom.a//a b",
        "x:y",
        "x&y",
    ] {
        assert!(
            check(&[member("custom.a"), member(plain)], &any).is_ok(),
            "{plain}"
        );
    }
}

/// One case for each rule that an option switches: its word, its option, a profile that breaks it.
#[test]
fn each_switch_lifts_or_enables_its_rule() {
    let attached = Member {
        attaches: true,
        ..member("custom.b")
    };
    let cases = [
        ("allow-attachment", "attachment", attached),
        (
            "allow-unconfined",
            "unconfined",
            in_mode("custom.b", Mode::Unconfined),
        ),
        (
            "deny-complain",
            "complain",
            in_mode("custom.b", Mode::Complain),
        ),
    ];
    assert_eq!(cases.len(), SWITCHES.len());
    for (option, reason, breaks) in cases {
        let members = [member("custom.a"), breaks];
        let (refused, accepted) = match option.starts_with("allow-") {
            true => (rules(&[]), rules(&[option])),
            false => (rules(&[option]), rules(&[])),
        };
        let option = format!("--{option}");
        assert_refused(&members, &refused, reason, &["\"custom.b\"", &option]);
        assert!(check(&members, &accepted).is_ok(), "{option}");
        assert_ne!(refused.digest(), accepted.digest(), "{option}");
    }
}

#[test]
fn a_rule_holds_for_children_and_hats_too() {
    let own = || member("custom.a");
    let hat = |mode| [own(), in_mode("custom.a//hat", mode)];
    let complain = rules(&["deny-complain"]);
    assert_refused(&hat(Mode::Unconfined), &rules(&[]), "unconfined", &["hat"]);
    assert_refused(&hat(Mode::Complain), &complain, "complain", &["hat"]);
    // A child attaches only where a rule of its parent says so.
    let child = Member {
        attaches: true,
        ..member("custom.a//hat")
    };
    assert!(check(&[own(), child], &rules(&[])).is_ok());
}

#[test]
fn a_name_twice_is_refused() {
    let members = [member("custom.a"), member("custom.a")];
    assert_refused(&members, &rules(&[]), "duplicate", &["\"custom.a\""]);
}

#[test]
fn a_child_without_its_parent_is_refused() {
    let members = [member("custom.a"), member("custom.b//kid")];
    assert_refused(&members, &rules(&[]), "name", &["\"custom.b//kid\""]);
}

#[test]
fn a_file_defines_no_more_members_than_the_limit() {
    let mut members = vec![member("custom.a")];
    members.extend((1..256).map(|n| member(&format!("custom.{n}"))));
    assert_eq!(check(&members, &rules(&[])).unwrap().len(), 256);
    members.push(member("custom.b"));
    let words = ["257", "256", "--max-members"];
    assert_refused(&members, &rules(&[]), "limit", &words);
    let more = Rules {
        members: 257,
        ..rules(&[])
    };
    assert!(check(&members, &more).is_ok());
    assert_ne!(more.digest(), rules(&[]).digest());
}

#[test]
fn a_profile_named_by_a_path_lies_in_the_file_that_debian_names_so() {
    let any = Rules {
        prefix: String::new(),
        ..rules(&["allow-attachment"])
    };
    let members = [member("/usr/bin/x")];
    assert!(any.check(&name("usr.bin.x"), &members).is_ok());
    assert!(any.check(&name("usr.bin.y"), &members).is_err());
}

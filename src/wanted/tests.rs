use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::source::Limits;

fn rules() -> Rules {
    Rules {
        prefix: "custom.".into(),
        allow_attachment: false,
        allow_unconfined: false,
        limits: Limits::default(),
        compile_timeout: Duration::from_secs(30),
        jobs: None,
        parser: None,
        base: PathBuf::from("/etc/apparmor.d"),
    }
}

fn raw(name: &str, source: &str, text: &str) -> RawProfile {
    RawProfile {
        name: name.to_owned(),
        source: source.to_owned(),
        text: Ok(text.to_owned()),
    }
}

fn file(name: &str) -> ProfileName {
    ProfileName::parse(name).unwrap()
}

fn member(name: &str) -> blob::Member {
    blob::Member {
        namespace: None,
        name: name.to_owned(),
        attaches: false,
        mode: Mode::Enforce,
    }
}

fn accepted(name: &str) -> Member {
    Member {
        name: name.to_owned(),
        mode: Mode::Enforce,
    }
}

fn check(members: &[blob::Member], rules: &Rules) -> Result<Vec<String>, Refusal> {
    let checked = check_members(&file("custom.a"), members, rules)?;
    Ok(checked.into_iter().map(|member| member.name).collect())
}

/// That `members` of the file custom.a are refused, in these words.
#[track_caller]
fn assert_refused(members: &[blob::Member], kind: RefusalKind, message: &str) {
    let refusal = check(members, &rules()).unwrap_err();
    assert_eq!(refusal.message, message);
    assert_eq!(refusal.kind, kind);
}

fn refusal<'a>(wish: &'a Wish, name: &str) -> &'a Refusal {
    &wish.refused[name]
}

#[test]
fn what_is_found_becomes_units_by_name() {
    let found = vec![raw("custom.b", "/p", "b"), raw("custom.a", "/p", "a")];
    let wish = Wish::new(found, &rules());
    let names: Vec<_> = wish.units.iter().map(|unit| unit.name.as_str()).collect();
    assert_eq!(names, ["custom.a", "custom.b"]);
    assert_eq!(wish.units[0].digest, Digest::of(b"a"));
    assert_eq!(wish.source_of("custom.a"), "/p");
    assert_eq!(wish.source_of("custom.z"), "");
    assert_eq!(wish.counts, BTreeMap::from([("/p".to_owned(), 2)]));
    assert!(wish.refused.is_empty());
}

#[test]
fn a_file_without_the_prefix_is_refused_by_its_name() {
    let wish = Wish::new(vec![raw("other", "/p", "x")], &rules());
    let refusal = refusal(&wish, "other");
    assert_eq!(refusal.kind, RefusalKind::Name);
    assert_eq!(
        refusal.message,
        "the file \"other\" does not start with the prefix \"custom.\": rename file and profile, or set --prefix"
    );
    assert!(wish.units.is_empty());
    assert!(wish.names().contains("other"));
    let any = Rules {
        prefix: String::new(),
        ..rules()
    };
    let wish = Wish::new(vec![raw("other", "/p", "x")], &any);
    assert_eq!(wish.units.len(), 1);
}

#[test]
fn a_file_name_that_tricks_is_refused_printably() {
    let wish = Wish::new(vec![raw("custom.\u{1b}[2J", "/p", "x")], &rules());
    let refusal = refusal(&wish, "custom.\u{1b}[2J");
    assert_eq!(
        refusal.message,
        "the name \"custom.\\u{1b}[2J\" holds a control character"
    );
}

#[test]
fn a_name_from_two_places_is_refused_with_both() {
    let found = vec![
        raw("custom.a", "/p", "x"),
        raw("custom.a", "/p/sub", "x"),
        raw("custom.b", "/q", "x"),
    ];
    let wish = Wish::new(found, &rules());
    let refusal = refusal(&wish, "custom.a");
    assert_eq!(refusal.kind, RefusalKind::Duplicate);
    assert_eq!(
        refusal.message,
        "custom.a is wanted twice, by /p and /p/sub: keep one"
    );
    assert_eq!(wish.units.len(), 1);
    assert_eq!(wish.counts.len(), 3);
}

#[test]
fn a_text_that_could_not_be_taken_keeps_its_own_words() {
    let mut found = raw("custom.a", "/p", "");
    let why = Refusal::new(RefusalKind::Text, "byte 3 is not UTF-8");
    found.text = Err(why.clone());
    let wish = Wish::new(vec![found], &rules());
    assert_eq!(refusal(&wish, "custom.a"), &why);
}

#[test]
fn the_digest_tells_names_sources_texts_and_refusals_apart() {
    let digest = |found| Wish::new(found, &rules()).digest;
    let found = vec![raw("custom.a", "/p", "x")];
    assert_eq!(digest(found.clone()), digest(found.clone()));
    let mut refused = raw("custom.a", "/p", "");
    refused.text = Err(Refusal::new(RefusalKind::Text, "x"));
    let different = [
        vec![],
        vec![raw("custom.b", "/p", "x")],
        vec![raw("custom.a", "/q", "x")],
        vec![raw("custom.a", "/p", "y")],
        vec![raw("custom.a", "/p", "x"), raw("custom.b", "/p", "x")],
        vec![refused],
    ];
    for other in different {
        assert_ne!(digest(found.clone()), digest(other));
    }
}

#[test]
fn the_files_own_profile_comes_first() {
    let members = ["custom.0", "custom.a//kid", "custom.a", "custom.z"].map(member);
    assert_eq!(
        check(&members, &rules()).unwrap(),
        ["custom.a", "custom.0", "custom.a//kid", "custom.z"]
    );
}

#[test]
fn a_file_that_defines_no_profile_is_refused() {
    assert_refused(
        &[],
        RefusalKind::Compile,
        "custom.a: the text defines no profile",
    );
}

#[test]
fn a_file_that_defines_other_profiles_only_is_refused() {
    assert_refused(
        &[member("custom.b"), member("custom.c")],
        RefusalKind::Name,
        "custom.a: defines \"custom.b\", \"custom.c\", not \"custom.a\": give file and profile the same name",
    );
}

#[test]
fn another_policy_namespace_is_refused() {
    let mut elsewhere = member("custom.b");
    elsewhere.namespace = Some("ns1".into());
    assert_refused(
        &[member("custom.a"), elsewhere],
        RefusalKind::Namespace,
        "custom.a: \"custom.b\" is in the policy namespace \"ns1\": only the node's own namespace is served",
    );
}

#[test]
fn a_further_profile_without_the_prefix_is_refused() {
    assert_refused(
        &[member("custom.a"), member("docker-default")],
        RefusalKind::Name,
        "custom.a: defines \"docker-default\", which does not start with the prefix \"custom.\"",
    );
}

#[test]
fn a_name_of_240_bytes_is_refused_and_239_are_taken() {
    let long = format!("custom.x{}", "ü".repeat(116));
    assert_eq!(long.len(), 240);
    let refusal = check(&[member("custom.a"), member(&long)], &rules()).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Name);
    assert!(
        refusal.message.ends_with("of 240 bytes: the limit is 239"),
        "{refusal}"
    );
    let fits = long.replacen("ü", "u", 1);
    assert!(check(&[member("custom.a"), member(&fits)], &rules()).is_ok());
}

#[test]
fn path_tricks_and_control_characters_in_a_name_are_refused() {
    for name in [
        "custom.a//../x",
        "custom.a/./x",
        "custom.\n",
        "custom.\u{1b}]0;x\u{7}",
        "custom.x/..",
    ] {
        let refusal = check(&[member("custom.a"), member(name)], &rules()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Name, "{name}");
        assert!(
            refusal.message.ends_with("which is no plain name"),
            "{refusal}"
        );
        assert!(!refusal.message.contains(char::is_control), "{refusal:?}");
    }
    let any = Rules {
        prefix: String::new(),
        ..rules()
    };
    for name in ["", ":ns:x", "&x"] {
        assert!(check(&[member("custom.a"), member(name)], &any).is_err());
    }
}

#[test]
fn an_attachment_is_refused_unless_it_is_allowed() {
    let mut attached = member("custom.b");
    attached.attaches = true;
    let members = [member("custom.a"), attached];
    assert_refused(
        &members,
        RefusalKind::Attachment,
        "custom.a: \"custom.b\" attaches itself to programs by path, and so would confine the host's processes: \
         take the path out of its first line, or set --allow-attachment",
    );
    let allowed = Rules {
        allow_attachment: true,
        ..rules()
    };
    assert!(check(&members, &allowed).is_ok());
}

#[test]
fn mode_unconfined_is_refused_unless_it_is_allowed() {
    let mut unconfined = member("custom.a");
    unconfined.mode = Mode::Unconfined;
    assert_refused(
        std::slice::from_ref(&unconfined),
        RefusalKind::Unconfined,
        "custom.a: \"custom.a\" is in mode unconfined, and so confines nobody: take the flag out, or set --allow-unconfined",
    );
    let mut hat = member("custom.a//hat");
    hat.mode = Mode::Unconfined;
    assert!(check(&[member("custom.a"), hat], &rules()).is_err());
    let allowed = Rules {
        allow_unconfined: true,
        ..rules()
    };
    assert!(check(&[unconfined], &allowed).is_ok());
}

#[test]
fn a_name_twice_in_a_blob_is_refused() {
    assert_refused(
        &[member("custom.a"), member("custom.a")],
        RefusalKind::Duplicate,
        "custom.a: defines \"custom.a\" twice",
    );
}

#[test]
fn a_child_of_what_the_file_does_not_define_is_refused() {
    assert_refused(
        &[member("custom.a"), member("custom.b//kid")],
        RefusalKind::Name,
        "custom.a: \"custom.b//kid\" is a child of a profile that the file does not define",
    );
}

#[test]
fn a_profile_named_by_a_path_may_lie_in_debians_file() {
    let any = Rules {
        prefix: String::new(),
        allow_attachment: true,
        ..rules()
    };
    let mut program = member("/usr/bin/x");
    program.attaches = true;
    let members = [program];
    assert!(check_members(&file("usr.bin.x"), &members, &any).is_ok());
    assert!(check_members(&file("usr.bin.y"), &members, &any).is_err());
}

#[test]
fn a_name_that_has_a_file_of_its_own_is_taken_by_no_other() {
    let files = BTreeSet::from(["custom.a", "custom.b"]);
    let members = [accepted("custom.a"), accepted("custom.b")];
    let refusal = check_intruder(&file("custom.a"), &members, &files).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Duplicate);
    assert_eq!(
        refusal.message,
        "custom.a: defines \"custom.b\" too, which has a file of its own: keep one"
    );
    let members = [accepted("custom.a"), accepted("custom.c")];
    assert!(check_intruder(&file("custom.a"), &members, &files).is_ok());
}

#[test]
fn doubles_are_further_profiles_of_several_files() {
    let names = [file("custom.a"), file("custom.b"), file("custom.c")];
    let members = [
        ["custom.a", "custom.x", "custom.a//kid"].map(accepted),
        ["custom.b", "custom.x", "custom.y"].map(accepted),
        ["custom.c", "custom.z", "custom.a//kid"].map(accepted),
    ];
    let files = names
        .iter()
        .zip(members.iter().map(<[Member; 3]>::as_slice));
    let found = doubles(files);
    let found: Vec<_> = found
        .iter()
        .map(|(name, files)| {
            let files: Vec<_> = files.iter().map(|file| file.as_str()).collect();
            (*name, files)
        })
        .collect();
    assert_eq!(found, [("custom.x", vec!["custom.a", "custom.b"])]);
}

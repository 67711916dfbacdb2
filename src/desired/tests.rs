use super::*;
use crate::tests::name;

fn rules() -> Rules {
    Rules {
        prefix: "custom.".into(),
        switches: BTreeSet::new(),
        members: 256,
    }
}

/// A file of the source `/p` or of another one that its place begins with.
fn raw(name: &str, place: &str, text: &str) -> RawProfile {
    RawProfile {
        name: name.to_owned(),
        source: place[..2].to_owned(),
        place: place.to_owned(),
        text: Ok(text.to_owned()),
    }
}

fn desired(found: Vec<RawProfile>) -> Desired {
    Desired::new(found, &rules())
}

#[test]
fn files_become_profiles_by_name() {
    let desired = desired(vec![
        raw("custom.b", "/p/sub", "b"),
        raw("custom.a", "/q", "a"),
    ]);
    let expected = [
        ("custom.a", "/q", "/q", "a"),
        ("custom.b", "/p", "/p/sub", "b"),
    ];
    let expected = expected.map(|(file, source, place, text)| ProfileSource {
        name: name(file),
        source: source.to_owned(),
        place: place.to_owned(),
        text: text.to_owned(),
        digest: Digest::of(text.as_bytes()),
    });
    assert_eq!(desired.profiles, expected);
    assert!(desired.refused.is_empty());
    assert!(desired.holding.iter().eq(["/p", "/q"]));
}

#[test]
fn a_refused_file_is_desired_still_and_fills_its_source() {
    let mut no_text = raw("custom.a", "/p", "");
    let reason = Refusal::new("text", "byte 3 is not UTF-8");
    no_text.text = Err(reason.clone());
    let desired = desired(vec![raw("other", "/q/x", "x"), no_text]);
    assert!(desired.profiles.is_empty());
    assert_eq!(desired.refused["custom.a"], ("/p".to_owned(), reason));
    let (place, refusal) = &desired.refused["other"];
    assert_eq!((&**place, refusal.reason), ("/q/x", "name"));
    assert!(desired.names().into_iter().eq(["custom.a", "other"]));
    assert!(desired.holding.iter().eq(["/p", "/q"]));
}

#[test]
fn a_name_in_two_places_is_refused_with_both() {
    let found = vec![
        raw("custom.a", "/p", "x"),
        raw("custom.a", "/p/sub", "x"),
        raw("custom.b", "/q", "x"),
    ];
    let desired = desired(found);
    let (_, refusal) = &desired.refused["custom.a"];
    assert_eq!(refusal.reason, "duplicate");
    for place in ["/p ", "/p/sub"] {
        assert!(refusal.message.contains(place), "{refusal}");
    }
    assert_eq!(desired.profiles.len(), 1);
    assert!(desired.names().into_iter().eq(["custom.a", "custom.b"]));
}

#[test]
fn the_digest_follows_names_sources_places_texts_and_refusals() {
    let digest = |found| desired(found).digest;
    let found = vec![raw("custom.a", "/p", "x")];
    assert_eq!(digest(found.clone()), digest(found.clone()));
    let mut refused = raw("custom.a", "/p", "");
    refused.text = Err(Refusal::new("text", "x"));
    let mut of_other_source = raw("custom.a", "/p", "x");
    of_other_source.source = "/q".to_owned();
    let different = [
        vec![],
        vec![raw("custom.b", "/p", "x")],
        vec![raw("custom.a", "/p/sub", "x")],
        vec![of_other_source],
        vec![raw("custom.a", "/p", "y")],
        vec![raw("custom.a", "/p", "x"), raw("custom.b", "/p", "x")],
        vec![refused],
    ];
    let different: BTreeSet<_> = different.into_iter().map(digest).collect();
    assert_eq!(different.len(), 7);
    assert!(!different.contains(&digest(found)));
}

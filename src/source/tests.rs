use super::*;
use crate::error::Exit;
use crate::properties::decoded;

#[test]
fn a_source_is_recorded_absolute_or_as_it_was_written() {
    let here = std::env::current_dir().unwrap();
    let here = here.to_str().unwrap();
    for (text, recorded) in [
        ("/profiles", "/profiles".to_owned()),
        ("profiles", format!("{here}/profiles")),
        ("./a b", format!("{here}/a b")),
        ("configmap", format!("{here}/configmap")),
    ] {
        assert_eq!(Source::parse(text).unwrap().to_string(), recorded);
    }
    for text in [
        "configmap://web/profiles",
        "configmap://web?selector=tier%3Da%2Capp%20in%20%28x%2Cy%29",
        "configmap://kube-system/a.b-c.9",
    ] {
        let source = Source::parse(text).unwrap();
        assert!(matches!(source, Source::ConfigMaps(_)), "{text}");
        assert_eq!(source.to_string(), text);
    }
}

#[test]
fn other_texts_are_no_source() {
    for text in [
        "",
        "https://example.com/profiles",
        "configmaps://a/b",
        "configmap://a",
        "configmap:///b",
        "configmap://a/",
        "configmap://a.b/c",
        "configmap://a/B",
        "configmap://a/b/c",
        "configmap://a/b?selector=c",
        "configmap://a?labels=c",
        "configmap://a?selector=",
        "configmap://a?selector=%20",
        "configmap://a?selector=%ff",
        "configmap://a?selector=%0a",
        "configmap://a?selector=b&limit=1",
        "configmap://a?selector=b#c",
    ] {
        let error = Source::parse(text).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage, "{text}");
        assert!(
            error.to_string().contains(&format!("\"{text}\"")),
            "{error}"
        );
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_at_their_place() {
    assert_eq!(text(b"\xef\xbb\xbfa".to_vec(), 9).unwrap(), "\u{feff}a");
    for (bytes, place) in [(&b"abc\xffd"[..], "byte 3 "), (b"ab\0c", "byte 2 ")] {
        let refusal = text(bytes.to_vec(), 9).unwrap_err();
        assert_eq!(refusal.reason, "text");
        assert!(refusal.message.contains(place), "{refusal}");
    }
    assert_eq!(text(b"123".to_vec(), 3).unwrap(), "123");
    let refusal = text(b"1234".to_vec(), 3).unwrap_err();
    assert_eq!(refusal.reason, "limit");
    assert!(refusal.message.contains("--max-profile-size"), "{refusal}");
}

#[test]
fn data_of_a_config_map_is_text_and_binary_data_is_refused() {
    let answer = br#"{
        "metadata": {"name": "x"},
        "data": {"custom.a": "text", "custom.b": "longer than that"},
        "binaryData": {"custom.c": "AAAA"}
    }"#;
    let texts = decoded(answer, 9).unwrap();
    assert_eq!(texts["custom.a"].as_deref(), Ok("text"));
    let reason = |name: &str| texts[name].as_ref().unwrap_err().reason;
    assert_eq!((reason("custom.b"), reason("custom.c")), ("limit", "text"));
    assert_eq!(decoded(br#"{"metadata": {}}"#, 9).unwrap().len(), 0);
    assert_eq!(decoded(b"[]", 9), None);
}

/// The memory of all texts together is bounded, beside the limits of one.
#[test]
fn the_texts_of_all_sources_have_a_limit() {
    let limits = Limits {
        profile_bytes: 1 << 30,
        profiles: 10,
    };
    let mut found = Found::default();
    let mut keep = |bytes| {
        let profile = RawProfile {
            name: "custom.a".into(),
            source: "/p".into(),
            place: "/p".into(),
            text: Ok("x".repeat(bytes)),
        };
        found.keep(profile, &limits)
    };
    keep(63 << 20).unwrap();
    keep(1 << 20).unwrap();
    assert!(keep(1).unwrap_err().to_string().contains("/p"));
}

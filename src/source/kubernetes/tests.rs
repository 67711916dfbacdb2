use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::error::Exit;
use crate::kubernetes::Api;
use crate::kubernetes::access::{Access, server_of_pod};
use crate::kubernetes::server::{Server, TOKEN, map, metadata, missing, raw, reply};
use crate::source::{Source, read_parts};

fn versions(parts: &[Part]) -> BTreeMap<String, Version> {
    let version = |part: &Part| Some((part.key.clone(), part.version.clone()?));
    parts.iter().filter_map(version).collect()
}

fn profiles_of(part: &Part) -> Vec<(&str, Result<&str, RefusalKind>)> {
    let Content::Profiles(profiles) = &part.content else {
        panic!("{part:?}")
    };
    profiles
        .iter()
        .map(|p| (p.name.as_str(), p.text.as_deref().map_err(|r| r.kind)))
        .collect()
}

#[test]
fn sources_are_named_or_selected() {
    for text in [
        "configmap://ns/name.with-dots",
        "configmap://ns?selector=app%3Dx",
        "configmap://ns?selector=app in (a,b)",
    ] {
        assert_eq!(Source::parse(text).unwrap().to_string(), text);
    }
    for text in [
        "configmap://",
        "configmap:///x",
        "configmap://ns",
        "configmap://ns/",
        "configmap://ns/a/b",
        "configmap://NS/x",
        "configmap://ns/x?selector=a",
        "configmap://ns?selector=",
        "configmap://ns?selector=%",
        "configmap://ns?selector=a&limit=1",
        "configmap://ns?label=a",
    ] {
        let error = Source::parse(text).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage, "{text}");
    }
}

#[test]
fn a_known_version_costs_its_metadata_only() {
    let server = Server::start(|n, seen| {
        let version = if n < 2 { "1" } else { "2" };
        if seen.headers.contains("as=PartialObjectMetadata;") {
            let answer = reply(200, &json!({"metadata": metadata("x", version)}));
            assert!(answer.len() < 1024);
            answer
        } else {
            reply(
                200,
                &map("x", version, &json!({"custom.b": "2", "custom.a": version})),
            )
        }
    });
    let first = server.read("configmap://ns/x").unwrap();
    assert_eq!(first[0].key, "configmap://ns/x");
    assert_eq!(
        profiles_of(&first[0]),
        [("custom.a", Ok("1")), ("custom.b", Ok("2"))]
    );
    let known = versions(&first);
    let second = server.read_known("configmap://ns/x", &known).unwrap();
    assert_eq!(second[0].content, Content::Unchanged);
    let third = server.read_known("configmap://ns/x", &known).unwrap();
    assert_eq!(profiles_of(&third[0])[0], ("custom.a", Ok("2")));
    assert_ne!(versions(&third), known);
    assert_eq!(
        server.lines(),
        ["GET /api/v1/namespaces/ns/configmaps/x"; 4]
    );
    let seen = server.seen.lock().unwrap();
    let sent = format!("Bearer {TOKEN}");
    assert!(seen.iter().all(|seen| seen.headers.contains(&sent)));
}

#[test]
fn keys_are_taken_as_from_a_mounted_volume() {
    let server = Server::start(|_, _| {
        let mut map = map(
            "x",
            "1",
            &json!({"README": "", ".a": "", "b~": "", "big": "x".repeat(600_000), "nul": "a\u{0}"}),
        );
        map["binaryData"] = json!({"bin": "AA=="});
        reply(200, &map)
    });
    let parts = server.read("configmap://ns/x").unwrap();
    let wanted = [
        ("bin", Err(RefusalKind::Text)),
        ("big", Err(RefusalKind::Limit)),
        ("nul", Err(RefusalKind::Text)),
    ];
    let mut wanted = wanted.to_vec();
    wanted.sort_by_key(|(name, _)| *name);
    assert_eq!(profiles_of(&parts[0]), wanted);
}

#[test]
fn a_selection_is_paged_and_starts_anew_when_its_place_is_forgotten() {
    let server = Server::start(|n, seen| {
        let page = |names: &[&str], cursor: &str| {
            let items: Vec<_> = names
                .iter()
                .map(|name| json!({"metadata": metadata(name, "1")}))
                .collect();
            reply(
                200,
                &json!({"metadata": {"continue": cursor}, "items": items}),
            )
        };
        match (n, seen.line.contains("continue=")) {
            (1, true) => reply(410, &json!({"kind": "Status", "reason": "Expired"})),
            (_, false) if seen.line.contains('?') => page(&["c", "b"], "a/b="),
            (_, true) => page(&["a"], ""),
            _ => {
                let name = seen.line.rsplit('/').next().unwrap();
                reply(200, &map(name, "1", &json!({ name: "text" })))
            }
        }
    });
    let parts = server.read("configmap://ns?selector=app%3Dx").unwrap();
    let keys: Vec<_> = parts.iter().map(|part| part.key.as_str()).collect();
    assert_eq!(
        keys,
        ["a", "b", "c"].map(|name| format!("configmap://ns/{name}"))
    );
    let lines = server.lines();
    let list = "GET /api/v1/namespaces/ns/configmaps?labelSelector=app%3Dx&limit=250";
    assert_eq!(
        lines[..2],
        [list.to_owned(), format!("{list}&continue=a%2Fb%3D")]
    );
    assert_eq!(lines.len(), 7);
    let again = server
        .read_known("configmap://ns?selector=app%3Dx", &versions(&parts))
        .unwrap();
    assert!(again.iter().all(|part| part.content == Content::Unchanged));
    assert_eq!(server.lines().len(), 9);
}

#[test]
fn a_selected_map_that_goes_away_meanwhile_is_not_missed_but_listed_again() {
    let server = Server::start(|n, seen| match (n, seen.line.contains('?')) {
        (0, true) => reply(200, &json!({"items": [{"metadata": metadata("a", "1")}]})),
        (_, true) => reply(200, &json!({"items": []})),
        _ => missing("a"),
    });
    assert_eq!(server.read("configmap://ns?selector=a").unwrap(), []);
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn a_missing_map_is_an_empty_wish_only_where_that_is_allowed_and_the_api_says_so() {
    let server = Server::start(|_, seen| {
        if seen.line.ends_with('x') {
            missing("x")
        } else {
            raw(404, "", "<html>not here</html>")
        }
    });
    let error = server.read("configmap://ns/x").unwrap_err();
    assert!(matches!(error, Error::Source(_)));
    assert!(error.to_string().contains("--allow-empty"), "{error}");
    let mut settings = server.settings(5);
    settings.allow_empty = true;
    let read = |source| {
        read_parts(
            &[Source::parse(source).unwrap()],
            &settings,
            &BTreeMap::new(),
        )
    };
    assert_eq!(read("configmap://ns/x").unwrap(), []);
    assert!(matches!(read("configmap://ns/y"), Err(Error::Source(_))));
}

/// The line for an answer, which must come without a retry and without the token.
fn line_for(answer: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> String {
    let server = Server::start(move |_, _| answer());
    let error = server.read("configmap://ns/x").unwrap_err();
    assert_eq!(server.lines().len(), 1, "{error}");
    assert!(matches!(error, Error::Source(_)), "{error}");
    let line = error.to_string();
    assert!(line.starts_with(&server.url), "{line}");
    assert!(!line.contains("secret") && !line.contains("eyJ"), "{line}");
    line
}

#[test]
fn final_answers_end_in_one_line_that_says_what_to_do() {
    let line = line_for(|| reply(401, &json!({})));
    assert!(
        line.contains("does not believe the ServiceAccount kube-system/armorer"),
        "{line}"
    );
    let line = line_for(|| reply(403, &json!({"message": TOKEN})));
    let wanted = "kube-system/armorer may not get configmaps \"x\" in the namespace \"ns\": bind";
    assert!(line.contains(wanted), "{line}");
    let line = line_for(|| reply(400, &json!({"message": format!("you sent {TOKEN}")})));
    assert!(
        line.ends_with("400 Bad Request: the API server says no more"),
        "{line}"
    );
    let line = line_for(|| reply(400, &json!({"message": "unable to parse"})));
    assert!(line.ends_with("unable to parse"), "{line}");
    let line = line_for(|| raw(200, "", "<html>login</html>"));
    assert!(
        line.contains("line 1 column 1 the answer makes no sense"),
        "{line}"
    );
    let line = line_for(|| reply(200, &json!({"metadata": TOKEN})));
    assert!(line.contains("makes no sense"), "{line}");
    let line = line_for(|| reply(200, &map("other", "1", &json!({}))));
    assert!(line.contains("another object or has no version"), "{line}");
    let line = line_for(|| raw(200, "", &" ".repeat(11 << 20)));
    assert!(line.contains("more than 10485760 bytes"), "{line}");
    let line = line_for(|| b"SSH-2.0-OpenSSH\r\n\r\n".to_vec());
    assert!(line.contains("protocol"), "{line}");
}

#[test]
fn a_redirect_is_not_followed() {
    let other = Server::start(|_, _| reply(200, &map("x", "1", &json!({}))));
    let location = format!("location: {}/\r\n", other.url);
    let line = line_for(move || raw(307, &location, ""));
    assert!(line.contains("a redirect, which is not followed"), "{line}");
    assert!(other.lines().is_empty());
}

#[test]
fn what_passes_is_tried_again() {
    let server = Server::start(|n, _| match n {
        0 => raw(503, "", ""),
        1 => Vec::new(),
        2 => b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 999\r\n\r\n{\"met".to_vec(),
        3 => b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"met".to_vec(),
        4 => raw(429, "retry-after: 1\r\n", ""),
        _ => reply(200, &map("x", "1", &json!({"a": "b"}))),
    });
    let started = Instant::now();
    let parts = server.read("configmap://ns/x").unwrap();
    assert_eq!(profiles_of(&parts[0]), [("a", Ok("b"))]);
    assert!(started.elapsed() > Duration::from_secs(1));
    assert_eq!(server.lines().len(), 6);
}

#[test]
fn the_deadline_holds_for_all_tries_together() {
    let slow = || {
        thread::sleep(Duration::from_secs(30));
        Vec::new()
    };
    for server in [
        Server::start(|_, _| raw(500, "", "")),
        Server::start(|_, _| raw(429, "retry-after: 4294967295\r\n", "")),
        Server::start(move |_, _| slow()),
    ] {
        let started = Instant::now();
        let source = Source::parse("configmap://ns/x").unwrap();
        let error = read_parts(&[source], &server.settings(3), &BTreeMap::new()).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(20), "{error}");
        assert!(matches!(error, Error::Source(_)) && !error.to_string().contains("eyJ"));
    }
    let server = Server::start(|_, _| Vec::new());
    let mut settings = server.settings(2);
    settings.api = Api::new(Access {
        api_server: Some("http://127.0.0.1:1".to_owned()),
        ..server.access()
    });
    let source = Source::parse("configmap://ns/x").unwrap();
    let error = read_parts(&[source], &settings, &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn wrong_settings_are_bad_usage() {
    let deadline = Instant::now();
    for url in [
        "http://10.0.0.1",
        "ftp://x",
        "https://",
        "https://user@x",
        "x:6443",
        "https://x/?a",
    ] {
        let access = Access {
            api_server: Some(url.to_owned()),
            ..Access::default()
        };
        let error = Api::new(access).until(deadline).err().unwrap();
        assert_eq!(error.exit(), Exit::Usage, "{url}");
    }
    let error = Api::new(Access::default()).until(deadline).err().unwrap();
    assert!(error.to_string().contains("--api-server"));
}

#[test]
fn the_server_of_a_pod_may_have_an_ipv6_address() {
    let server = |host: &'static str| {
        server_of_pod(&move |name| match name {
            "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
            _ => Some("6443".to_owned()),
        })
    };
    assert_eq!(server("10.0.0.1").unwrap(), "https://10.0.0.1:6443");
    assert_eq!(server("fd00::1").unwrap(), "https://[fd00::1]:6443");
    assert_eq!(server_of_pod(&|_| None), None);
}

#[test]
fn no_log_shows_the_bytes_of_a_request() {
    assert!(log::STATIC_MAX_LEVEL <= log::LevelFilter::Debug);
}

//! Properties of any input. `scripts/fuzz` looks for a counterexample with coverage as its
//! guide; the tests below look with a small generator, on stable Rust.
//!
//! Each function panics where its property does not hold.

// To the fuzzer this file is the interface of a library, whose functions are there to panic.
#![allow(unreachable_pub, clippy::missing_panics_doc)]

use std::collections::BTreeSet;
use std::path::Path;

use crate::compiler::properties as compiler;
use crate::desired::{Desired, RawProfile};
use crate::kernel;
use crate::policy::{self, Answer, Question, advise, expectation};
use crate::profile::{Mode, ProfileName, is_control, parent, printable, quoted};
use crate::rules::Rules;
use crate::source::configmaps::{Texts, texts};
use crate::state::State;

/// The bytes that one text may have.
const TEXT_LIMIT: u64 = 128 << 10;

/// Compiled policy: all members that are read are in it, and those that are accepted obey the rules.
pub fn blob(data: &[u8]) {
    let Ok(members) = policy::members(data) else {
        return;
    };
    assert!(!members.is_empty());
    let bytes: usize = members.iter().map(|member| member.name.len()).sum();
    assert!(bytes <= data.len() * 2, "more names than bytes");
    for file in &members {
        let Ok(file) = ProfileName::parse(&file.name) else {
            continue;
        };
        let Ok(accepted) = rules().check(&file, &members) else {
            continue;
        };
        assert_eq!(accepted.len(), members.len());
        assert_eq!(accepted[0].name, file.as_str());
        for member in &members {
            assert!(member.name.starts_with("custom."), "{}", member.name);
            assert!(!member.name.contains(char::is_control), "{:?}", member.name);
            assert_eq!(member.namespace, None);
            assert_ne!(member.mode, Mode::Unconfined);
            assert!(!member.attaches || parent(&member.name).is_some());
            let is_known = |name: &str| members.iter().any(|other| other.name == name);
            assert!(parent(&member.name).is_none_or(is_known));
        }
    }
}

/// Compiled policy: a question has one answer, and advice is in clean lines.
pub fn answers(data: &[u8]) {
    let Ok(profiles) = policy::profiles(data) else {
        return;
    };
    for profile in &profiles {
        for question in [
            "owner read /etc/hosts",
            "exec /usr/bin/sh",
            "owner link /a/b /etc/hosts",
            "capability sys_admin",
            "network inet stream",
            "network unix dgram",
            "signal receive term runc",
            "ptrace readby custom.x",
            "userns",
        ] {
            let words: Vec<&str> = question.split(' ').collect();
            let question = Question::parse(&words).expect("a question");
            let answer = profile.answer(&question);
            assert_eq!(answer, profile.answer(&question));
            if let Answer::Allowed(text) = answer {
                assert!(text.starts_with("allowed"), "{text}");
            }
        }
        for (word, message) in advise(profile, &profiles, "") {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(word.bytes().all(is_plain), "{word}");
            assert_clean(&printable(&message));
        }
    }
}

/// Lists of questions: each line is an expectation, a comment, or refused in a clean line.
pub fn questions(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        match expectation(line) {
            Ok(None) => assert!(line.trim().is_empty() || line.trim().starts_with('#')),
            Ok(Some(_)) => assert!(line.contains("allow") || line.contains("deny")),
            Err(message) => assert_clean(&message),
        }
    }
}

/// The kernel's list: no name that is not in it, and none of another policy namespace.
pub fn profiles(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: BTreeSet<&str> = text.lines().collect();
    let found = kernel::listed(data);
    assert!(found.len() <= lines.len());
    for (name, mode) in &found {
        assert!(!name.starts_with(':'), "{name}");
        let line = format!("{name} ({mode})");
        assert!(*mode == Mode::Unknown || lines.contains(&*line), "{line}");
    }
}

/// The state: it is written as it was read, and a boot ends all counts since boot.
pub fn state(data: &[u8]) {
    let state = match State::parse(data) {
        Ok(state) => state,
        Err(error) => return assert_clean(&printable(&error.chain())),
    };
    let json = state.to_json();
    let again = State::parse(&json).expect("a state that was written");
    assert_eq!(again, state);
    assert_eq!(again.to_json(), json);
    let mut booted = again;
    booted.boot_id = None;
    booted.enter_boot("another");
    for (name, set) in &booted.sets {
        assert!(set.owned.is_empty() && set.basis.kernel_revision.is_none());
        assert_eq!(set.in_force().count(), 0);
        assert_eq!(set.profiles.len(), state.sets[name].profiles.len());
    }
}

/// Names: an accepted one is a file in its folder and nothing else, and prints as it is.
pub fn name(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert_clean(&printable(&text));
    assert_clean(&quoted(&text));
    assert!(quoted(&text).chars().count() <= 83 * 10);
    let name = match ProfileName::parse(&text) {
        Ok(name) => name,
        Err(message) => return assert_clean(&message),
    };
    let file = Path::new("/source").join(name.as_str());
    assert_eq!(file.parent(), Some(Path::new("/source")));
    assert_eq!(file.file_name(), Some(name.as_str().as_ref()));
    assert!(file.components().count() == 3 && name.as_str().len() < 240);
    let shown = quoted(name.as_str());
    let is_long = name.as_str().chars().nth(80).is_some();
    assert!(is_long || shown == format!("\"{name}\""), "{shown}");
    let json = serde_json::to_string(&name).expect("a text");
    assert_eq!(serde_json::from_str::<ProfileName>(&json).ok(), Some(name));
}

/// The texts in an answer of the API server, if it is a `ConfigMap`.
pub(crate) fn decoded(answer: &[u8], limit: u64) -> Option<Texts> {
    Some(texts(serde_json::from_slice(answer).ok()?, limit))
}

/// A `ConfigMap` of the API server: each key is a profile to load, or refused in a clean line.
pub fn configmap(data: &[u8]) {
    let Some(texts) = decoded(data, TEXT_LIMIT) else {
        return;
    };
    let names: BTreeSet<String> = texts.keys().cloned().collect();
    let raw = |(name, text)| RawProfile {
        name,
        source: String::new(),
        place: String::new(),
        text,
    };
    let desired = Desired::new(texts.into_iter().map(raw).collect(), &rules());
    let accepted = desired.profiles.iter();
    let accepted: BTreeSet<&str> = accepted.map(|profile| profile.name.as_str()).collect();
    for name in &names {
        let refused = desired.refused.get(name);
        assert_ne!(accepted.contains(&**name), refused.is_some(), "{name:?}");
        if let Some((_, refusal)) = refused {
            assert_clean(&refusal.message);
        }
    }
    for profile in &desired.profiles {
        assert!(profile.name.as_str().starts_with("custom."));
        assert!(profile.text.len() as u64 <= TEXT_LIMIT && !profile.text.contains('\0'));
    }
    assert_eq!(accepted.len() + desired.refused.len(), names.len());
}

/// The compiler's messages.
pub fn message(data: &[u8]) {
    compiler::message(data);
}

/// A profile's text.
pub fn text(data: &[u8]) {
    compiler::text(data);
}

fn rules() -> Rules {
    Rules {
        prefix: "custom.".to_owned(),
        switches: BTreeSet::new(),
        members: 256,
    }
}

/// One line that no terminal obeys.
pub(crate) fn assert_clean(line: &str) {
    assert!(!line.contains(is_control), "{line:?}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::tests::Random;

    type Property = fn(&[u8]);

    /// Every property, by the name of its fuzz target.
    const ALL: [(&str, Property); 9] = [
        ("blob", blob),
        ("answers", answers),
        ("questions", questions),
        ("profiles", profiles),
        ("state", state),
        ("name", name),
        ("configmap", configmap),
        ("message", message),
        ("text", text),
    ];

    /// Bytes that are worth putting anywhere: words of the formats, ends of ranges, tricks.
    const PIECES: [&[u8]; 24] = [
        b"\0",
        b"\xff",
        b"\xff\xff\xff\xff",
        b"\x07",
        b"\x08",
        b"\x05\x02\0a\0",
        b"\x06\xff\xff\xff\x7f",
        b"\x04\x08\0profile\0",
        b"\n",
        b"\x1b[2J",
        b"//",
        b"..",
        b":ns:",
        b"(enforce)",
        b" (",
        b"{}",
        b"\"",
        b"[",
        b"null",
        b"-1",
        b"18446744073709551616",
        b" at line 9: ",
        b"\xe2\x80\xae",
        b"include <a>",
    ];

    fn at_root(path: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = match target {
            "blob" | "answers" => at_root("tests/blobs"),
            _ => at_root("tests/fuzz/corpus").join(target),
        };
        let files = fs::read_dir(folder).unwrap();
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        let seeds: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(seeds.len() >= 3, "{target}");
        seeds
    }

    fn mutated(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut data = seeds[random.below(seeds.len())].clone();
        data.truncate(8192);
        for _ in 0..=random.below(6) {
            let at = random.below(data.len() + 1);
            match random.below(6) {
                0 if at < data.len() => data[at] ^= 1 << random.below(8),
                1 => data.truncate(at),
                2 => {
                    let end = (at + random.below(64)).min(data.len());
                    data.drain(at..end);
                }
                3 => {
                    let other = &seeds[random.below(seeds.len())];
                    let from = random.below(other.len());
                    let to = (from + random.below(200)).min(other.len());
                    data.splice(at..at, other[from..to].iter().copied());
                }
                _ => {
                    let piece = random.pick(&PIECES);
                    data.splice(at..at, piece.iter().copied());
                }
            }
        }
        data
    }

    #[test]
    fn no_input_breaks_a_property() {
        for (target, property) in ALL {
            let seeds = seeds(target);
            for seed in &seeds {
                property(seed);
            }
            let mut random = Random::new(0);
            for round in 0..1000 {
                let data = mutated(&mut random, &seeds);
                let result = std::panic::catch_unwind(|| property(&data));
                let shown = String::from_utf8_lossy(&data);
                assert!(result.is_ok(), "{target}, round {round}: {shown:?}");
            }
        }
    }

    /// Otherwise the generator would test one half of each property only.
    #[test]
    fn the_generator_makes_both_good_and_bad_inputs() {
        type Accepts = fn(&[u8]) -> bool;
        let accepts: [(&str, Accepts); 6] = [
            ("blob", |data| policy::members(data).is_ok()),
            ("answers", |data| policy::profiles(data).is_ok()),
            ("questions", |data| {
                let text = String::from_utf8_lossy(data);
                text.lines().all(|line| expectation(line).is_ok())
            }),
            ("state", |data| State::parse(data).is_ok()),
            ("configmap", |data| decoded(data, 1000).is_some()),
            ("name", |data| {
                ProfileName::parse(&String::from_utf8_lossy(data)).is_ok()
            }),
        ];
        for (target, accept) in accepts {
            let seeds = seeds(target);
            let mut random = Random::new(7);
            let inputs = (0..1000).map(|_| mutated(&mut random, &seeds));
            let good = inputs.filter(|data| accept(data)).count();
            assert!((10..990).contains(&good), "{target}: {good}");
        }
    }
}

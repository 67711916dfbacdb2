//! What must hold for any input whatever. `tests/fuzz` looks for a counter-example with coverage
//! to guide it; the tests below look with a small generator, on stable Rust.
//!
//! Each function panics where its property does not hold.

// For the fuzzer this is a library, for which these are its interface.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::advice::advise;
use crate::plan::{matches, parent};
use crate::profile::{Mode, ProfileName, printable, quoted};
use crate::settings::Rules;
use crate::source::Limits;
use crate::source::kubernetes::decoded;
use crate::state::State;
use crate::wanted::{self, Wish};
use crate::{blob as policy, includes, kernel, parser};

/// Compiled policy: what is read is in it, and what passes obeys the rules.
pub fn blob(data: &[u8]) {
    let Ok(members) = policy::members(data) else {
        return;
    };
    assert!(!members.is_empty());
    let bytes: usize = members.iter().map(|member| member.name.len()).sum();
    assert!(bytes <= data.len(), "more names than bytes");
    for member in &members {
        let name = member.name.as_bytes();
        assert!(name.is_empty() || data.windows(name.len()).any(|part| part == name));
    }
    let rules = rules();
    for file in &members {
        let Ok(file) = ProfileName::parse(&file.name) else {
            continue;
        };
        let Ok(accepted) = wanted::check_members(&file, &members, &rules) else {
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
            let known = |name: &str| members.iter().any(|other| other.name == name);
            assert!(parent(&member.name).is_none_or(known));
        }
    }
}

/// The kernel's list: no name that is not on it, none of another policy namespace.
pub fn profiles(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let found = kernel::listed(data);
    assert!(found.len() <= text.lines().count());
    for (name, mode) in &found {
        assert!(!name.starts_with(':'), "{name}");
        let line = format!("{name} ({mode})");
        assert!(
            *mode == Mode::Unknown || text.lines().any(|found| found == line),
            "{line}"
        );
    }
}

/// The state file: what reads is written the same, and a boot ends what it must.
pub fn state(data: &[u8]) {
    let state = match State::parse(data) {
        Ok(state) => state,
        Err(error) => return assert_clean(&printable(&error.chain())),
    };
    let json = state.to_json();
    let again = State::parse(&json).expect("what was written reads");
    assert_eq!(again, state);
    assert_eq!(again.to_json(), json);
    let mut booted = again;
    booted.boot_id = None;
    booted.enter_boot("another");
    for (name, set) in &booted.sets {
        assert!(set.owned.is_empty() && set.kernel_revision.is_none());
        assert_eq!(set.profiles.len(), state.sets[name].profiles.len());
    }
}

/// Names: one that is taken is a file in its folder and nothing else, and prints as it is.
pub fn name(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert_clean(&printable(&text));
    assert_clean(&quoted(&text));
    assert!(quoted(&text).chars().count() <= 82 * 10);
    let (pattern, rest) = text.split_once('\n').unwrap_or((&text, &text));
    let _ = matches(pattern, rest);
    assert!(matches("*", &text));
    let name = match ProfileName::parse(&text) {
        Ok(name) => name,
        Err(refusal) => return assert_clean(&refusal.message),
    };
    let file = Path::new("/source").join(name.as_str());
    assert_eq!(file.parent(), Some(Path::new("/source")));
    assert_eq!(file.file_name(), Some(name.as_str().as_ref()));
    assert!(file.components().count() == 3 && name.as_str().len() < 240);
    assert!(
        quoted(name.as_str()).len() > 80
            || quoted(name.as_str()).trim_matches('"') == name.as_str()
            || name.as_str().contains('"')
    );
    let json = serde_json::to_string(&name).expect("a text");
    assert_eq!(serde_json::from_str::<ProfileName>(&json).ok(), Some(name));
}

/// The API server's `ConfigMap`: everything in it is wanted or refused in a clean line.
pub fn configmap(data: &[u8]) {
    let rules = rules();
    let Some(found) = decoded(data, rules.limits.profile_bytes) else {
        return;
    };
    let names: Vec<String> = found.iter().map(|raw| raw.name.clone()).collect();
    let wish = Wish::new(found, &rules);
    for name in &names {
        let unit = wish.units.iter().find(|unit| unit.name.as_str() == name);
        match (unit, wish.refused.get(name)) {
            (Some(unit), None) => {
                assert!(name.starts_with(&rules.prefix));
                assert!(unit.text.len() as u64 <= rules.limits.profile_bytes);
                assert!(!unit.text.contains('\0'));
            }
            (None, Some(refusal)) => assert_clean(&refusal.message),
            other => panic!("{name:?}: {other:?}"),
        }
    }
    assert_eq!(wish.units.len() + wish.refused.len(), names.len());
}

/// What the compiler says becomes one clean line, and never shows what is in an included file.
pub fn message(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for status in [0, 1, 126] {
        let refusal = parser::explained(&text, status);
        assert!(refusal.message.starts_with("custom.x "), "{refusal}");
        assert_clean(&refusal.message);
        assert!(refusal.message.chars().count() <= 501 * 10);
    }
    let secret = text.replace(['\n', '\r'], " ");
    let said = format!(
        "AppArmor parser error for /proc/self/fd/0 in profile /etc/apparmor.d/abstractions/z at line 7: \
         {secret} c4n4ry\n"
    );
    let refusal = parser::explained(&said, 1);
    assert!(!refusal.message.contains("c4n4ry"), "{refusal}");
}

/// A profile's text: what is looked for in it is found in it, in clean lines.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let found: Vec<_> = includes::scan(&text).collect();
    assert!(found.len() <= text.len());
    for advice in advise(&text, &mut |_| None) {
        assert_clean(&printable(&advice.message));
    }
    // One that includes itself, through `advise`'s eyes.
    let _ = advise(&text, &mut |_| {
        (text.len() < 4096).then(|| text.to_string())
    });
}

fn rules() -> Rules {
    Rules {
        prefix: "custom.".to_owned(),
        allow_attachment: false,
        allow_unconfined: false,
        limits: Limits::default(),
        compile_timeout: Duration::from_secs(1),
        jobs: None,
        parser: None,
        base: "/nowhere".into(),
    }
}

/// One line that no terminal obeys.
fn assert_clean(line: &str) {
    let obeyed =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!line.contains(obeyed), "{line:?}");
}

/// A property of any bytes.
pub type Property = fn(&[u8]);

/// Every property, by the name of its fuzz target.
pub fn all() -> BTreeMap<&'static str, Property> {
    let all: [(&str, Property); 7] = [
        ("blob", blob),
        ("profiles", profiles),
        ("state", state),
        ("name", name),
        ("configmap", configmap),
        ("message", message),
        ("text", text),
    ];
    all.into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// Marsaglia's xorshift64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, most: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % most.max(1) as u64).unwrap()
        }
    }

    /// What is worth putting anywhere: the formats' own words, ends of ranges, and what tricks.
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

    fn files(folder: &str) -> Vec<Vec<u8>> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut paths: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = match target {
            "blob" => "tests/blobs".to_owned(),
            "text" => "kustomize/components/samples/profiles".to_owned(),
            _ => format!("tests/fuzz/corpus/{target}"),
        };
        let seeds = files(&folder);
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
                    let piece = PIECES[random.below(PIECES.len())];
                    data.splice(at..at, piece.iter().copied());
                }
            }
        }
        data
    }

    #[test]
    fn no_input_breaks_a_property() {
        for (target, property) in all() {
            let seeds = seeds(target);
            for seed in &seeds {
                property(seed);
            }
            let mut random = Random(0x9e37_79b9_7f4a_7c15);
            for round in 0..4000 {
                let data = mutated(&mut random, &seeds);
                let result = std::panic::catch_unwind(|| property(&data));
                assert!(
                    result.is_ok(),
                    "{target}, round {round}: {:?}",
                    String::from_utf8_lossy(&data)
                );
            }
        }
    }

    /// The generator reaches what it is to reach: of each format some inputs are accepted and
    /// some refused.
    #[test]
    fn the_generator_makes_both_good_and_bad_inputs() {
        type Accepts = fn(&[u8]) -> bool;
        let accepts: [(&str, Accepts); 4] = [
            ("blob", |data| policy::members(data).is_ok()),
            ("state", |data| State::parse(data).is_ok()),
            ("configmap", |data| decoded(data, 1000).is_some()),
            ("name", |data| {
                ProfileName::parse(&String::from_utf8_lossy(data)).is_ok()
            }),
        ];
        for (target, accept) in accepts {
            let seeds = seeds(target);
            let mut random = Random(7);
            let good = (0..1000)
                .filter(|_| accept(&mutated(&mut random, &seeds)))
                .count();
            assert!((20..980).contains(&good), "{target}: {good}");
        }
    }
}

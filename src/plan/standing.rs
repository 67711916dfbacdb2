//! What need not be decided anew. Pure.

use super::Observed;
use crate::profile::{Digest, ProfileName};
use crate::state::Set;

/// Whether the recorded version of `name` is in force and stays: wanted with the same text from
/// the same source, owned and without a problem, and alone in its blob, so that no other file can
/// take one of its names.
///
/// It says nothing of the kernel's contents, the compiler, or what is included. Ask only on a
/// node where those are as they were when `set` was recorded.
pub(crate) fn stands(
    set: &Set,
    observed: &Observed,
    name: &ProfileName,
    source: &str,
    text: Digest,
) -> bool {
    let Some(record) = set.profiles.get(name) else {
        return false;
    };
    let [member] = &record.members[..] else {
        return false;
    };
    let settled = set
        .owned
        .get(name.as_str())
        .is_some_and(|owned| owned.pending.is_none() && owned.unwanted.is_none());
    record.text == text
        && record.source == source
        && record.loaded_at.is_some()
        && member.name == name.as_str()
        && observed.loaded.get(name.as_str()) == Some(&member.mode)
        && settled
        && !set.problems.contains_key(name.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::Stamp;
    use crate::profile::{Mode, RefusalKind};
    use crate::state::{Pending, Problem, ProblemKind, State, Unwanted};

    const SET: &str = "default";
    const NAME: &str = "custom.deny-network";

    type Change<'c> = &'c dyn Fn(&mut Set, &mut Observed);

    fn name() -> ProfileName {
        ProfileName::parse(NAME).unwrap()
    }

    fn recorded() -> (Set, Observed) {
        let text = include_bytes!("../../tests/state/schema-1.json");
        let mut set = State::parse(text).unwrap().sets.remove(SET).unwrap();
        set.profiles.get_mut(&name()).unwrap().members.truncate(1);
        let loaded = BTreeMap::from([(NAME.to_owned(), Mode::Enforce)]);
        let observed = Observed {
            loaded,
            digests: BTreeMap::new(),
        };
        (set, observed)
    }

    fn look(set: &Set, observed: &Observed) -> bool {
        let record = &recorded().0.profiles[&name()];
        stands(set, observed, &name(), &record.source, record.text)
    }

    #[test]
    fn what_nobody_changed_stands() {
        let (set, observed) = recorded();
        assert!(look(&set, &observed));
    }

    #[test]
    fn another_text_or_source_or_name_does_not_stand() {
        let (set, observed) = recorded();
        let record = &set.profiles[&name()];
        let (source, text) = (record.source.as_str(), record.text);
        let other = ProfileName::parse("custom.other").unwrap();
        for (name, source, text) in [
            (&other, source, text),
            (&name(), "/elsewhere", text),
            (&name(), source, Digest::of(b"another")),
        ] {
            assert!(
                !stands(&set, &observed, name, source, text),
                "{name} {source}"
            );
        }
    }

    #[test]
    fn what_anything_stands_against_is_looked_at() {
        let now = Stamp::now();
        let changes: [(&str, Change); 9] = [
            ("pending", &|set, _| {
                set.owned.get_mut(NAME).unwrap().pending = Some(Pending::Replace);
            }),
            ("unwanted", &|set, _| {
                set.owned.get_mut(NAME).unwrap().unwanted = Some(Unwanted {
                    unwanted_since: now,
                    last_seen_in_use: None,
                });
            }),
            ("not owned", &|set, _| drop(set.owned.remove(NAME))),
            ("not loaded since boot", &|set, _| {
                set.profiles.get_mut(&name()).unwrap().loaded_at = None;
            }),
            ("a child", &|set, _| {
                let members = &mut set.profiles.get_mut(&name()).unwrap().members;
                let mut child = members[0].clone();
                child.name.push_str("//child");
                members.push(child);
            }),
            ("under another name", &|set, _| {
                set.profiles.get_mut(&name()).unwrap().members[0]
                    .name
                    .push('x');
            }),
            ("a problem", &|set, _| {
                let problem = Problem {
                    kind: ProblemKind::Refused(RefusalKind::Compile),
                    message: "x".into(),
                    key: None,
                    since: now,
                };
                set.problems.insert(NAME.into(), problem);
            }),
            ("not in the kernel", &|_, observed| observed.loaded.clear()),
            ("another mode", &|_, observed| {
                observed.loaded.insert(NAME.into(), Mode::Complain);
            }),
        ];
        for (what, change) in changes {
            let (mut set, mut observed) = recorded();
            change(&mut set, &mut observed);
            assert!(!look(&set, &observed), "{what}");
        }
    }
}

use super::*;
use crate::clock::Time;

const BOOT: u64 = 100_000;
const WAIT: Duration = Duration::from_secs(900);

fn name(text: &str) -> ProfileName {
    ProfileName::parse(text).unwrap()
}

fn member(name: &str, mode: Mode) -> Member {
    Member {
        name: name.to_owned(),
        mode,
    }
}

/// `version` of the file `file`, which defines itself and `more`.
fn candidate(file: &str, version: &str, more: &[&str]) -> Candidate {
    let names = std::iter::once(file).chain(more.iter().copied());
    Candidate {
        name: name(file),
        source: "/profiles".to_owned(),
        text: Digest::of(version.as_bytes()),
        key: Digest::of_parts(["key", version]),
        blob: Digest::of_parts([file, version]),
        members: names.map(|name| member(name, Mode::Enforce)).collect(),
    }
}

fn stamp(uptime: u64) -> Stamp {
    Stamp {
        at: Time(1_700_000_000 + uptime),
        uptime,
    }
}

fn policy() -> Policy {
    Policy {
        remove_after: Some(WAIT),
        allow_empty: false,
        take_over: false,
        adopt: Vec::new(),
    }
}

/// A node: what is recorded, what is loaded, and the clock.
struct Node {
    state: State,
    observed: Observed,
    policy: Policy,
    now: Stamp,
}

impl Node {
    fn new() -> Self {
        let mut state = State::default();
        let set = Set {
            sources: vec!["/profiles".to_owned()],
            ..Set::default()
        };
        state.sets.insert("default".to_owned(), set);
        Self {
            state,
            observed: Observed::default(),
            policy: policy(),
            now: stamp(BOOT),
        }
    }

    /// One on which each of `candidates` is loaded and owned.
    fn with(candidates: &[Candidate]) -> Self {
        let mut node = Self::new();
        for candidate in candidates {
            node.load(candidate);
            node.record(candidate);
        }
        node
    }

    fn set(&mut self) -> &mut Set {
        self.state.sets.get_mut("default").unwrap()
    }

    fn owned(&mut self, name: &str) -> &mut Owned {
        self.set().owned.get_mut(name).unwrap()
    }

    fn load(&mut self, candidate: &Candidate) {
        for member in &candidate.members {
            let loaded = &mut self.observed.loaded;
            loaded.insert(member.name.clone(), member.mode);
            if parent(&member.name).is_none() {
                let digests = &mut self.observed.digests;
                digests.insert(member.name.clone(), candidate.blob);
            }
        }
    }

    fn record(&mut self, candidate: &Candidate) {
        let at = self.now.at;
        let set = self.set();
        for member in &candidate.members {
            let owned = Owned {
                profile: candidate.name.clone(),
                pending: None,
                unwanted: None,
            };
            set.owned.insert(member.name.clone(), owned);
        }
        let record = Record {
            sha1: None,
            source: candidate.source.clone(),
            text: candidate.text,
            key: candidate.key,
            blob: candidate.blob,
            members: candidate.members.clone(),
            loaded_at: Some(at),
            repairs: Vec::new(),
        };
        set.profiles.insert(candidate.name.clone(), record);
    }

    /// The set `other` owns `name`.
    fn others(&mut self, other: &str, file: &str) {
        let owned = Owned {
            profile: name(file),
            pending: None,
            unwanted: None,
        };
        let set = self.state.sets.entry(other.to_owned()).or_default();
        set.owned.insert(file.to_owned(), owned);
    }

    fn view(&self) -> View<'_> {
        View {
            state: &self.state,
            set_name: "default",
            set: &self.state.sets["default"],
            observed: &self.observed,
            policy: &self.policy,
            now: self.now,
        }
    }

    fn decide(&self, candidate: &Candidate) -> Decision {
        self.view().decide(candidate)
    }

    fn removals(&self, wanted: &[&str]) -> Vec<Removal> {
        self.removals_from(wanted, &["/profiles"], &[], &mut |_| Sighting::Nobody)
    }

    fn removals_from(
        &self,
        wanted: &[&str],
        sources: &[&str],
        empty: &[&str],
        seen: &mut dyn FnMut(&str) -> Sighting,
    ) -> Vec<Removal> {
        let wanted = wanted.iter().copied().collect();
        let empty = empty.iter().copied().collect();
        let sources: Vec<String> = sources.iter().map(|s| (*s).to_owned()).collect();
        self.view().removals(&wanted, &sources, &empty, seen)
    }

    /// The verdict about the only name that is not wanted.
    fn verdict(&self, wanted: &[&str]) -> Verdict {
        let mut removals = self.removals(wanted);
        assert_eq!(removals.len(), 1, "{removals:?}");
        removals.remove(0).verdict
    }

    fn unwanted(&mut self, name: &str, since: u64, seen: Option<u64>) {
        self.owned(name).unwanted = Some(Unwanted {
            unwanted_since: stamp(since),
            last_seen_in_use: seen.map(stamp),
        });
    }
}

#[track_caller]
fn assert_write(decision: Decision, intent: Pending, words: &str, repair: bool) {
    let Decision::Write(write) = decision else {
        panic!("{decision:?} is no write");
    };
    assert_eq!((write.intent, write.repair), (intent, repair), "{write:?}");
    assert_eq!(write.reason, words);
}

#[track_caller]
fn assert_conflict(decision: Decision, words: &[&str]) {
    let Decision::Conflict(why) = decision else {
        panic!("{decision:?} is no conflict");
    };
    for word in words {
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn what_is_in_force_is_kept() {
    let a = candidate("custom.a", "1", &["custom.a//hat", "custom.b"]);
    assert_eq!(
        Node::with(std::slice::from_ref(&a)).decide(&a),
        Decision::Keep
    );
}

#[test]
fn what_is_new_is_loaded() {
    let a = candidate("custom.a", "1", &[]);
    assert_write(Node::new().decide(&a), Pending::Load, "new", false);
}

#[test]
fn what_is_not_loaded_since_boot_is_loaded() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(std::slice::from_ref(&a));
    node.observed = Observed::default();
    node.state.enter_boot("another");
    assert_write(
        node.decide(&a),
        Pending::Load,
        "not loaded since boot",
        false,
    );
}

#[test]
fn a_new_version_replaces_the_old() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    let new = candidate("custom.a", "2", &["custom.a//new"]);
    assert_write(node.decide(&new), Pending::Replace, "changed", false);
    node.observed = Observed::default();
    assert_write(node.decide(&new), Pending::Load, "changed", false);
}

#[test]
fn somebody_elses_removal_is_undone() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(std::slice::from_ref(&a));
    node.observed = Observed::default();
    assert_write(
        node.decide(&a),
        Pending::Load,
        "removed by somebody else",
        true,
    );
}

#[test]
fn somebody_elses_removal_of_a_child_is_undone() {
    let a = candidate("custom.a", "1", &["custom.a//kid"]);
    let mut node = Node::with(std::slice::from_ref(&a));
    node.observed.loaded.remove("custom.a//kid");
    assert_write(
        node.decide(&a),
        Pending::Replace,
        "removed by somebody else",
        true,
    );
}

#[test]
fn somebody_elses_replacement_is_undone() {
    let a = candidate("custom.a", "1", &["custom.b"]);
    let mut node = Node::with(std::slice::from_ref(&a));
    let digest = Digest::of(b"foreign");
    node.observed.digests.insert("custom.b".into(), digest);
    assert_write(
        node.decide(&a),
        Pending::Replace,
        "replaced by somebody else",
        true,
    );
}

#[test]
fn somebody_elses_mode_is_undone() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(std::slice::from_ref(&a));
    let loaded = &mut node.observed.loaded;
    loaded.insert("custom.a".into(), Mode::Complain);
    assert_write(
        node.decide(&a),
        Pending::Replace,
        "set to complain by somebody else",
        true,
    );
}

#[test]
fn learning_children_are_no_drift() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(std::slice::from_ref(&a));
    let loaded = &mut node.observed.loaded;
    loaded.insert("custom.a//null-/bin/sh".into(), Mode::Complain);
    assert_eq!(node.decide(&a), Decision::Keep);
    assert_eq!(node.removals(&["custom.a"]), []);
}

#[test]
fn a_kernel_that_tells_no_contents_is_believed_by_the_record() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(std::slice::from_ref(&a));
    node.observed.digests.clear();
    assert_eq!(node.decide(&a), Decision::Keep);
    let new = candidate("custom.a", "2", &[]);
    assert_write(node.decide(&new), Pending::Replace, "changed", false);
}

#[test]
fn an_interrupted_load_that_arrived_is_owned() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(std::slice::from_ref(&a));
    node.owned("custom.a").pending = Some(Pending::Load);
    let words = "an interrupted pass had loaded it".to_owned();
    assert_eq!(node.decide(&a), Decision::Own(words));
}

#[test]
fn an_interrupted_load_that_did_not_arrive_is_no_repair() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(std::slice::from_ref(&a));
    node.observed = Observed::default();
    node.owned("custom.a").pending = Some(Pending::Replace);
    assert_write(
        node.decide(&a),
        Pending::Load,
        "an interrupted pass left it",
        false,
    );
}

#[test]
fn an_interrupted_first_load_is_ours_by_the_claim() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::new();
    node.load(&a);
    let owned = Owned {
        profile: name("custom.a"),
        pending: Some(Pending::Load),
        unwanted: None,
    };
    node.set().owned.insert("custom.a".into(), owned);
    let words = "an interrupted pass had loaded it".to_owned();
    assert_eq!(node.decide(&a), Decision::Own(words));
}

#[test]
fn a_foreign_name_with_other_contents_is_a_conflict() {
    let mut node = Node::new();
    node.load(&candidate("custom.a", "theirs", &[]));
    let a = candidate("custom.a", "ours", &[]);
    assert_conflict(
        node.decide(&a),
        &["custom.a is loaded by somebody else", "--adopt 'custom.a'"],
    );
    node.observed.digests.clear();
    assert_conflict(node.decide(&a), &["somebody else"]);
}

#[test]
fn a_foreign_name_among_the_further_profiles_is_a_conflict() {
    let mut node = Node::new();
    node.load(&candidate("custom.b", "theirs", &[]));
    let a = candidate("custom.a", "1", &["custom.b"]);
    assert_conflict(node.decide(&a), &["custom.b is loaded by somebody else"]);
}

#[test]
fn a_name_of_another_set_is_a_conflict_even_with_equal_contents() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::new();
    node.load(&a);
    node.others("web", "custom.a");
    node.policy.adopt = vec!["*".into()];
    assert_conflict(
        node.decide(&a),
        &["custom.a belongs to the set web", "one set only"],
    );
}

#[test]
fn equal_contents_prove_ownership() {
    let a = candidate("custom.a", "1", &["custom.a//kid"]);
    let mut node = Node::new();
    node.load(&a);
    let words = "what is loaded is what is wanted".to_owned();
    assert_eq!(node.decide(&a), Decision::Own(words));
}

#[test]
fn what_is_proven_and_was_changed_says_what_was_changed() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::new();
    node.load(&a);
    let loaded = &mut node.observed.loaded;
    loaded.insert("custom.a".into(), Mode::Complain);
    assert_write(
        node.decide(&a),
        Pending::Replace,
        "set to complain by somebody else",
        false,
    );
}

#[test]
fn a_foreign_name_that_is_asked_for_is_taken_over() {
    let a = candidate("custom.a", "ours", &[]);
    let mut node = Node::new();
    node.load(&candidate("custom.a", "theirs", &[]));
    node.policy.adopt = vec!["custom.b".into(), "custom.?".into()];
    assert_write(
        node.decide(&a),
        Pending::Replace,
        "taken over by --adopt",
        false,
    );
    node.policy.adopt = vec!["custom.??".into()];
    assert_conflict(node.decide(&a), &["--adopt"]);
}

#[test]
fn the_record_of_a_last_boot_proves_nothing() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(std::slice::from_ref(&a));
    node.state.enter_boot("another");
    node.load(&candidate("custom.a", "theirs", &[]));
    assert_conflict(node.decide(&a), &["somebody else"]);
    node.load(&a);
    assert!(matches!(node.decide(&a), Decision::Own(_)));
}

#[test]
fn a_name_that_moved_to_a_file_of_its_own_stays_ours() {
    let mut node = Node::with(&[candidate("custom.a", "1", &["custom.b"])]);
    let (a, b) = (
        candidate("custom.a", "2", &[]),
        candidate("custom.b", "1", &[]),
    );
    assert_write(node.decide(&a), Pending::Replace, "changed", false);
    assert_write(node.decide(&b), Pending::Replace, "new", false);
    // The other way round, too.
    node = Node::with(&[a, b]);
    let both = candidate("custom.a", "3", &["custom.b"]);
    assert_write(node.decide(&both), Pending::Replace, "changed", false);
    assert_eq!(node.removals(&["custom.a", "custom.b"]), []);
}

#[test]
fn a_third_repair_within_ten_minutes_is_the_last() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(std::slice::from_ref(&a));
    node.observed = Observed::default();
    let repairs = |ages: &[u64]| ages.iter().map(|age| stamp(BOOT - age)).collect();
    let record = |node: &mut Node, repairs: Vec<Stamp>| {
        let record = node.set().profiles.get_mut("custom.a").unwrap();
        record.repairs = repairs;
    };
    record(&mut node, repairs(&[599, 10]));
    assert_write(
        node.decide(&a),
        Pending::Load,
        "removed by somebody else",
        true,
    );
    record(&mut node, repairs(&[599, 10, 5]));
    let Decision::Contested(why) = node.decide(&a) else {
        panic!("not contested");
    };
    assert_eq!(
        why,
        "contested: removed by somebody else, 3 times within 10m; find who else loads custom.a and stop them"
    );
    record(&mut node, repairs(&[600, 10, 5]));
    assert!(matches!(node.decide(&a), Decision::Write(_)));
    // What its author changes is not held back.
    record(&mut node, repairs(&[3, 2, 1]));
    let new = candidate("custom.a", "2", &[]);
    assert_write(node.decide(&new), Pending::Load, "changed", false);
}

#[test]
fn what_is_not_owned_is_never_removed() {
    let mut node = Node::new();
    node.load(&candidate("custom.a", "1", &[]));
    node.load(&candidate("docker-default", "1", &[]));
    node.others("web", "custom.a");
    assert_eq!(node.removals(&[]), []);
}

#[test]
fn the_clock_starts_when_it_is_first_unwanted() {
    let node = Node::with(&[candidate("custom.a", "1", &[])]);
    let removal = node.removals(&[]).remove(0);
    assert_eq!(
        removal.clock,
        Unwanted {
            unwanted_since: node.now,
            last_seen_in_use: None
        }
    );
    let words = "unwanted and unused; due in 15m".to_owned();
    assert_eq!(removal.verdict, Verdict::Deferred(words));
}

#[test]
fn what_is_unwanted_and_unused_for_the_time_is_due() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    node.unwanted("custom.a", BOOT - 899, None);
    let words = "unwanted and unused; due in 1s".to_owned();
    assert_eq!(node.verdict(&[]), Verdict::Deferred(words));
    node.unwanted("custom.a", BOOT - 900, None);
    let words = "unwanted for 15m and unused".to_owned();
    assert_eq!(node.verdict(&[]), Verdict::Due(words));
}

#[test]
fn a_sighting_starts_the_clock_anew() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    node.unwanted("custom.a", BOOT - 5000, None);
    let mut seen = |_: &str| Sighting::InUse("1 process (7 sh)".into());
    let removal = node
        .removals_from(&[], &["/profiles"], &[], &mut seen)
        .remove(0);
    let words = "in use by 1 process (7 sh)".to_owned();
    assert_eq!(removal.verdict, Verdict::Deferred(words));
    assert_eq!(removal.clock.last_seen_in_use, Some(node.now));
    assert_eq!(removal.clock.unwanted_since, stamp(BOOT - 5000));
    node.unwanted("custom.a", BOOT - 5000, Some(BOOT - 100));
    let words = "unwanted and unused; due in 13m 20s".to_owned();
    assert_eq!(node.verdict(&[]), Verdict::Deferred(words));
    node.unwanted("custom.a", BOOT - 5000, Some(BOOT - 900));
    assert!(matches!(node.verdict(&[]), Verdict::Due(_)));
}

#[test]
fn a_clock_of_the_future_is_not_due() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    node.unwanted("custom.a", BOOT + 5000, None);
    assert!(matches!(node.verdict(&[]), Verdict::Deferred(_)));
}

#[test]
fn no_time_is_as_soon_as_unused_and_never_is_never() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    node.policy.remove_after = Some(Duration::ZERO);
    assert!(matches!(node.verdict(&[]), Verdict::Due(_)));
    node.policy.remove_after = None;
    node.unwanted("custom.a", 0, None);
    let words = "unwanted; --remove-after never keeps it".to_owned();
    assert_eq!(node.verdict(&[]), Verdict::Deferred(words));
}

#[test]
fn where_nobody_can_tell_nothing_goes() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    node.policy.remove_after = Some(Duration::ZERO);
    let mut seen = |_: &str| Sighting::Unknown("hidepid".into());
    let removals = node.removals_from(&[], &["/profiles"], &[], &mut seen);
    assert_eq!(removals[0].verdict, Verdict::Kept("hidepid".into()));
}

#[test]
fn what_is_wanted_again_has_no_removal() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    node.unwanted("custom.a", 0, None);
    assert_eq!(node.removals(&["custom.a"]), []);
}

#[test]
fn another_list_of_sources_removes_nothing_until_it_may() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    node.unwanted("custom.a", 0, None);
    let mut nobody = |_: &str| -> Sighting { panic!("asked in vain") };
    let removals = node.removals_from(&[], &["/profiles", "/more"], &[], &mut nobody);
    let words = "the sources were /profiles before: --take-over lets the new list remove it";
    assert_eq!(removals[0].verdict, Verdict::Kept(words.into()));
    node.policy.take_over = true;
    let mut nobody = |_: &str| Sighting::Nobody;
    let removals = node.removals_from(&[], &["/more"], &[], &mut nobody);
    assert!(matches!(removals[0].verdict, Verdict::Due(_)));
}

#[test]
fn an_empty_source_removes_nothing_until_it_may() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    node.unwanted("custom.a", 0, None);
    let mut nobody = |_: &str| Sighting::Nobody;
    let removals = node.removals_from(&[], &["/profiles"], &["/profiles"], &mut nobody);
    let words = "its source is empty: --allow-empty lets an empty source remove it";
    assert_eq!(removals[0].verdict, Verdict::Kept(words.into()));
    let removals = node.removals_from(&[], &["/profiles"], &["/other"], &mut nobody);
    assert!(matches!(removals[0].verdict, Verdict::Due(_)));
    node.policy.allow_empty = true;
    let removals = node.removals_from(&[], &["/profiles"], &["/profiles"], &mut nobody);
    assert!(matches!(removals[0].verdict, Verdict::Due(_)));
}

#[test]
fn what_somebody_else_removed_is_gone() {
    let mut node = Node::with(&[candidate("custom.a", "1", &[])]);
    node.observed = Observed::default();
    assert_eq!(node.verdict(&[]), Verdict::Gone);
}

#[test]
fn a_child_goes_with_its_parent_and_a_dropped_one_alone() {
    let a = candidate("custom.a", "1", &["custom.a//hat", "custom.a//kid"]);
    let node = Node::with(std::slice::from_ref(&a));
    let names = |removals: Vec<Removal>| -> Vec<String> {
        removals.into_iter().map(|removal| removal.name).collect()
    };
    assert_eq!(names(node.removals(&[])), ["custom.a"]);
    let dropped = node.removals(&["custom.a", "custom.a//hat"]);
    assert_eq!(names(dropped), ["custom.a//kid"]);
}

#[test]
fn an_owned_child_without_its_parent_is_on_its_own() {
    let a = candidate("custom.a", "1", &["custom.a//kid"]);
    let mut node = Node::with(std::slice::from_ref(&a));
    assert!(!is_owned_top_level("custom.a//kid", &node.set().owned));
    node.set().owned.remove("custom.a");
    assert!(is_owned_top_level("custom.a//kid", &node.set().owned));
    assert_eq!(node.removals(&[])[0].name, "custom.a//kid");
}

#[test]
fn patterns_match_whole_names() {
    for (pattern, name) in [
        ("custom.a", "custom.a"),
        ("*", ""),
        ("*", "anything at all"),
        ("custom.*", "custom."),
        ("custom.?", "custom.ü"),
        ("*.a*b?", "custom.aabbc"),
        ("**a", "bca"),
        ("a*b*c", "abbcbc"),
        ("[a]", "[a]"),
    ] {
        assert!(matches(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [
        ("", "a"),
        ("a", ""),
        ("?", ""),
        ("custom.?", "custom."),
        ("custom.a", "custom.ab"),
        ("custom.a", "xcustom.a"),
        ("a*b", "abc"),
        ("[a]", "a"),
    ] {
        assert!(!matches(pattern, name), "{pattern} {name}");
    }
}

#[test]
fn a_pattern_of_many_stars_does_not_explode() {
    let pattern = "*a".repeat(60);
    assert!(!matches(&pattern, &"a".repeat(59)));
    assert!(!matches(&format!("{pattern}b"), &"a".repeat(2000)));
}

#[test]
fn lines_say_what_to_whom_and_why() {
    let lines = [
        Change::new("custom.a", Verb::Load, "new"),
        Change::new("custom.a", Verb::Replace, "changed"),
        Change::new("custom.a", Verb::Own, "proven"),
        Change::new("custom.a", Verb::Remove, "unwanted"),
        Change::new("custom.a", Verb::Defer, "in use"),
        Change::new(
            "custom.a",
            Verb::Conflict,
            "custom.a is loaded by somebody else",
        ),
        Change::new("custom.a", Verb::Refuse, "custom.a: no"),
        Change::new("custom.a", Verb::Contested, "contested: who"),
        Change::new("custom.a", Verb::Fail, "no"),
        Change::new("custom.a", Verb::Keep, "custom.ab is longer"),
        Change::new("a\u{1b}[2Jb", Verb::Refuse, "no"),
    ];
    assert_eq!(
        lines.each_ref().map(ToString::to_string),
        [
            "+ load      custom.a: new",
            "~ replace   custom.a: changed",
            "= own       custom.a: proven",
            "- remove    custom.a: unwanted",
            "… deferred  custom.a: in use",
            "! conflict  custom.a is loaded by somebody else",
            "✗ refused   custom.a: no",
            "! contested custom.a: contested: who",
            "✗ failed    custom.a: no",
            "! kept      custom.a: custom.ab is longer",
            "✗ refused   a\\u{1b}[2Jb: no",
        ]
    );
}

#[test]
fn the_total_counts_what_is_to_be_done_and_what_is_in_the_way() {
    assert_eq!(Total(&[]).to_string(), "nothing to do");
    let change = |verb| Change::new("custom.a", verb, "");
    let changes = [
        Verb::Refuse,
        Verb::Load,
        Verb::Remove,
        Verb::Load,
        Verb::Replace,
        Verb::Defer,
        Verb::Conflict,
    ];
    assert_eq!(
        Total(&changes.map(change)).to_string(),
        "2 to load, 1 to replace, 1 to remove, 1 deferred, 1 conflict, 1 refused"
    );
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn one_in(&mut self, most: u64) -> bool {
        self.below(most) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let most = u64::try_from(from.len()).unwrap();
        from[usize::try_from(self.below(most)).unwrap()]
    }
}

const NAMES: [&str; 6] = [
    "custom.a", "custom.b", "custom.c", "custom.d", "custom.e", "custom.f",
];

/// What `file` may be this time: alone, or with children. Names of its own only, as `wanted`
/// makes sure.
fn some_version(random: &mut Random, file: &str) -> Candidate {
    let version = random.pick(&["1", "2", "3"]);
    let (kid, hat, more) = (
        format!("{file}//kid"),
        format!("{file}//hat"),
        format!("{file}.more"),
    );
    let all = [kid.as_str(), hat.as_str(), more.as_str()];
    // The same version always has the same members.
    let members = match version {
        "1" => &all[..0],
        "2" => &all[..1],
        _ => &all[1..],
    };
    candidate(file, version, members)
}

/// A node after any history: owned, foreign, another set's and interrupted names, and the
/// changes of somebody else.
fn some_node(random: &mut Random) -> Node {
    let mut node = Node::new();
    for file in NAMES {
        let version = some_version(random, file);
        match random.below(6) {
            0 => {}
            1 => node.load(&version),
            2 => {
                node.load(&version);
                node.others("web", file);
            }
            _ => {
                node.load(&version);
                node.record(&version);
            }
        }
        if node.set().profiles.contains_key(file) {
            spoil(random, &mut node, &version);
        }
    }
    node.policy.adopt = random
        .pick(&[&[][..], &["*"], &["custom.?"], &["custom.b*"]])
        .iter()
        .map(|pattern| (*pattern).to_owned())
        .collect();
    node.policy.remove_after = random.pick(&[None, Some(Duration::ZERO), Some(WAIT)]);
    node.policy.take_over = random.one_in(2);
    if random.one_in(4) {
        node.observed.digests.clear();
    }
    node
}

/// What may happen to an owned profile behind our back.
fn spoil(random: &mut Random, node: &mut Node, version: &Candidate) {
    let file = version.name.as_str().to_owned();
    match random.below(8) {
        0 => {
            let foreign = Digest::of(b"foreign");
            node.observed.digests.insert(file.clone(), foreign);
        }
        1 => {
            node.observed.loaded.insert(file.clone(), Mode::Complain);
        }
        2 => {
            for member in &version.members {
                node.observed.loaded.remove(&member.name);
                node.observed.digests.remove(&member.name);
            }
        }
        3 => node.owned(&file).pending = Some(Pending::Replace),
        4 => {
            let age = random.below(2000);
            node.unwanted(&file, BOOT - age, None);
        }
        5 => {
            let now = node.now;
            let record = node.set().profiles.get_mut(file.as_str()).unwrap();
            record.repairs = vec![now; 3];
        }
        _ => {}
    }
}

/// Does to `node` what `decision` says, as the kernel and the record would change. False: it
/// stays as it is, for a reason that is given.
fn carry_out(node: &mut Node, candidate: &Candidate, decision: Decision) -> bool {
    match decision {
        Decision::Keep | Decision::Own(_) => node.record(candidate),
        Decision::Write(write) => {
            assert!(!write.reason.is_empty());
            let loaded = node.observed.loaded.contains_key(candidate.name.as_str());
            assert_eq!(write.intent == Pending::Replace, loaded, "{write:?}");
            node.load(candidate);
            node.record(candidate);
        }
        Decision::Conflict(why) | Decision::Contested(why) => {
            assert!(
                why.contains("somebody else") || why.contains("the set web"),
                "{why}"
            );
            return false;
        }
    }
    true
}

/// For any node and any wish: what the plan says leads to what is wanted or says why not, touches
/// nobody else's, and leaves nothing to do for a second plan.
#[test]
fn a_plan_leads_to_what_is_wanted_or_says_why_not() {
    for seed in 1..=5_000_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut node = some_node(&mut random);
        let mut wish = Vec::new();
        for file in NAMES {
            if !random.one_in(3) {
                wish.push(some_version(&mut random, file));
            }
        }
        let before = node.observed.clone();
        let owned_before: BTreeSet<String> = node.set().owned.keys().cloned().collect();
        let decisions: Vec<Decision> = wish.iter().map(|c| node.decide(c)).collect();
        let mut in_force = Vec::new();
        let mut may_change = owned_before.clone();
        for (candidate, decision) in wish.iter().zip(decisions) {
            if carry_out(&mut node, candidate, decision) {
                in_force.push(candidate);
                may_change.extend(candidate.members.iter().map(|m| m.name.clone()));
            }
        }
        let in_use = random.pick(&NAMES);
        let gone = carry_out_removals(in_use, &mut node, &wish);
        let context = format!("seed {seed}");
        for candidate in &in_force {
            for member in &candidate.members {
                let loaded = node.observed.loaded.get(&member.name);
                assert_eq!(loaded, Some(&member.mode), "{context}");
                assert!(!gone.contains(&member.name), "{context}");
            }
            let digest = node.observed.digests.get(candidate.name.as_str());
            assert!(digest.is_none_or(|d| *d == candidate.blob), "{context}");
        }
        for (name, mode) in &before.loaded {
            if !may_change.contains(name) {
                assert_eq!(node.observed.loaded.get(name), Some(mode), "{context}");
                let digests = [&node.observed.digests, &before.digests];
                assert_eq!(digests[0].get(name), digests[1].get(name), "{context}");
            }
        }
        for candidate in in_force {
            assert_eq!(node.decide(candidate), Decision::Keep, "{context}");
        }
        let again = carry_out_removals(in_use, &mut node, &wish);
        assert!(again.is_empty(), "{context}: {again:?}");
    }
}

/// Removes what is due; gives its names.
fn carry_out_removals(in_use: &str, node: &mut Node, wish: &[Candidate]) -> BTreeSet<String> {
    let files: BTreeSet<&str> = wish.iter().map(|c| c.name.as_str()).collect();
    let mut wanted: BTreeSet<String> = files.iter().map(|file| (*file).to_owned()).collect();
    for (file, record) in &node.set().profiles {
        if files.contains(file.as_str()) {
            wanted.extend(record.members.iter().map(|m| m.name.clone()));
        }
    }
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let mut seen = |name: &str| match name {
        name if name == in_use => Sighting::InUse("1 process (7 sh)".into()),
        _ => Sighting::Nobody,
    };
    let removals = node.removals_from(&wanted, &["/profiles"], &[], &mut seen);
    let mut gone = BTreeSet::new();
    for removal in removals {
        let name = removal.name;
        assert!(node.set().owned.contains_key(&name));
        assert!(!wanted.contains(&name.as_str()));
        match removal.verdict {
            Verdict::Due(_) => {
                assert_ne!(name, in_use);
                let within = |loaded: &String| crate::profile::is_within(loaded, &name);
                node.observed.loaded.retain(|loaded, _| !within(loaded));
                node.observed.digests.retain(|loaded, _| !within(loaded));
                node.set().owned.retain(|owned, _| !within(owned));
                gone.insert(name);
            }
            Verdict::Gone => _ = node.set().owned.remove(&name),
            Verdict::Deferred(why) | Verdict::Kept(why) => {
                assert!(!why.is_empty());
                node.owned(&name).unwanted = Some(removal.clock);
            }
        }
    }
    gone
}

use super::*;
use crate::state::Member;
use crate::tests::name;
use crate::time::Time;

const BOOT: u64 = 100_000;
const WAIT: Duration = Duration::from_mins(15);

/// `version` of the file `file`, which defines itself and `more`.
fn candidate(file: &str, version: &str, more: &[&str]) -> Candidate {
    let names = std::iter::once(&file).chain(more);
    let members = names.map(|name| Member {
        name: (*name).to_owned(),
        mode: Mode::Enforce,
    });
    Candidate {
        name: name(file),
        record: Record {
            source: "/profiles".to_owned(),
            text: Digest::of(version.as_bytes()),
            key: Digest::of_parts(["key", version]),
            policy: Digest::of_parts([file, version]),
            members: members.collect(),
            loaded_at: None,
            repairs: Vec::new(),
            unenforced: Vec::new(),
        },
    }
}

fn stamp(uptime: u64) -> Stamp {
    Stamp {
        at: Time(1_700_000_000 + uptime),
        uptime,
    }
}

fn owned(file: &str, policy: Digest) -> Owned {
    Owned::new(name(file), policy)
}

/// A node: the record, the loaded profiles, the files of the sources, the clock.
struct Node {
    state: State,
    observed: Observed,
    options: Options,
    files: BTreeSet<&'static str>,
    now: Stamp,
}

impl Node {
    fn new(files: &[&'static str]) -> Self {
        let mut state = State::default();
        let set = Set {
            sources: vec!["/profiles".to_owned()],
            ..Set::default()
        };
        state.sets.insert("default".to_owned(), set);
        Self {
            state,
            observed: Observed::default(),
            options: Options {
                remove_after: Some(WAIT),
                most_names: 100,
                ..Options::default()
            },
            files: files.iter().copied().collect(),
            now: stamp(BOOT),
        }
    }

    /// A node on which each of `candidates` is loaded, owned, and desired still.
    fn with(candidates: &[&Candidate]) -> Self {
        let mut node = Self::new(&[]);
        for candidate in candidates {
            node.load(candidate);
            node.record(candidate);
            node.files.insert(candidate.name.to_string().leak());
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
        for member in &candidate.record.members {
            let name = &member.name;
            self.observed.loaded.insert(name.clone(), member.mode);
            if parent(name).is_none() {
                let policy = candidate.record.policy;
                self.observed.contents.insert(name.clone(), policy);
            }
        }
    }

    fn record(&mut self, candidate: &Candidate) {
        let at = Some(self.now.at);
        let set = self.set();
        for member in &candidate.record.members {
            let owned = owned(candidate.name.as_str(), candidate.record.policy);
            set.owned.insert(member.name.clone(), owned);
        }
        let mut record = candidate.record.clone();
        record.loaded_at = at;
        set.profiles.insert(candidate.name.clone(), record);
    }

    /// The set `other` owns the name `file`.
    fn own_elsewhere(&mut self, other: &str, file: &str) {
        let set = self.state.sets.entry(other.to_owned()).or_default();
        set.owned
            .insert(file.to_owned(), owned(file, Digest::of(b"")));
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            state: &self.state,
            set_name: "default",
            observed: &self.observed,
            options: &self.options,
            files: &self.files,
            now: self.now,
        }
    }

    fn decide(&self, candidate: &Candidate) -> Decision {
        self.facts().decide(candidate)
    }

    fn unwanted(&self, sources: &[&str], holding: &[&str]) -> Vec<(String, Option<String>)> {
        let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
        let holding = holding.iter().map(ToString::to_string).collect();
        self.facts().unwanted(&sources, &holding)
    }

    /// The names that no desired file brings, where the sources are the recorded ones.
    fn unwanted_names(&self) -> Vec<String> {
        let unwanted = self.unwanted(&["/profiles"], &["/profiles"]);
        unwanted
            .into_iter()
            .map(|(name, kept)| {
                assert_eq!(kept, None);
                name
            })
            .collect()
    }

    fn verdict_seen(&self, clock: &mut Unwanted, seen: &Usage) -> Verdict {
        self.facts()
            .verdict("custom.a", clock, &mut |_| seen.clone())
    }

    fn verdict(&self, since: u64, last_seen: Option<u64>) -> Verdict {
        self.verdict_seen(&mut clock(since, last_seen), &Usage::Unused)
    }
}

fn clock(since: u64, last_seen: Option<u64>) -> Unwanted {
    Unwanted {
        since: stamp(since),
        last_seen_in_use: last_seen.map(stamp),
        put_off_since: None,
    }
}

/// That `decision` leaves the candidate alone as `kind`, with all of `words` in the message.
#[track_caller]
fn assert_left(decision: Decision, expected: Kind, words: &[&str]) {
    let Decision::Leave(kind, message) = decision else {
        panic!("{decision:?}");
    };
    assert_eq!(kind, expected, "{message}");
    for word in words {
        assert!(message.contains(word), "{message}");
    }
}

/// That `verdict` keeps the name as `kind`, with all of `words` in the message.
#[track_caller]
fn assert_not(verdict: Verdict, expected: Kind, words: &[&str]) {
    let Verdict::Not(kind, message) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(kind, expected, "{message}");
    for word in words {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_profile_in_force_is_kept() {
    let a = candidate("custom.a", "1", &["custom.a//hat", "custom.b"]);
    assert_eq!(Node::with(&[&a]).decide(&a), Decision::Keep);
}

#[test]
fn a_new_profile_is_loaded() {
    let a = candidate("custom.a", "1", &[]);
    let decision = Node::new(&["custom.a"]).decide(&a);
    assert_eq!(decision, Decision::Write(Kind::Load, Reason::New));
}

#[test]
fn after_a_boot_the_recorded_version_is_loaded() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(&[&a]);
    node.observed = Observed::default();
    node.state.enter_boot("another");
    let expected = Decision::Write(Kind::Load, Reason::NotLoadedSinceBoot);
    assert_eq!(node.decide(&a), expected);
}

#[test]
fn a_new_version_replaces_the_old_one() {
    let mut node = Node::with(&[&candidate("custom.a", "1", &[])]);
    let new = candidate("custom.a", "2", &["custom.a//new", "custom.more"]);
    let decision = node.decide(&new);
    assert_eq!(decision, Decision::Write(Kind::Replace, Reason::Changed));
    // Where nothing of it is loaded, the kernel is to refuse a name that appears meanwhile.
    node.observed = Observed::default();
    assert_eq!(
        node.decide(&new),
        Decision::Write(Kind::Load, Reason::Unloaded)
    );
}

type Damage = fn(&mut Observed);

#[test]
fn another_programs_changes_are_repaired() {
    let a = candidate("custom.a", "1", &["custom.a//kid", "custom.b"]);
    let cases: [(Damage, Kind, Reason); 5] = [
        (
            |kernel| *kernel = Observed::default(),
            Kind::Load,
            Reason::Unloaded,
        ),
        (
            |kernel| _ = kernel.loaded.remove("custom.a//kid"),
            Kind::Replace,
            Reason::Unloaded,
        ),
        (
            |kernel| _ = kernel.loaded.remove("custom.b"),
            Kind::Replace,
            Reason::Unloaded,
        ),
        (
            |kernel| {
                kernel
                    .contents
                    .insert("custom.b".into(), Digest::of(b"foreign"));
            },
            Kind::Replace,
            Reason::Replaced,
        ),
        (
            |kernel| {
                kernel.loaded.insert("custom.a".into(), Mode::Complain);
            },
            Kind::Replace,
            Reason::OtherMode(Mode::Complain),
        ),
    ];
    for (damage, kind, why) in cases {
        let mut node = Node::with(&[&a]);
        damage(&mut node.observed);
        assert_eq!(node.decide(&a), Decision::Write(kind, why));
    }
}

#[test]
fn learning_children_are_neither_drift_nor_unwanted() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(&[&a]);
    let child = "custom.a//null-/bin/sh".to_owned();
    node.observed.loaded.insert(child, Mode::Complain);
    assert_eq!(node.decide(&a), Decision::Keep);
    assert!(node.unwanted_names().is_empty());
}

#[test]
fn a_kernel_that_shows_no_contents_is_believed_by_the_record() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(&[&a]);
    node.observed.contents.clear();
    assert_eq!(node.decide(&a), Decision::Keep);
    let new = candidate("custom.a", "2", &[]);
    let expected = Decision::Write(Kind::Replace, Reason::Changed);
    assert_eq!(node.decide(&new), expected);
}

#[test]
fn a_foreign_name_with_other_contents_is_a_conflict() {
    let mut node = Node::new(&["custom.a"]);
    node.load(&candidate("custom.a", "theirs", &[]));
    let a = candidate("custom.a", "ours", &[]);
    let words = ["custom.a ", "--adopt 'custom.a'"];
    assert_left(node.decide(&a), Kind::Conflict, &words);
    // Unknown contents prove nothing.
    node.observed.contents.clear();
    assert_left(node.decide(&a), Kind::Conflict, &words);
}

#[test]
fn a_foreign_name_among_the_further_profiles_is_a_conflict() {
    let mut node = Node::with(&[&candidate("custom.a", "0", &[])]);
    node.load(&candidate("custom.b", "theirs", &[]));
    let a = candidate("custom.a", "1", &["custom.b"]);
    assert_left(node.decide(&a), Kind::Conflict, &["custom.b "]);
}

#[test]
fn a_name_of_another_set_is_a_conflict_with_any_contents() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::new(&["custom.a"]);
    node.load(&a);
    node.own_elsewhere("web", "custom.a");
    node.options.adopt = vec!["*".into()];
    assert_left(node.decide(&a), Kind::Conflict, &["custom.a ", "set web"]);
}

#[test]
fn equal_contents_prove_ownership() {
    let a = candidate("custom.a", "1", &["custom.a//kid"]);
    let mut node = Node::new(&["custom.a"]);
    node.load(&a);
    assert_eq!(node.decide(&a), Decision::Own(Reason::SameContents));
    node.options.adopt = vec!["custom.*".into()];
    assert_eq!(node.decide(&a), Decision::Own(Reason::Adopted));
}

#[test]
fn equal_contents_in_another_mode_are_replaced_and_no_repair() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::new(&["custom.a"]);
    node.load(&a);
    let loaded = &mut node.observed.loaded;
    loaded.insert("custom.a".into(), Mode::Complain);
    let expected = Decision::Write(Kind::Replace, Reason::SameContents);
    assert_eq!(node.decide(&a), expected);
}

#[test]
fn a_foreign_name_is_taken_over_where_a_pattern_fits() {
    let a = candidate("custom.a", "ours", &[]);
    let mut node = Node::new(&["custom.a"]);
    node.load(&candidate("custom.a", "theirs", &[]));
    node.options.adopt = vec!["custom.b".into(), "custom.?".into()];
    let expected = Decision::Write(Kind::Replace, Reason::Adopted);
    assert_eq!(node.decide(&a), expected);
    node.options.adopt = vec!["custom.??".into()];
    assert_left(node.decide(&a), Kind::Conflict, &[]);
}

#[test]
fn the_record_of_the_last_boot_proves_no_ownership() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(&[&a]);
    node.state.enter_boot("another");
    node.load(&candidate("custom.a", "theirs", &[]));
    assert_left(node.decide(&a), Kind::Conflict, &["custom.a "]);
    node.load(&a);
    assert_eq!(node.decide(&a), Decision::Own(Reason::SameContents));
}

#[test]
fn a_further_profile_belongs_to_one_desired_file() {
    let both = candidate("custom.a", "1", &["custom.x"]);
    let mut node = Node::with(&[&both]);
    node.files.insert("custom.b");
    let second = candidate("custom.b", "1", &["custom.x"]);
    let Decision::Taken(message) = node.decide(&second) else {
        panic!("{:?}", node.decide(&second));
    };
    for word in ["custom.x", "custom.a"] {
        assert!(message.contains(word), "{message}");
    }
    // Its file is desired no more, or has a version without it.
    let expected = Decision::Write(Kind::Replace, Reason::New);
    node.files.remove("custom.a");
    assert_eq!(node.decide(&second), expected);
    node.files.insert("custom.a");
    node.record(&candidate("custom.a", "2", &[]));
    assert_eq!(node.decide(&second), expected);
}

#[test]
fn a_name_with_a_file_of_its_own_is_taken_from_no_file() {
    let a = candidate("custom.a", "1", &["custom.b"]);
    // Also where that file was refused, and so owns nothing.
    let node = Node::new(&["custom.a", "custom.b"]);
    assert!(matches!(node.decide(&a), Decision::Taken(_)));
}

#[test]
fn a_name_that_moves_to_a_file_of_its_own_stays_owned() {
    let (a, b) = (
        candidate("custom.a", "2", &[]),
        candidate("custom.b", "1", &[]),
    );
    let mut node = Node::with(&[&candidate("custom.a", "1", &["custom.b"])]);
    node.files.insert("custom.b");
    let changed = Decision::Write(Kind::Replace, Reason::Changed);
    assert_eq!(node.decide(&a), changed);
    assert_eq!(node.decide(&b), Decision::Write(Kind::Replace, Reason::New));
    // And back.
    node = Node::with(&[&a, &b]);
    node.files.remove("custom.b");
    let both = candidate("custom.a", "3", &["custom.b"]);
    assert_eq!(node.decide(&both), changed);
}

#[test]
fn a_set_owns_no_more_names_than_the_limit() {
    let a = candidate("custom.a", "1", &["custom.a//kid"]);
    let mut node = Node::with(&[&a]);
    node.options.most_names = 2;
    let b = candidate("custom.b", "1", &[]);
    assert_left(node.decide(&b), Kind::Refused, &[" 2 ", "--max-profiles"]);
    // As many as the limit are kept and changed.
    assert_eq!(node.decide(&a), Decision::Keep);
    let new = candidate("custom.a", "2", &["custom.a//kid"]);
    assert!(matches!(node.decide(&new), Decision::Write(..)));
    let more = candidate("custom.a", "3", &["custom.a//kid", "custom.a//hat"]);
    assert_left(node.decide(&more), Kind::Refused, &["--max-profiles"]);
    node.options.most_names = 3;
    assert!(matches!(node.decide(&b), Decision::Write(..)));
}

#[test]
fn the_fourth_repair_within_ten_minutes_is_left_alone() {
    let a = candidate("custom.a", "1", &[]);
    let mut node = Node::with(&[&a]);
    node.observed = Observed::default();
    let repaired = |node: &mut Node, ages: &[u64]| {
        let record = node.set().profiles.get_mut("custom.a").unwrap();
        record.repairs = ages.iter().map(|age| stamp(BOOT - age)).collect();
    };
    let repair = Decision::Write(Kind::Load, Reason::Unloaded);
    repaired(&mut node, &[599, 10]);
    assert_eq!(node.decide(&a), repair);
    repaired(&mut node, &[599, 10, 5]);
    let words = ["custom.a", "3 times", "10m"];
    assert_left(node.decide(&a), Kind::Contested, &words);
    repaired(&mut node, &[600, 10, 5]);
    assert_eq!(node.decide(&a), repair);
    // A new text is not held back.
    repaired(&mut node, &[3, 2, 1]);
    let new = candidate("custom.a", "2", &[]);
    assert_eq!(
        node.decide(&new),
        Decision::Write(Kind::Load, Reason::Unloaded)
    );
}

#[test]
fn only_owned_names_are_unwanted() {
    let mut node = Node::new(&[]);
    node.load(&candidate("custom.a", "1", &[]));
    node.load(&candidate("docker-default", "1", &[]));
    node.own_elsewhere("web", "custom.a");
    assert!(node.unwanted_names().is_empty());
    node.record(&candidate("custom.a", "1", &[]));
    assert_eq!(node.unwanted_names(), ["custom.a"]);
    node.files.insert("custom.a");
    assert!(node.unwanted_names().is_empty());
}

#[test]
fn a_child_goes_with_its_parent_and_a_dropped_one_alone() {
    let a = candidate(
        "custom.a",
        "1",
        &["custom.a//hat", "custom.a//kid", "custom.more"],
    );
    let mut node = Node::with(&[&a]);
    assert!(node.unwanted_names().is_empty());
    let mut dropping = candidate("custom.a", "2", &["custom.a//hat"]).record;
    dropping.loaded_at = Some(node.now.at);
    node.set().profiles.insert(name("custom.a"), dropping);
    assert_eq!(node.unwanted_names(), ["custom.a//kid", "custom.more"]);
    node.files.clear();
    assert_eq!(node.unwanted_names(), ["custom.a", "custom.more"]);
    node.set().owned.remove("custom.a");
    assert_eq!(
        node.unwanted_names(),
        ["custom.a//hat", "custom.a//kid", "custom.more"]
    );
}

#[test]
fn other_sources_remove_nothing_without_leave() {
    let mut node = Node::with(&[&candidate("custom.a", "1", &[])]);
    node.files.clear();
    let sources = ["/profiles", "/more"];
    let (name, kept) = node.unwanted(&sources, &sources).remove(0);
    assert_eq!(name, "custom.a");
    let kept = kept.unwrap();
    assert!(
        kept.contains("/profiles") && kept.contains("--take-over"),
        "{kept}"
    );
    node.options.take_over = true;
    assert_eq!(node.unwanted(&["/more"], &["/more"])[0].1, None);
}

#[test]
fn an_empty_source_removes_nothing_without_leave() {
    let mut node = Node::with(&[&candidate("custom.a", "1", &[])]);
    node.files.clear();
    let kept = node.unwanted(&["/profiles"], &[]).remove(0).1.unwrap();
    assert!(kept.contains("--allow-empty"), "{kept}");
    assert_eq!(node.unwanted(&["/profiles"], &["/profiles"])[0].1, None);
    // Neither does one that holds nothing beside a full one.
    node.set().sources.push("/other".to_owned());
    let sources = ["/profiles", "/other"];
    assert_ne!(node.unwanted(&sources, &["/other"])[0].1, None);
    assert_eq!(node.unwanted(&sources, &["/profiles"])[0].1, None);
    node.options.allow_empty = true;
    assert_eq!(node.unwanted(&sources, &[])[0].1, None);
}

#[test]
fn a_name_unwanted_and_unused_for_the_time_is_due() {
    let node = Node::with(&[&candidate("custom.a", "1", &[])]);
    assert_not(node.verdict(BOOT - 899, None), Kind::Deferred, &[" 1s "]);
    assert!(matches!(node.verdict(BOOT - 900, None), Verdict::Due(_)));
}

#[test]
fn a_sighting_starts_the_clock_anew() {
    let node = Node::with(&[&candidate("custom.a", "1", &[])]);
    let mut clock = clock(BOOT - 5000, None);
    let users = Usage::InUse("1 process (7 sh)".into());
    let verdict = node.verdict_seen(&mut clock, &users);
    assert_not(verdict, Kind::Deferred, &["1 process (7 sh)"]);
    assert_eq!(clock.last_seen_in_use, Some(node.now));
    assert_eq!(clock.since, stamp(BOOT - 5000));
    let verdict = node.verdict(BOOT - 5000, Some(BOOT - 100));
    assert_not(verdict, Kind::Deferred, &["13m 20s"]);
    let verdict = node.verdict(BOOT - 5000, Some(BOOT - 900));
    assert!(matches!(verdict, Verdict::Due(_)));
}

#[test]
fn a_clock_in_the_future_makes_nothing_due() {
    let node = Node::with(&[&candidate("custom.a", "1", &[])]);
    assert_not(node.verdict(BOOT + 5000, None), Kind::Deferred, &[]);
}

#[test]
fn no_time_means_as_soon_as_unused_and_never_means_never() {
    let mut node = Node::with(&[&candidate("custom.a", "1", &[])]);
    node.options.remove_after = Some(Duration::ZERO);
    assert!(matches!(node.verdict(BOOT, None), Verdict::Due(_)));
    node.options.remove_after = None;
    assert_not(node.verdict(0, None), Kind::Deferred, &["never"]);
}

#[test]
fn an_incomplete_scan_blocks_a_removal() {
    let mut node = Node::with(&[&candidate("custom.a", "1", &[])]);
    node.options.remove_after = Some(Duration::ZERO);
    let seen = Usage::Unknown("hidepid".into());
    let verdict = node.verdict_seen(&mut clock(0, None), &seen);
    assert_not(verdict, Kind::Blocked, &["hidepid"]);
}

#[test]
fn ownership_ends_where_another_program_unloaded_or_replaced() {
    let mut node = Node::with(&[&candidate("custom.a", "1", &[])]);
    node.observed.contents.clear();
    assert!(matches!(node.verdict(0, None), Verdict::Due(_)));
    node.load(&candidate("custom.a", "foreign", &[]));
    assert_eq!(node.verdict(0, None), Verdict::Gone);
    node.observed = Observed::default();
    assert_eq!(node.verdict(0, None), Verdict::Gone);
}

#[test]
fn the_last_look_starts_the_clock_anew_too() {
    let node = Node::with(&[]);
    let mut clock = clock(0, None);
    let facts = node.facts();
    let verdict = facts.verdict_in_use(Usage::Unused, &mut clock);
    assert!(matches!(verdict, Verdict::Due(_)));
    let users = Usage::InUse("2 processes".into());
    let verdict = facts.verdict_in_use(users, &mut clock);
    assert_not(verdict, Kind::Deferred, &["2 processes"]);
    assert_eq!(clock.last_seen_in_use, Some(node.now));
}

#[test]
fn a_removal_put_off_by_a_runtime_is_blocked_after_fifteen_minutes() {
    let mut node = Node::new(&[]);
    let mut clock = clock(0, None);
    let put_off =
        |node: &Node, clock: &mut Unwanted| node.facts().verdict_starting("runc (pid 7)", clock);
    for (after, kind) in [
        (0, Kind::Deferred),
        (899, Kind::Deferred),
        (900, Kind::Blocked),
    ] {
        node.now = stamp(BOOT + after);
        assert_not(put_off(&node, &mut clock), kind, &["runc (pid 7)"]);
    }
    assert_eq!(clock.put_off_since, Some(stamp(BOOT)));
}

/// The intent of a killed pass, the kernel's state after it, and the conclusion.
#[test]
fn a_pending_claim_counts_only_with_its_contents() {
    let digest = |text: &str| Digest::of(text.as_bytes());
    let [old, new, foreign, unknown] = ["old", "new", "foreign", ""].map(digest);
    let load = Some(Pending::Load(new));
    let replace = Some(Pending::Replace(new));
    let remove = Some(Pending::Remove);
    // Pending, the contents where they are shown, and the policy owned after; none: not owned.
    let cases = [
        (None, Some(foreign), Some(old)),
        (load, Some(new), Some(new)),
        (load, Some(foreign), None),
        (load, Some(old), None),
        (load, None, None),
        (replace, Some(new), Some(new)),
        (replace, Some(old), Some(old)),
        (replace, Some(foreign), Some(old)),
        (replace, None, Some(unknown)),
        (remove, Some(old), Some(old)),
        (remove, Some(foreign), None),
        (remove, None, Some(old)),
    ];
    for (pending, contents, expected) in cases {
        let mut node = Node::with(&[&candidate("custom.a", "1", &["custom.a//kid"])]);
        node.observed.contents.clear();
        let contents = contents.map(|contents| ("custom.a".to_owned(), contents));
        node.observed.contents.extend(contents);
        for owned in node.set().owned.values_mut() {
            (owned.policy, owned.pending) = (old, pending);
        }
        let observed = node.observed.clone();
        settle_claims(node.set(), &observed);
        for name in ["custom.a", "custom.a//kid"] {
            let owned = node.set().owned.get(name);
            let case = format!("{pending:?} {contents:?}", contents = observed.contents);
            assert_eq!(owned.map(|owned| owned.policy), expected, "{case}");
            assert!(owned.is_none_or(|owned| owned.pending.is_none()), "{case}");
        }
    }
}

#[test]
fn a_pending_claim_on_a_name_that_is_not_loaded_ends() {
    for pending in [Pending::Load(Digest::of(b"new")), Pending::Remove] {
        let mut node = Node::with(&[&candidate("custom.a", "1", &[])]);
        node.owned("custom.a").pending = Some(pending);
        settle_claims(node.set(), &Observed::default());
        assert!(node.set().owned.is_empty(), "{pending:?}");
    }
    // One that was owned before stays owned: its removal by another program is repaired.
    for pending in [None, Some(Pending::Replace(Digest::of(b"new")))] {
        let mut node = Node::with(&[&candidate("custom.a", "1", &[])]);
        node.owned("custom.a").pending = pending;
        settle_claims(node.set(), &Observed::default());
        assert_eq!(node.set().owned.len(), 1, "{pending:?}");
    }
}

#[test]
fn a_write_of_a_killed_pass_that_arrived_is_owned_in_the_next() {
    let new = candidate("custom.a", "2", &[]);
    let mut node = Node::with(&[&candidate("custom.a", "1", &[])]);
    node.owned("custom.a").pending = Some(Pending::Replace(new.record.policy));
    node.load(&new);
    let observed = node.observed.clone();
    settle_claims(node.set(), &observed);
    assert_eq!(node.decide(&new), Decision::Own(Reason::Interrupted));
}

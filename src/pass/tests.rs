//! Any history of passes, killed and whole, and of other programs: a model of the kernel, with the real
//! decisions and the real record.

use std::sync::LazyLock;

use wildmatch::WildMatch;

use super::*;
use crate::plan::{Decision, Reason, Usage, Verdict, settle_claims};
use crate::profile::{Digest, Mode, is_within, parent};
use crate::state::{Member, Pending, Record, Unwanted};
use crate::tests::{Random, name};
use crate::{outcome::Kind, time::Time};

const SETS: [&str; 2] = ["default", "web"];
const FILES: [&str; 4] = ["custom.a", "custom.b", "custom.c", "custom.d"];
/// Names without a file of their own.
const FURTHER: [&str; 2] = ["custom.x", "custom.y"];
const VERSIONS: usize = 5;
const LIMIT: usize = 9;

/// Version `n` of `file`.
fn version(file: &str, n: usize) -> Candidate {
    static ALL: LazyLock<BTreeMap<(&str, usize), Candidate>> = LazyLock::new(|| {
        let files = FILES.iter().chain(&FURTHER);
        let versions = files.flat_map(|file| (0..VERSIONS).map(move |n| (*file, n)));
        versions
            .map(|(file, n)| ((file, n), made(file, n)))
            .collect()
    });
    ALL[&(file, n)].clone()
}

fn made(file: &str, n: usize) -> Candidate {
    let (kid, hat) = (format!("{file}//kid"), format!("{file}//hat"));
    let members: &[&str] = match n {
        0 => &[],
        1 => &[&kid],
        2 => &[&hat, FURTHER[0]],
        3 => &[FURTHER[0], FURTHER[1], &kid],
        _ => &[if file == FILES[1] { FILES[2] } else { FILES[1] }],
    };
    let members = std::iter::once(&file).chain(members).map(|name| Member {
        name: (*name).to_owned(),
        mode: match name.ends_with("//kid") {
            true => Mode::Complain,
            false => Mode::Enforce,
        },
    });
    let n = n.to_string();
    Candidate {
        name: name(file),
        record: Record {
            source: String::new(),
            text: Digest::of_parts(["text", file, &n]),
            key: Digest::of_parts(["key", file, &n]),
            policy: Digest::of_parts(["policy", file, &n]),
            members: members.collect(),
            loaded_at: None,
            repairs: Vec::new(),
            unenforced: Vec::new(),
        },
    }
}

/// The contents of another program's policy.
fn foreign() -> Digest {
    Digest::parse(&"f".repeat(64)).unwrap()
}

/// A loaded name.
#[derive(Clone, Debug, PartialEq)]
struct Loaded {
    mode: Mode,
    /// Of a child: those of its parent when it was loaded.
    contents: Digest,
    /// The set that loaded it, or took it over with equal contents or by a pattern; none: another program.
    by: Option<&'static str>,
}

/// The pass was killed.
#[derive(Debug)]
struct Killed;

/// The input of one pass: sources and command line.
#[derive(Clone, Debug)]
struct Request {
    set: &'static str,
    sources: Vec<String>,
    candidates: Vec<Candidate>,
    /// Files whose text is refused.
    refused: Vec<&'static str>,
    options: Options,
}

impl Request {
    /// The pass under way, in a place without kernel and store.
    fn begin(&self, state: State, observed: Observed, now: Stamp) -> Pass<'_> {
        let names = self
            .candidates
            .iter()
            .map(|candidate| candidate.name.as_str());
        let nowhere = || "/nowhere".into();
        Pass {
            options: &self.options,
            work: Work {
                files: names.chain(self.refused.iter().copied()).collect(),
                ..Work::default()
            },
            observed,
            revision: None,
            written: Vec::new(),
            outcomes: Vec::new(),
            problems: BTreeMap::new(),
            standing: BTreeMap::new(),
            deadline: Instant::now(),
            session: Session {
                kernel: Kernel::new(&kernel::Settings {
                    root: nowhere(),
                    securityfs: nowhere(),
                    proc: nowhere(),
                }),
                store: Store::new(&nowhere()),
                _lock: None,
                state,
                set_name: self.set.to_owned(),
                dry: false,
                now,
            },
        }
    }

    /// Whether the owned and unwanted `name` may be removed at all.
    fn has_leave(&self, set: &Set, name: &str, before: &[String]) -> bool {
        let is_empty = self.candidates.is_empty() && self.refused.is_empty();
        let record = set.profiles.get(&set.owned[name].profile);
        let from_here = record.is_some_and(|record| record.source == self.sources[0]);
        (self.options.take_over || before == self.sources)
            && (self.options.allow_empty || !is_empty || !from_here)
    }
}

/// How one pass ended.
#[derive(Debug, Default)]
struct Ended {
    /// The versions in force, of those that are desired.
    in_force: Vec<Candidate>,
    /// Those that were left alone, and why.
    left: Vec<(Candidate, Kind)>,
    writes: usize,
    owned_anew: usize,
    removals: usize,
}

struct Node {
    random: Random,
    kernel: BTreeMap<String, Loaded>,
    /// The kernel shows no contents.
    hidden: bool,
    /// On the disk: now, and when the pass began.
    state: State,
    before: State,
    now: Stamp,
    boots: usize,
    in_use: &'static str,
    /// Names that another program changed: since each set last had them in force, and since the last look
    /// of a pass.
    disturbed: BTreeSet<(&'static str, String)>,
    disturbed_since_look: BTreeSet<String>,
    /// Since when each name is unwanted, and when it was last seen in use, by set.
    unwanted: BTreeMap<(&'static str, String), (Stamp, Option<Stamp>)>,
    /// One in so many steps of a pass is where it is killed; 0: none.
    kills: usize,
    /// One in so many writes comes after another program's.
    races: usize,
}

impl Node {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let hidden = random.one_in(5);
        let mut node = Self {
            random,
            kernel: BTreeMap::new(),
            hidden,
            state: State::default(),
            before: State::default(),
            now: stamp(1000),
            boots: 0,
            in_use: "",
            disturbed: BTreeSet::new(),
            disturbed_since_look: BTreeSet::new(),
            unwanted: BTreeMap::new(),
            kills: 0,
            races: 0,
        };
        node.boot();
        node
    }

    fn boot(&mut self) {
        self.boots += 1;
        self.kernel.clear();
        self.unwanted.clear();
        self.disturbed.clear();
        self.now.uptime = self.random.below(100) as u64;
        self.state.enter_boot(&self.boots.to_string());
    }

    fn observed(&self) -> Observed {
        let loaded = self.kernel.iter();
        let shown = self.kernel.iter().filter(|_| !self.hidden);
        let shown = shown.filter(|(name, _)| parent(name).is_none());
        Observed {
            loaded: loaded
                .map(|(name, loaded)| (name.clone(), loaded.mode))
                .collect(),
            contents: shown
                .map(|(name, loaded)| (name.clone(), loaded.contents))
                .collect(),
        }
    }

    fn put(&mut self, candidate: &Candidate, contents: Digest, by: Option<&'static str>) {
        for Member { name, mode } in &candidate.record.members {
            let (name, mode) = (name.clone(), *mode);
            self.kernel.insert(name, Loaded { mode, contents, by });
        }
    }

    fn take(&mut self, name: &str) {
        self.kernel.retain(|loaded, _| !is_within(loaded, name));
    }

    /// Another program does something.
    fn disturb(&mut self) {
        let names: Vec<&str> = FILES.into_iter().chain(FURTHER).collect();
        let name = self.random.pick(&names);
        let mut theirs = version(name, self.random.below(2));
        match self.random.below(5) {
            0 => self.take(name),
            1 => {
                if let Some(loaded) = self.kernel.get_mut(name) {
                    loaded.mode = Mode::Complain;
                }
            }
            // Its policy is the one that a file of ours would bring.
            2 => {
                theirs = version(self.random.pick(&FILES), self.random.below(VERSIONS));
                self.put(&theirs, theirs.record.policy, None);
            }
            _ => self.put(&theirs, foreign(), None),
        }
        let members = theirs.record.members.into_iter();
        let names = members.map(|member| member.name).chain([name.to_owned()]);
        let names: BTreeSet<String> = names.collect();
        for set in SETS {
            let names = names.iter().map(|name| (set, name.clone()));
            self.disturbed.extend(names);
        }
        self.disturbed_since_look.extend(names);
    }

    /// Where a pass may be killed.
    fn step(&mut self) -> Result<(), Killed> {
        match self.kills > 0 && self.random.one_in(self.kills) {
            true => Err(Killed),
            false => Ok(()),
        }
    }

    fn request(&mut self) -> Request {
        let mut request = Request {
            set: self.random.pick(&[SETS[0], SETS[0], SETS[1]]),
            sources: vec![self.random.pick(&["/p", "/p", "/p", "/q"]).to_owned()],
            candidates: Vec::new(),
            refused: Vec::new(),
            options: Options {
                remove_after: self
                    .random
                    .pick(&[None, Some(0), Some(900)])
                    .map(Duration::from_secs),
                allow_empty: self.random.one_in(3),
                take_over: self.random.one_in(2),
                adopt: self
                    .random
                    .pick(&[&[][..], &[], &["custom.?"], &["custom.b*"]])
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                most_names: LIMIT,
            },
        };
        let most = self.random.below(5);
        for file in FILES {
            match self.random.below(6) {
                _ if self.random.below(4) >= most => {}
                0 => request.refused.push(file),
                _ => {
                    let mut candidate = version(file, self.random.below(VERSIONS));
                    candidate.record.source.clone_from(&request.sources[0]);
                    request.candidates.push(candidate);
                }
            }
        }
        request
    }

    /// One pass. Killed, it leaves the state that it last saved.
    fn pass(&mut self, request: &Request) -> Result<Ended, Killed> {
        self.before = self.state.clone();
        let mut state = self.state.clone();
        let set = state.sets.entry(request.set.to_owned()).or_default();
        let observed = self.observed();
        self.disturbed_since_look.clear();
        self.confirm_claims(request.set);
        settle_claims(set, &observed);
        if set.sources.is_empty() {
            set.sources.clone_from(&request.sources);
        }
        let mut pass = request.begin(state, observed, self.now);
        let mut candidates = request.candidates.clone();
        // A refused text's last good version stays in force.
        let recorded = pass.session.set().profiles.iter();
        let recorded = recorded.filter(|(name, _)| request.refused.contains(&name.as_str()));
        candidates.extend(recorded.map(Candidate::recorded));
        let mut ended = Ended::default();
        let taken = self.load(&mut pass, request, candidates, &mut ended)?;
        let taken = self.load(&mut pass, request, taken, &mut ended)?;
        let duplicates = taken
            .into_iter()
            .map(|candidate| (candidate, Kind::Refused));
        ended.left.extend(duplicates);
        self.remove(&mut pass, request, &mut ended)?;
        let files = pass.work.files.clone();
        let set = pass.session.set_mut();
        let owned = set.owned.clone();
        let owns = |name: &_| owned.values().any(|owned| owned.profile == *name);
        set.profiles
            .retain(|name, _| files.contains(name.as_str()) || owns(name));
        self.state = pass.session.state;
        for member in ended
            .in_force
            .iter()
            .flat_map(|candidate| &candidate.record.members)
        {
            if !self.disturbed_since_look.contains(&member.name) {
                self.disturbed.remove(&(request.set, member.name.clone()));
            }
        }
        Ok(ended)
    }

    /// A claim that the kernel confirms is a load by this set.
    fn confirm_claims(&mut self, set: &'static str) {
        let Some(recorded) = self.state.sets.get(set) else {
            return;
        };
        for (name, owned) in &recorded.owned {
            if let (Some(Pending::Load(policy) | Pending::Replace(policy)), Some(loaded)) =
                (owned.pending, self.kernel.get_mut(name))
                && loaded.contents == policy
            {
                loaded.by = Some(set);
            }
        }
    }

    fn load(
        &mut self,
        pass: &mut Pass,
        request: &Request,
        candidates: Vec<Candidate>,
        ended: &mut Ended,
    ) -> Result<Vec<Candidate>, Killed> {
        let (mut writes, mut taken) = (Vec::new(), Vec::new());
        for candidate in candidates {
            match pass.facts().decide(&candidate) {
                Decision::Keep => {
                    pass.record(candidate.clone(), None);
                    ended.in_force.push(candidate);
                }
                Decision::Own(why) => {
                    for name in candidate.top_level() {
                        if let Some(loaded) = self.kernel.get_mut(name) {
                            loaded.by = Some(request.set);
                        }
                    }
                    pass.record(candidate.clone(), Some(why));
                    ended.owned_anew += 1;
                    ended.in_force.push(candidate);
                }
                Decision::Write(kind, why) => {
                    self.check_write(pass, request, &candidate, (kind, why));
                    pass.claim(&candidate);
                    writes.push((candidate, kind, why));
                }
                Decision::Taken(_) => taken.push(candidate),
                Decision::Leave(kind, message) => {
                    assert!(!message.is_empty());
                    ended.left.push((candidate, kind));
                }
            }
        }
        if !writes.is_empty() {
            self.step()?;
            self.state = pass.session.state.clone();
        }
        for (candidate, kind, why) in writes {
            self.step()?;
            if self.races > 0 && self.random.one_in(self.races) {
                self.disturb();
            }
            if self.has_changed(&pass.observed, &candidate, kind) {
                pass.release(&candidate);
                ended.left.push((candidate, Kind::Failed));
                continue;
            }
            self.put(&candidate, candidate.record.policy, Some(request.set));
            ended.writes += 1;
            let members = candidate.record.members.iter();
            let members = members.map(|member| (member.name.clone(), member.mode));
            pass.observed.loaded.extend(members);
            pass.record(candidate.clone(), Some(why));
            ended.in_force.push(candidate);
        }
        self.step()?;
        Ok(taken)
    }

    /// The kernel's EEXIST, and the look directly before a replacement.
    fn has_changed(&self, observed: &Observed, candidate: &Candidate, kind: Kind) -> bool {
        let is_loaded = |name: &str| self.kernel.contains_key(name);
        if kind == Kind::Load {
            let mut members = candidate.record.members.iter();
            return members.any(|member| is_loaded(&member.name));
        }
        let mut names = candidate.top_level();
        names.any(|name| match observed.loaded.contains_key(name) {
            true => self.disturbed_since_look.contains(name),
            false => is_loaded(name),
        })
    }

    /// That a decided write may be made: it touches only names that the set owns, or may take over.
    fn check_write(
        &self,
        pass: &Pass,
        request: &Request,
        candidate: &Candidate,
        (kind, why): (Kind, Reason),
    ) {
        let observed = |name: &str| pass.observed.loaded.contains_key(name);
        let mut names = candidate.record.members.iter().map(|member| &*member.name);
        let expected = match names.clone().any(observed) {
            true => Kind::Replace,
            false => Kind::Load,
        };
        assert_eq!(kind, expected, "{why:?}");
        if why.is_repair() {
            let disturbed =
                names.any(|name| self.disturbed.contains(&(request.set, name.to_owned())));
            assert!(disturbed, "{candidate:?} {why:?}");
        }
        let still = |name: &&str| observed(name) && !self.disturbed_since_look.contains(*name);
        for name in candidate.top_level().filter(still) {
            let owner = pass.session.state.owner_besides(request.set, name);
            assert_eq!(owner, None, "{name}");
            let contents = self.kernel[name].contents;
            let adopts = |pattern: &String| WildMatch::new(pattern).matches(name);
            let recorded = self.before.sets.get(request.set);
            let owned = recorded.and_then(|set| set.owned.get(name));
            let may = match owned.map(|owned| (owned.pending, owned.policy)) {
                Some((None | Some(Pending::Replace(_)), _)) => true,
                Some((Some(Pending::Remove), old)) => self.hidden || contents == old,
                Some((Some(Pending::Load(policy)), _)) => contents == policy,
                None => false,
            };
            let may = may
                || request.options.adopt.iter().any(adopts)
                || contents == candidate.record.policy;
            assert!(
                may,
                "{name}: {:?} is replaced, {owned:?}",
                self.kernel[name]
            );
        }
    }

    fn remove(
        &mut self,
        pass: &mut Pass,
        request: &Request,
        ended: &mut Ended,
    ) -> Result<(), Killed> {
        let holding = match pass.work.files.is_empty() {
            true => BTreeSet::new(),
            false => request.sources.iter().cloned().collect(),
        };
        let unwanted = pass.facts().unwanted(&request.sources, &holding);
        let before = pass.session.set().sources.clone();
        for (name, owned) in &mut pass.session.set_mut().owned {
            let mut unwanted = unwanted.iter();
            if !unwanted.any(|(unwanted, _)| is_within(name, unwanted)) {
                owned.unwanted = None;
            }
        }
        if unwanted.iter().all(|(_, kept)| kept.is_none()) {
            pass.session.set_mut().sources.clone_from(&request.sources);
        }
        let desired = desired(pass);
        let mut due = Vec::new();
        for (name, kept) in unwanted {
            assert!(!desired.contains(&name), "{name} is unwanted");
            let clock = self.unwanted.entry((request.set, name.clone()));
            clock.or_insert((self.now, None));
            let known = pass.session.set().owned[&name].unwanted;
            let mut clock = known.unwrap_or(Unwanted::since(self.now));
            let in_use = is_within(self.in_use, &name);
            let mut seen = |_: &str| usage(in_use);
            let verdict = if let Some(reason) = kept {
                Verdict::Not(Kind::Blocked, reason)
            } else {
                let has_leave = request.has_leave(pass.session.set(), &name, &before);
                assert!(has_leave, "{name} is removed without leave");
                pass.facts().verdict(&name, &mut clock, &mut seen)
            };
            match verdict {
                Verdict::Due(_) => due.push((name, clock)),
                verdict => settle(pass.session.set_mut(), &name, &verdict, clock),
            }
        }
        if !due.is_empty() {
            for (name, _) in &due {
                pass.session.set_mut().owned.get_mut(name).unwrap().pending = Some(Pending::Remove);
            }
            self.step()?;
            self.state = pass.session.state.clone();
        }
        for (name, mut clock) in due {
            self.step()?;
            let verdict = self.last_look(pass, &name, &mut clock);
            if let Verdict::Due(_) = verdict {
                self.check_removal(pass, request, &name);
                self.take(&name);
                ended.removals += 1;
                settle(pass.session.set_mut(), &name, &Verdict::Gone, clock);
            } else {
                settle(pass.session.set_mut(), &name, &verdict, clock);
            }
        }
        self.step()?;
        self.keep_clocks(pass.session.set(), request);
        Ok(())
    }

    /// The clocks of the names that are still unwanted after a pass.
    fn keep_clocks(&mut self, recorded: &Set, request: &Request) {
        self.unwanted.retain(|(set, name), (_, seen)| {
            if *set != request.set {
                return true;
            }
            let owned = recorded.owned.get(name);
            let clock = owned.and_then(|owned| owned.unwanted);
            if is_within(self.in_use, name) && request.options.remove_after.is_some() {
                *seen = clock.and_then(|clock| clock.last_seen_in_use);
            }
            clock.is_some()
        });
    }

    /// The look directly before a removal. Other programs may have changed something since the first.
    fn last_look(&mut self, pass: &Pass, name: &str, clock: &mut Unwanted) -> Verdict {
        let races = self.races;
        let mut happens = || races > 0 && self.random.one_in(races);
        let (disturbed, started, starting) = (happens(), happens(), happens());
        if disturbed {
            self.disturb();
        }
        if started {
            self.in_use = self.random.pick(&FILES);
        }
        let changed = !self.hidden && self.disturbed_since_look.contains(name)
            || !self.kernel.contains_key(name);
        match is_within(self.in_use, name) {
            _ if starting => pass.facts().verdict_starting("runc", clock),
            in_use if in_use || !changed => pass.facts().verdict_in_use(usage(in_use), clock),
            _ => Verdict::Gone,
        }
    }

    /// That `name` may be removed from the kernel in this moment.
    fn check_removal(&self, pass: &Pass, request: &Request, name: &str) {
        let loaded = &self.kernel[name];
        let ours = loaded.by == Some(request.set)
            || loaded.contents == pass.session.set().owned[name].policy
            || parent(name).is_some()
            || self.hidden;
        assert!(ours, "{name}: {loaded:?} is removed");
        assert_eq!(
            pass.session.state.owner_besides(request.set, name),
            None,
            "{name}"
        );
        let remove_after = request.options.remove_after.expect("--remove-after never");
        let (since, seen) = self.unwanted[&(request.set, name.to_owned())];
        let unused = self.now.since(&seen.unwrap_or(since));
        assert!(unused >= remove_after, "{name}: {unused:?}");
        assert!(!is_within(self.in_use, name), "{name} is in use");
    }

    /// The conditions after a pass that was not killed.
    fn check(&self, request: &Request, ended: &Ended) {
        let set = &self.state.sets[request.set];
        for candidate in &ended.in_force {
            for member in &candidate.record.members {
                let loaded = self.kernel.get(&member.name);
                let loaded = loaded.unwrap_or_else(|| panic!("{} is not loaded", member.name));
                assert_eq!(loaded.mode, member.mode, "{member:?}");
                assert_eq!(set.owned[&member.name].policy, candidate.record.policy);
            }
            for name in candidate.top_level() {
                let loaded = &self.kernel[name];
                let right = loaded.contents == candidate.record.policy
                    || self.hidden && loaded.by.is_none();
                assert!(right, "{name} has other contents");
            }
        }
        let count = ended.in_force.len() + ended.left.len();
        assert!(count >= request.candidates.len(), "{ended:?}");
        for (name, owned) in &set.owned {
            assert_eq!(owned.pending, None, "{name}");
            assert_eq!(self.state.owner_besides(request.set, name), None, "{name}");
        }
        assert!(set.owned.len() <= LIMIT, "{:?}", set.owned);
    }
}

/// The names that a desired file brings, in the version that is desired or in the recorded one.
fn desired(pass: &Pass) -> BTreeSet<String> {
    let (set, files) = (pass.session.set(), &pass.work.files);
    let mut desired: BTreeSet<String> = files.iter().map(ToString::to_string).collect();
    for (name, record) in &set.profiles {
        let is_brought = |member: &&Member| {
            let owned = set.owned.get(&member.name);
            files.contains(name.as_str()) && owned.is_some_and(|owned| owned.profile == *name)
        };
        let members = record.members.iter().filter(is_brought);
        desired.extend(members.map(|member| member.name.clone()));
    }
    desired
}

fn usage(in_use: bool) -> Usage {
    match in_use {
        true => Usage::InUse("1 process (7 sh)".into()),
        false => Usage::Unused,
    }
}

fn settle(set: &mut Set, name: &str, verdict: &Verdict, clock: Unwanted) {
    match verdict {
        Verdict::Not(..) => {
            let owned = set.owned.get_mut(name).unwrap();
            (owned.pending, owned.unwanted) = (None, Some(clock));
        }
        _ => set.owned.retain(|owned, _| !is_within(owned, name)),
    }
}

fn stamp(uptime: u64) -> Stamp {
    Stamp {
        at: Time(1_700_000_000 + uptime),
        uptime,
    }
}

/// After any history, a pass leads to the desired state or reports why not, touches nothing that is not its
/// set's, takes no confinement away too early, and leaves nothing to do for the next.
#[test]
fn any_history_leads_to_the_desired_state() {
    let (mut kills, mut repairs, mut removals, mut left) = (0, 0, 0, 0);
    for seed in 0..6_000 {
        let mut node = Node::new(seed);
        let context = Context(seed);
        for _ in 0..node.random.below(10) {
            node.now.uptime += node.random.pick(&[0, 10, 300, 1000]);
            match node.random.below(10) {
                0..4 => node.disturb(),
                4 if node.random.one_in(3) => node.boot(),
                5 => {
                    let names = ["", FILES[0], "custom.b//kid", FURTHER[0]];
                    node.in_use = node.random.pick(&names);
                }
                _ => {
                    (node.kills, node.races) =
                        (node.random.pick(&[0, 4]), node.random.pick(&[0, 4]));
                    let request = node.request();
                    match node.pass(&request) {
                        Ok(ended) => {
                            repairs += ended.writes;
                            removals += ended.removals;
                        }
                        Err(Killed) => kills += 1,
                    }
                }
            }
        }
        (node.kills, node.races) = (0, 0);
        let request = node.request();
        let mut ended = node.pass(&request).unwrap();
        left += ended.left.len();
        // A removal makes room for a profile that was left alone, and that one's for another.
        for passes in 0.. {
            node.check(&request, &ended);
            let kernel = node.kernel.clone();
            let next = node.pass(&request).unwrap();
            assert!(next.writes + next.owned_anew <= ended.left.len());
            if (next.writes, next.owned_anew, next.removals) == (0, 0, 0) {
                assert_eq!(node.kernel, kernel);
                break;
            }
            assert!(passes < 5, "it does not end");
            ended = next;
        }
        drop(context);
    }
    // The histories hold the cases that they are to show.
    for count in [kills, repairs, removals, left] {
        assert!(count > 300, "{kills} {repairs} {removals} {left}");
    }
}

/// Names the seed of a history that fails.
struct Context(u64);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

//! Every point of a pass in turn: the fault there, and the conditions afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::trace::{At, By, Call, Deed, Trace};

/// The kernel's profiles: each name, with an identifier of its contents.
pub(crate) type InForce = BTreeMap<String, Vec<u8>>;

/// A node on which the same pass is run again and again.
pub(crate) trait Node {
    /// Puts everything back to just before the pass.
    fn reset(&self);
    /// The pass, to its end.
    fn pass(&self, at: Option<At>) -> Trace;
    /// The next pass, which nothing is done to; without its calls, where a kernel needs no help.
    fn next_pass(&self) -> Trace {
        self.pass(None)
    }
    /// A plan's exit code: 0 where a pass would do nothing.
    fn plan(&self) -> i32;
    fn in_force(&self) -> InForce;
    fn state_dir(&self) -> PathBuf;
    /// The names that processes are confined by, and those of others.
    fn untouchable(&self) -> BTreeSet<String>;
    /// A process that lost its confinement, or a foreign file that changed.
    fn harmed(&self) -> Option<String>;
    /// Every file that armorer may make, without those of the kernel.
    fn files(&self) -> BTreeSet<String>;
}

/// The result of an undisturbed pass.
pub(crate) struct Undisturbed {
    pub(crate) calls: Vec<Call>,
    pub(crate) before: InForce,
    pub(crate) after: InForce,
    files: BTreeSet<String>,
    repairs: u64,
}

/// Runs the pass undisturbed, twice, and checks that the pass is worth the sweep.
pub(crate) fn undisturbed(node: &dyn Node) -> Undisturbed {
    let mut runs = (0..2).map(|_| {
        node.reset();
        let before = node.in_force();
        let trace = node.pass(None);
        assert_eq!(trace.ended, 0, "{}", trace.log);
        assert_eq!(node.plan(), 0, "the pass left something to do");
        (before, trace.calls)
    });
    let (before, mut calls) = runs.next().unwrap();
    let (_, mut again) = runs.next().unwrap();
    // A third node can repeat the calls of both.
    if writing(&again).len() < writing(&calls).len() {
        std::mem::swap(&mut calls, &mut again);
    }
    // A kernel's own threads come and go, and a scan looks at each; texts that are compiled at about the
    // same time are loaded together.
    let counts = [calls.len(), again.len()];
    assert!(
        counts[0].abs_diff(counts[1]) <= calls.len() / 8,
        "{counts:?}: the pass makes other calls each time"
    );
    let writes = |file| {
        calls
            .iter()
            .filter(move |c| c.name == "write" && c.path.ends_with(file))
    };
    let kernel = ["/.load", "/.replace", "/.remove"].map(|file| writes(file).count());
    assert!(
        kernel[0] >= 1 && kernel[1] >= 1 && kernel[2] >= 2,
        "{kernel:?}: it must load, replace and remove"
    );
    let state = std::fs::read(node.state_dir().join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    Undisturbed {
        repairs: state["sets"]["default"]["counters"]["repairs"]
            .as_u64()
            .unwrap(),
        calls,
        before,
        after: node.in_force(),
        files: node.files(),
    }
}

/// The result of one point.
struct Outcome {
    at: At,
    call: String,
    ended: i32,
    /// The condition that did not hold.
    wrong: Option<String>,
}

/// Does `points`, or the asked share of them, on as many nodes at once as there are, and prints the
/// table. Panics if anything did not hold at any of them.
pub(crate) fn sweep<N: Node + Sync>(
    title: &str,
    nodes: &[(N, Undisturbed)],
    points: &[(At, String)],
) {
    let start = Instant::now();
    let (title, points) = share(title, points);
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (node, expected) in nodes {
            scope.spawn(|| {
                while let Some((at, call)) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (ended, wrong) = point(node, expected, *at);
                    let (at, call) = (*at, call.clone());
                    let mut outcomes = outcomes.lock().unwrap();
                    outcomes.push(Outcome {
                        at,
                        call,
                        ended,
                        wrong,
                    });
                    let (done, seconds) = (outcomes.len(), start.elapsed().as_secs());
                    if done % 50 == 0 {
                        println!("{title}: {done} of {} points, {seconds} s", points.len());
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    table(&title, &outcomes, start.elapsed().as_secs());
    let mut wrong: Vec<&Outcome> = outcomes.iter().filter(|o| o.wrong.is_some()).collect();
    wrong.sort_by_key(|o| (o.at.process, o.at.number));
    for outcome in wrong.iter().take(40) {
        let (at, why) = (outcome.at, outcome.wrong.as_ref().unwrap());
        println!(
            "process {} call {} {} {:?}: {why}",
            at.process, at.number, outcome.call, at.deed
        );
    }
    let shorter = outcomes.iter().filter(|o| o.ended == SHORTER).count();
    // All calls of the shorter pass were tried.
    assert!(
        shorter * 4 <= points.len(),
        "{shorter} points were not reached"
    );
    assert_eq!(outcomes.len(), points.len(), "not every point was tried");
    assert!(
        wrong.is_empty(),
        "{title}: {} of {} points failed",
        wrong.len(),
        points.len()
    );
}

/// `KILL_SHARE=2/5` is the second of five shares: every fifth point, so that each share has some of
/// every kind, and all five together are all points.
fn share(title: &str, points: &[(At, String)]) -> (String, Vec<(At, String)>) {
    let Ok(asked) = std::env::var("KILL_SHARE") else {
        return (title.to_owned(), points.to_vec());
    };
    let numbers = asked
        .split_once('/')
        .and_then(|(number, of)| Some((number.parse::<usize>().ok()?, of.parse::<usize>().ok()?)));
    let (number, of) = numbers
        .filter(|(number, of)| (1..=*of).contains(number))
        .unwrap_or_else(|| panic!("KILL_SHARE={asked}: it is like 2/5"));
    let own = points.iter().skip(number - 1).step_by(of).cloned();
    let title = format!("{title}, share {asked} of {} points", points.len());
    (title, own.collect())
}

/// Instead of an exit code: the pass ended before the point, having had fewer processes to scan, or loaded
/// more at once.
const SHORTER: i32 = -1;

/// One point: how the pass ended, and the conditions that failed, then and after the next pass.
fn point(node: &dyn Node, expected: &Undisturbed, at: At) -> (i32, Option<String>) {
    let mut tries = 0;
    let trace = loop {
        node.reset();
        let trace = node.pass(Some(at));
        tries += 1;
        // A pass may make a call less where it waits for a compiler.
        if tries == 3 || hit(&trace, at).is_none() {
            break trace;
        }
    };
    let calls = trace.calls.iter().filter(|call| call.process == at.process);
    let counted = calls.filter(|call| at.by == By::Calls || call.writes());
    if trace.ended == 0 && counted.count() < at.number {
        return (SHORTER, None);
    }
    let wrong = hit(&trace, at)
        .or_else(|| ended_well(&trace, at, node, expected))
        .or_else(|| unharmed(node, expected))
        .or_else(|| state_reads(node))
        .or_else(|| converges(node, expected))
        .map(|why| {
            format!(
                "{why}; the disturbed pass ended with {} and logged: {}",
                trace.ended,
                trace.log.trim()
            )
        });
    (trace.ended, wrong)
}

fn hit(trace: &Trace, at: At) -> Option<String> {
    let mut hits = trace.calls.iter().filter(|call| call.hit);
    let right = |call: &Call| {
        call.process == at.process && (at.by != By::Calls || call.number == at.number)
    };
    let there = hits.next().is_some_and(right) && hits.next().is_none();
    (!there).then(|| "this call was not made".to_owned())
}

fn ended_well(trace: &Trace, at: At, node: &dyn Node, expected: &Undisturbed) -> Option<String> {
    let allowed: &[i32] = match (at.process, at.deed) {
        (0, Deed::Kill) => &[128 + 9],
        _ => &[0, 1, 3],
    };
    if !allowed.contains(&trace.ended) {
        return Some(format!("it ended with {}", trace.ended));
    }
    if trace.ended == 0 && node.in_force() != expected.after {
        return Some("it reported converged, and the kernel says otherwise".into());
    }
    if [1, 3].contains(&trace.ended) && trace.log.trim().is_empty() {
        // Where every write fails, nothing can be logged.
        let made = writing(&expected.calls).into_iter();
        let mut made = made.filter(|(n, c)| (c.process, *n) == (at.process, at.number));
        let silenced = made
            .next()
            .is_some_and(|(_, call)| call.path.contains("pipe:"));
        return (!silenced).then(|| "it failed without a word".into());
    }
    None
}

/// Profiles in force and in use stay; every name has its old contents or its new ones.
fn unharmed(node: &dyn Node, expected: &Undisturbed) -> Option<String> {
    let now = node.in_force();
    for name in node.untouchable() {
        if !now.contains_key(&name) {
            return Some(format!("{name} was removed"));
        }
    }
    for (name, contents) in &now {
        let known = [&expected.before, &expected.after].map(|known| known.get(name));
        if !known.contains(&Some(contents)) {
            return Some(format!(
                "{name} has neither its old contents nor its new ones"
            ));
        }
    }
    node.harmed()
}

pub(crate) fn state_reads(node: &dyn Node) -> Option<String> {
    let text = match std::fs::read(node.state_dir().join("state.json")) {
        Ok(text) => text,
        Err(error) => return Some(format!("the state is gone: {error}")),
    };
    let state: Result<serde_json::Value, _> = serde_json::from_slice(&text);
    match state {
        Ok(state) if state["schema"] == 1 => None,
        other => Some(format!("the state does not read: {other:?}")),
    }
}

/// The very next pass, undisturbed, brings everything to where it belongs.
fn converges(node: &dyn Node, expected: &Undisturbed) -> Option<String> {
    let next = node.next_pass();
    if next.ended != 0 {
        return Some(format!(
            "the next pass ended with {}: {}",
            next.ended,
            next.log.trim()
        ));
    }
    if node.in_force() != expected.after {
        return Some(format!(
            "the next pass left the kernel as {:?}",
            node.in_force().keys()
        ));
    }
    let files = node.files();
    if files != expected.files {
        let odd: Vec<_> = files.symmetric_difference(&expected.files).collect();
        return Some(format!("the next pass left other files: {odd:?}"));
    }
    let state = std::fs::read(node.state_dir().join("state.json")).unwrap_or_default();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
    if state["sets"]["default"]["counters"]["repairs"].as_u64() > Some(expected.repairs) {
        return Some("its own work was taken for another program's".into());
    }
    if state.to_string().contains("\"pending\"") {
        return Some("the next pass left something pending in the state".into());
    }
    if node.plan() != 0 {
        return Some("after the next pass there is still something to do".into());
    }
    unharmed(node, expected)
}

fn table(title: &str, outcomes: &[Outcome], seconds: u64) {
    #[derive(Default)]
    struct Row {
        points: usize,
        survived: usize,
        ended: BTreeMap<i32, usize>,
    }
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for outcome in outcomes {
        let process = if outcome.at.process == 0 {
            "armorer"
        } else {
            "compiler"
        };
        for key in [format!("{process} {}", outcome.call), "all".to_owned()] {
            let row = rows.entry(key).or_default();
            row.points += 1;
            row.survived += usize::from(outcome.wrong.is_none());
            *row.ended.entry(outcome.ended).or_default() += 1;
        }
    }
    println!("\n{title}: {} points in {seconds} s", outcomes.len());
    println!(
        "{:32} {:>6} {:>8}  how the pass ended",
        "call", "points", "survived"
    );
    let all = rows.remove("all");
    for (name, row) in rows.iter().chain(
        all.iter()
            .map(|row| (ALL.get_or_init(|| "all".into()), row)),
    ) {
        let ended = row.ended.iter().map(|(code, count)| match code {
            137 => format!("{count} killed"),
            &SHORTER => format!("{count} times it made fewer calls"),
            code => format!("{count} exit {code}"),
        });
        let ended: Vec<String> = ended.collect();
        println!(
            "{name:32} {:>6} {:>8}  {}",
            row.points,
            row.survived,
            ended.join(", ")
        );
    }
}

static ALL: OnceLock<String> = OnceLock::new();

/// A kill at each call.
pub(crate) fn kills(calls: &[Call]) -> Vec<(At, String)> {
    let kill = |call: &Call| {
        let at = At {
            process: call.process,
            by: By::Calls,
            number: call.number,
            deed: Deed::Kill,
        };
        (at, call.name.clone())
    };
    calls.iter().map(kill).collect()
}

/// The calls that write, each with its number among those of its process.
fn writing(calls: &[Call]) -> Vec<(usize, &Call)> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let writing = calls.iter().filter(|call| call.writes());
    let counted = writing.map(|call| {
        let count = counts.entry(call.process).or_default();
        *count += 1;
        (*count, call)
    });
    counted.collect()
}

/// A kill at each call that writes, and at the one after it: every state of disk and kernel that
/// a kill can leave, however many processes there are to look at in between.
pub(crate) fn kills_at_writes(calls: &[Call]) -> Vec<(At, String)> {
    let points = writing(calls).into_iter().flat_map(|(number, call)| {
        [By::Writes, By::AfterWrites].map(|by| {
            let (process, deed) = (call.process, Deed::Kill);
            let at = At {
                process,
                by,
                number,
                deed,
            };
            let after = if by == By::Writes { "" } else { "after " };
            (at, format!("{after}{}", call.name))
        })
    });
    points.collect()
}

/// Each call that writes, failing in each way that a disk has, and interrupted; unless all is asked
/// for in one of these ways, another each day.
pub(crate) fn faults(calls: &[Call]) -> Vec<(At, String)> {
    const ERRORS: [(&str, i32); 5] = [
        ("ENOSPC", 28),
        ("EIO", 5),
        ("EROFS", 30),
        ("EACCES", 13),
        ("EINTR", 4),
    ];
    let failing = writing(calls)
        .into_iter()
        .enumerate()
        .flat_map(|(n, (number, call))| {
            let mine = move |way: &usize| all() || (n + day()) % ERRORS.len() == *way;
            (0..ERRORS.len()).filter(mine).map(move |way| {
                let (word, errno) = ERRORS[way];
                let (process, by, deed) = (call.process, By::Writes, Deed::Fail(errno));
                let at = At {
                    process,
                    by,
                    number,
                    deed,
                };
                (at, format!("{} {word}", call.name))
            })
        });
    failing.collect()
}

/// Whether the whole sweep is asked for, which takes long.
pub(crate) fn all() -> bool {
    std::env::var_os("KILL_ALL").is_some()
}

/// The number of a day, `KILL_DAY` or today: of the points that are not tried each time, each day has another share.
pub(crate) fn day() -> usize {
    static DAY: OnceLock<usize> = OnceLock::new();
    *DAY.get_or_init(|| {
        let given = std::env::var("KILL_DAY").ok();
        let given = given.map(|day| day.parse().expect("KILL_DAY is a number"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let day = given.unwrap_or(usize::try_from(now.as_secs() / 86_400).unwrap());
        println!("\nKILL_DAY={day} repeats this share of the points; KILL_ALL=1 tries all");
        day
    })
}

/// Of `points`, one for each of `calls`, those that are tried: all if asked for. Otherwise each
/// writing call and the one after it, which is every state of disk and kernel that a kill can
/// leave, and one of `one_of` others, another each day.
pub(crate) fn chosen(
    calls: &[Call],
    points: Vec<(At, String)>,
    one_of: usize,
) -> Vec<(At, String)> {
    let processes: BTreeSet<usize> = calls.iter().map(|call| call.process).collect();
    let whole = points.len();
    let after: BTreeSet<(usize, usize)> = calls
        .iter()
        .filter(|c| c.writes())
        .map(|c| (c.process, c.number + 1))
        .collect();
    let pairs = points.into_iter().zip(calls);
    let chosen = pairs.filter(|((at, _), call)| {
        all()
            || call.writes()
            || after.contains(&(at.process, at.number))
            || (at.number + day()).is_multiple_of(one_of)
    });
    let chosen: Vec<_> = chosen.map(|(point, _)| point).collect();
    println!(
        "\nan unkilled pass makes {whole} calls in {} processes; killed at {} of them{}",
        processes.len(),
        chosen.len(),
        if all() { "" } else { " (KILL_ALL=1: at each)" }
    );
    chosen
}

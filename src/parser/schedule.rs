//! Which compiler works at which texts, and for how long.
//!
//! To start a compiler costs about as much as to compile a small text, so several texts share
//! one: texts of one source, whose author could write any of them. Each keeps its own answer and
//! its own time. A text that fails, or that keeps the others waiting, is compiled again alone and
//! after the others, and only that answer counts.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

use super::explain::{Ended, explain};
use super::output::Output;
use super::process::{Process, sleep};
use super::{Compiler, PROFILE, STDERR_LIMIT, contents, not_begun, not_started, some_policy};
use crate::profile::{Digest, Refusal, Text};

/// Texts that share a compiler at most: it may have 64 files open, and includes nest.
const MOST: usize = 24;

/// What a text costs beyond its length, in bytes: most of them include the same abstractions.
const BASE_COST: usize = 8 * 1024;

/// Bytes of such texts: they are in memory twice, which is little beside what a compiler may take.
const SHARED_BYTES: usize = 512 * 1024;

/// A text that takes longer than this while others wait for it is put off.
const PATIENCE: Duration = Duration::from_secs(3);

/// For the proof, which is waited for even on a busy node.
const PROOF_TIME: Duration = Duration::from_secs(60);

/// How often a shared compiler is asked for what is ready.
const PROGRESS: Duration = Duration::from_millis(50);

/// What a confined compiler must compile, and to which policy, before its work counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof<'a> {
    /// The text of the profile that confines it.
    pub(crate) text: &'a str,
    /// What an unconfined compiler makes of it.
    pub(crate) blob: Digest,
}

/// Answers by the index of their text.
pub(crate) type Answers = Vec<(usize, Result<Vec<u8>, Refusal>)>;

impl Compiler {
    /// Compiles `texts`, the largest first, and gives `done` the answers as they are ready: one
    /// for each. What is not ready at `deadline` is refused. With a `proof` this compiler is
    /// confined until it fails to give it; then the texts are compiled outside. Without texts, the
    /// proof is all that is asked for.
    ///
    /// # Errors
    /// Why they were compiled outside.
    pub(crate) fn compile(
        &self,
        texts: &[Text],
        deadline: Instant,
        proof: Option<Proof>,
        done: &mut dyn FnMut(Answers),
    ) -> Result<(), String> {
        self.begin(texts, deadline, proof).finish(done)
    }

    /// As `compile`, but returns as soon as as many compilers work as may, so that the caller can
    /// do something else meanwhile.
    pub(crate) fn begin<'a>(
        &self,
        texts: &'a [Text<'a>],
        deadline: Instant,
        proof: Option<Proof<'a>>,
    ) -> Work<'a> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|index| Reverse(texts[*index].contents.len()));
        let schedule = Schedule {
            compiler: self.clone(),
            texts,
            deadline,
            proof,
            unproven: proof.is_some(),
            outside: None,
            mark: format!(
                "armorer.end.{:016x}",
                RandomState::new().build_hasher().finish()
            ),
            company: true,
            waiting: order.into(),
            alone: VecDeque::new(),
            answers: Vec::new(),
        };
        let mut work = Work {
            schedule,
            running: Vec::new(),
        };
        work.schedule.fill(&mut work.running);
        work
    }
}

/// Compilers at work. What is dropped before its end is killed.
pub(crate) struct Work<'a> {
    schedule: Schedule<'a>,
    running: Vec<Job>,
}

impl Work<'_> {
    /// Waits for the answers and gives them to `done`.
    ///
    /// # Errors
    /// As `Compiler::compile`'s.
    pub(crate) fn finish(mut self, done: &mut dyn FnMut(Answers)) -> Result<(), String> {
        let Self { schedule, running } = &mut self;
        // Nobody looked at them meanwhile, and how long that took is not their fault.
        for job in running.iter_mut() {
            job.since = Instant::now();
        }
        loop {
            schedule.fill(running);
            if !schedule.answers.is_empty() {
                done(std::mem::take(&mut schedule.answers));
            }
            let Some(pause) = running.iter().map(|job| schedule.pause(job)).min() else {
                break;
            };
            sleep(running.iter().map(|job: &Job| &job.process), pause);
            let mut at = 0;
            while at < running.len() {
                if let Some(ended) = schedule.look(&mut running[at]) {
                    let job = running.swap_remove(at);
                    schedule.end(job, ended);
                } else {
                    at += 1;
                }
            }
        }
        self.schedule.outside.take().map_or(Ok(()), Err)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        for job in &mut self.running {
            job.process.kill();
        }
    }
}

struct Schedule<'a> {
    compiler: Compiler,
    texts: &'a [Text<'a>],
    deadline: Instant,
    proof: Option<Proof<'a>>,
    /// Whether each compiler that is started owes the proof: until one gave it.
    unproven: bool,
    /// Why the compiler is not confined any more.
    outside: Option<String>,
    /// The name of the profile that ends what belongs to one text; no text can know it.
    mark: String,
    /// Whether what a shared compiler writes can be told apart.
    company: bool,
    /// The largest first.
    waiting: VecDeque<usize>,
    /// Those whose turn comes when no other waits.
    alone: VecDeque<usize>,
    answers: Answers,
}

/// A compiler at work.
struct Job {
    process: Process,
    /// In the compiler's order.
    texts: VecDeque<usize>,
    /// What its first texts became, if it ends well: the compiler goes on after a policy that it
    /// could not write, and tells of that by how it ends.
    ready: Vec<Vec<u8>>,
    /// What is written, and not yet an answer; none: the compiler has one text, to its end.
    output: Option<Output>,
    proof_owed: bool,
    /// It has its whole time, whoever waits.
    patient: bool,
    /// When its last text got ready.
    since: Instant,
    /// Killed for others' sake.
    put_off: bool,
}

impl Job {
    /// The policy of each text that got ready since.
    fn policies(&mut self, mark: &str) -> Vec<Vec<u8>> {
        let Some(output) = &mut self.output else {
            return Vec::new();
        };
        // What cannot be read is missing in the end, and compiled again.
        let _ = output.read(&self.process);
        std::iter::from_fn(|| output.next(mark)).collect()
    }
}

impl Schedule<'_> {
    /// Starts compilers until as many run as may.
    fn fill(&mut self, running: &mut Vec<Job>) {
        while running.len() < self.compiler.resources.jobs {
            if self.texts.is_empty() && !(self.unproven && running.is_empty()) {
                return;
            }
            let patient = self.waiting.is_empty();
            let Some(texts) = self.take() else {
                return;
            };
            if Instant::now() >= self.deadline {
                self.refuse(texts, not_begun);
                continue;
            }
            match self.start(&texts) {
                Ok(process) => running.push(Job {
                    process,
                    output: self.is_shared(&texts).then(Output::default),
                    proof_owed: self.unproven,
                    patient,
                    texts,
                    ready: Vec::new(),
                    since: Instant::now(),
                    put_off: false,
                }),
                Err(error) => self.refuse(texts, |name| not_started(name, &error)),
            }
        }
    }

    fn is_shared(&self, texts: &VecDeque<usize>) -> bool {
        texts.len() > 1 || self.unproven
    }

    /// The next texts for one compiler.
    fn take(&mut self) -> Option<VecDeque<usize>> {
        let mut taken = VecDeque::new();
        let Some(first) = self.waiting.front() else {
            taken.extend(self.alone.pop_front());
            // Without texts, the proof is compiled all the same.
            return (!taken.is_empty() || self.texts.is_empty()).then_some(taken);
        };
        let source = self.texts[*first].source;
        let cost = |index: usize| self.texts[index].contents.len() + BASE_COST;
        // One compiler takes all there is; several take less and less, to end together.
        let all: usize = self.waiting.iter().copied().map(cost).sum();
        let mut share = match self.compiler.resources.jobs {
            1 => all,
            jobs => all / (2 * jobs),
        };
        share = share.min(SHARED_BYTES);
        let mut left = VecDeque::with_capacity(self.waiting.len());
        for index in self.waiting.drain(..) {
            let fits = self.company && taken.len() < MOST && cost(index) <= share;
            if taken.is_empty() || (fits && self.texts[index].source == source) {
                share = share.saturating_sub(cost(index));
                taken.push_back(index);
            } else {
                left.push_back(index);
            }
        }
        self.waiting = left;
        Some(taken)
    }

    fn start(&self, texts: &VecDeque<usize>) -> io::Result<Process> {
        let mark = self
            .is_shared(texts)
            .then(|| format!("profile {} {{}}\n", self.mark));
        let proof = self.proof.filter(|_| self.unproven).map(|proof| proof.text);
        let texts = texts.iter().map(|index| self.texts[*index].contents);
        let texts: Vec<&str> = texts.collect();
        self.compiler.start(proof, &texts, mark.as_deref())
    }

    fn refuse(&mut self, texts: VecDeque<usize>, why: impl Fn(&str) -> Refusal) {
        let refused = |index: usize| (index, Err(why(self.texts[index].name)));
        self.answers.extend(texts.into_iter().map(refused));
    }

    /// Puts texts back to where they were taken from.
    fn again(&mut self, texts: VecDeque<usize>) {
        for index in texts.into_iter().rev() {
            self.waiting.push_front(index);
        }
    }

    /// When `job` must be looked at, though it did not end.
    fn pause(&self, job: &Job) -> Duration {
        let until = job
            .process
            .given_up_at()
            .unwrap_or_else(|| self.end_of(job))
            .saturating_duration_since(Instant::now());
        match job.output {
            Some(_) => until.min(PROGRESS),
            None => until,
        }
    }

    /// When the time of the text that `job` works at is up.
    fn end_of(&self, job: &Job) -> Instant {
        let time = if job.proof_owed {
            PROOF_TIME
        } else if self.is_waited_for(job) {
            PATIENCE.min(self.compiler.settings.timeout)
        } else {
            self.compiler.settings.timeout
        };
        self.deadline.min(job.since + time)
    }

    fn is_waited_for(&self, job: &Job) -> bool {
        job.texts.len() > 1 || !(job.patient || self.waiting.is_empty())
    }

    /// Takes what is ready; how `job` ended, if it did. Kills it when its time is up.
    fn look(&mut self, job: &mut Job) -> Option<Ended> {
        let ended = job.process.ended();
        for policy in job.policies(&self.mark) {
            job.since = Instant::now();
            if std::mem::take(&mut job.proof_owed) {
                self.take_proof(job, &policy);
            } else {
                job.ready.push(policy);
            }
        }
        let is_killed = job.process.given_up_at().is_some();
        if ended.is_some() || is_killed || Instant::now() < self.end_of(job) {
            return ended;
        }
        job.put_off = self.is_waited_for(job) && Instant::now() < self.deadline;
        job.process.kill()
    }

    fn take_proof(&mut self, job: &mut Job, policy: &[u8]) {
        if self
            .proof
            .is_some_and(|proof| proof.blob == Digest::of(policy))
        {
            self.unproven = false;
        } else {
            self.leave(format!(
                "in {PROFILE} it does not compile as it does outside"
            ));
            self.again(std::mem::take(&mut job.texts));
        }
    }

    /// From now on compiles without the compiler's profile.
    fn leave(&mut self, why: String) {
        self.unproven = false;
        self.compiler.profile = None;
        self.outside.get_or_insert(why);
    }

    /// Takes the answers of `job`, which ended, or has its texts compiled again: the one that it was
    /// at alone.
    fn end(&mut self, mut job: Job, ended: Ended) {
        if job.proof_owed {
            let errors = contents(job.process.errors, STDERR_LIMIT).unwrap_or_default();
            let errors = String::from_utf8_lossy(&errors);
            if self.unproven {
                self.leave(explain(PROFILE, &self.compiler.settings, &errors, ended).message);
            }
            self.again(job.texts);
            return;
        }
        let ended_well = ended == Ended::Status(0) && job.output.is_some();
        if ended_well && job.ready.len() == job.texts.len() {
            for (index, policy) in job.texts.into_iter().zip(job.ready) {
                let policy = some_policy(self.texts[index].name, policy);
                self.answers.push((index, policy));
            }
            return;
        }
        let at = job.ready.len().min(job.texts.len().saturating_sub(1));
        let Some(index) = job.texts.remove(at) else {
            return;
        };
        let name = self.texts[index].name;
        if job.put_off {
            self.alone.push_back(index);
        } else if job.output.is_none() {
            self.answers
                .push((index, self.compiler.result(name, job.process, ended)));
        } else if matches!(ended, Ended::Timeout | Ended::NotAllowed | Ended::Stuck) {
            let refusal = explain(name, &self.compiler.settings, "", ended);
            self.answers.push((index, Err(refusal)));
        } else {
            self.alone.push_back(index);
        }
        self.company &= !ended_well;
        self.again(job.texts);
    }
}

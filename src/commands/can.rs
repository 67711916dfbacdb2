//! `can`: whether a profile allows an access, by its compiled policy, without a kernel.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::print;
use crate::compiler::{self, Includes, Text, features};
use crate::error::{Error, Exit};
use crate::policy::{self, Answer, Profile, Question, expectation};
use crate::source::{Limits, local};
use crate::state::store::{Store, Stored};
use crate::{outcome::Refusal, pass::Place, profile::quoted};

/// The compiler's wall-clock time.
const TIME: Duration = Duration::from_mins(10);

/// The largest file of expected answers.
const EXPECT_BYTES: u64 = 1 << 20;

/// The user's settings.
pub(crate) struct Settings {
    /// `FILE` or the name of a profile with a stored policy, each with an optional `#MEMBER`.
    pub(crate) profile: String,
    /// The words of a question; empty with `expect`.
    pub(crate) question: Vec<String>,
    /// A file with expected answers, a line each.
    pub(crate) expect: Option<PathBuf>,
    /// A file with a kernel's features; none: this kernel's.
    pub(crate) features: Vec<PathBuf>,
    pub(crate) place: Place,
    pub(crate) limits: Limits,
    pub(crate) compiler: compiler::Settings,
}

/// Answers the question, or compares all expected answers.
///
/// # Errors
/// The profile, the question or the file cannot be read.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let (name, member) = match settings.profile.split_once('#') {
        Some((name, member)) => (name, Some(member)),
        None => (&*settings.profile, None),
    };
    let (policy, features) = match Path::new(name).is_file() {
        true => compiled(settings, name)?,
        false => stored(settings, name)?,
    };
    let profiles = policy::profiles(&policy);
    let profiles = profiles.map_err(|reason| Error::Source(format!("{name}: {reason}")))?;
    let is_member = |profile: &&Profile| {
        let end = |member: &str| profile.member.name.ends_with(&format!("//{member}"));
        member.is_none_or(|member| profile.member.name == member || end(member))
    };
    let Some(profile) = profiles.iter().find(is_member) else {
        let names = profiles.iter().map(|profile| quoted(&profile.member.name));
        let names = names.collect::<Vec<_>>().join(", ");
        let line = format!("{name} defines {names}: append # and one of them");
        return Err(Error::Usage(line));
    };
    if let Some(file) = &settings.expect {
        return compare(file, profile, &features);
    }
    let words: Vec<&str> = settings.question.iter().map(String::as_str).collect();
    let question = Question::parse(&words).map_err(Error::Usage)?;
    let answer = profile.answer(&question);
    print(&(in_words(&answer, &features) + "\n"))?;
    Ok(Exit::of(!matches!(answer, Answer::Denied(_))))
}

fn in_words(answer: &Answer, features: &str) -> String {
    match answer {
        Answer::Allowed(words) => words.clone(),
        Answer::Denied(words) => (*words).to_owned(),
        Answer::NotMediated => format!("not mediated by {features}"),
    }
}

/// Prints `FILE:LINE: …` for each line of `file` that `profile` answers otherwise than expected.
fn compare(file: &Path, profile: &Profile, features: &str) -> Result<Exit, Error> {
    let shown = file.display();
    let text = crate::fs::read(file, EXPECT_BYTES);
    let text = text.map_err(Error::io(format!("read the expected answers in {shown}")))?;
    let text = String::from_utf8_lossy(&text);
    let (mut asked, mut failed, mut lines) = (0, 0, String::new());
    for (n, line) in (1..).zip(text.lines()) {
        let expected = expectation(line);
        let expected = expected.map_err(|e| Error::Usage(format!("{shown}:{n}: {e}")))?;
        let Some((allow, question)) = expected else {
            continue;
        };
        let answer = profile.answer(&question);
        asked += 1;
        if allow == matches!(answer, Answer::Denied(_)) || (!allow && answer == Answer::NotMediated)
        {
            failed += 1;
            let answer = in_words(&answer, features);
            lines += &format!("{shown}:{n}: error: {}: {answer}\n", line.trim());
        }
    }
    if asked == 0 {
        let line = format!("{shown} expects nothing: write lines such as `deny read /etc/shadow`");
        return Err(Error::Usage(line));
    }
    print(&format!("{lines}{asked} expected, {failed} failed\n"))?;
    Ok(Exit::of(failed == 0))
}

/// The compiled policy of the text in `file`, and the features that it was compiled for.
fn compiled(settings: &Settings, file: &str) -> Result<(Vec<u8>, String), Error> {
    let mut compilers = features::compilers(&settings.compiler, &settings.features)?;
    let Some(compiler) = compilers.pop().filter(|_| compilers.is_empty()) else {
        let line = "can answers for one kernel: give --features once";
        return Err(Error::Usage(line.into()));
    };
    let local = local::read(Path::new(file), &settings.limits)?;
    let mut texts = local.profiles.into_iter();
    let text = texts.next().map(|profile| profile.text);
    let Some(text) = text.filter(|_| texts.next().is_none()) else {
        return Err(Error::Usage(format!("{file}: give a file with one text")));
    };
    let refused = |refusal: Refusal| Error::Source(format!("{file}: {refusal}"));
    let text = text.map_err(refused)?;
    if let Some(refusal) = Includes::new(compiler.base()).of(&text).1 {
        return Err(refused(refusal));
    }
    let mut policy = Err(Refusal::failed("was not compiled"));
    let text = Text::new(file, &text);
    compiler.compile(&[text], Instant::now() + TIME, &mut |done| {
        if let Some((_, result)) = done {
            policy = result.map(|compiled| compiled.policy);
        }
        Ok(())
    })?;
    let features = compiler.features_name.clone();
    Ok((policy.map_err(refused)?, features))
}

/// The policy that a set last loaded under `name`, as [`compiled`].
fn stored(settings: &Settings, name: &str) -> Result<(Vec<u8>, String), Error> {
    let mut store = Store::new(&settings.place.state_dir);
    let sets = store.load()?.sets;
    let record = sets.values().find_map(|set| set.profiles.get(name));
    let Some(record) = record else {
        let (name, place) = (quoted(name), settings.place.state_dir.display());
        let line = format!("{name} is neither a file nor a profile of the state in {place}");
        return Err(Error::Usage(line));
    };
    let policy = store.get(Stored::Policy, record.policy);
    let features = "the features that it was compiled for".to_owned();
    Ok((policy.map_err(Error::State)?, features))
}

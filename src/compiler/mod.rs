//! `apparmor_parser` in its cage: text in, compiled policy out. The only room that starts a process.

mod child;
mod explain;
pub(crate) mod features;
mod includes;
mod mistakes;
mod process;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/compiler.rs"]
pub(crate) mod properties;
mod resources;
#[cfg(test)]
mod tests;
mod unenforced;

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{cell::LazyCell, cmp::Reverse, collections::BTreeSet, fs, io, ops::RangeInclusive};
use std::{os::unix::fs::MetadataExt, process::Command};

use crate::outcome::{Refusal, Unenforced};
use crate::{error::Error, profile::Digest};
pub(crate) use child::child;
use digest_io::IoWrapper;
use explain::{explain, failed};
pub(crate) use includes::Includes;
use process::{Ended, Process};
use resources::Resources;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use unenforced::unenforced;

/// The hidden subcommand that [`child`] carries out.
pub(crate) const CHILD: &str = "compile-child";

/// The text's path for the compiler. Standard input has none, and only with a path do messages
/// distinguish a line of an included file from a line of the text.
const TEXT: &str = "/proc/self/fd/0";

/// The warnings that the compiler gives.
const WARNINGS: [&str; 2] = ["--warn=rule-not-enforced", "--warn=rule-downgraded"];

const CONFIG: &str = "/etc/apparmor/parser.conf";
const FOLDERS: [&str; 5] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin", "/usr/local/sbin"];

/// The pause between looks for ended compilers.
const TICK: Duration = Duration::from_millis(250);

/// A compiler's wall-clock time, as a multiple of its CPU time.
const PATIENCE: u32 = 4;

/// The users of compilers, which systemd's table of users leaves unused.
const USERS: RangeInclusive<u32> = 0x7000_0000..=0x7FFD_FFFF;

/// The user's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The compiler; none: where distributions put it.
    pub(crate) program: Option<PathBuf>,
    /// The folder that includes are relative to.
    pub(crate) base: PathBuf,
    /// The kernel's features, or a file of a kernel's; where neither is, the compiler's defaults hold.
    pub(crate) features: PathBuf,
    /// The folder of processes, to choose a user that none has.
    pub(crate) proc: PathBuf,
    /// The CPU time that one text may take, in whole seconds.
    pub(crate) time: Duration,
    /// How many texts are compiled at once; none: as many as processors and memory allow.
    pub(crate) jobs: Option<usize>,
    /// Compile everything in complain mode.
    pub(crate) complain: bool,
    /// The most bytes of compiled policy one text may become.
    pub(crate) policy_bytes: u64,
}

/// A text to be compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    /// For messages.
    pub(crate) name: &'a str,
    pub(crate) contents: &'a str,
    /// Compiled after all others, since its compiler waited too long before.
    pub(crate) last: bool,
}

impl<'a> Text<'a> {
    pub(crate) const fn new(name: &'a str, contents: &'a str) -> Self {
        Self {
            name,
            contents,
            last: false,
        }
    }
}

/// A compiled text.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) policy: Vec<u8>,
    /// How far the kernel restricted the compiler: `full`, `partial` or `none`.
    pub(crate) cage: String,
    pub(crate) unenforced: Vec<Unenforced>,
}

/// A compiled text, or why there is no policy of it.
type Outcome = Result<Compiled, Refusal>;

/// A text's index, and its result.
pub(crate) type Done = (usize, Outcome);

/// A found compiler, and its arguments.
pub(crate) struct Compiler {
    program: PathBuf,
    settings: Settings,
    resources: Resources,
    /// The program and first arguments that end up in [`child`].
    launcher: Vec<String>,
    /// The features that it compiles for, in words.
    pub(crate) features_name: String,
    /// The file with other features than the kernel's.
    other_features: Option<NamedTempFile>,
}

impl Compiler {
    /// Finds the compiler.
    ///
    /// # Errors
    /// [`Error::Node`] where there is none.
    pub(crate) fn find(settings: Settings) -> Result<Self, Error> {
        let usual = FOLDERS.map(|folder| Path::new(folder).join("apparmor_parser"));
        let given = settings.program.as_ref().map(std::slice::from_ref);
        let mut candidates = given.unwrap_or(&usual).iter();
        let Some(program) = candidates.find(|path| path.is_file()) else {
            let folders = FOLDERS.join(", ");
            return Err(Error::Node(match &settings.program {
                Some(path) => format!(
                    "there is no compiler at {}: correct --parser",
                    path.display()
                ),
                None => format!(
                    "there is no apparmor_parser in {folders}: install the package apparmor, or give the program with --parser"
                ),
            }));
        };
        if !settings.base.is_dir() {
            let base = settings.base.display();
            return Err(Error::Node(format!(
                "there is no folder {base} for includes: install the package apparmor, or correct --base"
            )));
        }
        let resources = Resources::here(settings.jobs);
        Ok(Self {
            program: program.clone(),
            settings,
            resources,
            launcher: vec!["/proc/self/exe".to_owned(), CHILD.to_owned()],
            features_name: "this kernel's features".to_owned(),
            other_features: None,
        })
    }

    fn features_path(&self) -> &Path {
        let other = self.other_features.as_ref().map(NamedTempFile::path);
        other.unwrap_or(&self.settings.features)
    }

    /// The folder that includes are relative to.
    pub(crate) fn base(&self) -> &Path {
        &self.settings.base
    }

    /// The digest of all that decides the policy besides text and includes: the compiler, its
    /// configuration, its limits, and its options.
    ///
    /// # Errors
    /// The compiler cannot be read.
    pub(crate) fn digest(&self) -> Result<Digest, Error> {
        let purpose = format!("read {}", self.program.display());
        // In parts: it is as large as all that an idle pass reads besides.
        let mut program = IoWrapper(Sha256::default());
        let file = fs::File::open(&self.program);
        let read = file.and_then(|mut file| io::copy(&mut file, &mut program));
        read.map_err(Error::io(purpose))?;
        let (settings, memory) = (&self.settings, self.resources.address_space);
        let most = (settings.time, settings.policy_bytes, memory);
        let options = format!("{} {} {most:?}", settings.base.display(), settings.complain);
        let mut parts = vec![program.0.finalize().to_vec(), options.into_bytes()];
        let configuration = configuration().into_iter().map(fs::read);
        parts.extend(configuration.map(Result::unwrap_or_default));
        Ok(Digest::of_parts(parts))
    }

    /// The digest of the kernel's features: their names and contents.
    ///
    /// # Errors
    /// Something there cannot be read.
    pub(crate) fn features(&self) -> Result<Digest, Error> {
        let path = self.features_path();
        let purpose = format!("read the kernel's features from {}", path.display());
        let text = features::text(path).map_err(Error::io(purpose))?;
        Ok(Digest::of(text.as_bytes()))
    }

    /// Compiles `texts`, the largest first and as many at once as may, and gives `done` each by its
    /// index as it is ready; none where for [`TICK`] none was. A text that is not begun at `deadline`
    /// has failed.
    ///
    /// # Errors
    /// That of `done`, which ends the work.
    pub(crate) fn compile(
        &self,
        texts: &[Text],
        deadline: Instant,
        done: &mut dyn FnMut(Option<Done>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut waiting: Vec<usize> = (0..texts.len()).collect();
        waiting.sort_by_key(|index| (texts[*index].last, Reverse(texts[*index].contents.len())));
        let mut waiting = waiting.into_iter();
        let user = free_users(&self.settings.proc, USERS);
        let features = LazyCell::new(|| features::text(self.features_path()).unwrap_or_default());
        let mut running: Vec<(usize, Process)> = Vec::new();
        let mut ready = Vec::new();
        loop {
            while running.len() < self.resources.jobs
                && let Some(index) = waiting.next()
            {
                match self.start(&texts[index], user(), deadline) {
                    Ok(process) => running.push((index, process)),
                    Err(reason) => ready.push((index, Err(reason))),
                }
            }
            // A finished text is taken while other compilers work.
            if ready.is_empty() {
                done(None)?;
            }
            for result in ready.drain(..) {
                done(Some(result))?;
            }
            if running.is_empty() {
                return Ok(());
            }
            process::wait_for_one(&running, TICK);
            running.retain_mut(|(index, process)| {
                let Some(ended) = process.ended() else {
                    return true;
                };
                let result = self.result(&texts[*index], process, ended, &features);
                ready.push((*index, result));
                false
            });
        }
    }

    fn start(&self, text: &Text, user: u32, deadline: Instant) -> Result<Process, Refusal> {
        let now = Instant::now();
        if now >= deadline {
            let message = "not compiled before the pass' deadline; the next pass tries again, or raise --deadline";
            return Err(Refusal {
                reason: "deadline",
                ..Refusal::failed(message)
            });
        }
        let until = deadline.min(now + self.settings.time * PATIENCE);
        let started = Process::start(&mut self.command(user), text.contents, until);
        started.map_err(|error| failed(&format!("cannot start the compiler: {error}")))
    }

    fn command(&self, user: u32) -> Command {
        let settings = &self.settings;
        let mut command = Command::new(&self.launcher[0]);
        command
            .args(&self.launcher[1..])
            .arg(std::process::id().to_string())
            .arg(self.resources.address_space.to_string())
            .arg(settings.time.as_secs().max(1).to_string())
            .arg(settings.policy_bytes.to_string())
            .arg(user.to_string())
            .arg(&self.program)
            .arg(&settings.base)
            .arg(self.features_path())
            .args(configuration())
            .args(["--", "-Q", "-K", "-S", "-j0"])
            .args(WARNINGS)
            .arg("-b")
            .arg(&settings.base);
        // Not --subdomainfs: with it the compiler still reads the features of the usual mount, or,
        // where there is none, silently those of an ancient kernel.
        if self.features_path().exists() {
            command.arg("--kernel-features").arg(self.features_path());
        }
        if settings.complain {
            command.arg("-C");
        }
        command.arg(TEXT);
        command
    }

    fn result(&self, text: &Text, process: &mut Process, ended: Ended, features: &str) -> Outcome {
        let output = process.output(self.settings.policy_bytes);
        let unread = |error| failed(&format!("cannot read the compiler's output: {error}"));
        let (policy, messages) = output.map_err(unread)?;
        let status = ended.map_err(failed)?;
        if !status.success() {
            let written = policy.len() as u64;
            return Err(explain(text, self, &messages, status, written));
        }
        if policy.is_empty() {
            return Err(Refusal::new("compile", "defines no profile"));
        }
        let mut lines = messages.lines();
        let cage = lines.find_map(|line| line.strip_prefix(child::CAGE));
        let cage = cage.unwrap_or("none").to_owned();
        Ok(Compiled {
            policy,
            cage,
            unenforced: unenforced(text.contents, &messages.replace(TEXT, text.name), features),
        })
    }
}

/// The compiler's configuration, and the files that it names.
fn configuration() -> Vec<PathBuf> {
    let config = fs::read(CONFIG).unwrap_or_default();
    let config = String::from_utf8_lossy(&config);
    let values = config.lines().filter_map(|line| line.split_once('='));
    let files = values.map(|(_, value)| value.trim());
    let files = files.filter(|file| file.starts_with('/'));
    files.chain([CONFIG]).map(PathBuf::from).collect()
}

/// Draws one of `users` by chance that no process in `proc` has now.
fn free_users(proc: &Path, users: RangeInclusive<u32>) -> impl Fn() -> u32 {
    let processes = fs::read_dir(proc).into_iter().flatten();
    let owners = processes.filter_map(|process| process.ok()?.metadata().ok());
    let taken: BTreeSet<u32> = owners.map(|metadata| metadata.uid()).collect();
    let count = u64::from(users.end() - users.start() + 1);
    move || loop {
        let chance = RandomState::new().hash_one(()) % count;
        let user = users.start() + u32::try_from(chance).unwrap_or(0);
        if !taken.contains(&user) {
            return user;
        }
    }
}

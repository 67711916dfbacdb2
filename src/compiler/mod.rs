//! `apparmor_parser` in its cage: text in, compiled policy out. The only room that starts a process.

mod child;
mod explain;
mod includes;
mod process;
mod resources;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::fs::tree_parts;
use crate::outcome::Refusal;
use crate::profile::Digest;
pub(crate) use child::child;
pub(crate) use includes::Includes;
use process::{Ended, Process};
use resources::Resources;

/// The hidden subcommand that [`child`] carries out.
pub(crate) const CHILD: &str = "compile-child";

/// Where the compiler finds the text. By this path, and not by its standard input, since it tells
/// the line of an included file from a line of the text only where the text has a path.
const TEXT: &str = "/proc/self/fd/0";

const CONFIG: &str = "/etc/apparmor/parser.conf";
const FOLDERS: [&str; 5] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin", "/usr/local/sbin"];

/// A compiler may wait this many times as long as it may compute.
const PATIENCE: u32 = 4;

/// The user of a compiler is drawn from these: systemd's table of users leaves them unused.
const USERS: std::ops::RangeInclusive<u32> = 0x7000_0000..=0x7FFD_FFFF;

/// What a user may set.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The compiler; none: where distributions put it.
    pub(crate) program: Option<PathBuf>,
    /// The folder that includes are relative to.
    pub(crate) base: PathBuf,
    /// The kernel's features, or a file that holds a kernel's; none there: the compiler's own idea.
    pub(crate) features: PathBuf,
    /// Where processes are listed, for a user that none has.
    pub(crate) proc: PathBuf,
    /// The processor time that one text may take, in whole seconds.
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
    /// Compiled after all others: its compiler had to wait too long before.
    pub(crate) last: bool,
}

/// What one text became.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) policy: Vec<u8>,
    /// How far the kernel restricted the compiler: `full`, `partial` or `none`.
    pub(crate) cage: String,
}

/// A compiler that was found, and how it is called.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    program: PathBuf,
    settings: Settings,
    resources: Resources,
    /// The program and first arguments that end up in [`child`].
    launcher: Vec<String>,
}

impl Compiler {
    /// Finds the compiler.
    ///
    /// # Errors
    /// [`Error::Node`] where there is none.
    pub(crate) fn find(settings: Settings) -> Result<Self, Error> {
        let program = match &settings.program {
            Some(path) if path.is_file() => path.clone(),
            Some(path) => {
                return Err(Error::Node(format!(
                    "there is no compiler at {}: correct --parser",
                    path.display()
                )));
            }
            None => FOLDERS
                .iter()
                .map(|folder| Path::new(folder).join("apparmor_parser"))
                .find(|path| path.is_file())
                .ok_or_else(|| {
                    Error::Node(format!(
                        "there is no apparmor_parser in {}: install the package apparmor, or name the program with --parser",
                        FOLDERS.join(", ")
                    ))
                })?,
        };
        let resources = Resources::here(settings.jobs);
        Ok(Self {
            program,
            settings,
            resources,
            launcher: vec!["/proc/self/exe".to_owned(), CHILD.to_owned()],
        })
    }

    /// The folder that includes are relative to.
    pub(crate) fn base(&self) -> &Path {
        &self.settings.base
    }

    /// The digest of what decides, besides text and includes, what a text becomes: the compiler, its
    /// configuration, what it may use, and its options.
    ///
    /// # Errors
    /// The compiler cannot be read.
    pub(crate) fn digest(&self) -> Result<Digest, Error> {
        let program = fs::read(&self.program)
            .map_err(Error::io(format!("read {}", self.program.display())))?;
        let settings = &self.settings;
        let options = format!(
            "{} {} {} {:?}",
            settings.complain,
            settings.policy_bytes,
            settings.time.as_secs(),
            self.resources
        );
        let mut parts = vec![program, options.into_bytes()];
        parts.push(settings.base.as_os_str().as_encoded_bytes().to_vec());
        parts.extend(
            configuration()
                .into_iter()
                .map(|file| fs::read(file).unwrap_or_default()),
        );
        Ok(Digest::of_parts(parts))
    }

    /// The digest of what the kernel can mediate: names and contents of all its features.
    ///
    /// # Errors
    /// Something there cannot be read.
    pub(crate) fn features(&self) -> Result<Digest, Error> {
        let folder = &self.settings.features;
        let parts = tree_parts(folder).map_err(Error::io(format!(
            "read the kernel's features from {}",
            folder.display()
        )))?;
        Ok(Digest::of_parts(parts))
    }

    /// Compiles `texts`, the largest first and as many at once as may, and gives `done` each by its
    /// index as it is ready. A text that is not begun at `deadline` has failed.
    ///
    /// # Errors
    /// That of `done`, which ends the work.
    pub(crate) fn compile(
        &self,
        texts: &[Text],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<Compiled, Refusal>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|index| (texts[*index].last, Reverse(texts[*index].contents.len())));
        let mut waiting = VecDeque::from(order);
        let taken = self.users();
        let mut indexes = Vec::new();
        let mut running: Vec<Process> = Vec::new();
        let mut ready = Vec::new();
        loop {
            while running.len() < self.resources.jobs
                && let Some(index) = waiting.pop_front()
            {
                match self.start(&texts[index], deadline, &taken) {
                    Ok(process) => {
                        indexes.push(index);
                        running.push(process);
                    }
                    Err(reason) => ready.push((index, Err(reason))),
                }
            }
            // What is ready is taken while other compilers work.
            for (index, result) in ready.drain(..) {
                done(index, result)?;
            }
            if running.is_empty() && waiting.is_empty() {
                return Ok(());
            }
            process::wait_for_one(&running);
            let mut at = 0;
            while at < running.len() {
                if let Some(ended) = running[at].ended() {
                    let (index, process) = (indexes.swap_remove(at), running.swap_remove(at));
                    ready.push((index, self.result(texts[index].name, process, ended)));
                } else {
                    at += 1;
                }
            }
        }
    }

    fn start(
        &self,
        text: &Text,
        deadline: Instant,
        taken: &BTreeSet<u32>,
    ) -> Result<Process, Refusal> {
        let now = Instant::now();
        if now >= deadline {
            return Err(Refusal::failed(
                "not compiled: the time for this pass was over before its turn; the next pass tries again, or raise --deadline",
            ));
        }
        let until = deadline.min(now + self.settings.time * PATIENCE);
        let started = Process::start(&mut self.command(taken), text.contents, until);
        started.map_err(|error| {
            Refusal::failed(format!(
                "not compiled: the compiler cannot be started: {error}; the next pass tries again"
            ))
        })
    }

    fn command(&self, taken: &BTreeSet<u32>) -> Command {
        let settings = &self.settings;
        let user = std::iter::repeat_with(drawn_user).find(|user| !taken.contains(user));
        let mut command = Command::new(&self.launcher[0]);
        command
            .args(&self.launcher[1..])
            .arg(std::process::id().to_string())
            .arg(self.resources.address_space.to_string())
            .arg(settings.time.as_secs().max(1).to_string())
            .arg(settings.policy_bytes.to_string())
            .arg(user.unwrap_or(*USERS.end()).to_string())
            .arg(&settings.base)
            .arg(&settings.features)
            .args(configuration())
            .arg("--")
            .arg(&self.program)
            .args(["-Q", "-K", "-S", "-j0", "-b"])
            .arg(&settings.base);
        // Not --subdomainfs: with it the compiler still reads the features of the usual mount, or,
        // where there is none, silently those of an ancient kernel.
        if settings.features.exists() {
            command.arg("--kernel-features").arg(&settings.features);
        }
        if settings.complain {
            command.arg("-C");
        }
        command.arg(TEXT);
        command
    }

    /// The users that processes have now.
    fn users(&self) -> BTreeSet<u32> {
        let Ok(processes) = fs::read_dir(&self.settings.proc) else {
            return BTreeSet::new();
        };
        let owners = processes.filter_map(|process| process.ok()?.metadata().ok());
        owners.map(|metadata| metadata.uid()).collect()
    }

    fn result(&self, name: &str, mut process: Process, ended: Ended) -> Result<Compiled, Refusal> {
        let output = process.output(self.settings.policy_bytes);
        let (policy, messages) = output.map_err(|error| {
            Refusal::failed(format!(
                "not compiled: cannot read what the compiler wrote: {error}"
            ))
        })?;
        if ended != Ended::Status(0) {
            let written = policy.len() as u64;
            return Err(explain::explain(name, self, &messages, ended, written));
        }
        if policy.is_empty() {
            return Err(Refusal::new("compile", "defines no profile"));
        }
        let cage = messages
            .lines()
            .find_map(|line| line.strip_prefix(child::CAGE));
        let cage = cage.unwrap_or("none").to_owned();
        Ok(Compiled { policy, cage })
    }
}

/// The compiler's configuration, and the files that it names.
fn configuration() -> Vec<PathBuf> {
    let config = fs::read(CONFIG).unwrap_or_default();
    let config = String::from_utf8_lossy(&config);
    let values = config.lines().filter_map(|line| line.split_once('='));
    let files = values.map(|(_, value)| PathBuf::from(value.trim()));
    let files = files.filter(|file| file.is_absolute());
    std::iter::once(PathBuf::from(CONFIG))
        .chain(files)
        .collect()
}

fn drawn_user() -> u32 {
    use std::hash::BuildHasher as _;
    let chance =
        std::hash::RandomState::new().hash_one(()) % u64::from(USERS.end() - USERS.start() + 1);
    USERS.start() + u32::try_from(chance).unwrap_or(0)
}

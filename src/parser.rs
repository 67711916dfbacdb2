//! `apparmor_parser`: text in, compiled policy out. The only module that starts a process.

mod cage;
mod child;
mod explain;
mod output;
mod process;
mod resources;
mod schedule;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use crate::error::Error;
use crate::profile::{Digest, Refusal, RefusalKind};

pub(crate) use cage::PROFILE;
pub(crate) use child::child;
use explain::{Ended, could_not_write, explain};
use process::Process;
use resources::Resources;
pub(crate) use schedule::{Answers, Proof, Work};

/// The hidden subcommand that [`child`] carries out.
pub(crate) const CHILD: &str = "compile-child";

/// Where the compiler finds the text. By this path, and not by its standard input, since it tells
/// the line of an included file from a line of the text only where the text has a path.
const TEXT: &str = "/proc/self/fd/0";

const CONFIG: &str = "/etc/apparmor/parser.conf";
const FOLDERS: [&str; 5] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin", "/usr/local/sbin"];

/// Of what the compiler says, this many bytes are read.
const STDERR_LIMIT: u64 = 64 * 1024;

/// What the user may set.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The compiler; none: where distributions put it.
    pub(crate) program: Option<PathBuf>,
    /// The folder that includes are relative to.
    pub(crate) base: PathBuf,
    /// Where securityfs is mounted; the kernel's features are read there.
    pub(crate) securityfs: PathBuf,
    /// The wall-clock time one text may take.
    pub(crate) timeout: Duration,
    /// How many texts are compiled at once; none: as many as processors and memory allow.
    pub(crate) jobs: Option<usize>,
    /// Compile everything in complain mode.
    pub(crate) complain: bool,
    /// The most bytes of compiled policy one text may become.
    pub(crate) max_blob: u64,
}

/// A compiler that was found, and how it is called.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    program: PathBuf,
    settings: Settings,
    resources: Resources,
    /// The program and first arguments that end up in [`child`].
    launcher: Vec<String>,
    /// The AppArmor profile that the compiler must enter.
    profile: Option<&'static str>,
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
        let resources = Resources::here(settings.jobs, settings.max_blob);
        Ok(Self {
            program,
            settings,
            resources,
            launcher: vec!["/proc/self/exe".to_owned(), CHILD.to_owned()],
            profile: None,
        })
    }

    /// As this one, without the user's options on what is compiled.
    pub(crate) fn plain(&self) -> Self {
        let mut plain = self.clone();
        plain.settings.complain = false;
        plain
    }

    /// The text of the profile that [`Self::confined`] is about.
    ///
    /// # Errors
    /// Why there can be none on this node.
    pub(crate) fn own_profile(&self) -> Result<String, String> {
        let resolved = |path: &Path| {
            path.canonicalize()
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        let features = self.features();
        // Without securityfs the compiler looks for none.
        let features = features.canonicalize().unwrap_or(features);
        cage::text(
            &resolved(&self.program)?,
            &resolved(&self.settings.base)?,
            &features,
        )
    }

    /// As this one, and only where the compiler can enter [`PROFILE`].
    pub(crate) fn confined(&self) -> Self {
        Self {
            profile: Some(PROFILE),
            ..self.clone()
        }
    }

    fn features(&self) -> PathBuf {
        self.settings.securityfs.join("apparmor/features")
    }

    /// How the files look that `environment` reads: another look is cheap, and tells when
    /// `environment` must be asked anew.
    pub(crate) fn mark(&self) -> String {
        let mut mark = String::new();
        for path in [self.program.as_path(), Path::new(CONFIG)] {
            let look = fs::metadata(path).map_or_else(
                |_| "none".to_owned(),
                |m| format!("{} {} {}.{}", m.ino(), m.size(), m.mtime(), m.mtime_nsec()),
            );
            let _ = write!(mark, "{} {look}; ", path.display());
        }
        mark
    }

    /// The digest of the program itself.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn digest(&self) -> Result<Digest, Error> {
        let program = fs::read(&self.program)
            .map_err(Error::io(format!("read {}", self.program.display())))?;
        Ok(Digest::of(&program))
    }

    /// The digest of what decides, besides text, includes and kernel, what a text becomes;
    /// `program` is that of the program.
    pub(crate) fn environment(&self, program: Digest) -> Digest {
        let config = fs::read(CONFIG).unwrap_or_default();
        let mut parts = vec![
            program.to_string().into_bytes(),
            vec![u8::from(self.settings.complain)],
        ];
        for path in explain::feature_files(&String::from_utf8_lossy(&config)) {
            parts.push(fs::read(&path).unwrap_or_default());
        }
        parts.push(config);
        Digest::of_parts(parts)
    }

    /// Starts a compiler on `proof` and `texts`. With a `mark`, the policy of each is followed by that
    /// of the text `mark`, so that what comes out can be told apart.
    fn start(
        &self,
        proof: Option<&str>,
        texts: &[&str],
        mark: Option<&str>,
    ) -> io::Result<Process> {
        let output = memory("armorer-policy")?;
        let errors = memory("armorer-messages")?;
        let all = proof.iter().chain(texts).chain(mark.iter());
        let parts: Vec<&str> = all.copied().collect();
        let input = sealed(parts.iter().map(|part| part.as_bytes()))?;
        let each = self.settings.timeout.as_secs().saturating_add(2);
        let seconds = each.saturating_mul(texts.len().max(1) as u64);
        let sizes = match mark {
            Some(_) => child::sizes(&parts),
            None => String::new(),
        };
        let mut command = Command::new(&self.launcher[0]);
        command
            .args(&self.launcher[1..])
            .args([
                std::process::id().to_string(),
                self.resources.address_space.to_string(),
                seconds.to_string(),
                self.settings.max_blob.to_string(),
                sizes,
                self.profile.unwrap_or_default().to_owned(),
            ])
            .arg(&self.settings.base)
            .arg(&self.program)
            .args(["-Q", "-K", "-S", "-j0", "-b"])
            .arg(&self.settings.base);
        // Not --subdomainfs: with it the compiler still reads the features of the usual mount, or,
        // where there is none, silently those of an ancient kernel.
        let features = self.features();
        if features.is_dir() {
            command.arg("--kernel-features").arg(features);
        }
        if self.settings.complain {
            command.arg("-C");
        }
        if mark.is_none() {
            command.arg(TEXT);
        }
        command
            .env_clear()
            .process_group(0)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(errors.try_clone()?));
        let child = command.spawn()?;
        Ok(Process::new(child, output, errors))
    }

    /// What came of a compiler that was given the one text `name`.
    fn result(&self, name: &str, process: Process, ended: Ended) -> Result<Vec<u8>, Refusal> {
        let unread = |error: io::Error| {
            Refusal::new(
                RefusalKind::NotCompiled,
                format!("{name}: cannot read what the compiler wrote: {error}"),
            )
        };
        let errors = contents(process.errors, STDERR_LIMIT).map_err(unread)?;
        if ended != Ended::Status(0) {
            let errors = String::from_utf8_lossy(&errors);
            let short = process.output.metadata().map_err(unread)?.len() < self.settings.max_blob;
            let ended = match ended {
                Ended::Status(_) if short && could_not_write(&errors) => Ended::Hindered,
                ended => ended,
            };
            return Err(explain(name, &self.settings, &errors, ended));
        }
        let blob = contents(process.output, self.settings.max_blob).map_err(unread)?;
        some_policy(name, blob)
    }
}

/// Why there is no policy of `custom.x`, when a compiler said `stderr` and ended with `status`.
#[cfg(any(test, fuzzing))]
pub(crate) fn explained(stderr: &str, status: i32) -> Refusal {
    let settings = Settings {
        program: None,
        base: "/etc/apparmor.d".into(),
        securityfs: "/sys/kernel/security".into(),
        timeout: Duration::from_secs(30),
        jobs: None,
        complain: false,
        max_blob: 1000,
    };
    explain("custom.x", &settings, stderr, Ended::Status(status))
}

fn some_policy(name: &str, blob: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    if blob.is_empty() {
        return Err(Refusal::new(
            RefusalKind::Compile,
            format!("{name} defines no profile"),
        ));
    }
    Ok(blob)
}

fn not_begun(name: &str) -> Refusal {
    Refusal::new(
        RefusalKind::NotCompiled,
        format!("{name} was not compiled: the time for this pass was up before its turn"),
    )
}

fn not_started(name: &str, error: &io::Error) -> Refusal {
    Refusal::new(
        RefusalKind::NotCompiled,
        format!("{name} was not compiled: cannot start the compiler: {error}"),
    )
}

/// A file in memory that no program that is executed inherits.
fn memory(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Asked for by vm.memfd_noexec, not known before kernel 6.3.
    let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    Ok(File::from(fd))
}

fn sealed<'t>(parts: impl Iterator<Item = &'t [u8]>) -> io::Result<File> {
    let mut file = memory("armorer-text")?;
    for part in parts {
        file.write_all(part)?;
    }
    file.rewind()?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file)
}

fn contents(mut file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

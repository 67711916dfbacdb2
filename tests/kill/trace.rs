//! A program under the tracer (tracer.c): its system calls, one by one.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// One system call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// 0: the program itself; 1: its first child, and so on.
    pub(crate) process: usize,
    /// From 1 on, in each process.
    pub(crate) number: usize,
    pub(crate) name: String,
    /// Something was done to it instead of making it.
    pub(crate) hit: bool,
    /// It opens a file to write.
    pub(crate) opens_to_write: bool,
    /// Of the file it is about, if it is about one.
    pub(crate) path: String,
}

/// The replacement of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The process is killed.
    Kill,
    /// The call fails with this error's number.
    Fail(i32),
}

/// Which calls are counted to find one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Calls,
    /// The calls that write.
    Writes,
    /// The same, and the next call is the one.
    AfterWrites,
}

/// A call, and its replacement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) process: usize,
    pub(crate) by: By,
    pub(crate) number: usize,
    pub(crate) deed: Deed,
}

/// A program that has ended.
pub(crate) struct Trace {
    /// Its exit code; 128 and the number of the signal that ended it.
    pub(crate) ended: i32,
    pub(crate) calls: Vec<Call>,
    /// All that it printed.
    pub(crate) log: String,
}

/// Does the kernel's part when `.load`, `.replace` or `.remove` in a folder was written.
pub(crate) struct Kernel<'a> {
    pub(crate) folder: PathBuf,
    pub(crate) obey: &'a dyn Fn(&str),
    /// Otherwise no fsync is made, though the program believes it.
    pub(crate) synced: bool,
}

/// Runs `program` to its end, with an empty environment but for PATH.
pub(crate) fn run(program: &[String], kernel: Option<&Kernel>, at: Option<At>) -> Trace {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let list = std::env::temp_dir().join(format!(
        "armorer-kill-{}-{}.log",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    let mut command = Command::new(named("KILL_TRACER"));
    command.arg(&list);
    command.arg(kernel.map_or(Path::new("-"), |kernel| &kernel.folder));
    if let Some(at) = at {
        let number = match at.by {
            By::Calls => at.number.to_string(),
            By::Writes => format!("w{}", at.number),
            By::AfterWrites => format!("w{}+", at.number),
        };
        command.args([at.process.to_string(), number]);
        command.arg(match at.deed {
            Deed::Kill => "kill".to_owned(),
            Deed::Fail(errno) => format!("return=-{errno}"),
        });
    }
    command.arg("--").args(program).env_clear();
    if kernel.is_some_and(|kernel| !kernel.synced) {
        command.env("TRACER_NO_FSYNC", "1");
    }
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let piped = Stdio::piped;
    command.stdin(piped()).stdout(piped()).stderr(piped());
    let mut tracer = command.spawn().expect("KILL_TRACER names the tracer");
    let mut answer = tracer.stdin.take().unwrap();
    for line in BufReader::new(tracer.stdout.take().unwrap()).lines() {
        let kernel = kernel.expect("only a folder asks for a kernel");
        (kernel.obey)(&line.unwrap());
        answer.write_all(b".").unwrap();
    }
    let mut log = String::new();
    let mut stderr = tracer.stderr.take().unwrap();
    stderr.read_to_string(&mut log).unwrap();
    let ended = tracer.wait().unwrap().code();
    let ended =
        ended.unwrap_or_else(|| panic!("the program did not end within ten minutes: {log}"));
    assert_ne!(ended, 125, "the tracer failed: {log}");
    let lines = fs::read_to_string(&list).unwrap();
    fs::remove_file(&list).unwrap();
    let calls = lines.lines().map(call).collect();
    Trace { ended, calls, log }
}

fn call(line: &str) -> Call {
    let fields: Vec<&str> = line.splitn(6, ' ').collect();
    Call {
        process: fields[0].parse().unwrap(),
        number: fields[1].parse().unwrap(),
        name: fields[2].to_owned(),
        hit: fields[4] == "!",
        opens_to_write: fields[4] == "w",
        path: fields[5].to_owned(),
    }
}

/// A file that the environment names.
pub(crate) fn named(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is set by tests/kill/run"))
}

impl Call {
    /// Whether a full, broken or read-only disk could make it fail.
    pub(crate) fn writes(&self) -> bool {
        const WRITES: [&str; 19] = [
            "write",
            "writev",
            "pwrite64",
            "mkdir",
            "mkdirat",
            "rename",
            "renameat",
            "renameat2",
            "unlink",
            "unlinkat",
            "rmdir",
            "fsync",
            "fdatasync",
            "ftruncate",
            "chmod",
            "fchmod",
            "fchmodat",
            "flock",
            "memfd_create",
        ];
        self.opens_to_write || WRITES.contains(&self.name.as_str())
    }
}

//! How many compilers run at once, and how much memory each may have.

use std::fs;
use std::path::Path;

const MIB: u64 = 1024 * 1024;

/// Left to armorer itself.
const RESERVE: u64 = 32 * MIB;

/// What a further compiler must have to be worth starting. A text of the largest size accepted by
/// default (128 KiB: some 3,000 paths) takes 130 MiB of address space.
const ENOUGH: u64 = 160 * MIB;

/// What a compiler gets even where that is too much, since it does not start with less.
const LEAST: u64 = 48 * MIB;

/// What a compiler gets at most.
const MOST: u64 = 1024 * MIB;

/// The share of each compiler. The same from pass to pass: what a text is refused for lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Compilers at once.
    pub(crate) jobs: usize,
    /// Bytes of address space for each.
    pub(crate) address_space: u64,
}

impl Resources {
    /// The shares of the processors (cores and the cgroup's quota) and of the memory of this
    /// process' control group.
    pub(super) fn here(asked: Option<usize>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::of(asked.unwrap_or(processors), memory(Path::new("/")))
    }

    /// `jobs` compilers or fewer, which together stay under `memory` bytes.
    fn of(jobs: usize, memory: Option<u64>) -> Self {
        let budget = memory.map_or(u64::MAX, |memory| memory.saturating_sub(RESERVE));
        let most = usize::try_from(budget / ENOUGH).unwrap_or(usize::MAX);
        let jobs = jobs.min(most).max(1);
        Self {
            jobs,
            address_space: (budget / jobs as u64).clamp(LEAST, MOST),
        }
    }
}

/// The least of half of the machine's memory and of the limits of the control groups of this
/// process, whichever version they are.
fn memory(root: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let half = total(&meminfo).map(|total| total / 2);
    let mut limits: Vec<u64> = half.into_iter().collect();
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for line in groups.lines() {
        let fields: Vec<&str> = line.splitn(3, ':').collect();
        let (tree, file, path) = match fields[..] {
            [_, "", path] => ("sys/fs/cgroup", "memory.max", path),
            [_, "memory", path] => ("sys/fs/cgroup/memory", "memory.limit_in_bytes", path),
            _ => continue,
        };
        // In a container, the path is often that of the host, and the mount only its end.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let limit = fs::read_to_string(root.join(tree).join(group).join(file));
            limits.extend(limit.ok().and_then(|text| text.trim().parse::<u64>().ok()));
        }
    }
    limits.into_iter().min()
}

/// The machine's memory in bytes, of `proc_meminfo(5)`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

//! How many compilers at once, and how much memory for each.

use std::fs;
use std::path::Path;

const MIB: u64 = 1024 * 1024;

/// Left to armorer itself.
const RESERVE: u64 = 32 * MIB;

/// What a further job must have, to be worth it: a profile with the usual abstractions takes 16 MiB
/// of address space, large ones several times that.
const ENOUGH: u64 = 96 * MIB;

/// What the compiler gets even where it is too much, since it does not start with less.
const LEAST: u64 = 48 * MIB;

/// What it gets at most: a text that needs more would be seconds from needing everything.
const MOST: u64 = 1024 * MIB;

/// The share of each compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resources {
    /// Compilers at once.
    pub(super) jobs: usize,
    /// Bytes of address space for each.
    pub(super) address_space: u64,
}

impl Resources {
    /// The shares of the processors and the memory of this process' control group.
    pub(super) fn here(asked: Option<usize>, max_blob: u64) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let root = Path::new("/");
        Self::of(asked.unwrap_or(processors), memory(root), max_blob)
    }

    /// `jobs` compilers or fewer, which together stay under `memory` bytes. What they write counts
    /// too: policy and messages are files in memory of `max_blob` bytes at most.
    fn of(jobs: usize, memory: Option<u64>, max_blob: u64) -> Self {
        let jobs = u64::try_from(jobs).unwrap_or(1).max(1);
        let Some(memory) = memory else {
            return Self {
                jobs: usize::try_from(jobs).unwrap_or(1),
                address_space: MOST,
            };
        };
        let budget = memory.saturating_sub(RESERVE);
        let written = max_blob.saturating_mul(2);
        let jobs = jobs.min(budget / ENOUGH.saturating_add(written)).max(1);
        Self {
            jobs: usize::try_from(jobs).unwrap_or(1),
            address_space: (budget / jobs).saturating_sub(written).clamp(LEAST, MOST),
        }
    }
}

/// The least of what is available on the machine and of the limits of the control groups of this
/// process, whichever version they are.
fn memory(root: &Path) -> Option<u64> {
    let mut least = fs::read_to_string(root.join("proc/meminfo"))
        .ok()
        .as_deref()
        .and_then(available);
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (tree, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            "memory" => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // In a container, the path is often that of the host, and the mount only its end.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let limit = fs::read_to_string(root.join(tree).join(group).join(file));
            if let Some(limit) = limit.ok().and_then(|text| text.trim().parse().ok()) {
                least = Some(least.map_or(limit, |least: u64| least.min(limit)));
            }
        }
    }
    least
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn together_they_stay_under_the_memory() {
        for memory in [200, 256, 512, 1024, 4096, 65536].map(|mib| mib * MIB) {
            for jobs in [1, 2, 4, 64] {
                let share = Resources::of(jobs, Some(memory), 16 * MIB);
                let most = share.jobs as u64 * (share.address_space + 32 * MIB) + RESERVE;
                assert!(most <= memory, "{memory}: {share:?}");
                assert!((1..=jobs).contains(&share.jobs));
            }
        }
    }

    #[test]
    fn one_is_compiled_even_where_memory_is_short() {
        let share = Resources::of(8, Some(64 * MIB), 16 * MIB);
        assert_eq!((share.jobs, share.address_space), (1, LEAST));
        assert_eq!(Resources::of(8, None, 16 * MIB).jobs, 8);
    }
}

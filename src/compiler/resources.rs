//! How many compilers run at once, and how much memory each may have.

use std::{fs, path::Path};

const MIB: u64 = 1024 * 1024;

/// Left to armorer itself.
const RESERVE: u64 = 32 * MIB;

/// The least memory that makes a further compiler worth starting. A text of the largest size accepted by
/// default (128 KiB: some 3,000 paths) takes 130 MiB of address space.
const ENOUGH: u64 = 160 * MIB;

/// The least memory of a compiler, even where that is too much: it does not start with less.
const LEAST: u64 = 48 * MIB;

/// The most memory of a compiler.
const MOST: u64 = 1024 * MIB;

/// The share of each compiler. It is the same from pass to pass, since a refusal lasts.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Folder;

    #[test]
    fn all_compilers_together_stay_under_the_memory() {
        for memory in [200, 256, 512, 1024, 4096, 65536].map(|mib| mib * MIB) {
            for jobs in [1, 2, 4, 64] {
                let share = Resources::of(jobs, Some(memory));
                let together = share.jobs as u64 * share.address_space + RESERVE;
                assert!(together <= memory, "{memory}: {share:?}");
                assert!((1..=jobs).contains(&share.jobs), "{share:?}");
                assert!(
                    share.jobs == 1 || share.address_space >= ENOUGH,
                    "{share:?}"
                );
            }
        }
    }

    #[test]
    fn one_compiler_runs_even_where_memory_is_short() {
        let share = Resources::of(8, Some(64 * MIB));
        assert_eq!((share.jobs, share.address_space), (1, LEAST));
        assert_eq!(Resources::of(0, Some(0)).jobs, 1);
        let share = Resources::of(8, None);
        assert_eq!((share.jobs, share.address_space), (8, MOST));
    }

    #[test]
    fn the_least_limit_of_machine_and_control_groups_counts() {
        let node = Folder::new();
        assert_eq!(memory(node.path()), None);
        node.write("proc/meminfo", "MemFree: 1 kB\nMemTotal:     1000 kB\n");
        assert_eq!(memory(node.path()), Some(512_000));
        node.write("proc/self/cgroup", "0::/pods/web\n");
        node.write("sys/fs/cgroup/pods/web/memory.max", "max\n");
        assert_eq!(memory(node.path()), Some(512_000));
        node.write("sys/fs/cgroup/pods/memory.max", "400000\n");
        assert_eq!(memory(node.path()), Some(400_000));
        node.write("sys/fs/cgroup/pods/web/memory.max", "300000\n");
        assert_eq!(memory(node.path()), Some(300_000));
        // In a container the mount shows the own group at its top.
        node.write("sys/fs/cgroup/memory.max", "200000\n");
        assert_eq!(memory(node.path()), Some(200_000));
        node.write("proc/self/cgroup", "3:cpu,cpuacct:/x\n2:memory:/x\n");
        let limit = "sys/fs/cgroup/memory/x/memory.limit_in_bytes";
        node.write(limit, "9223372036854771712\n");
        assert_eq!(memory(node.path()), Some(512_000));
        node.write(limit, "100000\n");
        assert_eq!(memory(node.path()), Some(100_000));
    }
}

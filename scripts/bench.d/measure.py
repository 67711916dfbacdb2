"""The cost of one command: wall clock, CPU, system calls, processes, bytes written, memory.

Each figure comes from a run of its own kind, so that none is spoilt by how another is taken:
timed runs are neither traced nor watched.
"""

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time

QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Failed(Exception):
    """A contender did not do its work, so its figures are worth nothing."""


def timed(work):
    """(seconds of wall clock, seconds of CPU) of `work`: a function, or commands run in order.

    The CPU is that of this process, in which the commands are started, and of all of them.
    """

    def cpu():
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in usage)

    before, start = cpu(), time.perf_counter()
    if callable(work):
        work()
    else:
        for command in work:
            run(command)
    return time.perf_counter() - start, cpu() - before


class Command:
    """A command with its environment, and the exit codes that say it did its work."""

    def __init__(self, argv, env=None, codes=(0,)):
        self.argv, self.env, self.codes = argv, dict(os.environ) if env is None else env, codes


def run(command):
    done = subprocess.run(command.argv, env=command.env, **{**QUIET, "stderr": subprocess.PIPE})
    if done.returncode not in command.codes:
        raise Failed(f"{command.argv}: {done.returncode}: {done.stderr.decode()[-2000:]}")


CALL = re.compile(rb"^(\d+) +(\w+)\(.*?(?:= (-?\d+))?[^=]*$")
STARTS = {"execve"}
WRITES = {"write", "writev", "pwrite64", "pwritev", "copy_file_range", "sendfile"}
SYNCS = {"fsync", "fdatasync", "syncfs", "sync", "msync"}


def counted(commands):
    """System calls, processes (programs executed), syncs and bytes written, of all commands."""
    total = {"calls": 0, "processes": 0, "syncs": 0, "written": 0}
    for command in commands:
        with tempfile.NamedTemporaryFile() as trace:
            argv = ["strace", "-f", "-q", "-s0", "-o", trace.name, *command.argv]
            run(Command(argv, command.env, command.codes))
            for line in trace:
                call = CALL.match(line)
                if not call or b"<unfinished" in line:
                    # The second half of an interrupted line has the result.
                    call = re.match(rb"^(\d+) +<\.\.\. (\w+) resumed>.*= (-?\d+)", line)
                    if not call:
                        continue
                name, result = call[2].decode(), int(call[3] or -1)
                total["calls"] += 1
                total["processes"] += name in STARTS and result == 0
                total["syncs"] += name in SYNCS
                total["written"] += result if name in WRITES and result > 0 else 0
    return total


def peak(command):
    """(KiB at most of the command itself, KiB at most of its largest process).

    The kernel counts a process' memory before its exec, too; so a small one
    (`time`) starts the command, not this one. The command's own peak is sampled.
    """
    own = 0
    with tempfile.NamedTemporaryFile("r") as said:
        argv = ["time", "-q", "-f", "%M", "-o", said.name, *command.argv]
        child = subprocess.Popen(argv, env=command.env, **QUIET)
        pid = None
        while child.poll() is None:
            try:
                if pid is None:
                    with open(f"/proc/{child.pid}/task/{child.pid}/children") as file:
                        pid = int(file.read().split()[0])
                with open(f"/proc/{pid}/exe", "rb"), open(f"/proc/{pid}/status") as status:
                    text = status.read()
                    if not text.startswith("Name:\ttime"):
                        own = max(own, int(re.search(r"VmHWM:\s+(\d+)", text)[1]))
            except (OSError, IndexError, TypeError, ValueError):
                time.sleep(0.0002)
        largest = int(said.read() or 0)
    return own, largest


class Results:
    """A line of JSON a result, as they come: a failure loses no earlier result."""

    def __init__(self, path, where):
        self.path, self.where = path, where

    def add(self, case, n, who, runs, **more):
        line = {
            "where": self.where,
            "case": case,
            "n": n,
            "who": who,
            "wall": statistics.median(wall for wall, _ in runs),
            "cpu": statistics.median(cpu for _, cpu in runs),
            "runs": len(runs),
            **more,
        }
        with open(self.path, "a") as file:
            print(json.dumps(line), file=file)
        shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items())
        print(f"bench: {shown}", file=sys.stderr, flush=True)


def interleaved(repeats, contenders):
    """Runs of each contender in turn: {name: [(wall, cpu)]}.

    A contender is (prepare, work): `prepare` is not timed. Other work of the machine in these
    minutes hits all of them alike.
    """
    runs = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, (prepare, work) in contenders.items():
            prepare()
            runs[name].append(timed(work))
    return runs

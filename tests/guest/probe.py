"""Tries accesses under AppArmor profiles, and reports the kernel's answer to each.

Reads a line of standard input at a time, and answers with a line: `profile NAME` starts a process
that is confined by NAME; any other line is a question as `armorer can` takes it, which that process
tries. The answer is allow, deny, or skip where the access cannot be tried by itself.

The files of the questions are those of `files`, once `paths` has named them. The peers of signals and
ptrace run here too.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import stat
import sys
import time

PEERS = ["unconfined", "runc", "crun", "custom.peer"]
PROGRAM = "/run/guest/busybox"
# Two files, the second of another user; each name is a link to one of them.
INODES = ["/tmp/q.root", "/tmp/q.other"]

libc = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")


def system_call(number, *arguments):
    call(libc.syscall, number, *arguments)


def lock_memory():
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    call(libc.mlock, ctypes.create_string_buffer(1), 1)


def raise_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 1))


# Calls that fail with EPERM (nice: EACCES) without the capability, and do no harm with it.
CAPABILITIES = {
    "chown": lambda: os.fchown(os.pipe()[0], 1234, -1),
    "setuid": lambda: os.setresuid(1234, 1234, 1234),
    "setgid": lambda: os.setgroups([]),
    "setpcap": lambda: call(libc.prctl, 24, 40, 0, 0, 0),
    "ipc_lock": lock_memory,
    "sys_module": lambda: system_call(176, b"none", 0),
    "sys_rawio": lambda: system_call(172, 3),
    "sys_chroot": lambda: os.chroot("/"),
    "sys_pacct": lambda: call(libc.acct, None),
    "sys_admin": lambda: socket.sethostname("guest"),
    "sys_boot": lambda: system_call(169, 0, 0, 0, None),
    "sys_nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
    "sys_resource": raise_limit,
    "sys_time": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "sys_tty_config": lambda: system_call(153),
}


def opened(path, flags, then=lambda fd: None):
    fd = os.open(path, flags)
    try:
        then(fd)
    finally:
        os.close(fd)


def opened_to_read(path, then):
    """Only `then` is tried."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:
        return "skip"
    try:
        return verdict(lambda: then(fd))
    finally:
        os.close(fd)


def forked(action):
    """The verdict on `action` in a process of its own; an execution that succeeds ends there."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = verdict(action)
        except BaseException as error:
            answer = f"error {error!r}"
        os.write(send, answer.encode())
        os._exit(0)
    os.close(send)
    answer = os.read(receive, 1000).decode() or "allow"
    os.close(receive)
    os.waitpid(child, 0)
    return answer


# No error that comes later than AppArmor's check, and of no capability's.
HARMLESS = {
    errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EINVAL, errno.ENOENT,
    errno.EPROTOTYPE, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENXIO,
}


def verdict(action, denied=(errno.EACCES,)):
    try:
        action()
    except OSError as error:
        if error.errno in denied:
            return "deny"
        if error.errno not in HARMLESS:
            return f"error {error!r}"
    return "allow"


def capability(name):
    def action():
        try:
            CAPABILITIES[name]()
        # setrlimit's refusal is a ValueError.
        except (PermissionError, ValueError) as error:
            raise OSError(errno.EACCES, "") from error

    return forked(action)


def new_socket(family, kind):
    def action():
        try:
            socket.socket(int(family), int(kind), 0).close()
        except OSError as error:
            # The capability net_raw, which is asked for after AppArmor.
            if error.errno != errno.EPERM:
                raise

    return verdict(action)


def trace(access, pid):
    def action():
        try:
            if access == "read":
                system_call(274, int(pid), ctypes.create_string_buffer(8), ctypes.create_string_buffer(8))
            else:
                call(libc.ptrace, 0x4206, int(pid), 0, 0)
        except PermissionError as error:
            raise OSError(errno.EACCES, "") from error

    return forked(action)


def attempt(words):
    """The findings of the calling process."""
    match words:
        case ["kill", pid, number]:
            return verdict(lambda: os.kill(int(pid), int(number)))
        case ["trace", access, pid]:
            return trace(access, pid)
        case ["read", path]:
            return verdict(lambda: opened(path, os.O_RDONLY))
        case ["write", path]:
            return verdict(lambda: opened(path, os.O_WRONLY))
        case ["append", path]:
            return verdict(lambda: opened(path, os.O_WRONLY | os.O_APPEND))
        case ["exec", path]:
            return forked(lambda: os.execv(path, ["true"]))
        case ["create", path]:
            return verdict(lambda: os.mkfifo(path))
        case ["delete", path]:
            return verdict(lambda: os.unlink(path))
        case ["link", path, target]:
            return verdict(lambda: os.link(target, path))
        case ["lock", path]:
            return opened_to_read(path, lambda fd: fcntl.flock(fd, fcntl.LOCK_SH))
        case ["mmap", path]:
            return opened_to_read(
                path,
                lambda fd: mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close(),
            )
        case ["capability", name]:
            return capability(name)
        case ["network", family, kind]:
            return new_socket(family, kind)
        case ["userns"]:
            return forked(lambda: call(libc.unshare, 0x10000000))
    return f"error {words!r}"


class Process:
    """A process under a label that makes attempts; it ends when this does."""

    def __init__(self, label):
        self.label = label
        # Pipes, since AppArmor mediates sockets that are there already.
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.commands)
            serve(commands, answers, label)
        os.close(commands)
        os.close(answers)
        if self.ask("ready") != "ready":
            sys.exit(f"no process under {label}")

    def ask(self, command):
        os.write(self.commands, command.encode())
        return os.read(self.answers, 1000).decode()

    def end(self):
        # Not by closing the pipe, whose end later processes hold too. A killed process hears nothing.
        try:
            os.write(self.commands, b"end")
        except BrokenPipeError:
            pass
        os.close(self.commands)
        os.close(self.answers)
        os.waitpid(self.pid, 0)


def serve(commands, answers, label):
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)
    if label != "unconfined":
        fd = os.open("/proc/self/attr/current", os.O_WRONLY)
        os.write(fd, f"changeprofile {label}".encode())
        os.close(fd)
    while (command := os.read(commands, 1000).decode()) != "end":
        answer = "ready" if command == "ready" else attempt(command.split())
        os.write(answers, answer.encode())
    os._exit(0)


def restore(path, number):
    if not os.path.lexists(path) or not stat.S_ISREG(os.lstat(path).st_mode):
        if os.path.lexists(path):
            os.unlink(path)
        os.link(INODES[number % 2], path)


def main():
    for inode, user in zip(INODES, [0, 1234]):
        with open(PROGRAM, "rb") as program, open(inode, "wb") as file:
            file.write(program.read())
        os.chmod(inode, 0o777)
        os.chown(inode, user, user)
    peers = {peer: Process(peer) for peer in PEERS}
    subject = None
    paths = []
    for line in sys.stdin:
        words = line.split()
        match words:
            case ["paths", *paths]:
                for number, path in enumerate(paths):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    os.chmod(os.path.dirname(path), 0o777)
                    restore(path, number)
                answer = "allow"
            case ["profile", name]:
                if subject:
                    subject.end()
                subject = Process(name)
                answer = "allow"
            case ["signal", "send", number, peer]:
                answer = subject.ask(f"kill {peers[peer].pid} {number}")
            case ["signal", "receive", number, peer]:
                answer = peers[peer].ask(f"kill {subject.pid} {number}")
            case ["ptrace", ("read" | "trace") as access, peer]:
                answer = subject.ask(f"trace {access} {peers[peer].pid}")
            case ["ptrace", access, peer]:
                access = {"readby": "read", "tracedby": "trace"}[access]
                answer = peers[peer].ask(f"trace {access} {subject.pid}")
            case _:
                answer = subject.ask(line)
        if words[:1] == ["signal"] and words[2] == "9" and answer == "allow":
            if words[1] == "send":
                peers[words[3]].end()
                peers[words[3]] = Process(words[3])
            else:
                subject.end()
                subject = Process(subject.label)
        if words[0] in ("create", "delete", "link"):
            for number, path in enumerate(paths):
                restore(path, number)
            for path in words[1:2]:
                if path not in paths and os.path.lexists(path):
                    os.unlink(path)
        print(answer, flush=True)


main()

"""Tries accesses that AppArmor mediates: attempts.py PEER NAME... Says "NAME ok", or "NAME" and why not.

Each attempt has a folder /srv/NAME of its own, which `attempts.py --prepare NAME...` makes, run by an
unconfined process in the mount namespace of the attempts. PEER is the number of an unconfined process.
`attempts.py --names` says all names but "beside", which must never be allowed.
"""

import ctypes
import fcntl
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
RDONLY, NOSUID, NODEV, REMOUNT, BIND, MOVE, REC, SLAVE = 1, 2, 4, 32, 4096, 8192, 16384, 1 << 19
PTRACE_ATTACH, PTRACE_DETACH, WALL = 16, 17, 0x40000000
PIVOT_ROOT, IO_URING_SETUP, IORING_SETUP_SQPOLL = 155, 425, 2

# Each can be read once the rule for it is there.
ODD = ["a b", 'quo"te', "st*r", "que?stion", "br[ack]et", "cur{l}y", "back\\slash", "car^et", "com,ma",
       "ha#sh", "@{PROC}", "größe", "par(en)", "dol$lar", "apo'strophe", "equal=s", "@at"]
# The names that those above would match as globs.
BESIDE = ["stXr", "queXstion", "braet", "curly"]
# For these there is no rule of one clean line.
UNCLEAN = [b"new\nline", b"\xff", b"space "]


def call(result):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def mount(source, target, kind, flags=0):
    words = [word.encode() if word else None for word in (source, target, kind)]
    call(libc.mount(*words, flags, None))


def opened(path, flags=os.O_RDONLY):
    os.close(os.open(path, flags, 0o600))


def mapped(path):
    with open(path, "rb") as file:
        mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)


def locked(path):
    with open(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def executed(path):
    status = os.spawnv(os.P_WAIT, path, ["true"])
    if status != 0:
        raise OSError(f"{path} ended with {status}")


def attribute(name, words):
    with open(f"/proc/self/attr/{name}", "wb", buffering=0) as file:
        file.write(words.encode())


def traced(pid):
    call(libc.ptrace(PTRACE_ATTACH, pid, None, None))
    os.waitpid(pid, WALL)
    call(libc.ptrace(PTRACE_DETACH, pid, None, None))


def all_of(calls):
    """Makes every call, and then fails if one of them did."""
    errors = []
    for made in calls:
        try:
            made()
        except OSError as error:
            errors.append(str(error))
    if errors:
        raise OSError("; ".join(errors))


def any_of(calls):
    """Makes every call, and fails only if each of them did."""
    errors = []
    for made in calls:
        try:
            made()
        except PermissionError as error:
            errors.append(error)
    if len(errors) == len(calls):
        raise errors[0]


def uring():
    parameters = (ctypes.c_uint32 * 30)()
    parameters[2] = IORING_SETUP_SQPOLL
    call(libc.syscall(IO_URING_SETUP, 1, parameters))


def onexec(path):
    attribute("exec", "exec custom.other")
    executed(path)


def attempts(name, peer):
    at = f"/srv/{name}/"
    secret, new, folder, program, mounted = (at + word for word in ("secret", "new", "folder", "true", "mounted"))
    return {
        "read": lambda: opened(secret),
        "read-other": lambda: opened(secret),
        "write": lambda: opened(secret, os.O_WRONLY),
        "update": lambda: opened(secret, os.O_RDWR),
        "append": lambda: opened(secret, os.O_WRONLY | os.O_APPEND),
        "create": lambda: opened(new, os.O_WRONLY | os.O_CREAT),
        "list": lambda: os.listdir(folder),
        "mkdir": lambda: os.mkdir(new),
        "rmdir": lambda: os.rmdir(folder),
        "unlink": lambda: os.unlink(secret),
        "rename": lambda: os.rename(secret, new),
        "link": lambda: os.link(secret, new),
        "symlink": lambda: os.symlink("secret", new),
        "truncate": lambda: os.truncate(secret, 0),
        "chmod": lambda: os.chmod(secret, 0o644),
        "chown": lambda: os.chown(secret, 1, 1),
        "mknod": lambda: os.mkfifo(new),
        "lock": lambda: locked(secret),
        "map": lambda: mapped(program),
        "exec": lambda: executed(program),
        "odd": lambda: all_of([lambda odd=odd: opened(at + odd) for odd in ODD]),
        "beside": lambda: any_of([lambda near=near: opened("/srv/odd/" + near) for near in BESIDE]),
        "unclean": lambda: all_of([lambda odd=odd: opened(at.encode() + odd) for odd in UNCLEAN]),
        "capability": lambda: socket.sethostname("denied"),
        "inet": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "inet6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        "abstract": lambda: socket.socket(socket.AF_UNIX).bind("\0denied"),
        "signal": lambda: os.kill(peer, signal.SIGCONT),
        "exists": lambda: os.kill(peer, 0),
        "realtime": lambda: os.kill(peer, signal.SIGRTMIN + 3),
        "ptrace-read": lambda: os.readlink(f"/proc/{peer}/exe"),
        "ptrace-trace": lambda: traced(peer),
        "mount": lambda: mount("none", folder, "tmpfs"),
        "mount-flags": lambda: mount("a b", folder, "tmpfs", RDONLY | NOSUID | NODEV),
        "bind": lambda: mount(at, folder, None, BIND),
        "rbind": lambda: mount(at, folder, None, BIND | REC),
        "remount": lambda: mount(None, mounted, None, REMOUNT | BIND | RDONLY),
        "move": lambda: mount(mounted, folder, None, MOVE),
        "propagation": lambda: mount(None, mounted, None, SLAVE | REC),
        "umount": lambda: call(libc.umount2(mounted.encode(), 0)),
        "change": lambda: attribute("current", "changeprofile custom.other"),
        "onexec": lambda: onexec(program),
        "userns": lambda: os.unshare(os.CLONE_NEWUSER),
        "uring": uring,
        "disconnected": lambda: os.close(os.open("denied", os.O_RDONLY, dir_fd=9)),
        # Takes the root along of all who had it: the last one.
        "pivot": lambda: call(libc.syscall(PIVOT_ROOT, mounted.encode(), f"{mounted}/old".encode())),
    }


def prepare(name):
    at = f"/srv/{name}/"
    shutil.rmtree(at, ignore_errors=True)
    os.makedirs(at + "folder")
    os.mkdir(at + "mounted")
    shutil.copy("/run/guest/busybox", at + "true")
    odd = [file.encode() for file in ODD + BESIDE] if name == "odd" else UNCLEAN if name == "unclean" else []
    for file in [b"secret", *odd]:
        open(at.encode() + file, "w").close()
    if name == "read-other":
        os.chown(at + "secret", 1, 1)
    if name in ("remount", "move", "propagation", "umount", "pivot", "disconnected"):
        subprocess.run(["mount", "-t", "tmpfs", "none", at + "mounted"], check=True)
        os.mkdir(at + "mounted/old")
        open(at + "mounted/denied", "w").close()


if __name__ == "__main__":
    peer, *names = sys.argv[1:]
    if peer == "--names":
        print(*(name for name in attempts("", 0) if name != "beside"))
    for name in names:
        if peer == "--prepare":
            prepare(name)
            continue
        child = os.fork()
        if child == 0:
            try:
                attempts(name, int(peer))[name]()
            except OSError as error:
                os.write(1, f"{name}: {error}\n".encode())
                os._exit(1)
            os.write(1, f"{name} ok\n".encode())
            os._exit(0)
        os.waitpid(child, 0)

"""Tries the expectations in FILE under profile NAME: expect.py NAME FILE. Prints those that fail.

The lines are those of `armorer can --expect`. A socket, a capability or a file is tried by a child that
enters the profile; a signal is sent to it from a process under the profile that the line names.
"""

import ctypes
import os
import signal
import socket
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)


def enter(profile):
    if profile != "unconfined":
        with open("/proc/self/attr/current", "wb", buffering=0) as file:
            file.write(f"changeprofile {profile}".encode())


def is_done(profile, act):
    """Whether a child under `profile` could act."""
    child = os.fork()
    if child == 0:
        try:
            enter(profile)
            act()
        except (PermissionError, OSError) as error:
            os._exit(13 if isinstance(error, PermissionError) else 99)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 13):
        sys.exit(f"{profile}: neither done nor denied, {status}")
    return status == 0


def opened(path, flags):
    os.close(os.open(path, flags))


def executed(path):
    # Only whether it begins: with an argument at which it ends.
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if not os.path.exists(path):
        os._exit(13)
    os.execv(path, [path, "--version"])


def capable(name):
    tries = {
        "chown": lambda: os.chown("/tmp/owned", 7, 7),
        "sys_admin": lambda: socket.sethostname(socket.gethostname()),
        "net_admin": lambda: socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1),
        "net_raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "net_bind_service": lambda: socket.socket().bind(("127.0.0.1", 99)),
        "mknod": lambda: os.mknod(f"/tmp/node{os.getpid()}", 0o60600, os.makedev(7, 0)),
        "setuid": lambda: os.setuid(1),
    }
    tries[name]()


def signalled(profile, number, sender):
    ready, begun = os.pipe()
    target = os.fork()
    if target == 0:
        enter(profile)
        os.write(begun, b"x")
        while True:
            time.sleep(100)
    os.read(ready, 1)
    done = is_done(sender, lambda: os.kill(target, number))
    os.kill(target, signal.SIGKILL)
    os.waitpid(target, 0)
    return done


FAMILIES = {"unix": socket.AF_UNIX, "netlink": socket.AF_NETLINK, "inet": socket.AF_INET, "inet6": socket.AF_INET6, "packet": socket.AF_PACKET}
TYPES = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM, "raw": socket.SOCK_RAW}

profile, path = sys.argv[1:]
tried = 0
for line in open(path):
    words = line.split("#")[0].split()
    if not words:
        continue
    match words[1:]:
        case ["read", name]:
            done = is_done(profile, lambda: opened(name, os.O_RDONLY))
        case ["write", name]:
            done = is_done(profile, lambda: opened(name, os.O_WRONLY))
        case ["exec", name]:
            done = is_done(profile, lambda: executed(name))
        case ["network", family, kind]:
            done = is_done(profile, lambda: socket.socket(FAMILIES[family], TYPES[kind]))
        case ["capability", name]:
            done = is_done(profile, lambda: capable(name))
        case ["signal", "receive", name, sender]:
            done = signalled(profile, getattr(signal, f"SIG{name.upper()}"), sender)
    tried += 1
    if done != (words[0] == "allow"):
        print(f"{profile}: {line.strip()}: it is {'allowed' if done else 'denied'}")
print(f"{tried} tried")

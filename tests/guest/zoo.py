"""A process that holds an AppArmor profile in the way named by the first argument, says "ready",
and waits until it is killed."""

import ctypes
import os
import sys
import threading
import time

kind, profile = sys.argv[1:3]
SYS_EXIT = 60


def write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def expect(label, path="/proc/thread-self/attr/current"):
    with open(path) as file:
        found = file.read().strip()
    if label not in found:
        sys.exit(f"{kind}: {found!r} does not hold {label!r}")


def ready():
    os.write(1, b"ready\n")


def wait():
    while True:
        time.sleep(1000)


def again(step, under):
    """Executes this script's next step under another profile."""
    write("/proc/self/attr/exec", f"exec {under}")
    os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), step, profile])


def change_in_thread(then):
    done = threading.Event()

    def run():
        write("/proc/thread-self/attr/current", f"changeprofile {profile}")
        expect(profile)
        done.set()
        wait()

    threading.Thread(target=run, daemon=True).start()
    done.wait()
    then()


if kind == "main":
    again("held", profile)
elif kind == "held":
    expect(profile)
    ready()
    wait()
elif kind == "thread":
    expect("unconfined")
    change_in_thread(lambda: (ready(), wait()))
elif kind == "zombie-leader":
    # The main thread ends alone; the process goes on without a leader.
    def end_leader():
        threading.Timer(0.5, ready).start()
        ctypes.CDLL(None).syscall(SYS_EXIT, 0)

    change_in_thread(end_leader)
elif kind == "child":
    again("held-kid", f"{profile}//kid")
elif kind == "held-kid":
    expect(f"{profile}//kid")
    ready()
    wait()
elif kind == "hat":
    again("put-on-hat", profile)
elif kind == "put-on-hat":
    write("/proc/self/attr/current", "changehat 0000000000000007^hat")
    expect(f"{profile}//hat")
    ready()
    wait()
elif kind == "stack":
    write("/proc/self/attr/current", f"stack {profile}")
    expect(profile)
    ready()
    wait()
elif kind == "null":
    # Complain mode puts an execution without a rule under a learning child.
    again("execute", profile)
elif kind == "execute":
    os.execv("/bin/sh", ["/bin/sh", "-c", "echo ready; read -r forever"])
elif kind == "pid-namespace":
    write("/proc/self/attr/exec", f"exec {profile}")
    os.execvp(
        "unshare",
        ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "echo ready; read -r forever"],
    )
else:
    sys.exit(f"no kind {kind}")

"""Profiles to load, and a folder that looks like a node (as tests/harness makes one)."""

import json
import os
import shutil
import tempfile

BOOT = "11111111-2222-3333-4444-555555555555"


def typical(name, variant=""):
    """A profile as they are written: its compile time is near that of any profile."""
    return (
        "#include <tunables/global>\n"
        f"profile {name} flags=(attach_disconnected) {{\n  #include <abstractions/base>\n"
        f"  file,\n  network inet stream,\n  signal,\n  deny /srv/{name}/{variant}** w,\n}}\n"
    )


def plain(name, variant=""):
    """A profile of 2 KiB that includes nothing: for the cases that are not about compiling."""
    head = f"profile {name} {{\n  file,\n  signal,\n"
    tail = f"  deny /srv/{name}/secret{variant} w,\n}}\n"
    comment = "  # this line is here for its length, and says nothing else\n"
    lines = (2048 - len(head) - len(tail)) // len(comment)
    body = comment * lines
    rest = 2048 - len(head) - len(tail) - len(body)
    return head + body + "  #" + "x" * (rest - 4) + "\n" + tail


def names(count):
    return [f"custom.bench-{n:04}" for n in range(count)]


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def fill(folder, wanted, text):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for name in wanted:
        write(f"{folder}/{name}", text(name))


class Node:
    """A snapshot of a kernel's files, and no emulation: policy that is written is not loaded."""

    def __init__(self, root, features):
        self.root = root
        self.policy = f"{root}/sys/kernel/security/apparmor"
        shutil.rmtree(root, ignore_errors=True)
        write(f"{root}/sys/module/apparmor/parameters/enabled", "Y\n")
        shutil.copytree(features, f"{self.policy}/features")
        for file in ["profiles", ".load", ".replace", ".remove"]:
            write(f"{self.policy}/{file}", "")
        write(f"{self.policy}/revision", "1\n")
        os.makedirs(f"{self.policy}/policy/profiles")
        for file in ["attr/apparmor/current", "task/1/attr/apparmor/current"]:
            write(f"{root}/proc/1/{file}", "unconfined\n")
        write(f"{root}/proc/1/comm", "init\n")
        write(f"{root}/proc/1/stat", "1 (init) S 0 0\n")
        write(f"{root}/proc/sys/kernel/random/boot_id", f"{BOOT}\n")
        write(f"{root}/proc/self/status", "Name:\tx\nCapEff:\t00000002000000c0\n")
        write(f"{root}/proc/self/uid_map", "         0          0 4294967295\n")
        os.makedirs(f"{root}/profiles")

    def want(self, wanted, text):
        fill(f"{self.root}/profiles", wanted, text)

    def forget(self):
        """Put aside, not deleted: ext4 searches long for inodes among those deleted within a minute."""
        if os.path.isdir(f"{self.root}/var"):
            os.rename(f"{self.root}/var", tempfile.mkdtemp(prefix="forgotten-", dir=f"{self.root}/.."))

    def state(self):
        with open(f"{self.root}/var/lib/armorer/state.json") as file:
            return json.load(file)

    def show(self, digests):
        """The kernel holds `digests` from now on: {name: sha256 of its policy}."""
        shutil.rmtree(f"{self.policy}/policy/profiles")
        for name, digest in digests.items():
            entry = f"{self.policy}/policy/profiles/{name}.1"
            write(f"{entry}/name", f"{name}\n")
            write(f"{entry}/raw_sha256", f"{digest}\n")
        write(f"{self.policy}/profiles", "".join(f"{name} (enforce)\n" for name in digests))
        with open(f"{self.policy}/revision") as file:
            revision = int(file.read())
        write(f"{self.policy}/revision", f"{revision + 1}\n")

    def recorded(self):
        """The policies of the last pass: {name: sha256 of its policy}."""
        profiles = self.state()["sets"]["default"]["profiles"]
        return {name: record["policy"] for name, record in profiles.items()}

"""The cases with a kernel that loads policy. Runs in the guest, as root, in the job's folder.

guest.py RESULTS REPEATS COMPILED-SIZES STORED-SIZES PROCESSES

`stored/N` has a state folder whose N profiles were compiled outside, for these features, and
`stored/N.profiles` their texts.
"""

import json
import os
import shutil
import subprocess
import sys
import time

from measure import Command, Results, counted, interleaved, peak, run
from node import fill, names, plain, typical, write

# Not in the job's folder: of that nothing is cached, so each start would read the program anew.
ARMORER = "/run/bench/armorer"
KERNEL = "/sys/kernel/security/apparmor"
PARSER = shutil.which("apparmor_parser", path="/sbin:/usr/sbin:/usr/bin:/bin")
STATE = "/run/bench/state"
SOURCE = "/run/bench/profiles"


def main(results, repeats, compiled, stored, processes):
    results, repeats = Results(results, "guest"), int(repeats)
    os.makedirs("/run/bench")
    shutil.copy("armorer", ARMORER)
    # The emulator translates a program anew for each address it is loaded at, which takes longer
    # than most of these programs run, and which no processor has to do.
    with open("/proc/sys/kernel/randomize_va_space", "w") as file:
        file.write("0")
    for n in sizes(compiled):
        from_nothing(results, n, repeats if n <= 20 else 1)
    for n in sizes(stored):
        few = repeats if n <= 100 else 1
        after_reboot(results, n, few)
        live(results, n, few)
        removed(results, n, few)
    for count in sizes(processes):
        scan(results, count, repeats)


def sizes(words):
    return [int(word) for word in words.split(",") if word]


def armorer(*arguments, codes=(0,)):
    return Command([ARMORER, *arguments], {"ARMORER_STATE_DIR": STATE}, codes)


def reconcile(*arguments):
    return armorer("reconcile", SOURCE, "--remove-after", "0s", *arguments)


def parser(*arguments):
    return Command([PARSER, *arguments])


def write_bare(file, data):
    fd = os.open(f"{KERNEL}/{file}", os.O_WRONLY)
    os.write(fd, data)
    os.close(fd)


def loaded():
    """The profiles that a reboot would take away."""
    with open(f"{KERNEL}/profiles") as file:
        return [line.rsplit(" (", 1)[0] for line in file if line.startswith("custom.bench-")]


def unload():
    for name in loaded():
        write_bare(".remove", name.encode())


def forget():
    unload()
    shutil.rmtree(STATE, ignore_errors=True)


def blobs(names_):
    """The stored policy of armorer's state: what the bare writes use."""
    with open(f"{STATE}/state.json") as file:
        records = json.load(file)["sets"]["default"]["profiles"]
    found = []
    for name in names_:
        with open(f"{STATE}/policy/{records[name]['policy']}.policy", "rb") as file:
            found.append(file.read())
    return found


def measured(results, case, n, contenders, repeats, count=True):
    runs = interleaved(repeats, contenders)
    for who, (prepare, work) in contenders.items():
        more = {}
        if count and not callable(work):
            prepare()
            more = counted(work)
            if who == "armorer":
                prepare()
                more["own KiB"], more["largest KiB"] = peak(work[0])
        results.add(case, n, who, runs[who], **more)


def from_nothing(results, n, repeats):
    fill(SOURCE, names(n), typical)
    files = [f"{SOURCE}/{name}" for name in names(n)]
    contenders = {
        "armorer": (forget, [reconcile()]),
        "a parser a file": (forget, [parser("-K", "-r", file) for file in files]),
        "one parser, -j": (forget, [parser("-K", "-r", f"-j{os.cpu_count()}", *files)]),
    }
    measured(results, "from nothing", n, contenders, repeats, count=n <= 20)


def seasoned(n):
    """The state that was made outside, as a node has it after its first boot: it knows by now how
    this kernel names its policy, and up to 100 profiles are compiled by this compiler."""
    folder = f"/run/bench/stored-{n}"
    if not os.path.isdir(folder):
        forget()
        shutil.copytree(f"stored/{n}", STATE)
        shutil.rmtree(SOURCE, ignore_errors=True)
        shutil.copytree(f"stored/{n}.profiles", SOURCE)
        run(reconcile() if n <= 100 else armorer("restore"))
        path = f"{STATE}/state.json"
        with open(path) as file:
            state = json.load(file)
        state["boot_id"] = "the boot before"
        write(path, json.dumps(state, separators=(",", ":")) + "\n")
        shutil.move(STATE, folder)
    return folder


def prepared(n):
    """As after a reboot."""
    kept = seasoned(n)
    forget()
    shutil.copytree(kept, STATE)
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(f"stored/{n}.profiles", SOURCE)


def after_reboot(results, n, repeats):
    prepared(n)
    data = blobs(names(n))
    cache = "/run/bench/cache"
    contenders = {
        "armorer": (lambda: prepared(n), [armorer("restore")]),
        "bare writes": (unload, lambda: [write_bare(".replace", blob) for blob in data]),
    }
    if n <= 100:
        contenders["armorer, a pass"] = (lambda: prepared(n), [reconcile()])
        # A boot script has its cache; filling it is not timed.
        files = [f"{SOURCE}/{name}" for name in names(n)]
        run(parser("-Q", "-W", "--cache-loc", cache, *files))
        contenders["one parser, cached"] = (unload, [parser("-r", "--cache-loc", cache, *files)])
    measured(results, "after a reboot", n, contenders, repeats, count=n <= 100)


def live(results, n, repeats):
    """One changed, nothing changed, drift of one: in a set of n that is in force."""
    prepared(n)
    run(reconcile())
    run(reconcile())
    measured(results, "nothing changed", n, {"armorer": (lambda: None, [reconcile()])}, 3 * repeats)
    name = names(n)[n // 2]
    file = f"{SOURCE}/{name}"
    variants = iter(range(10**6))

    def change():
        write(file, typical(name, f"{next(variants)}"))

    def settled_and_changed():
        # The parser's load is another program's change: the pass after it looks at everything.
        run(reconcile())
        change()

    contenders = {
        "armorer": (settled_and_changed, [reconcile()]),
        "a parser a file": (change, [parser("-K", "-r", file)]),
    }
    measured(results, "one changed", n, contenders, max(3, repeats), count=n <= 100)
    run(reconcile())
    (blob,) = blobs([name])
    contenders = {
        # Three repairs in ten minutes are taken for a contest: a fourth would not be made.
        "armorer": (lambda: write_bare(".remove", name.encode()), [reconcile()]),
        "bare writes": (lambda: write_bare(".remove", name.encode()), lambda: write_bare(".replace", blob)),
    }
    measured(results, "drift of one", n, contenders, 2, count=False)


def removed(results, n, repeats):
    keep = f"{SOURCE}/custom.keep"

    def loaded_by_armorer():
        prepared(n)
        write(keep, plain("custom.keep"))
        run(reconcile())
        empty()

    def empty():
        for name in names(n):
            os.remove(f"{SOURCE}/{name}")

    def bare():
        for name in names(n):
            write_bare(".remove", name.encode())

    def looks():
        for name in names(n):
            look()
            write_bare(".remove", name.encode())

    contenders = {
        "armorer": (loaded_by_armorer, [reconcile()]),
        "bare writes": (loaded_by_armorer, bare),
        "a look at each process before each write": (loaded_by_armorer, looks),
    }
    if n <= 20:
        # As kapparmor does; the reload is of the remaining profiles.
        work = [
            command
            for name in names(n)
            for command in (parser("--remove", f"stored/{n}.profiles/{name}"), parser("-K", "-r", keep))
        ]
        contenders["a parser a file"] = (loaded_by_armorer, work)
    measured(results, "all removed", n, contenders, repeats, count=False)


def scan(results, count, repeats):
    """One removal while `count` processes sleep: a scan to decide, and one before the write."""
    sleeping = [
        subprocess.Popen(["/run/guest/busybox", "sleep", "100000"], close_fds=False) for _ in range(count)
    ]
    time.sleep(2)

    def prepare():
        forget()
        fill(SOURCE, names(2), plain)
        run(reconcile())
        os.remove(f"{SOURCE}/{names(2)[0]}")

    contenders = {
        "armorer": (prepare, [reconcile()]),
        "one look at each process": (lambda: None, look),
    }
    measured(results, "one removed, n processes", count, contenders, repeats, count=False)
    for process in sleeping:
        process.kill()
    for process in sleeping:
        process.wait()


def look():
    """As a removal needs it: each process' name, and the label of each of its threads."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            read(f"/proc/{pid}/comm")
            for thread in os.listdir(f"/proc/{pid}/task"):
                read(f"/proc/{pid}/task/{thread}/attr/apparmor/current")
        except OSError:
            pass


def read(path):
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    main(*sys.argv[1:])

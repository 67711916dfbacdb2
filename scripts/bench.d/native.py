"""The cases without kernel policy: compiling, and a pass with nothing to do.

native.py ARMORER FEATURES WORK RESULTS REPEATS PARSER-SIZES PASS-SIZES
"""

import os
import shutil
import subprocess
import sys

from measure import Command, Results, counted, interleaved, peak, run
from node import Node, names, plain, typical, write

PARSER = shutil.which("apparmor_parser", path="/sbin:/usr/sbin:/usr/bin:/bin")


def main(armorer, features, work, results, repeats, compiled, passes):
    repeats = int(repeats)
    results = Results(results, "native")
    for n in sizes(compiled):
        from_nothing(armorer, features, work, results, n, repeats if n <= 100 else 1)
    for n in sizes(passes):
        settled(armorer, features, work, results, n, 5 * repeats)
    if passes:
        large_base(armorer, features, work, results, 5 * repeats)


def sizes(words):
    return [int(word) for word in words.split(",") if word]


def reconcile(armorer, node, codes=(0,), env=None):
    command = [armorer, "reconcile", f"{node.root}/profiles", "--root", node.root]
    return Command(command, env or {}, codes)


def with_cache_off(features, *more):
    return [PARSER, "-Q", "-K", "-S", "--kernel-features", features, *more]


def from_nothing(armorer, features, work, results, n, repeats):
    """All is compiled, stored and recorded; the node shows it as loaded by then."""
    node = Node(f"{work}/node", features)
    node.want(names(n), typical)
    files = [f"{node.root}/profiles/{name}" for name in names(n)]
    # The first pass finds nothing loaded, and no kernel loads the policy that it writes.
    ours = reconcile(armorer, node, codes=(0, 1))
    run(ours)
    node.show(node.recorded())
    ours.codes = (0,)
    jobs = f"-j{os.cpu_count()}"
    contenders = {
        "armorer": (node.forget, [ours]),
        "a parser a file": (lambda: None, [Command(with_cache_off(features, file)) for file in files]),
        "one parser, -j": (lambda: None, [Command(with_cache_off(features, jobs, *files))]),
    }
    runs = interleaved(repeats, contenders)
    for who, (prepare, commands) in contenders.items():
        more = {}
        if n <= 100:
            prepare()
            own, largest = peak(commands[0])
            prepare()
            more = {**counted(commands), "own KiB": own, "largest KiB": largest}
        results.add("from nothing", n, who, runs[who], **more)


def settled(armorer, features, work, results, n, repeats):
    node, files = idle(armorer, features, work, results, "nothing changed", n, plain, repeats)
    one_changed(armorer, features, results, node, n, files[n // 2], repeats)
    size = os.stat(f"{node.root}/var/lib/armorer/state.json").st_size
    results.add("the state's bytes", n, "armorer", [(size, 0)])


def large_base(armorer, features, work, results, repeats):
    """Includes are looked at by name: a tree's other files cost nothing."""
    base = f"{work}/base"
    shutil.copytree("/etc/apparmor.d", base, symlinks=True)
    for n in range(1600):
        write(f"{base}/abstractions/bench.d/{n}", "  capability chown,\n")
    for case, tree in [("nothing changed, texts with includes", "/etc/apparmor.d"),
                       ("the same, 1,600 files more in the base tree", base)]:
        idle(armorer, features, work, results, case, 100, typical, repeats, "--base", tree)


def idle(armorer, features, work, results, case, n, text, repeats, *options):
    """A pass with nothing to do, beside the digests of the same files; its node and these files."""
    node = Node(f"{work}/node", features)
    node.want(names(n), text)
    files = [f"{node.root}/profiles/{name}" for name in names(n)]
    ours = reconcile(armorer, node, codes=(0, 1))
    ours.argv += options
    run(ours)
    node.show(node.recorded())
    ours.codes = (0,)
    run(ours)
    run(ours)
    contenders = {"armorer": (lambda: None, [ours]), "sha256sum": (lambda: None, [Command(["sha256sum", *files])])}
    runs = interleaved(repeats, contenders)
    for who, (_, commands) in contenders.items():
        own, largest = peak(commands[0])
        more = {**counted(commands), "own KiB": own, "largest KiB": largest}
        results.add(case, n, who, runs[who], **more)
    return node, files


def one_changed(armorer, features, results, node, n, file, repeats):
    """No kernel loads the policy that is written: such a pass ends with 1, and has no kernel's part."""
    name = os.path.basename(file)
    variants = iter(range(10**6))
    ours = reconcile(armorer, node, (0, 1))
    run(ours)
    run(ours)
    ours.codes = (1,)
    bare = Command(with_cache_off(features, file))
    kept = f"{node.root}/var/lib/armorer"

    def prepare():
        # As it was after the pass before, or the profile that failed would be looked at.
        if os.path.isdir(f"{kept}.kept"):
            shutil.rmtree(kept)
            shutil.copytree(f"{kept}.kept", kept)
        write(file, typical(name, f"{next(variants)}"))
        # Or the pass' own syncs would wait for all of that.
        os.sync()

    shutil.copytree(kept, f"{kept}.kept")
    contenders = {"armorer": (prepare, [ours]), "a parser a file": (prepare, [bare])}
    runs = interleaved(repeats, contenders)
    for who, (_, commands) in contenders.items():
        prepare()
        results.add("one changed", n, who, runs[who], **counted(commands))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"bench: {error}")

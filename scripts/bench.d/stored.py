"""States with stored policy, for the guest: stored.py ARMORER FEATURES NODE JOB SIZES"""

import shutil
import sys

from measure import Command, run
from node import Node, names, plain, typical

# From here on the profiles are plain ones, which compile in a tenth of the time.
MANY = 1000


def main(armorer, features, root, job, sizes):
    for n in [int(word) for word in sizes.split(",") if word]:
        node = Node(root, features)
        node.want(names(n), plain if n >= MANY else typical)
        command = [armorer, "reconcile", f"{root}/profiles", "--root", root]
        command = Command(command, {}, codes=(0, 1))
        run(command)
        node.show(node.recorded())
        command.codes = (0,)
        run(command)
        shutil.copytree(f"{root}/var/lib/armorer", f"{job}/stored/{n}")
        shutil.copytree(f"{root}/profiles", f"{job}/stored/{n}.profiles")


if __name__ == "__main__":
    main(*sys.argv[1:])

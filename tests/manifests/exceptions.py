"""exceptions.py FILE: compares checkov's findings (its JSON) with the file `exceptions`.

Ends with 1 when a check fails that is not excepted, when an exception is not needed, or when
checkov looked at nothing.
"""

import fnmatch
import json
import pathlib
import sys


def main(file):
    text = (pathlib.Path(__file__).parent / "exceptions").read_text()
    exceptions = [line.split(None, 2) for line in text.splitlines() if line.strip() and line[0] != "#"]
    unreasoned = [entry for entry in exceptions if len(entry) < 3]
    results = json.loads(pathlib.Path(file).read_text())["results"]
    findings = {
        # Checkov derives a pod from each workload and names it after both.
        (finding["check_id"], finding["resource"], finding["check_name"])
        for finding in results["failed_checks"]
    }
    needed = set()
    bad = [f"{' '.join(entry)}: an exception without a reason" for entry in unreasoned]
    for check, resource, name in sorted(findings):
        fitting = [
            (c, pattern)
            for c, pattern, _ in (e for e in exceptions if len(e) == 3)
            if c == check and fnmatch.fnmatchcase(resource, pattern)
        ]
        needed.update(fitting)
        if not fitting:
            bad.append(f"{check} fails for {resource}: {name}")
    for check, pattern, *_ in exceptions:
        if (check, pattern) not in needed:
            bad.append(f"{check} {pattern}: an exception that nothing needs")
    passed = len(results["passed_checks"])
    if passed == 0:
        bad.append("checkov passed nothing: did it see the manifests?")
    print("\n".join(bad) or f"checkov: {passed} checks passed, {len(findings)} excepted with a reason")
    return 1 if bad else 0


sys.exit(main(sys.argv[1]))

"""The image as the manifests run it, on a real kernel. The assertions are about the answers
of the kernel and of podman, and about a confined workload's accesses.

Untested here, since podman has no such thing: the caller of the probes and the consequences,
`kubectl rollout status` and `describe`, the field appArmorProfile (a workload's profile is given to
`podman run`), priorities, tolerations, admission."""

import contextlib
import copy
import errno
import json
import os
import re
import shutil
import sys
import time
import traceback
import urllib.request

from node import *

# Four capabilities and no other: KILL, SETGID, SETUID, MAC_ADMIN (include/uapi/linux/capability.h).
PROMISED = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 33
STATE = "/var/lib/armorer"
POD = "armorer-pod-armorer"


def guard(name, denied):
    return f"""profile {name} flags=(attach_disconnected) {{
  signal (receive) peer=unconfined,
  signal,
  file,
  capability,
  deny /tmp/{denied} w,
}}
"""


daemonset = workload("daemonset")
template = daemonset["spec"]["template"]["spec"]
container = (template["containers"][0], template)
profiles = ConfigMap("/srv/profiles", {"custom.guard": guard("custom.guard", "first")})
measured = {}


def passes():
    """The passes of which the pod's log says how they ended: its first, and those that changed something."""
    return logs(POD).count("converged:")


def after_a_pass(count=2):
    """Waits for so many passes of the set `default`, logged or not."""

    def ended():
        with open(f"{STATE}/status.json") as file:
            return sum(json.load(file)["passes"].values())

    before = ended()
    until("another pass", lambda: ended() >= before + count)


def memory(container):
    """The container's memory by its control group: now, at most, and allowed; bytes."""
    with open(f"/proc/{pid_of(container)}/cgroup") as file:
        group = "/sys/fs/cgroup" + file.read().strip().removeprefix("0::")
    values = []
    for name in ("current", "peak", "max"):
        with open(f"{group}/memory.{name}") as file:
            value = file.read().strip()
            values.append(0 if value == "max" else int(value))
    return values


def note_memory(container):
    measured[f"memory of {container}: now, at most, allowed, KiB"] = ", ".join(str(v >> 10) for v in memory(container))


def start_workload(name, profile):
    podman("run", "-d", "--name", name, "--security-opt", f"apparmor={profile}", "--tmpfs", "/tmp",
           "--entrypoint", "/bin/sleep", IMAGE, "100000")
    pid = pid_of(name)
    assert label(pid) == f"{profile} (enforce)", label(pid)
    return pid


def is_up():
    return bool(podman("ps", "-q", "--filter", f"name=^{POD}$")[1].strip())


def may_write(name, file):
    return podman("exec", name, "sh", "-c", f": >/tmp/{file}", check=False)[0] == 0


# --- the DaemonSet --------------------------------------------------------------------------


def test_the_pod_brings_the_profiles_into_the_kernel():
    samples = config_map_data("samples")
    assert len(samples) >= 3, samples
    profiles.set({**profiles.data, **samples})
    start = time.monotonic()
    play(daemonset)
    measured["podman kube play returned, s"] = time.monotonic() - start
    until("every profile of the ConfigMap is loaded", lambda: set(profiles.data) <= set(loaded()))
    measured["pod start to converged, s"] = time.monotonic() - start
    until("the pass ends", lambda: passes() >= 1)


def test_the_container_has_what_the_manifest_promises_and_nothing_more():
    pid = pid_of(POD)
    status = status_of(pid)
    for field in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[field], 16) == PROMISED, (field, status[field])
    assert int(status["CapInh"], 16) == 0 and int(status["CapAmb"], 16) == 0, status
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", status
    assert label(pid).startswith("containers-default-") and label(pid).endswith("(enforce)"), label(pid)
    assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/1/ns/pid")
    with open(f"/proc/{pid}/mountinfo") as lines:
        mounts = {fields[4]: fields for fields in map(str.split, lines)}
    assert "ro" in mounts["/"][5].split(","), mounts["/"]
    assert "ro" in mounts["/host/proc"][5].split(","), mounts["/host/proc"]
    assert "ro" in mounts["/profiles"][5].split(","), mounts["/profiles"]
    measured["capabilities"] = status["CapEff"]


def test_the_compiler_is_caged_and_the_install_leaves_no_denial():
    """Under the runtime's own profile and seccomp filter, Landlock is in force, and nothing is refused."""
    with open(f"{STATE}/state.json") as file:
        assert json.load(file)["cage"] == "full"
    with open("/dev/kmsg", "rb", buffering=0) as kernel:
        os.set_blocking(kernel.fileno(), False)
        denied = []
        while True:
            try:
                line = kernel.read(8192)
            except OSError:
                continue
            if line is None:
                break
            if b'apparmor="DENIED"' in line and (b"armorer" in line or b"apparmor_parser" in line):
                denied.append(line.decode(errors="replace"))
    assert not denied, denied


def test_its_memory_stays_far_below_its_limit():
    note_memory(POD)
    current, peak, limit = memory(POD)
    assert limit == 256 << 20, limit
    assert current < 24 << 20 and peak < 128 << 20, (current, peak)


def probe(name, container=POD):
    """Executes the manifest's probe; gives its exit status and message."""
    spec = next(d for d in documents("daemonset") if d["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    return podman("exec", container, *spec["containers"][0][name]["exec"]["command"], check=False)


def test_the_probes_answer():
    spec = next(d for d in documents("daemonset") if d["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    for name, begins in (("startupProbe", "live:"), ("readinessProbe", "ready:"), ("livenessProbe", "live:")):
        code, said = probe(name)
        assert code == 0 and said.startswith(begins), (name, code, said)
        command = spec["containers"][0][name]["exec"]["command"]
        said = podman("exec", POD, "sh", "-c", f"time {' '.join(command)}")[1]
        measured[f"{name}, s"] = " ".join(said.split()[-6:])


def test_a_workload_is_denied_what_its_profile_denies():
    start_workload("workload", "custom.guard")
    assert not may_write("workload", "first")
    assert may_write("workload", "second")


def test_a_change_of_the_configmap_reaches_the_running_workload():
    before = raw_data("custom.guard")
    profiles.change(guard=guard("custom.guard", "second"))
    until("the kernel holds another policy", lambda: raw_data("custom.guard") != before)
    assert may_write("workload", "first")
    assert not may_write("workload", "second")
    assert label(pid_of("workload")) == "custom.guard (enforce)"


def test_a_bad_profile_leaves_its_last_good_version_and_all_others():
    before = raw_data("custom.guard")
    profiles.change(guard="profile custom.guard { nonsense\n", other=guard("custom.other", "x"))
    until("the other one is loaded", lambda: "custom.other" in loaded())
    until("the log names its line", lambda: re.search(r"custom\.guard: line \d+: ", logs(POD)))
    assert raw_data("custom.guard") == before
    profiles.change(guard=guard("custom.guard", "second"))


def test_ending_killing_and_recreating_the_pod_leaves_the_workload_confined():
    pid = pid_of("workload")
    before = loaded()
    start = time.monotonic()
    podman("stop", "--time", "60", POD)
    measured["podman stop of the loop, s"] = time.monotonic() - start
    assert inspect(POD, "{{.State.ExitCode}}") == "0"
    assert "loaded profiles stay loaded" in logs(POD)
    assert label(pid) == "custom.guard (enforce)" and loaded() == before
    down(daemonset)
    assert label(pid) == "custom.guard (enforce)" and loaded() == before
    play(daemonset)
    until("a pass", lambda: passes() >= 1)
    podman("kill", "--signal", "KILL", POD)
    assert label(pid) == "custom.guard (enforce)" and loaded() == before
    down(daemonset)
    play(daemonset)
    until("a pass", lambda: passes() >= 1)
    assert label(pid) == "custom.guard (enforce)" and loaded() == before
    assert not may_write("workload", "second")


def test_a_profile_taken_out_goes_when_its_workload_has_gone():
    container[0]["env"].append({"name": "ARMORER_REMOVE_AFTER", "value": "0s"})
    down(daemonset)
    play(daemonset)
    until("a pass", lambda: passes() >= 1)
    profiles.change(guard=None, other=None)
    until("the unused one is gone", lambda: "custom.other" not in loaded())
    until("it says so", lambda: "deferred" in logs(POD))
    assert "custom.guard" in loaded()
    assert label(pid_of("workload")) == "custom.guard (enforce)"
    assert not may_write("workload", "second")
    podman("rm", "-f", "--time", "0", "workload")
    until("the other one is gone", lambda: "custom.guard" not in loaded())


def test_two_pods_on_one_node_share_the_state_and_lose_nothing():
    second = copy.deepcopy(daemonset)
    second["metadata"]["name"] = "second"
    play(second)
    until("the second one's pass", lambda: "converged:" in logs("second-pod-armorer"))
    after_a_pass()
    assert set(profiles.data) <= set(loaded())
    down(second)


# --- init containers and jobs ---------------------------------------------------------------


def test_the_gate_holds_its_workload_and_says_why():
    gated = workload("gated-workload")
    spec = gated["spec"]["template"]["spec"]
    names = [init["name"] for init in spec["initContainers"]]
    assert names[0] == "armorer-gate", names
    spec["initContainers"] = spec["initContainers"][:1]
    gate = spec["initContainers"][0]
    for variable in gate["env"]:
        if variable["name"] == "ARMORER_WAIT_FOR":
            variable["value"] = "custom.late"
    app = spec["containers"][0]
    app["command"] = ["/bin/sleep", "100000"]
    playing = play(gated, wait=False)
    try:
        name = f"{gated['metadata']['name']}-pod"
        waits = f"{name}-armorer-gate"
        until("the gate logs the missing profile", lambda: "waiting for custom.late" in podman("logs", waits, check=False)[1])
        status = status_of(pid_of(waits))
        assert int(status["CapEff"], 16) == 0 and status["Uid"].split()[0] == "65534", status
        assert inspect(f"{name}-{app['name']}", "{{.State.Status}}") != "running"
        profiles.change(late=guard("custom.late", "x"))
        until("the workload runs", lambda: inspect(f"{name}-{app['name']}", "{{.State.Status}}") == "running")
    finally:
        playing.kill()
        down(gated)


def test_load_brings_the_one_profile_in_its_own_set():
    before = loaded()
    job = workload("loading-workload")
    data = config_map_data("loading-workload")
    ConfigMap("/srv/armorer-profile", data)
    job["spec"]["template"]["spec"]["containers"][0]["command"] = ["/bin/sh", "-c", "exit 0"]
    play(job)
    until("its profile is loaded", lambda: set(data) <= set(loaded()))
    after_a_pass()
    assert set(before) | set(data) == set(loaded()), (before.keys(), loaded().keys())
    down(job)
    # A profile that the next one no longer names stays: another pod may still come with it.
    ConfigMap("/srv/armorer-profile", {"custom.report-next": guard("custom.report-next", "x")})
    play(job)
    until("the next one is loaded", lambda: "custom.report-next" in loaded())
    until("it ends", lambda: inspect(f"{job['metadata']['name']}-pod-{job['spec']['template']['spec']['containers'][0]['name']}", "{{.State.Status}}") == "exited")
    assert set(before) | {*data, "custom.report-next"} == set(loaded()), (before.keys(), loaded().keys())
    down(job)


def test_the_cronjobs_pod_does_its_one_pass():
    down(daemonset)
    unload("custom.late")
    job = workload("cronjob")
    play(job)
    until("it is loaded again", lambda: "custom.late" in loaded())
    name = f"{job['metadata']['name']}-pod-armorer"
    until("it ends", lambda: inspect(name, "{{.State.Status}}") == "exited")
    # Its list of sources is another one's on this node, so it says so; the profiles are in force.
    assert inspect(name, "{{.State.ExitCode}}") in ("0", "1"), logs(name)
    down(job)


# --- without a capability -------------------------------------------------------------------


def fresh(arguments, texts=None, **options):
    """A pass with a state folder and a set of its own."""
    ConfigMap("/srv/slow", texts or {"custom.quick": guard("custom.quick", "x")})
    shutil.rmtree("/srv/state", ignore_errors=True)
    os.makedirs("/srv/state", mode=0o700)
    where = {STATE: "/srv/state", "/profiles": "/srv/slow", **options.pop("instead", {})}
    return once(["reconcile", "--set", "trial", *arguments], container, instead=where, **options)


def test_without_MAC_ADMIN_no_policy_can_be_loaded():
    code, said = fresh([], drop=["MAC_ADMIN"])
    assert code == 3 and "CAP_MAC_ADMIN" in said and "custom.quick" not in loaded(), (code, said)


def test_without_SETUID_or_SETGID_nothing_is_compiled():
    for capability in ("SETUID", "SETGID"):
        code, said = fresh([], drop=[capability])
        assert code == 1 and "SETUID and SETGID" in said and "custom.quick" not in loaded(), (code, said)


def bomb(name):
    """Rules whose automaton explodes: the compiler is busy for as long as it is let."""
    rules = ("/" + "".join("**" + chr(97 + (rule * 7 + part * 3) % 26) for part in range(5)) for rule in range(24))
    return f"profile {name} {{\n" + "".join(f"{rule} r,\n" for rule in rules) + "}\n"


def test_without_KILL_the_compilers_time_limit_is_only_its_CPU_limit():
    slow = {"custom.slow": bomb("custom.slow")}
    code, said = fresh(["--max-compile-time", "3s"], slow)
    assert code == 1 and "3s of CPU time" in said, (code, said)
    code, said = fresh(["--max-compile-time", "3s"], slow, drop=["KILL"])
    assert code == 1 and "3s of CPU time" in said, (code, said)
    assert "custom.slow" not in loaded()


# --- bad input ------------------------------------------------------------------------------


def one_line(code, said, expected, words):
    assert code == expected, (code, said)
    for word in words:
        assert word in said, (word, said)
    measured.setdefault("lines", []).append(said.strip().splitlines()[-1])


def pass_over(folder, arguments=(), **options):
    where = {"/profiles": folder, **options.pop("instead", {})}
    return once(["reconcile", *arguments], container, instead=where, **options)


def test_without_securityfs_the_reason_is_reported():
    os.makedirs("/srv/none", exist_ok=True)
    one_line(*pass_over("/srv/profiles", instead={"/host/securityfs": "/srv/none"}), 3, ["/host/securityfs", "hostPath"])


def test_a_proc_with_hidepid_removes_nothing():
    os.makedirs("/srv/hidden", exist_ok=True)
    sh(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/srv/hidden"])
    try:
        gone = max(profiles.data)
        ConfigMap("/srv/fewer", {k: v for k, v in profiles.data.items() if k != gone})
        one_line(*pass_over("/srv/fewer", ["--remove-after", "0s"], instead={"/host/proc": "/srv/hidden"}), 1, ["hidepid"])
        assert gone in loaded()
    finally:
        sh(["umount", "/srv/hidden"])


@contextlib.contextmanager
def trial(data=None, state="/srv/state", securityfs=None, **values):
    """The DaemonSet's pod once more, with a state folder and a ConfigMap of its own."""
    second = copy.deepcopy(daemonset)
    second["metadata"]["name"] = "trial"
    spec = second["spec"]["template"]["spec"]
    places = {"state": state, "profiles": "/srv/trial", "securityfs": securityfs}
    for volume in spec["volumes"]:
        if places.get(volume["name"]):
            volume["hostPath"]["path"] = places[volume["name"]]
    spec["containers"][0]["env"] += [{"name": name, "value": value} for name, value in values.items()]
    source = ConfigMap("/srv/trial", data or {"custom.trial": guard("custom.trial", "x")})
    tried = {*source.data, "custom.more"}
    if state == "/srv/state":
        shutil.rmtree(state, ignore_errors=True)
        os.makedirs(state, mode=0o700)
    play(second)
    try:
        yield source
        assert inspect(TRIAL, "{{.State.Status}} {{.RestartCount}}") == "running 0", logs(TRIAL)
        for name in ("startupProbe", "livenessProbe"):
            code, said = probe(name, TRIAL)
            assert code == 0, (name, said)
    finally:
        down(second)
        for name in set(loaded()) & tried:
            unload(name)


TRIAL = "trial-pod-armorer"


def trial_says(*words):
    """Waits for a line of the log with all the words, and notes it."""
    def line():
        return next((line for line in logs(TRIAL).splitlines() if all(word in line for word in words)), None)
    try:
        found = until(f"a line with {words}", line, 60)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{logs(TRIAL)}") from None
    measured.setdefault("lines", []).append(found)


def trial_ready(expected, *words):
    def answer():
        code, said = probe("readinessProbe", TRIAL)
        return ((code == 0) == expected and all(word in said for word in words), said)
    said = ["", ""]

    def holds():
        said[:] = answer()
        return said[0]
    try:
        until(f"ready is {expected}", holds, 60)
    except AssertionError as error:
        raise AssertionError(f"{error}: {said[1]}\n{logs(TRIAL)}") from None
    measured.setdefault("lines", []).append(f"ready is {expected}: {said[1].strip()}")


def test_a_read_only_state_folder_is_reported_and_works_again_without_a_new_pod():
    mount_disk("/srv/disk", 8)
    try:
        sh(["mount", "-o", "remount,ro", "/srv/disk"])
        with trial(state="/srv/disk"):
            trial_says("/var/lib/armorer", "Read-only file system")
            trial_ready(False)
            assert "custom.trial" not in loaded()
            sh(["mount", "-o", "remount,rw", "/srv/disk"])
            until("it is loaded", lambda: "custom.trial" in loaded())
            trial_ready(True)
    finally:
        sh(["umount", "/srv/disk"])


def test_a_full_state_folder_is_reported_and_nothing_is_lost():
    mount_disk("/srv/disk", 8)
    try:
        with trial(state="/srv/disk") as source:
            trial_ready(True)
            before = raw_data("custom.trial")
            sh(["sh", "-c", "head -c 20M /dev/zero >/srv/disk/filler"], check=False)
            source.change(trial=guard("custom.trial", "y"), more=guard("custom.more", "x"))
            trial_says("No space left on device")
            trial_ready(False)
            assert raw_data("custom.trial") == before and "custom.more" not in loaded()
            with open("/srv/disk/state.json") as file:
                assert "custom.trial" in json.load(file)["sets"]["default"]["profiles"]
            os.unlink("/srv/disk/filler")
            until("both are loaded", lambda: "custom.more" in loaded() and raw_data("custom.trial") != before)
            trial_ready(True)
    finally:
        sh(["umount", "/srv/disk"])


def test_the_longest_name_is_loaded_and_the_longest_key_and_binary_data_are_refused():
    longest = "custom." + "x" * 232
    too_long = longest + "x" * 14
    assert len(too_long) == 253
    try:
        # The API server allows no key above 253, and no file system of a node a name above 255.
        open("/srv/" + "x" * 300, "w").close()
        raise AssertionError("a name of 300 bytes was possible")
    except OSError as error:
        assert error.errno == errno.ENAMETOOLONG, error
    texts = {name: guard(name, "x") for name in (longest, too_long)}
    with trial({**texts, "custom.binary": bytes(range(256))}):
        until("the longest is loaded", lambda: longest in loaded())
        trial_says("is longer than 239 bytes", "refused")
        trial_says("custom.binary", "refused", "UTF-8")
        trial_ready(True)
        assert "custom.binary" not in loaded() and too_long not in loaded()


def test_a_configmap_that_is_empty_or_half_there_removes_nothing():
    with trial(ARMORER_REMOVE_AFTER="0s") as source:
        trial_ready(True)
        data = dict(source.data)
        source.set({})
        trial_says("--allow-empty")
        assert "custom.trial" in loaded()
        source.set(data)
        trial_ready(True)
        whole = os.readlink("/srv/trial/..data")
        os.symlink("..2026_01_01_00_00_00.gone", "/srv/trial/..data_tmp")
        os.rename("/srv/trial/..data_tmp", "/srv/trial/..data")
        trial_says("/profiles/..data links to ..2026_01_01_00_00_00.gone, which does not exist")
        trial_ready(False)
        assert "custom.trial" in loaded()
        os.unlink("/srv/trial/..data")
        time.sleep(6)
        assert "custom.trial" in loaded()
        os.symlink(whole, "/srv/trial/..data")
        trial_ready(True)
        # As the kubelet lays out a ConfigMap that is optional and not there.
        source.set({})
        shutil.rmtree("/srv/trial")
        os.makedirs("/srv/trial")
        time.sleep(6)
        assert "custom.trial" in loaded()


def test_on_a_node_without_apparmor_the_pod_says_so_and_stays_not_ready():
    os.makedirs("/srv/none", exist_ok=True)
    with trial(securityfs="/srv/none"):
        trial_says("/host/securityfs", "hostPath")
        trial_ready(False, "/host/securityfs")
        assert "custom.trial" not in loaded()


def test_two_daemonsets_with_a_set_each_keep_to_their_own():
    canary = workload("canary")
    data = {"custom.next": guard("custom.next", "x")}
    taken = min(profiles.data)
    volume = next(v for v in canary["spec"]["template"]["spec"]["volumes"] if v["name"] == "profiles")
    volume["hostPath"]["path"] = "/srv/profiles-canary"
    if not is_up():
        play(daemonset)
        until("a pass", lambda: passes() >= 1)
    before = {name: raw_data(name) for name in profiles.data}
    ConfigMap("/srv/profiles-canary", {**data, taken: guard(taken, "stolen")})
    play(canary)
    name = f"{canary['metadata']['name']}-pod-armorer"
    try:
        until("its own are loaded", lambda: set(data) <= set(loaded()))
        line = until("the conflict is logged", lambda: next((l for l in logs(name).splitlines() if "conflict" in l and taken in l), None))
        measured.setdefault("lines", []).append(line)
        after_a_pass()
        assert {name: raw_data(name) for name in before} == before
        assert set(data) <= set(loaded())
    finally:
        down(canary)
    assert set(data) <= set(loaded())


# --- metrics --------------------------------------------------------------------------------


def test_the_sidecar_serves_the_kernels_state():
    served = workload("metrics")
    served["metadata"]["name"] = "served"
    if is_up():
        down(daemonset)
    play(served)
    try:
        def fetch():
            try:
                return urllib.request.urlopen("http://127.0.0.1:9478/metrics.txt", timeout=30)
            except (urllib.error.URLError, ConnectionError):
                return None
        answer = until("an answer", fetch, 60)
        assert answer.headers.get_content_type() == "text/plain", answer.headers
        text = answer.read().decode()
        served_profiles = dict(re.findall(r'^armorer_profile_info\{.*?profile="([^"]*)",mode="([^"]*)"', text, re.M))
        kernel = {name: mode.rstrip(")") for name, mode in loaded().items()}
        assert served_profiles and served_profiles.items() <= kernel.items(), (served_profiles, kernel)
        assert set(profiles.data) <= set(served_profiles), served_profiles
        assert "armorer_last_pass_exit_code{" in text
        if os.path.exists("/job/promtool"):
            with open("/tmp/metrics.prom", "w") as out:
                out.write(text)
            code, said = sh(["sh", "-c", "/job/promtool check metrics </tmp/metrics.prom"], check=False)
            assert code == 0 and said == "", said
            measured["promtool"] = "no findings"
        status = status_of(pid_of("served-pod-metrics"))
        assert int(status["CapEff"], 16) == 0 and status["Uid"].split()[0] == "65534", status
        for container in ("served-pod-metrics", "served-pod-armorer"):
            note_memory(container)
    finally:
        down(served)
        play(daemonset)


# --- profiles from an image -----------------------------------------------------------------


def test_profiles_come_from_an_image_and_a_bad_set_is_not_ready():
    if is_up():
        down(daemonset)
    good, bad = (open(f"/job/profiles-{which}").read().strip() for which in ("good", "bad"))

    def with_image(reference):
        document = workload("image-source")
        document["metadata"]["name"] = "image"
        for volume in document["spec"]["template"]["spec"]["volumes"]:
            if "image" in volume:
                assert volume["image"].pop("reference").startswith("registry.example.com/profiles:")
                volume["image"]["reference"] = reference
        return document

    spec = next(d for d in documents("image-source") if d["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    ready = spec["containers"][0]["readinessProbe"]["exec"]["command"]
    pod = "image-pod-armorer"
    first = with_image(good)
    play(first)
    try:
        until("the image's profile is loaded", lambda: "custom.of-image" in loaded())
        until("it is ready", lambda: podman("exec", pod, *ready, check=False)[0] == 0)
        before = raw_data("custom.of-image")
    finally:
        down(first)
    second = with_image(bad)
    play(second)
    try:
        # This makes Kubernetes halt the rollout at maxUnavailable.
        refused = until("the bad text is refused", lambda: "custom.of-image" in logs(pod) and podman("exec", pod, *ready, check=False))
        assert refused[0] != 0, refused
        assert raw_data("custom.of-image") == before
    finally:
        down(second)
        play(daemonset)


# --- boot -----------------------------------------------------------------------------------


def boot(action, check=True, root=HOST, more=()):
    """`armorer-boot` as the manifest runs it, with `root` as the host."""
    command = ["run", "--rm", "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
    for folder in ("/opt/armorer", "/etc/systemd/system"):
        command += ["-v", f"{root}{folder}:/host{folder}"]
    command += ["-v", f"{root}/proc:/host/proc:ro", *more]
    return podman(*command, "--entrypoint", "/usr/bin/armorer-boot", IMAGE, action, check=check)


UNITS = "etc/systemd/system"
REFUSED = {
    "no systemd": ([], ["this host is started by busybox, not by systemd"]),
    "the program in memory": (["mount -t tmpfs program opt/armorer"],
                              ["/opt/armorer of this host is in memory (tmpfs)", "does not outlast a boot"]),
    "units in memory": ([f"mount -t tmpfs units {UNITS}"], ["/etc/systemd/system of this host is in memory (tmpfs)"]),
    "read-only": ([f"mount --bind {UNITS} {UNITS}", f"mount -o remount,bind,ro {UNITS}"],
                  ["/etc/systemd/system of this host is mounted read-only"]),
    "noexec": (["mount --bind opt/armorer opt/armorer", "mount -o remount,bind,noexec opt/armorer"],
               ["/opt/armorer of this host cannot execute programs (noexec?)"]),
    "full": (["head -c 100M /dev/zero >filler || true"], ["cannot write /opt/armorer/armorer of this host", "full disk"]),
    "an overlay over memory": (["mkdir run; mount -t tmpfs run run; mkdir run/up run/work",
                                # As the host calls the place, not as the guest does.
                                "chroot . /bin/busybox mount -t overlay etc /etc "
                                "-o lowerdir=/etc,upperdir=/run/up,workdir=/run/work"],
                               ["is an overlay over memory (tmpfs at /run)"]),
    "an overlay over memory that is gone": (["mkdir gone; mount -t tmpfs gone gone; mkdir gone/up gone/work",
                                             f"mount -t overlay etc etc -o lowerdir={HOST}/etc,upperdir={HOST}/gone/up,workdir={HOST}/gone/work",
                                             "umount --lazy gone"],
                                            [f"is an overlay that writes to {HOST}/gone/up, which no mount of the host shows"]),
    "an overlay that keeps nothing": ([f"mkdir more; mount -t overlay etc etc -o lowerdir={HOST}/more:{HOST}/etc"],
                                      ["/etc/systemd/system of this host"]),
}


def boot_refused(why):
    commands, words = REFUSED[why]
    with host("mkdir bin; cp /usr/bin/busybox bin/", *commands, init="busybox" if why == "no systemd" else "systemd"):
        code, said = boot("install", check=False)
        one_line(code, said, 3, words)
        assert said.count("\n") == 1 and said.startswith("armorer-boot: "), said
        assert os.listdir(f"{HOST}/opt/armorer") == [] and os.listdir(f"{HOST}/{UNITS}") == [], why


def test_boot_refuses_a_host_where_nothing_would_last():
    for why in REFUSED:
        boot_refused(why)


def test_boot_refuses_a_root_that_is_an_overlay_over_memory_that_is_gone():
    # The guest itself, but for the name of its first process.
    with open("/tmp/comm", "w") as file:
        file.write("systemd\n")
    for folder in ("/opt/armorer", f"/{UNITS}"):
        os.makedirs(folder, exist_ok=True)
    one_line(*boot("install", False, "", ["-v", "/tmp/comm:/host/proc/1/comm:ro"]), 3,
             ["/etc/systemd/system of this host is an overlay that writes to /upper/files, which no mount"])


def test_boot_takes_an_overlay_that_lasts():
    # As Flatcar's /etc: mounted in the initramfs, by a path that its root does not have.
    with host("mkdir up work", f"mount -t overlay etc etc -o lowerdir={HOST}/etc,upperdir={HOST}/up,workdir={HOST}/work"):
        boot("install")
        assert os.path.exists(f"{HOST}/up/systemd/system/armorer-restore.service")
        boot("uninstall")


def test_boot_puts_its_files_in_place_and_the_unit_restores_and_both_are_taken_away():
    # It would load again the profiles that are removed here.
    if is_up():
        down(daemonset)
    with host():
        play(on_host(workload("boot")))
        unit = f"{HOST}/{UNITS}/armorer-restore.service"
        until("the pod rests", lambda: inspect("armorer-boot-pod-rest", "{{.State.Status}}") == "running")
        assert os.readlink(f"{HOST}/{UNITS}/multi-user.target.wants/armorer-restore.service") == "../armorer-restore.service"
        status = status_of(pid_of("armorer-boot-pod-rest"))
        assert int(status["CapEff"], 16) == 0 and status["Uid"].split()[0] == "65534", status
        note_memory("armorer-boot-pod-rest")
        down(on_host(workload("boot")))
        os.makedirs("/opt/armorer", exist_ok=True)
        sh(["mount", "--bind", f"{HOST}/opt/armorer", "/opt/armorer"])
        try:
            restores(unit)
        finally:
            sh(["umount", "/opt/armorer"])
        before = loaded()
        taken = on_host(workload("boot-uninstall"))
        for _ in range(2):
            play(taken)
            until("the pod rests", lambda: inspect("armorer-boot-pod-rest", "{{.State.Status}}") == "running")
            assert not os.path.lexists(unit) and not os.path.exists(f"{HOST}/opt/armorer/armorer")
            assert os.listdir(f"{HOST}/{UNITS}/multi-user.target.wants") == []
            down(taken)
        assert loaded() == before


def on_host(document):
    """One edit more: the host is HOST."""
    for volume in document["spec"]["template"]["spec"]["volumes"]:
        volume["hostPath"]["path"] = HOST + volume["hostPath"]["path"]
    return document


def restores(unit):
    sh(["systemd-analyze", "verify", "--man=no", unit])
    with open(unit) as file:
        lines = file.read().splitlines()
    before = " ".join(line for line in lines if line.startswith("Before="))
    for kubelet in ("kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent",
                    "snap.microk8s.daemon-kubelite", "snap.microk8s.daemon-kubelet"):
        assert f"{kubelet}.service" in before.replace("Before=", "").split(), kubelet
    command = next(line for line in lines if line.startswith("ExecStart=")).removeprefix("ExecStart=")
    policies = {name: raw_data(name) for name in profiles.data}
    assert all(policies.values()), policies.keys()
    for name in policies:
        unload(name)
    assert not set(policies) & set(loaded())
    # No compiler, no source, no network.
    os.rename("/srv/profiles", "/srv/away")
    try:
        script = f"mount --bind /dev/null /usr/sbin/apparmor_parser && exec {command}"
        sh(["unshare", "--mount", "--net", "sh", "-ec", script])
    finally:
        os.rename("/srv/away", "/srv/profiles")
    assert {name: raw_data(name) for name in policies} == policies


# --- the end --------------------------------------------------------------------------------


def test_uninstall_leaves_profiles_in_use_and_ends_when_they_are_unused():
    if "custom.guard" not in profiles.data:
        profiles.change(guard=guard("custom.guard", "first"))
    if not is_up():
        play(daemonset)
    until("the profile is loaded", lambda: "custom.guard" in loaded())
    pid = start_workload("workload", "custom.guard")
    down(daemonset)
    uninstall = workload("uninstall")
    spec = uninstall["spec"]["template"]["spec"]["containers"][0]
    next(v for v in spec["env"] if v["name"] == "ARMORER_REMOVE_AFTER")["value"] = "0s"
    ready = next(d for d in documents("uninstall") if d["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    ready = ready["containers"][0]["readinessProbe"]["exec"]["command"]
    play(uninstall)
    try:
        until("the unused ones are gone", lambda: set(profiles.data) & set(loaded()) == {"custom.guard"})
        code, said = podman("exec", POD, *ready, check=False)
        assert code != 0 and "deferred" in said, (code, said)
        until("the log names the process", lambda: re.search(r"custom\.guard: in use by 1 process", logs(POD)))
        assert int(status_of(pid_of(POD))["CapEff"], 16) == 1 << 33
        assert label(pid) == "custom.guard (enforce)"
        podman("rm", "-f", "--time", "0", "workload")
        until("it is gone", lambda: "custom.guard" not in loaded())
        until("it says so", lambda: "armorer-uninstall: done:" in logs(POD))
        assert podman("exec", POD, *ready, check=False)[0] == 0
        start = time.monotonic()
        podman("stop", "--time", "60", POD)
        took, code = time.monotonic() - start, inspect(POD, "{{.State.ExitCode}}")
        assert code == "0" and took < 20, (code, took)
    finally:
        down(uninstall)


# --------------------------------------------------------------------------------------------


def main(parts):
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    tests = [(name, test) for name, test in tests if not parts or any(part in name for part in parts)]
    failed = 0
    for name, test in tests:
        start = time.monotonic()
        try:
            test()
            verdict = "ok"
        except Exception:
            verdict = "FAILED"
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(podman("ps", "-a", check=False)[1], podman("logs", "--tail", "12", POD, check=False)[1])
        print(f"{verdict:6} {name[5:].replace('_', ' ')} ({time.monotonic() - start:.0f} s)", flush=True)
    for name, value in measured.items():
        for line in value if isinstance(value, list) else [value]:
            print(f"measured: {name}: {f'{line:.1f}' if isinstance(line, float) else line}")
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed or not tests else 0


sys.exit(main(sys.argv[1:]))

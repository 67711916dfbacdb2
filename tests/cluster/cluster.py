"""The image as the manifests run it, on a real kernel. What is asserted is what the kernel and
podman say, and what a confined workload can do.

Untested here, since podman has no such thing: who calls the probes and what follows from them,
`kubectl rollout status` and `describe`, the field appArmorProfile (a workload's profile is given to
`podman run`), priorities, tolerations, admission."""

import copy
import os
import re
import shutil
import sys
import time
import traceback

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
    return logs(POD).count("converged:")


def after_a_pass(count=2):
    before = passes()
    until("another pass", lambda: passes() >= before + count)


def start_workload(name, profile):
    podman("run", "-d", "--name", name, "--security-opt", f"apparmor={profile}", "--tmpfs", "/tmp",
           "--entrypoint", "/bin/sleep", IMAGE, "100000")
    pid = pid_of(name)
    assert label(pid) == f"{profile} (enforce)", label(pid)
    return pid


def may_write(name, file):
    return podman("exec", name, "sh", "-c", f": >/tmp/{file}", check=False)[0] == 0


# --- the DaemonSet --------------------------------------------------------------------------


def test_the_pod_brings_the_profiles_into_the_kernel():
    samples = config_map_data("daemonset")
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


def test_the_probes_answer():
    spec = next(d for d in documents("daemonset") if d["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = spec["containers"][0][probe]["exec"]["command"]
        code, said = podman("exec", POD, *command, check=False)
        assert code == 0 and ("live:" in said or "ready:" in said), (probe, code, said)


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
    until("it is told with its line", lambda: re.search(r"custom\.guard\D+\d+.*syntax error", logs(POD)))
    assert raw_data("custom.guard") == before
    profiles.change(guard=guard("custom.guard", "second"))


def test_ending_killing_and_recreating_the_pod_leaves_the_workload_confined():
    pid = pid_of("workload")
    before = loaded()
    start = time.monotonic()
    podman("stop", "--time", "60", POD)
    measured["podman stop of the loop, s"] = time.monotonic() - start
    assert inspect(POD, "{{.State.ExitCode}}") == "0"
    assert "what is loaded stays loaded" in logs(POD)
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
        until("it says what it waits for", lambda: "waiting for custom.late" in podman("logs", waits, check=False)[1])
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


# --- what breaks without --------------------------------------------------------------------


def fresh(arguments, **options):
    """A pass with a state folder and a set of its own."""
    ConfigMap("/srv/slow", {"custom.quick": guard("custom.quick", "x")})
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


# --- bad input ------------------------------------------------------------------------------


def one_line(code, said, wanted, words):
    assert code == wanted, (code, said)
    for word in words:
        assert word in said, (word, said)
    measured.setdefault("lines", []).append(said.strip().splitlines()[-1])


def pass_over(folder, arguments=(), **options):
    where = {"/profiles": folder, **options.pop("instead", {})}
    return once(["reconcile", *arguments], container, instead=where, **options)


def test_without_securityfs_the_reason_is_told():
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


# --- boot -----------------------------------------------------------------------------------


def boot(action, check=True):
    # The guest's first process is no systemd.
    with open("/tmp/comm", "w") as file:
        file.write("systemd\n")
    mounts = []
    for folder in ("/opt/armorer", "/etc/systemd/system"):
        os.makedirs(folder, exist_ok=True)
        mounts += ["-v", f"{folder}:/host{folder}"]
    return podman("run", "--rm", "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges",
                  *mounts, "-v", "/proc:/host/proc:ro", "-v", "/tmp/comm:/host/proc/1/comm:ro",
                  "--entrypoint", "/usr/bin/armorer-boot", IMAGE, action, check=check)


def test_boot_puts_its_files_in_place_and_the_unit_restores():
    boot("install")
    unit = "/etc/systemd/system/armorer-restore.service"
    sh(["systemd-analyze", "verify", "--man=no", unit])
    assert os.path.samefile("/etc/systemd/system/multi-user.target.wants/armorer-restore.service", unit)
    with open(unit) as file:
        lines = file.read().splitlines()
    before = " ".join(line for line in lines if line.startswith("Before="))
    for kubelet in ("kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent",
                    "snap.microk8s.daemon-kubelite", "snap.microk8s.daemon-kubelet"):
        assert f"{kubelet}.service" in before.replace("Before=", "").split(), kubelet
    command = next(line for line in lines if line.startswith("ExecStart=")).removeprefix("ExecStart=")
    wanted = {name: raw_data(name) for name in profiles.data}
    assert all(wanted.values()), wanted.keys()
    for name in wanted:
        unload(name)
    assert not set(wanted) & set(loaded())
    # No compiler, no source, no network.
    os.rename("/srv/profiles", "/srv/away")
    try:
        script = f"mount --bind /dev/null /usr/sbin/apparmor_parser && exec {command}"
        sh(["unshare", "--mount", "--net", "sh", "-ec", script])
    finally:
        os.rename("/srv/away", "/srv/profiles")
    assert {name: raw_data(name) for name in wanted} == wanted


def test_boot_is_taken_away_without_a_trace():
    before = loaded()
    boot("uninstall")
    assert not os.path.lexists("/etc/systemd/system/armorer-restore.service")
    assert not os.path.lexists("/etc/systemd/system/multi-user.target.wants/armorer-restore.service")
    assert not os.path.exists("/opt/armorer/armorer")
    assert loaded() == before
    boot("uninstall")


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
    for what, value in measured.items():
        for line in value if isinstance(value, list) else [value]:
            print(f"measured: {what}: {f'{line:.1f}' if isinstance(line, float) else line}")
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed or not tests else 0


sys.exit(main(sys.argv[1:]))

"""promises.py FOLDER...: the promises of the rendered manifests in the folders, one assertion each.

Ends with 1 and a line for each that does not hold, or when it found too few workloads.
"""

import collections
import pathlib
import re
import sys

import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
VERSION = re.search(r'^version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.M)[1]
LOADER_CAPS = {"MAC_ADMIN", "SETUID", "SETGID", "KILL"}
HOST = {"/sys/kernel/security", "/proc", "/var/lib/armorer"}
# The further mounts of one workload.
HOST_BESIDES = {
    ("kapparmor", "armorer"): {"/etc/apparmor.d/custom"},
    ("boot", "armorer-boot"): {"/opt/armorer", "/etc/systemd/system"},
    ("boot-uninstall", "armorer-boot"): {"/opt/armorer", "/etc/systemd/system"},
}
# An unknown one is an error.
KNOWN = {"ARMORER_" + name for name in (
    "CLEAR_TAINT", "COPY_TO", "EVENTS", "LABEL_NODE", "METRICS_FILE", "PROC", "REMOVE_AFTER", "SECURITYFS", "SET",
    "STATE_DIR", "STRICT", "TAKE_OVER", "TIMEOUT", "WAIT_FOR")}
STANDARD = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "part-of", "managed-by")}
OURS = "localhost/armorer", "registry.example.com/armorer"

failures = []
seen = collections.Counter()


def expect(holds, where, promise):
    seen[promise] += 1
    if not holds:
        failures.append(f"{where}: not {promise}")


def pod_of(thing):
    """The pod's metadata and spec of any workload; None for other objects."""
    spec = thing.get("spec", {})
    match thing["kind"]:
        case "Pod":
            return thing["metadata"], spec
        case "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            template = spec["template"]
        case _:
            return None
    return template.get("metadata", {}), template["spec"]


def is_ours(container):
    return container["image"].rpartition(":")[0] in OURS


def check_container(where, pod, container):
    security = container.get("securityContext", {})
    caps = security.get("capabilities", {})
    added = set(caps.get("add", []))
    where = f"{where}/{container['name']}"
    effective = {**pod.get("securityContext", {}), **security}
    expect(security.get("privileged", False) is False, where, "unprivileged")
    expect(security.get("allowPrivilegeEscalation") is False, where, "without privilege escalation")
    expect(security.get("readOnlyRootFilesystem") is True, where, "on a read-only root file system")
    expect(caps.get("drop") == ["ALL"], where, "dropping all capabilities")
    expect(effective.get("seccompProfile") == {"type": "RuntimeDefault"}, where, "under RuntimeDefault seccomp")
    expect(
        effective.get("appArmorProfile", {"type": "RuntimeDefault"})["type"] == "RuntimeDefault",
        where,
        "under the runtime's AppArmor profile",
    )
    for variable in container.get("env", []):
        known = variable["name"] in KNOWN or not variable["name"].startswith("ARMORER_")
        expect(known, f"{where}: {variable['name']}", "setting known variables only")
    resources = container.get("resources", {})
    expect({"cpu", "memory"} <= resources.get("requests", {}).keys(), where, "requesting CPU and memory")
    expect("memory" in resources.get("limits", {}), where, "limited in memory")
    expect("cpu" not in resources.get("limits", {}), where, "free of a CPU limit")
    expect(container["image"].rpartition(":")[2] == VERSION, where, f"of the version {VERSION}")
    expect(container.get("imagePullPolicy") == "IfNotPresent", where, "started without the registry")
    for mount in container.get("volumeMounts", []):
        if mount["name"].endswith("proc"):
            expect(mount.get("readOnly") is True, where, "reading /proc only")
            expect(mount["mountPath"] == "/host/proc", where, "finding the host's /proc at /host/proc")
        if mount["name"].endswith("securityfs"):
            expect(mount["mountPath"] == "/host/securityfs", where, "mounting securityfs where no profile denies it")
    command = container.get("command", [])
    if "wait" in command:
        check_gate(where, effective, container)
    elif not any(word in command for word in ("/usr/bin/armorer-loop", "reconcile", "/usr/bin/armorer-uninstall")):
        expect(added == set(), where, "without any capability")
    elif "/usr/bin/armorer-uninstall" in command:
        expect(added == {"MAC_ADMIN"}, where, "uninstalling with MAC_ADMIN alone")
    else:
        expect(added == LOADER_CAPS, where, f"loading with {' '.join(sorted(LOADER_CAPS))} exactly")
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        expect(env.get("ARMORER_SECURITYFS") == "/host/securityfs", where, "with the path of securityfs")
        expect(env.get("ARMORER_PROC") == "/host/proc", where, "with the path of /proc")
        expect(env.get("ARMORER_TAKE_OVER") == "true", where, "free to change its source")


def check_gate(where, effective, container):
    expect("add" not in container["securityContext"]["capabilities"], where, "a gate without any capability")
    expect(not container.get("volumeMounts"), where, "a gate without a mount")
    expect(effective.get("runAsNonRoot") is True and effective.get("runAsUser"), where, "a gate that is not root")
    own = container["securityContext"].get("appArmorProfile")
    expect(own == {"type": "RuntimeDefault"}, where, "a gate with an AppArmor profile of its own")


def check_pod(file, thing, pod, has_rights):
    where = f"{file.name}: {thing['kind']} {thing['metadata']['name']}"
    for key in ("hostPID", "hostIPC"):
        expect(not pod.get(key), where, f"without {key}")
    cron = thing["kind"] == "CronJob" and thing["metadata"]["name"] == "armorer"
    expect(bool(pod.get("hostNetwork")) == cron, where, "on the host's network only as armorer's CronJob")
    token = pod.get("automountServiceAccountToken")
    expect(token is False or (token is True and has_rights), where, "with a token only where a role is bound")
    paths = {v["hostPath"]["path"] for v in pod.get("volumes", []) if "hostPath" in v}
    allowed = HOST | HOST_BESIDES.get((file.stem, thing["metadata"]["name"]), set())
    expect(paths <= allowed, f"{where}: {sorted(paths - allowed)}", "mounting no more of the host than it may")
    names = [c["name"] for c in pod.get("initContainers", [])]
    for component in ("gate", "load"):
        if f"armorer/{component}" in thing["metadata"].get("labels", {}):
            expect(names[:1] == [f"armorer-{component}"], where, f"begun by its {component}")
    ours = [c for c in pod.get("initContainers", []) + pod["containers"] if is_ours(c)]
    if file.parent.name != "manifests":
        expect(all(c["image"].startswith("registry.example.com/") for c in ours), where, "showing how the image is set")
    expect(ours, where, "running armorer")
    for container in ours:
        check_container(where, pod, container)
    inits = pod.get("initContainers", [])
    if any(is_ours(c) for c in inits):
        expect(is_ours(inits[0]), where, "held before its other init containers")
    if all(is_ours(c) for c in pod["containers"]):
        check_node_pod(where, thing, pod)


def check_node_pod(where, thing, pod):
    """The pods on every node, or on the one named."""
    expect(pod.get("tolerations") == [{"operator": "Exists"}], where, "tolerating every taint")
    expect(pod.get("nodeSelector", {}).get("kubernetes.io/os") == "linux", where, "for Linux only")
    expect(pod.get("enableServiceLinks") is False, where, "without service links")
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    archs = {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]}
    expect(terms == [{"matchExpressions": [archs]}], where, "for the processors that the image is built for")
    expect(thing["metadata"]["labels"].keys() >= STANDARD, where, "labelled as is the custom")
    container = pod["containers"][0]
    if thing["metadata"]["name"] == "armorer-boot":
        return
    expect(pod.get("priorityClassName") == "system-node-critical", where, "critical to the node")
    if thing["kind"] == "CronJob":
        job = thing["spec"]["jobTemplate"]["spec"]
        expect(job["completions"] == job["parallelism"], where, "running all its pods at once")
        spread = pod["topologySpreadConstraints"][0]
        expect((spread["topologyKey"], spread["maxSkew"]) == ("kubernetes.io/hostname", 1), where, "spread over the nodes")
        expect(job["backoffLimitPerIndex"] == 0, where, "trying again at the next tick, each node for itself")
    if thing["kind"] != "DaemonSet":
        return
    expect("readinessProbe" in container, where, "probed for readiness")
    for probe in ("startupProbe", "livenessProbe"):
        command = container[probe]["exec"]["command"]
        expect(command[-1] == "live", where, f"restarted for a silent loop only ({probe})")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        expect(container[probe]["timeoutSeconds"] >= 15, where, f"given time to answer ({probe})")
    expect(container["startupProbe"].get("initialDelaySeconds"), where, "not probed before it can have started")
    for volume in pod["volumes"]:
        if volume["name"] == "profiles" and "configMap" in volume:
            expect(volume["configMap"].get("optional") is True, where, "started without its ConfigMap")
    unavailable = thing["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"]
    expect(unavailable == "100%" or container["command"] == ["/usr/bin/armorer-loop"], where, "rolled out without waiting for in-use profiles")


def check_other(file, thing):
    where = f"{file.name}: {thing['kind']} {thing['metadata']['name']}"
    match thing["kind"]:
        case "ServiceAccount":
            expect(thing.get("automountServiceAccountToken") is False, where, "an account whose token is off")
        case "ConfigMap":
            sample = file.stem in ("samples", "own-profiles", "loading-workload", "every-kind")
            expect(sample, where, "leaving the user's ConfigMap alone")
        case "Role" | "ClusterRole":
            for rule in thing["rules"]:
                expect("*" not in rule["verbs"] + rule["resources"], where, "a role without wildcards")
                if file.parent.name == "manifests":
                    expect(rule.get("resourceNames"), where, "a role that names its objects")
        case "Namespace":
            expect(file.stem not in ("kapparmor", "canary", "uninstall"), where, "a namespace of its own only where it may go with it")
            labels = thing["metadata"]["labels"]
            expect(labels.get("pod-security.kubernetes.io/enforce") == "privileged", where, "a namespace that admits its pods")


# An overlay that is lost from kustomize/ and manifests/ alike differs from nothing.
OVERLAYS = ["boot", "boot-uninstall", "canary", "cronjob", "daemonset", "kapparmor", "samples", "uninstall"]


def main(folders):
    files = [file for folder in folders for file in sorted(pathlib.Path(folder).glob("*.yaml"))]
    pods = 0
    for file in files:
        things = list(filter(None, yaml.safe_load_all(file.read_text())))
        has_rights = any(thing["kind"].endswith("RoleBinding") for thing in things)
        for thing in things:
            if (found := pod_of(thing)) is None:
                check_other(file, thing)
                continue
            pods += 1
            check_pod(file, thing, found[1], has_rights)
    tags = [f for f in (TOP / "kustomize").rglob("*.yaml") if re.search(rf"armorer:{VERSION}|newTag: {VERSION}", f.read_text())]
    ours = [f for f in tags if "examples" not in f.parts]
    expect(ours == [TOP / "kustomize/components/image/kustomization.yaml"], f"kustomize/: {ours}", "naming the tag in one place")
    there = sorted(file.stem for file in (TOP / "manifests").glob("*.yaml"))
    expect(there == OVERLAYS, f"manifests/: {there}", f"having {OVERLAYS}")
    if pods < 8:
        failures.append(f"only {pods} workloads were looked at")
    print("\n".join(failures) or f"promises: {sum(seen.values())} assertions of {len(seen)} kinds hold for {pods} workloads in {len(files)} files")
    return 1 if failures else 0


sys.exit(main(sys.argv[1:]))

"""The guest as a node: its kernel, podman in the kubelet's place, and a ConfigMap as the kubelet
lays it out. Nothing here asks armorer."""

import contextlib
import copy
import glob
import itertools
import os
import shutil
import subprocess
import time

import yaml

IMAGE = "localhost/armorer:0.1.0"
POLICY = "/sys/kernel/security/apparmor"
PATIENCE = 240


def sh(command, check=True, timeout=PATIENCE):
    """Runs a command (a list); gives its exit status and all that it said."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
    said = done.stdout.decode(errors="replace")
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.returncode, said


def podman(*arguments, check=True):
    return sh(["podman", *arguments], check)


def until(condition, holds, patience=PATIENCE):
    """Waits until `holds()` is true; gives its answer."""
    end = time.monotonic() + patience
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience} s: {condition}")
        time.sleep(0.5)


# --- the kernel -----------------------------------------------------------------------------


def loaded():
    with open(f"{POLICY}/profiles") as lines:
        return dict(line.rstrip("\n").rsplit(" (", 1) for line in lines)


def raw_data(name):
    for folder in glob.glob(f"{POLICY}/policy/profiles/*/"):
        with open(f"{folder}name") as file:
            if file.read().rstrip("\n") == name:
                with open(f"{folder}raw_data", "rb") as file:
                    return file.read()
    return None


def unload(name):
    with open(f"{POLICY}/.remove", "wb", buffering=0) as file:
        file.write(name.encode())


def label(pid):
    with open(f"/proc/{pid}/attr/current") as file:
        return file.read().rstrip("\0\n")


def status_of(pid):
    with open(f"/proc/{pid}/status") as lines:
        return dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)


# --- the desired profiles -------------------------------------------------------------------


class ConfigMap:
    """A folder that the kubelet's own steps fill and change (pkg/volume/util/atomic_writer.go)."""

    count = itertools.count()

    def __init__(self, path, data):
        self.path = path
        self.data = {}
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        self.set(data)

    def set(self, data):
        old = None
        if os.path.islink(f"{self.path}/..data"):
            old = os.readlink(f"{self.path}/..data")
        new = f"..2026_01_01_00_00_00.{next(self.count)}"
        os.mkdir(f"{self.path}/{new}")
        for key, text in data.items():
            with open(f"{self.path}/{new}/{key}", "wb") as file:
                file.write(text if isinstance(text, bytes) else text.encode())
        os.symlink(new, f"{self.path}/..data_tmp")
        os.rename(f"{self.path}/..data_tmp", f"{self.path}/..data")
        for key in data.keys() - self.data.keys():
            os.symlink(f"..data/{key}", f"{self.path}/{key}")
        for key in self.data.keys() - data.keys():
            os.unlink(f"{self.path}/{key}")
        if old:
            shutil.rmtree(f"{self.path}/{old}")
        self.data = dict(data)

    def change(self, **data):
        """Keys with their new text; None takes a key out. `_` stands for `custom.`."""
        named = {f"custom.{key.replace('_', '-')}": text for key, text in data.items()}
        merged = {**self.data, **named}
        self.set({key: text for key, text in merged.items() if text is not None})


# --- the manifests --------------------------------------------------------------------------


def documents(name):
    with open(f"/job/manifests/{name}.yaml") as file:
        return [document for document in yaml.safe_load_all(file) if document]


def config_map_data(name, called=""):
    found = (d for d in documents(name) if d["kind"] == "ConfigMap")
    return next(d["data"] for d in found if d["metadata"]["name"].startswith(called))


def workload(name):
    """The manifest's workload with EDITS.

    The only edits, all for podman's sake or to save time:
    1. Namespaces, accounts and roles are left out: there is no API server.
    2. hostNetwork, since the guest has no network for pods.
    3. Probes are left out (podman wants systemd for them); tests execute their commands.
    4. A ConfigMap's volume is a hostPath that the test fills by the kubelet's own steps, since
       podman copies a ConfigMap once and never changes it.
    5. A CronJob is played as the Job that it would make. Its source is that folder instead of the
       API server.
    6. Fields of the pod and annotations, which podman does not give to a pod, become values, and so
       does $(NAME) in a value.
    7. Images of the examples' workloads are armorer's own image, whose shell stands for them.
    8. POLL_TIME is 2.
    9. An emptyDir that containers share is a hostPath: podman gives each container its own.
    """
    document = next(d for d in documents(name) if d["kind"] in ("DaemonSet", "Deployment", "Job", "CronJob", "Pod"))
    document = copy.deepcopy(document)
    if document["kind"] == "CronJob":
        document = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": document["metadata"],
            "spec": document["spec"]["jobTemplate"]["spec"],
        }
    document["metadata"].pop("namespace", None)
    if document["kind"] == "Deployment":
        document["spec"]["replicas"] = 1
    template = document["spec"]["template"]
    spec = template["spec"]
    spec["hostNetwork"] = True
    annotations = template["metadata"].get("annotations", {})
    mounted = [mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])]
    for volume in spec.get("volumes", []):
        if volume.pop("configMap", None):
            volume["hostPath"] = {"path": f"/srv/{volume['name']}", "type": "Directory"}
        if "emptyDir" in volume and mounted.count(volume["name"]) > 1:
            del volume["emptyDir"]
            volume["hostPath"] = {"path": f"/srv/{volume['name']}", "type": "Directory"}
            os.makedirs(volume["hostPath"]["path"], exist_ok=True)
            os.chmod(volume["hostPath"]["path"], 0o777)
    for container in spec.get("initContainers", []) + spec["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(probe, None)
        if "registry.example.com" in container["image"]:
            container["image"] = IMAGE
        if any(a.startswith("configmap://") for a in container.get("args", [])):
            container["args"] = ["/profiles"]
            container["volumeMounts"].append({"name": "profiles", "mountPath": "/profiles", "readOnly": True})
            spec["volumes"].append({"name": "profiles", "hostPath": {"path": "/srv/profiles", "type": "Directory"}})
        values = {}
        for variable in container.get("env", []):
            field = variable.pop("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
            if field in ("spec.nodeName", "metadata.namespace"):
                variable["value"] = "guest"
            elif field:
                variable["value"] = annotations[field.split("'")[1]]
            for known, value in values.items():
                variable["value"] = variable["value"].replace(f"$({known})", value)
            if variable["name"] == "POLL_TIME":
                variable["value"] = "2"
            values[variable["name"]] = variable["value"]
    return document


def play(document, wait=True):
    """`podman kube play`; without `wait` gives the process."""
    file = f"/tmp/{document['metadata']['name']}.yaml"
    with open(file, "w") as out:
        yaml.safe_dump(document, out)
    command = ["podman", "kube", "play", file]
    if wait:
        return sh(command)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def down(document):
    sh(["podman", "kube", "down", f"/tmp/{document['metadata']['name']}.yaml"])


def inspect(container, form):
    return podman("inspect", "--format", form, container)[1].strip()


def pid_of(container):
    return int(inspect(container, "{{.State.Pid}}"))


def logs(container):
    return podman("logs", container)[1]


def once(arguments, container, drop=(), instead=(), readonly=()):
    """Runs armorer in a container like `container` of a manifest, without capabilities `drop`,
    with the mounts of `instead` (path inside to path outside) changed, and those of `readonly` so."""
    spec, template = container
    command = ["run", "--rm", "--read-only", "--read-only-tmpfs=false", "--security-opt", "no-new-privileges"]
    command += ["--cap-drop", "all"]
    for capability in spec["securityContext"]["capabilities"]["add"]:
        if capability not in drop:
            command += ["--cap-add", capability]
    volumes = {volume["name"]: volume for volume in template["volumes"]}
    instead = dict(instead)
    for mount in spec["volumeMounts"]:
        inside = mount["mountPath"]
        volume = volumes[mount["name"]]
        if "emptyDir" in volume:
            command += ["--tmpfs", inside]
        else:
            outside = instead.get(inside, volume["hostPath"]["path"])
            command += ["-v", f"{outside}:{inside}{':ro' if mount.get('readOnly') or inside in readonly else ''}"]
    for variable in spec["env"]:
        command += ["-e", f"{variable['name']}={variable['value']}"]
    return podman(*command, "--entrypoint", "/usr/bin/armorer", IMAGE, *arguments, check=False)


# --- another node ---------------------------------------------------------------------------


disks = itertools.count()


def mount_disk(place, mebibytes):
    """Mounts a new ext4 file system."""
    file = f"/var/lib/containers/disk-{next(disks)}"
    with open(file, "wb") as image:
        image.truncate(mebibytes << 20)
    sh(["mkfs.ext4", "-q", file])
    sh(["modprobe", "loop"])
    os.makedirs(place, exist_ok=True)
    sh(["mount", "-o", "loop", file, place])


HOST = "/srv/host"


@contextlib.contextmanager
def host(*commands, init="systemd"):
    """A host whose root is an ext4 disk, at HOST, with commands run there before its first process
    is started: its name is `init`, and its /proc is at HOST/proc."""
    mount_disk(HOST, 64)
    process = None
    try:
        for folder in ("etc/systemd/system", "opt/armorer", "proc", "guest"):
            os.makedirs(f"{HOST}/{folder}", exist_ok=True)
        for command in commands:
            sh(["sh", "-ec", f"cd {HOST}; {command}"])
        begin = f"cd {HOST}; pivot_root . guest; echo {init} >/guest/proc/self/comm; echo up; read end"
        process = subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "sh", "-ec", begin],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"up\n"
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
            first = children.read().split()[0]
        sh(["nsenter", f"--pid=/proc/{first}/ns/pid", "mount", "-t", "proc", "proc", f"{HOST}/proc"])
        yield
    finally:
        if process:
            process.communicate(b"\n", timeout=PATIENCE)
        sh(["umount", "--recursive", HOST])

"""references.py: builds each component and each combination that an owner may make, as it is and under
another namespace, a prefix and a suffix, and checks all references: accounts, roles, policies and
their parameters, ConfigMaps in volumes, variables, arguments and roles, and the image.

Ends with 1 and a line for each that does not hold.
"""

import pathlib
import re
import shutil
import subprocess
import sys

import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
WORK = TOP / "target/lint-manifests/combinations"
TREE = "../../../../../kustomize"
IMAGE = "registry.example.com/armorer:1.2.3"
RENAMED = {"namespace": "security", "namePrefix": "acme-", "nameSuffix": "-x"}
# Made by others than these manifests.
FOREIGN = {"kube-root-ca.crt", "armorer-profiles", "armorer-canary", "kapparmor-profiles"}
COMPONENTS = ["api-source", "image-source", "metrics", "metrics/operator", "metrics-textfile", "node", "refuse-configmaps"]
API = ["api-source", "node", "refuse-configmaps"]

# Name: overlays, components, and the rest of the kustomization. The company sets the image in a
# base; the components' additions come after that.
COMBINATIONS = {
    "all": (["daemonset"], [*API, "metrics", "metrics/operator"], {}),
    "all-on-image": (["daemonset"], ["image-source", "node", "metrics"], {}),
    "own-profiles": (["daemonset"], API, {"configMapGenerator": [
        {"name": "armorer-profiles", "namespace": "armorer", "literals": ["custom.x=profile custom.x {}"]}]}),
    "canary": (["daemonset", "canary"], [*API, "metrics"], {}),
    "canary-own": (["daemonset", "canary"], [*API, "metrics"], {"configMapGenerator": [
        {"name": "armorer-canary", "namespace": "armorer", "literals": ["custom.x=profile custom.x {}"]}]}),
    "kapparmor": (["kapparmor"], [*API, "metrics"], {}),
    "kapparmor-textfile": (["kapparmor"], ["metrics-textfile"], {}),
    "boot": (["daemonset", "boot"], [*API, "metrics"], {}),
    "cronjob": (["cronjob"], [], {}),
    "cronjob-own": (["cronjob"], [], {"configMapGenerator": [
        {"name": "armorer-profiles", "namespace": "armorer", "literals": ["custom.x=profile custom.x {}"]}]}),
    "uninstall": (["uninstall"], [], {}),
    **{f"only-{c.replace('/', '-')}": (["daemonset"], [c], {}) for c in COMPONENTS},
}
# Name: components, an edit of the gated workload, and kustomize's message.
IMPOSSIBLE = {
    "api-on-image": (["image-source", "api-source"], [], "volumes/0/configMap/name"),
    "gate-yes": (["gate"], [('armorer/gate: "true"', 'armorer/gate: "yes"')], 'has another value than \\"true\\"'),
    "gate-on-template": (["gate"], [('armorer/gate: "true"', "a: b"), ("labels: {app: web}", 'labels: {app: web, armorer/gate: "true"}')],
                         "/spec/template/metadata/labels/armorer~1gate"),
}

# The kinds that scripts/uninstall deletes.
TAKEN = re.findall(r"[a-z]+", " ".join(re.findall(r"(?:namespaced|cluster)=(\S+)", (TOP / "scripts/uninstall").read_text())))

failures = []
count = 0


def expect(holds, where, claim):
    global count
    count += 1
    if not holds:
        failures.append(f"{where}: not so: {claim}")


def kustomization(folder, **fields):
    folder = WORK / folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(fields))


def build(folder):
    return subprocess.run(["scripts/render", "--", "build", WORK / folder], cwd=TOP, capture_output=True, text=True)


def rendered(folder):
    done = build(folder)
    expect(done.returncode == 0, folder, f"it builds: {done.stderr[:400].strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def made(name, overlays, components, more):
    """The documents of a combination, as it is and renamed."""
    image, _, tag = IMAGE.rpartition(":")
    kustomization(f"{name}/company", resources=[f"{TREE}/overlays/{overlay}" for overlay in overlays],
                  images=[{"name": "localhost/armorer", "newName": image, "newTag": tag}])
    kustomization(f"{name}/team", resources=["../company"], components=[f"{TREE}/components/{c}" for c in components], **more)
    kustomization(f"{name}/renamed", resources=["../team"], **RENAMED)
    return rendered(f"{name}/team"), rendered(f"{name}/renamed")


def workloads(documents):
    for document in documents:
        spec = document.get("spec", {})
        match document["kind"]:
            case "DaemonSet":
                yield document, spec["template"]
            case "CronJob":
                yield document, spec["jobTemplate"]["spec"]["template"]


def value_of(variable, namespace, annotations):
    field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
    if field.startswith("metadata.annotations"):
        return annotations[field.split("'")[1]]
    return namespace if field == "metadata.namespace" else variable.get("value", "")


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def check(where, documents, namespace):
    there = {(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in documents}
    of_kind = lambda kind: [d for d in documents if d["kind"] == kind]
    cluster = {(kind, name) for kind, _, name in there}
    for document in documents:
        own = document["metadata"].get("namespace")
        name = f"{where}: {document['kind']} {document['metadata']['name']}"
        expect(own in (None, namespace), name, f"it lies in {namespace}, not in {own}")
        plural = re.sub("y$", "ie", document["kind"].lower()) + "s"
        if plural != "configmaps":
            part = document["metadata"].get("labels", {}).get("app.kubernetes.io/part-of")
            expect(plural in [*TAKEN, "namespaces"] and part == "armorer", name, "scripts/uninstall takes it")
        if namespace != "armorer":
            stale = [s for s in strings(document) if re.search(r"system:serviceaccount:armorer|configmap://armorer", s)]
            expect(not stale, name, f"no text names the namespace armorer: {stale}")
    for binding in of_kind("RoleBinding") + of_kind("ClusterRoleBinding"):
        name = f"{where}: {binding['metadata']['name']}"
        expect((binding["roleRef"]["kind"], binding["roleRef"]["name"]) in cluster, name, "its role is there")
        for subject in binding["subjects"]:
            expect(("ServiceAccount", subject["namespace"], subject["name"]) in there, name, f"its account is there: {subject}")
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("ValidatingAdmissionPolicy")}
    for policy, spec in policies.items():
        selected = spec["matchConstraints"].get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
        expect(selected in (None, namespace), f"{where}: {policy}", f"it selects its own namespace, not {selected}")
    for binding in of_kind("ValidatingAdmissionPolicyBinding"):
        name = f"{where}: {binding['metadata']['name']}"
        spec = binding["spec"]
        expect(spec["policyName"] in policies, name, "its policy is there")
        if "paramRef" in spec and spec["policyName"] in policies:
            kind, asked = policies[spec["policyName"]]["paramKind"]["kind"], spec["paramRef"]
            fitting = [d["metadata"] for d in of_kind(kind) if d["metadata"]["namespace"] == asked["namespace"]
                       and asked["selector"]["matchLabels"].items() <= d["metadata"]["labels"].items()]
            expect(fitting, name, f"its parameter is there: {asked}")
    readable = {name for role in of_kind("Role") + of_kind("ClusterRole") for rule in role["rules"]
                if "configmaps" in rule["resources"] for name in rule.get("resourceNames", [])}
    for workload, template in workloads(documents):
        pod, annotations = template["spec"], template["metadata"].get("annotations", {})
        name = f"{where}: {workload['kind']} {workload['metadata']['name']}"
        expect(("ServiceAccount", namespace, pod["serviceAccountName"]) in there, name, "its account is there")
        mounted = [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v]
        ours = {d["metadata"]["name"] for d in of_kind("ConfigMap")}
        renamed = {re.sub(r"^acme-|-x(-[a-z0-9]{10})?$|-[a-z0-9]{10}$", "", m) for m in ours}
        for configmap in mounted:
            expect(configmap in ours or configmap in FOREIGN - renamed, name, f"the ConfigMap {configmap} is there")
        for container in pod.get("initContainers", []) + pod["containers"]:
            expect(container.get("image") == IMAGE, f"{name}/{container['name']}", f"its image is {IMAGE}, not {container.get('image')}")
            values = {e["name"]: value_of(e, namespace, annotations) for e in container.get("env", [])}
            sources = [values.get("PROFILES_DIR", ""), *container.get("args", [])]
            for source in sources:
                if not source.startswith("configmap:"):
                    continue
                asked = re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], source).removeprefix("configmap://").split("/")
                expect(asked[0] == namespace, name, f"it asks for its own namespace's ConfigMap: {asked}")
                expect(asked[1] in readable, name, f"it may read {asked[1]}: {readable}")
                expect(not mounted or asked[1] == mounted[0], name, f"it asks for the ConfigMap that it mounts: {asked}, {mounted}")
                expect(asked[1] in ours or asked[1] in FOREIGN - renamed, name, f"the ConfigMap {asked[1]} is there")


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    for name, (overlays, components, more) in COMBINATIONS.items():
        plain, renamed = made(name, overlays, components, more)
        check(name, plain, "kube-system" if overlays == ["kapparmor"] else "armorer")
        check(f"{name}, renamed", renamed, "security")
    for example, init in (("gated-workload", "armorer-gate"), ("loading-workload", "armorer-load")):
        kustomization(f"{example}/renamed", resources=[f"{TREE}/examples/{example}"], **RENAMED)
        documents = rendered(f"{example}/renamed")
        made_here = [d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"]
        pods = [d["spec"]["template"]["spec"] for d in documents if d["kind"] in ("Deployment", "Job")]
        expect(pods, example, "a workload is rendered")
        for pod in pods:
            expect(pod["initContainers"][0]["name"] == init, example, f"it begins with {init}")
            for volume in pod.get("volumes", []):
                name = volume.get("configMap", {}).get("name", "")
                expect(not name or name in made_here, example, f"the ConfigMap {name} is there: {made_here}")
    gated = TOP / "kustomize/examples/gated-workload/deployment.yaml"
    for name, (components, edits, words) in IMPOSSIBLE.items():
        resources = [f"{TREE}/overlays/daemonset"]
        if edits:
            text = gated.read_text()
            for old, new in edits:
                assert old in text, old
                text = text.replace(old, new)
            (WORK / name / "team").mkdir(parents=True)
            (WORK / name / "team/workload.yaml").write_text(text)
            resources = ["workload.yaml"]
        kustomization(f"{name}/team", resources=resources, components=[f"{TREE}/components/{c}" for c in components])
        done = build(f"{name}/team")
        expect(done.returncode != 0 and words in done.stderr, name, f"the build fails with {words}: {done.stderr[:400].strip()}")
    print("\n".join(failures) or f"references: {count} hold in {len(COMBINATIONS)} combinations, as they are and renamed")
    return 1 if failures else 0


sys.exit(main())

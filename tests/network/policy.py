"""What the rendered manifests allow: RBAC, and ValidatingAdmissionPolicies by cel-python."""

import celpy
import yaml
from celpy.adapter import json_to_cel


class Refused(Exception):
    def __init__(self, code, reason, message, details=None):
        self.code, self.reason, self.details = code, reason, details or {}
        super().__init__(message)


class Access:
    def __init__(self, documents):
        self.documents = [d for d in documents if d]

    @classmethod
    def of_yaml(cls, text):
        return cls(list(yaml.safe_load_all(text)))

    def of_kind(self, kind):
        return [d for d in self.documents if d["kind"] == kind]

    def rules_for(self, user, asked):
        """Each rule that allows `asked`, as KIND/NAME/N; without any RBAC, all is allowed."""
        if not self.of_kind("RoleBinding") + self.of_kind("ClusterRoleBinding"):
            return ["everything"]
        found = []
        for binding in self.of_kind("RoleBinding") + self.of_kind("ClusterRoleBinding"):
            names = [f"system:serviceaccount:{s['namespace']}:{s['name']}"
                     for s in binding.get("subjects", []) if s["kind"] == "ServiceAccount"]
            namespace = binding["metadata"].get("namespace", "")
            if user["username"] not in names:
                continue
            if binding["kind"] == "RoleBinding" and namespace != asked["namespace"]:
                continue
            found += self._rules(binding["roleRef"], namespace, asked)
        return found

    def _rules(self, ref, namespace, asked):
        for role in self.of_kind(ref["kind"]):
            meta = role["metadata"]
            if meta["name"] != ref["name"] or (
                    ref["kind"] == "Role" and meta["namespace"] != namespace):
                continue
            for n, rule in enumerate(role["rules"]):
                # A create or a list names no object, so no resourceNames can allow it.
                names = rule.get("resourceNames")
                if (asked["group"] in rule["apiGroups"] and asked["resource"] in rule["resources"]
                        and asked["verb"] in rule["verbs"]
                        and (not names or asked["name"] in names)):
                    yield f"{ref['kind']}/{ref['name']}/{n}"

    def verbs_of(self, account):
        """Each rule and verb that is bound to `account`."""
        found = []
        for binding in self.of_kind("RoleBinding") + self.of_kind("ClusterRoleBinding"):
            names = [f"system:serviceaccount:{s['namespace']}:{s['name']}"
                     for s in binding["subjects"]]
            ref = binding["roleRef"]
            if account in names:
                roles = [d for d in self.of_kind(ref["kind"]) if d["metadata"]["name"] == ref["name"]]
                found += [(f"{ref['kind']}/{ref['name']}/{n}", verb) for role in roles
                          for n, rule in enumerate(role["rules"]) for verb in rule["verbs"]]
        return found

    def admit(self, user, operation, asked, obj, old):
        for why in self.refusals(user, operation, asked, obj, old):
            raise Refused(422, "Invalid", why)

    def refusals(self, user, operation, asked, obj, old):
        """Why a ValidatingAdmissionPolicy that is bound refuses it."""
        bound = {b["spec"]["policyName"] for b in self.of_kind("ValidatingAdmissionPolicyBinding")
                 if "Deny" in b["spec"]["validationActions"]}
        request = {"operation": operation, "name": asked["name"], "namespace": asked["namespace"],
                   "userInfo": user}
        values = {"object": obj, "oldObject": old, "request": request}
        for one in self.of_kind("ValidatingAdmissionPolicy"):
            spec = one["spec"]
            if one["metadata"]["name"] not in bound or not self._constrained(spec, operation, asked):
                continue
            conditions = spec.get("matchConditions", [])
            if not all(evaluate(c["expression"], values) for c in conditions):
                continue
            for validation in spec["validations"]:
                try:
                    good = evaluate(validation["expression"], values)
                except celpy.CELEvalError as error:
                    good, validation = spec["failurePolicy"] != "Fail", {"message": str(error)}
                if not good:
                    yield f"{one['metadata']['name']}: {validation['message']}"

    @staticmethod
    def _constrained(spec, operation, asked):
        constraints = spec["matchConstraints"]
        namespaces = constraints.get("namespaceSelector", {}).get("matchLabels", {})
        wanted = namespaces.get("kubernetes.io/metadata.name", asked["namespace"])
        return wanted == asked["namespace"] and any(
            asked["group"] in rule["apiGroups"] and asked["resource"] in rule["resources"]
            and operation in rule["operations"] for rule in constraints["resourceRules"])


COMPILED = {}


def evaluate(expression, values):
    if expression not in COMPILED:
        environment = celpy.Environment()
        COMPILED[expression] = environment.program(environment.compile(expression))
    activation = {name: json_to_cel(value) for name, value in values.items()}
    return bool(COMPILED[expression].evaluate(activation))

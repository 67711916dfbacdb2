"""The permissions of the rendered manifests: RBAC, and ValidatingAdmissionPolicies by cel-python."""

import functools

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
        # Now: a request is not to wait for it.
        for policy in self.of_kind("ValidatingAdmissionPolicy"):
            for part in policy["spec"].get("matchConditions", []) + policy["spec"]["validations"]:
                compiled(part["expression"])

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
                if (all({asked[key], "*"} & set(rule[field]) for key, field in
                        (("group", "apiGroups"), ("resource", "resources"), ("verb", "verbs")))
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
        request = {"operation": operation, "name": asked["name"], "namespace": asked["namespace"],
                   "userInfo": user}
        policies = {p["metadata"]["name"]: p for p in self.of_kind("ValidatingAdmissionPolicy")}
        for binding in self.of_kind("ValidatingAdmissionPolicyBinding"):
            spec = policies[binding["spec"]["policyName"]]["spec"]
            if "Deny" not in binding["spec"]["validationActions"] or not constrained(spec, operation, asked):
                continue
            for params in self._params(spec, binding["spec"].get("paramRef")):
                values = {"object": obj, "oldObject": old, "request": request, "params": params}
                for why in self._evaluated(spec, values, user):
                    yield f"{binding['spec']['policyName']}: {why}"

    def _params(self, spec, ref):
        """Each object that the binding's paramRef selects; a policy without parameters has none."""
        if ref is None:
            return [None]
        assert ref["parameterNotFoundAction"] == "Allow"
        return [d for d in self.of_kind(spec["paramKind"]["kind"])
                if d["metadata"]["namespace"] == ref["namespace"]
                and ref["selector"]["matchLabels"].items() <= d["metadata"]["labels"].items()]

    def _evaluated(self, spec, values, user):
        def allowed(group, resource, verb):
            asked = {"group": group, "resource": resource, "verb": verb, "name": "", "namespace": ""}
            return bool(self.rules_for(user, asked))

        if not all(evaluate(c["expression"], values, allowed) for c in spec.get("matchConditions", [])):
            return
        for validation in spec["validations"]:
            try:
                good = evaluate(validation["expression"], values, allowed)
            except celpy.CELEvalError as error:
                good, validation = spec["failurePolicy"] != "Fail", {"message": str(error)}
            if not good:
                yield validation["message"]


def constrained(spec, operation, asked):
    return any(asked["group"] in rule["apiGroups"] and asked["resource"] in rule["resources"]
               and operation in rule["operations"] for rule in spec["matchConstraints"]["resourceRules"])


@functools.cache
def compiled(expression):
    return celpy.Environment().compile(expression)


def evaluate(expression, values, allowed):
    """`expression` with Kubernetes' authorizer, whose question grows from call to call: group, resource,
    verb, and then the answer."""
    grow = lambda question, part: celpy.celtypes.ListType([*question, part])
    functions = {"group": grow, "resource": grow, "check": grow,
                 "allowed": lambda question: celpy.celtypes.BoolType(allowed(*map(str, question)))}
    program = celpy.Environment().program(compiled(expression), functions=functions)
    activation = {name: json_to_cel(value) for name, value in values.items()}
    activation["authorizer"] = celpy.celtypes.ListType([])
    return bool(program.evaluate(activation))

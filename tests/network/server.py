"""An API server for the tests, over TLS: kmock's emulator with the features that the client uses, and beside
it a port for each fault, which answers each request with that fault, byte for byte.

kmock keeps the objects and answers create, fetch and list. Added are the tests' subjects: the
client's token, the rendered manifests' permissions (RBAC, ValidatingAdmissionPolicy),
PartialObjectMetadata, selectors, pages, patches, versions, and the rules for Events. It obeys a JSON
command a line on stdin, and answers each with a line.
"""

import asyncio
import base64
import json
import ssl
import sys

import aiohttp.web
import jsonpatch
import kmock
import yaml

import policy
from policy import Refused


def status(code, reason, message, details):
    """Kubernetes' own answer to a request that it does not fulfil."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "details": details, "code": code}


def merged(obj, change):
    """A merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    new = dict(obj) if isinstance(obj, dict) else {}
    for key, value in change.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merged(new.get(key), value)
    return new


class ApiServer(kmock.KubernetesEmulator):
    """Settings from outside hang on `world`: kmock's classes take no further fields."""

    async def __call__(self, raw):
        response = await super().__call__(raw)
        if world.log and world.log[-1].get("raw") is raw:
            entry = world.log[-1]
            entry.pop("raw")
            entry["code"] = response.status
            entry["body_bytes"] = len(response.body or b"")
        return response

    async def _handle(self, request):
        raw = request._raw_request
        verb = {"GET": "get", "POST": "create", "PATCH": "patch"}.get(raw.method, raw.method)
        if verb == "get" and request.name is None:
            verb = "list"
        asked = {"verb": verb, "group": request.resource.group or "",
                 "resource": request.resource.plural, "namespace": request.namespace or "",
                 "name": request.name or "", "path": raw.path_qs,
                 "accept": raw.headers.get("accept", ""),
                 "content_type": raw.headers.get("content-type", ""),
                 "agent": raw.headers.get("user-agent", ""),
                 "connection": id(raw.transport), "request_bytes": len(request.body)}
        world.log.append({**asked, "raw": raw})
        try:
            user = world.who(raw)
            rules = world.access.rules_for(user, asked)
            world.log[-1]["allowed_by"] = rules
            if not rules:
                subject = f'{asked["resource"]} "{asked["name"]}" is forbidden: ' if asked["name"] else ""
                raise Refused(403, "Forbidden", f'{subject}User "{user["username"]}" cannot {verb} resource '
                              f'"{asked["resource"]}" in API group "{asked["group"]}"')
            return await self._serve(request, verb, asked, user)
        except Refused as refused:
            body = status(refused.code, refused.reason, str(refused), refused.details)
            return aiohttp.web.json_response(body, status=refused.code)

    async def _serve(self, request, verb, asked, user):
        key = (request.resource, request.namespace, request.name)
        if verb == "list":
            return self._page(request)
        if verb == "create":
            obj = json.loads(request.body)
            world.check_event(obj, request)
            world.access.admit(user, "CREATE", asked, obj, None)
            world.version(obj)
            return await super()._handle(request)
        if key not in self._objects or self._objects[key].deleted:
            details = {"name": request.name, "kind": request.resource.plural}
            raise Refused(404, "NotFound", f'"{request.name}" not found', details)
        if verb == "get":
            return self._answer(request, self._objects[key].last.raw)
        if world.races:
            race = world.races.pop(0)
            self._objects[key] = {**self._objects[key].last.raw, **race}
        old = self._objects[key].last.raw
        new = self._changed(request, json.loads(json.dumps(old)))
        world.access.admit(user, "UPDATE", asked, new, old)
        world.version(new)
        self._objects[key] = new
        return self._answer(request, new)

    def _changed(self, request, obj):
        kind = request.headers["Content-Type"]
        change = json.loads(request.body)
        if kind == "application/merge-patch+json":
            return merged(obj, change)
        if kind != "application/json-patch+json":
            raise Refused(415, "UnsupportedMediaType", kind)
        try:
            return jsonpatch.apply_patch(obj, change)
        except jsonpatch.JsonPatchException as error:
            raise Refused(422, "Invalid", f"the server rejected our request: {error}") from error

    def _answer(self, request, obj):
        if "as=PartialObjectMetadata;" in request.headers.get("Accept", ""):
            obj = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                   "metadata": obj["metadata"]}
        return aiohttp.web.json_response(obj)

    def _page(self, request):
        query = dict(request.params)
        matching = [o.last.raw for (res, ns, _), o in self._objects.items()
                  if res == request.resource and not o.deleted
                  and request.namespace in (None, ns) and selected(o.last.raw, query)]
        matching.sort(key=lambda o: (o["metadata"].get("namespace", ""), o["metadata"]["name"]))
        cursor = query.get("continue")
        if cursor and world.forgets > 0:
            world.forgets -= 1
            raise Refused(410, "Expired", "The provided continue parameter is too old")
        start = int(base64.b64decode(cursor)) if cursor else 0
        limit = min(int(query.get("limit", 500)), world.page or 500)
        page = matching[start:start + limit]
        meta = {"resourceVersion": str(world.versions)}
        if start + limit < len(matching):
            meta["continue"] = base64.b64encode(str(start + limit).encode()).decode()
        partial = "as=PartialObjectMetadataList;" in request.headers.get("Accept", "")
        if partial:
            page = [{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                     "metadata": o["metadata"]} for o in page]
        return aiohttp.web.json_response(
            {"kind": "List", "apiVersion": "v1", "metadata": meta, "items": page})


def selected(obj, query):
    labels = obj["metadata"].get("labels", {})
    for part in filter(None, query.get("labelSelector", "").split(",")):
        key, _, value = part.partition("=")
        if labels.get(key) != value:
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        path, unequal, value = part.partition("!=")
        if not unequal:
            path, _, value = part.partition("=")
        found = obj
        for step in path.split("."):
            found = found.get(step, {})
        if (found == value) == bool(unequal):
            return False
    return True


class World:
    def __init__(self):
        self.log, self.races, self.forgets, self.page, self.versions = [], [], 0, None, 100
        self.tokens, self.access = {}, policy.Access([])

    def version(self, obj):
        self.versions += 1
        obj["metadata"]["resourceVersion"] = str(self.versions)
        obj["metadata"].setdefault("uid", f"uid-{self.versions}")

    def who(self, raw):
        token = raw.headers.get("authorization", "").removeprefix("Bearer ")
        if token in self.tokens:
            return self.tokens[token]
        raise Refused(401, "Unauthorized", "Unauthorized")

    def check_event(self, obj, request):
        """Kubernetes' rules for an Event of events.k8s.io/v1 (pkg/apis/core/validation)."""
        if request.resource.plural != "events":
            return
        wrong = []
        if not obj.get("eventTime", "").endswith(".000000Z"):
            wrong.append("eventTime")
        for field, most in [("action", 128), ("reason", 128), ("reportingInstance", 128),
                            ("reportingController", 63), ("note", 1024)]:
            if not obj.get(field) or len(obj[field].encode()) > most:
                wrong.append(field)
        if obj.get("type") not in ("Normal", "Warning"):
            wrong.append("type")
        if obj["metadata"]["namespace"] not in ("default", "kube-system"):
            wrong.append("namespace")
        for field in ("count", "deprecatedCount", "series"):
            if field in obj:
                wrong.append(field)
        if wrong:
            raise Refused(422, "Invalid", f"Event is invalid: {wrong}")


def key_of(plural, group, namespace, name):
    version = "v1"
    return (kmock.resource(group, version, plural), namespace or None, name)


def obey(server, kept, command):
    do = command["do"]
    if do == "put":
        for entry in command["objects"]:
            obj = entry["object"]
            world.version(obj)
            meta = obj["metadata"]
            key = key_of(entry["plural"], entry.get("group", ""), meta.get("namespace"), meta["name"])
            server.objects[key] = obj
    elif do == "delete":
        del server.objects[key_of(command["plural"], "", command["namespace"], command["name"])]
    elif do == "objects":
        return [o.last.raw for (res, _, _), o in server.objects.items()
                if res.plural == command["plural"] and not o.deleted]
    elif do == "requests":
        log, world.log = world.log, []
        return log
    elif do == "tokens":
        world.tokens.update(command["tokens"])
    elif do == "manifests":
        world.access = policy.Access.of_yaml(command["yaml"])
    elif do == "parse":
        return list(yaml.safe_load_all(command["yaml"]))
    elif do == "rules":
        return world.access.verbs_of("system:serviceaccount:armorer:armorer")
    elif do == "set":
        for name in ("races", "forgets", "page"):
            if name in command:
                setattr(world, name, command[name])
    elif do == "admit":
        user, operation = command["user"], command["operation"]
        asked, new, old = command["asked"], command["object"], command.get("old")
        return list(world.access.refusals(user, operation, asked, new, old))
    elif do == "seen":
        return kept[command["fault"]][0].seen
    else:
        raise ValueError(do)
    return None


def metadata(name="armorer-profiles"):
    return {"name": name, "namespace": "armorer", "uid": "u-1", "resourceVersion": "7"}


def answer(code, body, *headers, length=None):
    body = body if isinstance(body, bytes) else body.encode()
    head = [f"HTTP/1.1 {code}", f"content-length: {len(body) if length is None else length}"]
    head += ["content-type: application/json", "connection: close", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def refusal(code, reason, message, **details):
    return answer(f"{code} {reason}", json.dumps(status(code, reason, message, details)))


MAP = json.dumps({"metadata": metadata(), "data": {}})
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Fault:
    """How one port answers; `seen` counts its requests."""

    def __init__(self, name, act):
        self.name, self.act, self.seen = name, act, 0

    async def serve(self, reader, writer):
        try:
            head = b""
            if self.name != "tls-not-spoken":
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen += 1
            await self.act(self, head.decode("latin-1"), writer)
        except (ConnectionError, asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


def says(text):
    async def act(_fault, _head, writer):
        writer.write(text)
        await writer.drain()
    return act


async def silence(_fault, _head, _writer):
    await asyncio.sleep(600)


async def slow_body(_fault, _head, writer):
    writer.write(answer("200 OK", "{", length=100_000))
    for _ in range(6000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.1)


async def slow_head(_fault, _head, writer):
    for byte in b"HTTP/1.1 200 OK\r\nx-slow: " + b"y" * 6000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def endless(_fault, _head, writer):
    block = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    writer.write(CHUNKED)
    while not writer.is_closing():
        writer.write(block)
        await writer.drain()
        await asyncio.sleep(0)


async def endless_head(_fault, _head, writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while not writer.is_closing():
        writer.write(b"x-more: " + b"y" * 4000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def echo(_fault, head, writer):
    token = next(l for l in head.split("\r\n") if l.lower().startswith("authorization"))
    writer.write(refusal(400, "BadRequest", f"I do not like {token}"))
    await writer.drain()


def redirect_to(url):
    return says(answer("307 Temporary Redirect", "", f"location: {url}/api/v1/x"))


def faults(good_url):
    deep = "[" * 100_000
    return {
        "silence": silence,
        "slow-body": slow_body,
        "slow-head": slow_head,
        "endless-body": endless,
        "endless-head": endless_head,
        "cut-before-head": says(b""),
        "cut-in-head": says(b"HTTP/1.1 200 OK\r\ncontent-le"),
        "cut-in-body": says(answer("200 OK", MAP[:20], length=len(MAP))),
        "cut-in-chunk": says(CHUNKED + b"20\r\n{\"metadata\":"),
        "wrong-json": says(answer("200 OK", "{\"metadata\": nope}")),
        "deep-json": says(answer("200 OK", deep)),
        "html": says(answer("200 OK", "<html>Please log in</html>")),
        "no-utf8": says(answer("200 OK", MAP.encode()[:-3] + b'"a": "\xff"}}')),
        "empty-answer": says(answer("200 OK", "")),
        "null": says(answer("200 OK", "null")),
        "other-type": says(answer("200 OK", json.dumps({"metadata": metadata(), "data": [1]}))),
        "other-object": says(answer("200 OK", json.dumps({"metadata": metadata("other")}))),
        "other-namespace": says(answer("200 OK", json.dumps(
            {"metadata": {**metadata(), "namespace": "kube-system"}}))),
        "no-version": says(answer("200 OK", json.dumps(
            {"metadata": {**metadata(), "resourceVersion": ""}}))),
        "squeezed": says(answer("200 OK", b"\x1f\x8b\x08\x00", "content-encoding: gzip")),
        "redirect": redirect_to(good_url),
        "429": says(answer("429 Too Many Requests", "", "retry-after: 1")),
        "429-for-an-hour": says(answer("429 Too Many Requests", "", "retry-after: 3600")),
        "500": says(answer("500 Internal Server Error", "etcd is away")),
        "503": says(answer("503 Service Unavailable", "")),
        "401": says(refusal(401, "Unauthorized", "Unauthorized")),
        "403": says(refusal(403, "Forbidden", "configmaps is forbidden")),
        "404": says(refusal(404, "NotFound", 'configmaps "armorer-profiles" not found',
                           name="armorer-profiles", kind="configmaps")),
        "404-of-a-proxy": says(answer("404 Not Found", "<html>no such page</html>")),
        "token-echoed": echo,
        "ssh": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "204": says(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
        "terminal": says(refusal(400, "BadRequest", "\x1b[2J\x1b]0;owned\x07 bad")),
    }


async def start_faults(contexts, good_url):
    """Starts all; gives each one's port, and the faults themselves."""
    ports, kept = {}, {}

    async def listen(name, act, context):
        fault = Fault(name, act)
        server = await asyncio.start_server(fault.serve, "127.0.0.1", 0, ssl=context, limit=1 << 20)
        ports[name], kept[name] = server.sockets[0].getsockname()[1], (fault, server)

    for name, act in faults(good_url).items():
        await listen(name, act, contexts["server"])
    for name in ("strange", "expired", "future", "elsewhere"):
        await listen(f"tls-{name}", says(answer("200 OK", MAP)), contexts[name])
    await listen("tls-silence", silence, None)
    await listen("tls-not-spoken", says(answer("400 Bad Request", "")), None)
    await listen("good-map", says(answer("200 OK", MAP)), contexts["server"])
    return ports, kept


async def main(certificates):
    contexts = {}
    for name in ("server", "strange", "expired", "future", "elsewhere"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{certificates}/{name}.pem", f"{certificates}/{name}.key")
        contexts[name] = context
    server = ApiServer()
    runner = aiohttp.web.ServerRunner(aiohttp.web.Server(server))
    await runner.setup()
    port = {}
    for host in ("127.0.0.1", "::1"):
        site = aiohttp.web.TCPSite(runner, host, 0, ssl_context=contexts["server"])
        await site.start()
        port[host] = site._server.sockets[0].getsockname()[1]
    good = f"https://127.0.0.1:{port['127.0.0.1']}"
    ports, kept = await start_faults(contexts, good)
    print(json.dumps({"port": port["127.0.0.1"], "port6": port["::1"], "faults": ports}), flush=True)
    stdin = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while line := await stdin.readline():
        try:
            said = {"ok": obey(server, kept, json.loads(line))}
        except Exception as error:  # the test must hear of it
            said = {"error": repr(error)}
        print(json.dumps(said), flush=True)


world = World()
if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

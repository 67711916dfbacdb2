"""A server that answers each request with one fault, byte for byte: a port for each fault."""

import asyncio
import json

TOKEN_PART = "armorer-test-token"


def metadata(name="armorer-profiles"):
    return {"name": name, "namespace": "armorer", "uid": "u-1", "resourceVersion": "7"}


def answer(code, body, *headers, length=None):
    body = body if isinstance(body, bytes) else body.encode()
    head = [f"HTTP/1.1 {code}", f"content-length: {len(body) if length is None else length}"]
    head += ["content-type: application/json", "connection: close", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def status(code, reason, message, **details):
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": reason, "message": message, "details": details}
    return answer(f"{code} {reason}", json.dumps(body))


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
    writer.write(status(400, "BadRequest", f"I do not like {token}"))
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
        "401": says(status(401, "Unauthorized", "Unauthorized")),
        "403": says(status(403, "Forbidden", "configmaps is forbidden")),
        "404": says(status(404, "NotFound", 'configmaps "armorer-profiles" not found',
                           name="armorer-profiles", kind="configmaps")),
        "404-of-a-proxy": says(answer("404 Not Found", "<html>no such page</html>")),
        "token-echoed": echo,
        "ssh": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "204": says(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
        "terminal": says(status(400, "BadRequest", "\x1b[2J\x1b]0;owned\x07 bad")),
    }


async def start(contexts, good_url):
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

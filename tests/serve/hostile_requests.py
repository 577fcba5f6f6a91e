"""Hostile requests to a server, drawn from a seed: each is bytes for a socket, with what must not come of it."""

import json
import random
from dataclasses import dataclass

HOST = "Host: localhost"
JSON = "Content-Type: application/json"


@dataclass
class Hostile:
    """A request, as bytes that are sent as they stand."""

    name: str
    content: bytes
    statuses: tuple = (400, 404, 405, 409, 413, 415, 422)
    may_close: bool = False
    """True if the server may end the connection without an answer."""


def request(method, path, body=b"", head=(), host=HOST, kind=JSON):
    lines = [f"{method} {path} HTTP/1.1", host, kind, *head, f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([line for line in lines if line] + ["", ""]).encode("latin-1") + body


# Values that no field of any route takes.
VALUES = [
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "1" + "0" * 2000, '"text"', '"1.0"', "{}", "[]",
    "[[]]", "[null]", "[1]", "[1,2,3]", "[[1,2]]", '["a","b"]', '[1,"2"]', "[1,null]", '[1,{"a":2}]', "[1,[2]]", "[NaN,0]",
    "[1e999,0]", "[1e300,0]", "[1" + "0" * 400 + ",0]", '"\\ud800"', '"../../etc/passwd"', '"http://evil.example"',
    '{"__reduce__":["os.system","id"]}', '{"__ndarray__":true,"dtype":"|O","shape":[1],"data":"gASV"}',
    '"' + "a" * 5000 + '"', "[" + "0," * 5000 + "0]", "[true,\"x\"]", "-0.5e", "0x10", "01", "'a'", "[1,]", "{1:2}",
]  # fmt: skip
BODIES = [
    b"", b"null", b"[]", b"3", b'"x"', b"{", b"}", b'{"a":1,"a":2}', b"\xff\xfe", b"\x00", b"{}{}", b"\x80\x04\x95pickle",
    b'{"observation":[0,0]' * 50, b"[" * 20_000, b'{"a":' * 20_000, b"{" + b'"' * 999, b'{"observation": [0,0]} trailing',
    b'{"\\ud800": 1}', b"\xef\xbb\xbf{}", b"{\"observation\": [0, 0], \"reset\": true, \"model\": \"hub:evil/x@main\"}",
    b'{"observation":' + b"[" * 30 + b"0" + b"]" * 30 + b"}",
]  # fmt: skip
IDS = [
    "x", "..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "a" * 3000, "%00", "%ff%fe", "*", "null", "-1", "0", "A" * 43, "..%5c..",
    "session%0d%0aX-Evil:%201", "%F0%9F%92%A9",
]  # fmt: skip


def hostile_requests(seed, count, *, own, foreign, ended):
    """Return ``count`` hostile requests.

    Args:
        seed: Of the draws.
        count: How many.
        own: Id of the attacker's own session, which awaits an outcome at step 1.
        foreign: Hash under which another client's session is kept: not its id, which nobody can guess.
        ended: Id of a session that has ended.
    """
    draw = random.Random(seed)
    makers = [_value, _body, _identity, _replay, _elsewhere, _no_http, _large]
    return [makers[place % len(makers)](draw, own, foreign, ended) for place in range(count)]


def _value(draw, own, foreign, ended):
    value = draw.choice(VALUES)
    path, fields = draw.choice(
        [
            (f"/v1/sessions/{own}/act", ["observation", "allowed", "row", "outcome", "step", "return_info"]),
            (f"/v1/sessions/{own}/observe", ["reward", "action", "outcomes", "step"]),
            ("/v1/sessions", ["target_return", "seed", "targets", "run", "policy"]),
            ("/v1/act", ["requests", "sessions"]),
        ]
    )
    field = draw.choice(fields)
    # The other fields are right, so that this one is looked at; the session awaits an outcome.
    right = {"observation": "[0,0]", "outcome": '{"reward":1}'} if path.endswith("/act") and "sessions" in path else {}
    right |= {"reward": "1"} if path.endswith("observe") else {}
    if (field, value) in [
        ("targets", "{}"),
        ("targets", "[]"),
        ("outcomes", "{}"),
        ("action", "[1]"),
        ("requests", "[]"),
    ]:
        value = "[2]"
    if field == "seed" and value.startswith("1"):
        value = "-1"
    body = "{" + ",".join(f'"{name}":{text}' for name, text in {**right, field: value}.items()) + "}"
    return Hostile(f"{field} {value[:40]} to {path[-8:]}", request("POST", path, body.encode()))


def _body(draw, own, foreign, ended):
    body = draw.choice(BODIES)
    path = draw.choice([f"/v1/sessions/{own}/act", f"/v1/sessions/{own}/observe", "/v1/act"])
    return Hostile(f"body {body[:30]!r} to {path[-8:]}", request("POST", path, body))


def _identity(draw, own, foreign, ended):
    name = draw.choice([*IDS, foreign, ended, own[:-1], own + "x", own.swapcase(), own + "/..", f"{foreign}.json"])
    method, end = draw.choice(
        [
            ("POST", "/act"),
            ("POST", "/observe"),
            ("GET", "/state"),
            ("PUT", "/state"),
            ("DELETE", ""),
            ("GET", "/../state"),
        ]
    )
    body = b'{"observation":[0,0]}' if end == "/act" else b'{"reward":1}'
    return Hostile(f"{method} of session {name[:30]}{end}", request(method, f"/v1/sessions/{name}{end}", body))


def _replay(draw, own, foreign, ended):
    end, body = draw.choice(
        [
            ("act", {"observation": [0.5, 0.5]}),  # twice in a row
            ("act", {"observation": [0.5, 0.5], "step": 0, "outcome": {"reward": 1}}),  # an earlier step
            ("act", {"observation": [0.5, 0.4], "step": 1}),  # the last step with another content
            ("act", {"observation": [0.5, 0.5], "step": 7, "outcome": {"reward": 1}}),
            ("observe", {"reward": 9, "step": 0}),
            ("observe", {"reward": 1, "step": 2}),
            ("observe", {"reward": 1, "step": 2**62}),
        ]
    )
    return Hostile(
        f"replay {end} {body.get('step')}",
        request("POST", f"/v1/sessions/{own}/{end}", json.dumps(body).encode()),
        (409,),
    )


def _elsewhere(draw, own, foreign, ended):
    name, host, head, kind, statuses = draw.choice(
        [
            ("rebinding", f"Host: evil{draw.randrange(99)}.example", [], JSON, (403,)),
            ("rebinding by a prefix", "Host: 127.0.0.1.evil.example", [], JSON, (403,)),
            ("rebinding by user", "Host: localhost@evil.example", [], JSON, (403,)),
            ("CSRF by a page", HOST, ["Origin: https://evil.example"], JSON, (403,)),
            ("CSRF without an origin", HOST, ["Origin: null"], JSON, (403,)),
            ("CSRF by a link", HOST, ["Sec-Fetch-Site: cross-site"], JSON, (403,)),
            ("CSRF by a form", HOST, [], "Content-Type: text/plain", (415,)),
            ("CSRF by a multipart form", HOST, [], "Content-Type: multipart/form-data; boundary=x", (415,)),
            ("two hosts", HOST, ["Host: evil.example"], JSON, (400, 403)),
            ("forwarded host", "Host: evil.example", ["X-Forwarded-Host: localhost"], JSON, (403,)),
        ]
    )
    body = b'{"observation":[0.5,0.5],"outcome":{"reward":1}}'
    return Hostile(name, request("POST", f"/v1/sessions/{own}/act", body, head, host, kind), statuses)


def _no_http(draw, own, foreign, ended):
    start = f"POST /v1/sessions/{own}/act HTTP/1.1\r\n{HOST}\r\n{JSON}\r\nConnection: close\r\n"
    name, text = draw.choice(
        [
            ("no HTTP", "hello\r\n\r\n"),
            ("another protocol", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
            ("two lengths", start + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}"),
            ("length and chunks", start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            ("a negative length", start + "Content-Length: -5\r\n\r\n{}"),
            ("a length of text", start + "Content-Length: five\r\n\r\n{}"),
            ("chunks of no size", start + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
            ("an unknown coding", start + "Transfer-Encoding: gzip\r\n\r\n{}"),
            ("a name with spaces", start + "Evil Header: 1\r\n\r\n{}"),
            ("a folded header", start + "X-A: 1\r\n 2\r\nContent-Length: 1\r\n\r\n{"),
            ("a NUL", start.replace("localhost", "local\0host") + "\r\n"),
            ("a huge header", start + "X-A: " + "a" * 100_000 + "\r\n\r\n"),
            ("many headers", start + "".join(f"X-{i}: 1\r\n" for i in range(5000)) + "\r\n"),
            ("a huge line", "GET /" + "a" * 100_000 + " HTTP/1.1\r\n" + HOST + "\r\n\r\n"),
            ("an unknown method", f"EVIL /v1/sessions HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n"),
            ("an absolute address", f"GET http://evil.example/ HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n"),
            ("a tunnel", f"CONNECT evil.example:443 HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n"),
            ("half a WebSocket", f"GET / HTTP/1.1\r\n{HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
            ("an old WebSocket", f"GET / HTTP/1.1\r\n{HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Version: 7\r\nSec-WebSocket-Key: AAAA\r\n\r\n"),
            ("HTTP 2", "PRI * HTTP/2.0\r\nConnection: close\r\n\r\nSM\r\n\r\n"),
        ]
    )  # fmt: skip
    statuses = (400, 403, 404, 405, 413, 415, 422, 426, 431, 501, 505)
    return Hostile(name, text.encode("latin-1"), statuses, may_close=True)


def _large(draw, own, foreign, ended):
    size = 200_000
    body = draw.choice(
        [
            b'{"observation":[' + b"0," * size + b"0]}",
            b'{"observation":"' + b"a" * 2 * size + b'"}',
            b'{"requests":[' + b"{}," * size + b"{}]}",
        ]
    )
    if draw.random() < 0.5:
        path = draw.choice([f"/v1/sessions/{own}/act", "/v1/act", "/v1/sessions"])
        return Hostile("a body beyond the limit", request("POST", path, body), (413,), may_close=True)
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part) for part in [body[i : i + 50_000] for i in range(0, size, 50_000)]
    )
    start = f"POST /v1/act HTTP/1.1\r\n{HOST}\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return Hostile("chunks beyond the limit", start + chunks + b"0\r\n\r\n", (413,), may_close=True)

"""Claims about who may use a server: everything else is refused before it is read."""

import os
import socket
import time
from dataclasses import fields
from pathlib import Path

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.serve.client import ServerClient
from rl_transformer.serve.limits import ServeLimits, flag
from rl_transformer.serve.server import Address, bind, read_token
from tests.serve.servers import running
from tests.toys import point_data, untrained_policy

TOKEN = "a-token-for-tests-only"


@pytest.fixture(scope="module")
def policy():
    return untrained_policy(point_data())


@pytest.fixture(scope="module")
def guarded(policy):
    with running(policy, token=TOKEN, names=["robots.example"]) as server:
        yield server


def ask(server, head, body=b"", method="POST", path="/v1/sessions"):
    """Send a request as it stands and return (status, body)."""
    lines = [f"{method} {path} HTTP/1.1", *head, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), content.decode()


HOST = "Host: localhost:8000"
JSON = "Content-Type: application/json"
BEARER = f"Authorization: Bearer {TOKEN}"


def test_every_route_but_those_for_supervisors_needs_the_token(guarded):
    table = guarded.app.routes.table()
    assert len(table) == 10
    for route in table:
        method = next(iter(route.methods - {"HEAD"}))
        path = route.path.replace("{session}", "x")
        for head in ([], ["Authorization: Bearer wrong-token-for-tests"], [f"Authorization: Basic {TOKEN}"]):
            status, content = ask(guarded, [HOST, JSON, *head], b"{}", method, path)
            assert status == (200 if path in ("/healthz", "/readyz") else 401), (path, content)
        assert ask(guarded, [HOST, JSON, BEARER], b"{}", method, path)[0] != 401
    assert ask(guarded, [HOST, JSON, f"Authorization: Api-Key {TOKEN}"], b"{}")[0] == 200


REFUSED = {
    "the name of another website (DNS rebinding)": (["Host: evil.example", JSON, BEARER], 403, "Host"),
    "a name that ends like ours": (["Host: localhost.evil.example", JSON, BEARER], 403, "Host"),
    "a name that begins like an address": (["Host: 127.0.0.1.evil.example", JSON, BEARER], 403, "Host"),
    "no name": (["Host:", JSON, BEARER], 403, "Host"),
    "a malformed name": (["Host: [::1", JSON, BEARER], 403, "Host"),
    "a page of another website (CSRF)": ([HOST, JSON, BEARER, "Origin: https://evil.example"], 403, "Origin"),
    "a page of another port": ([HOST, JSON, BEARER, "Origin: http://localhost:9999"], 403, "Origin"),
    "a page without an origin": ([HOST, JSON, BEARER, "Origin: null"], 403, "Origin"),
    "a link on another website": ([HOST, JSON, BEARER, "Sec-Fetch-Site: cross-site"], 403, "Origin"),
    "a form": ([HOST, "Content-Type: application/x-www-form-urlencoded", BEARER], 415, "Content-Type"),
    "a form of text": ([HOST, "Content-Type: text/plain", BEARER], 415, "Content-Type"),
    "no type": ([HOST, BEARER], 415, "Content-Type"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_requests_from_elsewhere_are_refused(name, guarded):
    head, status, where = REFUSED[name]
    before = len(guarded.service.sessions)
    found, content = ask(guarded, head, b"{}")
    assert found == status
    assert f'"where": "{where}"' in content
    assert len(guarded.service.sessions) == before


def test_own_names_and_addresses_and_own_pages_are_welcome(guarded):
    for host in (
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:8000",
        "[::1]:8000",
        "10.0.0.7",
        "robots.example",
        "Robots.Example:80",
    ):
        assert ask(guarded, [f"Host: {host}", JSON, BEARER], b"{}")[0] == 200, host
    head = ["Host: localhost:8000", "Origin: http://localhost:8000", "Sec-Fetch-Site: same-origin", JSON, BEARER]
    assert ask(guarded, head, b"{}")[0] == 200


def test_no_answer_lets_other_websites_read_it(guarded):
    for head in ([HOST, "Origin: https://evil.example"], [HOST, "Origin: http://localhost:8000"]):
        preflight = [*head, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"]
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
            lines = ["OPTIONS /v1/sessions HTTP/1.1", *preflight, "Connection: close", "", ""]
            connection.sendall("\r\n".join(lines).encode())
            answer = connection.recv(65536).lower()
        assert b"access-control" not in answer
        assert answer.split()[1] in (b"403", b"401", b"405")


def test_one_address_has_a_rate_and_the_error_names_the_flag(policy):
    with running(policy, requests_per_second=2) as server:
        client = server.client()
        found = [client.request("GET", "/readyz") for _ in range(40)]
        refused = [content for status, content in found if status == 429]
        assert len(refused) >= 5
        assert "--requests-per-second" in refused[0]["error"]["fix"]
        time.sleep(0.8)
        assert client.request("GET", "/readyz")[0] == 200


# Addresses and token files


def test_other_machines_need_a_token(policy):
    for host in ("0.0.0.0", "::", socket.gethostbyname(socket.gethostname())):
        if host.startswith("127."):
            continue
        with pytest.raises(RLTransformerError, match="no token protects it"):
            bind(Address(host=host, port=0))
    for host in ("127.0.0.1", "localhost"):
        bind(Address(host=host, port=0)).close()
    bind(Address(host="0.0.0.0", port=0, token=TOKEN)).close()


def test_an_address_in_use_or_unknown_is_an_error():
    with bind(Address(port=0)) as taken, pytest.raises(RLTransformerError, match="cannot listen there"):
        bind(Address(port=taken.getsockname()[1]))
    for address in (
        Address(host="no.such.name.invalid"),
        Address(port=70000),
        Address(port=-1),
        Address(host="a" * 300),
    ):
        with pytest.raises(RLTransformerError, match=r"is not an address|cannot listen|is not a number"):
            bind(address)


def test_the_token_file_is_for_its_owner_only(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    assert read_token(str(file)) == TOKEN
    for mode in (0o640, 0o604, 0o622):
        file.chmod(mode)
        with pytest.raises(RLTransformerError, match="other users may read the token"):
            read_token(str(file))
    file.chmod(0o600)
    for content in ("", "short", "two words that are long enough", "a" * 20 + "\nb", "é" * 20):
        file.write_text(content)
        with pytest.raises(RLTransformerError, match="does not hold a token"):
            read_token(str(file))
    file.unlink()
    with pytest.raises(RLTransformerError, match="no such file") as caught:
        read_token(str(file))
    assert os.system(caught.value.fix.replace("python -c", "python3 -c")) == 0, "the fix must work"
    assert len(read_token(str(file))) > 40
    assert read_token(None) is None


def test_only_addresses_of_servers_have_clients():
    for url in ("localhost:8000", "file:///etc/passwd", "ftp://x", ""):
        with pytest.raises(RLTransformerError, match="is not the address of a server"):
            ServerClient(url)


def test_the_page_lists_every_limit_with_its_default_and_every_route(guarded):
    page = (Path(__file__).parents[2] / "docs/serve.md").read_text()
    for item in fields(ServeLimits):
        assert (
            f"| `{flag(item.name)}` | {item.default:g} | {item.metadata['help']} |".replace("1.04858e+06", "1048576")
            in page
        )
    for route in guarded.app.routes.table():
        assert route.path.replace("{session}", "{id}") in page

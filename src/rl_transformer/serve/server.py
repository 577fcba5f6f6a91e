"""Run a server: check who may reach it, bind its port, and stop when it is asked to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.policy import Policy, load_policy
from rl_transformer.runtime.files import MANIFEST
from rl_transformer.runtime.lock import owned
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.reading import read_bytes
from rl_transformer.runtime.signals import StopSignals
from rl_transformer.runtime.system import others_may_read
from rl_transformer.serve.limits import ServeLimits

_TOKEN_CHARACTERS = 16
_BACKLOG = 512


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens, and what its clients must send."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    names: Sequence[str] = ()
    """Host names by which clients may call it, besides localhost and IP addresses."""


def read_token(path: str | None) -> str | None:
    """Return the token in a file that only its owner may read.

    Raises:
        RLTransformerError: There is no such file, others may read it, or what it holds is too short to be a secret.
    """
    if path is None:
        return None
    file = user_path(path)
    fix = f"python -c 'import secrets; print(secrets.token_urlsafe(32))' > {file} && chmod 600 {file}"
    content = read_bytes(file, fix=fix, limit="yaml_bytes")
    if others_may_read(file):
        raise RLTransformerError("other users may read the token", where=file, fix=f"chmod 600 {file}")
    token = content.decode("utf-8", "replace").strip()
    # It travels in a header, where other characters would not arrive unchanged.
    if len(token) < _TOKEN_CHARACTERS or not (token.isascii() and token.isprintable()) or " " in token:
        problem = f"does not hold a token of at least {_TOKEN_CHARACTERS} ASCII characters without spaces"
        raise RLTransformerError(problem, where=file, fix=fix)
    return token


def bind(address: Address) -> socket.socket:
    """Return a listening socket; beyond this machine only with a token.

    Raises:
        RLTransformerError: The address is not one of this machine or is in use, or the token is missing.
    """
    fix = "choose another --host or --port"
    if not 0 <= address.port < 2**16:  # the system would take 65536 more or less for the same
        raise RLTransformerError("is not a number from 0 to 65535", where=f"--port {address.port}", fix=fix)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise RLTransformerError(f"is not an address: {error}", where=f"--host {address.host}", fix=fix) from None
    family, _, _, _, place = found[0]
    # The resolved address counts, not the name, which can stand for any machine.
    if address.token is None and not ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback:
        raise RLTransformerError(
            "other machines could use this server, and no token protects it",
            where=f"--host {address.host}",
            fix="add --token-file FILE, or leave --host out to serve this machine only",
        )
    try:
        return socket.create_server(place[:2], family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        problem = f"cannot listen there: {getattr(error, 'strerror', None) or error}"
        raise RLTransformerError(problem, where=f"{address.host}:{address.port}", fix=fix) from None


class NewerPolicy:
    """Looks whether the policy in a run folder was replaced."""

    def __init__(self, folder: str, device: str) -> None:
        self._folder = folder
        self._device = device
        self._seen = self._look()

    def __call__(self) -> Policy | None:
        """Return the policy if it was replaced since the last call, else None.

        Raises:
            RLTransformerError: It cannot be loaded; the next call tries again only when it has changed once more.
        """
        found = self._look()
        if found in (self._seen, None):
            return None
        self._seen = found
        return load_policy(self._folder, device=self._device)

    def _look(self) -> tuple[int, ...] | None:
        """Return what changes when a policy is replaced; None if there is none at the moment."""
        # A changed policy has a changed manifest, and the status of one small file is cheap to look at.
        for name in (f"policy/{MANIFEST}", MANIFEST):
            try:
                status = (Path(self._folder) / name).stat()
            except OSError:
                continue
            return status.st_ino, status.st_mtime_ns, status.st_size
        return None


def serve(
    folder: str,
    address: Address,
    limits: ServeLimits,
    *,
    keep_sessions: str | None = None,
    device: str = "cpu",
    started: Callable[[str, Policy], None] = lambda url, policy: None,
) -> int | None:
    """Serve a policy until a signal arrives, and return its number.

    Args:
        folder: A run folder or a policy folder.
        address: Where to listen.
        limits: What clients may use.
        keep_sessions: A folder or the URL of a Redis database that keeps the sessions over a restart.
        device: Where the policy computes.
        started: Called with the URL and the policy when clients can connect.

    Raises:
        RLTransformerError: The policy, the address or the store cannot be used.
    """
    require("starlette", extra="serve", purpose="rlt serve")
    require("uvicorn", extra="serve", purpose="rlt serve")
    require("websockets", extra="serve", purpose="rlt serve")
    require("msgpack", extra="serve", purpose="rlt serve")
    require("prometheus_client", extra="serve", purpose="rlt serve")
    from rl_transformer.serve.app import ServerApp
    from rl_transformer.serve.connections import HttpServer
    from rl_transformer.serve.service import Service
    from rl_transformer.serve.stores import make_private, open_store

    with StopSignals() as signals, ExitStack() as held:
        listening = held.enter_context(bind(address))
        # Looked at before it is loaded: one that is replaced in between counts as newer.
        # A policy from the Hub has no folder here that a training run could replace.
        newer = None if folder.startswith("hub:") else NewerPolicy(folder, device)
        policy = load_policy(folder, device=device)
        store = None
        if keep_sessions is not None:
            if "://" not in keep_sessions:
                kept = make_private(user_path(keep_sessions))
                # Two servers on one folder would overwrite each other's sessions.
                held.enter_context(owned(kept / ".lock", what=kept))
            store = open_store(keep_sessions)
        service = Service(policy, limits, store)
        app = ServerApp(service, limits, token=address.token, names=[address.host, *address.names], newer=newer)
        host, port = listening.getsockname()[:2]
        started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", policy)
        HttpServer(app, limits, lambda: signals.received is not None).run_on(listening)
    return signals.received

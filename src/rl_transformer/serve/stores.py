"""Keep sessions over a restart: in a folder, or in Redis. A record is on the disk before its answer is sent."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.policy import Policy, load_policy
from rl_transformer.runtime.files import remove_leftovers, translate_write_errors, write_text
from rl_transformer.runtime.paths import below, user_path
from rl_transformer.runtime.reading import parse_json, read_json
from rl_transformer.runtime.system import others_may_read
from rl_transformer.runtime.types import JsonObject

_FIX = "remove it; the session is lost"
_KEY = re.compile(r"[0-9a-f]{64}")
_PREFIX = "rl_transformer:session:"


class SessionStore(Protocol):
    """Where records of sessions are kept, by key."""

    def put(self, key: str, record: JsonObject) -> None:
        """Write a record; it survives the end of this process."""
        ...

    def remove(self, key: str) -> None:
        """Remove a record, if it is there."""
        ...

    def items(self) -> Iterator[tuple[str, JsonObject | RLTransformerError]]:
        """Yield every record by key, or why it cannot be read."""
        ...

    def keep_policy(self, name: str, policy: Policy) -> None:
        """Keep a policy, because its sessions may outlive its run folder's content."""
        ...

    def find_policy(self, name: str) -> Policy | None:
        """Return a policy that was kept, or None."""
        ...

    def remove_policy(self, name: str) -> None:
        """Remove a policy that has no session."""
        ...


class FolderStore:
    """A folder with one JSON file per session, and the policies that these began with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with translate_write_errors(folder):
            (folder / "sessions").mkdir(mode=0o700, parents=True, exist_ok=True)
        # The records hold observations and answers.
        if others_may_read(folder / "sessions"):
            fix = f"chmod 700 {folder / 'sessions'}"
            raise RLTransformerError("other users may read it", where=folder / "sessions", fix=fix)
        remove_leftovers(folder / "sessions")

    def _path(self, key: str) -> Path:
        return below(self._folder, f"sessions/{key}.json")

    def put(self, key: str, record: JsonObject) -> None:
        """Write a record atomically and durably."""
        write_text(self._path(key), json.dumps(record, allow_nan=False))

    def remove(self, key: str) -> None:
        """Remove a record."""
        self._path(key).unlink(missing_ok=True)

    def items(self) -> Iterator[tuple[str, JsonObject | RLTransformerError]]:
        """Yield every record."""
        for path in sorted((self._folder / "sessions").glob("*.json")):
            if _KEY.fullmatch(path.stem):
                try:
                    yield path.stem, read_json(path, fix=_FIX)
                except RLTransformerError as error:
                    yield path.stem, error

    def keep_policy(self, name: str, policy: Policy) -> None:
        """Write the policy's folder."""
        folder = below(self._folder, f"policies/{name}")
        if not folder.exists():
            policy.save(folder)

    def find_policy(self, name: str) -> Policy | None:
        """Load the policy's folder."""
        folder = below(self._folder, f"policies/{name}") if _KEY.fullmatch(name) else None
        return None if folder is None or not folder.exists() else load_policy(folder)

    def remove_policy(self, name: str) -> None:
        """Remove the policy's folder."""
        # A crash may leave a part of it; its manifest then no longer fits, and `find_policy` refuses it.
        shutil.rmtree(below(self._folder, f"policies/{name}"), ignore_errors=True)


class RedisStore:
    """A Redis database. Policies are not kept there: after a restart sessions of an older policy have ended."""

    def __init__(self, url: str) -> None:
        require("redis", extra="serve", purpose="keeping sessions in Redis")
        import redis

        self._errors = (redis.RedisError, OSError)
        try:
            self._client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5, decode_responses=True)
            self._client.ping()
        except (*self._errors, ValueError) as error:
            raise _no_redis(error) from None

    def put(self, key: str, record: JsonObject) -> None:
        """Write a record."""
        try:
            self._client.set(_PREFIX + key, json.dumps(record, allow_nan=False))
        except self._errors as error:
            raise _no_redis(error) from None

    def remove(self, key: str) -> None:
        """Remove a record."""
        try:
            self._client.delete(_PREFIX + key)
        except self._errors as error:
            raise _no_redis(error) from None

    def items(self) -> Iterator[tuple[str, JsonObject | RLTransformerError]]:
        """Yield every record."""
        try:
            for name in self._client.scan_iter(match=_PREFIX + "*"):
                key = str(name).removeprefix(_PREFIX)
                content = self._client.get(str(name))
                if content is None or not _KEY.fullmatch(key):
                    continue
                try:
                    yield key, parse_json(str(content).encode(), where="a record in Redis", fix=_FIX)
                except RLTransformerError as error:
                    yield key, error
        except self._errors as error:
            raise _no_redis(error) from None

    def keep_policy(self, name: str, policy: Policy) -> None:
        """Do nothing."""

    def find_policy(self, name: str) -> Policy | None:
        """Return None."""

    def remove_policy(self, name: str) -> None:
        """Do nothing."""


def _no_redis(error: Exception) -> RLTransformerError:
    # The URL may hold a password; the message names the flag.
    return RLTransformerError(
        f"Redis does not answer: {type(error).__name__}",
        where="--keep-sessions",
        fix="start Redis, write its address as redis://HOST:PORT/0, or name a folder",
    )


def open_store(text: str) -> SessionStore:
    """Return the store that ``--keep-sessions`` names: the URL of a Redis database, or a folder."""
    return RedisStore(text) if "://" in text else FolderStore(user_path(text))

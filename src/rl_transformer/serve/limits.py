"""The limits of a server. Each is a flag of `rlt serve`, and the error of a request beyond it names that flag."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rl_transformer.config.base import option
from rl_transformer.errors import RLTransformerError


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What clients may use of a server; all numbers are larger than 0."""

    max_sessions: int = option(1024, "Live sessions; a further one is refused until one ends.")
    idle_seconds: float = option(900.0, "A session or WebSocket that is not used for so long is closed.")
    body_bytes: int = option(2**20, "Bytes of a request or WebSocket message.")
    json_depth: int = option(16, "Lists and objects inside each other in a request.")
    sessions_per_call: int = option(1024, "Sessions that act in one call of POST /v1/act.")
    requests_per_second: float = option(2000.0, "Requests and messages of one client address per second.")
    max_connections: int = option(512, "Open connections; further ones are closed at once.")
    read_seconds: float = option(10.0, "Seconds in which a request must have arrived.")
    batch_milliseconds: float = option(1.0, "How long a request waits for others to act in the same forward pass.")
    stop_seconds: float = option(30.0, "How long a server that is stopped finishes what it has accepted.")
    reload_seconds: float = option(2.0, "How often the run folder is looked at for a newer policy.")

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise RLTransformerError(
                    f"is {getattr(self, item.name)}", where=flag(item.name), fix="give a number larger than 0"
                )


def flag(name: str) -> str:
    """Return the flag that sets a limit."""
    return "--" + name.replace("_", "-")

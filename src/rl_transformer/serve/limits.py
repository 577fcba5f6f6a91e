"""The limits of a server. Each is a flag of `rlt serve`, and the error of a request beyond it names that flag."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rl_transformer.config.base import option
from rl_transformer.errors import RLTransformerError


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What clients may use of a server; all numbers are larger than 0."""

    max_sessions: int = option(1024, "Live sessions; at the limit, new ones are refused until one ends.")
    idle_seconds: float = option(900.0, "Seconds after which an unused session or WebSocket is closed.")
    body_bytes: int = option(2**20, "Size of a request or WebSocket message in bytes.")
    json_depth: int = option(16, "Nesting depth of lists and objects in a request.")
    sessions_per_call: int = option(1024, "Sessions that act in one call of POST /v1/act.")
    requests_per_second: float = option(2000.0, "Requests and messages per second from one client address.")
    max_connections: int = option(512, "Open connections; further ones are closed at once.")
    read_seconds: float = option(10.0, "Seconds within which a request must arrive completely.")
    batch_milliseconds: float = option(1.0, "Milliseconds that a request waits for others to share its forward pass.")
    stop_seconds: float = option(30.0, "Seconds that a stopping server has to finish accepted requests.")
    reload_seconds: float = option(2.0, "Seconds between checks of the run folder for a newer policy.")

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise RLTransformerError(
                    f"is {getattr(self, item.name)}", where=flag(item.name), fix="give a number larger than 0"
                )


def flag(name: str) -> str:
    """Return the flag that sets a limit."""
    return "--" + name.replace("_", "-")

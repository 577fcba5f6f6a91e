"""What `rlt verify` establishes: a list of promises, each with a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonObject


@dataclass(frozen=True)
class Promise:
    """One promise: whether it holds, and what was found."""

    name: str
    holds: bool
    figure: str | float


@dataclass
class Report:
    """The promises of one target, in order. Other kinds of targets, such as a live server, make reports of their own."""

    target: str
    promises: list[Promise] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, name: str, find: Callable[[], str]) -> bool:
        """Add a promise, and return whether it holds.

        Args:
            name: What is promised, as a sentence.
            find: Returns the figure; raises an error if the promise does not hold.
        """
        try:
            figure, holds = find(), True
        except RLTransformerError as error:
            figure, holds = f"{error.where}: {error.problem}", False
        self.promises.append(Promise(name, holds, figure))
        return holds

    @property
    def holds(self) -> bool:
        """Return True if every promise holds."""
        return bool(self.promises) and all(promise.holds for promise in self.promises)

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold."""
        return {"target": self.target, "promises": [asdict(promise) for promise in self.promises], "notes": self.notes}


def broken(problem: str, where: object) -> RLTransformerError:
    """Return the error of a promise that does not hold."""
    return RLTransformerError(problem, where=where, fix="restore it from a copy, or write it again")

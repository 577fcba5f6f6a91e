"""Named implementations of an interface: the built-in ones, and those that a plugin adds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Generic, TypeVar, cast

from rl_transformer.errors import RLTransformerError

T = TypeVar("T")
ResultT = TypeVar("ResultT")

_loading: ContextVar[str | None] = ContextVar("plugin_being_loaded", default=None)


@contextmanager
def loading_plugin(module: str) -> Iterator[None]:
    """Attribute every registration inside the block to the plugin ``module``."""
    token = _loading.set(module)
    try:
        yield
    finally:
        _loading.reset(token)


class Registry(Generic[T]):
    """A mapping from names to implementations.

    A built-in implementation may be registered as ``"module:attribute"``; it is imported when it is first
    asked for, so that a registry costs nothing on machines that lack what an implementation needs.

    Args:
        kind: What is registered, as it should read in messages, for example "action head".
        required: Attributes that every implementation must have.
    """

    def __init__(self, kind: str, *, required: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.required = required
        self._entries: dict[str, T | str] = {}
        self._owners: dict[str, str] = {}

    def register(self, name: str, implementation: T | str) -> None:
        """Add an implementation under ``name``.

        Raises:
            RLTransformerError: The name is taken or malformed, or the implementation lacks a required
                attribute; the message names the plugin that is being loaded.
        """
        owner = _loading.get() or "rl_transformer"
        if not isinstance(name, str) or not name.replace("_", "a").replace("-", "a").isalnum():
            raise self._error(
                owner, f"registers the {self.kind} {name!r}", "use letters, digits, '-' and '_' in the name"
            )
        if name in self._entries:
            raise self._error(
                owner,
                f"registers the {self.kind} {name!r}, which {self._owners[name]} has registered already",
                "choose another name",
            )
        if not isinstance(implementation, str):
            self._check(name, implementation, owner)
        self._entries[name] = implementation
        self._owners[name] = owner

    def unregister(self, name: str) -> None:
        """Remove an implementation, for example after a test that registered it."""
        del self._entries[name]
        del self._owners[name]

    def get(self, name: str, *, where: object) -> T:
        """Return the implementation registered under ``name``.

        Args:
            name: A registered name.
            where: The option, file or URI that named it, for the message.

        Raises:
            RLTransformerError: No such name; similar names are suggested.
        """
        if name not in self._entries:
            close = difflib.get_close_matches(name, self._entries, n=2)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise RLTransformerError(
                f"there is no {self.kind} {name!r}",
                where=where,
                fix=f"{hint}Registered: {', '.join(self._entries)}. One of your own is registered by a plugin: "
                "pass --plugin MODULE, or import the module first",
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            loaded = cast(T, getattr(import_module(module), attribute))
            self._entries[name] = loaded
            return loaded
        return entry

    def owner(self, name: str) -> str:
        """Return the module that registered ``name``: "rl_transformer" or a plugin."""
        return self._owners[name]

    def is_from_plugin(self, name: str) -> bool:
        """Return True if a plugin registered ``name``."""
        return self._owners.get(name, "rl_transformer") != "rl_transformer"

    def names(self) -> list[str]:
        """Return all registered names, the built-in ones first."""
        return list(self._entries)

    def _check(self, name: str, implementation: T, owner: str) -> None:
        missing = [attribute for attribute in self.required if not hasattr(implementation, attribute)]
        if missing:
            raise self._error(
                owner,
                f"registers the {self.kind} {name!r}, which lacks {', '.join(missing)}",
                "add what is missing; docs/extending.md shows a complete one",
            )

    @staticmethod
    def _error(owner: str, problem: str, fix: str) -> RLTransformerError:
        return RLTransformerError(problem, where=f"plugin {owner}", fix=fix)


def broken_contract(registry: Registry[T], name: str, problem: str) -> RLTransformerError:
    """Return the error for an implementation that does not do what its interface promises."""
    return RLTransformerError(
        f"the {registry.kind} {name!r} breaks its contract: {problem}",
        where=f"plugin {registry.owner(name)}",
        fix="compare it with docs/extending.md, which states the contract and shows a complete example",
    )


def call_plugin(registry: Registry[T], name: str, what: str, call: Callable[[], ResultT]) -> ResultT:
    """Run code of a plugin; an exception it raises becomes an error that names the plugin's module."""
    try:
        return call()
    except RLTransformerError:
        raise
    except Exception as error:
        if not registry.is_from_plugin(name):
            raise
        problem = f"{what} raised {type(error).__name__}: {error}"
        raise broken_contract(registry, name, problem) from error

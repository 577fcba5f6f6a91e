"""Register implementations of an interface by name: built-in ones, and those that plugins add."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Generic, TypeVar, cast

from rl_transformer.errors import RLTransformerError, did_you_mean

T = TypeVar("T")
ResultT = TypeVar("ResultT")

PACKAGE = "rl_transformer"

# A context variable instead of an argument: a plugin registers by a plain call at import time and need not give its own
# name. Resetting it by token is correct even if plugins import each other.
_loading: ContextVar[str | None] = ContextVar("plugin_being_loaded", default=None)


@contextmanager
def loading_plugin(module: str) -> Iterator[None]:
    """Attribute every registration inside the block to the plugin ``module``, except those of this package."""
    token = _loading.set(module)
    try:
        yield
    finally:
        _loading.reset(token)


class Registry(Generic[T]):
    """Maps names to implementations.

    A built-in implementation may be registered as ``"module:attribute"`` and is then imported on first use. A registry
    therefore works on machines that lack the packages of implementations that they do not use.

    Args:
        kind: Name of the interface for messages, for example "action head".
        required: Attributes that every implementation must have.
    """

    def __init__(self, kind: str, *, required: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.required = required
        self._entries: dict[str, T | str] = {}
        self._owners: dict[str, str] = {}

    def register(self, name: str, implementation: T | str) -> None:
        """Add an implementation under ``name``; it belongs to the module that calls this.

        A class or function that is defined again, as in a notebook, replaces the earlier one.

        Raises:
            RLTransformerError: The name is taken or malformed, or the implementation lacks a required
                attribute; the message names the plugin.
        """
        owner = _owner(str(sys._getframe(1).f_globals.get("__name__")))
        # Names appear in URIs (SCHEME:PATH), on command lines and in JSON, so they must not need quoting.
        if not isinstance(name, str) or not name.replace("_", "a").replace("-", "a").isalnum():
            raise self._error(
                owner, f"registers the {self.kind} {name!r}", "use letters, digits, '-' and '_' in the name"
            )
        # The first registration wins, above all a built-in one: if a plugin could replace it, stored policies would
        # mean something else depending on the plugins that happen to be loaded.
        if name in self._entries and not self._is_redefinition(name, implementation, owner):
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
        """Remove an implementation, for example at the end of a test that registered it."""
        del self._entries[name]
        del self._owners[name]

    def get(self, name: str, *, where: object) -> T:
        """Return the implementation registered under ``name``.

        Args:
            name: A registered name.
            where: The option, file or URI that contains the name, for the message.

        Raises:
            RLTransformerError: The name is not registered; similar names are suggested.
        """
        if not isinstance(name, str) or name not in self._entries:  # a file may hold anything in its place
            hint = did_you_mean(str(name), self._entries)
            raise RLTransformerError(
                f"there is no {self.kind} {name!r}",
                where=where,
                fix=f"{hint}Registered: {', '.join(self._entries)}. To use your own, "
                "pass --plugin MODULE, or import the module that registers it",
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            # The string comes from source code, never from a data file, so importing what it names is safe.
            module, _, attribute = entry.partition(":")
            # A plugin may register by name, too, and its module may fail to import or lack the attribute.
            loaded = call_plugin(
                self, name, f"importing {entry}", lambda: cast(T, getattr(import_module(module), attribute))
            )
            self._check(name, loaded, self._owners[name])
            self._entries[name] = loaded
            return loaded
        return entry

    def owner(self, name: str) -> str:
        """Return the name of the plugin that registered ``name``, or "rl_transformer"."""
        return self._owners[name]

    def is_from_plugin(self, name: str) -> bool:
        """Return True if a plugin registered ``name``."""
        return self._owners.get(name, PACKAGE) != PACKAGE

    def names(self) -> list[str]:
        """Return all registered names in the order of registration, built-in ones first."""
        return list(self._entries)

    def _is_redefinition(self, name: str, implementation: T | str, owner: str) -> bool:
        """Return True if a module registers the same class or function again, as running a notebook cell twice does."""
        before = getattr(self._entries[name], "__qualname__", self._entries[name])
        now = getattr(implementation, "__qualname__", implementation)
        return owner == self._owners[name] != PACKAGE and before == now

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


def _owner(caller: str) -> str:
    """Return the owner of a registration made by ``caller``: this package, the plugin being loaded, or that module."""
    # If a plugin is the first to import a module of this package, that module registers its built-in implementations
    # while the plugin is being loaded. They are not the plugin's.
    if caller == PACKAGE or caller.startswith(f"{PACKAGE}."):
        return PACKAGE
    return _loading.get() or caller


def broken_contract(registry: Registry[T], name: str, problem: str) -> RLTransformerError:
    """Return the error for an implementation that violates the contract of its interface."""
    return RLTransformerError(
        f"the {registry.kind} {name!r} breaks its contract: {problem}",
        where=f"plugin {registry.owner(name)}",
        fix="compare it with docs/extending.md, which states the contract and shows a complete example",
    )


def call_plugin(registry: Registry[T], name: str, what: str, call: Callable[[], ResultT]) -> ResultT:
    """Call code that may belong to a plugin, and return its result.

    Args:
        registry: Registry of the implementation.
        name: Its registered name.
        what: The call, as it should read in the message, for example "open()".
        call: Calls the implementation.

    Raises:
        RLTransformerError: The plugin raised an exception; the message names its module.
    """
    try:
        return call()
    except RLTransformerError:
        raise
    except Exception as error:
        # An exception of a built-in implementation is a bug of this library and keeps its traceback.
        if not registry.is_from_plugin(name):
            raise
        problem = f"{what} raised {type(error).__name__}: {error}"
        raise broken_contract(registry, name, problem) from error

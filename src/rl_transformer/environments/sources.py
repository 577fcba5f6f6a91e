"""Open environments from whatever the caller has: an id, one environment, or a function that makes one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from rl_transformer.environments.live import LiveEnvironment, refuse_other_apis
from rl_transformer.environments.making import environment_spec, make_environment
from rl_transformer.environments.wrappers import Wrapper, find_wrapper, wrapper_name
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject

if TYPE_CHECKING:
    import gymnasium

Environment: TypeAlias = "str | gymnasium.Env | Callable[[], gymnasium.Env]"
"""A gymnasium id, one environment, or a function that makes one."""


@dataclass(frozen=True)
class EnvironmentSource:
    """Makes the environments of an evaluation."""

    name: str
    """Gymnasium id, or the name of the environment's class or of the function that makes it."""
    make: Callable[[bool], gymnasium.Env]
    """Returns an environment; the argument says whether its ``render()`` must return images."""
    is_one: bool = False
    """The source is one environment of the caller, which runs one episode at a time and is not closed here."""
    is_id: bool = False
    """The environments come from an id, so that other processes can make them as well."""
    env_kwargs: JsonObject = field(default_factory=dict)
    """Arguments of ``gymnasium.make``, JSON-ready, for reports."""
    wrappers: list[str] = field(default_factory=list)
    """Names of the wrappers, for reports."""
    step_timeout: float | None = None
    """Seconds that one step or reset may take; None: no limit."""

    @classmethod
    def of(
        cls, environment: Environment, *, env_kwargs: JsonMapping | None = None, wrappers: Sequence[Wrapper] = ()
    ) -> EnvironmentSource:
        """Return the source of an id, an environment, or a function that makes one.

        Args:
            environment: The id, environment or function.
            env_kwargs: Further arguments of ``gymnasium.make``, for an id only.
            wrappers: Wrappers to apply to every environment, the innermost one first; see `find_wrapper`.

        Raises:
            RLTransformerError: It is none of the three, arguments are given without an id, or a wrapper is unknown.
        """
        found = [find_wrapper(wrapper) for wrapper in wrappers]
        names = [wrapper_name(wrapper) for wrapper in wrappers]

        def wrap(made: gymnasium.Env) -> gymnasium.Env:
            for wrapper in found:
                made = wrapper(made)
            return made

        if isinstance(environment, str):
            name = environment
            make = partial(make_environment, name, env_kwargs=env_kwargs)
            # Arguments may be any objects, and a report is written as JSON.
            arguments = json.loads(json.dumps(dict(env_kwargs or {}), default=repr))
            return cls(name, lambda render: wrap(make(render=render)), False, True, arguments, names)
        if env_kwargs:
            raise RLTransformerError(
                "arguments are given for an environment that is not made here",
                where="env_kwargs",
                fix="pass them where the environment is made, or name the environment by its id",
            )
        # A class has the methods of its instances and can be called, so it is a function that makes environments.
        is_class = isinstance(environment, type)
        if callable(environment) and (is_class or not hasattr(environment, "step")):
            factory: Any = environment
            return cls(_function_name(factory), lambda render: wrap(factory()), wrappers=names)
        refuse_other_apis(environment, _environment_name(environment))
        # Wrapped once: a wrapper around a wrapper would be added for every policy that is evaluated.
        one = wrap(environment)  # pyright: ignore[reportArgumentType]
        return cls(_environment_name(environment), lambda render: one, is_one=True, wrappers=names)

    def check_max_live(self, max_live: int | None) -> None:
        """Raise an `RLTransformerError` if ``max_live`` environments cannot be open at the same time."""
        if max_live is not None and max_live < 1:
            raise RLTransformerError(f"is {max_live}", where="max_live", fix="set it to 1 or more")
        if self.is_one and max_live is not None and max_live > 1:
            raise RLTransformerError(
                f"is {max_live}, and one environment runs one episode at a time",
                where="max_live",
                fix="leave it out, or pass a function that makes an environment instead of the environment",
            )

    def open(
        self, *, render: bool = False, like: LiveEnvironment | None = None, already_open: int = 0
    ) -> LiveEnvironment:
        """Return a new environment, or the one that belongs to the caller.

        Args:
            render: Make ``render()`` return images.
            like: Another environment of this source, whose spaces this one has.
            already_open: Environments of this source that are open.

        Raises:
            RLTransformerError: The environment cannot be made, or is no gymnasium environment of one agent.
        """
        try:
            made = self.make(render)
        except (Exception, SystemExit) as error:
            raise self._not_made(error, already_open) from error
        try:
            refuse_other_apis(made, self.name)
            name = self.name if self.is_id or self.is_one else _environment_name(made)
            if like is not None:
                return like.another(made)
            spec = environment_spec(made, name)
            return LiveEnvironment(made, name, spec, is_ours=not self.is_one, step_timeout=self.step_timeout)
        except RLTransformerError:
            if not self.is_one and hasattr(made, "close"):
                made.close()
            raise

    def open_more(self, first: LiveEnvironment, rendering: Sequence[bool]) -> list[LiveEnvironment]:
        """Return ``first`` and further environments, one for each entry of ``rendering`` in all.

        Raises:
            RLTransformerError: An environment cannot be made, or a function returns the same one twice.
        """
        opened = [first]
        try:
            for render in rendering[1:]:
                # What the constructor warns about was said once, for the first environment.
                with warnings.catch_warnings(record=True):
                    made = self.open(render=render, like=first, already_open=len(opened))
                # Wrappers may be new although the environment inside of them is not.
                if any(_innermost(made.environment) is _innermost(other.environment) for other in opened):
                    raise RLTransformerError(
                        "returned the same environment twice",
                        where=self.name,
                        fix="make a new environment in each call, or pass max_live=1 (--max-live 1)",
                    )
                opened.append(made)
        except BaseException:
            for environment in opened[1:]:
                environment.close()
            raise
        return opened

    def _not_made(self, error: BaseException, already_open: int) -> RLTransformerError:
        """Return the error for an environment that cannot be made."""
        if already_open:
            problem = error.problem if isinstance(error, RLTransformerError) else f"{type(error).__name__}: {error}"
            return RLTransformerError(
                f"{already_open} are open, and another one cannot be made: {problem}",
                where=self.name,
                fix=f"pass max_live={already_open} (--max-live {already_open}) to open no more at the same time",
            )
        if isinstance(error, RLTransformerError):
            return error
        return RLTransformerError(
            f"raised {type(error).__name__}: {error}", where=self.name, fix="correct the function that makes it"
        )


@contextmanager
def opened(source: EnvironmentSource, *, render: bool = False) -> Iterator[LiveEnvironment]:
    """Open one environment of a source, and close it at the end."""
    environment = source.open(render=render)
    try:
        yield environment
    finally:
        environment.close()


def _environment_name(environment: Any) -> str:
    """Return the id of an environment, or the name of its class."""
    spec = getattr(environment, "spec", None)
    return str(getattr(spec, "id", None) or type(_innermost(environment)).__name__)


def _innermost(environment: Any) -> object:
    return getattr(environment, "unwrapped", environment)


def _function_name(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__name__)

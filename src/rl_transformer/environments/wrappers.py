"""Wrap environments by the names of wrappers, as the command line gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from rl_transformer.errors import RLTransformerError, did_you_mean
from rl_transformer.runtime.plugins import import_user_module
from rl_transformer.runtime.types import JsonObject

if TYPE_CHECKING:
    import gymnasium

Wrapper: TypeAlias = "str | Callable[[Any], gymnasium.Env]"
"""A class of ``gymnasium.wrappers``, ``MODULE:CLASS``, either with ``={...}`` for its arguments; or a callable."""

# Wrappers that would work against an evaluation, with what to do instead.
_REFUSED = {
    "RecordVideo": "record with rlt evaluate --video FILE, or record=N in Python",
    "Autoreset": "leave it out: episodes are reset where they end",
}


def find_wrapper(wrapper: Wrapper) -> Callable[[Any], gymnasium.Env]:
    """Return a function that wraps an environment.

    Args:
        wrapper: For example ``FlattenObservation``, ``FrameStackObservation={"stack_size": 4}``,
            ``my_module:MyWrapper``, or a callable, which is returned as it is.

    Raises:
        RLTransformerError: There is no such wrapper, or its arguments are not a JSON object.
    """
    if callable(wrapper):
        return wrapper
    name, equals, text = wrapper.partition("=")
    where = f"wrapper {name}"
    arguments = parse_arguments(text, where=where) if equals else {}
    # JSON has lists only, and wrappers take shapes as tuples.
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    module, colon, attribute = name.rpartition(":")
    if colon:
        found: Callable[..., gymnasium.Env] | None = getattr(
            import_user_module(module, where=f"module {module} of {where}"), attribute, None
        )
        if not callable(found):
            raise RLTransformerError(f"{module} has no such class", where=where, fix=f"define {attribute} in {module}")
    else:
        found = _of_gymnasium(name, where)

    def wrap(environment: gymnasium.Env) -> gymnasium.Env:
        """Return the wrapped environment; an error names the wrapper."""
        try:
            return found(environment, **arguments)
        except (Exception, SystemExit) as error:
            if isinstance(error, RLTransformerError):
                raise
            raise RLTransformerError(
                f"cannot wrap {environment}: {type(error).__name__}: {error}",
                where=where,
                fix=f"pass the arguments that it needs as '{name}={{\"NAME\": VALUE}}', or leave it out",
            ) from error

    return wrap


def wrapper_name(wrapper: Wrapper) -> str:
    """Return the name of a wrapper for a report."""
    return wrapper if isinstance(wrapper, str) else getattr(wrapper, "__qualname__", type(wrapper).__name__)


def parse_arguments(text: str, *, where: str) -> JsonObject:
    """Return keyword arguments from a JSON object.

    Raises:
        RLTransformerError: The text is not a JSON object.
    """
    try:
        arguments = json.loads(text)
    except json.JSONDecodeError as error:
        arguments = error
    if not isinstance(arguments, dict):
        problem = f"{text!r:.200} is not a JSON object"
        reason = f": {arguments}" if isinstance(arguments, ValueError) else ""
        raise RLTransformerError(problem + reason, where=where, fix="write it as '{\"size\": 5}', in single quotes")
    return arguments


def _of_gymnasium(name: str, where: str) -> Callable[..., gymnasium.Env]:
    from gymnasium import wrappers

    if name in _REFUSED:
        raise RLTransformerError("does not fit an evaluation", where=where, fix=_REFUSED[name])
    if name not in wrappers.__all__ or not isinstance(getattr(wrappers, name), type):
        hint = did_you_mean(name, wrappers.__all__)
        raise RLTransformerError(
            "gymnasium.wrappers has no such class",
            where=where,
            fix=f"{hint}write a wrapper of your own as MODULE:CLASS",
        )
    return getattr(wrappers, name)

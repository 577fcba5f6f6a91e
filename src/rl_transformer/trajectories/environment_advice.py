"""Write the options of the command line that make the environment a source names; they are only printed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from rl_transformer.runtime.types import JsonMapping

# The classes of gymnasium.wrappers that the command line can make, by whether they need arguments. A list, because a
# machine that only runs a policy has no gymnasium.
_NEED_NO_ARGUMENTS = {
    "AddRenderObservation",
    "AtariPreprocessing",
    "ClipAction",
    "ClipReward",
    "FlattenObservation",
    "GrayscaleObservation",
    "MaxAndSkipObservation",
    "NormalizeObservation",
    "NormalizeReward",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "TimeAwareObservation",
    "JaxToNumpy",
    "JaxToTorch",
    "NumpyToTorch",
}
_NEED_ARGUMENTS = {
    "AddWhiteNoise",
    "DelayObservation",
    "DiscretizeAction",
    "DiscretizeObservation",
    "FilterObservation",
    "FrameStackObservation",
    "ObstructView",
    "RepeatAction",
    "RescaleAction",
    "RescaleObservation",
    "ReshapeObservation",
    "ResizeObservation",
    "StickyAction",
    "TimeLimit",
}


def environment_options(
    env_id: str, env_kwargs: JsonMapping, max_episode_steps: int | None, wrappers: Sequence[str]
) -> str:
    """Return the options of `rlt evaluate` that make an environment, quoted for a shell."""
    # The text comes from the source's files: quoted, so that it can be copied into a shell without harm, and ASCII, so
    # that it cannot control a terminal.
    options = ["--env-id", printable(env_id)]
    arguments = dict(env_kwargs)
    if max_episode_steps:
        # An argument of the environment rather than a limit of the evaluation, because it can also raise the limit that
        # the environment is registered with.
        arguments["max_episode_steps"] = max_episode_steps
    if arguments:
        options += ["--env-kwargs", json.dumps(arguments, sort_keys=True)]
    for wrapper in wrappers:
        option = _wrapper_option(wrapper)
        if option is not None:
            options += ["--wrapper", option]
    return shlex.join(options)


def wrappers_note(wrappers: Sequence[str]) -> str:
    """Return what to do about wrappers that `environment_options` leaves out; empty if there are none."""
    others = [wrapper for wrapper in wrappers if _wrapper_option(wrapper) is None]
    if not others:
        return ""
    note = f"it was wrapped, so wrap it again in {_listed(others)}"
    # The order of wrappers matters, and the options hold only some of them.
    return note if len(others) == len(wrappers) else f"{note}; all wrappers, innermost first: {_listed(wrappers)}"


def wrapper_text(name: str, arguments: JsonMapping | None) -> str:
    """Return a wrapper as the command line takes it: ``NAME`` or ``NAME={...}``."""
    return f"{name}={json.dumps(dict(arguments))}" if arguments else name


def printable(text: str) -> str:
    """Return a text without characters that control a terminal."""
    return text.encode("ascii", "backslashreplace").decode().translate(dict.fromkeys((*range(32), 127), "?"))


def _wrapper_option(wrapper: str) -> str | None:
    """Return the value of ``--wrapper`` for a class of gymnasium.wrappers; None for others, and without arguments."""
    name, equals, text = wrapper.partition("=")
    if name not in _NEED_ARGUMENTS | _NEED_NO_ARGUMENTS or (name in _NEED_ARGUMENTS and not equals):
        return None
    if not equals:
        return name
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return wrapper_text(name, arguments) if isinstance(arguments, dict) else None


def _listed(wrappers: Sequence[str]) -> str:
    return ", ".join(map(printable, wrappers))

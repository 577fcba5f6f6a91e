"""This library against the published loop, both sides in one run."""

from __future__ import annotations

from importlib import import_module

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonObject

OPTIONS: dict[str, JsonObject] = {
    "train": {"sizes": ["hopper"], "repeats": 15},
    "gpu": {"sizes": ["hopper"], "repeats": 5},
    "atari": {"repeats": 3, "max_steps": 600},
    "data": {"repeats": 30, "store_steps": 20_000_000},
    "act": {"repeats": 30, "sessions": None},
    "evaluate": {
        "policy": None,
        "env_id": None,
        "target_return": None,
        "num_episodes": 100,
        "baseline_episodes": 10,
        "streaming": None,
    },
}
"""The options of each benchmark, with their defaults."""
_POSITIVE = ("repeats", "max_steps", "sessions", "num_episodes", "baseline_episodes")
_REQUIRED = {"evaluate": ("policy", "env_id", "target_return")}


def bench(name: str, **options: object) -> list[JsonObject]:
    """Run a benchmark and return its rows.

    Args:
        name: train, gpu, atari, data, act or evaluate.
        options: Its options as in `OPTIONS`; None is the default.

    Raises:
        RLTransformerError: No such benchmark, an option of another one, or a missing one.
    """
    if name not in OPTIONS:
        raise RLTransformerError(f"no benchmark {name!r}", where="rlt bench", fix=f"choose one of {', '.join(OPTIONS)}")
    given = {option: value for option, value in options.items() if value is not None}
    _refuse_other_options(name, given)
    chosen = {**OPTIONS[name], **given}
    for option in _POSITIVE:
        if chosen.get(option) is not None and chosen[option] < 1:
            raise RLTransformerError(f"{chosen[option]} is not positive", where=_flag(option), fix="give 1 or more")
    for option in _REQUIRED.get(name, ()):
        if not chosen[option]:
            raise RLTransformerError(
                "is missing", where=_flag(option), fix="name a policy, its environment and targets"
            )
    # Each benchmark needs other libraries: only the one that runs is imported.
    return getattr(import_module(f"rl_transformer.bench.{name}"), f"bench_{name}")(**chosen)


def _refuse_other_options(name: str, given: JsonObject) -> None:
    for option in sorted(set(given) - set(OPTIONS[name])):
        owners = ", ".join(other for other, known in OPTIONS.items() if option in known)
        raise RLTransformerError(
            f"has no effect on {name}", where=_flag(option), fix=f"leave it out; it is for {owners}"
        )


def _flag(option: str) -> str:
    """Return an option as it is spelled on the command line."""
    return "--" + option.replace("_", "-")

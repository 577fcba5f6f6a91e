"""Ours against the published loop, both sides in one run."""

from __future__ import annotations

from typing import Any

from rl_transformer.errors import RLTransformerError

OPTIONS: dict[str, dict[str, Any]] = {
    "train": {"sizes": ["hopper"], "repeats": 15},
    "data": {"repeats": 30, "store_steps": 20_000_000},
    "act": {"repeats": 30},
    "evaluate": {
        "policy": None,
        "env_id": None,
        "target_return": None,
        "num_episodes": 100,
        "baseline_episodes": 10,
        "streaming": None,
    },
}
"""What each benchmark takes, with its defaults."""


def bench(name: str, **options: Any) -> list[dict[str, Any]]:
    """Run a benchmark and return its rows.

    Raises:
        RLTransformerError: No such benchmark, an option that is not its own, or one that it lacks.
    """
    if name not in OPTIONS:
        raise RLTransformerError(f"no benchmark {name!r}", where="rlt bench", fix=f"choose one of {', '.join(OPTIONS)}")
    given = {option: value for option, value in options.items() if value is not None}
    for option in sorted(set(given) - set(OPTIONS[name])):
        theirs = ", ".join(other for other, known in OPTIONS.items() if option in known)
        raise RLTransformerError(
            f"has no effect on {name}", where=_flag(option), fix=f"leave it out; it is for {theirs}"
        )
    chosen = {**OPTIONS[name], **given}
    for option in ("repeats", "num_episodes", "baseline_episodes"):
        if chosen.get(option, 1) < 1:
            raise RLTransformerError(f"{chosen[option]} is not positive", where=_flag(option), fix="give 1 or more")
    for option in ("policy", "env_id", "target_return") if name == "evaluate" else ():
        if not chosen[option]:
            raise RLTransformerError(
                "is missing", where=_flag(option), fix="name a policy, its environment and targets"
            )
    if name == "train":
        from rl_transformer.bench.train import bench_train as run
    elif name == "data":
        from rl_transformer.bench.data import bench_data as run
    elif name == "act":
        from rl_transformer.bench.act import bench_act as run
    else:
        from rl_transformer.bench.evaluate import bench_evaluate as run
    return run(**chosen)


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")

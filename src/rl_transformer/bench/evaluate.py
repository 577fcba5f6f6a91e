"""Live evaluation: all episodes together against one at a time with the published model."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import cast

from rl_transformer.bench import timing
from rl_transformer.bench.act import published_actor
from rl_transformer.environments.making import make_environment
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.episodes import run_episodes
from rl_transformer.policy import Policy, load_policy
from rl_transformer.runtime.types import JsonObject

_FIRST_SEED = 1_000_000


def bench_evaluate(
    *,
    policy: str,
    env_id: str,
    target_return: list[float],
    num_episodes: int,
    baseline_episodes: int,
    streaming: str | None = None,
) -> list[JsonObject]:
    """Time episodes of one policy in both loops, and compare their returns.

    Args:
        policy: Folder of a policy that transformers' model can express.
        env_id: Its environment.
        target_return: Target returns.
        num_episodes: Episodes per target for ours.
        baseline_episodes: Episodes per target for the baseline, from the same seeds.
        streaming: Folder of a policy with sliding-window attention, timed against the same baseline.
    """
    loaded = load_policy(policy)
    if loaded.spec.model.extensions_in_use:
        raise RLTransformerError(
            f"transformers' model has no {', '.join(loaded.spec.model.extensions_in_use)}",
            where=policy,
            fix="name a policy trained with the preset gym",
        )
    sides = {"exact windows": _time_ours(loaded, env_id, target_return, num_episodes)}
    if streaming:
        sides["streaming attention"] = _time_ours(load_policy(streaming), env_id, target_return, num_episodes)
    baseline = _time_baseline(loaded, env_id, target_return, baseline_episodes)
    rows = [
        {
            "benchmark": "evaluate",
            "what": what,
            "env_id": env_id,
            "targets": target_return,
            "num_episodes": num_episodes,
            "baseline_episodes": baseline_episodes,
            "ours": side,
            "baseline": baseline,
            "ratio": round(baseline["median_ms"] / side["median_ms"], 2),
            **timing.describe_conditions(),
        }
        for what, side in sides.items()
    ]
    # Only here both sides act with the same weights; the streaming policy is another one and earns other returns.
    rows[0] |= compare_returns(sides["exact windows"]["returns"], baseline["returns"])
    return rows


def _time_ours(policy: Policy, env_id: str, targets: list[float], num_episodes: int) -> JsonObject:
    target_returns = [target for target in targets for _ in range(num_episodes)]
    # The baseline's episodes begin from the same seeds.
    seeds = [_FIRST_SEED + i for _ in targets for i in range(num_episodes)]
    began = time.perf_counter()
    episodes = run_episodes(policy, env_id, target_returns, seeds)
    seconds = time.perf_counter() - began
    return _describe_side(seconds, [(e.episode_return, e.episode_length) for e in episodes])


def _time_baseline(policy: Policy, env_id: str, targets: list[float], num_episodes: int) -> JsonObject:
    with tempfile.TemporaryDirectory() as temporary:
        published = published_actor(policy, Path(temporary))
    # The conversion of the weights, above, is no part of acting; making the environment is timed on both sides.
    began = time.perf_counter()
    environment = make_environment(env_id)
    results = [
        published.episode(environment, target, _FIRST_SEED + i) for target in targets for i in range(num_episodes)
    ]
    return _describe_side(time.perf_counter() - began, results)


def _describe_side(seconds: float, results: list[tuple[float, int]]) -> JsonObject:
    """Return a side's numbers from the return and length of every episode."""
    steps = sum(length for _, length in results)
    # One run per side: the time of a step of the environment, action included.
    milliseconds = round(1000 * seconds / steps, 4)
    return {
        "seconds": round(seconds, 2),
        "environment_steps": steps,
        "median_ms": milliseconds,
        "min_ms": milliseconds,
        "returns": [round(value, 3) for value, _ in results],
    }


def compare_returns(ours: list[float], baseline: list[float]) -> dict[str, float]:
    """Compare the distributions of returns: the p-value of a two-sample Kolmogorov-Smirnov test."""
    from scipy import stats

    p_value = cast(float, stats.ks_2samp(ours, baseline)[1])
    return {"same_distribution_p_value": round(float(p_value), 4)}

"""Live evaluation: all episodes together against one at a time with the published model."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from rl_transformer.bench import timing
from rl_transformer.bench.act import published_actor
from rl_transformer.errors import RLTransformerError
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation.episodes import run_episodes
from rl_transformer.policy import Policy, load_policy


def bench_evaluate(
    *,
    policy: str,
    env_id: str,
    target_return: list[float],
    num_episodes: int,
    baseline_episodes: int,
    streaming: str | None = None,
) -> list[dict[str, Any]]:
    """Time episodes of one policy in both loops, and compare what they earn.

    Args:
        policy: Folder of a policy that transformers' model can express.
        env_id: Its environment.
        target_return: Returns to ask for.
        num_episodes: Episodes a target for ours.
        baseline_episodes: Episodes a target for the baseline, from the same seeds.
        streaming: Folder of a policy with streaming attention, timed against the same baseline.
    """
    loaded, targets = load_policy(policy), target_return
    if loaded.spec.model.extensions_in_use:
        raise RLTransformerError(
            f"transformers' model has no {', '.join(loaded.spec.model.extensions_in_use)}",
            where=policy,
            fix="name a policy trained with the preset gym",
        )
    with tempfile.TemporaryDirectory() as temporary:
        published = published_actor(loaded, Path(temporary))
    sides: dict[str, Any] = {"ours": _ours(loaded, env_id, targets, num_episodes)}
    if streaming:
        sides["streaming"] = _ours(load_policy(streaming), env_id, targets, num_episodes)
    began, results = time.perf_counter(), []
    environment = make_environment(env_id)
    for target in targets:
        results += [published.episode(environment, target, 1_000_000 + i) for i in range(baseline_episodes)]
    baseline = _side(time.perf_counter() - began, results)
    rows = []
    for name, side in sides.items():
        rows.append(
            {
                "benchmark": "evaluate",
                "what": "exact windows" if name == "ours" else "streaming attention",
                "env_id": env_id,
                "targets": targets,
                "num_episodes": num_episodes,
                "baseline_episodes": baseline_episodes,
                "ours": side,
                "baseline": baseline,
                "ratio": round(baseline["median_ms"] / side["median_ms"], 2),
                **timing.where_measured(),
            }
        )
    rows[0] |= agreement(sides["ours"]["returns"], baseline["returns"])
    return rows


def _ours(policy: Policy, env_id: str, targets: list[float], num_episodes: int) -> dict[str, Any]:
    asked = [target for target in targets for _ in range(num_episodes)]
    seeds = [1_000_000 + i for _ in targets for i in range(num_episodes)]
    began = time.perf_counter()
    episodes = run_episodes(policy, env_id, asked, seeds)
    return _side(time.perf_counter() - began, [(e.episode_return, e.episode_length) for e in episodes])


def _side(seconds: float, results: list[tuple[float, int]]) -> dict[str, Any]:
    steps = sum(length for _, length in results)
    return {
        "seconds": round(seconds, 2),
        "environment_steps": steps,
        # One run a side: the time of a step of the environment, action included.
        "median_ms": round(1000 * seconds / steps, 4),
        "min_ms": round(1000 * seconds / steps, 4),
        "returns": [round(value, 3) for value, _ in results],
    }


def agreement(ours: list[float], baseline: list[float]) -> dict[str, Any]:
    """Compare the distributions of returns: the p-value of a two-sample Kolmogorov-Smirnov test."""
    from scipy import stats

    p_value = stats.ks_2samp(ours, baseline)[1]
    return {"same_distribution_p_value": round(float(p_value), 4)}  # pyright: ignore[reportArgumentType]

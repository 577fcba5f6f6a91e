"""`rlt demo`: Key-to-Door from random walks (Chen et al. 2021, section 5.4), in minutes on two cores."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from rl_transformer.environments import KEY_TO_DOOR
from rl_transformer.environments.key_to_door import random_success_rate
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.episodes import save_video
from rl_transformer.evaluation.statistics import success_rate
from rl_transformer.reproductions.run_cache import EVALUATION_SEED
from rl_transformer.reproductions.key_to_door import ARMS, NUM_EPISODES, arm_config, collect, score
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.machine import versions
from rl_transformer.policy import load_policy
from rl_transformer.run import train

_MARKER = ".rlt-demo"
_OWN = {_MARKER, "data", "runs", "report.json", "figure.png", "success.gif"}


def run_demo(output: Path) -> dict[str, Any]:
    """Collect random walks, train every arm, evaluate 1,000 episodes each, and write report, figure and GIF."""
    began = time.monotonic()
    _begin(output)
    data = collect(output / "data", 10_000)
    successes = int((data.episode_returns > 0).sum())
    report: dict[str, Any] = {
        "arms": {},
        "random": success_rate(successes, len(data)),
        "random_exact": random_success_rate(),
    }
    rows = []
    for arm in ARMS:
        config = arm_config(arm)
        config.dataset.uri = f"rlt:{output / 'data'}"
        config.output = str(output / "runs" / f"{arm.name}-{arm.num_trajectories}")
        policy = load_policy(train(config, dataset=data))
        wanted = 1.0 if policy.spec.takes_target else None
        first = arm is ARMS[0]
        rate, frames = score(policy, wanted, num_episodes=NUM_EPISODES, record=first)
        report["arms"].setdefault(str(arm.num_trajectories), {})[arm.name] = rate
        rows.append((f"{arm.title}, {arm.num_trajectories:,} walks", rate, arm.paper))
        if first:
            report["target_zero"], _ = score(policy, 0.0, num_episodes=NUM_EPISODES)
            if frames:
                save_video(frames, str(output / "success.gif"), frames_per_second=8)
    rows.append(("Decision Transformer asked for 0", report["target_zero"], "-"))
    rows.append(("random actions (exactly 2.81 %)", report["random"], "3.1 %"))
    report |= {
        "environment": KEY_TO_DOOR,
        "collection_seeds": [0, len(data) - 1],
        "evaluation_seeds": [EVALUATION_SEED, EVALUATION_SEED + NUM_EPISODES - 1],
        "interval_over": "episodes of one policy, one training seed (Wilson, 95 %)",
        "versions": versions(),
        "seconds": round(time.monotonic() - began, 1),
    }
    draw(rows, output / "figure.png")
    write_text(output / "report.json", to_json(report))
    print(as_table(rows))
    print(f"{report['seconds']:.0f} s; {output / 'report.json'}, {output / 'figure.png'}, {output / 'success.gif'}")
    return report


def as_table(rows: list[tuple[str, dict[str, Any], str]]) -> str:
    """Return the comparison as a table."""
    lines = [f"{'success in Key-to-Door':<62} {'ours':>7} {'95 % interval':>17}  {'paper':>7}"]
    for title, rate, paper in rows:
        low, high = (100 * bound for bound in rate["interval"])
        lines.append(f"{title:<62} {100 * rate['rate']:>5.1f} % {f'[{low:.1f}, {high:.1f}]':>17}  {paper:>7}")
    return "\n".join(lines)


def draw(rows: list[tuple[str, dict[str, Any], str]], path: Path) -> None:
    """Draw success rates with their intervals."""
    drawn, axes = plots.figure(8.5, 3.8)
    rates = np.array([rate["rate"] for _, rate, _ in rows])
    bounds = np.array([rate["interval"] for _, rate, _ in rows])
    places = np.arange(len(rows))[::-1]
    axes.barh(places, 100 * rates, xerr=100 * np.abs(bounds.T - rates), color=plots.INK, ecolor=plots.ACCENT, capsize=3)
    axes.set_yticks(places, [title for title, _, _ in rows])
    axes.set_xlabel("successful episodes, %, with 95 % Wilson interval")
    axes.set_xlim(0, 100)
    plots.save(drawn, path)


def _begin(output: Path) -> None:
    """Remove what an earlier demo wrote; refuse a folder that holds anything else."""
    if output.exists() and not output.is_dir():
        raise RLTransformerError("is not a folder", where=output, fix="name another folder with --output")
    found = sorted(path.name for path in output.iterdir()) if output.exists() else []
    foreign = [name for name in found if name not in _OWN]
    if foreign or (found and _MARKER not in found):
        raise RLTransformerError(
            f"holds {', '.join((foreign or found)[:5])}, which no demo wrote",
            where=output,
            fix="name another folder with --output",
        )
    for name in found:
        path = output / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_text(output / _MARKER, "This folder was written by rlt demo, which replaces it when it runs again.\n")

"""`rlt demo`: Key-to-Door from random walks (Chen et al. 2021, section 5.4), in minutes on two cores."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rl_transformer.environments import KEY_TO_DOOR
from rl_transformer.environments.key_to_door import random_success_rate
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.statistics import success_rate
from rl_transformer.evaluation.video import save_video
from rl_transformer.policy import Policy, load_policy
from rl_transformer.reproductions.experiment import JSON
from rl_transformer.reproductions.key_to_door_arms import ARMS, NUM_EPISODES, Arm, Rate, arm_config, collect, score
from rl_transformer.reproductions.run_cache import EVALUATION_SEED
from rl_transformer.run import train
from rl_transformer.runtime import log
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.machine import versions
from rl_transformer.trajectories import TrajectoryDataset

_MARKER = ".rlt-demo"
_FILES = {_MARKER, "data", "runs", "report.json", "figure.png", "success.gif"}


class Result(NamedTuple):
    """A line of the comparison."""

    title: str
    rate: Rate
    paper: str


def run_demo(output: Path) -> JSON:
    """Collect random walks, train every arm, evaluate 1,000 episodes each, and write report, figure and GIF."""
    # Seconds of the whole demo are part of its report: the README promises minutes.
    began = time.monotonic()
    _prepare_folder(output)
    data = collect(output / "data", 10_000)
    arms: dict[str, dict[str, Rate]] = {}
    results: list[Result] = []
    target_zero: Rate = {}
    for arm in ARMS:
        policy = _train_arm(arm, data, output)
        # Only the Decision Transformer, the first arm, is recorded and also given a target return of 0.
        first = arm is ARMS[0]
        # The return of a success; behavior cloning takes none.
        target_return = 1.0 if policy.spec.takes_target else None
        rate, frames = score(policy, target_return, num_episodes=NUM_EPISODES, record=first)
        arms.setdefault(str(arm.num_trajectories), {})[arm.name] = rate
        results.append(Result(f"{arm.title}, {arm.num_trajectories:,} walks", rate, arm.paper))
        if first:
            target_zero, _ = score(policy, 0.0, num_episodes=NUM_EPISODES)
            if frames:
                save_video(frames, str(output / "success.gif"), frames_per_second=8)
    # The data is of random walks, so its own success rate is that of random actions.
    random = success_rate(int((data.episode_returns > 0).sum()), len(data))
    results.append(Result("Decision Transformer with target return 0", target_zero, "-"))
    results.append(Result("random actions (exactly 2.81 %)", random, "3.1 %"))
    report = {
        "arms": arms,
        "random": random,
        "random_exact": random_success_rate(),
        "target_zero": target_zero,
        "environment": KEY_TO_DOOR,
        "collection_seeds": [0, len(data) - 1],
        "evaluation_seeds": [EVALUATION_SEED, EVALUATION_SEED + NUM_EPISODES - 1],
        "interval_over": "episodes of one policy, one training seed (Wilson, 95 %)",
        "versions": versions(),
        "seconds": round(time.monotonic() - began, 1),
    }
    draw(results, output / "figure.png")
    write_text(output / "report.json", to_json(report))
    log.info(as_table(results))
    files = ", ".join(str(output / name) for name in ("report.json", "figure.png", "success.gif"))
    log.info(f"{report['seconds']:.0f} s; {files}")
    log.info(
        f"next: rlt play {output / 'runs' / ARMS[0].key} --env-id {KEY_TO_DOOR}, and watch the policy in a browser"
    )
    return report


def as_table(results: list[Result]) -> str:
    """Return the comparison as a table."""
    lines = [f"{'success in Key-to-Door':<62} {'ours':>7} {'95 % interval':>17}  {'paper':>7}"]
    for title, rate, paper in results:
        low, high = (100 * bound for bound in rate["interval"])
        lines.append(f"{title:<62} {100 * rate['rate']:>5.1f} % {f'[{low:.1f}, {high:.1f}]':>17}  {paper:>7}")
    return "\n".join(lines)


def draw(results: list[Result], path: Path) -> None:
    """Draw success rates with their intervals."""
    drawn, axes = plots.figure(8.5, 3.8)
    rates = np.array([result.rate["rate"] for result in results])
    bounds = np.array([result.rate["interval"] for result in results])
    # Bars are drawn from the bottom up; reversed, they stand in the order of the table.
    places = np.arange(len(results))[::-1]
    axes.barh(places, 100 * rates, xerr=100 * np.abs(bounds.T - rates), color=plots.INK, ecolor=plots.ACCENT, capsize=3)
    axes.set_yticks(places, [result.title for result in results])
    axes.set_xlabel("successful episodes, %, with 95 % Wilson interval")
    axes.set_xlim(0, 100)
    plots.save(drawn, path)


def _train_arm(arm: Arm, data: TrajectoryDataset, output: Path) -> Policy:
    config = arm_config(arm)
    config.dataset.uri = f"rlt:{output / 'data'}"
    config.output = str(output / "runs" / arm.key)
    return load_policy(train(config, dataset=data))


def _prepare_folder(output: Path) -> None:
    """Remove what an earlier demo wrote; refuse a folder that holds anything else."""
    if output.exists() and not output.is_dir():
        raise RLTransformerError("is not a folder", where=output, fix="name another folder with --output")
    names = sorted(path.name for path in output.iterdir()) if output.exists() else []
    foreign = [name for name in names if name not in _FILES]
    # Known names alone are not enough: "data" and "runs" are common, and what is here gets deleted.
    if foreign or (names and _MARKER not in names):
        raise RLTransformerError(
            f"holds {', '.join((foreign or names)[:5])}, which no demo wrote",
            where=output,
            fix="name another folder with --output",
        )
    for name in names:
        path = output / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_text(output / _MARKER, "This folder was written by rlt demo, which replaces it when it runs again.\n")

"""The policies that Key-to-Door compares (Chen et al. 2021, section 5.4): what `rlt demo` and the experiment share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rl_transformer.config import RunConfig
from rl_transformer.config.presets import key_to_door
from rl_transformer.environments import KEY_TO_DOOR
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.evaluate import evaluate
from rl_transformer.evaluation.statistics import success_rate
from rl_transformer.policy import Policy
from rl_transformer.reproductions.experiment import JSON
from rl_transformer.reproductions.run_cache import EVALUATION_SEED
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.store import write_store

NUM_EPISODES = 1_000
Rate = JSON
"""A success rate with its interval, from `success_rate`."""
_NUM_RECORDED = 10


@dataclass(frozen=True)
class Arm:
    """One policy of the comparison."""

    name: str
    title: str
    num_trajectories: int
    paper: str
    """Success in Chen et al. 2021, table 6 (their rooms and model are not published)."""
    takes_return: bool = False
    return_balance: float = 0.0
    min_return: float | None = None

    @property
    def key(self) -> str:
        """The arm's name in the cells of the experiment."""
        return f"{self.name}-{self.num_trajectories}"


ARMS = (
    Arm("decision_transformer", "Decision Transformer", 10_000, "94.6 %", takes_return=True, return_balance=1.0),
    Arm("behavior_cloning", "behavior cloning", 10_000, "1.6 %"),
    Arm(
        "behavior_cloning_same_sampler",
        "behavior cloning, Decision Transformer's sampler",
        10_000,
        "-",
        return_balance=1.0,
    ),
    Arm("percent_bc", "%BC (successful episodes only)", 10_000, "95.1 %", min_return=1.0),
    Arm("decision_transformer", "Decision Transformer", 1_000, "71.8 %", takes_return=True, return_balance=1.0),
    Arm("percent_bc", "%BC (successful episodes only)", 1_000, "69.9 %", min_return=1.0),
)


def collect(folder: Path, num_episodes: int, *, seed: int = 0) -> TrajectoryDataset:
    """Record random walks with seeds ``seed``, ``seed`` + 1, ... as a store."""
    spec, walks = record_episodes(make_environment(KEY_TO_DOOR).unwrapped, KEY_TO_DOOR, num_episodes, seed=seed)
    return write_store(folder, spec, walks)


def arm_config(arm: Arm) -> RunConfig:
    """Return the preset with the options of this arm."""
    config = key_to_door()
    config.dataset.max_trajectories = arm.num_trajectories
    config.dataset.min_return = arm.min_return
    config.windows.return_balance = arm.return_balance
    config.model.conditions = ["return_to_go"] if arm.takes_return else []
    return config


def score(
    policy: Policy, target_return: float | None, *, num_episodes: int = NUM_EPISODES, record: bool = False
) -> tuple[Rate, Sequence[np.ndarray]]:
    """Return the success rate, and the frames of the first recorded success if ``record``."""
    report = evaluate(
        policy,
        env_id=KEY_TO_DOOR,
        target_returns=[] if target_return is None else [target_return],
        num_episodes=num_episodes,
        seed=EVALUATION_SEED,
        record=_NUM_RECORDED if record else 0,
    )
    returns = report.targets[0].episode_returns
    # Recordings are of the first few episodes only, hence fewer than returns.
    successes = (frames for frames, total in zip(report.recordings, returns, strict=False) if total > 0)
    return success_rate(sum(total > 0 for total in returns), len(returns)), next(successes, [])

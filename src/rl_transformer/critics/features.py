"""What critics and models of the behavior read at each logged step: the last observations and actions, and the time.

Shapes: N steps, E episodes, D numbers of one observation, A joint actions, B steps of a batch, F features of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int
from rl_transformer.trajectories import TrajectoryDataset

_MOST_JOINT_ACTIONS = 1024
_MOST_FEATURES = 512  # a longer history would make networks slow, and overfit


@dataclass(frozen=True)
class StepFeatures:
    """Reads the features of steps out of a dataset; the future of a step is never among them."""

    past: Float[Tensor, "_ W"]
    """(N + 1, D + A): normalized observation and one-hot action of each step, and a row of zeros for what was before an episode."""
    actions: Int[Tensor, "N"] | Float[Tensor, "N A"]
    """Joint actions, with the parts of a multi-discrete action combined into one number; or action vectors, in units of their spread."""
    timesteps: Int[Tensor, "N"]
    progress: Float[Tensor, "N 2"]
    """Timestep and rewards before this step, scaled."""
    num_actions: int
    """A: the number of joint actions, or the length of an action vector."""
    history: int
    """Number of steps that are read: this one and those before it."""
    past_actions: bool = True
    """False: of the steps before it only the observations are read."""

    @property
    def width(self) -> int:
        """Return F."""
        observed = self.past.shape[1] - self.num_actions
        return observed + 2 + (self.history - 1) * (self.past.shape[1] if self.past_actions else observed)

    def read(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B F"]:
        """Return the features of some steps; before an episode's first step there are zeros."""
        ages = torch.arange(1, self.history)
        # One gather for all ages: a loop over them took as long as the network itself.
        exists = self.timesteps[rows, None] >= ages
        before = torch.where(exists, rows[:, None] - ages, len(self.past) - 1)
        observations = self.past[:, : self.past.shape[1] - self.num_actions]
        past = self.past if self.past_actions else observations
        return torch.cat([self.progress[rows], observations[rows], past[before].flatten(1)], dim=1)


def step_features(dataset: TrajectoryDataset, longest_history: int) -> StepFeatures:
    """Return the features of the steps of a dataset.

    Args:
        dataset: Data with vector observations.
        longest_history: Steps that the judged policy sees; fewer are read where they would be too many numbers.

    Raises:
        RLTransformerError: Observations of another kind, or too many combinations of actions.
    """
    observations = _vectors(dataset)
    taken, actions = _actions(dataset)
    count = taken.shape[1]
    lengths = dataset.lengths
    timesteps = np.arange(dataset.num_steps) - np.repeat(dataset.offsets[:-1], lengths)
    earned = rewards_before(dataset)
    scale = float(np.abs(earned).max()) or 1.0
    # Time and rewards so far: with a target that falls by each reward, a policy acts on both.
    progress = np.stack([timesteps / lengths.max(), earned / scale], axis=1)
    # The history is cut where it would be too wide, and the assumptions of the estimates say that the critic must be right.
    longest = max(1, _MOST_FEATURES // (observations.shape[1] + count))
    steps = torch.cat([torch.from_numpy(observations), taken], dim=1)
    return StepFeatures(
        functional.pad(steps, (0, 0, 0, 1)),
        actions,
        torch.from_numpy(timesteps),
        torch.from_numpy(progress.astype(np.float32)),
        count,
        min(longest_history, longest),
    )


def _actions(
    dataset: TrajectoryDataset,
) -> tuple[Float[Tensor, "N A"], Int[Tensor, "N"] | Float[Tensor, "N A"]]:
    """Return the actions as networks read them, and as the features keep them."""
    if dataset.spec.action_space.is_continuous:
        center, spread = action_units(dataset)
        vectors = torch.from_numpy(((np.asarray(dataset.actions, np.float64) - center) / spread).astype(np.float32))
        return vectors, vectors
    numbers = torch.from_numpy(joint_actions(dataset))
    return functional.one_hot(numbers, num_joint_actions(dataset)).float(), numbers


def action_units(dataset: TrajectoryDataset) -> tuple[Float64[np.ndarray, "A"], Float64[np.ndarray, "A"]]:
    """Return mean and spread of the logged action vectors; a part that never changes has spread 1."""
    actions = np.asarray(dataset.actions, np.float64)
    spread = actions.std(0)
    return actions.mean(0), np.where(spread > 0, spread, 1.0)


def _vectors(dataset: TrajectoryDataset) -> Float[np.ndarray, "N D"]:
    """Return normalized observations."""
    statistics = dataset.statistics
    if dataset.observations.ndim != 2 or statistics is None or dataset.spec.observation_space.is_wide:
        raise RLTransformerError(
            "only observations of at most 1024 numbers can be judged, not images or larger categories",
            where=dataset.location or "data",
            fix="evaluate the policy live, or judge on data with vectors",
        )
    return ((dataset.observations - statistics.mean) / statistics.scale).astype(np.float32)


def num_joint_actions(dataset: TrajectoryDataset) -> int:
    """Return the number of actions; combinations of parts count as one each.

    Raises:
        RLTransformerError: There are too many combinations.
    """
    space = dataset.spec.action_space
    count = int(np.prod(space.nvec)) if space.kind == "multi_discrete" else space.n
    if count > _MOST_JOINT_ACTIONS:
        raise RLTransformerError(
            f"{count} combinations of actions are more than {_MOST_JOINT_ACTIONS}",
            where=dataset.location or "data",
            fix="judge a policy over fewer actions",
        )
    return count


def joint_actions(dataset: TrajectoryDataset) -> Int[np.ndarray, "N"]:
    """Return each logged action as one number; the last part of a multi-discrete action counts fastest."""
    if dataset.actions.ndim == 1:
        return np.asarray(dataset.actions, np.int64)
    return np.asarray(
        np.ravel_multi_index(tuple(np.asarray(dataset.actions).T), tuple(dataset.spec.action_space.nvec)), np.int64
    )


def joint_masks(dataset: TrajectoryDataset) -> Bool[np.ndarray, "N A"] | None:
    """Return which joint actions were allowed at each step; None if the data does not record it."""
    masks = dataset.action_masks
    if masks is None or dataset.actions.ndim == 1:
        return None if masks is None else np.asarray(masks)
    # A combination is allowed if each of its parts is.
    joint = np.ones((len(masks), 1), dtype=bool)
    ends = np.cumsum(dataset.spec.action_space.nvec)
    for part in np.split(np.asarray(masks), ends[:-1], axis=1):
        joint = (joint[:, :, None] & part[:, None, :]).reshape(len(masks), -1)
    return joint


def rewards_before(dataset: TrajectoryDataset) -> Float64[np.ndarray, "N"]:
    """Return the sum of the rewards of each episode before each step."""
    sums = np.cumsum(dataset.rewards) - dataset.rewards
    return sums - np.repeat(sums[dataset.offsets[:-1]], dataset.lengths)

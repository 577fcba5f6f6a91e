"""What a policy is asked for: how it is counted in the data and how it changes while acting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.dataset import TrajectoryDataset

UPDATES = ("subtract", "keep")


@dataclass(frozen=True, kw_only=True)
class ReturnRule:
    """One definition of return for training, evaluation, sessions and export."""

    unit: str = "episode"
    """episode: undiscounted, to the end of the episode."""
    scale: float = 1.0
    """Divisor before the model sees it."""
    update: str = "subtract"
    """subtract: return-to-go, which falls by each reward; keep: the whole episode's return at every step (delayed reward)."""
    reward_clip: float | None = None
    """Clip every reward to [-reward_clip, reward_clip] first, in the data and while acting alike."""

    def __post_init__(self) -> None:
        clip = self.reward_clip
        if self.unit != "episode" or self.update not in UPDATES or not self.scale > 0 or not (clip is None or clip > 0):
            raise RLTransformerError(
                f"unit {self.unit!r}, update {self.update!r}, scale {self.scale}, clip {clip} is not a return rule",
                where="return rule",
                fix=f"use unit episode, update {' or '.join(UPDATES)}, a positive scale and clip",
            )

    @classmethod
    def for_data(
        cls, dataset: TrajectoryDataset, *, scale: float | None, update: str, reward_clip: float | None
    ) -> ReturnRule:
        """Return a rule; without a scale, the power of ten at or below the largest absolute return of the data."""
        rule = cls(update=update, reward_clip=reward_clip)
        if scale is None:
            largest = float(np.abs(rule.totals(dataset)).max())
            scale = 10.0 ** math.floor(math.log10(largest)) if largest > 0 else 1.0
        return replace(rule, scale=scale)

    def reward(self, reward: np.ndarray | float) -> np.ndarray:
        """Return what a reward counts."""
        values = np.asarray(reward, np.float64)
        return values if self.reward_clip is None else np.clip(values, -self.reward_clip, self.reward_clip)

    def after(self, return_to_go: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """Return what is asked for after a reward was received."""
        return return_to_go - self.reward(reward) if self.update == "subtract" else return_to_go

    def column(self, dataset: TrajectoryDataset) -> np.ndarray:
        """Return what is asked for at every step of the data, not scaled: (N,) float32."""
        offsets = dataset.offsets
        if self.reward_clip is None and self.update == "subtract":
            return dataset.returns_to_go
        if self.update == "keep":
            return np.repeat(self.totals(dataset), dataset.lengths).astype(np.float32)
        backwards = np.cumsum(self.reward(dataset.rewards)[::-1])[::-1]  # to the end of the data
        following = np.append(backwards, 0.0)[offsets[1:]]
        return (backwards - np.repeat(following, dataset.lengths)).astype(np.float32)

    def totals(self, dataset: TrajectoryDataset) -> np.ndarray:
        """Return each episode's return under this rule: (E,) float64."""
        if self.reward_clip is None:
            return dataset.episode_returns
        return np.add.reduceat(self.reward(dataset.rewards), dataset.offsets[:-1])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReturnRule:
        """Read what `to_dict` returned."""
        return cls(**values)

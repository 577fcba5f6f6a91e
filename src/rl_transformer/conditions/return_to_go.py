"""Return-to-go: the sum of the rewards that are still to come (Chen et al. 2021, section 3).

Shapes: N steps of data, E episodes, S sessions, *B any axes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Self

import numpy as np

from rl_transformer.conditions.interface import Target, finite_target, power_of_ten_scale, sum_to_go
from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Float, Float32, Float64
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories.dataset import TrajectoryDataset

UPDATES = ("subtract", "keep")


@dataclass(frozen=True, kw_only=True)
class ReturnToGo:
    """The one definition of return in training, evaluation, sessions and the policy folder."""

    name: ClassVar[str] = "return_to_go"
    outcome: ClassVar[str] = "reward"

    unit: str = "episode"
    """episode: undiscounted, to the end of the episode."""
    scale: float = 1.0
    """Returns are divided by this before the model reads them."""
    update: str = "subtract"
    """subtract: it falls by each reward; keep: it is the whole episode's return at every step (delayed reward)."""
    reward_clip: float | None = None
    """Clip every reward to [-reward_clip, reward_clip] first, in the data and while acting."""

    def __post_init__(self) -> None:
        clip = self.reward_clip
        if self.unit != "episode" or self.update not in UPDATES or not self.scale > 0 or not (clip is None or clip > 0):
            raise RLTransformerError(
                f"unit {self.unit!r}, update {self.update!r}, scale {self.scale}, clip {clip} do not define a return",
                where="return_to_go",
                fix=f"use unit episode, update {' or '.join(UPDATES)}, a positive scale and clip",
            )

    @property
    def width(self) -> int:
        """Return 1: a return is one number per timestep."""
        return 1

    @classmethod
    def from_data(cls, dataset: TrajectoryDataset, config: RunConfig) -> Self:
        """Take the definition from ``returns.*``; if it has no scale, choose a power of ten that fits the data."""
        options = config.returns
        unscaled = cls(update=options.update, reward_clip=options.reward_clip)
        scale = power_of_ten_scale(unscaled.totals(dataset)) if options.scale is None else options.scale
        return replace(unscaled, scale=scale)

    def clip_rewards(self, rewards: Float[np.ndarray, "*B"] | float) -> Float64[np.ndarray, "*B"]:
        """Return rewards as they enter this return, clipped if ``reward_clip`` is set."""
        values = np.asarray(rewards, np.float64)
        return values if self.reward_clip is None else np.clip(values, -self.reward_clip, self.reward_clip)

    def column(self, dataset: TrajectoryDataset) -> Float32[np.ndarray, "N"]:
        """Return the unscaled return-to-go at every step of the data."""
        # The plain case is stored with the data, and may be memory-mapped.
        if self.reward_clip is None and self.update == "subtract":
            return dataset.returns_to_go
        if self.update == "keep":
            return np.repeat(self.totals(dataset), dataset.lengths).astype(np.float32)
        return sum_to_go(self.clip_rewards(dataset.rewards), dataset.offsets).astype(np.float32)

    def totals(self, dataset: TrajectoryDataset) -> Float64[np.ndarray, "E"]:
        """Return the return of each episode."""
        if self.reward_clip is None:
            return dataset.episode_returns
        return np.add.reduceat(self.clip_rewards(dataset.rewards), dataset.offsets[:-1])

    def initial(self, target: Target) -> Float64[np.ndarray, "1"]:
        """Return the target return, which is the first return-to-go."""
        return finite_target("target_return", target)

    def after(self, value: Float64[np.ndarray, "S 1"], outcome: Float[np.ndarray, "S"]) -> Float64[np.ndarray, "S 1"]:
        """Return the return-to-go after some rewards."""
        return value - self.clip_rewards(outcome)[:, None] if self.update == "subtract" else value

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_dict(cls, values: JsonMapping) -> Self:
        """Rebuild a return-to-go from the values of `to_dict`."""
        return cls(**{key: value for key, value in values.items() if key != "name"})

"""Return-to-go: the sum of the rewards that are still to come (Chen et al. 2021, section 3), or a part of them.

Shapes: N steps of data, E episodes, V values, S sessions, *B any axes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Self

import numpy as np

from rl_transformer.conditions.interface import Target, finite_target, power_of_ten_scale, sum_to_go
from rl_transformer.config import RunConfig
from rl_transformer.config.returns import KINDS_OF_RETURN, ReturnKind, parse_return_kind
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Float, Float32, Float64, Int
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.returns import rewards_ahead

UPDATES = ("subtract", "keep")
# Ours: a discounted sum reaches to where this part of its weight is left; a note is printed if a larger share of steps is cut.
_REST = 0.05
_MOST_CUT = 0.2


@dataclass(frozen=True, kw_only=True)
class ReturnToGo:
    """The one definition of return in training, evaluation, sessions and the policy folder.

    Of a process that never ends, the sum of the rewards until recording stopped says nothing; the kinds other than
    ``episode`` count what lies within reach of a step. Then targets are compared with the values of all *steps*, and what an
    episode achieved is the mean over its steps.
    """

    name: ClassVar[str] = "return_to_go"
    outcome: ClassVar[str] = "reward"

    kind: str = "episode"
    """episode: r_t + ... + r_T, undiscounted, to the end of the episode. next:N: r_t + ... + r_(t+N-1), fewer rewards at the
    end of an episode. discounted:G: R_t = r_t + G R_(t+1)."""
    scale: float = 1.0
    """Returns are divided by this before the model reads them."""
    update: str = "subtract"
    """While acting, subtract: R - r after a reward r, and (R - r) / G for discounted:G; keep: the target stays. In the data,
    keep makes the whole episode's return the value of every step of an episode (delayed reward); other kinds are not
    changed. The target of next:N always stays: it is a demand for the next N steps at every step."""
    reward_clip: float | None = None
    """Clip every reward to [-reward_clip, reward_clip] first, in the data and while acting."""

    def __post_init__(self) -> None:
        clip = self.reward_clip
        known = parse_return_kind(self.kind) is not None
        if not known or self.update not in UPDATES or not self.scale > 0 or not (clip is None or clip > 0):
            raise RLTransformerError(
                f"kind {self.kind!r}, update {self.update!r}, scale {self.scale}, clip {clip} do not define a return",
                where="return_to_go",
                fix=f"{KINDS_OF_RETURN}; use update {' or '.join(UPDATES)}, a positive scale and clip",
            )

    @property
    def width(self) -> int:
        """Return 1: a return is one number per timestep."""
        return 1

    @property
    def counted(self) -> ReturnKind:
        """Return which rewards the kind counts."""
        kind = parse_return_kind(self.kind)
        assert kind is not None  # checked when the object was made
        return kind

    @property
    def is_per_episode(self) -> bool:
        """Return True if a return belongs to an episode, and False if it belongs to every step (see the class)."""
        return self.kind == "episode"

    @property
    def keeps_target(self) -> bool:
        """Return True if the return-to-go of a live episode stays what the caller set."""
        return self.update == "keep" or self.counted.steps is not None

    @property
    def depends_on_delay(self) -> bool:
        """Return True if a reward that is reported late would have to be weighted by its delay."""
        return self.counted.discount < 1 and not self.keeps_target

    @property
    def note(self) -> str | None:
        """Return what a target and an achieved value are, for reports; None if the sum of the rewards of an episode."""
        counted = self.counted
        if self.is_per_episode and self.reward_clip is None:
            return None
        if counted.steps is not None:
            text = f"sum of the next {counted.steps} rewards, mean over the steps"
        elif counted.discount < 1:
            text = f"sum of the rewards to come, discounted by {counted.discount:g}, mean over the steps"
        else:
            text = "sum of the rewards of an episode"
        return (
            text
            if self.reward_clip is None
            else f"{text}; rewards clipped to [{-self.reward_clip:g}, {self.reward_clip:g}]"
        )

    @classmethod
    def from_data(cls, dataset: TrajectoryDataset, config: RunConfig) -> Self:
        """Take the definition from ``returns.*``; if it has no scale, choose a power of ten that fits the data."""
        options = config.returns
        unscaled = cls(kind=options.kind, update=options.update, reward_clip=options.reward_clip)
        scale = options.scale
        if scale is None:
            scale = power_of_ten_scale(unscaled.comparable(dataset, np.arange(dataset.num_trajectories)))
        return replace(unscaled, scale=scale)

    def clip_rewards(self, rewards: Float[np.ndarray, "*B"] | float) -> Float64[np.ndarray, "*B"]:
        """Return rewards as they enter this return, clipped if ``reward_clip`` is set."""
        values = np.asarray(rewards, np.float64)
        return values if self.reward_clip is None else np.clip(values, -self.reward_clip, self.reward_clip)

    def column(self, dataset: TrajectoryDataset) -> Float32[np.ndarray, "N"]:
        """Return the unscaled return-to-go at every step of the data."""
        # The plain case is stored with the data, and may be memory-mapped.
        if self.is_per_episode and self.reward_clip is None and self.update == "subtract":
            return dataset.returns_to_go
        if self.is_per_episode and self.update == "keep":
            return np.repeat(self.totals(dataset), dataset.lengths).astype(np.float32)
        return self.of_steps(dataset.rewards, dataset.offsets).astype(np.float32)

    def of_steps(self, rewards: Float[np.ndarray, "N"], offsets: Int[np.ndarray, "_"]) -> Float64[np.ndarray, "N"]:
        """Return what follows each step, by the kind; ``offsets`` are the rows at which episodes begin, and N."""
        clipped = self.clip_rewards(rewards)
        if self.is_per_episode:
            return sum_to_go(clipped, offsets)
        return rewards_ahead(clipped, offsets, steps=self.counted.steps, discount=self.counted.discount)

    def of_episode(self, rewards: Float[np.ndarray, "N"]) -> float:
        """Return what one episode achieved, in the unit of its target: the sum, or the mean over its steps."""
        values = self.of_steps(rewards, np.array([0, len(rewards)]))
        return float(values[0] if self.is_per_episode else values.mean())

    def totals(self, dataset: TrajectoryDataset) -> Float64[np.ndarray, "E"]:
        """Return the return of each episode: the sum, or the mean over its steps for kinds that belong to steps."""
        starts = dataset.offsets[:-1]
        if not self.is_per_episode:
            return np.add.reduceat(self.of_steps(dataset.rewards, dataset.offsets), starts) / dataset.lengths
        if self.reward_clip is None:
            return dataset.episode_returns
        return np.add.reduceat(self.clip_rewards(dataset.rewards), starts)

    def comparable(self, dataset: TrajectoryDataset, episodes: Int[np.ndarray, "_"]) -> Float[np.ndarray, "V"]:
        """Return the values of some episodes with which targets are compared: one per episode, or one per step."""
        if self.is_per_episode:
            return self.totals(dataset)[episodes]
        return self.select_comparable(self.of_steps(dataset.rewards, dataset.offsets), dataset.offsets, episodes)

    def select_comparable(
        self, values: Float[np.ndarray, "N"], offsets: Int[np.ndarray, "_"], episodes: Int[np.ndarray, "_"]
    ) -> Float[np.ndarray, "V"]:
        """Return those of the values of all steps with which targets are compared: at first steps, or at all steps."""
        if self.is_per_episode:
            return values[offsets[episodes]]
        chosen = np.zeros(len(offsets) - 1, dtype=bool)
        chosen[episodes] = True
        return values[np.repeat(chosen, np.diff(offsets))]

    def cut_warning(self, dataset: TrajectoryDataset, episodes: Int[np.ndarray, "_"]) -> str | None:
        """Return a note if many returns lack rewards that would have followed if recording had gone on; else None."""
        counted = self.counted
        if self.is_per_episode:
            return None
        reach = counted.steps or math.ceil(math.log(_REST) / math.log(counted.discount))
        lengths = dataset.lengths[episodes]
        cut = np.minimum(lengths, reach - 1)[~dataset.summary.terminated[episodes]].sum()
        if cut <= _MOST_CUT * lengths.sum():
            return None
        return (
            f"note: the returns of {cut / lengths.sum():.0%} of the steps are too low: their episodes were cut off less than "
            f"{reach} steps later; let returns.kind look less far ahead, or cut the data into longer episodes"
        )

    def initial(self, target: Target) -> Float64[np.ndarray, "1"]:
        """Return the target return, which is the first return-to-go."""
        return finite_target("target_return", target)

    def after(self, value: Float64[np.ndarray, "S 1"], outcome: Float[np.ndarray, "S"]) -> Float64[np.ndarray, "S 1"]:
        """Return the return-to-go after some rewards."""
        if self.keeps_target:
            return value
        return (value - self.clip_rewards(outcome)[:, None]) / self.counted.discount

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_dict(cls, values: JsonMapping) -> Self:
        """Rebuild a return-to-go from the values of `to_dict`."""
        return cls(**{key: value for key, value in values.items() if key != "name"})

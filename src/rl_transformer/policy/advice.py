"""Advice on targets: which return to aim for from a start, how much of the data reached a target, and what to expect.

Shapes: R observations, V values with which targets are compared, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from rl_transformer.conditions import ReturnToGo
from rl_transformer.policy.start_model import FARTHEST, fit_starts, luck_variance, steps_of
from rl_transformer.policy.support import empirical_quantiles, share_at_least
from rl_transformer.runtime.shapes import Float, Float64, Int
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.normalization import Normalizer

IN_RANGE = "in range"
THIN = "thin"
BEYOND = "beyond the data"
# A target is in range if this share of the training episodes reached it, and at least so many of them. Ours: the policy stores
# quantiles to 1 %, and of fewer than ten episodes any may be chance.
_LEAST_SHARE = 0.01
_LEAST_COUNT = 10


@dataclass(frozen=True, kw_only=True)
class TargetAdvice:
    """Statistics of the training episodes that say which targets make sense. It holds no rows of the data."""

    coefficients: tuple[float, ...] = ()
    """Of a linear model of the return on the normalized first observation; empty if starts explain nothing."""
    intercept: float
    """What the model expects of an average start; without coefficients the mean."""
    residuals: tuple[float, ...]
    """The 0, 1, ..., 100 % quantiles of return minus expectation, where the model did not learn from the episode."""
    level: int
    """The advised target is the expectation plus this quantile."""
    luck: float
    """Share of the variance of the residuals that comes from rewards which observation and action do not explain."""
    least_share: float
    """Share of episodes (or steps) that has to reach a target for it to be in range."""
    fixed: float | None = None
    """The target to advise at every start, if the run's options set it."""

    @classmethod
    def from_data(
        cls,
        dataset: TrajectoryDataset,
        returns: ReturnToGo,
        episodes: Int[np.ndarray, "_"],
        normalizer: Normalizer,
        *,
        expected: Float[np.ndarray, "V"] | None = None,
        fixed: float | None = None,
    ) -> TargetAdvice:
        """Return the advice that follows from some episodes.

        The rule: the model of starts is kept if it predicts episodes that it did not learn from. Of the residuals, the
        highest quantile that is in range is reduced by the share of luck, because that share of a return above the
        expectation does not come again; the next quantile at or above is advised.

        Args:
            dataset: The data.
            returns: The definition of a return.
            episodes: The training episodes, in order.
            normalizer: The policy's normalizer.
            expected: (V,) expected returns in place of the recorded ones, in which luck is averaged out already.
            fixed: The target that the run's options set.
        """
        values = returns.comparable(dataset, episodes) if expected is None else expected
        rows = steps_of(dataset, episodes)
        if returns.is_per_episode:
            rows = dataset.offsets[episodes]
        coefficients, intercept, residuals = fit_starts(dataset, normalizer, rows, np.asarray(values, np.float64))
        luck = 0.0
        variance = float(residuals.var())
        if expected is None and variance > 0:
            luck = min(1.0, luck_variance(dataset, returns, episodes, normalizer) / variance)
        count = len(episodes)
        if not returns.is_per_episode:
            # The returns of neighboring steps are of almost the same rewards.
            reach = returns.counted.steps or 1 / (1 - returns.counted.discount)
            count = max(count, int(len(values) / reach))
        least_share = min(0.5, max(_LEAST_SHARE, _LEAST_COUNT / count))
        quantiles = empirical_quantiles(residuals)
        return cls(
            coefficients=tuple(coefficients.tolist()),
            intercept=intercept,
            residuals=tuple(quantiles.tolist()),
            level=_advised_level(quantiles, least_share, luck),
            luck=luck,
            least_share=least_share,
            fixed=fixed,
        )

    @classmethod
    def from_dict(cls, values: JsonMapping) -> TargetAdvice:
        """Rebuild advice from the values of a policy file.

        Raises:
            ValueError: A field is missing, unknown or malformed.
        """
        if set(values) != {item.name for item in fields(cls)}:
            raise ValueError("advice does not have its fields")
        numbers: dict[str, Any] = {name: float(values[name]) for name in ("intercept", "luck", "least_share")}
        advice = cls(
            **numbers,
            coefficients=tuple(float(number) for number in values["coefficients"]),
            residuals=tuple(float(number) for number in values["residuals"]),
            level=int(values["level"]),
            fixed=None if values["fixed"] is None else float(values["fixed"]),
        )
        listed = (advice.intercept, *advice.coefficients, *advice.residuals, advice.fixed or 0.0)
        is_valid = len(advice.residuals) == 101 and 0 <= advice.level <= 100 and 0 <= advice.luck <= 1
        if not is_valid or not 0 < advice.least_share <= 1 or not all(abs(number) < math.inf for number in listed):
            raise ValueError("advice is malformed")
        return advice

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold."""
        return asdict(self)

    @property
    def depends_on_start(self) -> bool:
        """Return True if the advised target follows from the first observation."""
        return bool(self.coefficients) and self.fixed is None

    def expectation(self, states: Float[np.ndarray, "R D"]) -> Float64[np.ndarray, "R"]:
        """Return the expected return of each normalized first observation."""
        return np.clip(states, -FARTHEST, FARTHEST) @ np.array(self.coefficients) + self.intercept

    def advised(self, states: Float[np.ndarray, "R D"], limits: tuple[float, float]) -> Float64[np.ndarray, "R"]:
        """Return the target to aim for from each normalized first observation, within the range of the data."""
        return np.clip(self.expectation(states) + self.residuals[self.level], *limits)


@dataclass(frozen=True)
class TargetTable:
    """Says of targets how much of the data reached them from similar starts, and what to expect."""

    advice: TargetAdvice
    quantiles: Float64[np.ndarray, "quantiles"]
    """The 0, 1, ..., 100 % quantiles of the returns from such starts."""
    limits: tuple[float, float]
    """Smallest and largest return of the data."""
    advised: float

    def rows(self, targets: Sequence[float]) -> list[JsonObject]:
        """Return {target, share, label, expected} for each target; expected is None without any luck to be had."""
        shares = share_at_least(self.quantiles, np.array(targets, np.float64))
        return [
            {"target": float(t), "share": float(s), "expected": self._expected(t), "label": self.label(t)}
            for t, s in zip(targets, shares, strict=True)
        ]

    def label(self, target: float) -> str:
        """Return in range, thin, or beyond the data."""
        rounding = 1e-6 * max(map(abs, (*self.limits, target)))
        if not self.limits[0] - rounding <= target <= self.limits[1] + rounding:
            return BEYOND
        return IN_RANGE if target <= self.highest + rounding else THIN

    @property
    def highest(self) -> float:
        """Return the highest target that is in range."""
        return float(self.quantiles[_top_level(self.advice.least_share)])

    def _expected(self, target: float) -> float:
        """Return what the data lets one expect: luck does not come again, and beyond the range nothing is added."""
        within = min(max(target, float(self.quantiles[0])), max(self.highest, self.advised))
        middle = float(self.quantiles.mean())
        return middle + (1 - self.advice.luck) * (within - middle)

    def usual(self) -> list[float]:
        """Return the targets that are worth a row: quantiles, the advised target, the maximum, and one beyond it."""
        beyond = self.limits[1] + 0.1 * (self.limits[1] - self.limits[0])
        chosen = [*self.quantiles[[25, 50, 75, 90]], self.highest, self.advised, self.limits[1], beyond]
        return sorted({float(target) for target in chosen})


def _top_level(least_share: float) -> int:
    return math.floor(100 * (1 - least_share) + 1e-9)


def _advised_level(quantiles: Float64[np.ndarray, "quantiles"], least_share: float, luck: float) -> int:
    """Return the level of the advised quantile, see `TargetAdvice.from_data`."""
    top = _top_level(least_share)
    if quantiles[top] <= quantiles[50]:
        return 100  # hardly any episode differs from the usual ones, and those few are what is worth to be repeated
    wanted = (1 - luck) * quantiles[top]
    return int(min(top, max(50, np.searchsorted(quantiles, wanted - 1e-9 * abs(wanted)))))

"""Cost-to-go: a budget for a cost besides the reward, as in constrained RL (Liu et al. 2023, CDT).

Shapes: N steps of data, S sessions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Self

import numpy as np

from rl_transformer.conditions.interface import Target, finite_target, power_of_ten_scale, sum_to_go
from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Float, Float32, Float64
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories.dataset import TrajectoryDataset

COLUMN = "cost"


@dataclass(frozen=True, kw_only=True)
class CostToGo:
    """The sum of the costs that are still to come: with a target of 25 an episode should cost 25.

    The data has a column ``cost`` with one number per step; sessions receive it as
    ``observe(reward, cost=...)``. Only the model reads the cost divided by ``scale``: targets, sessions and
    reports are all in the data's unit.
    """

    name: ClassVar[str] = "cost_to_go"
    outcome: ClassVar[str] = "cost"

    scale: float = 1.0
    """Costs are divided by this before the model reads them."""

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise RLTransformerError(
                f"scale {self.scale} is not positive", where="cost_to_go", fix="use a positive one"
            )

    @property
    def width(self) -> int:
        """Return 1: a cost is one number per timestep."""
        return 1

    @classmethod
    def from_data(cls, dataset: TrajectoryDataset, config: RunConfig) -> Self:
        """Choose the power of ten at or below the largest cost of an episode as the scale.

        Raises:
            RLTransformerError: The data has no column ``cost`` with one finite number per step.
        """
        return cls(scale=power_of_ten_scale(_costs_to_go(dataset)))

    def column(self, dataset: TrajectoryDataset) -> Float32[np.ndarray, "N"]:
        """Return the unscaled cost-to-go at every step of the data."""
        return _costs_to_go(dataset).astype(np.float32)

    def initial(self, target: Target) -> Float64[np.ndarray, "1"]:
        """Return the target cost, which is the first cost-to-go."""
        return finite_target("targets: cost_to_go", target)

    def after(self, value: Float64[np.ndarray, "S 1"], outcome: Float[np.ndarray, "S"]) -> Float64[np.ndarray, "S 1"]:
        """Return the cost-to-go after some costs."""
        return value - np.asarray(outcome, np.float64)[:, None]

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_dict(cls, values: JsonMapping) -> Self:
        """Rebuild a cost-to-go from the values of `to_dict`."""
        return cls(**{key: value for key, value in values.items() if key != "name"})


def _costs_to_go(dataset: TrajectoryDataset) -> Float64[np.ndarray, "N"]:
    """Return the cost-to-go at every step, after the checks that reading data does for its own columns only."""
    costs = dataset.columns.get(COLUMN)
    if costs is None or costs.size != dataset.num_steps:
        present = ", ".join(sorted(dataset.columns)) if costs is None else f"cost of shape {costs.shape}"
        raise RLTransformerError(
            f"the data has no column {COLUMN!r} with one number per step; it has {present}",
            where="model.conditions: cost_to_go",
            fix="record the cost of every step as the array 'cost' of each episode, or leave cost_to_go out",
        )
    costs = np.asarray(costs)
    if not np.isfinite(costs).all():
        row = int(np.flatnonzero(~np.isfinite(costs.reshape(-1)))[0])
        episode = int(np.searchsorted(dataset.offsets, row, side="right")) - 1
        raise RLTransformerError(
            f"the cost at episode {episode}, step {row - int(dataset.offsets[episode])} is not finite",
            where=dataset.location or "data",
            fix="repair or remove the episode",
        )
    # An overflow becomes an error below that says what to do, rather than a warning of NumPy.
    with np.errstate(over="ignore", invalid="ignore"):
        sums = sum_to_go(costs.reshape(-1).astype(np.float64), dataset.offsets)
    if not (np.abs(sums) <= np.finfo(np.float32).max).all():
        raise RLTransformerError(
            "the costs of an episode sum to more than float32 can hold",
            where=dataset.location or "data",
            fix="rescale the costs",
        )
    return sums

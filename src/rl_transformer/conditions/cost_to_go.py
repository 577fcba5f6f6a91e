"""Cost-to-go: a budget for a cost beside the reward, as in constrained RL (Liu et al. 2023, CDT)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Self

import numpy as np

from rl_transformer.conditions.interface import Target, finite_target, power_of_ten_scale, sum_to_go
from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories.dataset import TrajectoryDataset

COLUMN = "cost"


@dataclass(frozen=True, kw_only=True)
class CostToGo:
    """The sum of the costs that are still to come; a target of 25 asks for an episode that costs 25.

    The data has a column ``cost`` with one number per step; sessions report it as
    ``observe(reward, cost=...)``. Only the model sees the cost divided by ``scale``: targets, sessions and
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
        """One number per timestep."""
        return 1

    @classmethod
    def from_data(cls, dataset: TrajectoryDataset, config: RunConfig) -> Self:
        """Scale by the power of ten at or below the largest cost of an episode.

        Raises:
            RLTransformerError: Data without a column ``cost`` of one finite number per step.
        """
        return cls(scale=power_of_ten_scale(_costs_to_go(dataset)))

    def column(self, dataset: TrajectoryDataset) -> np.ndarray:
        """Return the cost-to-go at every step of the data, not scaled: (N,) float32."""
        return _costs_to_go(dataset).astype(np.float32)

    def initial(self, target: Target) -> np.ndarray:
        """Return the target cost as the first cost-to-go: (1,) float64."""
        return finite_target("targets: cost_to_go", target)

    def after(self, value: np.ndarray, outcome: np.ndarray) -> np.ndarray:
        """Return the cost-to-go after costs (S,): (S, 1) -> (S, 1)."""
        return value - np.asarray(outcome, np.float64)[:, None]

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_dict(cls, values: JsonMapping) -> Self:
        """Read what `to_dict` returned."""
        return cls(**{key: value for key, value in values.items() if key != "name"})


def _costs_to_go(dataset: TrajectoryDataset) -> np.ndarray:
    costs = dataset.columns.get(COLUMN)
    if costs is None or costs.size != dataset.num_steps:
        found = ", ".join(sorted(dataset.columns)) if costs is None else f"cost of shape {costs.shape}"
        raise RLTransformerError(
            f"the data has no column {COLUMN!r} with one number per step; it has {found}",
            where="model.conditions: cost_to_go",
            fix="record the cost of every step as the array 'cost' of each episode, or leave cost_to_go out",
        )
    if not np.isfinite(costs).all():
        row = int(np.flatnonzero(~np.isfinite(costs.reshape(-1)))[0])
        episode = int(np.searchsorted(dataset.offsets, row, side="right")) - 1
        raise RLTransformerError(
            f"the cost at episode {episode}, step {row - int(dataset.offsets[episode])} is not finite",
            where=dataset.location or "data",
            fix="repair or remove the episode",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        sums = sum_to_go(costs.reshape(-1).astype(np.float64), dataset.offsets)
    if not (np.abs(sums) <= np.finfo(np.float32).max).all():
        raise RLTransformerError(
            "the costs of an episode sum to more than float32 can hold",
            where=dataset.location or "data",
            fix="rescale the costs",
        )
    return sums

"""Read what further columns of a log say: which entity an episode belongs to, and how probable its actions were.

Shapes: N steps, E episodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Float64, Int
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.columns import STEP_COLUMNS

PROPENSITY = "propensity"
"""Usual name of the column that holds the probability, or density, with which each logged action was drawn."""


def propensity_column(dataset: TrajectoryDataset, name: str | None = None) -> str | None:
    """Return the column of recorded propensities: ``name``, else `PROPENSITY`, if there is one; None without any.

    Raises:
        RLTransformerError: There is no column of this name.
    """
    if name is None:
        return PROPENSITY if PROPENSITY in dataset.columns else None
    _check_columns(dataset, [name], "--propensity")
    return name


def recorded_propensities(
    dataset: TrajectoryDataset, name: str | None = None, *, largest: float = 1.0
) -> Float64[np.ndarray, "N"] | None:
    """Return the recorded probability, or density, of each logged action, if the log has them.

    Args:
        dataset: The log.
        name: See `propensity_column`.
        largest: The largest possible value; densities have none.

    Raises:
        RLTransformerError: There is no such column, or it holds something else.
    """
    recorded = propensity_column(dataset, name)
    if recorded is None:
        return None
    column = np.asarray(dataset.columns[recorded], np.float64).reshape(dataset.num_steps, -1)
    if column.shape[1] != 1 or not ((column > 0) & (column <= largest) & np.isfinite(column)).all():
        kind = "probability above 0 and at most 1" if largest == 1 else "finite density above 0"
        raise RLTransformerError(
            f"is not one {kind} per step",
            where=f"column {recorded}",
            fix="record that of the action that was taken, or rename the column",
        )
    return column[:, 0]


def entities_of(dataset: TrajectoryDataset, names: Sequence[str]) -> Int[np.ndarray, "E"] | None:
    """Return a number per episode that tells whose it is, by columns of the log; None without any.

    Raises:
        RLTransformerError: There is no such column.
    """
    if not names:
        return None
    _check_columns(dataset, names, "--entity")
    # An entity does not change within an episode, so its first step tells it.
    first = [np.asarray(dataset.columns[name][dataset.offsets[:-1]]).reshape(len(dataset), -1) for name in names]
    keys = [np.unique(column, axis=0, return_inverse=True)[1].reshape(-1) for column in first]
    return np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def _check_columns(dataset: TrajectoryDataset, names: Sequence[str], option: str) -> None:
    """Raise an error for a column that the log does not have beside its steps."""
    further = sorted(set(dataset.columns) - set(STEP_COLUMNS))
    missing = [name for name in names if name not in further]
    if missing:
        kept = ", ".join(further) or "none"
        fix = f"name one of its further columns ({kept}), or convert the table again with --keep {missing[0]}"
        raise RLTransformerError(f"there is no column {missing[0]!r}", where=option, fix=fix)

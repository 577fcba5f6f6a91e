"""Hold several episodes in joined arrays, for sources of many short ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.trajectory import Trajectory


@dataclass(frozen=True)
class EpisodeBlock:
    """Holds whole episodes whose rows follow one another: a million rows are converted as fast as a hundred."""

    rows: Trajectory
    """The arrays of all episodes, (N, ...); its flags and its final observation have no meaning."""
    offsets: np.ndarray
    """(E + 1,) rows at which episodes begin, and N."""
    terminated: np.ndarray
    """(E,) bool."""
    truncated: np.ndarray
    """(E,) bool."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Trajectory]:
        for index in range(len(self)):
            rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
            yield replace(
                self.rows,
                observations=_rows_of(self.rows.observations, rows),
                actions=self.rows.actions[rows],
                rewards=self.rows.rewards[rows],
                terminated=bool(self.terminated[index]),
                truncated=bool(self.truncated[index]),
                extras={name: values[rows] for name, values in self.rows.extras.items()},
            )


Episodes = Iterable[Trajectory | EpisodeBlock]
"""Episodes one by one, or many at a time."""


def one_by_one(episodes: Episodes) -> Iterator[Trajectory]:
    """Yield every episode on its own."""
    for item in episodes:
        if isinstance(item, EpisodeBlock):
            yield from item
        else:
            yield item


def _rows_of(values: Nested, rows: slice) -> Nested:
    if isinstance(values, dict):
        return {name: _rows_of(part, rows) for name, part in values.items()}
    return values[rows]

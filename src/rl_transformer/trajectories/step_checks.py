"""All checks that look at the steps of every episode, in the order in which they report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from rl_transformer.trajectories.column_checks import Clocks, NextObservations
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.episode_checks import Actions, Units
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.row_checks import Codes, EqualFeatures, Rows
from rl_transformer.trajectories.signal_checks import Signals
from rl_transformer.trajectories.trajectory import Trajectory


class StepCheck(Protocol):
    """A check of steps that names their episode."""

    def add(self, episode: int, offsets: np.ndarray, rows: Trajectory, actions: np.ndarray) -> None:
        """Look at the next episodes.

        Args:
            episode: Number of the first of E episodes.
            offsets: (E + 1,) rows at which they begin, and N.
            rows: Their arrays, (N, ...).
            actions: (N, *action_shape) recorded actions.
        """
        ...

    def findings(self) -> Iterator[Finding]:
        """Yield what was found in all episodes so far."""
        ...


def step_checks(spec: DataSpec) -> list[StepCheck]:
    """Return new checks for data with these spaces."""
    return [Signals(spec), Rows(), Codes(), EqualFeatures(), Units(), Actions(spec), Clocks(), NextObservations()]

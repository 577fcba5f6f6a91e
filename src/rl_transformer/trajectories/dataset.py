"""Logged data in one form: columns over all steps, and where each episode begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping
from rl_transformer.trajectories.checks import (
    Checker,
    Finding,
    infer_action_space,
    infer_observation_space,
    raise_on_errors,
)
from rl_transformer.trajectories.columns import STEP_COLUMNS, Summary, build_columns
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.gymnasium_spaces import space_from_gymnasium
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.statistics import ObservationStatistics
from rl_transformer.trajectories.trajectory import Trajectory

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class TrajectoryDataset:
    """Trajectories as columns of N steps in all, and E episodes.

    Columns may be memory-mapped: treat them as read-only.
    """

    spec: DataSpec
    columns: Mapping[str, np.ndarray]
    """observations (N, ...), actions (N, A) or (N,), rewards (N,), returns_to_go (N,), and extras."""
    summary: Summary
    location: str = ""
    """The URI it was opened from; empty if it was made in memory."""

    @property
    def observations(self) -> np.ndarray:
        """(N, D) float32, or (N, channels, height, width) uint8."""
        return self.columns["observations"]

    @property
    def actions(self) -> np.ndarray:
        """(N, A) float32 as recorded, or (N,) int64 counted from 0."""
        return self.columns["actions"]

    @property
    def rewards(self) -> np.ndarray:
        """(N,) float64."""
        return self.columns["rewards"]

    @property
    def returns_to_go(self) -> np.ndarray:
        """(N,) float32: undiscounted, the reward of the step included."""
        return self.columns["returns_to_go"]

    @property
    def offsets(self) -> np.ndarray:
        """(E + 1,): episode e is the rows offsets[e] ... offsets[e + 1]."""
        return self.summary.offsets

    @property
    def num_trajectories(self) -> int:
        """E."""
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        """N."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> np.ndarray:
        """(E,) steps of each episode."""
        return np.diff(self.offsets)

    @property
    def episode_returns(self) -> np.ndarray:
        """(E,) float64: the sum of each episode's rewards."""
        return self.summary.episode_returns

    @property
    def statistics(self) -> ObservationStatistics | None:
        """Mean and standard deviation of the observations; None for images."""
        return self.summary.statistics

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the canonical columns, whatever format they came from."""
        return self.summary.fingerprint

    @property
    def findings(self) -> list[Finding]:
        """What is odd about the data."""
        return self.summary.findings

    def trajectory(self, index: int) -> Trajectory:
        """Return one episode."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        final, extras = self.summary.final_observations, set(self.columns) - set(STEP_COLUMNS)
        return Trajectory(
            observations=self.observations[rows],
            actions=self.spec.action_space.decode_actions(self.actions[rows]),
            rewards=self.rewards[rows],
            terminated=bool(self.summary.terminated[index]),
            truncated=bool(self.summary.truncated[index]),
            final_observation=None if final is None else final[index],
            extras={name: self.columns[name][rows] for name in sorted(extras)},
        )

    def __len__(self) -> int:
        return self.num_trajectories

    def __repr__(self) -> str:
        name = self.location or self.spec.source or "in memory"
        return f"TrajectoryDataset({name!r}, {self.num_trajectories} trajectories, {self.num_steps} steps)"

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[JsonMapping],
        *,
        observation_space: Space | gymnasium.Space | None = None,
        action_space: Space | gymnasium.Space | None = None,
        source: str = "episodes",
    ) -> TrajectoryDataset:
        """Make a data set from arrays.

        Args:
            episodes: One dict per episode: ``observations`` (T or T + 1 rows), ``actions`` (T rows),
                ``rewards`` (T,), and ``terminated`` or ``truncated`` (a bool, or one per step).
                Further arrays with T rows are carried along.
            observation_space: A `Space` or gymnasium space. Guessed from the arrays if absent.
            action_space: Likewise. Whole numbers are taken for discrete actions.
            source: A name for messages.

        Raises:
            RLTransformerError: Data that would corrupt training: NaN, wrong lengths, actions outside
                the space. The message names every kind, with its first episode and step.
        """
        trajectories = [Trajectory.from_mapping(e, where=f"{source}[{i}]") for i, e in enumerate(episodes)]
        guesses: list[Finding] = []
        observation = _as_space(observation_space, source) or infer_observation_space(trajectories, source)
        action = _as_space(action_space, source)
        if action is None:
            action, guesses = infer_action_space(trajectories, source)
        dataset = cls.in_memory(DataSpec(observation, action, source), trajectories, guesses=guesses)
        raise_on_errors(dataset.findings, source)
        return dataset

    @classmethod
    def in_memory(
        cls, spec: DataSpec, trajectories: Iterable[Trajectory], *, location: str = "", guesses: Iterable[Finding] = ()
    ) -> TrajectoryDataset:
        """Collect trajectories into columns, with findings of every level left to the caller."""
        parts: dict[str, list[np.ndarray]] = {}
        checker = Checker(spec)
        for guess in guesses:
            checker.add_finding(guess.level, guess.kind, guess.field, guess.problem, guess.fix)
        summary = build_columns(spec, trajectories, lambda name, rows: parts.setdefault(name, []).append(rows), checker)
        columns = {name: np.concatenate(rows) for name, rows in parts.items()}
        if not columns and not summary.findings:
            raise RLTransformerError("holds no episode", where=location or spec.source, fix="give at least one episode")
        return cls(spec, columns, summary, location)


def _as_space(given: Space | gymnasium.Space | None, where: str) -> Space | None:
    return given if given is None or isinstance(given, Space) else space_from_gymnasium(given, where=where)

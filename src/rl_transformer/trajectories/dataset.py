"""Hold logged data as columns over all steps, with the rows at which episodes begin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.memory import STORE_FIX, translate_memory_errors
from rl_transformer.runtime.types import JsonMapping
from rl_transformer.trajectories.action_masks import ALLOWED, is_action_mask
from rl_transformer.trajectories.blocks import Episodes
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.columns import STEP_COLUMNS, CollectedColumns, Summary, build_columns
from rl_transformer.trajectories.data_options import clip_actions as clipped_actions
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import LEVELS, Finding, count_levels, raise_on_errors
from rl_transformer.trajectories.guessed_spaces import infer_action_space, infer_observation_space
from rl_transformer.trajectories.gymnasium_spaces import space_from_gymnasium
from rl_transformer.trajectories.nested import unstack
from rl_transformer.trajectories.sharded_column import Column
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.statistics import ObservationStatistics
from rl_transformer.trajectories.store_files import write_columns
from rl_transformer.trajectories.trajectory import Trajectory
from rl_transformer.trajectories.wide_rows import from_rows, row_shape

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class TrajectoryDataset:
    """Holds E trajectories with N steps in total, as columns over all steps.

    With one array per column instead of one per episode, a batch of windows is a single indexing operation, and a store
    on disk is mapped without reading it. Treat columns as read-only, because they may be memory-mapped.
    """

    spec: DataSpec
    columns: Mapping[str, Column]
    """observations (N, ...), actions (N, A) or (N,), rewards (N,), returns_to_go (N,), and extra columns (N, ...)."""
    summary: Summary
    location: str = ""
    """URI that the data was opened from; empty if it was made in memory."""

    @property
    def observations(self) -> Column:
        """Flattened observations: (N, D) float32, or (N, channels, height, width) uint8.

        Discrete observations are one-hot vectors, or indices if one of them has more than 1024 values (`wide_rows`).
        """
        return self.columns["observations"]

    @property
    def actions(self) -> Column:
        """Actions: (N, A) float32 in the environment's units, or (N,) or (N, parts) int64 counted from 0."""
        return self.columns["actions"]

    @property
    def rewards(self) -> Column:
        """Rewards: (N,) float64."""
        return self.columns["rewards"]

    @property
    def returns_to_go(self) -> Column:
        """Undiscounted returns-to-go, which include the reward of their own step: (N,) float32."""
        return self.columns["returns_to_go"]

    @property
    def action_masks(self) -> Column | None:
        """Legal actions, (N, M) bool: the extra column ``allowed``, if it has one value per discrete action."""
        masks = self.columns.get(ALLOWED)
        return masks if masks is not None and is_action_mask(self.spec.action_space, masks) else None

    @property
    def offsets(self) -> np.ndarray:
        """Row borders of episodes, (E + 1,) int64: episode e has the rows from offsets[e] to offsets[e + 1] - 1."""
        return self.summary.offsets

    @property
    def num_trajectories(self) -> int:
        """Number of episodes E."""
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        """Number of steps N."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> np.ndarray:
        """Steps per episode: (E,)."""
        return np.diff(self.offsets)

    @property
    def episode_returns(self) -> np.ndarray:
        """Sum of each episode's rewards: (E,) float64."""
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
        """Findings of the checks that were made while the data was read."""
        return self.summary.findings

    def trajectory(self, index: int) -> Trajectory:
        """Return episode ``index``, with actions in the values of the action space."""
        # Slices are views, so a memory-mapped dataset reads only this episode's pages.
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        finals = self.summary.final_observations
        final = None if finals is None else finals[index]
        extras = set(self.columns) - set(STEP_COLUMNS)
        observations = self.observations[rows]
        space = self.spec.observation_space
        if space.is_wide and observations.shape[1:] == row_shape(space):
            observations = from_rows(space, observations)
            final = None if final is None else unstack(from_rows(space, final[None]))
        return Trajectory(
            observations=observations,
            actions=self.spec.action_space.decode_actions(self.actions[rows]),
            rewards=self.rewards[rows],
            terminated=bool(self.summary.terminated[index]),
            truncated=bool(self.summary.truncated[index]),
            final_observation=final,
            extras={name: self.columns[name][rows] for name in sorted(extras)},
        )

    def __len__(self) -> int:
        return self.num_trajectories

    def __repr__(self) -> str:
        name = self.location or self.spec.source or "in memory"
        sizes = f"{self.num_trajectories} trajectories, {self.num_steps} steps"
        spaces = f"observations {self.spec.observation_space}, actions {self.spec.action_space}"
        counts = count_levels(self.findings)
        problems = [f"{counts[level]} {level}{'s' * (counts[level] > 1)}" for level in LEVELS[:2] if counts[level]]
        return f"TrajectoryDataset({', '.join([repr(name), sizes, spaces, *problems])})"

    def save(self, folder: str | Path) -> Path:
        """Write the data as a store, which ``open_trajectories(f"rlt:{folder}")`` opens, and return its folder.

        Args:
            folder: Folder to write; it must be empty or absent.

        Raises:
            RLTransformerError: The folder is not empty, or the data would corrupt training; then nothing is written.
        """
        episodes = (self.trajectory(index) for index in range(len(self)))
        return write_columns(folder, self.spec, episodes, notes=self.findings)

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[JsonMapping],
        *,
        observation_space: Space | gymnasium.Space | None = None,
        action_space: Space | gymnasium.Space | None = None,
        source: str = "episodes",
        observe: Sequence[str] = (),
        clip_actions: bool = False,
    ) -> TrajectoryDataset:
        """Return a dataset made from arrays in memory.

        Args:
            episodes: One dict per episode: ``observations`` (T or T + 1 rows), ``actions`` (T rows),
                ``rewards`` (T,), and ``terminated`` or ``truncated`` (a bool, or one per step).
                Further arrays with T rows become extra columns. Data without any rewards is for behavior cloning.
            observation_space: A `Space` or gymnasium space; None: guessed from the arrays.
            action_space: A `Space` or gymnasium space; None: guessed from the actions, of which integers are taken as
                discrete actions. A guess is reported as a finding.
            source: Name of the data for messages.
            observe: Names or globs of the parts of Dict and Tuple observations to use; empty: all.
            clip_actions: Clip continuous actions to the bounds of their space; a finding counts them.

        Raises:
            RLTransformerError: The data would corrupt training: NaN, wrong lengths, or actions outside the space. The
                message lists every kind of defect with its first episode and step.
        """
        # Spaces are guessed from all episodes, so these have to be in memory at once.
        observation = _as_space(observation_space, source)
        trajectories = _read_episodes(episodes, observation, source)
        notes: list[Finding] = []
        if observation is None:
            observation, notes = infer_observation_space(trajectories, source)
        action = _as_space(action_space, source)
        if action is None:
            action, guesses = infer_action_space(trajectories, source)
            notes += guesses
        spec = DataSpec(observation, action, source).observing(observe)
        if clip_actions:
            trajectories = clipped_actions(spec, trajectories, notes)
        dataset = cls.in_memory(spec, trajectories, notes=notes)
        # Warnings, such as a guessed space, remain in `findings`; only errors would corrupt training.
        raise_on_errors(dataset.findings, source)
        return dataset

    @classmethod
    def from_columns(
        cls, table: object, *, mapping: str | Path | None = None, source: str = "table", **columns: object
    ) -> TrajectoryDataset:
        """Return a dataset made from a table in memory, whose rows are steps.

        Args:
            table: A mapping from columns to arrays, an Arrow table, or a DataFrame of pandas or Polars.
            mapping: YAML file that says which column is what; ``columns`` override it.
            source: Name of the data for messages.
            columns: The fields of a mapping: ``episode=["user_id"], order="time", action="price"``; see
                `tables.mapping.ColumnMapping`.

        Raises:
            RLTransformerError: The mapping does not fit the table, or the data would corrupt training.
        """
        from rl_transformer.trajectories.tables.convert import open_table
        from rl_transformer.trajectories.tables.inputs import memory_input
        from rl_transformer.trajectories.tables.mapping import ColumnMapping

        values = {} if mapping is None else ColumnMapping.from_file(mapping).to_dict()
        chosen = ColumnMapping.from_values({**values, **columns}, where=source)
        spec, episodes = open_table(memory_input(table, where=source), chosen, source=source)
        dataset = cls.in_memory(spec, episodes.blocks("training"), notes=episodes.notes)
        raise_on_errors(dataset.findings, source)
        return dataset

    @classmethod
    def in_memory(
        cls, spec: DataSpec, trajectories: Episodes, *, location: str = "", notes: Iterable[Finding] = ()
    ) -> TrajectoryDataset:
        """Return a dataset of trajectories, without raising an error for its findings.

        Args:
            spec: Spaces of the data.
            trajectories: The episodes.
            location: URI of the data.
            notes: Findings of the reader to add; the reader may still append to them while the episodes are read.

        Raises:
            RLTransformerError: There is no episode.
        """
        checker = Checker(spec)
        where = location or spec.source
        with translate_memory_errors("this data at once", where=where, fix=STORE_FIX):
            collected = CollectedColumns(where)
            summary = build_columns(spec, trajectories, collected.append, checker)
            columns = collected.joined()
        checker.add_notes(notes)
        summary = replace(summary, findings=checker.findings)
        # If all episodes have errors, there are findings but no columns; `raise_on_errors` then has the better message.
        if not columns and not summary.findings:
            raise RLTransformerError("holds no episode", where=where, fix="give at least one episode")
        return cls(spec, columns, summary, location)


def _read_episodes(episodes: Iterable[JsonMapping], space: Space | None, source: str) -> list[Trajectory]:
    """Return the trajectories in dicts of arrays.

    Raises:
        RLTransformerError: The episodes are not a list of dicts, an array is missing, or only some have rewards.
    """
    if isinstance(episodes, Mapping | str) or not isinstance(episodes, Iterable):
        kind = "one dict" if isinstance(episodes, Mapping) else f"of type {type(episodes).__name__}"
        raise RLTransformerError(
            f"the episodes are {kind}, not a list with one dict per episode",
            where=source,
            fix="for one episode, pass a list with its dict: from_episodes([episode]); for a file, use "
            "rl_transformer.open_trajectories",
        )
    listed = list(episodes)
    trajectories = [
        Trajectory.from_mapping(episode, where=f"{source}[{index}]", observation_space=space)
        for index, episode in enumerate(listed)
    ]
    without = [index for index, episode in enumerate(listed) if "rewards" not in episode]
    if without and len(without) < len(listed):
        raise RLTransformerError(
            f"{len(without)} of {len(listed)} episodes have no rewards, the first one is episode {without[0]}",
            where=source,
            fix="give rewards for all episodes, or for none",
        )
    return trajectories


def _as_space(given: Space | gymnasium.Space | None, where: str) -> Space | None:
    """Return a space of either kind as a `Space`."""
    return given if given is None or isinstance(given, Space) else space_from_gymnasium(given, where=where)

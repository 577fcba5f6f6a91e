"""Convert trajectories to columns, in memory and on disk alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.mixed_rows import num_numbers, numbers_of
from rl_transformer.trajectories.nested import stack
from rl_transformer.trajectories.returns import returns_to_go
from rl_transformer.trajectories.space_values import observed
from rl_transformer.trajectories.statistics import ObservationStatistics, StreamingStatistics
from rl_transformer.trajectories.trajectory import Trajectory
from rl_transformer.trajectories.wide_rows import WideStatistics, to_rows, wide_layout

STEP_COLUMNS = ("observations", "actions", "rewards", "returns_to_go")
EPISODE_COLUMNS = ("offsets", "terminated", "truncated", "episode_returns", "final_observations")
# A store has one file per name, so an extra column with one of these names would overwrite it.
RESERVED = {*STEP_COLUMNS, *EPISODE_COLUMNS, "observation_mean", "observation_std"}
# Columns in the fingerprint: those that the source recorded. The others are computed from them.
_HASHED = ("observations", "actions", "rewards")


@dataclass(frozen=True)
class Summary:
    """Holds the values per episode and of the whole dataset that belong to the columns."""

    offsets: np.ndarray
    """(E + 1,) int64: episode e has the rows from offsets[e] up to, not including, offsets[e + 1]."""
    terminated: np.ndarray
    """(E,) bool: True where the task ended the episode."""
    truncated: np.ndarray
    """(E,) bool: True where a limit outside of the task ended the episode."""
    episode_returns: np.ndarray
    """(E,) float64: the sum of each episode's rewards."""
    final_observations: np.ndarray | None
    """(E, ...): the observation after each episode's last action; None if any of them was not recorded."""
    statistics: ObservationStatistics | None
    """Statistics of the observations; None for images, which are divided by 255 instead."""
    findings: list[Finding]
    fingerprint: str
    """SHA-256 over the canonical columns: the same for every format of the same data."""
    content: str = ""
    """Hash of the files of a store as they are now; empty for data that comes from elsewhere."""


def build_columns(
    spec: DataSpec,
    trajectories: Iterable[Trajectory],
    append: Callable[[str, np.ndarray], None],
    checker: Checker | None = None,
) -> Summary:
    """Check every trajectory, pass its columns to ``append``, and return the summary.

    Columns are observations (float32 vectors or uint8 images; indices for wide spaces, see `wide_rows`), actions (float32 vectors, or int64 counted from 0),
    rewards (float64), returns_to_go (float32, summed in float64) and the extra columns of the trajectories. Episodes
    whose arrays do not fit each other are left out, with a finding.

    Args:
        spec: Spaces of the data.
        trajectories: The episodes; read once, one at a time.
        append: Called with (name, rows) for every column of every episode, in order.
        checker: Collects the findings; None: a new one.
    """
    builder = ColumnBuilder(spec, append, checker or Checker(spec))
    for episode, trajectory in enumerate(trajectories):
        builder.add(episode, trajectory)
    return builder.summary()


class ColumnBuilder:
    """Converts one trajectory at a time, so that memory holds one of them and a few numbers per episode."""

    def __init__(self, spec: DataSpec, append: Callable[[str, np.ndarray], None], checker: Checker) -> None:
        spec.check_observations()
        observation = spec.observation_space
        self._spec = spec
        self._append = append
        self._checker = checker
        self._statistics = StreamingStatistics(num_numbers(observation)) if num_numbers(observation) else None
        if observation.is_wide:
            self._statistics = WideStatistics(observation)
        self._hashes = {name: hashlib.sha256() for name in _HASHED}
        self._lengths: list[int] = []
        self._ends: list[tuple[bool, bool]] = []
        self._returns: list[float] = []
        self._finals: list[np.ndarray | None] = []
        self._extra_names: set[str] | None = None

    def add(self, episode: int, trajectory: Trajectory) -> None:
        """Check a trajectory and append its rows.

        Raises:
            RLTransformerError: An extra column has a reserved name, or the extra columns differ from the first
                episode's.
        """
        trajectory = _simplified(self._spec, trajectory)
        if not self._checker.check_structure(episode, trajectory):
            return
        rows = _canonical(self._spec, self._checker, episode, trajectory)
        if rows is None:
            return
        for name, values in {**rows, **self._extras(episode, trajectory)}.items():
            self._append(name, values)
        # Hashes grow column by column while the data streams past. They are taken after conversion, so HDF5, Arrow and
        # a store of the same episodes have the same fingerprint.
        for name in _HASHED:
            self._hashes[name].update(np.ascontiguousarray(rows[name]).data)
        # An episode with NaN is an error anyway, and would turn the statistics that `rlt inspect` shows into NaN.
        if self._statistics is not None:
            space = self._spec.observation_space
            numbers = rows["observations"] if space.is_wide else numbers_of(space, rows["observations"])
            if np.isfinite(numbers).all():
                self._statistics.add(numbers)
        self._checker.check_ends(episode, trajectory)
        self._lengths.append(len(rows["rewards"]))
        self._ends.append((trajectory.terminated, trajectory.truncated))
        self._returns.append(float(rows["rewards"].sum()))
        self._finals.append(_final(self._spec, trajectory))

    def _extras(self, episode: int, trajectory: Trajectory) -> dict[str, np.ndarray]:
        """Return the extra columns of an episode; every episode must have the same ones, or rows would not line up."""
        extras = {name: np.asarray(values) for name, values in trajectory.extras.items()}
        if reserved := sorted(set(extras) & RESERVED):
            raise RLTransformerError(
                f"{', '.join(reserved)} is a reserved name: the library computes it, from rewards and episode ends",
                where=self._spec.source,
                fix="leave it out, or give it another name",
            )
        if self._extra_names is not None and set(extras) != self._extra_names:
            first = sorted(self._extra_names)
            raise RLTransformerError(
                f"episode {episode} has the extra columns {sorted(extras)}, and the first one has {first}",
                where=self._spec.source,
                fix="give every episode the same arrays",
            )
        self._extra_names = set(extras)
        return extras

    def summary(self) -> Summary:
        """Return the summary of everything that was added."""
        statistics = None if self._statistics is None else self._statistics.result()
        if self._lengths:
            self._checker.check_dataset(None if statistics is None else self._std_of_numbers(statistics))
        flags = np.array(self._ends, dtype=bool).reshape(-1, 2)  # (0, 2) if no episode was usable
        offsets = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        finals = [final for final in self._finals if final is not None]
        return Summary(
            offsets=offsets,
            terminated=flags[:, 0],
            truncated=flags[:, 1],
            episode_returns=np.array(self._returns),
            final_observations=np.stack(finals) if finals and len(finals) == len(self._finals) else None,
            statistics=statistics,
            findings=self._checker.findings,
            fingerprint=self._fingerprint(offsets, flags),
        )

    def _std_of_numbers(self, statistics: ObservationStatistics) -> np.ndarray:
        """Return the standard deviations; NaN for the values of indices, of which most are rare in wide spaces."""
        if not self._spec.observation_space.is_wide:
            return statistics.std
        features = wide_layout(self._spec.observation_space).number_features
        std = np.full_like(statistics.std, np.nan)
        std[features] = statistics.std[features]
        return std

    def _fingerprint(self, offsets: np.ndarray, flags: np.ndarray) -> str:
        """Return a hash of recorded columns, episode borders and ends; extra columns are not part of it."""
        digests = {name: value.hexdigest() for name, value in self._hashes.items()}
        for name, values in (("offsets", offsets), ("ends", flags)):
            digests[name] = hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _simplified(spec: DataSpec, trajectory: Trajectory) -> Trajectory:
    """Return a trajectory without the parts of observations that are not observed, and with (T,) rewards."""
    space = spec.observation_space
    rewards = trajectory.rewards
    return replace(
        trajectory,
        observations=observed(space, trajectory.observations),
        final_observation=observed(space, trajectory.final_observation),
        rewards=rewards[:, 0] if rewards.ndim == 2 and rewards.shape[1] == 1 else rewards,
    )


def _canonical(spec: DataSpec, checker: Checker, episode: int, trajectory: Trajectory) -> dict[str, np.ndarray] | None:
    """Return one episode's rows in canonical dtypes and shapes; None, with a finding, if its shapes do not fit."""
    try:
        observations = to_rows(spec.observation_space, trajectory.observations, where="observations")
        recorded_actions = _recorded_actions(spec, trajectory)
    except RLTransformerError as error:
        # One bad episode becomes a finding, so that `rlt inspect` can list all of them.
        name = "actions" if error.where == "actions" else "observations"
        checker.add_finding(
            "error", "wrong shape or value", name, error.problem, error.fix, positions=[{"episode": episode}]
        )
        return None
    rewards = trajectory.rewards.astype(np.float64)
    # Actions are checked as recorded: NaN, 1.5 or an index below the start cannot be seen any more once they are int64.
    checker.check_values(episode, trajectory, observations, recorded_actions, rewards)
    # Summed in float64 and rounded once: in float32 the error would grow with the length of the episode. Columns that
    # training reads are float32, so a sum that only float64 can hold becomes infinite, which is reported below.
    with np.errstate(over="ignore", invalid="ignore"):
        returns = returns_to_go(rewards).astype(np.float32)
    if np.isfinite(rewards).all() and not np.isfinite(returns).all():
        problem = "sum to more than float32 can hold"
        checker.add_finding(
            "error", "overflow", "rewards", problem, "rescale the rewards", positions=[{"episode": episode}]
        )
    return {
        "observations": observations,
        "actions": spec.action_space.encode_actions(recorded_actions),
        "rewards": rewards,
        "returns_to_go": returns,
    }


def _recorded_actions(spec: DataSpec, trajectory: Trajectory) -> np.ndarray:
    """Return actions with recorded values in the shape of stored ones: (T, *action_shape)."""
    space = spec.action_space
    if space.is_continuous:
        return space.flatten(trajectory.actions, where="actions")
    actions = np.asarray(trajectory.actions)
    space.encode_actions(actions)  # raises if the shape does not fit
    return actions.reshape(len(actions), *space.action_shape)


def _final(spec: DataSpec, trajectory: Trajectory) -> np.ndarray | None:
    """Return the flattened final observation, or None if it was not recorded."""
    final = trajectory.final_observation
    if final is None:
        return None
    return to_rows(spec.observation_space, stack([final]), where="final_observation")[0]

"""Check logged data in one pass while it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from rl_transformer.trajectories.action_checks import action_defects
from rl_transformer.trajectories.action_masks import ALLOWED
from rl_transformer.trajectories.blocks import EpisodeBlock
from rl_transformer.trajectories.copies import EpisodeCopies
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.dataset_checks import episodes_checks, rows_checks
from rl_transformer.trajectories.end_flags import inner_end
from rl_transformer.trajectories.episode_checks import EndsAndReturns, FinalObservations
from rl_transformer.trajectories.findings import LEVELS, MAX_POSITIONS, Finding, shifted
from rl_transformer.trajectories.mixed_rows import numbers_of
from rl_transformer.trajectories.nested import leaves
from rl_transformer.trajectories.step_checks import step_checks
from rl_transformer.trajectories.trajectory import Trajectory


class Checker:
    """Collects findings episode by episode, in memory that does not grow with the number of defects.

    Args:
        spec: Spaces of the data.
    """

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec
        self._findings: dict[tuple[str, str], Finding] = {}
        self._rows_checks = rows_checks(spec)
        self._episodes_checks = episodes_checks()
        self._step_checks = step_checks(spec)
        self._ends = EndsAndReturns()
        self._finals = FinalObservations()
        self._copies = EpisodeCopies()
        self._of_dataset: dict[tuple[str, str], Finding] = {}  # apart, because they are no sums over episodes

    @property
    def findings(self) -> list[Finding]:
        """All findings so far, most severe first."""
        found = {**self._findings, **self._of_dataset}
        return sorted(found.values(), key=lambda f: (LEVELS.index(f.level), f.kind, f.field))

    def join(self, later: Checker, first_episode: int, lengths: np.ndarray, ends: np.ndarray) -> None:
        """Take over what another checker has seen in the episodes that follow, as if this one had seen them.

        Args:
            later: The other checker.
            first_episode: Number of its first episode here.
            lengths: (E,) steps of its episodes.
            ends: (E, 2) whether they were terminated, and truncated.
        """
        for found in later._findings.values():
            _record(self._findings, replace(found, positions=shifted(found.positions, first_episode)))
        for check, more in zip(self._rows_checks, later._rows_checks, strict=True):
            check.join(more)
        for check, more in zip(self._step_checks, later._step_checks, strict=True):
            check.join(more, first_episode)
        self._ends.join(later._ends)
        self._finals.join(later._finals, first_episode)
        self._copies.join(later._copies, first_episode)
        # Runs of episodes may reach from one checker into the next, so that these are looked at again.
        for length, (terminated, truncated) in zip(lengths.tolist(), ends.tolist(), strict=True):
            for check in self._episodes_checks:
                check.add(length, terminated, truncated)

    def add_finding(
        self,
        level: str,
        kind: str,
        name: str,
        problem: str,
        fix: str,
        *,
        positions: Iterable[dict[str, int]] = (),
        count: int = 1,
    ) -> None:
        """Record a finding, or add to the count and positions of an earlier one of the same kind and field.

        Args:
            level: error, warning or info.
            kind: Short name of the defect.
            name: Field that has it.
            problem: The defect, as a predicate: "is NaN".
            fix: Advice on how to correct it.
            positions: Positions to add, as far as there is room.
            count: Number of defects to add.
        """
        _record(self._findings, Finding(level, kind, name, problem, fix, count, list(positions)))

    def add_notes(self, notes: Iterable[Finding]) -> None:
        """Add findings of a reader, except those of a kind and field that these checks made themselves."""
        # Data that is written again brings the findings of its first reading along, which are made again now.
        for note in notes:
            if not {(note.kind, note.field)} & (self._findings.keys() | self._of_dataset.keys()):
                self._findings[note.kind, note.field] = replace(note, positions=list(note.positions))

    def check_structure(self, episode: int, trajectory: Trajectory) -> bool:
        """Check lengths and dtypes of an episode; return True if its values can be checked, too."""
        # These come first and end the checks of the episode, because arrays of different lengths or of objects cannot
        # be flattened, hashed or compared.
        length = trajectory.rewards.shape[0] if trajectory.rewards.ndim == 1 else -1
        here = [{"episode": episode}]
        if length == 0:
            self.add_finding("error", "empty episode", "rewards", "holds no step", "remove the episode", positions=here)
            return False
        if length < 0 and trajectory.rewards.dtype.kind in "biuf":
            # Blamed on the rewards alone: all other arrays are compared with them.
            problem = f"has shape {trajectory.rewards.shape}, not one number per step"
            self.add_finding("error", "wrong shape or value", "rewards", problem, "give (T,) rewards", positions=here)
            return False
        arrays = {
            "rewards": trajectory.rewards,
            "actions": trajectory.actions,
            **leaves(trajectory.observations, "observations"),
            **trajectory.extras,
        }
        is_readable = True
        for name, array in arrays.items():
            array = np.asarray(array)
            if array.dtype.kind not in "biuf":
                fix = "leave it out, or record numbers" if name in trajectory.extras else "record numbers"
                self.add_finding("error", "not numbers", name, f"holds {array.dtype}", fix, positions=here)
                is_readable = False
            elif array.ndim == 0 or len(array) != length:
                rows = f"{len(array)} rows" if array.ndim else "one number"
                problem = f"has {rows} where rewards has shape {trajectory.rewards.shape}"
                self.add_finding(
                    "error", "length mismatch", name, problem, "give every array one row per step", positions=here
                )
                is_readable = False
        return is_readable

    def check_values(
        self, episode: int, trajectory: Trajectory, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray
    ) -> None:
        """Check the values of one episode: NaN, actions outside their space, and duplicates of earlier episodes.

        Args:
            episode: Index of the episode.
            trajectory: The episode as recorded.
            observations: (T, ...) flattened observations.
            actions: (T, ...) actions as recorded.
            rewards: (T,) float64.
        """
        space = self.spec.observation_space
        numbers = observations if space.streams is None else numbers_of(space, observations)
        for name, array in (("observations", numbers), ("actions", actions), ("rewards", rewards)):
            if array.dtype.kind == "f":
                self._check_finite(episode, name, array)
        for defect in action_defects(self.spec.action_space, actions, trajectory.extras.get(ALLOWED)):
            self._add_at(episode, defect.where, defect.kind, "actions", defect.problem, defect.fix)
        for check in self._rows_checks:
            check.add(trajectory, actions)
        for check in self._step_checks:
            check.add(episode, np.array([0, len(rewards)]), trajectory, actions)
        for check in self._episodes_checks:
            check.add(len(rewards), trajectory.terminated, trajectory.truncated)
        self._ends.add(len(rewards), trajectory.terminated, trajectory.truncated, float(rewards.sum()))
        self._copies.add(episode, observations, actions, rewards)

    def check_block(
        self, episode: int, block: EpisodeBlock, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray
    ) -> None:
        """Check a block whose values are clean: what shows in the whole dataset, and copies.

        Args:
            episode: Index of the first episode.
            block: The episodes as recorded.
            observations: (N, ...) flattened observations of all of them.
            actions: (N, ...) actions as recorded.
            rewards: (N,) float64.
        """
        for check in self._rows_checks:
            check.add(block.rows, actions)
        for check in self._step_checks:
            check.add(episode, block.offsets, block.rows, actions)
        returns = np.add.reduceat(rewards, block.offsets[:-1])
        offsets = block.offsets.tolist()
        ends = zip(block.terminated.tolist(), block.truncated.tolist(), strict=True)
        for index, (terminated, truncated) in enumerate(ends):
            first, last = offsets[index], offsets[index + 1]
            for check in self._episodes_checks:
                check.add(last - first, terminated, truncated)
            self._ends.add(last - first, terminated, truncated, float(returns[index]))
            self._copies.add(episode + index, observations[first:last], actions[first:last], rewards[first:last])

    def check_ends(self, episode: int, trajectory: Trajectory) -> None:
        """Check the flags at the end of an episode."""
        here = [{"episode": episode}]
        # Only a warning: most trainings read neither.
        for name, values in {**trajectory.extras, **_final_leaves(trajectory)}.items():
            if np.asarray(values).dtype.kind == "f":
                self._check_finite(episode, name, np.asarray(values), "warning")
        self._finals.add(episode, trajectory)
        self.check_flags(episode, trajectory.extras)
        if trajectory.terminated and trajectory.truncated:
            self.add_finding(
                "info",
                "both ends",
                "episode",
                "is both terminated and truncated",
                "nothing: it counts as terminated",
                positions=here,
            )
        elif not (trajectory.terminated or trajectory.truncated):
            # Only a warning: a policy can learn from the episode, but it has earned more than its returns-to-go say.
            problem = "has no end: its returns-to-go include only what was recorded"
            self.add_finding(
                "warning",
                "unfinished episode",
                "episode",
                problem,
                "drop it, or record whether it was terminated or truncated",
                positions=here,
            )

    def check_flags(self, episode: int, columns: Mapping[str, np.ndarray]) -> None:
        """Check that no further column of an episode is a flag of ends that is set inside of it."""
        for name, values in columns.items():
            step = inner_end(name, np.asarray(values))
            if step is not None:
                problem = f"is set at step {step}: the episode goes on after its end, or another one begins there"
                fix = "cut the recording at these flags, and give every episode on its own; if it is not such a flag, rename it"
                positions = [{"episode": episode}]
                self.add_finding("error", "end inside of an episode", name, problem, fix, positions=positions)

    def check_dataset(self, std: np.ndarray | None) -> None:
        """Check what only shows in the whole dataset.

        Args:
            std: (D,) standard deviations of the observations; None for images.
        """
        checks = (*self._rows_checks, *self._episodes_checks, *self._step_checks)
        for check in (*checks, self._ends, self._finals, self._copies):
            for finding in check.findings():
                _record(self._of_dataset, finding)
        if std is None:
            return
        # Often the sign of a wrong index while logging. Normalization handles constant features, so it is no error.
        # A feature whose differences float32 cannot hold has a finding of its own.
        rounded = self._of_dataset.get(("precision", "observations"))
        rounded_features = [] if rounded is None else [position["feature"] for position in rounded.positions]
        constant = np.setdiff1d(np.flatnonzero(std == 0), rounded_features)
        if constant.size:
            positions = [{"feature": int(i)} for i in constant]
            fix = "nothing, or leave the feature out"
            never = Finding(
                "warning", "constant feature", "observations", "never changes", fix, constant.size, positions
            )
            _record(self._of_dataset, never)

    def _check_finite(self, episode: int, name: str, array: np.ndarray, level: str = "error") -> None:
        bad = ~np.isfinite(array)
        if bad.any():
            problem = "is NaN" if np.isnan(array[bad][0]) else "is infinite"
            fix = "repair or remove the episode"
            self._add_at(episode, bad, "not finite", name, problem, fix, level)

    def _add_at(
        self, episode: int, bad: np.ndarray, kind: str, name: str, problem: str, fix: str, level: str = "error"
    ) -> None:
        """Record a finding at every True of ``bad`` (T, ...)."""
        if not bad.any():
            return
        axes = ("step",) if bad.ndim == 1 else ("step", "feature", "axis 2", "axis 3")
        positions = [
            {"episode": episode, **dict(zip(axes, map(int, position), strict=False))}
            for position in np.argwhere(bad)[:MAX_POSITIONS]
        ]
        self.add_finding(level, kind, name, problem, fix, positions=positions, count=int(bad.sum()))


def _record(findings: dict[tuple[str, str], Finding], new: Finding) -> None:
    """Add a finding, or its count and, as far as there is room, its positions to one of the same kind and field."""
    known = findings.setdefault((new.kind, new.field), replace(new, count=0, positions=[]))
    known.count += new.count
    known.positions += new.positions[: MAX_POSITIONS - len(known.positions)]


def _final_leaves(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """Return the arrays of the final observation by name, each with a leading axis; none if it was not recorded."""
    if trajectory.final_observation is None:
        return {}
    arrays = leaves(trajectory.final_observation, "final_observation")
    return {name: np.asarray(array)[None] for name, array in arrays.items()}

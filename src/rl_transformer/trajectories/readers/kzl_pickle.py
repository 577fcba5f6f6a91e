"""Read the pickled files of Chen et al. (2021) and their relatives, without running anything that they name.

The script ``download_d4rl_datasets.py`` of https://github.com/kzl/decision-transformer writes a list with a dict of
arrays for every episode: observations, next_observations, actions, rewards and terminals. It ends an episode where D4RL's
``terminals`` or ``timeouts`` are set, and leaves out ``timeouts``; of data without them, it cuts the first episode after 1000
steps and later ones after 999.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.end_flags import TRUNCATED, flag_kind
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.readers.d4rl import needed_arrays, split_steps
from rl_transformer.trajectories.readers.interface import ReaderOption, Source
from rl_transformer.trajectories.readers.pickled_values import SCRIPT, read_pickled
from rl_transformer.trajectories.readers.whole_episodes import source_of
from rl_transformer.trajectories.trajectory import Trajectory

_NEXT = "next_observations"


class KzlPickleReader:
    """Reads pickled lists of episodes, and a pickled dict of the arrays of a D4RL file.

    An episode without a terminal counts as unfinished, unless the file has ``timeouts`` or one of their other names, or
    ``max_episode_steps`` is the episode's length: then it is truncated.
    """

    usage: ClassVar[str] = "kzl-pickle:FILE.pkl"
    options: ClassVar[Mapping[str, ReaderOption]] = {
        "keep_unfinished": ReaderOption(
            False, "Keep the last episode of a dict of arrays if it has no end; those of a list are always kept.", bool
        ),
        "max_episode_steps": ReaderOption(
            None, "Count episodes of this many steps as ended by a time limit, in a file without timeouts.", int
        ),
    }

    def open(self, path: str, *, keep_unfinished: bool = False, max_episode_steps: int | None = None) -> Source:
        """Open the file ``path``, which is read into memory as a whole.

        Raises:
            RLTransformerError: The file is missing or damaged, holds more than plain values, or other ones than episodes.
        """
        file = Path(path)
        value = read_pickled(file)
        room = _Room(file)
        if isinstance(value, dict):
            rows, flags = needed_arrays(room.arrays(value, "the dict"), file)
            return split_steps(rows, flags, file, keep_unfinished=keep_unfinished, max_episode_steps=max_episode_steps)
        # Of a list, every episode is kept, with or without keep_unfinished.
        if not isinstance(value, list | tuple):
            raise _no_episodes(value, file)
        episodes = [room.arrays(episode, f"episode {i}") for i, episode in enumerate(value)]
        trajectories = [_trajectory(episode, f"{file}: episode {i}") for i, episode in enumerate(episodes)]
        has_timeouts = any(flag_kind(name) == TRUNCATED for episode in episodes for name in episode)
        if max_episode_steps is not None:
            if has_timeouts:
                where = f"{file}: max_episode_steps"
                raise RLTransformerError("has no effect: the file has timeouts", where=where, fix="leave it out")
            trajectories = _at_limit(trajectories, max_episode_steps, file)
        return source_of(trajectories, file.name, file, _notes(trajectories, has_timeouts or max_episode_steps))


class _Room:
    """Makes arrays of the values of a file, and counts their bytes: an episode may be in the list a million times."""

    def __init__(self, file: Path) -> None:
        self._file = file
        # Every number of a list takes at least a byte of the file, and eight of an array.
        self._left = 8 * file.stat().st_size

    def arrays(self, values: object, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of a dict by name."""
        if not isinstance(values, dict):
            raise _no_episodes(values, f"{self._file}: {name}")
        return {key: self._array(value, f"{self._file}: {name}: {key}") for key, value in values.items()}

    def _array(self, value: object, where: str) -> np.ndarray:
        """Return an array, a number, or a list of numbers or of arrays of one shape, as an array."""
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, np.ndarray | np.generic | int | float) for item in items):
            kinds = sorted({type(item).__name__ for item in items})
            raise RLTransformerError(f"holds {', '.join(kinds[:5])}, not numbers", where=where, fix=SCRIPT)
        # Counted before np.asarray copies anything.
        self._left -= sum(item.nbytes if isinstance(item, np.ndarray) else 8 for item in items)
        if self._left < 0:
            problem = "builds more bytes than the file holds: the same values are used many times"
            raise RLTransformerError(problem, where=where, fix=SCRIPT)
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError):
            array = np.empty(0, object)
        if array.dtype.kind not in "biuf":
            raise RLTransformerError("is not an array of numbers of one shape", where=where, fix=SCRIPT)
        return array


def _trajectory(episode: dict[str, np.ndarray], where: str) -> Trajectory:
    """Return an episode, with the last of ``next_observations`` as its final observation."""
    following = episode.get(_NEXT)
    rest = {name: values for name, values in episode.items() if name != _NEXT}
    trajectory = Trajectory.from_mapping(rest, where=where)
    if following is None:
        return trajectory
    if following.shape != np.shape(trajectory.observations) or trajectory.final_observation is not None:
        raise RLTransformerError(
            f"next_observations have the shape {following.shape}, and observations {episode['observations'].shape}",
            where=where,
            fix=SCRIPT,
        )
    return replace(trajectory, final_observation=following[-1] if len(following) else None)


def _at_limit(trajectories: list[Trajectory], limit: int, file: Path) -> list[Trajectory]:
    """Return the episodes; those of ``limit`` steps without a terminal are truncated."""
    where = f"{file}: max_episode_steps"
    longest = max((len(t.rewards) for t in trajectories), default=0)
    if limit < max(longest, 1):
        problem = f"is {limit}, and an episode has {longest} steps"
        raise RLTransformerError(problem, where=where, fix="give the limit of the environment, such as 1000")
    return [replace(t, truncated=len(t.rewards) == limit and not t.terminated) for t in trajectories]


def _notes(trajectories: list[Trajectory], is_known: object) -> list[Finding]:
    """Return a finding if nothing says why episodes without a terminal end."""
    count = sum(not t.terminated and not t.truncated for t in trajectories)
    if is_known or not count:
        return []
    problem = (
        f"{count} of {len(trajectories)} episodes have no terminal, and nothing says whether a time limit cut them"
    )
    fix = "append ?max_episode_steps=N with the environment's limit: those of N steps count as truncated"
    return [Finding("warning", "no timeouts", "terminals", problem, fix, 1)]


def _no_episodes(value: object, where: object) -> RLTransformerError:
    problem = f"holds a value of type {type(value).__name__}, not a list of dicts of arrays"
    return RLTransformerError(problem, where=where, fix=SCRIPT)

"""Read D4RL's HDF5 files without the d4rl package and without a simulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.trajectories.checks import Finding
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.readers.interface import ReaderOption, Source
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.trajectory import Trajectory

_REQUIRED = ("observations", "actions", "rewards", "terminals", "timeouts")


class D4RLReader:
    """Reads a D4RL file in its recorded order.

    D4RL's ``terminals`` become ``terminated``, and its ``timeouts`` become ``truncated``. Rows after the last flag
    belong to an episode that was cut off when the recording ended. The code of Chen et al. (2021) drops them; they are
    dropped and reported here, too, unless ``keep_unfinished`` is true.
    """

    usage: ClassVar[str] = "d4rl:FILE.hdf5"
    options: ClassVar[Mapping[str, ReaderOption]] = {
        "keep_unfinished": ReaderOption(False, "Keep the last episode of a file if it has no end.", bool)
    }

    def open(self, path: str, *, keep_unfinished: bool = False) -> Source:
        """Open the file ``path``, which is read into memory as a whole, and split it into episodes.

        Raises:
            RLTransformerError: The file cannot be read, lacks an array, or has no episode end.
        """
        require("h5py", extra=None, purpose="reading a d4rl: URI")
        file = Path(path)
        rows = _read_arrays(file)
        _check_arrays(rows, file)
        terminated = rows["terminals"].astype(bool).reshape(-1)
        truncated = rows["timeouts"].astype(bool).reshape(-1)
        ends, notes = _episode_ends(terminated | truncated, file, keep_unfinished=keep_unfinished)
        observation_space = Space.box(rows["observations"].shape[1:])
        # The file does not contain the spaces. All tasks of D4RL with vectors have actions in [-1, 1].
        action_space = Space.box(rows["actions"].shape[1:], -1, 1)
        spec = DataSpec(observation_space, action_space, file.name)
        return Source(spec, _episodes(rows, terminated, truncated, ends), notes)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the file that are needed."""
    import h5py

    from rl_transformer.trajectories.readers.hdf5 import open_hdf5

    with open_hdf5(path) as file:
        arrays = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        missing = [name for name in _REQUIRED if name not in arrays]
        if missing:
            raise RLTransformerError(
                f"no array named {', '.join(missing)}; the file has {', '.join(sorted(file)) or 'nothing'}",
                where=path,
                fix="name a D4RL file, or use TrajectoryDataset.from_episodes for your own arrays",
            )
        scalars = [name for name in _REQUIRED if not arrays[name].shape]
        if scalars:
            raise RLTransformerError(
                f"{', '.join(scalars)} is a scalar, not an array", where=path, fix="download the file again"
            )
        # Read before the file is closed; episodes are slices of these arrays.
        return {name: arrays[name][:] for name in (*_REQUIRED, "next_observations") if name in arrays}


def _check_arrays(rows: dict[str, np.ndarray], path: Path) -> None:
    """Raise an `RLTransformerError` if lengths, shapes or dtypes are not those of a D4RL file."""
    # `trajectories.checks` works per episode, and the borders of episodes follow from these arrays.
    lengths = {name: len(values) for name, values in rows.items()}
    if len(set(lengths.values())) > 1:
        raise RLTransformerError(f"arrays have unequal lengths: {lengths}", where=path, fix="download the file again")
    if rows["actions"].ndim != 2 or rows["actions"].dtype.kind != "f" or rows["observations"].ndim != 2:
        shapes = {name: f"{rows[name].dtype} {rows[name].shape}" for name in ("observations", "actions")}
        raise RLTransformerError(
            f"not vectors of numbers: {shapes}",
            where=path,
            fix="use TrajectoryDataset.from_episodes, which takes an action space",
        )
    # Some files store (N, 1) instead of (N,), and flags as floats. Both are unambiguous and therefore allowed.
    for name in ("rewards", "terminals", "timeouts"):
        column = rows[name]
        is_flag = name != "rewards"
        is_numeric = column.size == len(column) and column.dtype.kind in "biuf"
        if not is_numeric or (is_flag and not np.isin(column, (0, 1)).all()):
            problem = f"{name} is {column.dtype} {column.shape}" + (", and not only 0 and 1" if is_flag else "")
            raise RLTransformerError(problem, where=path, fix="download the file again")


def _episode_ends(is_end: np.ndarray, path: Path, *, keep_unfinished: bool) -> tuple[np.ndarray, list[Finding]]:
    """Return the row after each episode's last one, and a finding if steps were left out."""
    ends = np.flatnonzero(is_end) + 1
    tail = len(is_end) - (int(ends[-1]) if ends.size else 0)
    # Treating all rows as one episode would give returns-to-go over a million steps, so the user has to decide.
    if not ends.size:
        raise RLTransformerError(
            f"no episode of the {tail} steps ends: terminals and timeouts are never set",
            where=path,
            fix="use a file with episode ends, or cut it yourself and use TrajectoryDataset.from_episodes",
        )
    if tail and keep_unfinished:
        return np.append(ends, len(is_end)), []
    if not tail:
        return ends, []
    problem = f"the last {tail} steps belong to an episode without an end and were left out, as published"
    fix = "append ?keep_unfinished=true to the URI to keep them"
    return ends, [Finding("info", "unfinished tail", "rewards", problem, fix, 1)]


def _episodes(
    rows: dict[str, np.ndarray], terminated: np.ndarray, truncated: np.ndarray, ends: np.ndarray
) -> Iterator[Trajectory]:
    following = rows.get("next_observations")  # only some files have it
    for start, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        yield Trajectory(
            observations=rows["observations"][start:end],
            actions=rows["actions"][start:end],
            rewards=rows["rewards"][start:end].reshape(-1),
            terminated=bool(terminated[end - 1]),
            truncated=bool(truncated[end - 1]),
            final_observation=None if following is None else following[end - 1],
        )

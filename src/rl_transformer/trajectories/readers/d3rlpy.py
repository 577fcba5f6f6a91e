"""Read the files that d3rlpy 2 writes with `ReplayBuffer.dump`, without the d3rlpy package.

Version 2.1 of the layout, from https://github.com/takuseno/d3rlpy, ``d3rlpy/dataset/io.py``: scalars ``version`` and
``num_episodes``, and for every episode i the arrays ``observations_i`` (T, ...), ``actions_i`` (T, A), or (T, 1) integers
for discrete actions, ``rewards_i`` (T, 1), and the scalar ``terminated_i``. Observations of several parts have one array
each, ``observations_i_j``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.readers.interface import ReaderOption, Source
from rl_transformer.trajectories.readers.whole_episodes import source_of
from rl_transformer.trajectories.trajectory import Trajectory

if TYPE_CHECKING:
    import h5py

_COLUMNS = ("observations", "actions", "rewards", "terminated")
_VERSION = "2.1"
_AGAIN = "write it again with ReplayBuffer.dump of d3rlpy 2, or use TrajectoryDataset.from_episodes for your own arrays"


class D3rlpyReader:
    """Reads whole episodes.

    d3rlpy keeps one flag, ``terminated``, and documents that it stays false after a time limit: episodes without it are
    truncated. It does not keep the observation after the last action.
    """

    usage: ClassVar[str] = "d3rlpy:FILE.h5"
    options: ClassVar[Mapping[str, ReaderOption]] = {}

    def open(self, path: str) -> Source:
        """Open the file ``path``, which is read into memory as a whole.

        Raises:
            RLTransformerError: The file cannot be read, has another layout, or observations of several parts.
        """
        require("h5py", extra=None, purpose="reading a d3rlpy: URI")
        import h5py

        from rl_transformer.trajectories.readers.hdf5 import open_hdf5, translate_read_errors

        file = Path(path)
        with open_hdf5(file) as opened, translate_read_errors(file):
            arrays = {name: item for name, item in opened.items() if isinstance(item, h5py.Dataset)}
            trajectories = [_episode(arrays, i, file) for i in range(_num_episodes(arrays, file))]
        return source_of(trajectories, file.name, file, _unread(arrays))


def _num_episodes(arrays: Mapping[str, h5py.Dataset], file: Path) -> int:
    """Return the number of episodes after checking that the file has the layout."""
    for name in ("version", "num_episodes"):
        if name not in arrays or arrays[name].shape != ():
            problem = f"is not a d3rlpy 2 file: it has no {name}; it has {', '.join(sorted(arrays)[:20]) or 'nothing'}"
            raise RLTransformerError(problem, where=file, fix=_AGAIN)
    version = arrays["version"][()]
    version = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    if version != _VERSION:
        problem = f"has version {version:.20} of d3rlpy's layout, and {_VERSION} is read"
        raise RLTransformerError(problem, where=file, fix=_AGAIN)
    count = arrays["num_episodes"][()]
    if not isinstance(count, np.integer):
        raise RLTransformerError(f"num_episodes is of type {type(count).__name__}", where=file, fix=_AGAIN)
    return int(count)


def _episode(arrays: Mapping[str, h5py.Dataset], index: int, file: Path) -> Trajectory:
    """Return an episode with actions (T, A), or (T,) if they are single integers."""
    where = f"{file}: episode {index}"
    if f"observations_{index}_0" in arrays:
        fix = "use TrajectoryDataset.from_episodes with observation_space=gymnasium.spaces.Tuple(...)"
        raise RLTransformerError("has observations of several parts, which are not read", where=where, fix=fix)
    missing = [f"{name}_{index}" for name in _COLUMNS if f"{name}_{index}" not in arrays]
    if missing:
        raise RLTransformerError(f"has no {', '.join(missing)}", where=where, fix=_AGAIN)
    observations, actions, rewards, terminated = (np.asarray(arrays[f"{name}_{index}"][()]) for name in _COLUMNS)
    is_single = actions.ndim == 2 and actions.shape[1] == 1 and actions.dtype.kind in "iu"
    if rewards.ndim not in (1, 2) or rewards.size != len(rewards):
        raise RLTransformerError(f"has rewards of shape {rewards.shape}, not (T, 1)", where=where, fix=_AGAIN)
    values = {
        "observations": observations,
        "actions": actions[:, 0] if is_single else actions,
        "rewards": rewards.reshape(-1),
        "terminated": terminated.reshape(()) if terminated.size == 1 else terminated,
    }
    trajectory = Trajectory.from_mapping(values, where=where)
    if np.shape(trajectory.observations)[:1] != (len(observations),):
        raise RLTransformerError("has an observation more than rewards", where=where, fix=_AGAIN)
    return Trajectory(
        trajectory.observations,
        trajectory.actions,
        trajectory.rewards,
        terminated=trajectory.terminated,
        truncated=not trajectory.terminated,
    )


def _unread(arrays: Mapping[str, h5py.Dataset]) -> list[Finding]:
    """Return a finding about columns of an extended d3rlpy."""
    first = (re.sub(r"_0$", "", name) for name in arrays if name.endswith("_0"))
    further = [name for name in first if name not in _COLUMNS]
    if not further:
        return []
    problem = f"the columns {', '.join(further[:8])} are not those of d3rlpy, and were left out"
    return [Finding("info", "left_out", "episode", problem, "use TrajectoryDataset.from_episodes to keep them", 1)]

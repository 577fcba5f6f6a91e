"""D4RL's HDF5 files, read as files: no d4rl, no simulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.checks import Finding
from rl_transformer.trajectories.readers.hdf5 import open_hdf5
from rl_transformer.trajectories.spaces import DataSpec, Space
from rl_transformer.trajectories.trajectory import Trajectory

_REQUIRED = ("observations", "actions", "rewards", "terminals", "timeouts")


def read_d4rl(path: Path, *, keep_unfinished: bool = False) -> tuple[DataSpec, Iterator[Trajectory], list[Finding]]:
    """Return the spaces, the trajectories in recorded order, and notes on what was left out.

    D4RL's ``terminals`` become ``terminated``, its ``timeouts`` become ``truncated``. Rows after
    the last flag belong to an episode that the recording cut short; the paper's code drops them, so
    they are dropped here, counted and reported, unless ``keep_unfinished``.
    """
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
            raise RLTransformerError(f"{', '.join(scalars)} is one number", where=path, fix="download the file again")
        rows = {name: arrays[name][:] for name in (*_REQUIRED, "next_observations") if name in arrays}
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
    for name in ("rewards", "terminals", "timeouts"):
        flags = rows[name]
        if (
            flags.size != len(flags)
            or flags.dtype.kind not in "biuf"
            or (name != "rewards" and not np.isin(flags, (0, 1)).all())
        ):
            problem = f"{name} is {flags.dtype} {flags.shape}" + ("" if name == "rewards" else ", and not only 0 and 1")
            raise RLTransformerError(problem, where=path, fix="download the file again")
    terminated, truncated = rows["terminals"].astype(bool).reshape(-1), rows["timeouts"].astype(bool).reshape(-1)
    ends = np.flatnonzero(terminated | truncated) + 1
    tail = lengths["rewards"] - (int(ends[-1]) if ends.size else 0)
    if not ends.size:
        raise RLTransformerError(
            f"no episode of the {tail} steps ends: terminals and timeouts are never set",
            where=path,
            fix="use a file with episode ends, or cut it yourself and use TrajectoryDataset.from_episodes",
        )
    notes = []
    if tail and keep_unfinished:
        ends = np.append(ends, lengths["rewards"])
    elif tail:
        problem = f"the last {tail} steps belong to an episode without an end and were left out, as published"
        notes.append(
            Finding("info", "unfinished tail", "rewards", problem, "set dataset.keep_unfinished to keep them", 1)
        )
    spec = DataSpec(Space.box(rows["observations"].shape[1:]), Space.box(rows["actions"].shape[1:], -1, 1), path.name)
    return spec, _episodes(rows, terminated, truncated, ends), notes


def _episodes(
    rows: dict[str, np.ndarray], terminated: np.ndarray, truncated: np.ndarray, ends: np.ndarray
) -> Iterator[Trajectory]:
    following = rows.get("next_observations")
    for start, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        yield Trajectory(
            observations=rows["observations"][start:end],
            actions=rows["actions"][start:end],
            rewards=rows["rewards"][start:end].reshape(-1),
            terminated=bool(terminated[end - 1]),
            truncated=bool(truncated[end - 1]),
            final_observation=None if following is None else following[end - 1],
        )

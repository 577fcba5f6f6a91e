"""Read D4RL's HDF5 files without the d4rl package and without a simulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.runtime.memory import refuse_beyond_memory
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.end_flags import (
    DONE,
    FIRST,
    TERMINATED,
    TRUNCATED,
    end_marks,
    flag_kind,
    is_ambiguous,
    is_flag,
)
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.readers.interface import ReaderOption, Source
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.trajectory import Trajectory

if TYPE_CHECKING:
    import h5py

_REQUIRED = ("observations", "actions", "rewards")


class D4RLReader:
    """Reads a D4RL file in its recorded order.

    D4RL's ``terminals`` become ``terminated``, and its ``timeouts`` become ``truncated``; other names of these flags
    are known, too, see `end_flags`. Rows after the last flag belong to an episode that was cut off when the recording
    ended. The code of Chen et al. (2021) drops them; they are dropped and reported here, too, unless
    ``keep_unfinished`` is true.
    """

    usage: ClassVar[str] = "d4rl:FILE.hdf5"
    options: ClassVar[Mapping[str, ReaderOption]] = {
        "keep_unfinished": ReaderOption(False, "Keep the last episode of a file if it has no end.", bool),
        "max_episode_steps": ReaderOption(None, "End episodes after this many steps, in a file without timeouts.", int),
    }

    def open(self, path: str, *, keep_unfinished: bool = False, max_episode_steps: int | None = None) -> Source:
        """Open the file ``path``, which is read into memory as a whole, and split it into episodes.

        Raises:
            RLTransformerError: The file cannot be read, lacks an array, or has no episode end.
        """
        require("h5py", extra=None, purpose="reading a d4rl: URI")
        import h5py

        from rl_transformer.trajectories.readers.hdf5 import open_hdf5, translate_read_errors

        file = Path(path)
        with open_hdf5(file) as opened, translate_read_errors(file):
            arrays = {name: item for name, item in opened.items() if isinstance(item, h5py.Dataset)}
            rows, flags = needed_arrays(arrays, file)
        return split_steps(rows, flags, file, keep_unfinished=keep_unfinished, max_episode_steps=max_episode_steps)


def split_steps(
    rows: dict[str, np.ndarray],
    flags: dict[str, np.ndarray],
    file: Path,
    *,
    keep_unfinished: bool,
    max_episode_steps: int | None,
) -> Source:
    """Return the episodes of the arrays and flags that `needed_arrays` returned; see `D4RLReader`.

    Raises:
        RLTransformerError: The arrays do not fit together, or no episode ends.
    """
    _check_arrays(rows, flags, file)
    terminated, truncated, notes = _ends(flags, max_episode_steps, file)
    ends, tail_notes = _episode_ends(terminated | truncated, file, keep_unfinished=keep_unfinished)
    observation_space = Space.box(rows["observations"].shape[1:])
    # The file does not contain the spaces. All tasks of D4RL with vectors have actions in [-1, 1].
    action_space = Space.box(rows["actions"].shape[1:], -1, 1)
    spec = DataSpec(observation_space, action_space, file.name)
    return Source(spec, _episodes(rows, terminated, truncated, ends), [*notes, *tail_notes])


def needed_arrays(
    arrays: Mapping[str, h5py.Dataset | np.ndarray], path: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the arrays of a file that are needed, and its flags of episode ends, each with a row per step.

    Raises:
        RLTransformerError: One is missing, or a scalar.
    """
    flags = _flag_names(arrays)
    missing = [name for name in _REQUIRED if name not in arrays]
    if not flags:
        missing.append("terminals")
    if missing:
        fix = "name a D4RL file, or use TrajectoryDataset.from_episodes for your own arrays"
        if "num_episodes" in arrays:
            fix = f"if d3rlpy wrote it, open it as d3rlpy:{path}"
        raise RLTransformerError(
            f"no array named {', '.join(missing)}; the file has {', '.join(sorted(arrays)) or 'nothing'}",
            where=path,
            fix=fix,
        )
    scalars = [name for name in (*_REQUIRED, *flags) if not arrays[name].shape]
    if scalars:
        raise RLTransformerError(
            f"{', '.join(scalars)} is a scalar, not an array", where=path, fix="download the file again"
        )
    names = [name for name in (*_REQUIRED, "next_observations") if name in arrays]
    num_bytes = sum(arrays[name].nbytes for name in (*names, *flags))
    refuse_beyond_memory(
        num_bytes, "its arrays", where=path, fix="use a machine with more memory, or a part of the data"
    )
    # Read before the file is closed; episodes are slices of these arrays.
    rows = {name: arrays[name][:] for name in names}
    return rows, {name: end_marks(name, arrays[name][:]) for name in flags}


def _flag_names(arrays: Mapping[str, h5py.Dataset | np.ndarray]) -> list[str]:
    """Return the names of the flags of episode ends in a file."""
    flags = [name for name in arrays if flag_kind(name) in (TERMINATED, TRUNCATED, DONE) and not is_ambiguous(name)]
    # A name that can mean something else counts only where no other name gives the same flag.
    kinds = {flag_kind(name) for name in flags}
    steps = arrays["rewards"].shape[:1] if "rewards" in arrays else ()
    for name in arrays:
        is_candidate = is_ambiguous(name) and flag_kind(name) not in (*kinds, FIRST)
        if is_candidate and steps and arrays[name].shape in (steps, (*steps, 1)) and is_flag(name, arrays[name][:]):
            flags.append(name)
    return flags


def _ends(
    flags: dict[str, np.ndarray], max_episode_steps: int | None, path: Path
) -> tuple[np.ndarray, np.ndarray, list[Finding]]:
    """Return where episodes terminated and were truncated, one bool per row, and a finding if timeouts are missing."""
    kinds = {flag_kind(name) for name in flags}
    columns = {name: column.astype(bool).reshape(-1) for name, column in flags.items()}
    size = len(next(iter(columns.values())))
    seen = {}
    for kind in (TERMINATED, TRUNCATED, DONE):
        named = [column for name, column in columns.items() if flag_kind(name) == kind]
        seen[kind] = np.logical_or.reduce(named) if named else np.zeros(size, bool)
    terminated = seen[TERMINATED]
    truncated = seen[TRUNCATED]
    # "done" says the same as the flags beside it, or stands for the one that is missing.
    if TERMINATED not in kinds:
        terminated = seen[DONE] & ~truncated
    elif TRUNCATED not in kinds:
        truncated = seen[DONE] & ~terminated
    if max_episode_steps is not None:
        where = f"{path}: max_episode_steps"
        if TRUNCATED in kinds:
            raise RLTransformerError("has no effect: the file has timeouts", where=where, fix="leave it out")
        if max_episode_steps < 1:
            raise RLTransformerError(f"is {max_episode_steps}", where=where, fix="give 1 step or more")
        return terminated, _at_limit(terminated | truncated, max_episode_steps) & ~terminated, []
    if TRUNCATED in kinds or (truncated & ~terminated).any():
        return terminated, truncated, []
    problem = "are missing: an episode that a time limit ended is joined with the next one"
    fix = "append ?max_episode_steps=N with the environment's limit, unless all episodes end by a terminal"
    return terminated, truncated, [Finding("warning", "no timeouts", "timeouts", problem, fix, 1)]


def _at_limit(is_end: np.ndarray, limit: int) -> np.ndarray:
    """Return True at every ``limit``-th step of an episode, counted anew after each end."""
    cut = np.zeros(len(is_end), bool)
    start = 0
    for end in [*(np.flatnonzero(is_end) + 1).tolist(), len(is_end)]:
        cut[start + limit - 1 : end : limit] = True
        start = end
    return cut


def _check_arrays(rows: dict[str, np.ndarray], flags: dict[str, np.ndarray], path: Path) -> None:
    """Raise an `RLTransformerError` if lengths, shapes or dtypes are not those of a D4RL file."""
    # `trajectories.checks` works per episode, and the borders of episodes follow from these arrays.
    lengths = {name: len(values) for name, values in {**rows, **flags}.items()}
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
    for name, column in {"rewards": rows["rewards"], **flags}.items():
        is_flag = name in flags
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
            f"no episode of the {tail} steps ends: terminals and timeouts are never set, or missing",
            where=path,
            fix="use a file with episode ends, append ?max_episode_steps=N if it has no timeouts, or cut it yourself and "
            "use TrajectoryDataset.from_episodes",
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

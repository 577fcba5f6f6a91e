"""Write games as replay buffers in Dopamine's layout, which `dqn-replay:FOLDER` and other libraries read."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import log
from rl_transformer.runtime.files import write_folder
from rl_transformer.runtime.paths import user_path
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.trajectory import Trajectory

BUFFER_STEPS = 1_000_000
"""Steps of a buffer, as Dopamine writes them; a buffer here ends with the game in which it reaches them."""
_MOST_ACTIONS = 18
_DTYPES = {"observation": np.uint8, "action": np.int32, "reward": np.float32, "terminal": np.uint8}


def write_replay(
    folder: str | Path, spec: DataSpec, trajectories: Iterable[Trajectory], *, buffer_steps: int = BUFFER_STEPS
) -> str:
    """Write games as ``$store$_COLUMN_ckpt.N.gz`` files, with one game in memory at a time, and return their URI.

    The layout holds less than a store. Rewards are clipped to [-1, 1], as Dopamine does; every game ends in a terminal
    flag, also one that was cut off; and the frame after a game's last action is left out. Notes count the first two.

    Args:
        folder: Folder to write; it must be empty or absent.
        spec: Spaces of the data: gray frames, and one button of at most 18.
        trajectories: The games; read once.
        buffer_steps: Steps after which the next buffer begins.

    Raises:
        RLTransformerError: The folder is not empty, there is no game, or the data is not of an Atari game's kind.
    """
    folder = user_path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fix = "name another folder, or remove this one"
        raise RLTransformerError("exists already and is not empty", where=folder, fix=fix)
    _check_spec(spec)
    counts = {"clipped": 0, "cut off": 0, "games": 0}

    def fill(temporary: Path) -> None:
        """Write all buffers."""
        number = 0
        steps = 0
        writer: _BufferWriter | None = None
        for trajectory in trajectories:
            if writer is None:
                writer = _BufferWriter(temporary, number)
            writer.append(trajectory)
            counts["clipped"] += int((np.abs(trajectory.rewards) > 1).sum())
            counts["games"] += 1
            counts["cut off"] += int(not trajectory.terminated)
            steps += len(trajectory.rewards)
            if steps >= buffer_steps:
                writer.close()
                writer = None
                steps = 0
                number += 1
        if writer is not None:
            writer.close()
        elif not number:
            fix = "give at least one episode"
            raise RLTransformerError("holds no episode", where=spec.source or folder, fix=fix)

    if folder.exists():
        folder.rmdir()  # fails if something was put into it since the check above
    write_folder(folder, fill)
    if counts["clipped"]:
        log.info(f"note: {counts['clipped']} rewards were clipped to [-1, 1], as Dopamine does")
    if counts["cut off"]:
        log.info(
            f"note: {counts['cut off']} of {counts['games']} games were cut off; the layout stores them like games that ended"
        )
    game = (spec.env_id or "").removeprefix("ALE/").partition("-")[0]
    return f"dqn-replay:{folder}?game={game}" if (spec.env_id or "").startswith("ALE/") else f"dqn-replay:{folder}"


def _check_spec(spec: DataSpec) -> None:
    """Raise an error for data that the layout cannot hold."""
    image = spec.observation_space.image_shape
    if image is None or image[0] != 1:
        found = f"pictures of shape {image}" if image else "no pictures"
        problem = f"has {found}, and replay buffers hold one gray frame per step"
        raise RLTransformerError(problem, where=spec.source or "data", fix="write a store, or record gray frames")
    actions = spec.action_space
    if actions.kind != "discrete" or actions.start != 0 or actions.flat_dim > _MOST_ACTIONS:
        problem = f"has the actions {actions}, and replay buffers hold one button of at most {_MOST_ACTIONS}"
        raise RLTransformerError(problem, where=spec.source or "data", fix="write a store")


class _BufferWriter:
    """Writes the columns of one buffer while the games arrive."""

    def __init__(self, folder: Path, number: int) -> None:
        self._paths = {name: folder / f"$store$_{name}_ckpt.{number}.gz" for name in _DTYPES}
        # Open until `close`, while the games arrive.
        self._bodies = {name: gzip.GzipFile(_body(path), "wb", compresslevel=1) for name, path in self._paths.items()}
        self._length = 0
        self._frame: tuple[int, ...] = ()

    def append(self, trajectory: Trajectory) -> None:
        """Append a game."""
        length = len(trajectory.rewards)
        frames = np.asarray(trajectory.observations)[:length]
        frames = frames.reshape(length, *frames.shape[-2:])  # without the axis of the one channel
        terminal = np.zeros(length)
        terminal[-1] = 1
        columns = {
            "observation": frames,
            "action": trajectory.actions,
            "reward": np.clip(trajectory.rewards, -1, 1),
            "terminal": terminal,
        }
        for name, values in columns.items():
            self._bodies[name].write(np.ascontiguousarray(values, dtype=_DTYPES[name]).tobytes())
        self._length += length
        self._frame = frames.shape[1:]

    def close(self) -> None:
        """Finish the files: the header of an array says its length, which is known only now."""
        for name, path in self._paths.items():
            self._bodies[name].close()
            shape = (self._length, *self._frame) if name == "observation" else (self._length,)
            header = {"descr": npy.dtype_to_descr(np.dtype(_DTYPES[name])), "fortran_order": False, "shape": shape}
            with gzip.open(path, "wb") as file:
                npy.write_array_header_1_0(file, header)
            # A gzip file may consist of several parts one after the other; readers see their contents as one.
            with path.open("ab") as whole, _body(path).open("rb") as body:
                shutil.copyfileobj(body, whole)
            _body(path).unlink()


def _body(path: Path) -> Path:
    return path.with_suffix(".body")

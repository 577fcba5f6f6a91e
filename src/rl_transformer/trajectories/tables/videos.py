"""Columns of tables that stand for frames of video files: rows hold where a frame is, and it is decoded last.

Frames would make the rows that are sorted and joined a thousand times as large. A row therefore holds three numbers: the
chunk, the file in it, and the seconds since the beginning of that file.

Shapes: T steps of an episode, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.runtime.child import check_in_child
from rl_transformer.runtime.paths import below
from rl_transformer.trajectories.blocks import EpisodeBlock

_KEY = b"rl_transformer.video"
_PLACE = pa.list_(pa.float64(), 3)
# That of LeRobot: clocks of frames and of rows agree better, unless something went wrong while recording.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class VideoColumn:
    """Says in which files the frames of a column are."""

    root: str
    """Folder of the recording."""
    key: str
    """Name of the column, and of the folder of its files."""
    shape: tuple[int, int, int]
    """Height, width and 3."""

    def field(self) -> pa.Field:
        """Return the field of the column in a table's schema."""
        content = {"root": self.root, "key": self.key, "shape": list(self.shape)}
        return pa.field(self.key, _PLACE, metadata={_KEY: json.dumps(content).encode()})

    def frames(self, places: np.ndarray) -> np.ndarray:
        """Return the frames (T, H, W, 3) uint8 at some places (T, 3).

        Raises:
            RLTransformerError: There is no such frame, or a file is damaged.
        """
        # FFmpeg is loaded where frames are needed only.
        from rl_transformer.runtime.video_file import frames_at

        result = np.empty((len(places), *self.shape), np.uint8)
        for chunk, file in np.unique(places[:, :2], axis=0).astype(int):
            rows = np.flatnonzero((places[:, :2] == (chunk, file)).all(axis=1))
            rows = rows[np.argsort(places[rows, 2], kind="stable")]
            path = below(Path(self.root), f"videos/{self.key}/chunk-{chunk:03d}/file-{file:03d}.mp4")
            check_in_child(path, "rl_transformer.runtime.video_file:check")
            result[rows] = frames_at(path, places[rows, 2], self.shape, _TOLERANCE)
        return result


def place_column(chunk: np.ndarray, file: np.ndarray, seconds: np.ndarray) -> pa.Array:
    """Return the values of such a column; NaN where a frame has no place."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.stack([chunk, file, seconds], axis=1).reshape(-1)), 3)


def video_columns(schema: pa.Schema, names: list[str], *, where: str) -> dict[str, VideoColumn]:
    """Return those of some columns of a table that stand for frames.

    Raises:
        RLTransformerError: There is one, and nothing installed decodes videos.
    """
    found = {}
    for name in names:
        content = (schema.field(name).metadata or {}).get(_KEY)
        if content is not None:
            values = json.loads(content)
            found[name] = VideoColumn(values["root"], values["key"], tuple(values["shape"]))
    if found:
        try:
            require("av", extra="video", purpose=f"decoding the video {', '.join(found)}")
        except RLTransformerError as error:
            others = [name for name in names if name not in found]
            fix = f"{error.fix}; or leave the videos out: --observe {' '.join(others) or 'COLUMN'}, with all other columns"
            raise RLTransformerError(error.problem, where=where, fix=fix) from None
    return found


def with_frames(block: EpisodeBlock, videos: Mapping[str, VideoColumn]) -> Iterator[EpisodeBlock]:
    """Yield the episodes of a block one by one, with frames in place of where they are; the block where there are none."""
    if not videos:
        yield block
        return
    for index, episode in enumerate(block):
        observations = episode.observations
        if not isinstance(observations, dict):
            raise TypeError("observations with videos are dicts")
        frames = {name: video.frames(np.asarray(observations[name])) for name, video in videos.items()}
        rows = replace(episode, observations={**observations, **frames})
        one = slice(index, index + 1)
        yield EpisodeBlock(rows, np.array([0, len(rows.rewards)]), block.terminated[one], block.truncated[one])

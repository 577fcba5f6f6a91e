"""Read LeRobot's recordings (version 3): Parquet files with a row per step, and videos in which episodes follow one another.

The layout is that of `lerobot.datasets` 0.4: ``meta/info.json`` lists the features, ``meta/episodes`` says in which file of each
video an episode lies and from which second on, and the time of a row counts from the beginning of its episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.reading import read_json
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.readers.tables import TableReader, open_table_files, refuse_types
from rl_transformer.trajectories.tables.locations import local_path
from rl_transformer.trajectories.tables.mapping import ColumnMapping

if TYPE_CHECKING:
    import pyarrow as pa

    from rl_transformer.trajectories.tables.inputs import TableInput, Unit
    from rl_transformer.trajectories.tables.videos import VideoColumn

_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODE, _TIME = "episode_index", "timestamp"


class LeRobotReader(TableReader):
    """Reads LeRobot's recordings (version 3); the frames of videos are decoded with the extra ``video``."""

    scheme: ClassVar[str] = "lerobot"
    usage: ClassVar[str] = "lerobot:FOLDER"

    def table(self, path: str, types: Mapping[str, str]) -> TableInput:
        """Open the recording's data files, with a column for each video."""
        where = f"{self.scheme}:{path}"
        refuse_types(types, where)
        root = local_path(path, where)
        if not (root / "data").is_dir() or not (root / "meta" / "info.json").is_file():
            fix = "name the folder of a recording, with meta/info.json and data/"
            raise RLTransformerError("is no LeRobot recording", where=where, fix=fix)
        rows = open_table_files(str(root / "data"), "parquet", where=where)
        info = read_json(root / "meta" / "info.json", fix="copy the recording again")
        videos = _videos(info, root.resolve(), where)
        return _with_videos(rows, videos, root, where) if videos else rows

    def default_mapping(self, table: TableInput) -> ColumnMapping | None:
        """Return the mapping of LeRobot's own names."""
        names = table.schema.names
        if "action" not in names or _EPISODE not in names:
            return None
        observed = [name for name in names if name.startswith("observation.")]
        optional = {"reward": "next.reward", "terminated": "next.done"}
        values = {part: name for part, name in optional.items() if name in names}
        return ColumnMapping.from_values(
            {"episode": _EPISODE, "order": "frame_index", "observe": observed, "action": "action", **values},
            where=table.where,
        )


def _videos(info: JsonObject, root: Path, where: str) -> list[VideoColumn]:
    """Return the videos of a recording.

    Raises:
        RLTransformerError: Their files have other names than in version 3, or no size.
    """
    from rl_transformer.trajectories.tables.videos import VideoColumn

    features = info.get("features", {})
    names = [name for name, feature in features.items() if feature.get("dtype") == "video"]
    if names and (info.get("video_path") != _VIDEO_PATH or not str(info.get("codebase_version")).startswith("v3.")):
        problem = (
            f"has videos in the layout of version {info.get('codebase_version')!r:.20}, and only version 3 is read"
        )
        fix = "convert it with lerobot's lerobot.datasets.v30.convert_dataset_v21_to_v30"
        raise RLTransformerError(problem, where=where, fix=fix)
    return [VideoColumn(str(root), name, _picture_shape(features[name], f"{where}: {name}")) for name in names]


def _picture_shape(feature: JsonObject, where: str) -> tuple[int, int, int]:
    """Return height, width and 3 of a video's frames, which are decoded as RGB whatever its own colors are."""
    shape, names = feature.get("shape"), feature.get("names")
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)):
        raise RLTransformerError(f"has the shape {shape!r:.50}", where=where, fix="give height, width and channels")
    # Recordings of both orders exist; their names say which it is.
    is_channels_first = isinstance(names, list) and names[:1] in (["channels"], ["channel"])
    height, width = shape[1:] if is_channels_first else shape[:2]
    return height, width, 3


@dataclass(frozen=True)
class _Places:
    """Says of each episode where its frames are."""

    videos: dict[str, VideoColumn]
    starts: dict[str, np.ndarray]
    """(E, 3) chunk, file, and second in it, by video; NaN for episodes of which nothing is known."""

    def column(self, name: str, episode: np.ndarray, seconds: np.ndarray) -> pa.Array:
        """Return the places of the frames of some rows."""
        from rl_transformer.trajectories.tables.videos import place_column

        starts = self.starts[name]
        known = (episode >= 0) & (episode < len(starts))
        rows = np.where(known[:, None], starts[np.where(known, episode, 0)], np.nan)
        return place_column(rows[:, 0], rows[:, 1], rows[:, 2] + seconds)


@dataclass(frozen=True)
class _UnitWithVideos:
    """A piece of the data files, to which columns for videos are added."""

    unit: Unit
    places: _Places

    @property
    def name(self) -> str:
        """The piece's own name."""
        return self.unit.name

    @property
    def num_bytes(self) -> int:
        """Bytes of the piece, without the videos."""
        return getattr(self.unit, "num_bytes", 0)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns."""
        import pyarrow as pa

        videos = [name for name in columns if name in self.places.videos]
        if not videos:
            yield from self.unit.batches(columns)
            return
        others = [name for name in columns if name not in videos]
        for batch in self.unit.batches(list(dict.fromkeys([*others, _EPISODE, _TIME]))):
            episode = batch[_EPISODE].to_numpy(zero_copy_only=False).astype(np.int64)
            seconds = batch[_TIME].to_numpy(zero_copy_only=False).astype(np.float64)
            made = {name: self.places.column(name, episode, seconds) for name in videos}
            fields = [self.places.videos[n].field() if n in made else batch.schema.field(n) for n in columns]
            arrays = [made[n] if n in made else batch[n] for n in columns]
            yield pa.record_batch(arrays, schema=pa.schema(fields))


def _with_videos(rows: TableInput, videos: list[VideoColumn], root: Path, where: str) -> TableInput:
    """Return the table with a column for each video."""
    import pyarrow as pa

    from rl_transformer.trajectories.tables.inputs import TableInput

    missing = [name for name in (_EPISODE, _TIME) if name not in rows.schema.names]
    if missing:
        problem = f"has videos, and no column {missing[0]}, without which their frames are not found"
        raise RLTransformerError(problem, where=where, fix="copy the recording again")
    places = _Places({video.key: video for video in videos}, _starts(root, [video.key for video in videos], where))
    schema = pa.schema([*rows.schema, *(video.field() for video in videos)])
    return TableInput(schema, [_UnitWithVideos(unit, places) for unit in rows.units], where)


def _starts(root: Path, names: list[str], where: str) -> dict[str, np.ndarray]:
    """Return chunk, file and second (E, 3) at which each episode begins in each video.

    Raises:
        RLTransformerError: meta/episodes does not say.
    """
    folder = root / "meta" / "episodes"
    if not folder.is_dir():
        problem = "has videos, and no meta/episodes, which says where in them an episode is"
        raise RLTransformerError(problem, where=where, fix="copy the recording again")
    episodes = open_table_files(str(folder), "parquet", where=str(folder))
    parts = {
        name: [f"videos/{name}/{part}" for part in ("chunk_index", "file_index", "from_timestamp")] for name in names
    }
    needed = [_EPISODE, *(column for columns in parts.values() for column in columns)]
    absent = [column for column in needed if column not in episodes.schema.names]
    if absent:
        raise RLTransformerError(f"has no column {absent[0]!r}", where=folder, fix="copy the recording again")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in needed}
    for batch in episodes.batches(needed):
        for name in needed:
            columns[name].append(batch[name].to_numpy(zero_copy_only=False).astype(np.float64))
    values = {name: np.concatenate(found or [np.zeros(0)]) for name, found in columns.items()}
    index = values[_EPISODE].astype(np.int64)
    if not np.array_equal(np.sort(index), np.arange(len(index))):
        raise RLTransformerError("does not list every episode once", where=folder, fix="copy the recording again")
    starts = {}
    for name, sources in parts.items():
        starts[name] = np.full((len(index), 3), np.nan)
        starts[name][index] = np.stack([values[source] for source in sources], axis=1)
    return starts

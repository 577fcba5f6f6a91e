"""Open arrays and saved Hugging Face datasets as tables; rows that hold a whole episode become rows of steps."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.limits import LIMITS
from rl_transformer.runtime.memory import refuse_beyond_memory
from rl_transformer.runtime.paths import refuse_special_file
from rl_transformer.trajectories.tables.arrow import pc
from rl_transformer.trajectories.tables.files import TableFiles
from rl_transformer.trajectories.tables.inputs import FileUnit, TableInput, file_name, memory_input


def read_arrays(path: Path, *, where: str) -> TableInput:
    """Return the arrays of a .npz file as a table: one row per step, two-dimensional arrays as lists.

    Raises:
        RLTransformerError: There is no such file, it is damaged, or its arrays are not numbers or texts of one length.
    """
    if not path.is_file():
        raise RLTransformerError("there is no such file", where=where, fix="name a .npz file")
    refuse_special_file(path)
    try:
        with np.load(path, allow_pickle=False, max_header_size=LIMITS["npy_header_bytes"].most) as file:
            # A zip file's own sizes are those that are read at most.
            num_bytes = sum(member.file_size for member in file.zip.infolist())
            refuse_beyond_memory(num_bytes, "its arrays", where=where, fix="write it in several files of fewer steps")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, SyntaxError, TypeError, MemoryError) as error:
        problem = f"cannot be read: {' '.join(str(error).split())[:200]}"
        raise RLTransformerError(problem, where=where, fix="write it again with numpy.savez") from None
    wide = [name for name, array in arrays.items() if array.ndim not in (1, 2)]
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim}
    if wide or len(set(lengths.values())) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:20])
        raise RLTransformerError(
            f"the arrays are not those of a table, with a row per step each: {shapes or 'there are none'}",
            where=where,
            fix="give every array one number or one vector per step; for pictures use TrajectoryDataset.from_episodes",
        )
    return memory_input(arrays, where=where, name=file_name(path))


def open_saved_dataset(folder: Path, *, where: str) -> TableInput:
    """Open a folder that ``Dataset.save_to_disk`` wrote, without the library that wrote it.

    Raises:
        RLTransformerError: There is no such folder, or it holds several splits.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        fix = f"name one: {where}/{splits[0]}" if splits else "save it again"
        raise RLTransformerError(f"holds the splits {', '.join(splits) or 'of nothing'}", where=where, fix=fix)
    files = sorted(folder.glob("*.arrow"))
    if not files:
        fix = "save it with dataset.save_to_disk(FOLDER), and name that folder"
        raise RLTransformerError("holds no saved dataset", where=where, fix=fix)
    for path in files:
        refuse_special_file(path)
    request = {"format": "stream", "files": [str(path) for path in files]}
    unit = FileUnit(TableFiles(request, where=where), 0)
    schema = unit.files.schema
    if not _holds_episodes(schema):
        return TableInput(schema, [unit], where)
    return TableInput(steps_of(schema.empty_table(), where=where).schema, [EpisodeRows(unit, where)], where)


@dataclass(frozen=True)
class EpisodeRows:
    """A piece of a table whose rows are whole episodes, read as one whose rows are steps."""

    unit: FileUnit
    where: str

    @property
    def name(self) -> str:
        """The files, and what shows that they were changed."""
        return self.unit.name

    @property
    def num_bytes(self) -> int:
        """Bytes of the files."""
        return self.unit.num_bytes

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the steps of some columns.

        Raises:
            RLTransformerError: Lists of one row have different lengths, or a file is damaged.
        """
        read = {"observations", *columns} & set(_lists(self.unit.files.schema))
        first = 0
        for batch in self.unit.batches([name for name in self.unit.files.schema.names if name in read]):
            steps = steps_of(pa.Table.from_batches([batch]), where=self.where, first=first)
            first += len(batch)
            yield from steps.select(list(columns)).to_batches(max_chunksize=1 << 17)


def _holds_episodes(schema: pa.Schema) -> bool:
    """Return True if rows are whole episodes, and not steps."""
    names = schema.names
    if "observations" not in names or not _is_list(schema.field("observations").type):
        return False
    # A vector per step is a list as well, but not a list of lists; with rewards as numbers, rows are steps.
    if "rewards" in names:
        return _is_list(schema.field("rewards").type)
    return _is_list(schema.field("observations").type.value_type)


def steps_of(table: pa.Table, *, where: str, first: int = 0) -> pa.Table:
    """Return a table whose rows hold whole episodes as a table of steps, with an ``episode`` column that counts from ``first``.

    Raises:
        RLTransformerError: Lists of one row have different lengths.
    """
    names = _lists(table.schema)
    lengths = {name: pc.list_value_length(table[name]).to_numpy() for name in names}
    for name, found in lengths.items():
        different = np.flatnonzero(found != lengths["observations"])
        if different.size:
            row = different[0]
            problem = (
                f"has {found[row]} steps in row {first + row}, and observations have {lengths['observations'][row]}"
            )
            raise RLTransformerError(problem, where=f"{where}: {name}", fix="give every list of an episode one length")
    columns = {name: pc.list_flatten(table[name]) for name in names}
    episode = np.repeat(np.arange(first, first + len(table)), lengths["observations"])
    return pa.table({"episode": pa.array(episode), **columns})


def _lists(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_list(field.type)]


def _is_list(kind: pa.DataType) -> bool:
    return pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)

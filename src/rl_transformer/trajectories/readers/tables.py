"""Read tables whose rows are steps: Parquet, CSV, JSON lines and Hugging Face datasets; LeRobot's are in `lerobot`.

What the columns are is said by a mapping, a YAML file; see `tables.mapping`. Formats whose columns have fixed names
bring one along.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.end_flags import DONE, TERMINATED, TRUNCATED, flag_kind, is_ambiguous
from rl_transformer.trajectories.readers.interface import ReaderOption, Source
from rl_transformer.trajectories.tables.files import open_files
from rl_transformer.trajectories.tables.locations import local_path
from rl_transformer.trajectories.tables.mapping import ColumnMapping

if TYPE_CHECKING:
    from rl_transformer.trajectories.tables.inputs import TableInput

MAPPING_OPTION = ReaderOption("", "YAML file that says which column is what; rlt convert DATA --suggest prints one.")


class TableReader(ABC):
    """Opens a table as episodes; a subclass opens the files of one format."""

    scheme: ClassVar[str]
    options: ClassVar[Mapping[str, ReaderOption]] = {"mapping": MAPPING_OPTION}

    @abstractmethod
    def table(self, path: str, types: Mapping[str, str]) -> TableInput:
        """Open the table at ``path``; ``types`` overrides the types of columns of text files."""

    def default_mapping(self, table: TableInput) -> ColumnMapping | None:
        """Return the mapping of a table with names that this format fixes, or with the field's usual ones; else None."""
        return usual_mapping(table.schema.names, where=table.where)

    def open(self, path: str, *, mapping: str = "") -> Source:
        """Open the table at ``path`` with the mapping in a file.

        Raises:
            RLTransformerError: There is no such table, or the mapping does not fit it.
        """
        from rl_transformer.trajectories.tables.convert import open_table

        given = ColumnMapping.from_file(mapping) if mapping else None
        table = self.table(path, given.types if given else {})
        chosen = given or self.default_mapping(table)
        if chosen is None:
            raise no_mapping(f"{self.scheme}:{path}", table.schema.names)
        spec, episodes = open_table(table, chosen, source=Path(path).name or path)
        return Source(spec, iter(episodes.blocks("training")), episodes.notes)


def no_mapping(uri: str, names: list[str]) -> RLTransformerError:
    """Return the error for a table without a mapping."""
    return RLTransformerError(
        f"is a table, and nothing says which of its columns is what; they are {', '.join(names[:40])}",
        where=uri,
        fix=f"rlt convert '{uri}' --suggest prints a first mapping; edit it, and append ?mapping=FILE.yaml",
    )


class TypedFilesReader(TableReader):
    """Opens files whose columns have types of their own."""

    file_format: ClassVar[str]
    """Name of the format in `pyarrow.dataset`."""

    def table(self, path: str, types: Mapping[str, str]) -> TableInput:
        """Open the files."""
        refuse_types(types, f"{self.scheme}:{path}")
        return open_table_files(path, self.file_format, where=f"{self.scheme}:{path}")


class ParquetReader(TypedFilesReader):
    """Reads Parquet: a file, a glob, or a folder, also with Hive's ``name=value`` folders."""

    scheme: ClassVar[str] = "parquet"
    usage: ClassVar[str] = "parquet:FILES"
    file_format: ClassVar[str] = "parquet"


class JsonLinesReader(TypedFilesReader):
    """Reads JSON lines: one object per row."""

    scheme: ClassVar[str] = "jsonl"
    usage: ClassVar[str] = "jsonl:FILES"
    file_format: ClassVar[str] = "json"


class CsvReader(TableReader):
    """Reads CSV with a line of names, also compressed (.gz); fields are separated by commas, tabs or semicolons."""

    scheme: ClassVar[str] = "csv"
    usage: ClassVar[str] = "csv:FILES"

    def table(self, path: str, types: Mapping[str, str]) -> TableInput:
        """Open the files."""
        return open_table_files(path, "csv", where=f"{self.scheme}:{path}", types=types)


class HuggingFaceReader(TableReader):
    """Reads a dataset that `datasets` saved with save_to_disk: a row per step, or a row per episode."""

    scheme: ClassVar[str] = "hf"
    usage: ClassVar[str] = "hf:FOLDER"

    def table(self, path: str, types: Mapping[str, str]) -> TableInput:
        """Open the Arrow files of one split."""
        from rl_transformer.trajectories.tables.episode_rows import open_saved_dataset

        refuse_types(types, f"{self.scheme}:{path}")
        return open_saved_dataset(local_path(path, f"{self.scheme}:{path}"), where=f"{self.scheme}:{path}")


class NpzReader(TableReader):
    """Reads a .npz file of arrays with one row per step."""

    scheme: ClassVar[str] = "npz"
    usage: ClassVar[str] = "npz:FILE.npz"

    def table(self, path: str, types: Mapping[str, str]) -> TableInput:
        """Read the arrays."""
        from rl_transformer.trajectories.tables.episode_rows import read_arrays

        refuse_types(types, f"{self.scheme}:{path}")
        return read_arrays(local_path(path, f"{self.scheme}:{path}"), where=f"{self.scheme}:{path}")


def open_table_files(path: str, file_format: str, *, where: str, types: Mapping[str, str] | None = None) -> TableInput:
    """Open files of a format of `pyarrow.dataset` as one table; see `tables.files.open_files`."""
    files = open_files(path, file_format, where=where, types=types)  # before what imports pyarrow: both do so at once
    from rl_transformer.trajectories.tables.inputs import files_input

    return files_input(files, where=where)


_USUAL = {
    "observe": r"(observations?|obs|states?)([._]\d+)?",
    "action": r"(actions?|act)([._]\d+)?",
    "reward": r"(rewards?|next[._]reward)",
    "episode": r"(episode|trajectory|traj)(_?(id|index))?",
    "order": r"step|timestep|frame_index",
}


def usual_mapping(names: list[str], *, where: object) -> ColumnMapping | None:
    """Return the mapping of columns with the field's usual names, such as observations, action_0 and terminated.

    None if there are no observations or no actions among them.
    """
    found = {part: [name for name in names if re.fullmatch(pattern, name)] for part, pattern in _USUAL.items()}
    # Of two columns that would both do, neither is chosen.
    if not found["observe"] or not found["action"] or any(len(found[part]) > 1 for part in ("reward", "order")):
        return None
    flags: dict[str, str] = {}
    for name in names:
        kind = flag_kind(name)
        if kind in (TERMINATED, TRUNCATED, DONE) and not is_ambiguous(name):
            flags.setdefault(str(kind), name)
    values = {
        **found,
        "reward": "".join(found["reward"]),
        "order": "".join(found["order"]),
        "terminated": flags.get(TERMINATED) or flags.get(DONE),
        "truncated": flags.get(TRUNCATED),
    }
    return ColumnMapping.from_values(values, where=where)


def refuse_types(types: Mapping[str, str], where: str) -> None:
    """Raise an error if a mapping gives types, which only text files lack."""
    if types:
        fix = "leave types out of the mapping; they are for CSV"
        raise RLTransformerError("the columns of this format have types of their own", where=where, fix=fix)

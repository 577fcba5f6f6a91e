"""The episodes of a table, and its rows that are in none."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import disk
from rl_transformer.trajectories.blocks import EpisodeBlock
from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding
from rl_transformer.trajectories.tables.encode import Encoded, Encoder, take_episodes
from rl_transformer.trajectories.tables.row_buckets import MemoryBuckets, RowBuckets
from rl_transformer.trajectories.tables.split import Split
from rl_transformer.trajectories.tables.videos import with_frames

DROPPED_ROWS = "rows in no episode"
TIED_ROWS = "several rows of one moment"


@dataclass
class TableEpisodes:
    """The episodes of a table, and an account of its rows.

    Args:
        buckets: The rows.
        encoder: Converts them.
        split: The episodes to hold out, if any.
        notes: Findings; a note about dropped rows is added when they are known.
    """

    buckets: RowBuckets
    encoder: Encoder
    split: Split | None
    notes: list[Finding]
    num_steps: Counter[str] = field(default_factory=Counter)
    """Steps of each part."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows in no episode, by reason."""
    num_tied: int = 0
    """Rows of the episode and moment of another one, with other values."""
    dropped_at: dict[str, list[int]] = field(default_factory=dict)
    """The first of these rows by reason, counted from 0 over all files in order; only known of tables in memory."""

    def blocks(self, part: str, dropped_rows: DroppedRows | None = None) -> Iterator[EpisodeBlock]:
        """Yield the episodes of a part: ``training`` or ``held out``.

        Rows in no episode are counted with the training part.
        """
        for number in range(self.buckets.count):
            encoded = self.encoder.encode(self.buckets.read(number))
            if part == "training":
                self.dropped.update(encoded.reasons)
                self.num_tied += encoded.num_tied
                if isinstance(self.buckets, MemoryBuckets):
                    # Buckets on disk have lost the order of the files; their dropped rows are written with the reason.
                    for reason in self.dropped:
                        rows = encoded.dropped_at[np.array(encoded.reasons) == reason]
                        self.dropped_at[reason] = np.sort(rows)[:MAX_POSITIONS].tolist()
                if dropped_rows is not None:
                    dropped_rows.add(encoded)
            chosen = take_part(encoded, self.split, part)
            self.num_steps[part] += int(chosen.offsets[-1])
            if len(chosen):
                yield from with_frames(chosen, self.encoder.videos)
        self.finish(part)

    def finish(self, part: str) -> None:
        """Note dropped rows and those of one moment, when all rows of a part have been seen.

        Raises:
            RLTransformerError: The split leaves no episode in this part.
        """
        if not self.num_steps[part] and self.split is not None:
            which = "held out" if part == "held out" else "left to learn from"
            raise RLTransformerError(f"no episode is {which}", where="split", fix="choose another date or share")
        if part == "training" and self.dropped:
            self.notes.append(self._note())
        if part == "training" and self.num_tied:
            order = self.encoder.columns.order
            problem = f"have the episode and the {order} of another row, and other values; they stay in the order of the table"
            fix = "nothing, if that is their order; otherwise name an order that tells them apart, or remove the wrong ones"
            self.notes.append(Finding("warning", TIED_ROWS, "rows", problem, fix, self.num_tied))

    def _note(self) -> Finding:
        counts = self.dropped.most_common()
        first = {reason: f" (first: row {rows[0]})" for reason, rows in self.dropped_at.items()}
        reasons = ", ".join(f"{count} {reason}{first.get(reason, '')}" for reason, count in counts)
        problem = f"are in no episode: {reasons}"
        fix = "nothing, if that is right; otherwise repair these rows, or change the mapping"
        positions = [{"row": row} for row in sorted(itertools.chain(*self.dropped_at.values()))[:MAX_POSITIONS]]
        return Finding("warning", DROPPED_ROWS, "rows", problem, fix, self.dropped.total(), positions)


def take_part(encoded: Encoded, split: Split | None, part: str) -> EpisodeBlock:
    """Return the episodes of a part: ``training`` or ``held out``."""
    held_out = np.zeros(len(encoded.block), bool) if split is None else split.held_out(encoded)
    return take_episodes(encoded.block, held_out if part == "held out" else ~held_out)


class DroppedRows:
    """Writes the rows that are in no episode to a Parquet file, with the reason; makes no file if there are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp-rows")
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> DroppedRows:
        self._temporary.unlink(missing_ok=True)
        return self

    def add(self, encoded: Encoded) -> None:
        """Write the dropped rows of one bucket."""
        if not encoded.reasons:
            return
        rows = encoded.rows.take(pa.array(encoded.dropped))
        self.write(rows.append_column("reason", pa.array(encoded.reasons)))

    def write(self, rows: pa.Table) -> None:
        """Write rows that have their reason already."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._temporary, rows.schema)
        self._writer.write_table(rows)

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._writer is None:
            return
        self._writer.close()
        if kind is None:
            disk.DISK.sync(self._temporary)
            disk.DISK.rename(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)

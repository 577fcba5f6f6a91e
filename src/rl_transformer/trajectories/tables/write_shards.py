"""Write the episodes of a table as shards, one per bucket of rows, each as a step of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from rl_transformer.runtime import disk
from rl_transformer.runtime.files import remove_leftovers
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.shards import join_shards
from rl_transformer.trajectories.store_files import write_columns
from rl_transformer.trajectories.tables.encode import Encoder
from rl_transformer.trajectories.tables.engines import Engine
from rl_transformer.trajectories.tables.episodes import DroppedRows, TableEpisodes, take_part
from rl_transformer.trajectories.tables.row_buckets import RowBuckets
from rl_transformer.trajectories.tables.split import Split
from rl_transformer.trajectories.tables.videos import with_frames

_FOLDERS = {"training": "store", "held out": "held-out"}


@dataclass(frozen=True)
class _Plan:
    """What is needed to write one shard."""

    buckets: RowBuckets
    encoder: Encoder
    split: Split | None
    work: Path

    @property
    def parts(self) -> list[str]:
        """The parts into which a split divides the episodes."""
        return list(_FOLDERS)[: 1 if self.split is None else 2]


@dataclass
class _Account:
    """What became of the rows of one bucket."""

    num_steps: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    num_tied: int = 0
    checkers: dict[str, Checker] = field(default_factory=dict)
    """What the checks have seen of each part that has an episode in this bucket."""


def write_shards(episodes: TableEpisodes, spec: DataSpec, work: Path, run: Engine) -> None:
    """Write the stores in shards, and the rows that are in no episode, to the folder of a conversion.

    Args:
        episodes: The episodes of the table, which take over the account of its rows.
        spec: Their spaces.
        work: The folder.
        run: Writes the shards.

    Raises:
        RLTransformerError: The data would corrupt training, or the split leaves no episode in one part.
    """
    plan = _Plan(episodes.buckets, episodes.encoder, episodes.split, work)
    for folder in (*_FOLDERS.values(), "dropped"):
        (work / folder).mkdir(exist_ok=True)
    accounts = list(run(_write_shard, plan, range(episodes.buckets.count)))
    for account in accounts:
        episodes.num_steps.update(account.num_steps)
        episodes.dropped.update(account.dropped)
        episodes.num_tied += account.num_tied
    # Shards are complete; what follows reads them once, in order.
    for part in plan.parts:
        episodes.finish(part)
        found = [(_name(n), account.checkers[part]) for n, account in enumerate(accounts) if part in account.checkers]
        # A process that was killed has left what is no shard, and would be listed as a file of the store.
        remove_leftovers(work / _FOLDERS[part])
        join_shards(work / _FOLDERS[part], spec, found, notes=episodes.notes if part == "training" else ())
    # One list, as a conversion in one process writes it.
    with DroppedRows(work / "dropped.parquet") as dropped_rows:
        for path in sorted((work / "dropped").glob("shard-*.parquet")):
            dropped_rows.write(pq.read_table(path))
    if episodes.split is None:
        (work / _FOLDERS["held out"]).rmdir()


def _write_shard(plan: _Plan, number: int) -> _Account:
    """Write the episodes of one bucket; what an earlier try has left is written again."""
    encoded = plan.encoder.encode(plan.buckets.read(number))
    account = _Account(dropped=Counter(encoded.reasons), num_tied=encoded.num_tied)
    with DroppedRows(plan.work / "dropped" / f"{_name(number)}.parquet") as dropped_rows:
        dropped_rows.add(encoded)
    for part in plan.parts:
        block = take_part(encoded, plan.split, part)
        folder = plan.work / _FOLDERS[part] / _name(number)
        # The process may have been killed after its last step, and before it could say so.
        if folder.exists():
            disk.DISK.remove(folder)
        # A store without an episode is none; this bucket then has no shard.
        if len(block):
            account.num_steps[part] = int(block.offsets[-1])
            account.checkers[part] = Checker(plan.encoder.spec)
            frames = with_frames(block, plan.encoder.videos)
            write_columns(folder, plan.encoder.spec, frames, checker=account.checkers[part])
    return account


def _name(number: int) -> str:
    return f"shard-{number:05d}"

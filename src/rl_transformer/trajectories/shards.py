"""Make one store of several: shards whose episodes follow one another, under one summary.

A folder of shards is opened as ``rlt:FOLDER``. Its own store.json, statistics and columns of episodes are those that one
store of all episodes would have, to the last bit; the columns of steps stay where the shards have them, see
`sharded_column`. Each shard is a store of its own, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import write_manifest
from rl_transformer.runtime.paths import below
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.columns import ColumnBuilder
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import Finding, raise_on_errors
from rl_transformer.trajectories.mapped_store import map_store
from rl_transformer.trajectories.store_files import SHARDED_FORMAT_VERSION, write_summary


def join_shards(
    folder: Path, spec: DataSpec, shards: Iterable[tuple[str, Checker]], *, notes: Iterable[Finding] = ()
) -> Path:
    """Complete a folder of shards, so that it opens as one store, and return it; the manifest is written last.

    Fingerprint and statistics depend on the order of all rows, so that the columns that they cover are read once.

    Args:
        folder: The folder.
        spec: Spaces of the data.
        shards: The name of each shard, a folder in ``folder``, and the checker with which it was written, in order.
        notes: Findings of the reader to store with the data.

    Raises:
        RLTransformerError: There is no shard, or one is damaged or does not fit the others.
    """
    checker = Checker(spec)
    builder = ColumnBuilder(spec, lambda name, rows: None, checker)
    names: list[str] = []
    columns: set[str] = set()
    # A hash and a sum of rounded numbers depend on their order, so that shards cannot be summed up apart.
    for name, seen in shards:
        _, steps, summary = map_store(below(folder, name))
        columns = set(steps)
        builder.add_written({key: np.asarray(column) for key, column in steps.items()}, summary, seen)
        names.append(name)
    if not names:
        raise RLTransformerError("holds no episode", where=spec.source or folder, fix="give at least one episode")
    summary = builder.summary()
    checker.add_notes(notes)
    raise_on_errors(checker.findings, spec.source or folder)
    # Everything above may be repeated after a kill: a folder without a manifest is no store.
    version = {"format_version": SHARDED_FORMAT_VERSION}
    info = {**version, "step_columns": sorted(columns), "shards": names}
    write_summary(folder, spec, replace(summary, findings=checker.findings), info)
    write_manifest(folder, version, names)
    return folder

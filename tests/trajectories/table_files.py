"""Write a dataset as tables of every format, under names that readers know."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rl_transformer import TrajectoryDataset


def columns_of(data: TrajectoryDataset) -> dict[str, np.ndarray]:
    """Return one row per step: vectors as two-dimensional arrays."""
    lengths = data.lengths
    last = np.zeros(data.num_steps, bool)
    last[data.offsets[1:] - 1] = True
    return {
        "episode": np.repeat(np.arange(len(data)), lengths),
        "step": np.concatenate([np.arange(length) for length in lengths]),
        "observations": np.asarray(data.observations, np.float64),
        "actions": np.asarray(data.actions),
        "rewards": np.asarray(data.rewards),
        "terminated": last & np.repeat(data.summary.terminated, lengths),
        "truncated": last & np.repeat(data.summary.truncated, lengths),
    }


def as_arrow(columns: dict[str, np.ndarray]) -> pa.Table:
    """Return columns as an Arrow table with lists for vectors."""
    return pa.table({name: values if values.ndim == 1 else values.tolist() for name, values in columns.items()})


def flat_columns(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return columns with one number each: observations_0, observations_1 and so on."""
    flat = {}
    for name, values in columns.items():
        parts = {name: values} if values.ndim == 1 else {f"{name}_{i}": part for i, part in enumerate(values.T)}
        flat.update(parts)
    return flat


def write_parquet(path: Path, data: TrajectoryDataset) -> str:
    path.mkdir(parents=True)
    table = as_arrow(columns_of(data))
    pq.write_table(table.slice(0, 5), path / "a.parquet")
    pq.write_table(table.slice(5), path / "b.parquet")
    return f"parquet:{path}"


def write_csv(path: Path, data: TrajectoryDataset) -> str:
    columns = flat_columns(columns_of(data))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    return f"csv:{path}"


def write_jsonl(path: Path, data: TrajectoryDataset) -> str:
    rows = as_arrow(columns_of(data)).to_pylist()
    path.write_text("\n".join(map(json.dumps, rows)))
    return f"jsonl:{path}"


def write_npz(path: Path, data: TrajectoryDataset) -> str:
    np.savez(path, **columns_of(data))
    return f"npz:{path}"


def write_hf(folder: Path, data: TrajectoryDataset) -> str:
    """Write what `datasets` saves: a row per episode, as in the gym replays of the Decision Transformer tutorial."""
    folder.mkdir()
    columns = columns_of(data)
    pieces = {
        name: [values[a:b].tolist() for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True)]
        for name, values in columns.items()
        if name not in ("episode", "step")
    }
    table = pa.table(pieces)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    (folder / "state.json").write_text("{}")
    return f"hf:{folder}"


def write_lerobot(folder: Path, data: TrajectoryDataset) -> str:
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v3.0", "fps": 10}))
    columns = columns_of(data)
    names = {
        "episode": "episode_index",
        "step": "frame_index",
        "observations": "observation.state",
        "actions": "action",
        "rewards": "next.reward",
        "terminated": "next.done",
    }
    table = as_arrow({new: columns[old] for old, new in names.items()})
    (folder / "data" / "chunk-000").mkdir(parents=True)
    pq.write_table(table, folder / "data" / "chunk-000" / "file-000.parquet")
    return f"lerobot:{folder}"

"""Drawing batches: ours against the published sampler, and from stores on disk."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

from rl_transformer.bench import timing
from rl_transformer.bench.published import PublishedSampler
from rl_transformer.bench.workloads import (
    make_config,
    make_run,
    synthetic_data,
    synthetic_spec,
    synthetic_trajectories,
)
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.store import write_store

BATCH_SIZE = 64
LENGTH = 1000
"""Steps per episode: Hopper's longest."""
_WARM_UP_BATCHES = 20_000  # so that the store's pages are in memory


def bench_data(*, repeats: int, store_steps: int = 20_000_000, store: Path | None = None) -> list[JsonObject]:
    """Time a batch of 64 windows of 20 steps: in memory against the published sampler, and from a large store.

    Args:
        repeats: Rounds.
        store_steps: Steps of the store on disk; 0: none.
        store: Where to write it, or where it was written before; a temporary folder if not given.
    """
    dataset = synthetic_data(length=LENGTH)
    ours = next_batch(dataset)
    published = PublishedSampler(dataset, context_length=20, scale=1000.0, max_ep_len=LENGTH, seed=0)
    sides = {"ours": ours, "baseline": lambda: published.draw(BATCH_SIZE)}
    times = timing.time_in_turns(sides, repeats=repeats, calls=100)
    rows = [timing.make_row(times, benchmark="data", what="batch of 64 windows, in memory", steps=dataset.num_steps)]
    if store_steps:
        with tempfile.TemporaryDirectory() as temporary:
            rows.append(_time_store(store or Path(temporary) / "store", store_steps, ours, repeats))
    return rows


def next_batch(dataset: TrajectoryDataset) -> timing.Side:
    """Return a function that draws the next batch as training does."""
    windows = make_run(make_config("hopper", "float32"), dataset).windows
    steps = count(1)
    return lambda: windows.gatherer.gather(windows.sampler.draw(next(steps), BATCH_SIZE))


def _time_store(folder: Path, num_steps: int, in_memory: timing.Side, repeats: int) -> JsonObject:
    """Time batches from a store on disk against those in memory, and how long the store takes to open."""
    if not (folder / "manifest.json").exists():
        write_store(folder, synthetic_spec(), synthetic_trajectories(num_steps, LENGTH))
    opening = timing.time_in_turns({"open": lambda: open_trajectories(f"rlt:{folder}")}, repeats=5, warmup=1)
    dataset = open_trajectories(f"rlt:{folder}")
    from_disk = next_batch(dataset)
    for _ in range(_WARM_UP_BATCHES):
        from_disk()
    times = timing.time_in_turns({"ours": from_disk, "baseline": in_memory}, repeats=repeats, calls=100)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**30
    return timing.make_row(
        times,
        benchmark="data",
        what="batch of 64 windows, from a store on disk against in memory",
        steps=dataset.num_steps,
        store_gib=round(size, 1),
        open_ms=opening["open"]["median_ms"],
    )

"""Drawing batches: ours against the published sampler, and from stores on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rl_transformer.bench import timing
from rl_transformer.bench.published import PublishedSampler
from rl_transformer.bench.train import configuration, synthetic, synthetic_spec, synthetic_trajectories
from rl_transformer.run import assemble
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.store import write_store

BATCH_SIZE = 64
LENGTH = 1000  # steps an episode, as Hopper's longest


def bench_data(*, repeats: int, store_steps: int = 20_000_000, store: Path | None = None) -> list[dict[str, Any]]:
    """Time a batch of 64 windows of 20 steps: in memory against the published sampler, and from a large store.

    Args:
        repeats: Rounds.
        store_steps: Steps of the store on disk; 0: none.
        store: Where to write it, or where it was written before; a temporary folder if not given.
    """
    dataset = synthetic(length=LENGTH)
    ours = batches_of(dataset)
    published = PublishedSampler(dataset, context_length=20, scale=1000.0, max_ep_len=LENGTH, seed=0)
    sides = {"ours": ours, "baseline": lambda: published.draw(BATCH_SIZE)}
    timed = timing.interleaved(sides, repeats=repeats, calls=100)
    rows = [timing.row(timed, benchmark="data", what="batch of 64 windows, in memory", steps=dataset.num_steps)]
    if store_steps:
        with tempfile.TemporaryDirectory() as temporary:
            rows += _from_store(store or Path(temporary) / "store", store_steps, ours, repeats)
    return rows


def batches_of(dataset: TrajectoryDataset) -> Callable[[], object]:
    """Return what draws the next batch, as training does."""
    with tempfile.TemporaryDirectory() as folder:
        config = configuration("hopper", "float32")
        config.output = folder
        _, trainer, _ = assemble(config, dataset, torch.device("cpu"), ProcessGroup())
    steps = iter(range(1, 1_000_000_000))
    return lambda: trainer.gatherer.gather(trainer.sampler.draw(next(steps), BATCH_SIZE))


def _from_store(folder: Path, steps: int, in_memory: Callable[[], object], repeats: int) -> list[dict[str, Any]]:
    if not (folder / "manifest.json").exists():
        write_store(folder, synthetic_spec(), synthetic_trajectories(steps, LENGTH))
    opening = timing.interleaved({"open": lambda: open_trajectories(f"rlt:{folder}")}, repeats=5, warmup=1)
    dataset = open_trajectories(f"rlt:{folder}")
    from_disk = batches_of(dataset)
    for _ in range(20_000):  # warm
        from_disk()
    timed = timing.interleaved({"ours": from_disk, "baseline": in_memory}, repeats=repeats, calls=100)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**30
    row = timing.row(
        timed,
        benchmark="data",
        what="batch of 64 windows, from a store on disk against in memory",
        steps=dataset.num_steps,
        store_gib=round(size, 1),
        open_ms=opening["open"]["median_ms"],
    )
    return [row]

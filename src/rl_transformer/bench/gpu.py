"""Training steps on a GPU: the published loop, our eager loop, the captured graph, and eight seeds stacked."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch

from rl_transformer.bench import timing
from rl_transformer.bench.train import PRECISIONS, checked_sizes, flops, published_updates
from rl_transformer.bench.workloads import make_config, make_run, synthetic_data
from rl_transformer.runtime.machine import find_device
from rl_transformer.runtime.types import JsonObject
from rl_transformer.training.cuda_graph import BLOCK, DeviceUpdates
from rl_transformer.training.stacked_seeds import StackedUpdates
from rl_transformer.training.trainer import Trainer
from rl_transformer.training.updates import EagerUpdates, Updates

SEEDS = 8
_DEVICE = "cuda"
_COMPARED = (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"))


def bench_gpu(*, sizes: list[str], repeats: int) -> list[JsonObject]:
    """Time blocks of updates on a GPU, batches included; all sides take turns in one process.

    Raises:
        RLTransformerError: There is no GPU, or a size is unknown.
    """
    find_device(_DEVICE, where="device")
    return [row for size in checked_sizes(sizes) for row in _compare(size, repeats)]


def _compare(size: str, repeats: int) -> list[JsonObject]:
    sides: dict[str, Callable[[], object]] = {}
    for precision in PRECISIONS:
        sides[f"baseline {precision}"] = _many(published_updates(size, precision, _DEVICE))
        sides[f"eager {precision}"] = _blocks(EagerUpdates(_trainers(size, precision, 1)[0]))
        sides[f"graph {precision}"] = _blocks(DeviceUpdates(_trainers(size, precision, 1), BLOCK))
        sides[f"seeds {precision}"] = _blocks(StackedUpdates(_trainers(size, precision, SEEDS), BLOCK))
    # A call is a whole block of updates, so a single one is warm-up enough.
    blocks = timing.time_in_turns(sides, repeats=repeats, warmup=1)
    times = {name: {key: round(ms / BLOCK, 5) for key, ms in block.items()} for name, block in blocks.items()}
    peaks = {precision: _matrix_peak(precision) for precision in PRECISIONS}
    work = flops(size)
    rows = []
    for ours, baseline in _COMPARED:
        for side in ("graph", "eager", "seeds"):
            # A stacked update does the work of all its seeds at once.
            achieved = work * (SEEDS if side == "seeds" else 1) / times[f"{side} {ours}"]["median_ms"] * 1000
            row = timing.make_row(
                {"ours": times[f"{side} {ours}"], "baseline": times[f"baseline {baseline}"]},
                benchmark="gpu",
                what={"graph": "captured graph", "eager": "eager loop", "seeds": f"{SEEDS} seeds at once"}[side],
                size=size,
                dtype=ours,
                baseline_dtype=baseline,
                device=torch.cuda.get_device_name(),
                gflop_per_step=round(work / 1e9, 2),
                tflops_achieved=round(achieved / 1e12, 2),
                tflops_of_a_large_product=round(peaks[ours] / 1e12, 1),
            )
            rows.append(row)
    return rows


def _trainers(size: str, precision: str, seeds: int) -> list[Trainer]:
    trainers = []
    for seed in range(seeds):
        config = make_config(size, precision)
        config.training.device = _DEVICE
        config.training.seed = seed
        trainers.append(make_run(config, synthetic_data()).trainer)
        # With dropout, whose random numbers are part of what an update costs.
        trainers[-1].model.train()
    return trainers


def _blocks(updates: Updates) -> Callable[[], object]:
    """Return a function that makes a block of updates; it reads the losses, so the GPU has finished."""
    # Updates count from 1, and each block goes on where the last one ended, as in a training run.
    firsts = count(1, BLOCK)
    return lambda: updates.run(next(firsts), BLOCK)


def _many(update: Callable[[], object]) -> Callable[[], object]:
    """Return a function that makes as many updates and waits for the GPU."""

    def block() -> None:
        for _ in range(BLOCK):
            update()
        # Calls only queue kernels; without this wait the clock would show how long queueing takes.
        torch.cuda.synchronize()

    return block


def _matrix_peak(precision: str, size: int = 8192, calls: int = 10) -> float:
    """Return the operations per second of a large square matrix product of random numbers."""
    # Zeros would flatter the figure: a GPU draws less power on constant data, and may keep a higher clock.
    left, right = torch.randn(2, size, size, dtype=getattr(torch, precision), device=_DEVICE)

    def products() -> None:
        for _ in range(calls):
            torch.mm(left, right)
        torch.cuda.synchronize()

    times = timing.time_in_turns({"product": products}, repeats=5)
    # The product of two n x n matrices takes n**3 multiplications and about as many additions.
    return calls * 2 * size**3 / (times["product"]["min_ms"] / 1000)

"""One training step: ours against the published loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count

import torch
from torch.utils.flop_counter import FlopCounterMode

from rl_transformer.bench import timing
from rl_transformer.bench.published import PublishedSampler, PublishedTrainer, published_model
from rl_transformer.bench.workloads import SIZES, make_config, make_run, synthetic_data
from rl_transformer.errors import RLTransformerError
from rl_transformer.models.trunk.cpu_linear import linear
from rl_transformer.runtime.system import keep_freed_memory
from rl_transformer.runtime.types import JsonObject
from rl_transformer.training.updates import EagerUpdates

PRECISIONS = ("float32", "bfloat16")
_COMPARED = (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"))
"""Our precision and the baseline's in each row; the published code is float32."""


def bench_train(*, sizes: list[str], repeats: int) -> list[JsonObject]:
    """Time whole updates, batch included: ours and the published loop, in float32 and under bfloat16 autocast.

    All four take turns, each in a process of its own.
    """
    return [row for size in checked_sizes(sizes) for row in _compare(size, repeats)]


def checked_sizes(sizes: list[str]) -> list[str]:
    """Return the sizes, or raise an `RLTransformerError` that names the known ones."""
    for size in sizes:
        if size not in SIZES:
            raise RLTransformerError(f"no size {size!r}", where="--sizes", fix=f"choose among {', '.join(SIZES)}")
    return sizes


def _compare(size: str, repeats: int) -> list[JsonObject]:
    sides = {
        f"{side} {precision}": partial(make, size, precision)
        for precision in PRECISIONS
        for side, make in (("ours", our_updates), ("baseline", published_updates))
    }
    # In processes of their own, because `keep_freed_memory` would speed up a baseline in the same process, too.
    # Updates of the small size are short, so that many of them go between two readings of the clock.
    times = timing.time_in_processes(sides, repeats=repeats, warmup=5, calls=40 if size == "hopper" else 4)
    rows = []
    for ours, baseline in _COMPARED:
        config = make_config(size, ours)
        work = flops(size)
        peak = matrix_peak(ours)
        achieved = 1000 * work / times[f"ours {ours}"]["median_ms"]
        rows.append(
            timing.make_row(
                {"ours": times[f"ours {ours}"], "baseline": times[f"baseline {baseline}"]},
                benchmark="train",
                size=size,
                dtype=ours,
                baseline_dtype=baseline,
                batch_size=config.training.batch_size,
                device="cpu",
                dropout=config.model.resid_pdrop,
                gflop_per_step=round(work / 1e9, 2),
                gflops_achieved=round(achieved / 1e9, 1),
                gflops_of_a_large_product=round(peak / 1e9, 1),
                utilization=round(achieved / peak, 3),
            )
        )
    return rows


def our_updates(size: str, precision: str) -> Callable[[], object]:
    """Return a function that makes our next update."""
    keep_freed_memory()  # as the training loop does
    return _eager_updates(size, precision)


def _eager_updates(size: str, precision: str) -> Callable[[], object]:
    trainer = make_run(make_config(size, precision), synthetic_data()).trainer
    # With dropout, which is a part of the cost of an update.
    trainer.model.train()
    updates = EagerUpdates(trainer)
    steps = count(1)
    return lambda: updates.run(next(steps), 1)


def published_updates(size: str, precision: str, device: str = "cpu") -> Callable[[], object]:
    """Return a function that makes the published loop's next update."""
    config = make_config(size, precision)
    dataset = synthetic_data()
    model_config = make_run(config, dataset).policy.spec.model
    sampler = PublishedSampler(
        dataset,
        context_length=config.windows.context_length,
        scale=1000.0,
        max_ep_len=model_config.max_ep_len,
        seed=config.training.seed,
    )
    model = published_model(model_config)
    batch_size = config.training.batch_size
    return PublishedTrainer(model, sampler, batch_size=batch_size, precision=precision, device=device).update


def flops(size: str) -> float:
    """Return the floating-point operations of the matrix products of one update of ours.

    Counted under autocast, where every product is PyTorch's own: the counter does not know oneDNN's.
    """
    update = _eager_updates(size, "bfloat16")
    with FlopCounterMode(display=False) as counter:
        update()
    return float(counter.get_total_flops())


def matrix_peak(precision: str, size: int = 2048, repeats: int = 5) -> float:
    """Return the operations per second of a large square matrix product, the best of a few."""
    left, right, bias = torch.randn(3, size, size, dtype=getattr(torch, precision))
    with torch.no_grad():
        # By the same function as the model's layers, so that the peak is that of the library which they use.
        times = timing.time_in_turns({"product": lambda: linear(left, right, bias[0])}, repeats=repeats)
    # n**3 multiplications and about as many additions; the fastest call is the closest to what the machine can do.
    return 2 * size**3 / (times["product"]["min_ms"] / 1000)

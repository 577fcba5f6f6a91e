"""One training step: ours against the published loop."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from rl_transformer.bench import timing
from rl_transformer.bench.published import PublishedSampler, PublishedTrainer, published_model
from rl_transformer.config.run import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.machine import keep_freed_memory
from rl_transformer.models.trunk.cpu_linear import linear
from rl_transformer.config.presets import gym
from rl_transformer.run import assemble
from rl_transformer.training.trainer import Trainer
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.trajectories import DataSpec, Space, Trajectory, TrajectoryDataset

SIZES: dict[str, dict[str, Any]] = {
    "hopper": {},
    "gpt2-small": {"model.n_layer": 12, "model.n_head": 12, "model.hidden_size": 768, "training.batch_size": 16},
    "atari": {
        "model.n_layer": 6,
        "model.n_head": 8,
        "windows.context_length": 30,
        "training.batch_size": 128,
        "model.activation_function": "gelu_new",
    },
}
"""The paper's Gym model; GPT-2 small as the trunk (batch 16 to spare time); the transformer of the
paper's Atari model. All read Hopper's 11 observations and 3 actions, because transformers' model takes no images."""


def synthetic(num_steps: int = 200_000, length: int = 500) -> TrajectoryDataset:
    """Return random data of Hopper's shapes, in memory."""
    return TrajectoryDataset.in_memory(synthetic_spec(), synthetic_trajectories(num_steps, length))


def synthetic_spec() -> DataSpec:
    """Return Hopper's spaces."""
    return DataSpec(Space.box((11,)), Space.box((3,), -1, 1), "synthetic")


def synthetic_trajectories(num_steps: int, length: int) -> Iterator[Trajectory]:
    """Yield episodes; one block of random numbers, shifted: the content does not matter, its size does."""
    random = np.random.default_rng(0)
    observations = random.standard_normal((length, 11), dtype=np.float32)
    actions, rewards = random.uniform(-1, 1, (length, 3)).astype(np.float32), random.random(length)
    for episode in range(num_steps // length):
        shift = np.float32(episode % 97 / 97)
        yield Trajectory(observations + shift, np.roll(actions, episode, axis=0), rewards + shift, truncated=True)


PRECISIONS = ("float32", "bfloat16")


def bench_train(*, sizes: list[str], repeats: int) -> list[dict[str, Any]]:
    """Time whole updates, batch included: ours and the published loop, in float32 and under bfloat16 autocast.

    All four take turns, each in a process of its own. Each row says both sides' precision; that of the published code is float32.
    """
    for size in sizes:
        if size not in SIZES:
            raise RLTransformerError(f"no size {size!r}", where="--sizes", fix=f"choose among {', '.join(SIZES)}")
    return [row for size in sizes for row in _compare(size, repeats)]


def _compare(size: str, repeats: int) -> list[dict[str, Any]]:
    sides = {
        f"{side} {precision}": partial(make, size, precision)
        for precision in PRECISIONS
        for side, make in (("ours", our_updates), ("baseline", published_updates))
    }
    timed = timing.in_turns(sides, repeats=repeats, warmup=5, calls=40 if size == "hopper" else 4)
    rows = []
    for ours, baseline in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")):
        config = configuration(size, ours)
        work, peak = flops(size), matrix_peak(ours)
        achieved = 1000 * work / timed[f"ours {ours}"]["median_ms"]
        rows.append(
            timing.row(
                {"ours": timed[f"ours {ours}"], "baseline": timed[f"baseline {baseline}"]},
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
    """Return what makes one update of ours."""
    keep_freed_memory()  # as Trainer.fit does
    trainer, steps = _trainer(configuration(size, precision)), iter(range(1, 1_000_000))
    return lambda: trainer.update(next(steps))


def published_updates(size: str, precision: str) -> Callable[[], object]:
    """Return what makes one update of the published loop."""
    config, dataset = configuration(size, precision), synthetic()
    sizes = _trainer(config).model.config
    sampler = PublishedSampler(
        dataset,
        context_length=config.windows.context_length,
        scale=1000.0,
        max_ep_len=sizes.max_ep_len,
        seed=config.training.seed,
    )
    batch_size = config.training.batch_size
    return PublishedTrainer(published_model(sizes), sampler, batch_size=batch_size, precision=precision).update


def _trainer(config: RunConfig) -> Trainer:
    with tempfile.TemporaryDirectory() as folder:
        config.output = folder
        _, trainer, _ = assemble(config, synthetic(), torch.device("cpu"), ProcessGroup())
    trainer.model.train()
    return trainer


def configuration(size: str, precision: str) -> RunConfig:
    """Return the published recipe at a size."""
    config = gym()
    for name, value in SIZES[size].items():
        section, _, option = name.partition(".")
        setattr(getattr(config, section), option, value)
    config.dataset.uri, config.training.precision = "synthetic", precision  # pyright: ignore[reportAttributeAccessIssue]
    return config


def flops(size: str) -> float:
    """Return the floating-point operations of the matrix products of one update of ours.

    Counted under autocast, where every product is PyTorch's own: the counter does not know oneDNN's.
    """
    trainer = _trainer(configuration(size, "bfloat16"))
    with FlopCounterMode(display=False) as counter:
        trainer.update(1)
    return float(counter.get_total_flops())


def matrix_peak(precision: str, size: int = 2048, repeats: int = 5) -> float:
    """Return the operations a second of a large square matrix product, the best of a few."""
    left, right, bias = torch.randn(3, size, size, dtype=getattr(torch, precision))
    with torch.no_grad():
        timed = timing.interleaved({"product": lambda: linear(left, right, bias[0])}, repeats=repeats)
    return 2 * size**3 / (timed["product"]["min_ms"] / 1000)

"""Capture one training step as a CUDA graph and replay it; the CPU only prepares blocks of up to 100 steps.

The window indices of a block (from the same sampler as eager updates), its learning rates and EMA weights are copied to
the device in one transfer each, and losses and gradient norms are copied back in one. The CPU then launches one graph
per update instead of several hundred kernels.

`rlt bench gpu` compares it with the plain loop. Tests run this code on a CPU as well, where nothing is captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rl_transformer.models.trunk.dropout import dropout_masks
from rl_transformer.training.ema import lerp_averages
from rl_transformer.training.optimizer import learning_rate
from rl_transformer.training.trainer import Trainer
from rl_transformer.training.updates import EagerUpdates, UpdateResult, Updates
from rl_transformer.windows.batch import WindowBatch
from rl_transformer.windows.gathering import WindowSource
from rl_transformer.windows.image_shift import shift_batch

# Updates between two synchronizations with the CPU. With a block this long the copies and the synchronization cost
# little per update, and a stop signal still has to wait for 100 updates at most.
BLOCK = 100
# Updates before the capture, in which cuBLAS and cuDNN choose kernels and allocate workspaces: work that must not
# become part of the graph. PyTorch's documentation uses three iterations, too.
_WARM_UP = 3


class DeviceUpdates:
    """Makes blocks of at most ``max_steps`` updates without copying anything back to the CPU in between.

    Shapes: S runs (one here; see `rl_transformer.training.stacked_seeds`), B windows per run.
    """

    def __init__(self, trainers: Sequence[Trainer], max_steps: int) -> None:
        self.trainers = trainers
        self.max_steps = max_steps
        lead = trainers[0]
        self.sources = [cast(WindowSource, trainer.batches) for trainer in trainers]
        device = lead.batches.device
        self.optimizer = lead.optimizer
        self.live: list[Tensor] = lead.parameters
        self.averages: list[Tensor] = list(lead.ema.averages.values()) if lead.ema else []
        # Inputs of a block, one row per update. A captured graph always reads the same memory, so the buffers are
        # allocated once and the graph selects the row at `_position`, a counter that it increments itself.
        self._rows = torch.zeros(max_steps, len(trainers) * lead.config.batch_size, dtype=torch.int64, device=device)
        self._trajectories = torch.zeros_like(self._rows)
        self._shifts = torch.zeros(*self._rows.shape, 2, dtype=torch.int64, device=device)  # of images
        self._rates = torch.zeros(max_steps, device=device)
        self._ema_weights = torch.zeros(max_steps, device=device)
        self._results = torch.zeros(max_steps, len(trainers), 2, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self._stopped = torch.zeros((), device=device)  # 1 once a loss or gradient norm was not finite
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, first: int, count: int) -> list[list[UpdateResult]]:
        """Make updates ``first`` ... ``first + count - 1``; return one result per step and run.

        After an update that is not finite no weight changes any more, and later results of the block are meaningless.
        """
        self._prepare(first, count)
        if self._rows.is_cuda and self._graph is None:
            self._capture(first, count)
        for _ in range(count):
            if self._graph is None:
                self._update()
            else:
                self._graph.replay()
        return [[UpdateResult(loss, norm) for loss, norm in runs] for runs in self._results[:count].tolist()]

    def backward(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Compute clipped gradients; return losses (S,) and gradient norms before clipping (S,)."""
        (trainer,) = self.trainers
        # The step is a tensor here. As a Python number it would be captured as a constant, and every replay would
        # repeat the dropout masks of the captured step.
        with dropout_masks(trainer.config.seed, self.step, self.step.device):
            loss, norm = trainer.backward(None, batch, None)
        return loss[None], norm[None]

    def _prepare(self, first: int, count: int) -> None:
        """Copy the inputs of ``count`` updates to the device and reset the counters."""
        lead = self.trainers[0]
        steps = range(first, first + count)
        indices = [[source.draw(step) for source in self.sources] for step in steps]
        rows = np.stack([[index.rows for index in runs] for runs in indices])
        trajectories = np.stack([[index.trajectories for index in runs] for runs in indices])
        self._rows[:count] = torch.from_numpy(rows).flatten(1)
        self._trajectories[:count] = torch.from_numpy(trajectories).flatten(1)
        if self.sources[0].image_shift:
            shifts = np.array([[index.shifts for index in runs] for runs in indices])
            self._shifts[:count] = torch.from_numpy(shifts).flatten(1, 2)
        self._rates[:count] = torch.tensor([learning_rate(step, lead.config) for step in steps])
        if lead.ema is not None:
            self._ema_weights[:count] = torch.tensor([lead.ema.weight(step) for step in steps])
        self._position.zero_()
        self.step.fill_(first)
        self._stopped.zero_()
        for group in self.optimizer.param_groups:
            # A captured optimizer step reads its learning rate from memory: as a Python number, the rate at the time of
            # the capture would be used forever and the schedule would have no effect.
            if not isinstance(group["lr"], Tensor):
                group["lr"] = torch.zeros((), device=self._rows.device)
                group["capturable"] = self._rows.is_cuda

    def _capture(self, first: int, count: int) -> None:
        """Capture one update. The warm-up makes real updates, so everything they change is restored afterwards."""
        changed = [*self.live, *self.averages]
        saved = [tensor.detach().clone() for tensor in changed]
        # The optimizer may have state for some parameters only (after a resume) or for none (a new run).
        moments = {p: {k: v.clone() for k, v in s.items()} for p, s in self.optimizer.state.items()}
        # PyTorch prescribes a side stream for the warm-up. Waiting in both directions keeps the order of kernels: the
        # warm-up sees the prepared inputs, and the restore sees the end of the warm-up.
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(_WARM_UP):
                self._position.zero_()
                self._update()
        torch.cuda.current_stream().wait_stream(side_stream)
        with torch.no_grad():
            for tensor, before in zip(changed, saved, strict=True):
                tensor.copy_(before)
            # State that the warm-up created must not be deleted but zeroed, which is how AdamW initializes it:
            # allocating it inside the capture would put it into the graph's private memory pool.
            for parameter, state in self.optimizer.state.items():
                for name, value in state.items():
                    value.copy_(moments[parameter][name]) if parameter in moments else value.zero_()
        # Without gradients the captured backward pass allocates them in the graph's own memory pool. Gradients of the
        # warm-up live in ordinary memory, which could be freed and reused while the graph still writes to it.
        self.optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._update()
        # Position and step were advanced by the warm-up; the block starts again from its first update.
        self._prepare(first, count)

    def _update(self) -> None:
        """Make one update from tensors alone; nothing here may depend on a value on the CPU."""
        position = self._position
        rows = self._rows.index_select(0, position)[0]
        trajectories = self._trajectories.index_select(0, position)[0]
        batch = self.sources[0].gatherer.gather_at(rows, trajectories)
        if self.sources[0].image_shift:
            batch = shift_batch(batch, self._shifts.index_select(0, position)[0])
        losses, norms = self.backward(batch)
        self._results.index_copy_(0, position, torch.stack([losses.float(), norms.float()], dim=-1)[None])
        # The CPU looks at losses only after the block. The flag stays set until then, so that no update after the first
        # bad one changes the weights, which is the contract of `Updates`.
        self._stopped.copy_(torch.maximum(self._stopped, (~(losses + norms).isfinite()).any().float()))
        for group in self.optimizer.param_groups:
            group["lr"].copy_(self._rates.index_select(0, position)[0] * group["relative_rate"])
        # Fused AdamW skips its step where found_inf is 1. GradScaler uses the same attribute for skipped steps.
        cast(Any, self.optimizer).found_inf = self._stopped
        self.optimizer.step()
        if self.averages:
            weight = self._ema_weights.index_select(0, position)[0] * (1 - self._stopped)
            lerp_averages(self.averages, self.live, weight)
        position.add_(1)
        self.step.add_(1)


def make_updates(trainer: Trainer) -> Updates:
    """Return the fastest update strategy: a CUDA graph for one GPU that holds the data, otherwise eager updates."""
    source = trainer.batches
    # A graph replays fixed kernels on fixed memory. It therefore needs the data on the GPU (gathering from host memory
    # is CPU work), one process (all-reduce and signal handling need the CPU) and no random numbers from NumPy.
    can_capture = (
        isinstance(source, WindowSource)
        and source.device.type == "cuda"
        and source.gatherer.on_device
        and trainer.group.world_size == 1
        and not trainer.eager_only
        and not trainer.config.entropy_weight  # the entropy estimate draws its random numbers on the CPU
    )
    return DeviceUpdates([trainer], BLOCK) if can_capture else EagerUpdates(trainer)

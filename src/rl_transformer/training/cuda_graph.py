"""Training steps captured as a CUDA graph and replayed; the CPU only prepares blocks of 100.

The windows of a block (the sampler's own draws), its learning rates and EMA weights go to the device in one copy
each, and losses and norms come back in one. The CPU then launches one graph per update instead of several
hundred kernels.

Not measured: no GPU was at hand. The tests run this code on a CPU, where nothing is captured.
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

BLOCK = 100
_WARM_UP = 3  # updates before a capture, in which libraries choose their kernels and allocate their buffers


class DeviceUpdates:
    """Makes blocks of updates, at most ``max_steps`` at a time, without reading anything back in between.

    Shapes: S runs (one here; see `rl_transformer.training.stacked_seeds`), B windows of each.
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
        # Inputs of a block, one row per update; a captured graph reads the row at `_position`.
        self._rows = torch.zeros(max_steps, len(trainers) * lead.config.batch_size, dtype=torch.int64, device=device)
        self._trajectories = torch.zeros_like(self._rows)
        self._rates = torch.zeros(max_steps, device=device)
        self._ema_weights = torch.zeros(max_steps, device=device)
        self._results = torch.zeros(max_steps, len(trainers), 2, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self._stopped = torch.zeros((), device=device)  # 1 after a loss or norm that is not finite
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, first: int, count: int) -> list[list[UpdateResult]]:
        """Make updates ``first`` ... ``first + count - 1``.

        After one that is not finite no weight changes; the results that follow it are meaningless.
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
        with dropout_masks(trainer.config.seed, self.step, self.step.device):
            loss, norm = trainer.backward(None, batch, None)
        return loss[None], norm[None]

    def _prepare(self, first: int, count: int) -> None:
        lead = self.trainers[0]
        steps = range(first, first + count)
        drawn = [[source.draw(step) for source in self.sources] for step in steps]
        rows = np.stack([[index.rows for index in runs] for runs in drawn])
        trajectories = np.stack([[index.trajectories for index in runs] for runs in drawn])
        self._rows[:count] = torch.from_numpy(rows).flatten(1)
        self._trajectories[:count] = torch.from_numpy(trajectories).flatten(1)
        self._rates[:count] = torch.tensor([learning_rate(step, lead.config) for step in steps])
        if lead.ema is not None:
            self._ema_weights[:count] = torch.tensor([lead.ema.weight(step) for step in steps])
        self._position.zero_()
        self.step.fill_(first)
        self._stopped.zero_()
        for group in self.optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):  # a captured optimizer reads its learning rate from a tensor
                group["lr"] = torch.zeros((), device=self._rows.device)
                group["capturable"] = self._rows.is_cuda

    def _capture(self, first: int, count: int) -> None:
        """Capture one update. The warm-up makes real updates, so everything they change is restored."""
        changed = [*self.live, *self.averages]
        saved = [tensor.detach().clone() for tensor in changed]
        moments = {p: {k: v.clone() for k, v in s.items()} for p, s in self.optimizer.state.items()}
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
            for parameter, state in self.optimizer.state.items():
                for name, value in state.items():
                    value.copy_(moments[parameter][name]) if parameter in moments else value.zero_()
        self.optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._update()
        self._prepare(first, count)

    def _update(self) -> None:
        """Make one update from tensors alone: nothing here depends on a number on the CPU."""
        position = self._position
        rows = self._rows.index_select(0, position)[0]
        trajectories = self._trajectories.index_select(0, position)[0]
        losses, norms = self.backward(self.sources[0].gatherer.gather_at(rows, trajectories))
        self._results.index_copy_(0, position, torch.stack([losses.float(), norms.float()], dim=-1)[None])
        self._stopped.copy_(torch.maximum(self._stopped, (~(losses + norms).isfinite()).any().float()))
        for group in self.optimizer.param_groups:
            group["lr"].copy_(self._rates.index_select(0, position)[0] * group["relative_rate"])
        # Fused AdamW skips its step where found_inf is 1: the GradScaler's protocol.
        cast(Any, self.optimizer).found_inf = self._stopped
        self.optimizer.step()
        if self.averages:
            weight = self._ema_weights.index_select(0, position)[0] * (1 - self._stopped)
            lerp_averages(self.averages, self.live, weight)
        position.add_(1)
        self.step.add_(1)


def make_updates(trainer: Trainer) -> Updates:
    """Return the fastest strategy for a run: a CUDA graph on one GPU that holds the data, else eager updates."""
    source = trainer.batches
    can_capture = (
        isinstance(source, WindowSource)
        and source.device.type == "cuda"
        and source.gatherer.on_device
        and trainer.group.world_size == 1
        and not trainer.eager_only
        and not trainer.config.entropy_weight  # its random numbers are drawn on the CPU
    )
    return DeviceUpdates([trainer], BLOCK) if can_capture else EagerUpdates(trainer)

"""Updates that need nothing from the CPU while they run; on a GPU one of them is a captured graph, replayed.

A block of updates is prepared at once. The windows (the sampler's own draws), step sizes and averaging
weights go to the device in one copy each, and losses and norms come back in one. The CPU then launches one
graph an update instead of several hundred kernels.

Not measured: no GPU was at hand. The tests run this code on a CPU, where nothing is captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rl_transformer.models.dropout import dropout_masks
from rl_transformer.training.optimizer import average_in, learning_rate
from rl_transformer.windows.gather import WindowBatch

if TYPE_CHECKING:
    from rl_transformer.training.loop import Trainer

BLOCK = 100
_WARM_UP = 3  # runs before a capture, so that libraries have chosen their kernels and buffers


class DeviceUpdates:
    """Makes blocks of a trainer's updates, at most ``block`` at a time.

    Shapes: S seeds (one here; see `rl_transformer.training.stacked`), B windows of each.
    """

    def __init__(self, trainers: Sequence[Trainer], block: int) -> None:
        self.trainers, self.block = trainers, block
        lead, seeds = trainers[0], len(trainers)
        self.gatherer, device = lead.gatherer, lead.gatherer.device
        self.optimizer = lead.optimizer
        self.live: list[Tensor] = lead.parameters
        self.averages: list[Tensor] = list(lead.average.averages.values()) if lead.average else []
        self._rows = torch.zeros(block, seeds * lead.config.batch_size, dtype=torch.int64, device=device)
        self._trajectories = torch.zeros_like(self._rows)
        self._rates, self._averaging = torch.zeros(2, block, device=device)
        self._numbers = torch.zeros(block, seeds, 2, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)  # in the block
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self._stopped = torch.zeros((), device=device)  # 1 after a number that is not finite
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, first: int, count: int) -> list[list[tuple[float, float]]]:
        """Make updates ``first`` ... ``first + count - 1`` and return (loss, gradient norm) of each, seed by seed.

        After one that is not finite no update is made; its numbers, and what follows, are meaningless.
        """
        self._prepare(first, count)
        if self._rows.is_cuda and self._graph is None:
            self._capture(first, count)
        for _ in range(count):
            if self._graph is None:
                self._update()
            else:
                self._graph.replay()
        return [[(loss, norm) for loss, norm in seeds] for seeds in self._numbers[:count].tolist()]

    def gradients(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Put clipped gradients in place, and return losses (S,) and norms before clipping (S,)."""
        (trainer,) = self.trainers
        with dropout_masks(trainer.config.seed, self.step, self.step.device):
            loss, norm = trainer.gradients(None, batch, None)
        return loss[None], norm[None]

    def _prepare(self, first: int, count: int) -> None:
        lead, steps = self.trainers[0], range(first, first + count)
        drawn = [[t.sampler.draw(step, t.config.batch_size) for t in self.trainers] for step in steps]
        rows = np.stack([[index.rows for index in seeds] for seeds in drawn])
        trajectories = np.stack([[index.trajectories for index in seeds] for seeds in drawn])
        self._rows[:count] = torch.from_numpy(rows).flatten(1)
        self._trajectories[:count] = torch.from_numpy(trajectories).flatten(1)
        self._rates[:count] = torch.tensor([learning_rate(step, lead.config) for step in steps])
        if lead.average is not None:
            self._averaging[:count] = torch.tensor([lead.average.weight(step) for step in steps])
        self._place.zero_()
        self.step.fill_(first)
        self._stopped.zero_()
        for group in self.optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):
                group["lr"], group["capturable"] = torch.zeros((), device=self._rows.device), self._rows.is_cuda

    def _capture(self, first: int, count: int) -> None:
        """Capture one update. Warming up makes real updates, so what they change is put back."""
        changed = [*self.live, *self.averages]
        kept = [tensor.detach().clone() for tensor in changed]
        moments = {p: {k: v.clone() for k, v in s.items()} for p, s in self.optimizer.state.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._place.zero_()
                self._update()
        torch.cuda.current_stream().wait_stream(side)
        with torch.no_grad():
            torch._foreach_copy_(changed, kept)  # pyright: ignore[reportPrivateImportUsage]
            for parameter, state in self.optimizer.state.items():
                for name, value in state.items():
                    value.copy_(moments[parameter][name]) if parameter in moments else value.zero_()
        self.optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._update()
        self._prepare(first, count)

    def _update(self) -> None:
        place = self._place
        rows, trajectories = (x.index_select(0, place)[0] for x in (self._rows, self._trajectories))
        losses, norms = self.gradients(self.gatherer.gather_at(rows, trajectories))
        self._numbers.index_copy_(0, place, torch.stack([losses.float(), norms.float()], dim=-1)[None])
        self._stopped.copy_(torch.maximum(self._stopped, (~(losses + norms).isfinite()).any().float()))
        for group in self.optimizer.param_groups:
            group["lr"].copy_(self._rates.index_select(0, place)[0] * group["rate"])
        self.optimizer.found_inf = self._stopped  # pyright: ignore[reportAttributeAccessIssue]  skips the step if 1
        self.optimizer.step()
        if self.averages:
            average_in(self.averages, self.live, self._averaging.index_select(0, place)[0] * (1 - self._stopped))
        place.add_(1)
        self.step.add_(1)


def updates_on_device(trainer: Trainer) -> DeviceUpdates | None:
    """Return what makes a trainer's updates in blocks, if they can be: on one GPU that holds the data."""
    possible = trainer.ranks.world_size == 1 and not trainer.config.entropy_weight and trainer.gatherer.on_device
    if not possible or trainer.needs_step or trainer.gatherer.device.type != "cuda":
        return None
    return DeviceUpdates([trainer], BLOCK)

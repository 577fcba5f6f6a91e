"""Updates that need nothing from the CPU while they run; on a GPU one of them is a captured graph, replayed.

A block of updates is prepared at once. The windows (the sampler's own draws), step sizes and averaging
weights go to the device in one copy each, and losses and norms come back in one. The CPU then launches one
graph an update instead of several hundred kernels.

Not measured: no GPU was at hand. The tests run this code on a CPU, where nothing is captured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from rl_transformer.models.dropout import dropout_masks
from rl_transformer.training.optimizer import learning_rate

if TYPE_CHECKING:
    from rl_transformer.training.loop import Trainer

BLOCK = 100
_WARM_UP = 3  # runs before a capture, so that libraries have chosen their kernels and buffers


class DeviceUpdates:
    """Makes blocks of a trainer's updates, at most ``block`` at a time."""

    def __init__(self, trainer: Trainer, block: int) -> None:
        self._trainer, self.block = trainer, block
        device, batch_size = trainer.gatherer.device, trainer.config.batch_size
        self._rows = torch.zeros(block, batch_size, dtype=torch.int64, device=device)
        self._trajectories = torch.zeros_like(self._rows)
        self._rates = torch.zeros(block, device=device)
        self._averaging = torch.zeros(block, device=device)
        self._numbers = torch.zeros(block, 2, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)  # in the block
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._stopped = torch.zeros((), device=device)  # 1 after a number that is not finite
        self._graph: torch.cuda.CUDAGraph | None = None
        for group in trainer.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=device)
            group["capturable"] = device.type == "cuda"

    def run(self, first: int, count: int) -> list[tuple[float, float]]:
        """Make updates ``first`` ... ``first + count - 1`` and return (loss, gradient norm) of each.

        After one that is not finite no update is made; its numbers, and what follows, are meaningless.
        """
        self._prepare(first, count)
        if self._trainer.gatherer.device.type == "cuda" and self._graph is None:
            self._capture(first, count)
        for _ in range(count):
            if self._graph is None:
                self._update()
            else:
                self._graph.replay()
        return [(loss, norm) for loss, norm in self._numbers[:count].tolist()]

    def _prepare(self, first: int, count: int) -> None:
        trainer, steps = self._trainer, range(first, first + count)
        drawn = [trainer.sampler.draw(step, trainer.config.batch_size) for step in steps]
        self._rows[:count] = torch.from_numpy(np.stack([index.rows for index in drawn]))
        self._trajectories[:count] = torch.from_numpy(np.stack([index.trajectories for index in drawn]))
        self._rates[:count] = torch.tensor([learning_rate(step, trainer.config) for step in steps])
        if trainer.average is not None:
            self._averaging[:count] = torch.tensor([trainer.average.weight(step) for step in steps])
        self._place.zero_()
        self._step.fill_(first)
        self._stopped.zero_()

    def _capture(self, first: int, count: int) -> None:
        """Capture one update. Warming up makes real updates, so what they change is put back."""
        trainer = self._trainer
        changed = [*trainer.parameters, *(trainer.average.averages.values() if trainer.average else ())]
        kept = [tensor.detach().clone() for tensor in changed]
        moments = {p: {k: v.clone() for k, v in s.items()} for p, s in trainer.optimizer.state.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._place.zero_()
                self._update()
        torch.cuda.current_stream().wait_stream(side)
        with torch.no_grad():
            torch._foreach_copy_(changed, kept)  # pyright: ignore[reportPrivateImportUsage]
            for parameter, state in trainer.optimizer.state.items():
                for name, value in state.items():
                    value.copy_(moments[parameter][name]) if parameter in moments else value.zero_()
        trainer.optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._update()
        self._prepare(first, count)

    def _update(self) -> None:
        trainer, place = self._trainer, self._place
        rows, trajectories = (x.index_select(0, place)[0] for x in (self._rows, self._trajectories))
        batch = trainer.gatherer.gather_at(rows, trajectories)
        with dropout_masks(trainer.config.seed, self._step, self._step.device):
            loss, norm = trainer.gradients(None, batch, None)
        self._numbers.index_copy_(0, place, torch.stack([loss.float(), norm.float()])[None])
        self._stopped.copy_(torch.maximum(self._stopped, (~(loss + norm).isfinite()).float()))
        for group in trainer.optimizer.param_groups:
            group["lr"].copy_(self._rates.index_select(0, place)[0])
        trainer.optimizer.found_inf = self._stopped  # pyright: ignore[reportAttributeAccessIssue]  skips the step if 1
        trainer.optimizer.step()
        if trainer.average is not None:
            trainer.average.take(self._averaging.index_select(0, place)[0] * (1 - self._stopped))
        self._place.add_(1)
        self._step.add_(1)


def updates_on_device(trainer: Trainer) -> DeviceUpdates | None:
    """Return what makes a trainer's updates in blocks, if they can be: on one GPU that holds the data."""
    possible = trainer.ranks.world_size == 1 and not trainer.config.entropy_weight and trainer.gatherer.on_device
    if not possible or trainer.gatherer.device.type != "cuda":
        return None
    return DeviceUpdates(trainer, BLOCK)

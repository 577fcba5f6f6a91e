"""Several processes that make one update together, as torchrun starts them.

Every rank draws the same global batch, computes its slice of it, and divides by the number of valid
steps of the whole; gradients are summed by torch's DistributedDataParallel. So the update is that of
one process, but for the order of sums and the dropout masks. Rank 0 alone writes.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from rl_transformer.errors import RLTransformerError
from rl_transformer.windows.sampling import WindowIndex

# Rank 0 evaluates while the others wait for the next update.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def slice_of(self, batch_size: int) -> slice:
        """Return which windows of a global batch are this rank's."""
        share = batch_size // self.world_size
        return slice(self.rank * share, (self.rank + 1) * share)

    def share(self, index: WindowIndex) -> WindowIndex:
        """Return this rank's windows of a global batch."""
        mine = self.slice_of(len(index.rows))
        return WindowIndex(index.rows[mine], index.trajectories[mine])

    def together(self, objective: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over the ranks."""
        if self.world_size == 1:
            return objective
        device = next(objective.parameters()).device
        return DistributedDataParallel(objective, device_ids=[device.index] if device.type == "cuda" else None)

    def total(self, *values: Tensor | float) -> Tensor:
        """Return each value, summed over the ranks."""
        numbers = torch.stack([torch.as_tensor(value).detach().double().cpu() for value in values])
        if self.world_size > 1:
            moved = numbers.cuda() if distributed.get_backend() == "nccl" else numbers
            distributed.all_reduce(moved)
            numbers = moved.cpu()
        return numbers

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.total(0.0)


@contextmanager
def ranks_of(device: torch.device, batch_size: int) -> Iterator[Ranks]:
    """Join the processes that torchrun started; one process without it.

    Raises:
        RLTransformerError: A batch that the processes cannot share evenly.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks()
        return
    if batch_size % world_size:
        raise RLTransformerError(
            f"{batch_size} windows cannot be shared evenly by {world_size} processes",
            where="training.batch_size",
            fix=f"choose a multiple of {world_size}",
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        assert distributed.get_world_size() == world_size
        yield Ranks(distributed.get_rank(), world_size)
    finally:
        # The gradient averaging holds the group's threads and lies in a cycle of references; freed by the interpreter's
        # exit, they may abort the process after its work is done.
        gc.collect()
        distributed.destroy_process_group()

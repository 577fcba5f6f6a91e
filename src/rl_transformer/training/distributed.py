"""Several processes that make one update together, as torchrun starts them.

Every process draws the same global batch, computes its share of it, and divides by the number of valid
steps of the whole; gradients are averaged by torch's DistributedDataParallel. So the update is that of
one process, except for the order of sums and for the dropout masks. Rank 0 alone writes.
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
from rl_transformer.windows.batch import IndexT

# Rank 0 evaluates while the others wait for the next update.
_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together; a single process by default."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files and messages."""
        return self.rank == 0

    def slice_of(self, batch_size: int) -> slice:
        """Return which items of a global batch are this process's share."""
        share = batch_size // self.world_size
        return slice(self.rank * share, (self.rank + 1) * share)

    def shard(self, index: IndexT) -> IndexT:
        """Return this process's share of a global batch."""
        return index[self.slice_of(len(index))]

    def wrap_ddp(self, objective: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over the processes."""
        if self.world_size == 1:
            return objective
        device = next(objective.parameters()).device
        return DistributedDataParallel(objective, device_ids=[device.index] if device.type == "cuda" else None)

    def all_reduce_sum(self, *values: Tensor | float) -> Tensor:
        """Return each value summed over the processes, in float64 on the CPU."""
        numbers = torch.stack([torch.as_tensor(value).detach().double().cpu() for value in values])
        if self.world_size > 1:
            moved = numbers.cuda() if distributed.get_backend() == "nccl" else numbers
            distributed.all_reduce(moved)
            numbers = moved.cpu()
        return numbers

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.all_reduce_sum(0.0)


@contextmanager
def init_distributed(device: torch.device, batch_size: int) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started; without torchrun there is one.

    Raises:
        RLTransformerError: A batch that the processes cannot share evenly.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield ProcessGroup()
        return
    if batch_size % world_size:
        raise RLTransformerError(
            f"{batch_size} windows cannot be shared evenly by {world_size} processes",
            where="training.batch_size",
            fix=f"choose a multiple of {world_size}",
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        assert distributed.get_world_size() == world_size
        yield ProcessGroup(distributed.get_rank(), world_size)
    finally:
        # DistributedDataParallel holds the group's threads and is part of a reference cycle. Freed at the
        # interpreter's exit, after the group, it may abort the process although its work is done.
        gc.collect()
        distributed.destroy_process_group()

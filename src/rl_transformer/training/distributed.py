"""Train data-parallel in the processes that torchrun starts.

Every process draws the same global batch, computes the loss of its shard, and divides by the number of valid steps of
the whole batch; gradients are averaged by DistributedDataParallel. The update therefore equals that of a single
process, except for the order of floating-point sums and for dropout masks. Only rank 0 writes files.
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

# Rank 0 evaluates while the others wait for the next update in an all-reduce. With torch's default timeout of 10 to 30
# minutes a long evaluation would abort the run.
_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class ProcessGroup:
    """Identifies this process among those that train together; by default it is the only one."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True in the process that writes files and prints messages."""
        return self.rank == 0

    def slice_of(self, batch_size: int) -> slice:
        """Return the slice of a global batch that is this process's shard."""
        size = batch_size // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def shard(self, index: IndexT) -> IndexT:
        """Return this process's shard of a global batch."""
        return index[self.slice_of(len(index))]

    def wrap_ddp(self, objective: nn.Module) -> nn.Module:
        """Return the module wrapped in DistributedDataParallel, which averages gradients over the processes."""
        # A single process keeps the plain module: the wrapper would add bucketing and copies for nothing.
        if self.world_size == 1:
            return objective
        device = next(objective.parameters()).device
        return DistributedDataParallel(objective, device_ids=[device.index] if device.type == "cuda" else None)

    def all_reduce_sum(self, *values: Tensor | float) -> Tensor:
        """Return the sum of each scalar over the processes: (number of values,) float64 on the CPU."""
        # One stacked tensor means one all-reduce, however many values there are. float64 holds signal numbers and
        # losses without rounding.
        local = torch.stack([torch.as_tensor(value).detach().double().cpu() for value in values])
        if self.world_size == 1:
            return local
        total = local.cuda() if distributed.get_backend() == "nccl" else local  # NCCL reduces GPU tensors only
        distributed.all_reduce(total)
        return total.cpu()

    def barrier(self) -> None:
        """Wait until every process has reached this call."""
        # torch's own barrier() needs the GPU's index with NCCL; an all-reduce synchronizes on any backend.
        self.all_reduce_sum(0.0)


@contextmanager
def init_distributed(device: torch.device, batch_size: int) -> Iterator[ProcessGroup]:
    """Join the process group that torchrun started; without torchrun the group is this process alone.

    Raises:
        RLTransformerError: The batch size is not a multiple of the number of processes.
    """
    # torchrun passes the group's size in the environment; LOCAL_RANK, which selects the GPU, is read by `find_device`.
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield ProcessGroup()
        return
    # DistributedDataParallel averages gradients with equal weights, so shards of unequal size would change the update.
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
        # DistributedDataParallel uses the group's threads and is part of a reference cycle. If the cycle is only freed
        # when the interpreter exits, after the group, the process may abort although its work is done.
        gc.collect()
        distributed.destroy_process_group()

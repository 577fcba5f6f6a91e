"""AdamW with groups by role, the step size, and the average of weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.models.gpt2 import Conv1D
from rl_transformer.training.adapters import LowRank

_MATRICES = (nn.Linear, nn.Conv2d, Conv1D)
_UNTRAINED = ("predict_state.", "predict_return.")  # transformers' heads that no action depends on


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that a loss on actions can move, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(_UNTRAINED)}


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups: by part of the model (trunk, rest), where their options differ, and whether they decay.

    Every trained parameter is in exactly one group and no group is empty: a group that matches
    nothing would leave an option without effect, silently. ``rate`` is a group's share of the step size.

    Raises:
        RLTransformerError: Options for a trunk of which nothing is trained.
    """
    named = trained_parameters(model)
    decaying = set(named) if config.decay == "all" else _matrices(model, set(named))
    of_trunk = {name for name in named if name.startswith("encoder.")}
    options = {"trunk_learning_rate": config.trunk_learning_rate, "trunk_weight_decay": config.trunk_weight_decay}
    given = [name for name, value in options.items() if value is not None]
    if given and not of_trunk:
        raise RLTransformerError(
            "nothing of the trunk is trained",
            where=f"training.{given[0]}",
            fix="leave it out, or set training.trunk to full",
        )
    decay = config.weight_decay if config.trunk_weight_decay is None else config.trunk_weight_decay
    rate = 1.0 if config.trunk_learning_rate is None else config.trunk_learning_rate / config.learning_rate
    parts = [("", set(named), config.weight_decay, 1.0)]
    if given:
        parts = [("trunk ", of_trunk, decay, rate), ("rest ", set(named) - of_trunk, config.weight_decay, 1.0)]
    groups = []
    for part, members, amount, share in parts:
        for role, names, weight_decay in (("decay", members & decaying, amount), ("no_decay", members - decaying, 0.0)):
            if names:
                found = {"role": part + role, "names": sorted(names), "params": [named[n] for n in sorted(names)]}
                groups.append({**found, "weight_decay": weight_decay, "rate": share})
        if amount and not members & decaying:
            raise ValueError(f"an optimizer group is empty: {part}decay")
    assert groups
    assert sum(len(group["names"]) for group in groups) == len(named)
    return groups


def _matrices(model: nn.Module, names: set[str]) -> set[str]:
    modules = dict(model.named_modules())
    owners = {name: modules[name.rpartition(".")[0]] for name in names}
    return {
        n for n, owner in owners.items() if isinstance(owner, LowRank) or (n.endswith("weight") and _is_matrix(owner))
    }


def _is_matrix(module: nn.Module) -> bool:
    # GPT-2's of transformers is a class of the same name.
    return isinstance(module, _MATRICES) or type(module).__name__ == "Conv1D"


def told_groups(optimizer: torch.optim.Optimizer, config: TrainingConfig) -> list[str]:
    """Return a line a group: what the options came to."""
    return [
        f"{group['role']}: {len(group['names'])} tensors, {sum(p.numel() for p in group['params'])} numbers, "
        f"step size {config.learning_rate * group['rate']:g}, decay {group['weight_decay']:g}"
        for group in optimizer.param_groups
    ]


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the step size."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over the model's parameter groups."""
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the step size of update ``step``, counted from 1.

    It rises linearly: learning_rate / warmup_steps at the first update, learning_rate at update
    warmup_steps. Then it stays, or falls by a cosine to zero at train_steps.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.train_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class WeightAverage:
    """A running average of the trained weights; short at first, so that the start is forgotten."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = list(trained_parameters(model).values())
        self.averages = {name: p.detach().clone() for name, p in trained_parameters(model).items()}

    def weight(self, step: int) -> float:
        """Return the share of the weights after update ``step`` in the average."""
        return 1 - min(self.decay, step / (step + 10))

    def take(self, weight: float) -> None:
        """Take in the live weights."""
        average_in(list(self.averages.values()), self._live, weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live weights and the averages, in place."""
        for live, average in zip(self._live, self.averages.values(), strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)


@torch.no_grad()
def average_in(averages: list[Tensor], live: list[Tensor], weight: float | Tensor) -> None:
    """Move ``averages`` towards ``live`` by a share ``weight``, in place."""
    if isinstance(weight, Tensor):
        differences = torch._foreach_sub(live, averages)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(differences, weight)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(averages, differences)  # pyright: ignore[reportPrivateImportUsage]
    else:
        torch._foreach_lerp_(averages, live, weight)  # pyright: ignore[reportPrivateImportUsage]

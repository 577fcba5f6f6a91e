"""AdamW with parameter groups by role, and the learning rate schedule."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor, nn

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.models.trunk.block import Conv1D
from rl_transformer.training.lora import LowRank

_MATRICES = (nn.Linear, nn.Conv2d, Conv1D)
_UNTRAINED = ("predict_state.", "predict_return.")  # heads of transformers' model that no action depends on


class ParameterGroup(TypedDict):
    """One group of AdamW."""

    role: str
    """Which parameters: "decay" or "no_decay", after "trunk " or "rest " if the trunk has its own options."""
    names: list[str]
    params: list[Tensor]
    weight_decay: float
    relative_rate: float
    """The group's learning rate divided by the schedule's."""


def trained_parameters(objective: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that the loss can change, by their names in the model (or in the loss)."""
    found = {}
    for full_name, parameter in objective.named_parameters():
        name = full_name.removeprefix("model.").removeprefix("loss.")
        if parameter.requires_grad and not name.startswith(_UNTRAINED):
            found[name] = parameter
    return found


def parameter_groups(objective: nn.Module, config: TrainingConfig) -> list[ParameterGroup]:
    """Return AdamW's groups: by part of the model (trunk, rest) where their options differ, and by weight decay.

    Every trained parameter is in exactly one group and no group is empty: a group that matches
    nothing would leave an option without effect, silently.

    Raises:
        RLTransformerError: Options of a trunk of which nothing is trained.
    """
    named = trained_parameters(objective)
    decaying = set(named) if config.decay == "all" else _matrix_names(objective, set(named))
    groups: list[ParameterGroup] = []
    for part, members, weight_decay, relative_rate in _parts(set(named), config):
        if weight_decay and not members & decaying:
            raise ValueError(f"an optimizer group is empty: {part}decay")
        for role, names, amount in (
            ("decay", members & decaying, weight_decay),
            ("no_decay", members - decaying, 0.0),
        ):
            if names:
                groups.append(
                    {
                        "role": part + role,
                        "names": sorted(names),
                        "params": [named[name] for name in sorted(names)],
                        "weight_decay": amount,
                        "relative_rate": relative_rate,
                    }
                )
    assert sum(len(group["names"]) for group in groups) == len(named)
    return groups


def _parts(names: set[str], config: TrainingConfig) -> list[tuple[str, set[str], float, float]]:
    """Return (prefix of the role, names, weight decay, relative learning rate) of each part of the model."""
    options = {"trunk_learning_rate": config.trunk_learning_rate, "trunk_weight_decay": config.trunk_weight_decay}
    given = [name for name, value in options.items() if value is not None]
    if not given:
        return [("", names, config.weight_decay, 1.0)]
    in_trunk = {name for name in names if name.startswith("encoder.")}
    if not in_trunk:
        raise RLTransformerError(
            "nothing of the trunk is trained",
            where=f"training.{given[0]}",
            fix="leave it out, or set training.trunk to full",
        )
    decay = config.weight_decay if config.trunk_weight_decay is None else config.trunk_weight_decay
    rate = 1.0 if config.trunk_learning_rate is None else config.trunk_learning_rate / config.learning_rate
    return [("trunk ", in_trunk, decay, rate), ("rest ", names - in_trunk, config.weight_decay, 1.0)]


def _matrix_names(objective: nn.Module, names: set[str]) -> set[str]:
    """Return the names of weights of linear and convolution layers, and of their low-rank updates."""
    found = set()
    for module_name, module in objective.named_modules():
        prefix = f"{module_name}.".removeprefix("model.").removeprefix("loss.") if module_name else ""
        for key in dict(module.named_parameters(recurse=False)):
            if isinstance(module, LowRank) or (key.endswith("weight") and _is_matrix(module)):
                found.add(prefix + key)
    return found & names


def _is_matrix(module: nn.Module) -> bool:
    # transformers' GPT-2 has a class of the same name.
    return isinstance(module, _MATRICES) or type(module).__name__ == "Conv1D"


def describe_parameter_groups(optimizer: torch.optim.Optimizer, config: TrainingConfig) -> list[str]:
    """Return one line per parameter group: its size, learning rate and weight decay."""
    return [
        f"{group['role']}: {len(group['names'])} tensors, {sum(p.numel() for p in group['params'])} parameters, "
        f"learning rate {config.learning_rate * group['relative_rate']:g}, weight decay {group['weight_decay']:g}"
        for group in optimizer.param_groups
    ]


def set_learning_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate, ``rate`` being the schedule's."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["relative_rate"]


def make_optimizer(objective: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over the parameter groups."""
    groups = [dict(group) for group in parameter_groups(objective, config)]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of update ``step``, counted from 1.

    It rises linearly: learning_rate / warmup_steps at the first update, learning_rate at update
    warmup_steps. Then it stays, or falls by a cosine to zero at train_steps.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.train_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

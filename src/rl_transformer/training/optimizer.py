"""Build AdamW with parameter groups, and compute the learning rate schedule."""

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
# The published model has these heads but does not train them (kzl `experiment.py` uses the action loss alone). They
# stay in the model so that transformers can load it. The optimizer leaves them out, because they never receive a
# gradient.
_UNTRAINED = ("predict_state.", "predict_return.")


class ParameterGroup(TypedDict):
    """A parameter group of AdamW, with the names of its parameters."""

    role: str
    """decay or no_decay, preceded by trunk or rest if the trunk has options of its own."""
    names: list[str]
    params: list[Tensor]
    weight_decay: float
    relative_rate: float
    """The group's learning rate divided by the schedule's."""


def trained_parameters(objective: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters by name, without the prefixes "model." and "loss." of a `TrainingObjective`.

    A bare model works, too: checkpoints and the EMA then use the same names for it.
    """
    trained = {}
    for full_name, parameter in objective.named_parameters():
        name = full_name.removeprefix("model.").removeprefix("loss.")
        if parameter.requires_grad and not name.startswith(_UNTRAINED):
            trained[name] = parameter
    return trained


def parameter_groups(objective: nn.Module, config: TrainingConfig) -> list[ParameterGroup]:
    """Return AdamW's parameter groups: by part of the model (trunk, rest) if their options differ, and by weight decay.

    Every trainable parameter is in exactly one group, and no group is empty.

    Raises:
        RLTransformerError: There are options for the trunk, but none of its parameters is trained.
    """
    named = trained_parameters(objective)
    decaying = set(named) if config.decay == "all" else _matrix_names(objective, set(named))
    groups: list[ParameterGroup] = []
    for part, members, weight_decay, relative_rate in _parts(set(named), config):
        # An empty group means that a name or a layer class no longer matches, for example after a rename. The user's
        # weight decay would then have no effect, and nothing else would show it.
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
                        # The order of a set of strings differs between processes; sorted, the groups are reproducible.
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
            "no parameter of the trunk is trained",
            where=f"training.{given[0]}",
            fix="leave it out, or set training.trunk to full",
        )
    decay = config.weight_decay if config.trunk_weight_decay is None else config.trunk_weight_decay
    rate = 1.0 if config.trunk_learning_rate is None else config.trunk_learning_rate / config.learning_rate
    return [("trunk ", in_trunk, decay, rate), ("rest ", names - in_trunk, config.weight_decay, 1.0)]


def _matrix_names(objective: nn.Module, names: set[str]) -> set[str]:
    """Return those of ``names`` that are weights of linear and convolution layers, or low-rank updates of them.

    Biases, layer norms and embedding tables are not among them, as in minGPT: they set scales and offsets, and
    shrinking those does not make the network simpler.
    """
    matrices = set()
    for module_name, module in objective.named_modules():
        prefix = f"{module_name}.".removeprefix("model.").removeprefix("loss.") if module_name else ""
        for key in dict(module.named_parameters(recurse=False)):
            if isinstance(module, LowRank) or (key.endswith("weight") and _is_matrix(module)):
                matrices.add(prefix + key)
    return matrices & names


def _is_matrix(module: nn.Module) -> bool:
    # transformers' GPT-2 has a class of the same name; comparing names avoids importing transformers.
    return isinstance(module, _MATRICES) or type(module).__name__ == "Conv1D"


def describe_parameter_groups(optimizer: torch.optim.Optimizer, config: TrainingConfig) -> list[str]:
    """Return one line per parameter group with its size, learning rate and weight decay."""
    return [
        f"{group['role']}: {len(group['names'])} tensors, {sum(p.numel() for p in group['params'])} parameters, "
        f"learning rate {config.learning_rate * group['relative_rate']:g}, weight decay {group['weight_decay']:g}"
        for group in optimizer.param_groups
    ]


def set_learning_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to ``rate``, the schedule's, times the group's relative rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["relative_rate"]


def make_optimizer(objective: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over the parameter groups of ``objective``."""
    groups = [dict(group) for group in parameter_groups(objective, config)]
    # Fused: one kernel per group, and the only implementation that a captured CUDA graph can tell to skip a step.
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of update ``step``, counted from 1.

    It rises linearly from learning_rate / warmup_steps at the first update to learning_rate at update warmup_steps, as
    in kzl `experiment.py`. After that it is constant, or falls to zero at schedule_steps by half a cosine
    and stays there.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    # A run whose warm-up is as long as the run itself must not divide by zero.
    progress = (step - config.warmup_steps) / max(1, config.schedule_length - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

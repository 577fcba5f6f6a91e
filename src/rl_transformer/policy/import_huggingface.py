"""Make a policy of a Decision Transformer in transformers' layout, whose folder lacks the units that acting needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rl_transformer.conditions import ReturnToGo
from rl_transformer.errors import RLTransformerError
from rl_transformer.models import DecisionTransformerConfig, DecisionTransformerModel
from rl_transformer.policy.policy import Policy
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.runtime.machine import versions
from rl_transformer.runtime.paths import user_path
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.spaces import Space
from rl_transformer.windows.normalization import Normalizer


def import_huggingface(
    folder: str | Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float,
    context_length: int = 20,
    action_low: float = -1.0,
    action_high: float = 1.0,
) -> Policy:
    """Return a policy with the weights of a `transformers.DecisionTransformerModel`, which acts as its tutorials do.

    Args:
        folder: A folder with config.json and model.safetensors, such as ``model.save_pretrained(folder)`` writes.
        mean: Mean of each feature of the observations in the training data.
        std: Standard deviation of each feature; observations are normalized as (observation - mean) / std.
        scale: Divisor of returns; 1000 for the published Gym models.
        context_length: Timesteps that a prediction may see, the tutorials' ``max_length``.
        action_low: Lower bound of every action dimension; actions are clipped to the bounds, not scaled.
        action_high: Upper bound of every action dimension.

    Raises:
        RLTransformerError: The folder is not such a model, or a number of statistics does not fit it.
    """
    model = DecisionTransformerModel.from_pretrained(user_path(folder))
    config = model.config
    statistics = {
        "mean": _statistic("mean", mean, config.state_dim),
        "std": _statistic("std", std, config.state_dim),
    }
    if not (statistics["std"] > 0).all():
        fix = "give positive numbers; 1 for a feature that never changes"
        raise RLTransformerError(f"holds {statistics['std'].min()}", where="std", fix=fix)
    if context_length < 1:
        raise RLTransformerError(f"is {context_length}", where="context_length", fix="give 1 or more")
    if not action_low < action_high:
        raise RLTransformerError(
            f"[{action_low}, {action_high}] is empty", where="action bounds", fix="give low < high"
        )
    spec = _make_spec(model.config, context_length, scale, (action_low, action_high), source=str(folder))
    # transformers' model acts with its outputs as they are, in [-1, 1] after the tanh: no bounds are mapped to that.
    low, high = (torch.from_numpy(bound.astype(np.float32)) for bound in spec.data.action_space.bounds)
    normalizer = Normalizer(
        torch.from_numpy(statistics["mean"]),
        torch.from_numpy(statistics["std"]),
        torch.zeros(config.act_dim),
        torch.ones(config.act_dim),
        low,
        high,
    )
    return Policy(spec, model, normalizer)


def _make_spec(
    config: DecisionTransformerConfig,
    context_length: int,
    scale: float,
    bounds: tuple[float, float],
    *,
    source: str,
) -> PolicySpec:
    """Return the spec of a policy on vectors with one bound for all actions, which asks for the whole return."""
    observations = Space("box", shape=(config.state_dim,), low=(-np.inf,), high=(np.inf,))
    actions = Space("box", shape=(config.act_dim,), low=(float(bounds[0]),), high=(float(bounds[1]),))
    returns = ReturnToGo(scale=float(scale))
    return PolicySpec(
        arch="decision_transformer",
        model=config,
        data=DataSpec(observations, actions, source=source),
        context_length=context_length,
        conditions=(returns,),
        returns=returns,
        versions=versions(),
    )


def _statistic(name: str, values: Sequence[float], size: int) -> np.ndarray:
    """Return one number per feature as float32.

    Raises:
        RLTransformerError: Their number is another one, or one is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        problem = f"has shape {array.shape}, or is not finite; the model's observations have {size} features"
        raise RLTransformerError(problem, where=name, fix=f"give {size} numbers, those of the training data")
    return array.astype(np.float32)

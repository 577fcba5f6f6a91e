"""Checks of what is passed to a session; each refusal says what to pass instead.

Shapes: R sessions that act now, M legal-action mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.heads import ActionHead
from rl_transformer.policy.spec import PolicySpec


def check_rows(rows: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Return session indices as int64, or refuse repeated ones and those out of range."""
    array = np.asarray(rows, dtype=np.int64)
    listed = array.tolist()
    if array.ndim != 1 or len(set(listed)) < len(listed) or (listed and not 0 <= min(listed) <= max(listed) < count):
        raise RLTransformerError(
            f"{listed} are not distinct sessions out of {count}",
            where="sessions",
            fix=f"pass indices from 0 to {count - 1}, each once",
        )
    return array


def check_outcomes(
    rows: np.ndarray, rewards: ArrayLike, outcomes: Mapping[str, ArrayLike], needed: set[str]
) -> dict[str, np.ndarray]:
    """Return rewards and further outcomes as float64 (R,) each, by name.

    Raises:
        RLTransformerError: An outcome that a condition needs is missing, one that no condition uses, a wrong
            number of values, or one that is not finite.
    """
    for name in sorted(needed - set(outcomes)):
        raise RLTransformerError(
            f"a condition of this policy changes by the {name} of each action, and none was reported",
            where="observe",
            fix=f"call observe(reward, {name}=...)",
        )
    for name in sorted(set(outcomes) - needed):
        raise RLTransformerError(
            f"no condition of this policy uses the outcome {name!r}", where="observe", fix=f"leave {name} out"
        )
    checked = {}
    for name, values in {"reward": rewards, **outcomes}.items():
        array = np.asarray(values, np.float64)
        if array.shape != rows.shape:
            raise RLTransformerError(
                f"{name} has shape {array.shape} for {len(rows)} sessions",
                where="observe",
                fix="pass one number per session",
            )
        if not np.isfinite(array).all():
            raise RLTransformerError(
                f"the {name} {array[~np.isfinite(array)][0]} is not finite",
                where="observe",
                fix=f"repair the environment's {name}",
            )
        checked[name] = array
    return checked


def legal_action_mask(
    allowed: ArrayLike | tuple[ArrayLike, ...] | None,
    count: int,
    spec: PolicySpec,
    head: ActionHead,
    device: torch.device,
) -> Tensor | None:
    """Return the legal actions as (R, M) bool on the device; None if every action is legal.

    Raises:
        RLTransformerError: Actions without a mask, a wrong shape, or a mask that forbids every action.
    """
    if allowed is None:
        return None
    parts = spec.model.action_parts or (head.num_allowed,)
    mask = _join_parts(allowed, spec.model.action_parts)
    expected = (count, head.num_allowed)
    ends = np.cumsum(parts)
    if (
        head.num_allowed == 0
        or mask.shape != expected
        or not all(mask[:, end - size : end].any(axis=1).all() for end, size in zip(ends, parts, strict=True))
    ):
        raise RLTransformerError(
            f"allowed has shape {mask.shape}, or forbids every action, or the actions are not discrete",
            where="act",
            fix=f"pass booleans of shape {expected}, with at least one legal action per part, for discrete actions",
        )
    return torch.from_numpy(mask).to(device)


def _join_parts(allowed: ArrayLike | tuple[ArrayLike, ...], parts: Sequence[int]) -> np.ndarray:
    """Return a mask as one array; a tuple is taken for one mask per part if the actions have ``parts``."""
    try:
        if not (isinstance(allowed, tuple) and parts):
            return np.asarray(allowed, dtype=bool)
        masks = [np.asarray(part, dtype=bool) for part in allowed]
        if [mask.shape[-1:] for mask in masks] != [(size,) for size in parts]:
            raise ValueError(f"the masks have the shapes {[mask.shape for mask in masks]}")
        return np.concatenate(masks, axis=-1)
    except ValueError as error:  # numpy's for lists of unequal lengths
        per_part = f", or a tuple with a mask of each length in {list(parts)}" if parts else ""
        raise RLTransformerError(
            f"allowed is not an array of booleans: {error}", where="act", fix=f"pass one array{per_part}"
        ) from None


def check_finite_actions(parameters: Tensor, conditions: Mapping[str, np.ndarray]) -> None:
    """Refuse to act on model output that is not finite."""
    if not torch.isfinite(parameters).all():
        targets = {name: value[:5, 0].tolist() for name, value in conditions.items()}
        raise RLTransformerError(
            f"the model output is not finite (conditions now {targets})",
            where="act",
            fix="choose a target closer to the training data's, and check the observation",
        )

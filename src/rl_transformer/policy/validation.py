"""Check the arguments of a session; each error message says what to pass instead.

Shapes: R sessions that act now, F parameters of the action head, M length of a legal-action mask, W width of a condition.
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
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int64


def check_rows(rows: Sequence[int] | np.ndarray, count: int) -> Int64[np.ndarray, "R"]:
    """Return session indices as an array.

    Raises:
        RLTransformerError: There is no index, or one is repeated or out of range.
    """
    # NumPy would count negative indices from the end, and write to a repeated one twice.
    array = np.asarray(rows, dtype=np.int64)
    listed = array.tolist()
    if array.ndim != 1 or not listed or len(set(listed)) < len(listed) or not 0 <= min(listed) <= max(listed) < count:
        raise RLTransformerError(
            f"{listed} are not distinct sessions out of {count}",
            where="sessions",
            fix=f"pass indices from 0 to {count - 1}, each once",
        )
    return array


def check_outcomes(
    rows: Int64[np.ndarray, "R"], rewards: ArrayLike, outcomes: Mapping[str, ArrayLike], needed: set[str]
) -> dict[str, Float64[np.ndarray, "R"]]:
    """Return rewards and further outcomes as arrays, by name.

    Raises:
        RLTransformerError: An outcome that a condition needs is missing, no condition uses one that is given, their
            number is wrong, or one is not finite.
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
) -> Bool[Tensor, "R M"] | None:
    """Return the mask of legal actions on the device, or None if every action is legal.

    Raises:
        RLTransformerError: The actions take no mask, or the mask has a wrong shape or forbids every action.
    """
    if allowed is None:
        return None
    # A plain discrete action is a single part. Every part needs a legal value, or its distribution would be empty.
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


def _join_parts(allowed: ArrayLike | tuple[ArrayLike, ...], parts: Sequence[int]) -> Bool[np.ndarray, "..."]:
    """Return a mask as one array; if the actions have ``parts``, a tuple holds one mask for each of them."""
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


def check_finite_actions(
    parameters: Float[Tensor, "R F"], conditions: Mapping[str, Float64[np.ndarray, "R _"]]
) -> None:
    """Raise an error if the model's output is not finite; the message shows the conditions of a few sessions."""
    # A model that extrapolates far beyond its data may overflow, and an environment would take NaN for an action.
    if not torch.isfinite(parameters).all():
        targets = {name: value[:5, 0].tolist() for name, value in conditions.items()}
        raise RLTransformerError(
            f"the model output is not finite (conditions now {targets})",
            where="act",
            fix="choose a target closer to the training data's, and check the observation",
        )

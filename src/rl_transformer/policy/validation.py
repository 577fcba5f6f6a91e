"""Check the arguments of a session; each error message says what to pass instead.

Shapes: S sessions, R sessions that act now, F parameters of the action head, M length of a legal-action mask, W width of a condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.heads import ActionHead
from rl_transformer.policy.actions import describe_space
from rl_transformer.policy.session_state import MAX_SEED
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int64, Shaped
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.nested import stack
from rl_transformer.trajectories.spaces import Space


def check_rows(rows: Sequence[int] | np.ndarray, is_open: Bool[np.ndarray, "S"]) -> Int64[np.ndarray, "R"]:
    """Return session indices as an array.

    Raises:
        RLTransformerError: There is no index, or one is repeated, out of range, or that of a closed session.
    """
    count = len(is_open)
    # NumPy would count negative indices from the end, and write to a repeated one twice.
    array = np.asarray(rows, dtype=np.int64)
    listed = array.tolist()
    if array.ndim != 1 or not listed or len(set(listed)) < len(listed) or not 0 <= min(listed) <= max(listed) < count:
        raise RLTransformerError(
            f"{listed} are not distinct sessions out of {count}",
            where="sessions",
            fix=f"pass indices from 0 to {count - 1}, each once",
        )
    if not is_open[array].all():
        raise RLTransformerError(
            f"session {int(array[~is_open[array]][0])} is closed",
            where="sessions",
            fix="use the rows that add() returned, until close()",
        )
    return array


def check_starts(target_returns: Sequence[float | None], seeds: Sequence[int], count: int) -> list[int]:
    """Return the seeds of ``count`` new episodes as plain integers.

    Raises:
        RLTransformerError: There are more or fewer targets or seeds, or one is no seed.
    """
    listed = list(seeds)
    if len(listed) != count or len(target_returns) != count:
        raise RLTransformerError(
            f"{len(target_returns)} target returns and {len(listed)} seeds for {count} sessions",
            where="sessions",
            fix="pass one target return (or None) and one seed per session",
        )
    if not all(isinstance(seed, int | np.integer) and 0 <= seed < MAX_SEED for seed in listed):
        raise RLTransformerError(
            f"{listed[:5]} are not all seeds", where="seeds", fix="pass integers of 0 or more, below 2**256"
        )
    return [int(seed) for seed in listed]


def read_outcomes(
    rows: Int64[np.ndarray, "R"], rewards: object, outcomes: Mapping[str, object], known: set[str]
) -> dict[str, tuple[Float64[np.ndarray, "R"], Bool[np.ndarray, "R"]]]:
    """Return rewards and further outcomes as numbers, and where each is reported; None stands for "not reported".

    Raises:
        RLTransformerError: No condition uses an outcome that is given, the number of values is wrong, or one is not a
            finite number.
    """
    for name in sorted(set(outcomes) - known):
        raise RLTransformerError(
            f"no condition of this policy uses the outcome {name!r}", where="observe", fix=f"leave {name} out"
        )
    return {name: _read_outcome(name, values, len(rows)) for name, values in {"reward": rewards, **outcomes}.items()}


def _read_outcome(name: str, values: object, count: int) -> tuple[Float64[np.ndarray, "R"], Bool[np.ndarray, "R"]]:
    """Return one outcome of several sessions, and where it is reported."""
    if values is None:
        return np.zeros(count), np.zeros(count, dtype=bool)
    is_reported = np.ones(count, dtype=bool)
    if isinstance(values, list | tuple) and len(values) == count:
        is_reported = np.array([value is not None for value in values], dtype=bool)
        values = [0.0 if value is None else value for value in values]
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise RLTransformerError(
            f"the {name} is not a number", where="observe", fix="pass one number per session, None if it is not known"
        ) from None
    # Rewards often arrive as arrays of one number each.
    if array.size != count or array.ndim == 0:
        raise RLTransformerError(
            f"{name} has shape {array.shape} for {count} sessions", where="observe", fix="pass one number per session"
        )
    array = array.reshape(count)
    if not np.isfinite(array).all():
        raise RLTransformerError(
            f"the {name} {array[~np.isfinite(array)][0]} is not finite",
            where="observe",
            fix=f"repair the environment's {name}",
        )
    return array, is_reported


def check_needed(outcomes: Mapping[str, object], needed: set[str]) -> None:
    """Raise an error if an outcome that a condition needs is left out; a value of None is no omission."""
    for name in sorted(needed - set(outcomes)):
        raise RLTransformerError(
            f"a condition of this policy changes by the {name} of each action, and none was reported",
            where="observe",
            fix=f"call observe(reward, {name}=...), with None if it is not known yet",
        )


def stack_live(space: Space, observation: Nested) -> Nested:
    """Return one live observation with a leading axis of one session, through dicts and tuples.

    Raises:
        RLTransformerError: It is not made of arrays.
    """
    try:
        return stack([observation])
    except ValueError as error:  # numpy's, for lists of different lengths
        raise _foreign_observation(space, f"is not an observation: {error}") from None


def _foreign_observation(space: Space, problem: str, part: str = "observation") -> RLTransformerError:
    fix = f"pass what the policy was trained on: {describe_space(space)}; compare the environment and its wrappers"
    return RLTransformerError(problem, where=f"act: {part}", fix=fix)


def flatten_live(space: Space, observations: Nested, count: int) -> Shaped[np.ndarray, "R ..."]:
    """Return live observations, flattened.

    Raises:
        RLTransformerError: They are not observations of the space, not finite, or not one per session.
    """
    try:
        flat = space.flatten(observations)
    except RLTransformerError as error:  # its fix is for logged data
        raise _foreign_observation(space, error.problem, error.where) from None
    except (TypeError, ValueError, IndexError) as error:
        raise _foreign_observation(space, f"is not an observation: {error}") from None
    if len(flat) != count:
        raise RLTransformerError(
            f"{len(flat)} observations for {count} sessions", where="act", fix="pass one per session"
        )
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        bad = np.argwhere(~np.isfinite(flat))[0]
        raise RLTransformerError(
            f"feature {bad[1]} of the observation is {flat[tuple(bad)]}",
            where="act",
            fix="repair the environment's observation",
        )
    return flat


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

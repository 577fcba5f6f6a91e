"""Convert actions between the model's units and the values that an environment executes.

Shapes: R sessions that act now, X executed actions, A length of an action vector, M length of a legal-action mask; *action are the axes of one action, *shape those of
one value of the action space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Bool, Int64, Shaped
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.action_checks import BOUND_SLACK
from rl_transformer.trajectories.spaces import Space
from rl_transformer.windows.normalization import Normalizer

_WHERE = "observe: action"


class ActionUnits:
    """Converts actions between the model's units and the values of the action space.

    Args:
        space: The action space.
        normalizer: The policy's.
        device: Where the model is.
    """

    def __init__(self, space: Space, normalizer: Normalizer, device: torch.device) -> None:
        self._space = space
        self._normalizer = normalizer
        self._device = device
        # Computed once for all actions of a batch of sessions.
        self._limits = limits_in_dtype(space) if space.is_continuous else None

    def to_environment(self, actions: Shaped[Tensor, "R *action"]) -> Shaped[np.ndarray, "R *shape"]:
        """Return the values to execute for actions in the model's units; they always lie in the space."""
        if self._limits is None:
            return self._space.decode_actions(actions.cpu().numpy())
        return self._space.decode_actions(fit(self._normalizer.to_env_actions(actions).cpu().numpy(), *self._limits))

    def to_model(self, executed: Shaped[np.ndarray, "R *shape"]) -> Shaped[Tensor, "R *action"]:
        """Return executed values of the action space in the model's units."""
        stored = torch.from_numpy(np.ascontiguousarray(self._space.encode_actions(executed)))
        return self._normalizer.to_model_actions(stored.to(self._device))


def fit(
    values: Shaped[np.ndarray, "R A"], low: Shaped[np.ndarray, "A"], high: Shaped[np.ndarray, "A"]
) -> Shaped[np.ndarray, "R A"]:
    """Return values in the dtype of two limits and between them, whole numbers if it is an integer one."""
    dtype = low.dtype
    # Clipped after the conversion, because float32(-0.1) lies below -0.1 in float64, and a conversion may round, too.
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.clip(values.astype(dtype), low, high)
    # In float64, which holds every float32; beyond the range of the dtype a conversion would be undefined.
    rounded = np.rint(values.astype(np.float64))
    is_high = rounded >= high.astype(np.float64)
    is_low = rounded <= low.astype(np.float64)
    inside = np.where(is_high | is_low, 0, rounded).astype(dtype)
    return np.where(is_high, high, np.where(is_low, low, inside))


def limits_in_dtype(space: Space) -> tuple[Shaped[np.ndarray, "A"], Shaped[np.ndarray, "A"]]:
    """Return the smallest and the largest number of a box's dtype inside each dimension's bounds, flattened."""
    dtype = np.dtype(space.dtype)
    size = space.flat_dim
    bounds = [np.broadcast_to(np.asarray(side, np.float64), size) for side in (space.low, space.high)]
    if dtype.kind == "f":
        largest = np.finfo(dtype).max
        with np.errstate(over="ignore"):
            low, high = (np.clip(side.astype(dtype), -largest, largest) for side in bounds)
        # A bound that the dtype cannot represent is rounded inwards, unless no number would remain.
        inner_low = np.where(low.astype(np.float64) < bounds[0], np.nextafter(low, dtype.type(np.inf)), low)
        inner_high = np.where(high.astype(np.float64) > bounds[1], np.nextafter(high, dtype.type(-np.inf)), high)
        is_empty = inner_low > inner_high
        return np.where(is_empty, low, inner_low), np.where(is_empty, high, inner_high)
    # Python's integers are exact, and the limits of int64 are not float64 numbers.
    limits = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    integers = [
        [
            min(max(int(number), limits[0]), limits[1]) if np.isfinite(number) else limits[int(number > 0)]
            for number in side
        ]
        for side in (np.ceil(bounds[0]), np.floor(bounds[1]))
    ]
    return np.array(integers[0], dtype), np.array(integers[1], dtype)


def select_executed(
    actions: Sequence[Nested] | np.ndarray | None, count: int
) -> tuple[Int64[np.ndarray, "X"], list[Nested]]:
    """Return the places at which an executed action is given, and these actions; None stands for the chosen one.

    Raises:
        RLTransformerError: There are fewer or more actions than sessions.
    """
    if actions is None:
        return np.zeros(0, dtype=np.int64), []
    is_array = isinstance(actions, np.ndarray) and actions.ndim > 0
    listed = list(actions) if is_array or isinstance(actions, list | tuple) else []
    if len(listed) != count:
        raise _refused(
            f"{len(listed)} actions for {count} sessions", "pass one per session, or None for the chosen one"
        )
    places = [place for place, action in enumerate(listed) if action is not None]
    return np.array(places, dtype=np.int64), [listed[place] for place in places]


def check_executed(
    actions: Sequence[Nested], space: Space, allowed: Sequence[Bool[np.ndarray, "M"] | None]
) -> Shaped[np.ndarray, "X *shape"] | None:
    """Return executed actions as an array, after the checks of logged actions; None if there are none.

    Args:
        actions: What was executed, one value of the space each.
        space: The action space.
        allowed: The legal actions of each, as given to `act`; None: all.

    Raises:
        RLTransformerError: An action is not one of the space, not finite, or not a legal one.
    """
    if not actions:
        return None
    fix = f"pass what was executed, as the environment received it: {describe_space(space)}"
    try:
        array = np.stack([np.asarray(action) for action in actions])
        if array.dtype.kind not in "biuf":
            raise _refused(f"holds {array.dtype}, not numbers", fix)
        if not np.isfinite(array).all():
            raise _refused(f"{array[~np.isfinite(array)][0]} is not finite", fix)
        stored = space.encode_actions(array)
    except ValueError as error:  # numpy's, for actions of different shapes
        raise _refused(f"is not an array: {error}", fix) from None
    except RLTransformerError as error:  # a wrong shape; the fix for logged actions would not help here
        raise error if error.where == _WHERE else _refused(error.problem, fix) from None
    flat = array.reshape(len(array), -1)
    outside = space.outside(flat if space.is_continuous else array, slack=BOUND_SLACK)
    if space.is_continuous and np.dtype(space.dtype).kind in "iu":
        outside = outside | (flat != np.floor(flat))
    if outside.any():
        raise _refused(f"{array.reshape(outside.shape)[outside][0]} lies outside the action space", fix)
    # A mask counts from 0; the message shows what the caller passed, which may begin elsewhere.
    for action, index, mask in zip(space.decode_actions(stored), stored, allowed, strict=True):
        starts = np.cumsum((0, *space.nvec[:-1])) if space.nvec else 0
        if mask is not None and not mask[index + starts].all():
            raise _refused(f"{action.tolist()} was not allowed when the session acted", "pass a legal action")
    return array


def describe_space(space: Space) -> str:
    """Return a space in words, for messages."""
    if space.kind == "discrete":
        return f"an integer from {space.start} to {space.start + space.n - 1}"
    if space.kind == "multi_discrete":
        return f"integers with {list(space.nvec)} values from {list(space.starts)}, of shape {space.shape}"
    if space.kind in ("dict", "tuple"):
        return f"a {space.kind} of {', '.join(f'{name} ({describe_space(part)})' for name, part in space.parts)}"
    if space.kind == "multi_binary":
        return f"zeros and ones of shape {space.shape}"
    low, high = space.bounds
    bounds = f" from {low.min():g} to {high.max():g}" if low.size else ""
    return f"{space.dtype} of shape {space.shape}{bounds}"


def _refused(problem: str, fix: str) -> RLTransformerError:
    return RLTransformerError(problem, where=_WHERE, fix=fix)

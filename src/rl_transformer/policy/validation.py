"""Check the arguments of a session; each error message says what to pass instead.

Shapes: S sessions, R sessions that act now, F parameters of the action head, W width of a condition.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.actions import describe_space
from rl_transformer.policy.session_state import MAX_SEED
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int64, Shaped
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.mixed_rows import numbers_of
from rl_transformer.trajectories.nested import select_part, stack
from rl_transformer.trajectories.spaces import Space

RUNS_AWAY = "discounted:G divides the remaining return by G at every step, so a target that is not met diverges; returns.update keep or returns.kind next:N keep it fixed, and return_to_go can be set"


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


def as_list(values: object, *, where: str, fix: str = "pass one per session, in a list") -> list[Any]:
    """Return several values as a list.

    Raises:
        RLTransformerError: It is a single value, such as a number or a text.
    """
    # A text and a dict have a length, too, but their elements are not what is meant. An array of no axis has none.
    is_single = isinstance(values, str | bytes | Mapping) or getattr(values, "ndim", 1) == 0
    if isinstance(values, Collection) and not is_single:
        return list(values)
    raise RLTransformerError(f"{values!r} is not a list", where=where, fix=fix)


def check_starts(target_returns: object, seeds: object, count: int | None) -> tuple[list[Any], list[int]]:
    """Return the target returns and the seeds of new episodes, the latter as plain integers.

    Args:
        target_returns: As the caller passed them.
        seeds: As the caller passed them.
        count: The number of sessions; None if it is that of the target returns.

    Raises:
        RLTransformerError: They are not lists of ``count`` values, or a seed is none.
    """
    targets = as_list(target_returns, where="target_returns")
    listed = as_list(seeds, where="seeds")
    count = len(targets) if count is None else count
    if len(listed) != count or len(targets) != count:
        raise RLTransformerError(
            f"{len(targets)} target returns and {len(listed)} seeds for {count} sessions",
            where="sessions",
            fix="pass one target return (or None) and one seed per session",
        )
    if not all(isinstance(seed, int | np.integer) and 0 <= seed < MAX_SEED for seed in listed):
        raise RLTransformerError(
            f"{listed[:5]} are not all seeds", where="seeds", fix="pass integers of 0 or more, below 2**256"
        )
    return targets, [int(seed) for seed in listed]


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
    if isinstance(values, np.ndarray) and values.dtype == object:  # it may hold None
        values = values.tolist()
    if isinstance(values, list | tuple) and len(values) == count:
        is_reported = np.array([value is not None for value in values], dtype=bool)
        values = [0.0 if value is None else value for value in values]
    try:
        # NumPy would read "1" as a number.
        given = np.asarray(values)
        if given.dtype.kind in "US" or any(isinstance(value, str | bytes) for value in given.flat):
            raise TypeError
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
        return stack([_tuples_as_arrays(space, observation)])
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
        arrays = _tuples_as_arrays(space, observations)
        flat = space.flatten(arrays)
        _check_binary(space, arrays)
    except RLTransformerError as error:  # its fix is for logged data
        raise _foreign_observation(space, error.problem, error.where) from None
    except (TypeError, ValueError, IndexError) as error:
        raise _foreign_observation(space, f"is not an observation: {error}") from None
    if len(flat) != count:
        raise RLTransformerError(
            f"{len(flat)} observations for {count} sessions", where="act", fix="pass one per session"
        )
    numbers = flat if space.streams is None else numbers_of(space, flat)
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        bad = np.argwhere(~np.isfinite(numbers))[0]
        raise RLTransformerError(
            f"feature {bad[1]} of the observation is {numbers[tuple(bad)]}",
            where="act",
            fix="repair the environment's observation",
        )
    return flat


def _tuples_as_arrays(space: Space, values: Nested) -> Nested:
    """Return nested values in which only the parts of a tuple space are tuples; numbers in a tuple become an array."""
    if not isinstance(values, dict | tuple):
        return values
    if not space.parts:
        return np.asarray(values) if isinstance(values, tuple) else values
    parts = dict(space.parts)
    if isinstance(values, dict):
        return {name: _tuples_as_arrays(parts[name], part) if name in parts else part for name, part in values.items()}
    return tuple(_tuples_as_arrays(parts[str(i)], part) if str(i) in parts else part for i, part in enumerate(values))


def _check_binary(space: Space, values: Nested, where: str = "observation") -> None:
    """Raise an error for a live value of a multi-binary space, or of a part that is one, that is neither 0 nor 1."""
    # A dict or tuple may also be given flattened, as one array.
    if isinstance(values, dict | tuple | list):
        for name, part in space.parts:
            _check_binary(part, select_part(values, name, where), f"{where}[{name}]")
    if space.kind == "multi_binary":
        array = np.asarray(values)
        is_other = (array != 0) & (array != 1)
        if is_other.any():
            raise RLTransformerError(f"{array[is_other][0]} is neither 0 nor 1", where=where, fix="pass zeros and ones")


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


def check_late(spec: PolicySpec) -> None:
    """Raise an error if it would matter how late a reward is: a target of discounted returns is charged with it."""
    if spec.takes_target and spec.returns.depends_on_delay:
        raise RLTransformerError(
            "a late reward would have to be discounted by its delay, which is not recorded",
            where="observe_late",
            fix="set return_to_go, or train with returns.kind next:N or returns.update keep",
        )


def growth_note(spec: PolicySpec, conditions: Mapping[str, Float64[np.ndarray, "R _"]]) -> str | None:
    """Return a note if a discounted return-to-go has left the training data; else None."""
    limits = spec.target_ranges.get("return_to_go")
    if limits is None or not (spec.takes_target and spec.returns.depends_on_delay):
        return None
    values = conditions["return_to_go"]
    rounding = 1e-6 * max(map(abs, limits))
    outside = values[(values < limits[0] - rounding) | (values > limits[1] + rounding)]
    if not outside.size:
        return None
    return f"note: a return-to-go is now {outside[0]:g}, outside the training data's [{limits[0]:g}, {limits[1]:g}]; {RUNS_AWAY}"

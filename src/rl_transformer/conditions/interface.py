"""The interface of conditions, their registry, and the checks that a plugin's condition must pass.

Shapes: N steps of data, E episodes, S sessions, W numbers of one condition.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from numbers import Real
from typing import ClassVar, Protocol, Self, TypeAlias, cast

import numpy as np

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.registry import Registry, broken_contract, call_plugin
from rl_transformer.runtime.shapes import Float, Float32, Float64, Int
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.sharded_column import Column

# The number of steps on which a plugin's `after` is compared with its column, and the difference that is allowed, as a
# fraction of the largest value: columns are float32, and sums over long episodes are rounded at every step.
_MAX_CHECKED = 10_000
_TOLERANCE = 1e-4

Target: TypeAlias = float | Sequence[float]
"""The value that a caller sets for a condition: a number, or as many numbers as the condition is wide."""


class Condition(Protocol):
    """A quantity that the policy reads at every timestep, and that the caller sets at the start of an episode.

    One object serves training, sessions, evaluation and the policy folder, so that the quantity cannot
    mean one thing in the data and another while acting.
    """

    name: ClassVar[str]
    """Name in ``model.conditions``, in sessions and in reports."""
    outcome: ClassVar[str]
    """Name of the outcome by which it changes after an action: an argument of ``session.observe``, such as cost."""

    @property
    def width(self) -> int:
        """Return W, the numbers per timestep."""
        ...

    @property
    def scale(self) -> float:
        """Return the number by which values are divided for the model; everything else uses unscaled values."""
        ...

    @classmethod
    def from_data(cls, dataset: TrajectoryDataset, config: RunConfig) -> Self:
        """Make the condition for a run; what the options leave open follows from the data."""
        ...

    def column(self, dataset: TrajectoryDataset) -> Float32[Column, "N"] | Float32[Column, "N W"]:
        """Return the unscaled value at every step of the data."""
        ...

    def initial(self, target: Target) -> Float64[np.ndarray, "W"]:
        """Return the value at an episode's first step, for a target of the caller."""
        ...

    def after(self, value: Float64[np.ndarray, "S W"], outcome: Float[np.ndarray, "S"]) -> Float64[np.ndarray, "S W"]:
        """Return the value after an action, from the value before it and the action's outcome.

        Contract: applied from an episode's first step on to the values of `column` and the logged outcomes, it
        results in `column` at every later step.
        """
        ...

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold, with ``name``."""
        ...

    @classmethod
    def from_dict(cls, values: JsonMapping) -> Self:
        """Rebuild a condition from the values of `to_dict`."""
        ...


CONDITIONS: Registry[type[Condition]] = Registry(
    "condition", required=("name", "outcome", "from_data", "column", "initial", "after", "to_dict", "from_dict")
)
"""All conditions, by name."""


def conditions_from_data(dataset: TrajectoryDataset, config: RunConfig) -> tuple[Condition, ...]:
    """Return the conditions of ``model.conditions`` for a dataset, in that order.

    Raises:
        RLTransformerError: There is no such condition, or the data lacks the column that it needs.
    """
    conditions: list[Condition] = []
    for name in config.model.conditions:
        kind = CONDITIONS.get(name, where="model.conditions")
        made = call_plugin(CONDITIONS, name, "from_data()", lambda kind=kind: kind.from_data(dataset, config))
        if getattr(made, "name", None) != name:
            problem = f"from_data() returned {type(made).__name__}, whose name is not {name!r}"
            raise broken_contract(CONDITIONS, name, problem)
        conditions.append(made)
    return tuple(conditions)


def conditions_from_dicts(dicts: Sequence[JsonMapping], *, where: object) -> tuple[Condition, ...]:
    """Read conditions from a policy folder.

    Raises:
        RLTransformerError: A condition is not registered; a policy never names the place of its code.
    """
    conditions: list[Condition] = []
    for values in dicts:
        name = str(values.get("name"))
        kind = CONDITIONS.get(name, where=where)
        what = f"from_dict() of {where}"
        conditions.append(call_plugin(CONDITIONS, name, what, lambda k=kind, v=values: k.from_dict(v)))
    return tuple(conditions)


def checked_column(condition: Condition, dataset: TrajectoryDataset) -> Float32[Column, "N W"]:
    """Return a condition's column after checking its shape, and the values if a plugin computed them."""
    name = condition.name
    column = call_plugin(CONDITIONS, name, "column()", lambda: condition.column(dataset))
    if not isinstance(column, Column) or column.dtype.kind not in "biuf":
        kind = f"an array of {column.dtype}" if isinstance(column, Column) else type(column).__name__
        raise broken_contract(CONDITIONS, name, f"column() returned {kind}, not an array of numbers")
    expected = (dataset.num_steps, condition.width)
    if column.shape != expected and not (condition.width == 1 and column.shape == expected[:1]):
        raise broken_contract(CONDITIONS, name, f"column() has shape {column.shape}, not {expected}")
    # Built-in conditions are sums of columns that were checked when the data was read.
    if CONDITIONS.is_from_plugin(name) and not np.isfinite(column).all():
        raise broken_contract(CONDITIONS, name, "column() holds NaN or infinite values")
    return column.astype(np.float32, copy=False).reshape(expected)


def value_after(
    condition: Condition, value: Float64[np.ndarray, "S W"], outcome: Float[np.ndarray, "S"]
) -> Float64[np.ndarray, "S W"]:
    """Return a condition's value after an action, and check it if a plugin computed it."""
    name = condition.name
    following = call_plugin(CONDITIONS, name, "after()", lambda: condition.after(value, outcome))
    if CONDITIONS.is_from_plugin(name):
        if np.shape(following) != value.shape:
            problem = f"after() made the shape {np.shape(following)} of values of shape {value.shape}"
            raise broken_contract(CONDITIONS, name, problem)
        if not np.isfinite(following).all():
            raise broken_contract(CONDITIONS, name, f"after() made NaN or infinite values of {value[:5].tolist()}")
    return following


def check_condition_contract(condition: Condition, dataset: TrajectoryDataset) -> None:
    """Check what training, sessions and the policy folder depend on, before anything is trained.

    Raises:
        RLTransformerError: The condition breaks its contract; the message names the plugin.
    """
    name = condition.name

    def check() -> None:
        """Raise an error at the first part of the contract that does not hold."""
        if not (type(condition.width) is int and condition.width >= 1 and 0 < float(condition.scale) < math.inf):
            problem = f"width {condition.width!r} and scale {condition.scale!r} are not a positive int and float"
            raise broken_contract(CONDITIONS, name, problem)
        # Through text, as in a policy folder: a tuple, for example, comes back as a list.
        stored = json.dumps(condition.to_dict(), sort_keys=True, allow_nan=False)
        values = json.loads(stored)
        restored = type(condition).from_dict(values).to_dict()
        if values.get("name") != name or json.dumps(restored, sort_keys=True) != stored:
            raise broken_contract(CONDITIONS, name, f"from_dict() does not restore what to_dict() made: {stored}")
        _check_after(condition, dataset)

    call_plugin(CONDITIONS, name, "a check of width, scale, to_dict() and from_dict()", check)


def _check_after(condition: Condition, dataset: TrajectoryDataset) -> None:
    """Check that `after` leads from the column at each step to the column at the next one, if the outcome is logged."""
    column = checked_column(condition, dataset)
    name = "rewards" if condition.outcome == "reward" else condition.outcome
    outcomes = dataset.columns.get(name)
    if outcomes is None or outcomes.size != dataset.num_steps:
        return  # only the environment reports it
    last_rows = dataset.offsets[1:] - 1
    rows = np.setdiff1d(np.arange(dataset.num_steps), last_rows)[:_MAX_CHECKED]
    if not rows.size:
        return
    # All steps in one call, as if each were a session of its own.
    computed = value_after(condition, column[rows].astype(np.float64), outcomes[rows].reshape(-1).astype(np.float64))
    wrong = np.abs(computed - column[rows + 1]) > _TOLERANCE * np.abs(np.asarray(column)).max()
    if wrong.any():
        place = int(np.flatnonzero(wrong.any(axis=1))[0])
        row = int(rows[place])
        episode = int(np.searchsorted(dataset.offsets, row, side="right")) - 1
        problem = (
            f"column() is {column[row].tolist()} at episode {episode}, step {row - int(dataset.offsets[episode])}, and "
            f"{column[row + 1].tolist()} one step later, where after() gives {computed[place].tolist()}"
        )
        raise broken_contract(CONDITIONS, condition.name, problem)


def power_of_ten_scale(values: Float[np.ndarray, "..."]) -> float:
    """Return the power of ten at or below the largest absolute value, or 1 if all values are zero."""
    # The scaled values are then at most ten. A round number is easy to recognize in a policy's spec.
    largest = float(np.abs(values).max())
    return 10.0 ** math.floor(math.log10(largest)) if largest > 0 else 1.0


def sum_to_go(values: Float64[np.ndarray, "N"], offsets: Int[np.ndarray, "_"]) -> Float64[np.ndarray, "N"]:
    """Return at every step the sum over the rest of its episode, the step included; ``offsets`` are (E + 1,)."""
    # One reversed cumulative sum over all the data, minus what follows each episode's end, instead of a loop.
    backwards = np.cumsum(values[::-1])[::-1]
    after_episode = np.append(backwards, 0.0)[offsets[1:]]
    return backwards - np.repeat(after_episode, np.diff(offsets))


def initial_value(condition: Condition, target: Target) -> Float64[np.ndarray, "W"]:
    """Return a condition's value at an episode's first step, after checking its shape and numbers."""
    value = call_plugin(CONDITIONS, condition.name, "initial()", lambda: condition.initial(target))
    array = np.asarray(value, np.float64)
    if array.shape != (condition.width,) or not (np.abs(array) <= np.finfo(np.float32).max).all():
        numbers = "a finite number" if condition.width == 1 else f"{condition.width} finite numbers"
        raise RLTransformerError(
            f"the target {target} of {condition.name} is not {numbers}", where="targets", fix=f"pass {numbers}"
        )
    return array


def target_text(target: Target) -> str:
    """Return a target as a person would write it: 25, or [1, 2]."""
    numbers = np.asarray(target, np.float64)
    if numbers.ndim:
        return f"[{', '.join(f'{number:g}' for number in numbers)}]"
    return f"{float(numbers):g}"


def finite_target(name: str, target: Target) -> Float64[np.ndarray, "1"]:
    """Return a target of width 1 as an array.

    Raises:
        RLTransformerError: It is not a finite float32 number.
    """
    # Targets come from command lines and from code that no type checker has seen. float() would accept text and True.
    number = target.item() if isinstance(target, np.ndarray | np.generic) and target.ndim == 0 else target
    if isinstance(number, bool):
        raise RLTransformerError(
            f"{number} is not a finite number: it is a truth value", where=name, fix="pass a finite target"
        )
    is_number = isinstance(number, Real)
    if not is_number or not abs(cast(float, number)) <= float(np.finfo(np.float32).max):
        raise RLTransformerError(f"{target} is not a finite number", where=name, fix="pass a finite target")
    return np.array([float(number)])

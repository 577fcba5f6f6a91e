"""The state of live sessions as plain data: written before a restart of a service, read and checked after it.

Arrays are base64 texts of little-endian bytes. Their shapes and dtypes are not in the file: they follow from the policy
and the session's step, so that a damaged or hostile state cannot ask for memory.

Shapes: N timesteps of one session.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.history import column_formats
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.runtime.reading import check_format
from rl_transformer.runtime.shapes import Bool, Float, Float64, Shaped
from rl_transformer.runtime.types import JsonObject

STATE_FORMAT = 2  # 2: targets that are chosen at the first observation
_WHERE = "session state"
_FIX = "pass what state() returned, unchanged"
_MAX_STEPS = 10**12
MAX_SEED = 2**256
_FIELDS = {
    "step", "awaits_outcome", "awaits_target", "seed", "draws", "conditions", "missing", "allowed", "history", "cache",
}  # fmt: skip
# The numbers of the timesteps follow from the step.
STORED_COLUMNS = ("states", "actions", "conditions")


@dataclass(frozen=True)
class Start:
    """How an episode begins."""

    seed: int
    conditions: dict[str, Float64[np.ndarray, "_"]]
    """Values of the conditions at the first step."""
    is_advised: bool
    """No target return was given."""


@dataclass(frozen=True)
class SessionState:
    """One session, checked."""

    step: int
    awaits_outcome: bool
    awaits_target: bool
    """The advised target is chosen at the first observation."""
    seed: int
    draws: int
    conditions: dict[str, list[float]]
    missing: dict[str, int]
    allowed: Bool[np.ndarray, "M"] | None
    history: dict[str, Shaped[Tensor, "N ..."]]
    cache: Float[Tensor, "layers tokens KV"] | None

    @property
    def acts(self) -> int:
        """Return the number of actions so far."""
        return self.step + self.awaits_outcome

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold."""
        return {
            "step": self.step,
            "awaits_outcome": self.awaits_outcome,
            "awaits_target": self.awaits_target,
            "seed": self.seed,
            "draws": self.draws,
            "conditions": self.conditions,
            "missing": self.missing,
            "allowed": None if self.allowed is None else self.allowed.tolist(),
            "history": {name: _encode(self.history[name]) for name in STORED_COLUMNS},
            "cache": None if self.cache is None else _encode(self.cache),
        }


@dataclass(frozen=True)
class StateFormat:
    """What a policy's states must look like."""

    spec: PolicySpec
    history_length: int
    num_allowed: int
    cache_shape: Callable[[int], tuple[int, ...]] | None
    """A function from the number of actions to the shape of the cache; None without one."""


def pack(policy_hash: str, sessions: Sequence[SessionState]) -> JsonObject:
    """Return the state of some sessions of one policy."""
    return {"format_version": STATE_FORMAT, "policy": policy_hash, "sessions": [s.to_dict() for s in sessions]}


def unpack(state: object, policy_hash: str, form: StateFormat) -> list[SessionState]:
    """Return the sessions of a state.

    Raises:
        RLTransformerError: It belongs to another policy or a later version, or is damaged.
    """
    if not isinstance(state, Mapping):
        raise _damaged(f"is a {type(state).__name__}, not a dict")
    check_format(state, STATE_FORMAT, where=_WHERE)
    is_complete = set(state) == {"format_version", "policy", "sessions"}
    if not is_complete or not isinstance(state["policy"], str) or not isinstance(state["sessions"], list | tuple):
        raise _damaged("does not have the fields format_version, policy (a hash) and sessions (a list)")
    if state["policy"] != policy_hash:
        raise RLTransformerError(
            f"belongs to the policy {state['policy'][:16]}, and this one is {policy_hash[:16]}",
            where=_WHERE,
            fix="load the policy with which the session began; content_hash tells policies apart",
        )
    return [_read_session(values, form, number) for number, values in enumerate(state["sessions"])]


def _read_session(values: Any, form: StateFormat, number: int) -> SessionState:
    """Return one session of a state after checking every value."""
    if not isinstance(values, Mapping) or set(values) != _FIELDS:
        raise _damaged(f"session {number} does not have the fields {', '.join(sorted(_FIELDS))}")
    step = _integer(values["step"], "step", _MAX_STEPS)
    awaits_outcome = values["awaits_outcome"]
    if not isinstance(awaits_outcome, bool):
        raise _damaged("awaits_outcome is not true or false")
    acts = step + awaits_outcome
    awaits_target = values["awaits_target"]
    advice = form.spec.advice
    may_await = acts == 0 and advice is not None and advice.depends_on_start
    if not isinstance(awaits_target, bool) or (awaits_target and not may_await):
        raise _damaged("awaits_target is not true or false, or true of a session that has its target")
    outcomes = {"reward", *(condition.outcome for condition in form.spec.conditions)}
    if not isinstance(values["missing"], Mapping) or set(values["missing"]) != outcomes:
        raise _damaged(f"missing does not hold a count for each of {', '.join(sorted(outcomes))}")
    return SessionState(
        step=step,
        awaits_outcome=awaits_outcome,
        awaits_target=awaits_target,
        seed=_integer(values["seed"], "seed", MAX_SEED),
        draws=_integer(values["draws"], "draws", 2**63),
        conditions=_read_conditions(values["conditions"], form.spec),
        missing={name: _integer(count, f"missing {name}", step) for name, count in values["missing"].items()},
        allowed=_read_allowed(values["allowed"], form, awaits_outcome),
        history=_read_history(values["history"], form, acts),
        cache=_read_cache(values["cache"], form, acts),
    )


def _read_conditions(values: Any, spec: PolicySpec) -> dict[str, list[float]]:
    """Return the conditions' present values."""
    widths = {condition.name: condition.width for condition in spec.conditions}
    if not isinstance(values, Mapping) or set(values) != set(widths):
        raise _damaged(f"conditions are not those of the policy: {', '.join(widths) or 'none'}")
    largest = float(np.finfo(np.float32).max)
    for name, numbers in values.items():
        is_list = isinstance(numbers, list | tuple) and len(numbers) == widths[name]
        if not is_list or not all(type(n) in (int, float) and abs(n) <= largest for n in numbers):
            raise _damaged(f"{name} is not {widths[name]} finite numbers")
    return {name: [float(number) for number in numbers] for name, numbers in values.items()}


def _read_allowed(values: Any, form: StateFormat, awaits_outcome: bool) -> np.ndarray | None:
    """Return the mask of the action that awaits its outcome."""
    if values is None:
        return None
    is_mask = isinstance(values, list | tuple) and len(values) == form.num_allowed
    if not awaits_outcome or not is_mask or not all(isinstance(value, bool) for value in values):
        raise _damaged(f"allowed is not null or {form.num_allowed} booleans of an action without an outcome")
    return np.array(values, dtype=bool)


def _read_history(values: Any, form: StateFormat, acts: int) -> dict[str, Tensor]:
    """Return the columns of the last timesteps."""
    if not isinstance(values, Mapping) or set(values) != set(STORED_COLUMNS):
        raise _damaged(f"history does not have the columns {', '.join(STORED_COLUMNS)}")
    formats = column_formats(form.spec)
    steps = history_steps(acts, form.history_length)
    columns = {
        name: _decode(values[name], (len(steps), *formats[name][0]), formats[name][1], f"history {name}")
        for name in STORED_COLUMNS
    }
    space = form.spec.data.action_space
    if not space.is_continuous and len(steps):
        sizes = torch.tensor(space.nvec or space.n)
        if not ((columns["actions"] >= 0) & (columns["actions"] < sizes)).all():
            raise _damaged("history holds actions outside the action space")
    columns["timesteps"] = torch.from_numpy(np.minimum(steps, form.spec.model.max_ep_len - 1))
    return columns


def _read_cache(values: Any, form: StateFormat, acts: int) -> Tensor | None:
    """Return the cached keys and values."""
    if (values is None) != (form.cache_shape is None):
        raise _damaged("has a KV cache where the policy has none, or none where it has one")
    return None if form.cache_shape is None else _decode(values, form.cache_shape(acts), torch.float32, "cache")


def history_steps(acts: int, length: int) -> np.ndarray:
    """Return the timesteps that a history of ``length`` holds after a number of actions."""
    return np.arange(max(0, acts - length), acts)


def _encode(tensor: Shaped[Tensor, "..."]) -> str:
    """Return a tensor's content as text."""
    array = np.ascontiguousarray(tensor.cpu().numpy())
    little = array if sys.byteorder == "little" else array.astype(array.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")


def _decode(text: Any, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> Shaped[Tensor, "..."]:
    """Return a tensor of a known shape from text."""
    layout = np.dtype(str(dtype).removeprefix("torch.")).newbyteorder("<")
    num_bytes = math.prod(shape) * layout.itemsize
    # Compared before anything is decoded, so that the memory is what the policy's sessions need anyway.
    if not isinstance(text, str) or len(text) != 4 * -(-num_bytes // 3):
        raise _damaged(f"{name} is not the base64 text of {num_bytes} bytes")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _damaged(f"{name} is not base64") from None
    if len(content) != num_bytes:
        raise _damaged(f"{name} holds {len(content)} bytes, not {num_bytes}")
    array = np.frombuffer(content, layout).astype(layout.newbyteorder("=")).reshape(shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _damaged(f"{name} holds numbers that are not finite")
    return torch.from_numpy(array)


def _integer(value: Any, name: str, largest: int) -> int:
    """Return a whole number of the state."""
    if type(value) is not int or not 0 <= value <= largest:
        raise _damaged(f"{name} is not a whole number from 0 to {largest}")
    return value


def _damaged(problem: str) -> RLTransformerError:
    return RLTransformerError(f"is damaged: {problem}", where=_WHERE, fix=_FIX)

"""One recorded episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, Nested

_KEYS = ("observations", "actions", "rewards")
_FLAGS = ("terminated", "truncated")


@dataclass(frozen=True)
class Trajectory:
    """Arrays of one episode of T steps, as a reader hands them over."""

    observations: Nested  # (T, ...), or nested dicts and tuples of such arrays
    actions: np.ndarray  # (T, A), or (T,) for discrete actions
    rewards: np.ndarray  # (T,)
    terminated: bool = False
    """The task ended the episode."""
    truncated: bool = False
    """A limit outside of the task ended the recording; neither flag: it was cut off unfinished."""
    final_observation: Nested = None
    """What was seen after the last action, if recorded."""
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further columns with one row a step, carried along under their own names."""

    @classmethod
    def from_mapping(cls, episode: JsonMapping, *, where: object) -> Trajectory:
        """Read a dict with observations, actions, rewards and the flags terminated and truncated.

        Observations may hold one row more than actions; the last one is then the final
        observation. Flags may be booleans or arrays with one a step (their last one counts).
        """
        missing = [key for key in _KEYS if key not in episode]
        if missing:
            raise RLTransformerError(
                f"has no {', '.join(missing)}; it has {', '.join(map(str, sorted(episode))) or 'nothing'}",
                where=where,
                fix=f"give every episode the arrays {', '.join(_KEYS)}",
            )
        rewards = np.asarray(episode["rewards"])
        observations, final = split_final(episode["observations"], len(rewards) if rewards.ndim else 0)
        length = len(rewards) if rewards.ndim else 0
        flags = {name: flag_at_end(episode.get(name, False), length, where=f"{where}: {name}") for name in _FLAGS}
        extras = {str(k): np.asarray(v) for k, v in episode.items() if k not in (*_KEYS, *_FLAGS, "final_observation")}
        return cls(
            observations,
            np.asarray(episode["actions"]),
            rewards,
            **flags,
            final_observation=episode.get("final_observation", final),
            extras=extras,
        )


def split_final(observations: Nested, num_steps: int) -> tuple[Nested, Nested]:
    """Cut T + 1 recorded observations into the T that were acted on and the final one.

    Works through nested dicts and tuples. Observations that have no extra row come back whole.
    """
    if isinstance(observations, Mapping):
        parts = {name: split_final(part, num_steps) for name, part in observations.items()}
        finals = {name: final for name, (_, final) in parts.items()}
        missing = any(final is None for final in finals.values())
        return {name: kept for name, (kept, _) in parts.items()}, None if missing else finals
    if isinstance(observations, tuple):
        pairs = [split_final(part, num_steps) for part in observations]
        finals = tuple(final for _, final in pairs)
        return tuple(kept for kept, _ in pairs), None if any(f is None for f in finals) else finals
    array = np.asarray(observations)
    if array.ndim and len(array) == num_steps + 1:
        return array[:-1], array[-1]
    return array, None


def flag_at_end(flag: ArrayLike, num_steps: int, *, where: object) -> bool:
    """Return whether an episode ended so: from a bool, or from one a step of which only the last may be True."""
    array = np.asarray(flag)
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise RLTransformerError(f"is {flag!r:.100}", where=where, fix="give True or False, or one of them a step")
    flags = array.astype(bool).reshape(-1)
    if array.ndim and len(flags) != num_steps:
        raise RLTransformerError(
            f"has {len(flags)} flags for {num_steps} steps", where=where, fix="give one flag a step"
        )
    if flags[:-1].any():
        problem = f"is set at step {int(np.flatnonzero(flags)[0])} of {num_steps}: the episode goes on after its end"
        raise RLTransformerError(problem, where=where, fix="cut the recording at episode ends, one episode each")
    return bool(flags[-1]) if flags.size else False

"""Hold one recorded episode, and read it from arrays."""

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
    """Holds the arrays of one episode of T steps, as a reader provides them."""

    observations: Nested  # (T, ...), or nested dicts and tuples of such arrays
    actions: np.ndarray  # (T, A), or (T,) for discrete actions
    rewards: np.ndarray  # (T,)
    terminated: bool = False
    """True if the task ended the episode."""
    truncated: bool = False
    """True if a limit outside of the task ended it, such as a time limit. Without either flag it is unfinished."""
    final_observation: Nested = None
    """Observation after the last action; None if it was not recorded."""
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Extra columns by name, with one row per step."""

    @classmethod
    def from_mapping(cls, episode: JsonMapping, *, where: object) -> Trajectory:
        """Return the trajectory in a dict with observations, actions, rewards, and perhaps the two flags.

        Args:
            episode: Arrays by name. Observations may have one row more than actions, and the last one is then the final
                observation. A flag is a bool, or an array with one per step. All other arrays become extra columns.
            where: The episode, for messages.

        Raises:
            RLTransformerError: An array is missing, or a flag is set before the last step.
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
    """Split T + 1 recorded observations into the T on which the policy acted and the final one.

    Args:
        observations: Arrays with T + 1 or T rows; nested dicts and tuples of arrays are split part by part.
        num_steps: T.

    Returns:
        The observations without the final one, and the final one; the latter is None if there are only T rows.
    """
    if isinstance(observations, Mapping):
        parts = {name: split_final(part, num_steps) for name, part in observations.items()}
        finals = {name: final for name, (_, final) in parts.items()}
        missing = any(final is None for final in finals.values())
        return {name: steps for name, (steps, _) in parts.items()}, None if missing else finals
    if isinstance(observations, tuple):
        pairs = [split_final(part, num_steps) for part in observations]
        finals = tuple(final for _, final in pairs)
        return tuple(steps for steps, _ in pairs), None if any(f is None for f in finals) else finals
    array = np.asarray(observations)
    if array.ndim and len(array) == num_steps + 1:
        return array[:-1], array[-1]
    return array, None


def flag_at_end(flag: ArrayLike, num_steps: int, *, where: object) -> bool:
    """Return True if the flag is set at the end of an episode.

    Args:
        flag: A bool, or one per step, of which only the last may be True.
        num_steps: Length of the episode.
        where: The flag, for messages.

    Raises:
        RLTransformerError: The flag is not boolean, has another length, or is set before the last step.
    """
    array = np.asarray(flag)
    # HDF5 files store flags as integers or floats as well, so 0 and 1 of any numeric type are accepted.
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise RLTransformerError(f"is {flag!r:.100}", where=where, fix="give True or False, or one of them per step")
    flags = array.astype(bool).reshape(-1)
    if array.ndim and len(flags) != num_steps:
        raise RLTransformerError(
            f"has {len(flags)} flags for {num_steps} steps", where=where, fix="give one flag per step"
        )
    # A flag in the middle means that several episodes were recorded as one. Returns-to-go summed across the border
    # would be wrong, and the policy would see the jump between episodes as a transition.
    if flags[:-1].any():
        problem = f"is set at step {int(np.flatnonzero(flags)[0])} of {num_steps}: the episode goes on after its end"
        raise RLTransformerError(problem, where=where, fix="cut the recording at episode ends, one episode each")
    return bool(flags[-1]) if flags.size else False

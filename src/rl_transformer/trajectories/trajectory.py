"""Hold one recorded episode, and read it from arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, Nested
from rl_transformer.trajectories.end_flags import is_flag, read_end_flags, refuse_unknown_flags
from rl_transformer.trajectories.nested import as_array, stack_steps
from rl_transformer.trajectories.spaces import Space

_KEYS = ("observations", "actions", "rewards")


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
    def from_mapping(cls, episode: JsonMapping, *, where: object, observation_space: Space | None = None) -> Trajectory:
        """Return the trajectory in a dict with observations, actions, rewards, and perhaps flags of its end.

        Args:
            episode: Arrays by name. Observations may have one row more than actions, and the last one is then the final
                observation; nested ones may also be given one by one, as a list of dicts or tuples. Without rewards,
                all are 0. A flag is a bool, or an array with one per step; ``terminated`` and ``truncated`` may have
                any of their usual names, see `end_flags`. All other arrays become extra columns.
            where: The episode, for messages.
            observation_space: Space of the observations, if it is known.

        Raises:
            RLTransformerError: An array is missing, or a flag is set before the last step.
        """
        if not isinstance(episode, Mapping):
            raise RLTransformerError(
                f"is of type {type(episode).__name__}, not a dict of arrays",
                where=where,
                fix='give every episode as a dict: {"observations": ..., "actions": ..., "rewards": ...}',
            )
        _check_keys(episode, where)
        actions = as_array(episode["actions"], where=f"{where}: actions")
        length = len(actions) if actions.ndim else 0
        rewards = as_array(episode.get("rewards", np.zeros(length)), where=f"{where}: rewards")
        length = len(rewards) if rewards.ndim else 0
        observations, final = split_final(stack_steps(episode["observations"], observation_space, where), length)
        further = {str(k): v for k, v in episode.items() if k not in (*_KEYS, "final_observation")}
        flags = {name: value for name, value in further.items() if is_flag(name, value)}
        extras = {
            name: as_array(value, where=f"{where}: {name}", otherwise=", or leave it out")
            for name, value in further.items()
            if name not in flags
        }
        refuse_unknown_flags(extras, where=where)
        terminated, truncated = read_end_flags(flags, length, where=where)
        return cls(
            observations,
            actions,
            rewards,
            terminated=terminated,
            truncated=truncated,
            final_observation=episode.get("final_observation", final),
            extras=extras,
        )


def _check_keys(episode: JsonMapping, where: object) -> None:
    """Raise an error if an episode lacks an array; rewards may be missing, but not under another name."""
    names = {str(key) for key in episode}
    similar = sorted(name for name in names if re.match(r"(?i)rews?$|reward|returns?$|r$", name))
    missing = [key for key in _KEYS if key not in names and (key != "rewards" or similar)]
    if missing:
        raise RLTransformerError(
            f"has no {', '.join(missing)}; it has {', '.join(sorted(names)) or 'nothing'}",
            where=where,
            fix=f"give every episode the arrays {', '.join(_KEYS)}, under these names; rewards may be left out",
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

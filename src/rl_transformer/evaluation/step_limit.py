"""End episodes that nothing else ends."""

from __future__ import annotations

from rl_transformer.environments.live import LiveEnvironment
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy import PolicySpec

LIMIT_FACTOR = 10
"""In an environment without time limit, an episode ends after this many times the longest training episode."""
RANDOM_STEP_LIMIT = 100_000
"""Longest episode of random actions in an environment without time limit, where no data says what is usual."""


def step_limit(environment: LiveEnvironment, spec: PolicySpec | None, max_steps: int | None) -> int | None:
    """Return the number of steps after which an episode is cut off, or None if the environment limits it itself.

    Args:
        environment: The environment.
        spec: The policy that acts; None: random actions, or those of a function.
        max_steps: The limit that the user set.

    Raises:
        RLTransformerError: The limit is below 1.
    """
    if max_steps is not None:
        if max_steps < 1:
            raise RLTransformerError(f"is {max_steps}", where="max_steps", fix="set it to 1 or more")
        return max_steps
    if environment.has_time_limit:
        return None
    if spec is None:
        return RANDOM_STEP_LIMIT
    # Policies of earlier formats do not record it. Their timestep table has a row for every step of that episode.
    return LIMIT_FACTOR * (spec.longest_episode or spec.model.max_ep_len)

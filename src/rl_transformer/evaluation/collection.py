"""Recording logged data in live environments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from rl_transformer.environments.making import check_spaces, environment_spec
from rl_transformer.policy import Policy
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.trajectories.nested import stack
from rl_transformer.trajectories.spaces import DataSpec
from rl_transformer.trajectories.trajectory import Trajectory

Behavior = Callable[[Any, np.random.Generator], Any]
"""From an observation and a random generator to an action."""


def record_episodes(
    environment: Any,
    env_id: str,
    num_episodes: int,
    *,
    seed: int,
    policy: Policy | None = None,
    target: float | None = None,
    behavior: Behavior | None = None,
) -> tuple[DataSpec, Iterator[Trajectory]]:
    """Return the spaces of an environment and episodes as they are run; episode i is seeded with ``seed + i``.

    Actions come from ``policy`` with the target return ``target``, or from ``behavior``, or are uniformly random.
    Their draws and the environment's are different streams of the same seed.
    """
    if policy is not None:
        check_spaces(environment, policy.spec.data, env_id)
    return environment_spec(environment, env_id), _episodes(
        environment, range(seed, seed + num_episodes), policy, target, behavior
    )


def _episodes(
    environment: Any, seeds: range, policy: Policy | None, target: float | None, behavior: Behavior | None
) -> Iterator[Trajectory]:
    for seed in seeds:
        if policy is not None:
            session = policy.session(target, seed=seed)
            yield _run(environment, seed, session.act, session.observe)
            continue
        # gymnasium seeds spaces and environments alike: with one seed for both, the first random
        # actions would follow from where the episode begins.
        random = generator(Stream.DATA_COLLECTION, seed)
        environment.action_space.seed(int(random.integers(2**31)))
        yield _run(environment, seed, partial(_behave, environment, behavior, random), lambda reward: None)


def _behave(environment: Any, behavior: Behavior | None, random: np.random.Generator, observation: Any) -> Any:
    return environment.action_space.sample() if behavior is None else behavior(observation, random)


def _run(environment: Any, seed: int, act: Callable[[Any], Any], observe: Callable[[float], None]) -> Trajectory:
    observation, _ = environment.reset(seed=seed)
    seen, actions, rewards = [observation], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(act(observation))
        observation, reward, terminated, truncated, _ = environment.step(actions[-1])
        observe(float(reward))
        seen.append(observation)
        rewards.append(float(reward))
    return Trajectory(
        observations=stack(seen[:-1]),
        actions=np.asarray(actions),
        rewards=np.asarray(rewards),
        terminated=bool(terminated),
        truncated=bool(truncated),
        final_observation=seen[-1],
    )

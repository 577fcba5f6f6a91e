"""Record logged data in live environments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_transformer.conditions.interface import Target
from rl_transformer.environments.making import check_spaces, environment_spec
from rl_transformer.evaluation.episodes import read_outcome
from rl_transformer.policy import Policy
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.nested import stack
from rl_transformer.trajectories.trajectory import Trajectory

if TYPE_CHECKING:
    import gymnasium

Behavior = Callable[[Any, np.random.Generator], Any]
"""A function of (observation, random generator) that returns an action."""


def record_episodes(
    environment: gymnasium.Env,
    env_id: str,
    num_episodes: int,
    *,
    seed: int,
    policy: Policy | None = None,
    target: float | None = None,
    targets: Mapping[str, Target] | None = None,
    behavior: Behavior | None = None,
) -> tuple[DataSpec, Iterator[Trajectory]]:
    """Return the spaces of an environment, and an iterator that runs and yields one episode after the other.

    Args:
        environment: The environment; it is not closed.
        env_id: Its gymnasium id.
        num_episodes: Episodes to record.
        seed: Seed of the first episode; episode i is seeded with ``seed + i``.
        policy: Policy that acts; None: ``behavior`` acts.
        target: The policy's target return, in the environment's units.
        targets: Targets of the policy's further conditions. The outcomes that they need, such as cost, are recorded as
            columns of the data.
        behavior: Chooses the actions; None: uniformly random actions.

    Raises:
        RLTransformerError: The environment does not fit the policy, or the policy does not take these targets.
    """
    seeds = range(seed, seed + num_episodes)
    if policy is None:
        return environment_spec(environment, env_id), _behave_episodes(environment, seeds, behavior)
    check_spaces(environment, policy.spec.data, env_id)
    # The episodes run only when the iterator is read. Checking the targets here reports a mistake before that.
    policy.initial_conditions(target, targets)
    spec = environment_spec(environment, env_id, observed_by=policy.spec.data)
    return spec, _policy_episodes(environment, seeds, policy, target, targets)


def _policy_episodes(
    environment: gymnasium.Env,
    seeds: range,
    policy: Policy,
    target: float | None,
    targets: Mapping[str, Target] | None,
) -> Iterator[Trajectory]:
    # Rewards are recorded anyway; every other outcome becomes a column, so that a policy with the same conditions can
    # be trained on the new data.
    names = sorted({condition.outcome for condition in policy.spec.conditions} - {"reward"})
    for seed in seeds:
        session = policy.session(target, seed=seed, targets=targets)
        yield _run(environment, seed, session.act, session.observe, names)


def _behave_episodes(environment: gymnasium.Env, seeds: range, behavior: Behavior | None) -> Iterator[Trajectory]:
    for seed in seeds:
        # gymnasium seeds spaces and environments with the same kind of generator. With one seed for both, the first
        # random actions would depend on the initial state of the episode. They come from streams of their own instead.
        random = generator(Stream.DATA_COLLECTION, seed)
        environment.action_space.seed(int(random.integers(2**31)))
        yield _run(environment, seed, partial(_behave, environment, behavior, random), lambda reward: None)


def _behave(
    environment: gymnasium.Env, behavior: Behavior | None, random: np.random.Generator, observation: Any
) -> Any:
    return environment.action_space.sample() if behavior is None else behavior(observation, random)


def _run(
    environment: gymnasium.Env,
    seed: int,
    act: Callable[[Any], Any],
    observe: Callable[..., None],
    outcome_names: Sequence[str] = (),
) -> Trajectory:
    """Run one episode and return it; ``act`` chooses actions, and ``observe`` is given their rewards and outcomes."""
    observation, _ = environment.reset(seed=seed)
    observations = [observation]
    actions = []
    rewards = []
    extras: dict[str, list[float]] = {name: [] for name in outcome_names}
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(act(observation))
        observation, reward, terminated, truncated, info = environment.step(actions[-1])
        outcomes = {name: read_outcome(info, name, environment) for name in outcome_names}
        observe(float(reward), **outcomes)
        for name, value in outcomes.items():
            extras[name].append(value)
        observations.append(observation)
        rewards.append(float(reward))
    return Trajectory(
        observations=stack(observations[:-1]),
        actions=np.asarray(actions),
        rewards=np.asarray(rewards),
        terminated=bool(terminated),
        truncated=bool(truncated),
        final_observation=observations[-1],
        extras={name: np.asarray(values) for name, values in extras.items()},
    )

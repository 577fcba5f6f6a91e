"""Record logged data in live environments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_transformer.conditions.interface import Target
from rl_transformer.environments.legal_actions import split_mask
from rl_transformer.environments.live import LiveEnvironment
from rl_transformer.environments.making import environment_spec
from rl_transformer.environments.returned_values import copied
from rl_transformer.evaluation.offline.log_columns import PROPENSITY
from rl_transformer.evaluation.step_limit import step_limit
from rl_transformer.policy import Policy, PolicySession
from rl_transformer.runtime import log
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.action_masks import ALLOWED
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.nested import stack
from rl_transformer.trajectories.spaces import Space
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
    max_steps: int | None = None,
    step_timeout: float | None = None,
) -> tuple[DataSpec, Iterator[Trajectory]]:
    """Return the spaces of an environment, and an iterator that runs and yields one episode after the other.

    Two columns are recorded beside rewards and ends: ``allowed``, the masks of legal actions, if the environment reports
    them; and ``propensity``, the probability with which each discrete action was drawn, if actions are random or the policy
    samples. A ``behavior`` has neither: it does not see masks, and does not say how it chose.

    Args:
        environment: The environment; it is not closed.
        env_id: Its gymnasium id.
        num_episodes: Episodes to record.
        seed: Seed of the first episode; episode i is seeded with ``seed + i``.
        policy: Policy that acts; None: ``behavior`` acts.
        target: The policy's target return, in the environment's units.
        targets: Targets of the policy's further conditions. The outcomes that they need, such as cost, are recorded as
            columns of the data.
        behavior: Chooses the actions; None: uniformly random actions, among the legal ones if the environment reports
            a mask of them.
        max_steps: Steps after which an episode is cut off and recorded as truncated; None: see `step_limit`.
        step_timeout: Seconds that one step or reset of the environment may take; None: no limit. It needs the main thread.

    Raises:
        RLTransformerError: The environment does not fit the policy, the policy does not take these targets, or there can be
            no limit of time here.
    """
    seeds = range(seed, seed + num_episodes)
    spec = environment_spec(environment, env_id)
    live = LiveEnvironment(environment, env_id, spec, is_ours=False, step_timeout=step_timeout)
    cut_off: list[int] = []
    if policy is None:
        limit = step_limit(live, None, max_steps)
        episodes = _behave_episodes(live, seeds, behavior, limit, cut_off)
    else:
        live.match_policy(policy.spec.data)
        # The episodes run only when the iterator is read. Checking the targets here reports a mistake before that.
        policy.initial_conditions(target, targets)
        limit = step_limit(live, policy.spec, max_steps)
        episodes = _policy_episodes(live, seeds, policy, target, targets, limit, cut_off)
    episodes = _with_equal_columns(episodes, live.spec.action_space)
    return live.spec, _with_note(episodes, cut_off, f"of {num_episodes} episodes were cut off after {limit} steps")


def _with_equal_columns(episodes: Iterator[Trajectory], space: Space) -> Iterator[Trajectory]:
    """Yield the episodes, all with a column of masks or all without: the first one decides, as later ones are not known yet."""
    has_masks = None
    dropped = 0
    for episode in episodes:
        masks = episode.extras.get(ALLOWED)
        if has_masks is None:
            has_masks = masks is not None
        extras = {name: values for name, values in episode.extras.items() if name != ALLOWED}
        if has_masks:
            everything = np.ones((len(episode.rewards), space.flat_dim), dtype=bool)
            extras[ALLOWED] = everything if masks is None else masks
        dropped += masks is not None and not has_masks
        yield replace(episode, extras=extras)
    if dropped:
        log.info(
            f"note: masks of legal actions of {dropped} episodes were not recorded, because the first episode had none; "
            'report info["action_mask"] from the first reset on to record them'
        )


def _with_note(episodes: Iterator[Trajectory], cut_off: list[int], text: str) -> Iterator[Trajectory]:
    """Yield the episodes, and say at the end how many of them were cut off."""
    yield from episodes
    if cut_off:
        log.info(f"note: {len(cut_off)} {text}; --max-steps N (max_steps=N) sets another limit")


def _policy_episodes(
    environment: LiveEnvironment,
    seeds: range,
    policy: Policy,
    target: float | None,
    targets: Mapping[str, Target] | None,
    limit: int | None,
    cut_off: list[int],
) -> Iterator[Trajectory]:
    # Rewards are recorded anyway; every other outcome becomes a column, so that a policy with the same conditions can
    # be trained on the new data.
    names = sorted({condition.outcome for condition in policy.spec.conditions} - {"reward"})
    for seed in seeds:
        session = policy.session(target, seed=seed, targets=targets)
        act = partial(_act, session, tells=_tells_propensities(policy))
        yield _run(environment, seed, act, session.observe, limit, cut_off, names)


def _tells_propensities(policy: Policy) -> bool:
    """Return True if every action of a policy has a probability: where vectors are clipped, their density means nothing."""
    return policy.spec.action_selection == "sample" and not policy.spec.data.action_space.is_continuous


def _act(
    session: PolicySession, observation: Nested, allowed: np.ndarray | None, *, tells: bool
) -> tuple[Any, float | None]:
    """Return a policy's action, and with which probability it was drawn."""
    if not tells:
        return session.act(observation, allowed), None
    action, info = session.act(observation, allowed, return_info=True)
    return action, info["propensity"]


def _behave_episodes(
    environment: LiveEnvironment, seeds: range, behavior: Behavior | None, limit: int | None, cut_off: list[int]
) -> Iterator[Trajectory]:
    for seed in seeds:
        # gymnasium seeds spaces and environments with the same kind of generator. With one seed for both, the first
        # random actions would depend on the initial state of the episode. They come from streams of their own instead.
        random = generator(Stream.DATA_COLLECTION, seed)
        environment.environment.action_space.seed(int(random.integers(2**31)))
        yield _run(
            environment,
            seed,
            partial(_behave, environment, behavior, random),
            lambda reward: None,
            limit,
            cut_off,
            with_masks=behavior is None,
        )


def _behave(
    environment: LiveEnvironment,
    behavior: Behavior | None,
    random: np.random.Generator,
    observation: Any,
    allowed: np.ndarray | None,
) -> tuple[Any, float | None]:
    """Return the behavior's action, or a random one and its probability, which is None for a vector."""
    if behavior is not None:
        return behavior(observation, random), None
    space = environment.spec.action_space
    mask = None if allowed is None else split_mask(allowed, space)
    action = environment.environment.action_space.sample(mask)
    return action, None if space.is_continuous else 1 / _num_choices(space, mask)


def _num_choices(space: Space, mask: np.ndarray | tuple[np.ndarray, ...] | None) -> int:
    """Return between how many discrete actions a random one is drawn: the product over the parts of an action."""
    if mask is None:
        return space.n if space.kind == "discrete" else math.prod(int(n) for n in space.nvec)
    parts = mask if isinstance(mask, tuple) else (mask,)
    return math.prod(int(part.sum()) for part in parts)


def _run(
    environment: LiveEnvironment,
    seed: int,
    act: Callable[[Any, np.ndarray | None], tuple[Any, float | None]],
    observe: Callable[..., None],
    limit: int | None,
    cut_off: list[int],
    outcome_names: Sequence[str] = (),
    *,
    with_masks: bool = True,
) -> Trajectory:
    """Run one episode and return it.

    Args:
        environment: The environment.
        seed: Seed of the episode.
        act: Chooses an action for an observation and the mask of legal actions, and tells its probability, or None.
        observe: Is given the reward and the outcomes of each action.
        limit: Steps after which the episode is cut off.
        cut_off: Seeds of the episodes that were cut off; this one's is appended.
        outcome_names: Outcomes to record as columns.
        with_masks: Record the masks of legal actions, if the environment reports any.
    """
    observation = environment.reset(seed)
    observations = [observation]
    actions = []
    rewards = []
    extras: dict[str, list[float]] = {name: [] for name in outcome_names}
    masks: list[np.ndarray | None] = []
    propensities: list[float | None] = []
    terminated = truncated = False
    while not (terminated or truncated):
        allowed = environment.allowed()
        masks.append(allowed)
        action, propensity = act(observation, allowed)
        propensities.append(propensity)
        actions.append(copied(action))  # an environment may change the action that it is given
        observation, reward, terminated, truncated = environment.step(action)
        outcomes = {name: environment.outcome(name) for name in outcome_names}
        observe(reward, **outcomes)
        for name, value in outcomes.items():
            extras[name].append(value)
        observations.append(observation)
        rewards.append(reward)
        if not terminated and not truncated and len(rewards) == limit:
            truncated = True
            cut_off.append(seed)
    return Trajectory(
        observations=stack(observations[:-1]),
        actions=np.asarray(actions),
        rewards=np.asarray(rewards),
        terminated=terminated,
        truncated=truncated,
        final_observation=observations[-1],
        extras={
            **{name: np.asarray(values) for name, values in extras.items()},
            **(_mask_column(masks) if with_masks else {}),
            **({} if None in propensities else {PROPENSITY: np.asarray(propensities)}),
        },
    )


def _mask_column(masks: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """Return the column of masks (T, M); nothing if the environment reported none."""
    reported = [mask for mask in masks if mask is not None]
    if not reported:
        return {}
    # A step without a mask allows everything.
    every = np.ones_like(reported[0], dtype=bool)
    return {ALLOWED: np.stack([every if mask is None else mask for mask in masks])}

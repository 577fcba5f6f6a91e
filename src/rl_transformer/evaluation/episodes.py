"""Run live episodes in batches: many environments step together, and the policy acts on all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from rl_transformer.conditions.interface import Target
from rl_transformer.environments.making import check_spaces, make_environment
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy import Policy
from rl_transformer.runtime.system import can_fork
from rl_transformer.runtime.types import JsonMapping
from rl_transformer.runtime.workers import run_in_processes
from rl_transformer.trajectories.nested import stack

if TYPE_CHECKING:
    import gymnasium

MAX_LIVE = 256
"""Environments at the same time, per process: a larger batch hardly gains speed and costs their memory."""
MIN_EPISODES_PER_PROCESS = 16
"""Episodes from which on starting another process pays off."""


@dataclass
class Episode:
    """Holds the target and the result of one live episode, in the environment's units."""

    target_return: float | None
    seed: int
    episode_return: float = 0.0
    episode_length: int = 0
    outcomes: dict[str, float] = field(default_factory=dict)
    """Sums of further outcomes, such as cost."""
    frames: list[np.ndarray] = field(default_factory=list)
    """(height, width, 3) uint8 images, one per step, if the episode was recorded."""


def run_episodes(
    policy: Policy,
    env_id: str,
    target_returns: Sequence[float | None],
    seeds: Sequence[int],
    *,
    targets: Mapping[str, Target] | None = None,
    record: int = 0,
    max_live: int = MAX_LIVE,
    processes: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Episode]:
    """Run one episode for each pair of target return and seed, and return all of them in that order.

    Episodes run together, ``max_live`` at a time; when one ends, the next one takes its slot. An episode depends only
    on its own targets and seed, not on the other episodes of the batch.

    Args:
        policy: The policy that acts.
        env_id: Gymnasium id.
        target_returns: One per episode; None for policies that take none.
        seeds: Seeds of environment and policy, one per episode.
        targets: Targets of further conditions, the same in all episodes.
        record: Store the frames of the first N episodes.
        max_live: Environments at the same time, per process.
        processes: Processes that share the episodes; by default one per CPU thread if there are enough episodes. The
            number affects the duration only, not the results.
        check: Called at every step; may raise to stop.

    Raises:
        RLTransformerError: The environment cannot be made, does not fit the policy, or lacks an outcome that a
            condition needs.
    """
    count = processes or _num_processes(policy, len(target_returns), record)
    if count == 1:
        return _run_here(policy, env_id, target_returns, seeds, targets, record, max_live, check)

    # Every count-th episode instead of a contiguous block: episodes are ordered by target, and high targets often mean
    # long episodes, so blocks would give one process most of the work.
    def run_share(which: int) -> list[Episode]:
        share = slice(which, None, count)
        return _run_here(policy, env_id, target_returns[share], seeds[share], targets, 0, max_live, lambda: None)

    episodes: list[Episode] = [Episode(None, 0)] * len(target_returns)
    for which, finished in enumerate(run_in_processes(run_share, count, check)):
        episodes[which::count] = finished
    return episodes


def _num_processes(policy: Policy, num_episodes: int, record: int) -> int:
    """Return the number of processes that share the episodes."""
    # Frames would have to be copied between processes, and a process that has used CUDA cannot be forked.
    can_share = not record and policy.device.type == "cpu" and can_fork()
    return max(1, min(torch.get_num_threads(), num_episodes // MIN_EPISODES_PER_PROCESS)) if can_share else 1


def _run_here(
    policy: Policy,
    env_id: str,
    target_returns: Sequence[float | None],
    seeds: Sequence[int],
    targets: Mapping[str, Target] | None,
    record: int,
    max_live: int,
    check: Callable[[], None],
) -> list[Episode]:
    """Run the episodes in this process, in environments that are made and closed here."""
    episodes = [Episode(target, int(seed)) for target, seed in zip(target_returns, seeds, strict=True)]
    slots = min(max_live, len(episodes))
    # Episode i starts in slot i, so only the first slots have to render, which is slow.
    environments = [make_environment(env_id, render=i < record) for i in range(slots)]
    try:
        check_spaces(environments[0], policy.spec.data, env_id)
        _run(policy, environments, episodes, targets, record, check)
        return episodes
    finally:
        for environment in environments:
            environment.close()


def _run(
    policy: Policy,
    environments: list[gymnasium.Env],
    episodes: list[Episode],
    targets: Mapping[str, Target] | None,
    record: int,
    check: Callable[[], None],
) -> None:
    """Run all episodes in the given environments, one slot each, and write the results into them."""
    slots = len(environments)
    running = list(range(slots))  # index of the episode in each slot
    waiting = iter(range(slots, len(episodes)))
    first = episodes[:slots]
    sessions = policy.sessions([e.target_return for e in first], [e.seed for e in first], targets=targets)
    names = sorted({condition.outcome for condition in policy.spec.conditions} - {"reward"})
    observations = [env.reset(seed=episodes[i].seed)[0] for i, env in enumerate(environments)]
    live = list(range(slots))
    while live:
        check()
        # One forward pass for all live slots. Ended slots are left out, so the batch shrinks towards the end.
        actions = sessions.act(live, stack([observations[slot] for slot in live]))
        rewards = []
        outcomes: dict[str, list[float]] = {name: [] for name in names}
        still_live = []
        for slot, action in zip(live, actions, strict=True):
            episode = episodes[running[slot]]
            environment = environments[slot]
            observations[slot], reward, terminated, truncated, info = environment.step(action)
            rewards.append(float(reward))
            episode.episode_return += float(reward)
            episode.episode_length += 1
            for name in names:
                value = read_outcome(info, name, environment)
                outcomes[name].append(value)
                episode.outcomes[name] = episode.outcomes.get(name, 0.0) + value
            if running[slot] < record:
                episode.frames.append(np.asarray(environment.render()))
            if not (terminated or truncated):
                still_live.append(slot)
        # Sessions observe before ended slots are reset, because the rewards of an episode's last step are among these.
        sessions.observe(live, rewards, **outcomes)
        for slot in sorted(set(live) - set(still_live)):
            following = next(waiting, None)
            if following is not None:
                running[slot] = following
                episode = episodes[following]
                sessions.reset([slot], [episode.target_return], [episode.seed])
                observations[slot] = environments[slot].reset(seed=episode.seed)[0]
                still_live.append(slot)
        live = sorted(still_live)


def read_outcome(info: JsonMapping, name: str, environment: gymnasium.Env) -> float:
    """Return the outcome ``name``, which a condition needs, from the environment's info.

    Raises:
        RLTransformerError: The environment does not report it.
    """
    if name not in info:
        raise RLTransformerError(
            f"a condition of this policy needs the {name} of every action, and info has {sorted(info) or 'nothing'}",
            where=str(environment.spec.id if environment.spec else environment),
            fix=f"use an environment (or a wrapper) whose step() returns info[{name!r}]",
        )
    return float(info[name])

"""Run live episodes in batches: many environments step together, and the policy acts on all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from rl_transformer.conditions.interface import Target
from rl_transformer.environments.live import LiveEnvironment
from rl_transformer.environments.making import source_note
from rl_transformer.environments.sources import Environment, EnvironmentSource
from rl_transformer.evaluation.episode_loop import Assignment, Episode, EpisodeLoop
from rl_transformer.evaluation.progress import EpisodeProgress
from rl_transformer.evaluation.step_limit import step_limit
from rl_transformer.policy import Policy
from rl_transformer.runtime.system import can_fork
from rl_transformer.runtime.workers import run_in_processes

MAX_LIVE = 256
"""Environments at the same time, per process: a larger batch hardly gains speed and costs their memory."""
MIN_EPISODES_PER_PROCESS = 16
"""Episodes from which on starting another process pays off."""


@dataclass(frozen=True)
class Batch:
    """Holds finished episodes, in the order of their assignment."""

    episodes: list[Episode]
    environment: str
    """Gymnasium id of the environment, or the name of its class."""
    step_limit: int | None
    """Steps after which episodes were cut off; None if the environment has a time limit of its own."""
    note: str | None
    """How the environment differs from the one that the data came from, see `source_note`."""


def run_episodes(
    policy: Policy,
    environment: Environment,
    target_returns: Sequence[float | None],
    seeds: Sequence[int],
    *,
    targets: Mapping[str, Target] | None = None,
    record: int = 0,
    max_live: int | None = None,
    max_steps: int | None = None,
    processes: int | None = None,
) -> list[Episode]:
    """Return the episodes of `run_batch`; ``environment`` is an id, an environment, or a function that makes one."""
    assignment = Assignment(target_returns, seeds, targets, record, max_live, max_steps)
    return run_batch(policy, EnvironmentSource.of(environment), assignment, processes=processes).episodes


def run_batch(
    policy: Policy,
    source: EnvironmentSource,
    assignment: Assignment,
    *,
    processes: int | None = None,
    show_progress: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Batch:
    """Run one episode for each pair of target return and seed.

    Episodes run together, ``max_live`` at a time; when one ends, the next one takes its slot. An episode depends only
    on its own targets and seed, not on the other episodes of the batch.

    Args:
        policy: The policy that acts.
        source: Makes the environments.
        assignment: The episodes.
        processes: Processes that share the episodes; by default one per CPU thread if there are enough episodes. The
            number affects the duration only, not the results.
        show_progress: Show a progress bar if stderr is a terminal.
        check: Called at every step; may raise to stop.

    Raises:
        RLTransformerError: The environment cannot be made, does not fit the policy, fails, or lacks an outcome that a
            condition needs.
    """
    source.check_max_live(assignment.max_live)
    count = processes or _num_processes(policy, source, assignment)
    first = source.open(render=assignment.record > 0)
    progress = EpisodeProgress(len(assignment.seeds), shown=show_progress, processes=count)
    try:
        # One environment is enough to see that it does not fit; making all of them may take long, and warn each time.
        first.match_policy(policy.spec.data)
        note = source_note(first.environment, policy.spec.data, assignment.max_steps)
        limit = step_limit(first, policy.spec, assignment.max_steps)
        assignment = replace(assignment, max_steps=limit)
        if count == 1:
            episodes = _run_here(policy, source, first, assignment, progress.finish_episode, check)
        else:
            first.close()  # before others are opened, so that there are never more than max_live
            episodes = _run_in_processes(policy, source, assignment, count, progress, check)
        return Batch(episodes, first.name, limit, note)
    finally:
        progress.close()
        if count == 1:
            first.close()


def _num_processes(policy: Policy, source: EnvironmentSource, assignment: Assignment) -> int:
    """Return the number of processes that share the episodes."""
    # Frames would have to be copied between processes, and a process that has used CUDA cannot be forked. An
    # environment of the caller, or one that a function of the caller makes, may hold what a fork cannot share, such
    # as a connection to a simulator.
    can_share = not assignment.record and policy.device.type == "cpu" and source.is_id
    if not can_share or not can_fork():
        return 1
    wanted = min(torch.get_num_threads(), len(assignment.seeds) // MIN_EPISODES_PER_PROCESS)
    return max(1, min(wanted, assignment.max_live or wanted))


def _run_in_processes(
    policy: Policy,
    source: EnvironmentSource,
    assignment: Assignment,
    count: int,
    progress: EpisodeProgress,
    check: Callable[[], None],
) -> list[Episode]:
    """Run the episodes in ``count`` processes, each with environments of its own."""
    live = None if assignment.max_live is None else max(1, assignment.max_live // count)

    # Every count-th episode instead of a contiguous block: episodes are ordered by target, and high targets often mean
    # long episodes, so blocks would give one process most of the work.
    def run_share(which: int) -> list[Episode]:
        """Run the episodes of one process."""
        share = slice(which, None, count)
        part = replace(
            assignment,
            target_returns=assignment.target_returns[share],
            seeds=assignment.seeds[share],
            max_live=live,
        )
        environment = source.open()
        try:
            environment.match_policy(policy.spec.data)
            return _run_here(policy, source, environment, part, progress.finish_episode, lambda: None)
        finally:
            environment.close()

    def check_all() -> None:
        progress.refresh()
        check()

    episodes: list[Episode] = [Episode(None, 0)] * len(assignment.seeds)
    for which, finished in enumerate(run_in_processes(run_share, count, check_all)):
        episodes[which::count] = finished
    return episodes


def _run_here(
    policy: Policy,
    source: EnvironmentSource,
    first: LiveEnvironment,
    assignment: Assignment,
    finish_episode: Callable[[], None],
    check: Callable[[], None],
) -> list[Episode]:
    """Run the episodes in this process, in ``first`` and in further environments, which are closed at the end."""
    pairs = zip(assignment.target_returns, assignment.seeds, strict=True)
    episodes = [Episode(target, int(seed)) for target, seed in pairs]
    slots = 1 if source.is_one else min(assignment.max_live or MAX_LIVE, len(episodes))
    observation = first.reset(episodes[0].seed)
    if assignment.record:
        first.render()  # an environment that cannot render is found before any episode is run
    # Episode i starts in slot i, so only the first slots have to render, which is slow.
    environments = source.open_more(first, [slot < assignment.record for slot in range(slots)])
    try:
        loop = EpisodeLoop(policy, environments, episodes, assignment, finish_episode)
        loop.run(observation, check)
        return episodes
    finally:
        for environment in environments[1:]:
            environment.close()

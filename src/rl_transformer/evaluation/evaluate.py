"""Score a policy in a live environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, cast

import numpy as np

from rl_transformer.conditions.interface import Target
from rl_transformer.environments.atari import protocol_of
from rl_transformer.environments.making import source_arguments
from rl_transformer.environments.sources import Environment, EnvironmentSource
from rl_transformer.environments.wrappers import Wrapper
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.episode_loop import Assignment
from rl_transformer.evaluation.episodes import Batch, run_batch
from rl_transformer.evaluation.references import Reference, find_reference
from rl_transformer.evaluation.report import EvaluationReport, TargetReport
from rl_transformer.policy import Policy
from rl_transformer.policy.validation import as_list
from rl_transformer.runtime.machine import versions
from rl_transformer.runtime.types import JsonMapping
from rl_transformer.trajectories.data_spec import DataSpec

if TYPE_CHECKING:
    import gymnasium


def evaluate(
    policy: Policy,
    environment: str | gymnasium.Env | Callable[[], gymnasium.Env] | None = None,
    *,
    env_id: str | None = None,
    target_returns: Sequence[float] | float = (),
    targets: Mapping[str, Target] | None = None,
    num_episodes: int = 20,
    seed: int = 1_000_000,
    max_live: int | None = None,
    max_steps: int | None = None,
    step_timeout: float | None = None,
    env_kwargs: JsonMapping | None = None,
    wrappers: Sequence[Wrapper] = (),
    reference: str | None = None,
    record: int = 0,
    progress: bool = False,
    check: Callable[[], None] = lambda: None,
) -> EvaluationReport:
    """Run ``num_episodes`` episodes per target return, all in one batch, and report every one of them.

    Args:
        policy: From `load_policy`.
        environment: A gymnasium id (``MODULE:ID`` imports a module first); an environment, which runs one episode at a
            time and is not closed; or a function that makes one, which is called at most ``max_live`` times.
        env_id: The same as ``environment``, for an id.
        target_returns: One target or several, in the unit of the policy's returns; the policy's suggestions if empty.
        targets: Targets of further conditions, the same in all episodes, for example ``{"cost_to_go": 25.0}``; the
            environment reports their outcomes in ``info``, for example ``info["cost"]``.
        num_episodes: Episodes per target return.
        seed: Seed of each target's first episode; later ones count up. The default is far from the seeds that data is
            usually collected with, so a policy is not scored on initial states that it was trained on.
        max_live: Environments open at the same time; None: one per episode, at most 256 per process.
        max_steps: Steps after which an episode is cut off; None: see `step_limit`.
        step_timeout: Seconds that one step or reset of the environment may take; None: no limit. It needs the main thread.
        env_kwargs: Further arguments of ``gymnasium.make``, such as ``max_episode_steps``; for an id only.
        wrappers: Wrappers to apply, the innermost one first: names as in ``--wrapper``, or callables.
        reference: Name of reference scores (`rl_transformer.evaluation.references`): add the normalized score, such as
            D4RL's of hopper or the human-normalized score of atari-breakout.
        record: Store the frames of the first N episodes of the first target in ``recordings``.
        progress: Show a progress bar on a terminal.
        check: Called at every step; may raise to stop.

    Raises:
        RLTransformerError: The environment does not fit the policy, cannot be made or fails, or a target does not fit.
    """
    _check_policy(policy)
    given = _one_environment(environment, env_id, policy.spec.data)
    source = replace(EnvironmentSource.of(given, env_kwargs=env_kwargs, wrappers=wrappers), step_timeout=step_timeout)
    _check_arguments(num_episodes, seed)
    scale = None if reference is None else find_reference(reference, source.name)
    chosen = chosen_targets(policy, target_returns)
    for target in chosen:
        policy.initial_conditions(target, targets)  # raises for a wrong target before any episode is run
    # Every target sees the same seeds. Differences between targets are then not due to easier initial states.
    repeated = [target for target in chosen for _ in range(num_episodes)]
    seeds = [seed + i for _ in chosen for i in range(num_episodes)]
    assignment = Assignment(repeated, seeds, targets, record, max_live, max_steps)
    batch = run_batch(policy, source, assignment, show_progress=progress, check=check)
    return _report(policy, source, assignment, batch, scale)


def _report(
    policy: Policy, source: EnvironmentSource, assignment: Assignment, batch: Batch, reference: Reference | None
) -> EvaluationReport:
    """Return the report of finished episodes, which are ordered by target."""
    num_episodes = len(set(assignment.seeds))  # the same seeds for every target
    returns = policy.spec.returns
    # In another unit than the episode's sum it says nothing about sums.
    return_range = policy.spec.target_ranges.get("return_to_go") if returns.note is None else None
    reports = []
    for i in range(0, len(batch.episodes), num_episodes):
        part = batch.episodes[i : i + num_episodes]
        target = assignment.target_returns[i]
        further = assignment.targets or {}
        reports.append(
            TargetReport.from_episodes(
                target, part, reference, further, return_range=return_range, target_unit=returns.note
            )
        )
    return EvaluationReport(
        env_id=batch.environment,
        policy=policy.content_hash,
        num_episodes=num_episodes,
        seed=assignment.seeds[0],
        targets=reports,
        versions=versions(),
        recordings=[episode.frames for episode in batch.episodes[: assignment.record]],
        max_steps=batch.step_limit,
        env_kwargs=source.env_kwargs,
        wrappers=source.wrappers,
        protocol=protocol_of(batch.environment, source.env_kwargs, source.wrappers),
        environment_note=batch.note,
    )


def chosen_targets(policy: Policy, given: Sequence[float] | float) -> list[float | None]:
    """Return the given targets, else the policy's suggestions, else [None] for a policy that takes none.

    Raises:
        RLTransformerError: The targets are neither a number nor a list.
    """
    # An array of no axis is a number.
    if isinstance(given, Real) or (isinstance(given, np.ndarray) and given.ndim == 0):
        given = [cast(float, given)]
    listed = as_list(given, where="target_returns", fix="pass a list of numbers, such as target_returns=[10.0]")
    if listed:
        return [cast(float, t.item()) if isinstance(t, np.ndarray) and t.ndim == 0 else cast(float, t) for t in listed]
    if policy.spec.takes_target and policy.spec.suggested_targets:
        return list(policy.spec.suggested_targets)
    return [None]


def _check_policy(policy: object) -> None:
    """Raise an error for something else than a policy, such as the name of its folder."""
    if isinstance(policy, str | os.PathLike):
        name = os.fspath(policy)
        raise RLTransformerError(
            f"{name!r} is the name of a folder, not a policy",
            where="policy",
            fix=f"load it first: load_policy({name!r})",
        )
    if not isinstance(policy, Policy):
        raise RLTransformerError(
            f"is of the type {type(policy).__name__}", where="policy", fix="pass what load_policy(folder) returns"
        )


def _one_environment(environment: Environment | None, env_id: str | None, trained: DataSpec) -> Environment:
    """Return the environment that is given in one of two ways.

    Raises:
        RLTransformerError: None is given, or both are.
    """
    if environment is not None and env_id is not None:
        raise RLTransformerError(
            f"is {env_id!r}, and an environment is given, too", where="env_id", fix="pass only one of them"
        )
    given = environment if environment is not None else env_id
    if given is None:
        raise no_environment(trained)
    return given


def no_environment(trained: DataSpec) -> RLTransformerError:
    """Return the error for an evaluation without environment; its fix quotes the one that the data came from."""
    known = source_arguments(trained)
    if known is None:
        fix = "pass --env-id ID (environment= in Python), for example --env-id CartPole-v1"
    else:
        fix = f"the policy's data came from {trained.env_id}; to act there, pass {known}"
    return RLTransformerError("no environment is named", where="--env-id", fix=fix)


def _check_arguments(num_episodes: int, seed: int) -> None:
    """Raise an `RLTransformerError` for numbers out of bounds."""
    if num_episodes < 1:
        raise RLTransformerError(f"is {num_episodes}", where="num_episodes", fix="set it to 1 or more")
    if seed < 0:
        raise RLTransformerError(f"{seed} is negative", where="seed", fix="use 0 or more")

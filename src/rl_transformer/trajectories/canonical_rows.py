"""Convert the arrays of episodes to the rows of columns, in canonical dtypes and shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.block_checks import are_clean, is_readable
from rl_transformer.trajectories.blocks import EpisodeBlock
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.nested import stack
from rl_transformer.trajectories.returns import returns_of_episodes, returns_to_go
from rl_transformer.trajectories.space_values import observed
from rl_transformer.trajectories.trajectory import Trajectory
from rl_transformer.trajectories.wide_rows import to_rows


def simplified(spec: DataSpec, trajectory: Trajectory) -> Trajectory:
    """Return a trajectory without the parts of observations that are not observed, and with (T,) rewards."""
    space = spec.observation_space
    rewards = trajectory.rewards
    return replace(
        trajectory,
        observations=observed(space, trajectory.observations),
        final_observation=observed(space, trajectory.final_observation),
        rewards=rewards[:, 0] if rewards.ndim == 2 and rewards.shape[1] == 1 else rewards,
    )


def canonical_rows(
    spec: DataSpec, checker: Checker, episode: int, trajectory: Trajectory
) -> dict[str, np.ndarray] | None:
    """Return one episode's rows in canonical dtypes and shapes; None, with a finding, if its shapes do not fit."""
    try:
        observations = to_rows(spec.observation_space, trajectory.observations, where="observations")
        recorded_actions = _recorded_actions(spec, trajectory)
    except RLTransformerError as error:
        # One bad episode becomes a finding, so that `rlt inspect` can list all of them.
        name = "actions" if error.where == "actions" else "observations"
        checker.add_finding(
            "error", "wrong shape or value", name, error.problem, error.fix, positions=[{"episode": episode}]
        )
        return None
    rewards = trajectory.rewards.astype(np.float64)
    # Actions are checked as recorded: NaN, 1.5 or an index below the start cannot be seen any more once they are int64.
    checker.check_values(episode, trajectory, observations, recorded_actions, rewards)
    # Summed in float64 and rounded once: in float32 the error would grow with the length of the episode. Columns that
    # training reads are float32, so a sum that only float64 can hold becomes infinite, which is reported below.
    with np.errstate(over="ignore", invalid="ignore"):
        returns = returns_to_go(rewards).astype(np.float32)
    if np.isfinite(rewards).all() and not np.isfinite(returns).all():
        problem = "sum to more than float32 can hold"
        checker.add_finding(
            "error", "overflow", "rewards", problem, "rescale the rewards", positions=[{"episode": episode}]
        )
    return {
        "observations": observations,
        "actions": spec.action_space.encode_actions(recorded_actions),
        "rewards": rewards,
        "returns_to_go": returns,
    }


def canonical_block(spec: DataSpec, joined: Trajectory, block: EpisodeBlock) -> dict[str, np.ndarray] | None:
    """Return the rows of a block in canonical dtypes and shapes, with the actions as ``recorded``.

    None, and no finding, if a value or an end of any episode has to be reported.
    """
    if not (block.terminated ^ block.truncated).all() or not is_readable(spec, joined):
        return None
    try:
        observations = to_rows(spec.observation_space, joined.observations, where="observations")
        recorded = _recorded_actions(spec, joined)
    except RLTransformerError:
        return None
    rewards = joined.rewards.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        returns = returns_of_episodes(rewards, block.offsets).astype(np.float32)
    if not np.isfinite(returns).all() or not are_clean(spec, observations, recorded, rewards):
        return None
    return {
        "observations": observations,
        "actions": spec.action_space.encode_actions(recorded),
        "recorded": recorded,
        "rewards": rewards,
        "returns_to_go": returns,
    }


def _recorded_actions(spec: DataSpec, trajectory: Trajectory) -> np.ndarray:
    """Return actions with recorded values in the shape of stored ones: (T, *action_shape)."""
    space = spec.action_space
    if space.is_continuous:
        return space.flatten(trajectory.actions, where="actions")
    actions = np.asarray(trajectory.actions)
    space.encode_actions(actions)  # raises if the shape does not fit
    return actions.reshape(len(actions), *space.action_shape)


def final_row(spec: DataSpec, trajectory: Trajectory) -> np.ndarray | None:
    """Return the flattened final observation, or None if it was not recorded."""
    final = trajectory.final_observation
    if final is None:
        return None
    return to_rows(spec.observation_space, stack([final]), where="final_observation")[0]

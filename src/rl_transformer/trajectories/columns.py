"""From trajectories to columns: one conversion for memory and for disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.checks import Checker, Finding
from rl_transformer.trajectories.nested import stack
from rl_transformer.trajectories.returns import returns_to_go
from rl_transformer.trajectories.spaces import DataSpec
from rl_transformer.trajectories.statistics import ObservationStatistics, StreamingStatistics
from rl_transformer.trajectories.trajectory import Trajectory

STEP_COLUMNS = ("observations", "actions", "rewards", "returns_to_go")
EPISODE_COLUMNS = ("offsets", "terminated", "truncated", "episode_returns", "final_observations")
RESERVED = {*STEP_COLUMNS, *EPISODE_COLUMNS, "observation_mean", "observation_std"}
_HASHED = ("observations", "actions", "rewards")  # recorded by the source; the rest is computed from these


@dataclass(frozen=True)
class Summary:
    """What is known about all the columns once the last trajectory is in."""

    offsets: np.ndarray
    """(E + 1,) int64: episode e is the rows offsets[e] ... offsets[e + 1]."""
    terminated: np.ndarray
    truncated: np.ndarray
    episode_returns: np.ndarray
    """(E,) float64."""
    final_observations: np.ndarray | None
    """(E, ...): what was seen after each episode's last action; None if any was not recorded."""
    statistics: ObservationStatistics | None
    """None for images, which are divided by 255 instead."""
    findings: list[Finding]
    fingerprint: str
    """SHA-256 over the canonical columns: the same for every format of the same data."""


def assemble(
    spec: DataSpec,
    trajectories: Iterable[Trajectory],
    append: Callable[[str, np.ndarray], None],
    checker: Checker | None = None,
) -> Summary:
    """Check every trajectory, hand its columns to ``append(name, rows)``, and return the summary.

    Columns are observations (float32 vectors or uint8 images), actions (float32 vectors, or int64
    counted from 0), rewards (float64), returns_to_go (float32, summed in float64) and whatever
    further columns the trajectories carry. Episodes with findings of structure are left out.
    """
    checker = checker or Checker(spec)
    statistics = None if spec.observation_space.is_image else StreamingStatistics(spec.observation_space.flat_dim)
    hashes = {name: hashlib.sha256() for name in _HASHED}
    lengths, ends, totals, finals, extra_names = [], [], [], [], None
    for episode, trajectory in enumerate(trajectories):
        if not checker.check_structure(episode, trajectory):
            continue
        rows = _canonical(spec, checker, episode, trajectory)
        if rows is None:
            continue
        extras = {name: np.asarray(values) for name, values in trajectory.extras.items()}
        if reserved := sorted(set(extras) & RESERVED):
            raise RLTransformerError(
                f"{', '.join(reserved)} is computed here, from rewards and episode ends",
                where=spec.source,
                fix="leave it out, or give it another name",
            )
        if extra_names is not None and set(extras) != extra_names:
            raise RLTransformerError(
                f"episode {episode} has the extra columns {sorted(extras)}, and the first one {sorted(extra_names)}",
                where=spec.source,
                fix="give every episode the same arrays",
            )
        extra_names = set(extras)
        for name, values in {**rows, **extras}.items():
            append(name, values)
        for name in _HASHED:
            hashes[name].update(np.ascontiguousarray(rows[name]).data)
        if statistics is not None and np.isfinite(rows["observations"]).all():
            statistics.add(rows["observations"])
        checker.check_ends(episode, trajectory)
        lengths.append(len(rows["rewards"]))
        ends.append((trajectory.terminated, trajectory.truncated))
        totals.append(float(rows["rewards"].sum()))
        finals.append(_final(spec, trajectory))
    if statistics is not None and statistics.count:
        checker.check_features(statistics.result().std)
    flags = np.array(ends, dtype=bool).reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    digests = {name: value.hexdigest() for name, value in hashes.items()}
    for name, values in (("offsets", offsets), ("ends", flags)):
        digests[name] = hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
    return Summary(
        offsets=offsets,
        terminated=flags[:, 0],
        truncated=flags[:, 1],
        episode_returns=np.array(totals),
        final_observations=np.stack(finals) if finals and all(f is not None for f in finals) else None,
        statistics=statistics.result() if statistics is not None else None,
        findings=checker.findings,
        fingerprint=hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest(),
    )


def _canonical(spec: DataSpec, checker: Checker, episode: int, trajectory: Trajectory) -> dict[str, np.ndarray] | None:
    """Return one episode's rows in canonical dtypes and shapes; None, with a finding, if its shapes do not fit."""
    try:
        observations = spec.observation_space.flatten(trajectory.observations, where="observations")
        recorded_actions = _recorded_actions(spec, trajectory)
    except RLTransformerError as error:
        name = "actions" if error.where == "actions" else "observations"
        checker.add_finding(
            "error", "wrong shape or value", name, error.problem, error.fix, positions=[{"episode": episode}]
        )
        return None
    rewards = trajectory.rewards.astype(np.float64)
    # Actions are checked as recorded: NaN, 1.5 or an index below the start are lost once they are int64.
    checker.check_values(episode, observations, recorded_actions, rewards)
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


def _recorded_actions(spec: DataSpec, trajectory: Trajectory) -> np.ndarray:
    """Return actions as recorded, in the shape of stored ones: (T, *action_shape)."""
    space = spec.action_space
    if space.is_continuous:
        return space.flatten(trajectory.actions, where="actions")
    actions = np.asarray(trajectory.actions)
    space.encode_actions(actions)  # raises if the shape does not fit
    return actions.reshape(len(actions), *space.action_shape)


def _final(spec: DataSpec, trajectory: Trajectory) -> np.ndarray | None:
    final = trajectory.final_observation
    if final is None:
        return None
    return spec.observation_space.flatten(stack([final]), where="final_observation")[0]

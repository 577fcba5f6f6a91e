"""Choose parts of observations and clip actions while data of any format is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.action_checks import BOUND_SLACK
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import CLIPPED_ACTIONS, Finding
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.trajectory import Trajectory


def clip_actions(spec: DataSpec, trajectories: Iterable[Trajectory], notes: list[Finding]) -> Iterator[Trajectory]:
    """Return the episodes with their actions clipped to the bounds of the action space.

    Args:
        spec: Spaces of the data.
        trajectories: The episodes; read once, one at a time.
        notes: A finding with the number of clipped actions is added; its numbers grow while the episodes are read.

    Raises:
        RLTransformerError: The action space has no bounds.
    """
    space = spec.action_space
    if not space.is_continuous or not (np.isfinite(space.bounds[0]).any() or np.isfinite(space.bounds[1]).any()):
        raise RLTransformerError(
            "the actions have no bounds to clip them to",
            where="dataset.clip_actions",
            fix="leave it out, or declare an action space with bounds",
        )
    note = Finding("info", CLIPPED_ACTIONS, "actions", "were all within the bounds, so none was clipped", "nothing", 1)
    notes.append(note)
    return _clipped(space, trajectories, note)


def _clipped(space: Space, trajectories: Iterable[Trajectory], note: Finding) -> Iterator[Trajectory]:
    low, high = (bound.reshape(space.shape) for bound in space.bounds)
    num_clipped = 0
    num_steps = 0
    largest = 0.0
    for trajectory in trajectories:
        actions = np.asarray(trajectory.actions)
        # Anything else is reported by the checks, under its own name.
        if actions.shape[1:] != space.shape or actions.dtype.kind not in "biuf":
            yield trajectory
            continue
        # An infinite action is a defect of the recording, which a bound in its place would hide from the checks.
        is_finite = ~np.isinf(actions)
        clipped = np.where(is_finite, np.clip(actions, low, high), actions)
        outside = space.outside(actions.reshape(len(actions), -1), slack=BOUND_SLACK)
        outside = (outside & is_finite.reshape(len(actions), -1)).any(axis=1)
        num_steps += len(actions)
        if outside.any():
            num_clipped += int(outside.sum())
            largest = max(
                largest, float(np.nanmax(np.abs(actions - clipped, where=is_finite, out=np.zeros(actions.shape))))
            )
            note.level = "warning"
            note.fix = "nothing, if the environment clips them, too; otherwise declare the true bounds"
            note.count = num_clipped
        if num_clipped:
            share = f"{num_clipped} of {num_steps} actions were outside the bounds"
            note.problem = f"{share}, by up to {largest:.3g}, and were clipped to them"
        yield replace(trajectory, actions=clipped)


def observe_parts(
    spec: DataSpec, trajectories: Iterable[Trajectory], patterns: Sequence[str]
) -> tuple[DataSpec, Iterator[Trajectory]]:
    """Return the spec with only some parts of the observations, and the episodes to go with it.

    Args:
        spec: Spaces of the data.
        trajectories: The episodes, as a reader provides them or as a dataset stores them.
        patterns: Names or globs of parts, see `DataSpec.observing`.

    Raises:
        RLTransformerError: The observations have no parts, or a pattern matches none of them.
    """
    chosen = spec.observing(patterns)
    return chosen, _by_parts(spec.observation_space, trajectories)


def _by_parts(space: Space, trajectories: Iterable[Trajectory]) -> Iterator[Trajectory]:
    """Yield the episodes of a dataset, whose observations are flat, with observations by part."""
    for trajectory in trajectories:
        final = trajectory.final_observation
        yield replace(
            trajectory,
            observations=_split(space, trajectory.observations),
            final_observation=None if final is None else _split(space, final),
        )


def _split(space: Space, values: Nested) -> Nested:
    """Return flat observations (T, D), or one of them (D,), as a dict of parts; nested ones are returned unchanged."""
    if not space.parts or not isinstance(values, np.ndarray):
        return values
    ends = np.cumsum([part.flat_dim for _, part in space.parts])
    pieces = np.split(values, ends[:-1], axis=-1)
    return {name: _split(part, piece) for (name, part), piece in zip(space.parts, pieces, strict=True)}

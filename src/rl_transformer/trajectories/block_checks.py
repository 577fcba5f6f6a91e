"""Tell whether joined episodes need a closer look, so that those that do not are checked all at once."""

from __future__ import annotations

import numpy as np

from rl_transformer.trajectories.action_checks import BOUND_SLACK
from rl_transformer.trajectories.action_masks import ALLOWED, illegal_steps, is_action_mask
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.end_flags import flag_kind
from rl_transformer.trajectories.mixed_rows import numbers_of
from rl_transformer.trajectories.nested import leaves
from rl_transformer.trajectories.trajectory import Trajectory


def is_readable(spec: DataSpec, joined: Trajectory) -> bool:
    """Return False if arrays of joined episodes differ in length or are not numbers, or if a column needs a look."""
    num_rows = len(joined.rewards)
    arrays = [joined.rewards, joined.actions, *leaves(joined.observations, "").values(), *joined.extras.values()]
    if joined.rewards.ndim != 1 or not all(a.dtype.kind in "biuf" and a.ndim and len(a) == num_rows for a in arrays):
        return False
    masks = joined.extras.get(ALLOWED)
    if masks is not None and is_action_mask(spec.action_space, masks):
        space = spec.action_space
        if space.outside(joined.actions).any() or illegal_steps(space, joined.actions, masks).any():
            return False
    return not any(
        flag_kind(name) is not None or (values.dtype.kind == "f" and not np.isfinite(values).all())
        for name, values in joined.extras.items()
    )


def are_clean(spec: DataSpec, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> bool:
    """Return False if a value of joined episodes is not finite, or an action is outside its space."""
    space = spec.observation_space
    numbers = observations if space.streams is None else numbers_of(space, observations)
    floats = (array for array in (numbers, actions, rewards) if array.dtype.kind == "f")
    outside = spec.action_space.outside(actions, slack=BOUND_SLACK)
    return all(bool(np.isfinite(array).all()) for array in floats) and not outside.any()

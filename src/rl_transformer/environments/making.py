"""Live environments, named by the user and checked against the policy."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.gymnasium_spaces import space_from_gymnasium
from rl_transformer.trajectories.spaces import Space

if TYPE_CHECKING:
    import gymnasium


def make_environment(env_id: str, *, render: bool = False) -> gymnasium.Env:
    """Make a gymnasium environment by its id.

    Raises:
        RLTransformerError: No such id, or what it needs is not installed.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported; renders without a screen
    import gymnasium

    import rl_transformer.environments  # noqa: F401  registers this package's environments

    try:
        return gymnasium.make(env_id, render_mode="rgb_array" if render else None)
    except gymnasium.error.DependencyNotInstalled as error:
        raise RLTransformerError(
            str(error), where=env_id, fix="pip install 'rl-transformer[mujoco]', or what the message names"
        ) from None
    except (gymnasium.error.Error, ImportError, ValueError, TypeError, AttributeError) as error:
        near = difflib.get_close_matches(env_id, list(gymnasium.registry), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "name an id that gymnasium knows, such as Hopper-v5"
        raise RLTransformerError(f"cannot be made: {error}", where=env_id, fix=hint) from None


def environment_spec(environment: gymnasium.Env, env_id: str) -> DataSpec:
    """Return the spaces of an environment."""
    observation = space_from_gymnasium(environment.observation_space, where=env_id)
    return DataSpec(observation, space_from_gymnasium(environment.action_space, where=env_id), env_id, env_id)


def check_spaces(environment: gymnasium.Env, trained: DataSpec, env_id: str) -> None:
    """Refuse an environment whose observations or actions are not those of the training data."""
    found = environment_spec(environment, env_id)
    pairs = (
        ("observations", _form(found.observation_space), _form(trained.observation_space)),
        ("actions", _form(found.action_space, bounds=True), _form(trained.action_space, bounds=True)),
    )
    for name, here, there in pairs:
        if here != there:
            raise RLTransformerError(
                f"its {name} are {here}, and the policy was trained on {there}",
                where=env_id,
                fix="use the environment, and its version, that the data came from, or declare the data's spaces",
            )


def _form(space: Space, *, bounds: bool = False) -> str:
    if space.kind == "discrete":
        return f"{space.n} integers from {space.start}"
    if space.kind == "multi_discrete":
        return f"{list(space.nvec)} integers from {list(space.starts)}"
    if space.parts:
        return f"{space.kind} of " + ", ".join(f"{name}: {_form(part)}" for name, part in space.parts)
    if space.is_image:
        return f"images of {space.image_shape}"
    if not bounds:
        return f"vectors of {space.flat_dim}"
    low, high = (np.unique(side).tolist() for side in space.bounds)
    return f"vectors of {space.flat_dim} within {low} and {high}"

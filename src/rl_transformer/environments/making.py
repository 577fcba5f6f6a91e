"""Make live environments that the user names, and compare their spaces with those of a policy."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.gymnasium_spaces import space_from_gymnasium
from rl_transformer.trajectories.spaces import KINDS, Space

if TYPE_CHECKING:
    import gymnasium


def make_environment(env_id: str, *, render: bool = False) -> gymnasium.Env:
    """Return a new gymnasium environment.

    Args:
        env_id: Gymnasium id.
        render: Make ``render()`` return images.

    Raises:
        RLTransformerError: There is no such id, or a package that the environment needs is not installed.
    """
    # MuJoCo reads this variable when it is imported. EGL renders without a screen; a choice of the user takes
    # precedence.
    os.environ.setdefault("MUJOCO_GL", "egl")
    import gymnasium

    import rl_transformer.environments  # noqa: F401  registers this package's environments

    try:
        return gymnasium.make(env_id, render_mode="rgb_array" if render else None)
    except gymnasium.error.DependencyNotInstalled as error:
        raise RLTransformerError(
            str(error), where=env_id, fix="pip install 'rl-transformer[mujoco]', or what the message names"
        ) from None
    except (gymnasium.error.Error, ImportError, ValueError, TypeError, AttributeError) as error:
        # Ids may name modules to import ("module:Name-v0"), and constructors of third parties raise all of these.
        near = difflib.get_close_matches(env_id, list(gymnasium.registry), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "name an id that gymnasium knows, such as Hopper-v5"
        raise RLTransformerError(f"cannot be made: {error}", where=env_id, fix=hint) from None


def environment_spec(environment: gymnasium.Env, env_id: str, observed_by: DataSpec | None = None) -> DataSpec:
    """Return the spaces of an environment.

    Args:
        environment: The environment.
        env_id: Gymnasium id, for messages.
        observed_by: Spaces of a policy; observations are described as it takes them, without parts that it ignores.

    Raises:
        RLTransformerError: A space is of a kind that is not supported.
    """
    observation = space_from_gymnasium(environment.observation_space, where=env_id)
    if observed_by is not None:
        observation = observation.observed_like(observed_by.observation_space)
    return DataSpec(observation, space_from_gymnasium(environment.action_space, where=env_id), env_id, env_id)


def check_spaces(environment: gymnasium.Env, trained: DataSpec, env_id: str) -> None:
    """Check that an environment has the observations and actions of the training data.

    Args:
        environment: The environment.
        trained: Spaces of the training data.
        env_id: Gymnasium id, for the message.

    Raises:
        RLTransformerError: A space differs in kind, size, or, for actions, bounds.
    """
    spec = environment_spec(environment, env_id, observed_by=trained)
    # Bounds matter for actions, which the policy scales by them. Bounds of observations are often infinite in one
    # version of an environment and finite in another, and nothing depends on them.
    pairs = (
        ("observations", _describe(spec.observation_space), _describe(trained.observation_space)),
        ("actions", _describe(spec.action_space, bounds=True), _describe(trained.action_space, bounds=True)),
    )
    for name, actual, expected in pairs:
        if actual != expected:
            raise RLTransformerError(
                f"its {name} are {actual}, and the policy was trained on {expected}",
                where=env_id,
                fix="use the environment, and its version, that the data came from, or declare the data's spaces",
            )


def _describe(space: Space, *, bounds: bool = False) -> str:
    """Return a text that is equal for spaces that a policy can exchange; with ``bounds`` those of a box count, too."""
    if space.kind == "discrete":
        return f"{space.n} integers from {space.start}"
    if space.kind == "multi_discrete":
        return f"{list(space.nvec)} integers from {list(space.starts)}"
    if space.parts:
        return f"{space.kind} of " + ", ".join(f"{name}: {_describe(part)}" for name, part in space.parts)
    if space.kind not in KINDS:
        return space.kind
    if space.is_image:
        return f"images of {space.image_shape}"
    if not bounds:
        return f"vectors of {space.flat_dim}"
    low, high = (np.unique(side).tolist() for side in space.bounds)
    return f"vectors of {space.flat_dim} within {low} and {high}"

"""Make live environments that the user names, and compare their spaces with those of a policy."""

from __future__ import annotations

import difflib
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.environments.packages import import_package, install_command, package_of
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.plugins import import_user_module
from rl_transformer.runtime.system import render_without_screen
from rl_transformer.runtime.types import JsonMapping
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.gymnasium_spaces import space_from_gymnasium
from rl_transformer.trajectories.spaces import KINDS, Space

if TYPE_CHECKING:
    import gymnasium


_NEEDS_JAX = ("phys2d/", "tabular/")


def make_environment(env_id: str, *, render: bool = False, env_kwargs: JsonMapping | None = None) -> gymnasium.Env:
    """Return a new gymnasium environment.

    Args:
        env_id: Gymnasium id. ``MODULE:ID`` imports a module first, which registers the id; the working directory is
            searched for it, too.
        render: Make ``render()`` return images.
        env_kwargs: Further arguments of ``gymnasium.make``: those of the environment, and ``max_episode_steps``.

    Raises:
        RLTransformerError: There is no such id, a package that the environment needs is not installed, or its
            constructor raises an exception.
    """
    render_without_screen()
    import gymnasium

    _register(env_id)
    arguments = dict(env_kwargs or {})
    # Environments may have no such argument, so it is passed only where images are needed.
    if render and arguments.setdefault("render_mode", "rgb_array") != "rgb_array":
        raise RLTransformerError(
            f"render_mode is {arguments['render_mode']!r}, and a recording needs 'rgb_array'",
            where="env_kwargs",
            fix="leave render_mode out of env_kwargs, or leave the recording out",
        )
    try:
        return gymnasium.make(env_id, **arguments)
    except gymnasium.error.DependencyNotInstalled as error:
        fix = install_command(str(error)) or "install the package that the message names"
        raise RLTransformerError(str(error), where=env_id, fix=fix) from error
    except (Exception, SystemExit) as error:  # constructors of third parties raise anything
        raise _not_made(env_id, error, render=render) from error


def _not_made(env_id: str, error: BaseException, *, render: bool) -> RLTransformerError:
    """Return the error for an environment that cannot be made: its id is unknown, or its constructor failed."""
    import gymnasium

    if isinstance(error, RLTransformerError):
        return error
    text = " ".join(str(error).split())[:600]
    problem = f"cannot be made: {type(error).__name__}: {text}"
    name = env_id.rpartition(":")[2]
    if name not in gymnasium.registry:  # only then others are suggested, so never the id that was given
        return RLTransformerError(problem, where=env_id, fix=_how_to_name(env_id))
    # The id is known, so another one is no help; what remains are the arguments and the environment's own needs.
    later = _later_version(name)
    if render and "render_mode" in text:
        fix = "leave the recording out, or let the environment take the argument render_mode"
    elif later is not None:
        fix = f"use {later}, or do what the message says"
    else:
        fix = install_command(text) or (
            "do what the message says, pass arguments that the environment needs with "
            "--env-kwargs '{\"NAME\": VALUE}' (env_kwargs={...} in Python), or repair the environment"
        )
    return RLTransformerError(problem, where=env_id, fix=fix)


def _later_version(name: str) -> str | None:
    """Return the id of the latest version of an environment, if it is another one."""
    import gymnasium

    stem, found, version = name.rpartition("-v")
    if not found or not version.isdecimal():
        return None
    versions = [known.rpartition("-v") for known in gymnasium.registry]
    later = [int(number) for known, _, number in versions if known == stem and number.isdecimal()]
    latest = max(later, default=0)
    return f"{stem}-v{latest}" if latest > int(version) else None


def _register(env_id: str) -> None:
    """Import what registers an id: this package's environments, the module that the id names, or a known package."""
    import gymnasium

    from rl_transformer.environments import register_numbered  # importing it registers this package's environments

    register_numbered(env_id)
    module, colon, name = env_id.partition(":")
    if colon:
        if not module or not name or ":" in name:
            raise RLTransformerError("is not MODULE:ID", where=env_id, fix="write it as my_module:MyEnvironment-v0")
        import_user_module(module, where=f"module {module} of {env_id}")
    elif env_id not in gymnasium.registry:
        package = package_of(env_id)
        if package is not None:
            import_package(package)


def _how_to_name(env_id: str) -> str:
    """Return what to do about an id that nothing registers."""
    import gymnasium

    module, colon, name = env_id.rpartition(":")
    # Only what can be made as it is named: some ids of gymnasium need packages of their own.
    known = [env_id for env_id in gymnasium.registry if not env_id.startswith(_NEEDS_JAX)]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(module + colon + env_id for env_id in near)}? " if near else ""
    if colon:
        return f"{hint}otherwise let {module} register it: gymnasium.register({name!r}, entry_point=...)"
    package = package_of(env_id)
    if package is not None:
        return f"pip install {shlex.quote(package.name)}, which brings this environment"
    return (
        f"{hint}for an environment of your own, or of another package, write MODULE:{env_id or 'ID'}, where importing "
        "MODULE registers it"
    )


def environment_spec(environment: gymnasium.Env, env_id: str) -> DataSpec:
    """Return the spaces of an environment.

    Raises:
        RLTransformerError: A space is of a kind that is not supported.
    """
    observation = space_from_gymnasium(environment.observation_space, where=env_id)
    return DataSpec(observation, space_from_gymnasium(environment.action_space, where=env_id), env_id, env_id)


def check_spaces(environment: gymnasium.Env, trained: DataSpec, env_id: str) -> None:
    """Check that an environment has the observations and actions of the training data, as in `matched_spaces`."""
    matched_spaces(environment_spec(environment, env_id), trained, env_id)


def matched_spaces(spec: DataSpec, trained: DataSpec, env_id: str) -> DataSpec:
    """Return the spaces of an environment, with observations as a policy takes them, without parts that it ignores.

    Args:
        spec: Spaces of the environment.
        trained: Spaces of the policy's training data.
        env_id: Gymnasium id, for the message.

    Raises:
        RLTransformerError: A space differs in kind, size, or, for actions, bounds.
    """
    spec = replace(spec, observation_space=spec.observation_space.observed_like(trained.observation_space))
    # Bounds matter for actions, which the policy scales by them. Bounds of observations are often infinite in one
    # version of an environment and finite in another, and nothing depends on them.
    pairs = (
        ("observations", _describe(spec.observation_space), _describe(trained.observation_space)),
        ("actions", _describe(spec.action_space, bounds=True), _describe(trained.action_space, bounds=True)),
    )
    for name, actual, expected in pairs:
        if actual != expected:
            source = source_arguments(trained)
            advice = "" if source is None else f": {source}"
            raise RLTransformerError(
                f"its {name} are {actual}, and the policy was trained on {expected}",
                where=env_id,
                fix=f"use the environment, and its version, that the data came from{advice}; "
                "or declare the data's spaces",
            )
    return spec


def source_arguments(trained: DataSpec) -> str | None:
    """Return the options of the command line for the environment of the data, or None if the data names none."""
    if not trained.env_id:
        return None
    return "; ".join(filter(None, (trained.environment_options, trained.wrappers_note)))


def source_note(environment: gymnasium.Env, trained: DataSpec, max_steps: int | None = None) -> str | None:
    """Return a note if an environment has the id of the data's, but other arguments or another time limit.

    Args:
        environment: The environment.
        trained: Description of the training data.
        max_steps: Steps after which the evaluation cuts episodes off.
    """
    spec = getattr(environment, "spec", None)  # environments of other libraries have none
    if spec is None or not trained.env_id or spec.id != trained.env_id.rpartition(":")[2]:
        return None
    recorded = dict(trained.env_kwargs or {})
    differing = [name for name, value in recorded.items() if name not in spec.kwargs or spec.kwargs[name] != value]
    limit = trained.max_episode_steps
    limits = [steps for steps in (spec.max_episode_steps, max_steps) if steps is not None]
    if limit is not None and min(limits, default=None) != limit:
        differing.append("max_episode_steps")
    if not differing:
        return None
    return f"note: other {', '.join(differing)} than in the data, which came from {source_arguments(trained)}"


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

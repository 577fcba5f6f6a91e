"""Name the numbers of observations and actions, for messages and figures."""

from __future__ import annotations

from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.mixed_rows import num_numbers
from rl_transformer.trajectories.spaces import Space


def observation_names(spec: DataSpec) -> list[str]:
    """Return a name for each number of a flat observation that is normalized: all of a vector, none of an image."""
    if spec.table is not None:
        numbers = [name for column, width in spec.table.numbers for name in _numbered(column, width)]
        categories = [
            f"{column} = {value}" for column, known in spec.table.categories for value in ("unknown", *map(str, known))
        ]
        names = [*numbers, *categories]
    else:
        names = _of_space(spec.observation_space, "observation")
    # Whatever a description of a table leaves out has a number still.
    size = num_numbers(spec.observation_space)
    return [*names[:size], *(f"observation {index}" for index in range(len(names), size))]


def action_names(spec: DataSpec) -> list[str]:
    """Return a name for each dimension of continuous actions, or for each part of discrete ones."""
    space = spec.action_space
    size = space.flat_dim if space.is_continuous else len(space.nvec) or 1
    if spec.table is not None:
        named = [name for column, width in spec.table.action for name in _numbered(column, width)]
        if len(named) == size:
            return named
    return _numbered("action", size)


def _numbered(name: str, size: int) -> list[str]:
    return [name] if size == 1 else [f"{name} {index}" for index in range(size)]


def _of_space(space: Space, name: str) -> list[str]:
    if space.parts:
        return [named for part_name, part in space.parts for named in _of_space(part, f"{name}[{part_name}]")]
    return [] if space.is_image else _numbered(name, space.flat_dim)

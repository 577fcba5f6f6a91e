"""Convert gymnasium's spaces to `Space`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.spaces import Space

if TYPE_CHECKING:
    import gymnasium


_KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple")


def space_from_gymnasium(space: gymnasium.Space, *, where: object) -> Space:
    """Return a gymnasium space as a `Space`.

    A part of a dict or tuple that is of no supported kind, such as text, has the name of its class as its kind. It can
    be left out by choosing the others, see `DataSpec.observing`.

    Raises:
        RLTransformerError: The space itself is of a kind that is not supported.
    """
    # Classes are compared by name, so that gymnasium is not imported: a machine that only runs a policy does not need
    # it. Any avoids a cast per kind.
    kind = type(space).__name__
    given: Any = space
    if kind == "Box":
        return Space.box(given.shape, given.low, given.high, str(given.dtype))
    if kind == "Discrete":
        return Space.discrete(int(given.n), int(given.start))
    if kind == "MultiDiscrete":
        return Space.multi_discrete(given.nvec, getattr(given, "start", 0))
    if kind == "MultiBinary":
        return Space("multi_binary", tuple(given.shape))
    if kind == "Dict":
        return Space(
            "dict",
            parts=tuple((str(name), _part(part, where)) for name, part in given.spaces.items()),
        )
    if kind == "Tuple":
        return Space(
            "tuple",
            parts=tuple((str(i), _part(part, where)) for i, part in enumerate(given.spaces)),
        )
    raise RLTransformerError(
        f"the space {kind} is not supported",
        where=where,
        fix="use Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these; "
        "flatten other spaces with a wrapper before recording",
    )


def _part(space: gymnasium.Space, where: object) -> Space:
    """Return a part of a dict or tuple space, whatever its kind."""
    if type(space).__name__ in _KINDS:
        return space_from_gymnasium(space, where=where)
    return Space(type(space).__name__.lower())

"""Convert gymnasium's spaces to `Space`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.spaces import Space

if TYPE_CHECKING:
    import gymnasium


def space_from_gymnasium(space: gymnasium.Space, *, where: object) -> Space:
    """Return a gymnasium space as a `Space`.

    Raises:
        RLTransformerError: The space, or a part of it, is of a kind that is not supported.
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
            parts=tuple((name, space_from_gymnasium(part, where=where)) for name, part in given.spaces.items()),
        )
    if kind == "Tuple":
        return Space(
            "tuple",
            parts=tuple((str(i), space_from_gymnasium(part, where=where)) for i, part in enumerate(given.spaces)),
        )
    raise RLTransformerError(
        f"the space {kind} is not supported",
        where=where,
        fix="use Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these; "
        "flatten other spaces with a wrapper before recording",
    )

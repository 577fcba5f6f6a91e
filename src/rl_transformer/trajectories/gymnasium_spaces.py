"""From gymnasium's spaces to ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.spaces import Space

if TYPE_CHECKING:
    import gymnasium


def space_from_gymnasium(space: gymnasium.Space, *, where: object) -> Space:
    """Translate a gymnasium space, or refuse it by name."""
    kind = type(space).__name__
    found: Any = space  # its class is known by name alone: gymnasium need not be installed
    if kind == "Box":
        return Space.box(found.shape, found.low, found.high, str(found.dtype))
    if kind == "Discrete":
        return Space.discrete(int(found.n), int(found.start))
    if kind == "MultiDiscrete":
        return Space.multi_discrete(found.nvec, getattr(found, "start", 0))
    if kind == "MultiBinary":
        return Space("multi_binary", tuple(found.shape))
    if kind == "Dict":
        return Space(
            "dict",
            parts=tuple((name, space_from_gymnasium(part, where=where)) for name, part in found.spaces.items()),
        )
    if kind == "Tuple":
        return Space(
            "tuple",
            parts=tuple((str(i), space_from_gymnasium(part, where=where)) for i, part in enumerate(found.spaces)),
        )
    raise RLTransformerError(
        f"the space {kind} is not supported",
        where=where,
        fix="use Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these; "
        "flatten other spaces with a wrapper before recording",
    )

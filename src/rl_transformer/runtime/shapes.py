"""Provide types that state an array's dtype and shape, as jaxtyping defines them: ``Float[Tensor, "B T D"]``.

They are documentation, and the tests check every call against them (tests/shape_checks.py). jaxtyping is not needed for
anything else: where it is not installed, as on a machine that only runs a policy, placeholders replace it. Modules that
use these types have ``from __future__ import annotations``, so that their annotations are not evaluated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Type checkers need plain imports, which they can follow, and re-exports in the form "X as X". At run time the import
# may fail.
if TYPE_CHECKING:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Float32 as Float32
    from jaxtyping import Float64 as Float64
    from jaxtyping import Int as Int
    from jaxtyping import Int64 as Int64
    from jaxtyping import Shaped as Shaped
    from jaxtyping import UInt8 as UInt8
else:
    try:
        from jaxtyping import Bool, Float, Float32, Float64, Int, Int64, Shaped, UInt8
    except ImportError:

        class Shaped:
            """Stands in for jaxtyping's types: ``Shaped[Tensor, "B T"]`` is ``Tensor``."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Float32 = Float64 = Int = Int64 = UInt8 = Shaped

"""The type checker that the tests give to jaxtyping's import hook: it checks shapes and dtypes of arrays, no other type.

Every other type is pyright's business. beartype would refuse what pyright knows to be right: protocols that are not
checkable at run time, and `Self`.
"""

import typing

from beartype import beartype
from jaxtyping import AbstractArray

PACKAGES = ["rl_transformer.models", "rl_transformer.windows", "rl_transformer.policy", "rl_transformer.conditions"]


def check_arrays(function):
    """Return the function with a check of the arguments and results whose type names an array's shape."""
    hints = function.__annotations__
    if not any(_names_a_shape(hint) for hint in hints.values()):
        return function
    function.__annotations__ = {name: hint if _names_a_shape(hint) else typing.Any for name, hint in hints.items()}
    return beartype(function)


def _names_a_shape(hint):
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_names_a_shape(part) for part in typing.get_args(hint))

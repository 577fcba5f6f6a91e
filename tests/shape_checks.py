"""The type checker that the tests give to jaxtyping's import hook: it checks shapes and dtypes of arrays, no other type.

Every other type is pyright's business. beartype would refuse what pyright knows to be right: protocols that are not
checkable at run time, and `Self`.
"""

import functools
import typing

import numpy as np
from beartype import beartype
from jaxtyping import AbstractArray
from torch import Tensor

PACKAGES = ["rl_transformer.models", "rl_transformer.windows", "rl_transformer.policy", "rl_transformer.conditions"]


def check_arrays(function):
    """Return the function with a check of the arguments and results whose type names an array's shape."""
    hints = function.__annotations__
    if not any(_names_a_shape(hint) for hint in hints.values()):
        return function
    function.__annotations__ = {name: hint if _names_a_shape(hint) else typing.Any for name, hint in hints.items()}
    checked = beartype(function)
    # A check depends on shapes and dtypes alone, so what passed once need not be checked again. Training calls the
    # same functions with the same shapes for thousands of steps, and checks cost more than small networks do.
    passed = set()

    @functools.wraps(function)
    def check_once(*args, **kwargs):
        key = (*map(_form, args), *kwargs, *map(_form, kwargs.values()))
        if key not in passed:
            checked(*args, **kwargs)
            passed.add(key)

    return check_once


def _names_a_shape(hint):
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_names_a_shape(part) for part in typing.get_args(hint))


def _form(value):
    """Return what a check may depend on: shape and dtype of an array, alone or in a container, or else the type."""
    if isinstance(value, Tensor | np.ndarray):
        return value.shape, value.dtype
    if isinstance(value, tuple | list):
        return type(value), *map(_form, value)
    if isinstance(value, dict):
        return (*value, *map(_form, value.values()))
    return type(value)

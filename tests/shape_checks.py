"""Check calls against the shapes in their signatures: ``Float[Tensor, "B T D"]``.

Only types of arrays are checked; all others are pyright's business. beartype would refuse some that pyright knows to be
right, such as protocols, which cannot be checked at run time.

jaxtyping has an import hook for this too. It wraps every function, with or without shapes, and checks every call; with
it the tests of training took a third longer. Here a function is checked once per combination of shapes.
"""

import ast
import dataclasses
import functools
import operator
import re
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from typing import Any

import numpy as np
from beartype import beartype
from jaxtyping import jaxtyped
from torch import Tensor

PACKAGES = (
    "rl_transformer.models",
    "rl_transformer.windows",
    "rl_transformer.policy",
    "rl_transformer.conditions",
    "rl_transformer.critics",
    "rl_transformer.evaluation.offline",
)
_SHAPE = re.compile(r"\[(Tensor|np\.ndarray), ['\"]")
_CHECK = '__import__("tests.shape_checks", fromlist=["check"]).check'


def install():
    """Check the modules of `PACKAGES` that are imported from now on."""
    imported = [name for name in sys.modules if name.startswith(PACKAGES)]
    assert not imported, f"imported too early to be checked: {imported}"
    sys.meta_path.insert(0, _Finder())


def check(target):
    """Return a function, or a dataclass, that is checked when it is called, if its signature states shapes."""
    if isinstance(target, type):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = check(target.__init__)
        return target
    hints = {name: text for name, text in target.__annotations__.items() if _SHAPE.search(str(text))}
    if not hints:
        return target
    # The annotations are text. Those without shapes are not evaluated, because they may name classes defined later.
    evaluated = {name: eval(text, target.__globals__) for name, text in hints.items()}
    target.__annotations__ = dict.fromkeys(target.__annotations__, Any) | evaluated
    checked = beartype(target)
    passed = set()

    @functools.wraps(target)
    def check_once(*args, **kwargs):
        form = tuple([_READERS[type(value)](value) for value in args])
        if kwargs:
            form = (form, *kwargs, *[_READERS[type(value)](value) for value in kwargs.values()])
        if form in passed:
            return target(*args, **kwargs)
        with jaxtyped("context"):  # in which a letter stands for one size
            result = checked(*args, **kwargs)
        passed.add(form)
        return result

    return check_once


class _Readers(dict):
    """For each type, a function that returns what shapes may depend on: an array's, a number, or which object it is."""

    def __missing__(self, kind):
        self[kind] = reader = self._make(kind)
        return reader

    def _make(self, kind):
        if issubclass(kind, Tensor | np.ndarray):
            return operator.attrgetter("dtype", "shape")
        if issubclass(kind, tuple | list):
            return lambda values: tuple([self[type(value)](value) for value in values])
        if kind is slice:
            return operator.attrgetter("start", "stop", "step")
        return next((number for number in (int, float) if issubclass(kind, number)), id)


_READERS = _Readers()


class _Finder:
    def find_spec(self, name, path, target=None):
        spec = PathFinder.find_spec(name, path, target) if name.startswith(PACKAGES) else None
        if spec is not None:
            spec.loader = Loader(name, spec.origin)
        return spec


class Loader(SourceFileLoader):
    def get_code(self, fullname):
        """Compile the module with `check` as the innermost decorator of its functions, never from a cache."""
        tree = _Decorate().visit(ast.parse(self.get_data(self.path), self.path))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


class _Decorate(ast.NodeTransformer):
    def visit_FunctionDef(self, node):
        node.decorator_list.append(self._check_at(node))
        return node

    def visit_ClassDef(self, node):
        node.decorator_list.insert(0, self._check_at(node))
        return self.generic_visit(node)

    def _check_at(self, node):
        return ast.copy_location(ast.parse(_CHECK, mode="eval").body, node)

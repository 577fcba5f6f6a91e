"""Which code a measurement comes from: a hash over what trains policies and over what an experiment measures with."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from rl_transformer.reproductions.experiment import Experiment

_PACKAGE = Path(__file__).parents[1]
_TRAINS_NOTHING = (
    "bench",
    "cli",
    "critics",
    "evaluation/offline",
    "export",
    "hub",
    "launch",
    "play",
    "reproductions",
    "serve",
)
"""Parts of the package that no policy is trained or played with. An experiment that imports from them adds those modules."""
_TEXT_OF_PAGE = {"title", "question", "rules", "unit", "differs", "unknown", "published"}
_JUDGING = {"summarize", "draw"}


@cache
def engine_hash() -> str:
    """Return a hash of all code that trains and plays policies, without its comments and docstrings."""
    return _hash(path for path in sorted(_PACKAGE.rglob("*.py")) if not _trains_nothing(path))


def code_hash(experiment: Experiment) -> str:
    """Return a hash of the engine and of all that an experiment imports, without what only judges and describes."""
    module = type(experiment).__module__
    # A module of the same package on disk: tests define experiments of their own, which have none.
    own = _imported(module) if _file_of(module) else []
    text = f"{engine_hash()} {module} {_hash(path for path in own if _trains_nothing(path))}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _trains_nothing(path: Path) -> bool:
    place = path.relative_to(_PACKAGE)
    return any(place.is_relative_to(part) for part in _TRAINS_NOTHING)


def _imported(module: str) -> list[Path]:
    """Return the files of a module and of all modules of this package that it imports, directly or not."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        if file is not None and name not in found:
            found[name] = file
            waiting += _imports(file)
    return [found[name] for name in sorted(found)]


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # "from package import module"


def _file_of(module: str) -> Path | None:
    place = Path(*module.split("."))
    paths = (_PACKAGE.parent / place.with_suffix(".py"), _PACKAGE.parent / place / "__init__.py")
    return next((path for path in paths if module.startswith(_PACKAGE.name) and path.exists()), None)


def _effective_source(path: Path) -> str:
    """Return the lines of a module without comments, docstrings, page texts and judging functions.

    Lines and not the syntax tree written out, because Python writes the same tree differently in different versions.
    """
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    is_experiment = path.parent.name == "reproductions"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for part in node.body:
            # Texts and rules may be edited without repeating measurements, for which they do not matter.
            if _is_text(part) or (is_experiment and isinstance(node, ast.ClassDef) and _only_judges(part)):
                first, last = _first_line(part), part.end_lineno or part.lineno
                lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _first_line(node: ast.stmt) -> int:
    return min(part.lineno for part in (node, *getattr(node, "decorator_list", [])))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _only_judges(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name in _JUDGING
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(isinstance(target, ast.Name) and target.id in _TEXT_OF_PAGE for target in targets)


def _hash(paths: Iterable[Path]) -> str:
    texts = [f"{path.relative_to(_PACKAGE).as_posix()}\n{_effective_source(path)}" for path in paths]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]

"""Where a measurement comes from: the code that trained and evaluated it, and the policies it used."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from rl_transformer.reproductions.experiment import JSON, Experiment, Measured
from rl_transformer.runtime.reading import read_json

_PACKAGE = Path(__file__).parents[1]
_WITHOUT_EFFECT = ("bench", "cli", "launch", "reproductions")
"""Packages that neither train nor evaluate a policy; an experiment's own module is added for its cells."""
_TEXT_OF_PAGE = {"title", "question", "rules", "unit", "differs", "unknown", "published"}
_JUDGING = {"summarize", "draw"}
_MOST_VALUES = 20
_USED_POLICIES: ContextVar[list[Path] | None] = ContextVar("used_policies", default=None)


@cache
def engine_hash() -> str:
    """Return a hash of all code that trains and evaluates policies, without its comments and docstrings."""
    files = sorted(
        path for path in _PACKAGE.rglob("*.py") if path.relative_to(_PACKAGE).parts[0] not in _WITHOUT_EFFECT
    )
    return _hash([path.relative_to(_PACKAGE).as_posix() + _effective_source(path) for path in files])


def code_hash(experiment: Experiment) -> str:
    """Return a hash of the engine and of an experiment's module, without what only judges and describes."""
    module = _PACKAGE.parent / Path(*type(experiment).__module__.split(".")).with_suffix(".py")
    own = _effective_source(module) if module.exists() else type(experiment).__qualname__
    return _hash([engine_hash(), own])


@contextmanager
def used_policies() -> Iterator[list[Path]]:
    """Collect the run folders of the policies that `note_policy` names inside the block."""
    folders: list[Path] = []
    # A context variable, so that the run cache can name what it used without every caller passing a list on.
    token = _USED_POLICIES.set(folders)
    try:
        yield folders
    finally:
        _USED_POLICIES.reset(token)


def note_policy(run: Path) -> None:
    """Name the run folder of a policy that the present cell uses."""
    folders = _USED_POLICIES.get()
    if folders is not None and run not in folders:
        folders.append(run)


def describe_policies(runs: Sequence[Path]) -> list[JSON]:
    """Return for each policy its identity, and the commit and versions that trained it."""
    described = []
    for run in runs:
        trained = read_json(run / "run.json", fix="delete the folder and repeat")
        described.append({"policy": run.name, "git_commit": trained["git_commit"], "versions": trained["versions"]})
    return described


def other_code(measured: Measured, code: str) -> dict[str, int]:
    """Return how many cells other code than the present one has measured, by its hash or else its commit."""
    found = Counter(row.get("code") or f"commit {row.get('git_commit') or 'unknown'}" for row in measured)
    return {name: count for name, count in found.items() if name != code}


def compact_returns(returns: Sequence[float]) -> JSON | list[float]:
    """Return the returns of episodes for a cell's file: as counts if they take few values."""
    counts = Counter(float(value) for value in returns)
    # Counts are shorter only where values repeat.
    if len(counts) > _MOST_VALUES or len(counts) == len(returns):
        return [float(value) for value in returns]
    return {"counts": [[value, counts[value]] for value in sorted(counts)]}


def mean_of_returns(returns: JSON | list[float]) -> float:
    """Return the mean of what `compact_returns` returned."""
    if isinstance(returns, list):
        return sum(returns) / len(returns)
    return sum(value * count for value, count in returns["counts"]) / sum(count for _, count in returns["counts"])


def _effective_source(path: Path) -> str:
    """Return a module as code without comments, docstrings, page texts and judging functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    is_experiment = path.parent.name == "reproductions"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        # Texts and rules may be edited without repeating measurements, for which they do not matter.
        kept = [part for part in node.body if not _is_text(part)]
        if is_experiment and isinstance(node, ast.ClassDef):
            kept = [part for part in kept if not _only_judges(part)]
        node.body = kept or [ast.Pass()]
    # Parsed and written again, so that comments and layout do not change the hash and measurements stay valid.
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _only_judges(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name in _JUDGING
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(isinstance(target, ast.Name) and target.id in _TEXT_OF_PAGE for target in targets)


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]

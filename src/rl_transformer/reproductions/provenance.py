"""Where a measurement comes from: the policies it used and who trained them, and the code of its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from rl_transformer.reproductions.experiment import JSON, Measured
from rl_transformer.runtime.reading import read_json

_MOST_VALUES = 20
_USED_POLICIES: ContextVar[list[Path] | None] = ContextVar("used_policies", default=None)


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

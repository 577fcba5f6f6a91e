"""From a URI to a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.trajectories.checks import Finding, refuse_poison
from rl_transformer.trajectories.dataset import TrajectoryDataset, parse_uri
from rl_transformer.trajectories.spaces import DataSpec
from rl_transformer.trajectories.trajectory import Trajectory

Source = tuple[DataSpec, Iterator[Trajectory], list[Finding]]


def open_trajectories(uri: str | Path, *, keep_unfinished: bool = False) -> TrajectoryDataset:
    """Open logged data by its URI.

    Args:
        uri: ``minari:NAMESPACE/NAME-v0`` (below MINARI_DATASETS_PATH), ``d4rl:FILE.hdf5``, or
            ``rlt:FOLDER`` (written by `rlt collect` and `rlt convert`).
        keep_unfinished: Keep the tail of a D4RL file that has no episode end.

    Raises:
        RLTransformerError: The data is not there, cannot be read, or would poison training; the
            message lists every kind of defect with its first episode and step.
    """
    dataset = read_trajectories(uri, keep_unfinished=keep_unfinished)
    refuse_poison(dataset.findings, uri)
    return dataset


def read_trajectories(uri: str | Path, *, keep_unfinished: bool = False, verify: bool = False) -> TrajectoryDataset:
    """Open logged data without refusing what would poison training: for `rlt inspect`."""
    scheme, rest = parse_uri(uri)
    if scheme == "rlt":
        from rl_transformer.trajectories.store import open_store

        return open_store(Path(rest), verify=verify)
    spec, trajectories, notes = open_source(uri, keep_unfinished=keep_unfinished)
    dataset = TrajectoryDataset.in_memory(spec, trajectories, location=str(uri))
    dataset.findings.extend(notes)
    return dataset


def open_source(uri: str | Path, *, keep_unfinished: bool = False) -> Source:
    """Return spaces, an iterator over trajectories, and notes, without holding the data."""
    scheme, rest = parse_uri(uri)
    if scheme == "rlt":
        store = read_trajectories(uri)
        return store.spec, (store.trajectory(i) for i in range(len(store))), store.findings
    if scheme not in _SOURCES:
        known = ", ".join(f"{name}:" for name in (*_SOURCES, "rlt"))
        raise RLTransformerError(
            f"unknown kind of data {scheme + ':'!r}", where=uri, fix=f"begin the URI with one of {known}"
        )
    return _SOURCES[scheme](rest, keep_unfinished)


def _minari(rest: str, keep_unfinished: bool) -> Source:
    require("minari", extra="data", purpose="reading a minari: URI")
    from rl_transformer.trajectories.readers.minari import read_minari

    return read_minari(rest)


def _d4rl(rest: str, keep_unfinished: bool) -> Source:
    require("h5py", extra="data", purpose="reading a d4rl: URI")
    from rl_transformer.trajectories.readers.d4rl import read_d4rl

    return read_d4rl(Path(rest), keep_unfinished=keep_unfinished)


_SOURCES: dict[str, Callable[[str, bool], Source]] = {"minari": _minari, "d4rl": _d4rl}

"""From a URI to a data set."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.registry import call_plugin
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.checks import raise_on_errors
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.readers import READERS, Reader, Source
from rl_transformer.trajectories.readers.interface import Value, checked, usages


def open_trajectories(uri: str | Path, **options: Value) -> TrajectoryDataset:
    """Open logged data by its URI.

    Args:
        uri: ``SCHEME:PATH`` or ``SCHEME:PATH?option=value``: ``minari:NAMESPACE/NAME-v0`` (below
            MINARI_DATASETS_PATH), ``d4rl:FILE.hdf5``, ``rlt:FOLDER`` (written by `rlt collect` and
            `rlt convert`), or a scheme that a plugin registered.
        options: Options of the reader; they win over those in the URI.

    Raises:
        RLTransformerError: The data is not there, cannot be read, or would corrupt training; the
            message lists every kind of defect with its first episode and step.
    """
    dataset = read_trajectories(uri, **options)
    raise_on_errors(dataset.findings, uri)
    return dataset


def read_trajectories(uri: str | Path, **options: Value) -> TrajectoryDataset:
    """Open logged data without refusing data that would corrupt training: for `rlt inspect`."""
    source = open_source(uri, **options)
    if isinstance(source, TrajectoryDataset):
        return source
    dataset = TrajectoryDataset.in_memory(source.spec, source.trajectories, location=str(uri))
    dataset.findings.extend(source.notes)
    return dataset


def stream_trajectories(uri: str | Path, **options: Value) -> Source:
    """Return spaces, an iterator over the episodes, and notes, without holding the data in memory."""
    source = open_source(uri, **options)
    if isinstance(source, TrajectoryDataset):
        episodes = (source.trajectory(index) for index in range(len(source)))
        return Source(source.spec, episodes, source.findings)
    return source


def open_source(uri: str | Path, **options: Value) -> Source | TrajectoryDataset:
    """Find the reader of a URI and open the data with it.

    Raises:
        RLTransformerError: An unknown scheme, or an option that the reader does not have.
    """
    scheme, path, query = parse_uri(uri)
    if scheme not in READERS.names():
        raise RLTransformerError(
            f"unknown kind of data {scheme + ':'!r}",
            where=uri,
            fix=f"name the data as one of {', '.join(usages())}; a scheme of your own needs --plugin MODULE",
        )
    reader = READERS.get(scheme, where=uri)
    arguments = _reader_options(reader, query, options, where=uri)
    opened = call_plugin(READERS, scheme, "open()", lambda: reader().open(path, **arguments))
    return checked(opened, scheme)


def parse_uri(uri: str | Path) -> tuple[str, str, dict[str, str]]:
    """Split ``SCHEME:PATH?option=value`` into its three parts; a path without a scheme is a store."""
    scheme, colon, rest = str(uri).partition(":")
    if not colon:
        scheme = "rlt"
        rest = str(uri)
    if "?" not in rest or Path(rest).exists():
        return scheme, rest, {}
    path, _, query = rest.rpartition("?")
    return scheme, path, dict(parse_qsl(query, keep_blank_values=True))


def _reader_options(
    reader: type[Reader], query: dict[str, str], given: dict[str, Value], *, where: object
) -> JsonObject:
    """Return every option of the reader: from the call, else from the URI, else its default."""
    for name in [*query, *given]:
        if name not in reader.options:
            known = ", ".join(reader.options) or "none"
            raise RLTransformerError(
                f"the reader of {reader.usage} has no option {name!r}",
                where=where,
                fix=f"remove it; options of this reader: {known}",
            )
    defaults = {name: option.default for name, option in reader.options.items()}
    parsed = {name: reader.options[name].parse(text, where=f"{where}: {name}") for name, text in query.items()}
    return {**defaults, **parsed, **given}

"""Open datasets by URI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.registry import call_plugin
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.checks import raise_on_errors
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.readers import READERS, ReaderOption, Source
from rl_transformer.trajectories.readers.interface import Value, checked, reader_options, usages


def open_trajectories(uri: str | Path, **options: Value) -> TrajectoryDataset:
    """Open logged data by its URI.

    Args:
        uri: ``SCHEME:PATH`` or ``SCHEME:PATH?option=value``: ``minari:NAMESPACE/NAME-v0`` (below
            MINARI_DATASETS_PATH), ``d4rl:FILE.hdf5``, ``rlt:FOLDER`` (written by `rlt collect` and
            `rlt convert`), or a scheme that a plugin registered.
        options: Options of the reader; they override those in the URI.

    Raises:
        RLTransformerError: The data does not exist, cannot be read, or would corrupt training; the message lists every
            kind of defect with its first episode and step.
    """
    dataset = read_trajectories(uri, **options)
    raise_on_errors(dataset.findings, uri)
    return dataset


def read_trajectories(uri: str | Path, **options: Value) -> TrajectoryDataset:
    """Open logged data without raising an error for its findings; used by `rlt inspect`.

    Raises:
        RLTransformerError: The data does not exist or cannot be read.
    """
    source = open_source(uri, **options)
    if isinstance(source, TrajectoryDataset):
        return source
    dataset = TrajectoryDataset.in_memory(source.spec, source.trajectories, location=str(uri))
    dataset.findings.extend(source.notes)
    return dataset


def stream_trajectories(uri: str | Path, **options: Value) -> Source:
    """Return the spaces, an iterator over the episodes, and the reader's notes, without holding the data in memory."""
    source = open_source(uri, **options)
    # A memory-mapped dataset is read episode by episode, too. Its findings are those of the time it was written.
    if isinstance(source, TrajectoryDataset):
        episodes = (source.trajectory(index) for index in range(len(source)))
        return Source(source.spec, episodes, source.findings)
    return source


def open_source(uri: str | Path, **options: Value) -> Source | TrajectoryDataset:
    """Open the data of a URI with the reader of its scheme.

    Returns:
        A `Source` whose episodes have not been read yet, or a `TrajectoryDataset` from a format that needs no reading.

    Raises:
        RLTransformerError: The scheme is not registered, the reader does not have one of the options, or opening fails.
    """
    scheme, path, query = parse_uri(uri)
    # Not left to the registry: a typing mistake in a URI deserves examples of URIs, not a list of registered names.
    if scheme not in READERS.names():
        raise RLTransformerError(
            f"unknown kind of data {scheme + ':'!r}",
            where=uri,
            fix=f"name the data as one of {', '.join(usages())}; a scheme of your own needs --plugin MODULE",
        )
    reader = READERS.get(scheme, where=uri)
    arguments = _option_values(reader_options(reader, scheme), reader.usage, query, options, where=uri)
    opened = call_plugin(READERS, scheme, "open()", lambda: reader().open(path, **arguments))
    return call_plugin(READERS, scheme, "the Source", lambda: checked(opened, scheme))


def parse_uri(uri: str | Path) -> tuple[str, str, dict[str, str]]:
    """Return scheme, path and options of ``SCHEME:PATH?option=value``; a path without a scheme is a store."""
    scheme, colon, rest = str(uri).partition(":")
    if not colon:
        scheme = "rlt"
        rest = str(uri)
    # A file name may contain a question mark. If such a file exists, it is meant, and not one with options.
    if "?" not in rest or Path(rest).exists():
        return scheme, rest, {}
    path, _, query = rest.rpartition("?")
    return scheme, path, dict(parse_qsl(query, keep_blank_values=True))


def _option_values(
    known: Mapping[str, ReaderOption], usage: str, query: dict[str, str], given: dict[str, Value], *, where: object
) -> JsonObject:
    """Return a value for every option of a reader: from the call, else from the URI, else the default."""
    for name in [*query, *given]:
        if name not in known:
            raise RLTransformerError(
                f"the reader of {usage} has no option {name!r}",
                where=where,
                fix=f"remove it; options of this reader: {', '.join(known) or 'none'}",
            )
    # Readers get every option, so that their own signatures need no second set of defaults.
    defaults = {name: option.default for name, option in known.items()}
    parsed = {name: known[name].parse(text, where=f"{where}: {name}") for name, text in query.items()}
    return {**defaults, **parsed, **given}

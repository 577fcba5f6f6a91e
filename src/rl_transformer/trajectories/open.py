"""Open datasets by URI."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from rl_transformer.config.sections import DataConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import MANIFEST
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.registry import call_plugin
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.blocks import EpisodeBlock, one_by_one
from rl_transformer.trajectories.data_options import clip_actions as clipped_actions
from rl_transformer.trajectories.data_options import observe_parts
from rl_transformer.trajectories.data_spec import part_names
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.findings import raise_on_errors
from rl_transformer.trajectories.readers import READERS, Reader, ReaderOption, Source
from rl_transformer.trajectories.readers.interface import Value, checked, reader_options, usages
from rl_transformer.trajectories.store_files import store_folder
from rl_transformer.trajectories.suggestions import suggest_uri
from rl_transformer.trajectories.trajectory import Trajectory
from rl_transformer.trajectories.verified import verify_once, watch_columns


def open_trajectories(
    uri: str | Path, *, observe: Sequence[str] = (), clip_actions: bool = False, **options: Value
) -> TrajectoryDataset:
    """Open logged data by its URI.

    Args:
        uri: ``SCHEME:PATH`` or ``SCHEME:PATH?option=value``: ``minari:NAMESPACE/NAME-v0`` (below
            MINARI_DATASETS_PATH), ``d4rl:FILE.hdf5``, ``rlt:FOLDER`` (written by `rlt collect` and
            `rlt convert`), or a scheme that a plugin registered.
        observe: Names or globs of the parts of Dict and Tuple observations to use; empty: all. In the URI of any
            scheme: ``?observe=image,direction``.
        clip_actions: Clip continuous actions to the bounds of their space; a finding counts them. In the URI of any
            scheme: ``?clip_actions=true``.
        options: Options of the reader; they override those in the URI.

    Raises:
        RLTransformerError: The data does not exist, cannot be read, or would corrupt training; the message lists every
            kind of defect with its first episode and step.
    """
    dataset = read_trajectories(uri, observe=observe, clip_actions=clip_actions, **options)
    raise_on_errors(dataset.findings, uri)
    return dataset


def open_training_data(config: DataConfig, dataset: TrajectoryDataset | None = None) -> TrajectoryDataset:
    """Return the data of a run: that of ``config.uri``, or a dataset that is open already, as the options want it.

    Raises:
        RLTransformerError: As in `open_trajectories`.
    """
    location = str(config.uri) if dataset is None else dataset.location
    if location and parse_uri(location)[0] == "rlt":
        # A flipped bit in a column would train a slightly wrong policy, silently. Opening alone compares sizes only.
        folder = store_folder(parse_uri(location)[1])
        if (folder / MANIFEST).is_file():  # what is no store is refused below
            verify_once(folder)
    if dataset is None:
        return open_trajectories(config.uri, observe=config.observe, clip_actions=config.clip_actions)
    # A dataset that was opened holds no action outside its bounds, so there is nothing left to clip.
    return _observing(dataset, config.observe)


def watch_training_data(dataset: TrajectoryDataset) -> Callable[[], None]:
    """Return a function that raises an error if a store that is mapped was changed in place since this call."""
    is_mapped = bool(dataset.summary.content)
    return watch_columns(store_folder(parse_uri(dataset.location)[1])) if is_mapped else lambda: None


def read_trajectories(
    uri: str | Path, *, observe: Sequence[str] = (), clip_actions: bool = False, **options: Value
) -> TrajectoryDataset:
    """Open logged data without raising an error for its findings; used by `rlt inspect`.

    Raises:
        RLTransformerError: The data does not exist or cannot be read.
    """
    opened, observe, clip_actions = _open(uri, observe, clip_actions, options)
    if isinstance(opened, TrajectoryDataset) and not clip_actions:
        return _observing(opened, observe)
    source = _with_options(_as_source(opened), observe, clip_actions)
    return TrajectoryDataset.in_memory(source.spec, source.trajectories, location=str(uri), notes=source.notes)


def stream_trajectories(
    uri: str | Path, *, observe: Sequence[str] = (), clip_actions: bool = False, **options: Value
) -> Source:
    """Return the spaces, an iterator over the episodes, and the reader's notes, without holding the data in memory."""
    opened, observe, clip_actions = _open(uri, observe, clip_actions, options)
    return _with_options(_as_source(opened), observe, clip_actions)


def _as_source(opened: Source | TrajectoryDataset) -> Source:
    """Return a dataset as a source: it is read episode by episode, too, and its findings are those of its writing."""
    if isinstance(opened, Source):
        return opened
    episodes = (opened.trajectory(index) for index in range(len(opened)))
    return Source(opened.spec, episodes, list(opened.findings))


def _with_options(source: Source, observe: Sequence[str], clip_actions: bool) -> Source:
    """Return a source with parts chosen and actions clipped."""
    spec = source.spec
    trajectories: Iterator[Trajectory | EpisodeBlock] = source.trajectories
    if observe:
        spec, trajectories = observe_parts(spec, one_by_one(trajectories), observe)
    if clip_actions:
        trajectories = clipped_actions(spec, one_by_one(trajectories), source.notes)
    return Source(spec, trajectories, source.notes)


def _observing(dataset: TrajectoryDataset, observe: Sequence[str]) -> TrajectoryDataset:
    """Return a dataset with only some parts of its observations; the same one if these are all of its parts."""
    if dataset.spec.observing(observe) == dataset.spec:
        return dataset
    # Built again, so that columns, statistics, findings and fingerprint are those of the same parts from any format.
    source = _with_options(_as_source(dataset), observe, False)
    return TrajectoryDataset.in_memory(source.spec, source.trajectories, location=dataset.location, notes=source.notes)


def _open(
    uri: str | Path, observe: Sequence[str], clip_actions: bool, options: dict[str, Value]
) -> tuple[Source | TrajectoryDataset, Sequence[str], bool]:
    """Open the data of a URI with the reader of its scheme.

    Args:
        uri: The URI, perhaps with options.
        observe: Parts of observations to use; they override those in the URI.
        clip_actions: Whether to clip actions; False leaves it to the URI.
        options: Options of the reader; they override those in the URI.

    Returns:
        A `Source` whose episodes have not been read yet, or a `TrajectoryDataset` from a format that needs no reading;
        the parts of observations to use; and whether to clip actions.

    Raises:
        RLTransformerError: The scheme is not registered, the reader does not have one of the options, or opening fails.
    """
    observe = part_names(observe)
    scheme, path, query = parse_uri(uri)
    reader = _find_reader(uri)
    known = reader_options(reader, scheme)
    # What every format has is no matter of the readers, unless one has an option of this name itself.
    if "observe" in query and "observe" not in known:
        in_uri = query.pop("observe")
        observe = observe or in_uri.split(",")
    if "clip_actions" in query and "clip_actions" not in known:
        in_uri = ReaderOption(False, "", bool).parse(query.pop("clip_actions"), where=f"{uri}: clip_actions")
        clip_actions = clip_actions or bool(in_uri)
    arguments = _option_values(known, reader.usage, query, options, where=uri)
    opened = call_plugin(READERS, scheme, "open()", lambda: reader().open(path, **arguments))
    return call_plugin(READERS, scheme, "the Source", lambda: checked(opened, scheme)), observe, clip_actions


def open_reader(uri: str | Path) -> Reader:
    """Return the reader of a URI's scheme, which has not opened anything yet.

    Raises:
        RLTransformerError: The scheme is not registered, or the path is that of another format.
    """
    return _find_reader(uri)()


def _find_reader(uri: str | Path) -> type[Reader]:
    """Return the class of the reader of a URI's scheme."""
    scheme, path, query = parse_uri(uri)
    # Not left to the registry: a typing mistake in a URI deserves examples of URIs, not a list of registered names.
    if scheme not in READERS.names():
        raise RLTransformerError(
            f"unknown kind of data {scheme + ':'!r}",
            where=uri,
            fix=f"name the data as one of {', '.join(usages())}; a scheme of your own needs --plugin MODULE",
        )
    given = f"?{str(uri).rpartition('?')[2]}" if query else ""
    if hint := suggest_uri(path, scheme, has_scheme=str(uri).startswith(f"{scheme}:"), options=given):
        problem, better = hint
        fix = f"write it as {better}"
        if better is None:
            fix = (
                f"name its format, as in {', '.join(usages())}; read any other one yourself and use "
                "TrajectoryDataset.from_episodes"
            )
        raise RLTransformerError(problem, where=uri, fix=fix)
    return READERS.get(scheme, where=uri)


def parse_uri(uri: str | Path) -> tuple[str, str, dict[str, str]]:
    """Return scheme, path and options of ``SCHEME:PATH?option=value``; a path without a scheme is a store.

    In every path, ``~`` stands for a home folder.

    Raises:
        RLTransformerError: An option is given twice.
    """
    text = str(uri)
    scheme, colon, rest = text.partition(":")
    # A file whose name contains a colon is meant as a file, unless its name begins with a scheme.
    if not colon or (scheme not in READERS.names() and user_path(text).exists()):
        scheme = "rlt"
        rest = text
    # A file name may contain a question mark. If such a file exists, it is meant, and not one with options.
    path, question, query = rest.rpartition("?")
    if not question or user_path(rest).exists():
        path = rest
        query = ""
    if path.startswith("~"):
        path = str(user_path(path))
    pairs = parse_qsl(query, keep_blank_values=True)
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RLTransformerError(f"the option {twice} is given twice", where=uri, fix="give it once")
    return scheme, path, dict(pairs)


def _option_values(
    known: Mapping[str, ReaderOption], usage: str, query: dict[str, str], given: dict[str, Value], *, where: object
) -> JsonObject:
    """Return a value for every option of a reader: from the call, else from the URI, else the default."""
    for name in [*query, *given]:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, "observe", "clip_actions"], n=1)
            raise RLTransformerError(
                f"the reader of {usage} has no option {name!r}",
                where=where,
                fix=f"{f'did you mean {near[0]}? otherwise ' if near else ''}remove it; options of this reader: "
                f"{', '.join(known) or 'none'}; of every one: observe, clip_actions",
            )
    # Readers get every option, so that their own signatures need no second set of defaults.
    defaults = {name: option.default for name, option in known.items()}
    parsed = {name: known[name].parse(text, where=f"{where}: {name}") for name, text in query.items()}
    return {**defaults, **parsed, **given}

"""The interface of readers, and their registry; built-in readers are registered in `__init__.py` beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.registry import Registry, broken_contract
from rl_transformer.trajectories.blocks import EpisodeBlock
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.trajectory import Trajectory

Value = bool | int | float | str
"""The value of a reader's option."""

# Shapes, number types and values are checked with those of every other dataset, in `trajectories.checks`.
_FIELD_TYPES = {
    "actions": (np.ndarray,),
    "rewards": (np.ndarray,),
    "terminated": (bool, np.bool_),
    "truncated": (bool, np.bool_),
    "extras": (Mapping,),
}


@dataclass(frozen=True)
class ReaderOption:
    """Declares an option of a reader, which is set in the URI: ``SCHEME:PATH?name=value``."""

    default: Value | None
    help: str
    type: type[Value] = str

    def parse(self, text: str, *, where: object) -> Value:
        """Return the value of the option from its text in a URI.

        Raises:
            RLTransformerError: The text is not of the option's type.
        """
        try:
            # bool("false") is True, hence the table.
            if self.type is bool:
                return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            return self.type(text)
        except (ValueError, KeyError):
            problem = f"{text!r} is not of type {self.type.__name__}"
            fix = "write true or false" if self.type is bool else "give a value of that type"
            raise RLTransformerError(problem, where=where, fix=fix) from None


@dataclass(frozen=True)
class Source:
    """Holds opened data whose episodes have not been read yet."""

    spec: DataSpec
    trajectories: Iterator[Trajectory | EpisodeBlock]
    """The episodes, read one (or one block) at a time."""
    notes: list[Finding] = field(default_factory=list)
    """Findings about data that the reader left out or changed; it may add to them until its last episode is read."""


class Reader(Protocol):
    """Reads one format. Implementations are classes without constructor arguments."""

    usage: ClassVar[str]
    """Form of the URIs of this format, for example ``d4rl:FILE.hdf5``."""
    options: ClassVar[Mapping[str, ReaderOption]]
    """Options of this reader by name; may be empty."""

    def open(self, path: str, **options: Value) -> Source | TrajectoryDataset:
        """Open the data at ``path``.

        Args:
            path: The part of the URI after the scheme and before the options: a file, folder or id.
            options: A value for every option of this reader.

        Returns:
            A `Source`; or a `TrajectoryDataset`, from a format whose columns can be used in place.

        Raises:
            RLTransformerError: There is no such data, or it cannot be read.
        """
        ...


READERS: Registry[type[Reader]] = Registry("reader", required=("usage", "options", "open"))
"""All readers by URI scheme."""


def usages() -> list[str]:
    """Return the form of the URIs of every registered format."""
    return [str(READERS.get(name, where="readers").usage) for name in READERS.names()]


def reader_options(reader: type[Reader], scheme: str) -> Mapping[str, ReaderOption]:
    """Return a reader's options by name, after checking their types."""
    options = reader.options
    if not isinstance(options, Mapping) or not all(isinstance(o, ReaderOption) for o in options.values()):
        raise broken_contract(READERS, scheme, "options is not a mapping from names to ReaderOption")
    return options


def checked(source: object, scheme: str) -> Source | TrajectoryDataset:
    """Return a reader's result, after checking that it fulfills the contract.

    Raises:
        RLTransformerError: It does not; the message names the plugin of the reader.
    """
    # Readers of plugins are written by users. A wrong type is reported here, with the plugin's name, instead of as a
    # crash somewhere in this library.
    if isinstance(source, TrajectoryDataset):
        return source
    if not isinstance(source, Source):
        raise broken_contract(READERS, scheme, f"open() returned {type(source).__name__}, not a Source")
    if not isinstance(source.spec, DataSpec):
        raise broken_contract(READERS, scheme, f"Source.spec is {type(source.spec).__name__}, not a DataSpec")
    if not isinstance(source.trajectories, Iterable):
        kind = type(source.trajectories).__name__
        raise broken_contract(READERS, scheme, f"Source.trajectories is {kind}, not an iterator of Trajectory")
    if not isinstance(source.notes, list):
        raise broken_contract(READERS, scheme, f"Source.notes is {type(source.notes).__name__}, not a list of Finding")
    # The list itself, not a copy: a reader may add notes to it while its episodes are read.
    return Source(source.spec, _checked_trajectories(source.trajectories, scheme), source.notes)


def _checked_trajectories(trajectories: Iterable[object], scheme: str) -> Iterator[Trajectory | EpisodeBlock]:
    """Yield the episodes of a reader, and check each of them when it is read."""
    # A generator's code runs at next(), long after open() has returned. Calling next() here, instead of a for loop
    # around the checks, tells an exception of the reader from one of the code that consumes the episodes.
    number = 0
    iterator = iter(trajectories)
    while True:
        try:
            trajectory = next(iterator)
        except StopIteration:
            return
        except RLTransformerError:
            raise
        except Exception as error:
            if not READERS.is_from_plugin(scheme):
                raise
            problem = f"episode {number} raised {type(error).__name__}: {error}"
            raise broken_contract(READERS, scheme, problem) from error
        if isinstance(trajectory, EpisodeBlock):
            yield trajectory
            number += len(trajectory)
            continue
        if not isinstance(trajectory, Trajectory):
            problem = f"episode {number} is {type(trajectory).__name__}, not a Trajectory"
            raise broken_contract(READERS, scheme, problem)
        for name, kind in _FIELD_TYPES.items():
            value = getattr(trajectory, name)
            if not isinstance(value, kind):
                problem = f"{name} of episode {number} is {type(value).__name__}, not {kind[0].__name__}"
                raise broken_contract(READERS, scheme, problem)
        yield trajectory
        number += 1

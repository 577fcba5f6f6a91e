"""Define the interface of commands: a module with two functions."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type


@dataclass(frozen=True)
class Outcome:
    """Holds the result of a command."""

    content: Any = None
    """JSON-ready values, which ``--json`` writes to a file."""
    exit_code: int = 0


class Command(Protocol):
    """Describes a module of `rl_transformer.cli` that implements one command."""

    def make_parser(self, prog: str, first: str | None) -> ArgumentParser:
        """Return the parser of the command's arguments.

        Args:
            prog: The command as the user types it, for usage lines.
            first: The first argument, such as a preset's name, on which the defaults of the options may depend.
        """
        ...

    def run(self, args: Namespace) -> Outcome:
        """Run the command and return its result.

        Implementations import torch and other large libraries here, so that ``--help`` answers at once.
        """
        ...


class _WholeNumber(int):
    """Stands for ``int`` in a parser: numbers are also accepted as people write large ones, such as 1e5."""


_WholeNumber.__name__ = "int"  # as help and messages show it


def _whole_number(value: str | float) -> int:
    """Return a whole number from its text, also in exponent form."""
    number = float(value)  # raises ValueError for other text, which the parser reports
    if isinstance(value, bool) or number != int(number):
        raise ValueError(f"{value} is not a whole number")
    return int(value) if str(value).lstrip("+-").isdigit() else int(number)


register_type(
    _WholeNumber,
    serializer=int,
    deserializer=_whole_number,
    deserializer_exceptions=(ValueError, TypeError, OverflowError),
    type_check=lambda value, _: type(value) is int,
)


def _accept_exponents(hint: Any) -> Any:
    """Return a type hint in which `_WholeNumber` stands for ``int``, also inside of unions."""
    if hint is int:
        return _WholeNumber
    if int in get_args(hint) and get_origin(hint) in (Union, UnionType):
        return reduce(or_, map(_accept_exponents, get_args(hint)))
    return hint


class _Parser(ArgumentParser):
    """Accepts 1e5 wherever a whole number is expected."""

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action | None:
        """Declare an argument; see `argparse`."""
        if "type" in kwargs:
            kwargs["type"] = _accept_exponents(kwargs["type"])
        return super().add_argument(*args, **kwargs)


def new_parser(prog: str, description: str, *, add_help: bool = True) -> ArgumentParser:
    """Return a parser without arguments that raises errors instead of exiting, and accepts no abbreviated options."""
    # An abbreviation that is unique today can become ambiguous when an option is added, and break someone's script.
    return _Parser(prog=prog, description=description, exit_on_error=False, allow_abbrev=False, add_help=add_help)


def add_shared_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments that every command has."""
    parser.add_argument("--json", type=str | None, default=None, help="Write the result as JSON to this file.")
    parser.add_argument(
        "--plugin",
        type=str,
        action="append",  # one module each: with several values it would swallow an argument that follows it
        default=[],
        metavar="MODULE",
        help="Your own module to import first, which registers readers, heads and so on; may be repeated.",
    )


def optional_path(text: str | None) -> Path | None:
    """Return the path of an option, or None if it was not given."""
    return None if text is None else Path(text)

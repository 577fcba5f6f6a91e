"""Define the interface of commands: a module with two functions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type

from rl_transformer.config.base import type_text
from rl_transformer.errors import RLTransformerError, did_you_mean

_MOST_SEEDS = 10_000  # more is a mistake, and a range of billions would fill the memory


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


class CommandParser(ArgumentParser):
    """Accepts 1e5 wherever a whole number is expected, and knows the types that messages should name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.hints: dict[str, Any] = {}
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action | None:
        """Declare an argument; see `argparse`."""
        if "type" in kwargs:
            self.hints[args[-1].lstrip("-").replace("-", "_")] = kwargs["type"]
            kwargs["type"] = _accept_exponents(kwargs["type"])
        return super().add_argument(*args, **kwargs)


def new_parser(prog: str, description: str, *, add_help: bool = True) -> CommandParser:
    """Return a parser without arguments that raises errors instead of exiting, and accepts no abbreviated options."""
    # An abbreviation that is unique today can become ambiguous when an option is added, and break someone's script.
    return CommandParser(prog=prog, description=description, exit_on_error=False, allow_abbrev=False, add_help=add_help)


def add_shared_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments that every command has."""
    parser.add_argument("--json", type=str | None, default=None, help="Write the result as JSON to this file.")
    parser.add_argument(
        "--plugin",
        type=str,
        action="append",  # one module each: with several values it would swallow an argument that follows it
        default=[],
        metavar="MODULE",
        help="Module of your own to import first; it registers readers, heads and so on; may be repeated.",
    )


def optional_path(text: str | None) -> Path | None:
    """Return the path of an option, or None if it was not given."""
    return None if text is None else Path(text)


def parse_seeds(text: str, *, where: str = "--seeds") -> list[int]:
    """Return the seeds that a text names: a count (5), a range with both ends (0..4), or a list of both (0,2,7..9).

    Raises:
        RLTransformerError: The text has another form, names no seed, or names one twice.
    """
    seeds: list[int] = []
    if re.fullmatch(r"\d{1,9}", text):
        seeds = list(range(min(int(text), _MOST_SEEDS + 1)))
    elif re.fullmatch(r"\d{1,9}(\.\.\d{1,9})?(,\d{1,9}(\.\.\d{1,9})?)*", text):
        for part in text.split(","):
            first, _, last = part.partition("..")
            seeds += range(int(first), min(int(last or first), int(first) + _MOST_SEEDS) + 1)
    if not 1 <= len(seeds) <= _MOST_SEEDS or len(set(seeds)) < len(seeds):
        raise RLTransformerError(
            f"{text!r} names no seed, names one twice, or names more than {_MOST_SEEDS}",
            where=where,
            fix="write a number of seeds (5), a range with both ends (0..4) or a list (0,2,7)",
        )
    return seeds


def wrong_value(parser: ArgumentParser, message: str, words: Sequence[str]) -> tuple[str, str] | None:
    """Return (problem, fix) for the parser's message about a value, in words of ours; None for another message."""
    found = re.match(r'.*Parser key "([\w.]+)":', message, re.DOTALL)
    hints = parser.hints if isinstance(parser, CommandParser) else {}
    if found is None or found[1] not in hints:
        return None
    key = found[1]
    # The parser's own message shows the value after the first of several that were given, or its Python type.
    option = next((word for word in words if _key(word) == key), None)
    values = [] if option is None else [option.partition("=")[2]] if "=" in option else _values_of(words, option)
    expected = type_text(hints[key])
    problem = f"{' '.join(values)!r:.200} is not of type {expected}" if values else f"is not of type {expected}"
    choices = [str(choice) for choice in get_args(hints[key])] if get_origin(hints[key]) is Literal else []
    fix = f"{did_you_mean(' '.join(values), choices)}give a value of that type"
    return f"--{key if option is None else _name(option)}: {problem}", fix


def _name(word: str) -> str:
    return word.partition("=")[0].removeprefix("--")


def _key(word: str) -> str | None:
    """Return the name under which the parser keeps the option that a word begins, or None for another word."""
    return _name(word).replace("-", "_") if word.startswith("--") else None


def _values_of(words: Sequence[str], option: str) -> list[str]:
    """Return the words after an option, up to the next option."""
    following = words[list(words).index(option) + 1 :]
    return list(takewhile(lambda word: not word.startswith("--"), following))

"""What a command is: a module with two functions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jsonargparse import ArgumentParser, Namespace


@dataclass(frozen=True)
class Outcome:
    """What a command leaves behind."""

    content: Any = None
    """JSON-ready values for ``--json``."""
    exit_code: int = 0


class Command(Protocol):
    """One command of `rlt`; its module's docstring is its description."""

    def make_parser(self, prog: str, first: str | None) -> ArgumentParser:
        """Return the parser of the command's arguments.

        Args:
            prog: The command as typed, for usage lines.
            first: The first argument, on which the defaults of the others may depend (a preset's name).
        """
        ...

    def run(self, args: Namespace) -> Outcome:
        """Run the command; heavy libraries are imported here, so that ``--help`` answers at once."""
        ...


def new_parser(prog: str, description: str, *, add_help: bool = True) -> ArgumentParser:
    """Return an empty parser that raises instead of exiting, and takes no abbreviated options."""
    return ArgumentParser(
        prog=prog, description=description, exit_on_error=False, allow_abbrev=False, add_help=add_help
    )


def add_shared_arguments(parser: ArgumentParser) -> None:
    """Declare what every command takes."""
    parser.add_argument("--json", type=str | None, default=None, help="Write the result as JSON to this file.")
    parser.add_argument(
        "--plugin",
        type=str,
        nargs="+",
        action="extend",
        default=[],
        metavar="MODULE",
        help="Modules of yours to import first: they register readers, conditions, encoders, heads or trunks.",
    )


def optional_path(text: str | None) -> Path | None:
    """Return a path, or None if the option was not given."""
    return None if text is None else Path(text)

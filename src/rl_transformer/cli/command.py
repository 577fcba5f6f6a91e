"""Define the interface of commands: a module with two functions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jsonargparse import ArgumentParser, Namespace


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


def new_parser(prog: str, description: str, *, add_help: bool = True) -> ArgumentParser:
    """Return a parser without arguments that raises errors instead of exiting, and accepts no abbreviated options."""
    # An abbreviation that is unique today can become ambiguous when an option is added, and break someone's script.
    return ArgumentParser(
        prog=prog, description=description, exit_on_error=False, allow_abbrev=False, add_help=add_help
    )


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

"""`rlt demo` runs Key-to-Door from random walks to a chart."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Key-to-Door from random walks to a chart; nothing to download.")
    parser.add_argument(
        "--output", type=str, default="demo", help="Folder to write; files of an earlier demo in it are replaced."
    )
    return parser


def run(args: Namespace) -> Outcome:
    """Run the demo and print its result."""
    from rl_transformer.reproductions.demo import run_demo

    return Outcome(run_demo(Path(args.output)))

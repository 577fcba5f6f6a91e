"""`rlt convert` writes any dataset as a memory-mapped store."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.inspect import add_data_options, uri_help


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Write any dataset as a memory-mapped store, one episode in memory at a time.")
    parser.add_argument("uri", type=str, help=uri_help())
    add_data_options(parser)
    parser.add_argument("--output", type=str, required=True, help="Folder of the store; must be empty or new.")
    return parser


def run(args: Namespace) -> Outcome:
    """Write the store and print a summary of it."""
    from rl_transformer.trajectories.inspection import describe
    from rl_transformer.trajectories.open import stream_trajectories
    from rl_transformer.trajectories.store import write_store

    # Episodes stream from reader to store, so data larger than memory can be converted.
    source = stream_trajectories(args.uri, observe=args.observe, clip_actions=args.clip_actions)
    dataset = write_store(args.output, source.spec, source.trajectories, notes=source.notes)
    print(f"wrote {dataset}")
    return Outcome(describe(dataset))

"""`rlt convert` writes any dataset as a memory-mapped store, or as replay buffers."""

from __future__ import annotations

from collections.abc import Iterable

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.inspect import add_data_options, uri_help
from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.trajectory import Trajectory

LAYOUTS = ("store", "dqn-replay")


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Write any dataset as a memory-mapped store, one episode in memory at a time.")
    parser.add_argument("uri", type=str, help=uri_help())
    add_data_options(parser)
    parser.add_argument("--output", type=str, required=True, help="Folder to write; must be empty or new.")
    add_layout_argument(parser)
    return parser


def run(args: Namespace) -> Outcome:
    """Write the store and print a summary of it."""
    from rl_transformer.trajectories.open import stream_trajectories

    check_layout(args.layout)
    # Episodes stream from reader to store, so data larger than memory can be converted.
    source = stream_trajectories(args.uri, observe=args.observe, clip_actions=args.clip_actions)
    return write_in_layout(args, source.spec, source.trajectories, source.notes)


def add_layout_argument(parser: ArgumentParser) -> None:
    """Add --layout, which `write_in_layout` reads."""
    parser.add_argument(
        "--layout",
        type=str,
        default="store",
        help="store, or dqn-replay: replay buffers in Dopamine's layout, for gray frames and one button.",
    )


def check_layout(layout: str) -> None:
    """Raise an error for an unknown layout, before anything is read or played."""
    if layout not in LAYOUTS:
        fix = f"choose one of {', '.join(LAYOUTS)}"
        raise RLTransformerError(f"there is no layout {layout!r}", where="--layout", fix=fix)


def write_in_layout(
    args: Namespace, spec: DataSpec, trajectories: Iterable[Trajectory], notes: Iterable[Finding] = ()
) -> Outcome:
    """Write the episodes to ``args.output`` in ``args.layout``, and describe what was written."""
    from rl_transformer.trajectories.inspection import describe
    from rl_transformer.trajectories.open import open_trajectories
    from rl_transformer.trajectories.replay_writer import write_replay
    from rl_transformer.trajectories.store import write_store

    if args.layout == "dqn-replay":
        uri = write_replay(args.output, spec, trajectories)
        dataset = open_trajectories(uri)
        print(f"wrote {uri}")
    else:
        dataset = write_store(args.output, spec, trajectories, notes=notes)
        print(f"wrote {dataset}")
    return Outcome(describe(dataset))

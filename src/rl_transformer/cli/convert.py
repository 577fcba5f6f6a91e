"""`rlt convert` writes any dataset as a memory-mapped store, or as replay buffers; tables need a mapping of columns."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.inspect import add_data_options, uri_help
from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.blocks import Episodes, one_by_one
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import Finding

if TYPE_CHECKING:
    from rl_transformer.trajectories.readers.tables import TableReader
    from rl_transformer.trajectories.tables.mapping import ColumnMapping

LAYOUTS = ("store", "dqn-replay")
# Options that say which column of a table is what, with their help. Those that take several names may be repeated.
_SEVERAL = {
    "episode": "Tables: columns that name the episode of a row, such as user_id.",
    "categorical": "Tables: categorical columns that the policy sees, such as segment; an action listed here is discrete.",
    "action": "Tables: columns of the action.",
    "keep": "Tables: columns that no policy sees, kept for rlt judge and rlt inspect: customers, times, propensities.",
}
_SINGLE = {
    "order": "Tables: column that orders the rows of an episode, such as a time.",
    "gap": "Tables: a pause longer than this starts a new episode: 30m, 12h, 2d, or a number in the unit of --order.",
    "allowed": "Tables: glob of columns, one per discrete action, that say which actions were allowed.",
    "reward": "Tables: column of the reward.",
    "terminated": "Tables: column that is true where the task itself ended the episode.",
    "truncated": "Tables: column that is true where the episode was cut off.",
    "split": "Tables: episodes to hold out in a second store: time:2026-06-01 or entity:0.2.",
}


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Write any dataset as a memory-mapped store, without holding it in memory.")
    parser.add_argument("uri", type=str, help=uri_help())
    add_data_options(parser)
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="Folder to write; must be empty or new. Needed without --suggest.",
    )
    add_layout_argument(parser)
    parser.add_argument(
        "--mapping",
        type=str | None,
        default=None,
        help="Tables: YAML file with these options; those on the command line take precedence.",
    )
    for name, text in _SEVERAL.items():
        parser.add_argument(f"--{name}", type=str, nargs="+", default=[], help=text)
    for name, text in _SINGLE.items():
        parser.add_argument(f"--{name}", type=str | None, default=None, help=text)
    parser.add_argument(
        "--engine",
        type=str,
        default="local",
        help="Tables: local, or ray to convert on the Ray cluster of RAY_ADDRESS, by default on this machine.",
    )
    parser.add_argument(
        "--suggest", action="store_true", help="Tables: print a first mapping, with reasons, and write nothing."
    )
    return parser


def run(args: Namespace) -> Outcome:
    """Write the store and print a summary of it."""
    from rl_transformer.trajectories.open import open_reader, parse_uri, stream_trajectories
    from rl_transformer.trajectories.readers.tables import TableReader

    check_layout(args.layout)
    reader = open_reader(args.uri)
    if isinstance(reader, TableReader):
        return _convert_table(reader, parse_uri(args.uri), args)
    _refuse_table_options(args)
    if args.output is None:
        raise RLTransformerError("is needed", where="--output", fix="name the folder to write")
    # Episodes stream from reader to store, so data larger than memory can be converted.
    source = stream_trajectories(args.uri, observe=args.observe, clip_actions=args.clip_actions)
    return write_in_layout(args, source.spec, source.trajectories, source.notes)


def _convert_table(reader: TableReader, parsed: tuple[str, str, dict[str, str]], args: Namespace) -> Outcome:
    """Convert a table by the mapping of the options and of a file, or suggest one."""
    from rl_transformer.trajectories.inspection import describe
    from rl_transformer.trajectories.open import open_trajectories
    from rl_transformer.trajectories.readers.tables import no_mapping
    from rl_transformer.trajectories.tables.convert import convert_table
    from rl_transformer.trajectories.tables.mapping import ColumnMapping
    from rl_transformer.trajectories.tables.suggest import as_yaml, suggest_mapping

    started = time.perf_counter()
    _, path, query = parsed
    mapping = _mapping(args, query)
    table = reader.table(path, mapping.types)
    if args.suggest:
        suggested = suggest_mapping(table)
        print(as_yaml(suggested))
        return Outcome({"mapping": suggested.mapping.to_dict(), "reasons": suggested.reasons})
    if args.output is None:
        raise RLTransformerError("is needed", where="--output", fix="name the folder to write, or pass --suggest")
    if mapping == ColumnMapping():
        default = reader.default_mapping(table)
        if default is None:
            raise no_mapping(args.uri, table.schema.names)
        mapping = default
    if args.layout != "store" or args.clip_actions:
        what = "--clip-actions" if args.clip_actions else "--layout"
        raise RLTransformerError(
            "is not for tables", where=what, fix="convert to a store first, then convert that store"
        )
    account = convert_table(table, mapping, args.output, source=args.uri, engine=args.engine)
    dataset = open_trajectories(f"rlt:{account['store']}")
    seconds = time.perf_counter() - started
    print(f"wrote {dataset}")
    _print_account(account, mapping, seconds)
    summary = {"episodes": dataset.num_trajectories, "fingerprint": dataset.fingerprint, "seconds": round(seconds, 3)}
    return Outcome({**describe(dataset), **account, **summary})


def _mapping(args: Namespace, query: dict[str, str]) -> ColumnMapping:
    """Return the mapping of the file and the options; options win."""
    from rl_transformer.trajectories.tables.mapping import ColumnMapping

    others = sorted(set(query) - {"mapping"})
    if others:
        fix = "leave it out; a table's only option is mapping"
        raise RLTransformerError(f"a table has no option {others[0]!r}", where=args.uri, fix=fix)
    if query.get("mapping") and args.mapping:
        raise RLTransformerError("is given twice", where="--mapping", fix="give it here or in the URI")
    file = args.mapping or query.get("mapping")
    values = ColumnMapping.from_file(file).to_dict() if file else {}
    given = {name: getattr(args, name) for name in (*_SEVERAL, *_SINGLE, "observe")}
    return ColumnMapping.from_values(
        {**values, **{name: value for name, value in given.items() if value}}, where="mapping"
    )


def _print_account(account: dict, mapping: ColumnMapping, seconds: float) -> None:
    """Print what became of every row."""
    rate = account["rows_in"] / max(seconds, 1e-9)
    held_out = f", {account['held_out_steps']:,} held out in {account['held_out']}" if account["held_out"] else ""
    if held_out and str(mapping.split).startswith("entity"):
        # The sessions of one customer would be on both sides if the mapping named the session alone.
        held_out += f" (by {mapping.episode[0]})"
    dropped = sum(account["rows_dropped"].values())
    print(
        f"{account['rows_in']:,} rows: {account['steps_out']:,} steps{held_out}, {dropped:,} dropped; "
        f"{seconds:.1f} s, {rate:,.0f} rows/s"
    )
    for reason, count in account["rows_dropped"].items():
        print(f"  dropped {count:,}: {reason}")
    if account["rows_tied"]:
        print(
            f"  note: {account['rows_tied']:,} rows have the same episode and time as another row, but different values"
        )
    if account["dropped_rows"]:
        print(f"  these rows are in {account['dropped_rows']}")


def _refuse_table_options(args: Namespace) -> None:
    """Raise an error if an option for tables was given for another format, which has its columns in fixed places."""
    given = [name for name in (*_SEVERAL, *_SINGLE, "mapping", "suggest") if getattr(args, name)]
    given += ["engine"] * (args.engine != "local")
    if given:
        raise RLTransformerError(
            f"{args.uri.partition(':')[0]}: is not a table", where=f"--{given[0]}", fix="leave it out; it is for tables"
        )


def add_layout_argument(parser: ArgumentParser) -> None:
    """Add --layout, which `write_in_layout` reads."""
    parser.add_argument(
        "--layout",
        type=str,
        default="store",
        help="store, or dqn-replay: replay buffers in Dopamine's layout, for grayscale frames and a single discrete action.",
    )


def check_layout(layout: str) -> None:
    """Raise an error for an unknown layout, before anything is read or played."""
    if layout not in LAYOUTS:
        fix = f"choose one of {', '.join(LAYOUTS)}"
        raise RLTransformerError(f"there is no layout {layout!r}", where="--layout", fix=fix)


def write_in_layout(args: Namespace, spec: DataSpec, trajectories: Episodes, notes: Iterable[Finding] = ()) -> Outcome:
    """Write the episodes to ``args.output`` in ``args.layout``, and describe what was written."""
    from rl_transformer.trajectories.inspection import describe
    from rl_transformer.trajectories.open import open_trajectories
    from rl_transformer.trajectories.replay_writer import write_replay
    from rl_transformer.trajectories.store import write_store

    started = time.perf_counter()
    if args.layout == "dqn-replay":
        uri = write_replay(args.output, spec, one_by_one(trajectories))
        dataset = open_trajectories(uri)
        print(f"wrote {uri}")
    else:
        dataset = write_store(args.output, spec, trajectories, notes=notes)
        print(f"wrote {dataset}")
    steps = dataset.num_steps
    account = {"rows_in": steps, "steps_out": steps, "rows_dropped": {}, "episodes": dataset.num_trajectories}
    seconds = round(time.perf_counter() - started, 3)
    return Outcome({**describe(dataset), **account, "fingerprint": dataset.fingerprint, "seconds": seconds})

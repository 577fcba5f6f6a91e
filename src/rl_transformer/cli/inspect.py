"""`rlt inspect` shows the content of a dataset and its defects."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser, optional_path


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        prog, "Show the content of a dataset and its defects; exit with 2 if training would refuse the data."
    )
    parser.add_argument("uri", type=str, help=uri_help())
    add_data_options(parser)
    parser.add_argument(
        "--figure", type=str | None, default=None, help="Draw histograms of returns and lengths into this PNG file."
    )
    parser.add_argument("--verify", action="store_true", help="Read every byte of a store and compare its hashes.")
    return parser


def add_data_options(parser: ArgumentParser) -> None:
    """Declare the options that every reader has; they mean the same as those of ``rlt train --dataset.*``."""
    parser.add_argument(
        "--observe",
        type=str,
        nargs="+",
        default=[],
        help="Parts of Dict and Tuple observations to use, as names or globs; without any, all.",
    )
    parser.add_argument(
        "--clip-actions", action="store_true", help="Clip actions to their bounds and count them, instead of refusing."
    )


def uri_help() -> str:
    """Return the forms of all data URIs, with the readers' options and their defaults."""
    from rl_transformer.trajectories.readers import READERS

    # Taken from the readers themselves, so that formats of plugins are listed as well.
    kinds = []
    for name in READERS.names():
        reader = READERS.get(name, where="readers")
        options = "".join(f" (?{key}={option.default})" for key, option in reader.options.items())
        kinds.append(f"{reader.usage}{options}")
    return f"The data: {', '.join(kinds)}."


def run(args: Namespace) -> Outcome:
    """Print a description of the dataset with all findings."""
    from rl_transformer.runtime.paths import check_writable
    from rl_transformer.trajectories.inspection import as_text, describe
    from rl_transformer.trajectories.open import read_trajectories

    check_writable(args.figure, ".png")
    # Only given if set: other readers than that of stores have no such option and would raise an error.
    options = {"verify": True} if args.verify else {}
    dataset = read_trajectories(args.uri, observe=args.observe, clip_actions=args.clip_actions, **options)
    description = describe(dataset)
    print(as_text(description))
    figure = optional_path(args.figure)
    if figure is not None:
        from rl_transformer.evaluation.plots import plot_data

        plot_data(dataset.episode_returns.tolist(), dataset.lengths.tolist(), figure)
    # The description is a success of this command; the exit code tells scripts that training would fail.
    return Outcome(description, exit_code=2 if description["refused"] else 0)

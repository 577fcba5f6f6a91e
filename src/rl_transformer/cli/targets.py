"""`rlt targets` says which target return to aim for."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Advise a target return: what share of the data reached it, and what to expect.")
    parser.add_argument("folder", type=str, help="A run folder or a policy folder.")
    parser.add_argument(
        "--target-return", nargs="+", type=float, default=[], help="Targets to describe; without any, the usual ones."
    )
    return parser


def run(args: Namespace) -> Outcome:
    """Print one line per target."""
    from rl_transformer.evaluation.target_report import describe_targets, targets_text
    from rl_transformer.policy import load_policy
    from rl_transformer.runtime.paths import user_path

    description = describe_targets(load_policy(args.folder), user_path(args.folder), args.target_return)
    print(targets_text(description))
    return Outcome(description)

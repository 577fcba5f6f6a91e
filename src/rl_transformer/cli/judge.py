"""`rlt judge` says from logged episodes alone whether a policy is better than the behavior that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.condition_targets import add_targets_argument, parse_targets
from rl_transformer.runtime.paths import check_writable, user_path

if TYPE_CHECKING:
    from rl_transformer.evaluation.offline.gates import Gate
    from rl_transformer.policy import Policy
    from rl_transformer.trajectories import TrajectoryDataset


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        prog, "Say from logged episodes alone whether a policy is better: better, worse, or not established."
    )
    parser.add_argument("folder", type=str, help="A run folder or a policy folder.")
    parser.add_argument("--data", type=str, required=True, help="URI of logged episodes that it was not trained on.")
    parser.add_argument(
        "--against", type=str, default="behavior", help="behavior: what made the log; or another run or policy folder."
    )
    parser.add_argument(
        "--target-return",
        type=float | None,
        default=None,
        help="Target return of the policies; null: the largest that each suggests.",
    )
    add_targets_argument(parser)
    parser.add_argument(
        "--entity",
        type=str,
        nargs="+",
        default=[],
        help="Columns that tell whom an episode is about: intervals are over them; none may be in the training data.",
    )
    parser.add_argument(
        "--accept",
        type=str,
        action="append",
        default=[],
        metavar="KIND",
        help="Kind of a finding that is in order and withholds nothing, such as 'overlapping times'; may be repeated.",
    )
    parser.add_argument("--margin", type=float, default=0.0, help="Smallest difference of the return that matters.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the folds and networks.")
    parser.add_argument("--html", type=str | None, default=None, help="Write a page with pictures to this file.")
    return parser


def run(args: Namespace) -> Outcome:
    """Judge, print the word with its reasons, and write the page. The exit code is 0 whatever the word is."""
    from rl_transformer.critics.networks import FitOptions
    from rl_transformer.evaluation.offline.action_kinds import Candidate
    from rl_transformer.evaluation.offline.judge import judge
    from rl_transformer.evaluation.offline.page import as_html, as_text
    from rl_transformer.policy import load_policy
    from rl_transformer.runtime.files import write_text
    from rl_transformer.trajectories import open_trajectories

    check_writable(args.html, ".html")
    policy = load_policy(args.folder)
    other = None if args.against == "behavior" else load_policy(args.against)
    dataset, gates = _check_data(args, policy, other, open_trajectories(args.data))
    targets = parse_targets(args.target)
    result = judge(
        Candidate(policy, args.target_return, targets, args.folder),
        dataset,
        against=None if other is None else Candidate(other, args.target_return, targets, args.against),
        gates=gates,
        margin=args.margin,
        entity=args.entity,
        options=FitOptions(seed=args.seed),
    )
    result = {"run": args.folder, "data": args.data, **result}
    print(as_text(result))
    if args.html:
        write_text(user_path(args.html), as_html(result))
    return Outcome(result)


def _check_data(
    args: Namespace, policy: Policy, other: Policy | None, dataset: TrajectoryDataset
) -> tuple[TrajectoryDataset, list[Gate]]:
    """Return the episodes to judge on, of training data only those that the run held out, and what was checked."""
    from rl_transformer.cli.training_data import training_and_held_out
    from rl_transformer.evaluation.offline.gates import HELD_OUT, Gate, held_out_gate, leakage_gates, split_gates

    # What a policy has learned by heart says nothing of what it would earn elsewhere.
    training, held_out = training_and_held_out(user_path(args.folder), dataset)
    if held_out is None:
        gates = [held_out_gate(policy, dataset)]
    else:
        gates = [Gate(HELD_OUT, True, f"judged on the {len(held_out)} episodes that training held out")]
    if other is not None:
        gates.append(held_out_gate(other, dataset))
    judged = dataset if held_out is None else held_out
    gates += leakage_gates(judged, args.accept)
    return judged, [*gates, *split_gates(training, judged, args.entity, args.accept)]

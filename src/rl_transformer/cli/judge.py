"""`rlt judge` says from logged episodes alone whether a policy is better than the behavior that made them."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.condition_targets import parse_targets
from rl_transformer.cli.judged_data import add_judging_arguments, check_judged_data
from rl_transformer.runtime.paths import check_writable, user_path


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Judge a policy from logged episodes alone: better, worse, or not established.")
    parser.add_argument("folder", type=str, help="A run folder or a policy folder.")
    parser.add_argument("--data", type=str, required=True, help="URI of logged episodes that it was not trained on.")
    parser.add_argument(
        "--against",
        type=str,
        default="behavior",
        help="What to compare with: behavior, which produced the log, or another run or policy folder.",
    )
    add_judging_arguments(parser)
    parser.add_argument("--margin", type=float, default=0.0, help="Smallest difference in return that matters.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the folds and networks.")
    parser.add_argument("--html", type=str | None, default=None, help="Write an HTML page with figures to this file.")
    return parser


def run(args: Namespace) -> Outcome:
    """Judge, print the word with its reasons, and write the page. The exit code is 0 whatever the word is."""
    from rl_transformer.critics.networks import FitOptions
    from rl_transformer.evaluation.offline.action_kinds import Candidate
    from rl_transformer.evaluation.offline.judge import judge_candidate
    from rl_transformer.evaluation.offline.page import as_html, as_text
    from rl_transformer.policy import load_policy
    from rl_transformer.runtime.files import write_output
    from rl_transformer.trajectories import open_trajectories

    check_writable(args.html, ".html")
    policy = load_policy(args.folder)
    other = None if args.against == "behavior" else load_policy(args.against)
    policies = {args.folder: policy} | ({} if other is None else {args.against: other})
    dataset, gates = check_judged_data(policies, open_trajectories(args.data), args.entity, args.accept)
    targets = parse_targets(args.target)
    result = judge_candidate(
        Candidate(policy, args.target_return, targets, args.folder),
        dataset,
        against=None if other is None else Candidate(other, args.target_return, targets, args.against),
        # What both runs have in common is said once.
        gates=list(dict.fromkeys(gate for each in gates.values() for gate in each)),
        margin=args.margin,
        entity=args.entity,
        propensity=args.propensity,
        options=FitOptions(seed=args.seed),
    )
    result = {"run": args.folder, "data": args.data, **result}
    print(as_text(result))
    if args.html:
        write_output(user_path(args.html), as_html(result))
    return Outcome(result)

"""`rlt select` says which of several policies to try first: from logs, or after a number of live trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.condition_targets import parse_targets
from rl_transformer.cli.environment import add_environment_arguments, environment_arguments
from rl_transformer.cli.judged_data import add_judging_arguments, check_judged_data
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.paths import user_path

if TYPE_CHECKING:
    from rl_transformer.evaluation.stored_reports import Side

_FROM_LOGS = ("entity", "propensity", "accept")
_LIVE = ("env_id", "num_episodes", "env_kwargs", "wrapper", "atari_protocol", "max_steps")
_NUM_EPISODES = 100
_EVALUATION_SEED = 1_000_000  # as in rlt evaluate: far from the seeds with which data is usually collected


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        prog,
        "Say which of several policies to try first, and what regret to expect: from logs (--data), or after N live trials "
        "(--trials N), simulated from live episodes (--env-id) or from the report.json of each run.",
    )
    parser.add_argument("folders", type=str, nargs="+", help="Run folders or policy folders; two or more.")
    parser.add_argument(
        "--data", type=str | None, default=None, help="URI of logged episodes that none of them was trained on."
    )
    parser.add_argument("--trials", type=int | None, default=None, help="Live trials, one episode each, to simulate.")
    add_judging_arguments(parser, when="With --data. ")
    parser.add_argument(
        "--env-id", type=str | None, default=None, help="With --trials: run live episodes in this environment."
    )
    parser.add_argument(
        "--num-episodes",
        type=int | None,
        default=None,
        help=f"With --env-id: live episodes of each policy; null: {_NUM_EPISODES}.",
    )
    add_environment_arguments(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="Seed of the folds, networks and resampling, or of the trials."
    )
    return parser


def run(args: Namespace) -> Outcome:
    """Print which policy to try first, with what is known of each."""
    _check_mode(args)
    twice = next((name for i, name in enumerate(args.folders) if name in args.folders[:i]), None)
    if twice is not None:
        raise RLTransformerError("is named twice", where=twice, fix="name each policy once")
    return _select_by_trials(args) if args.data is None else _select_from_logs(args)


def _check_mode(args: Namespace) -> None:
    """Raise an error for options that the chosen way of judging would ignore."""
    if (args.data is None) == (args.trials is None):
        raise RLTransformerError(
            "give one of the two",
            where="--data and --trials",
            fix="--data URI judges from logs, --trials N from episodes",
        )
    if args.data is not None:
        unused = _LIVE
        fix = "leave it out, or give --trials N instead of --data"
    elif args.env_id is None:
        unused = (*_FROM_LOGS, *_LIVE, "target")
        fix = "leave it out; or give --env-id ID for live episodes, or --data URI"
    else:
        unused = _FROM_LOGS
        fix = "leave it out, or give --data URI instead of --trials"
    wrong = next((name for name in unused if getattr(args, name) not in (None, [])), None)
    if wrong is not None:
        raise RLTransformerError("has no effect here", where=f"--{wrong.replace('_', '-')}", fix=fix)


def _select_from_logs(args: Namespace) -> Outcome:
    from rl_transformer.critics.networks import FitOptions
    from rl_transformer.evaluation.offline.action_kinds import Candidate
    from rl_transformer.evaluation.offline.selection import select, selection_text
    from rl_transformer.policy import load_policy
    from rl_transformer.trajectories import open_trajectories

    policies = {name: load_policy(name) for name in args.folders}
    dataset, gates = check_judged_data(policies, open_trajectories(args.data), args.entity, args.accept)
    targets = parse_targets(args.target)
    result = select(
        [Candidate(policy, args.target_return, targets, name) for name, policy in policies.items()],
        dataset,
        gates=gates,
        entity=args.entity,
        propensity=args.propensity,
        options=FitOptions(seed=args.seed),
    )
    listed = list(dict.fromkeys(gate for each in gates.values() for gate in each))
    result = {"data": args.data, **result, "gates": [gate.to_dict() for gate in listed]}
    print(selection_text(result))
    return Outcome(result)


def _select_by_trials(args: Namespace) -> Outcome:
    from rl_transformer.evaluation.stored_reports import make_side, read_report
    from rl_transformer.evaluation.trials import select_by_trials, trials_text

    sides = []
    for name in args.folders:
        if args.env_id is None:
            fix = f"evaluate first: rlt evaluate {name} --env-id ID --json {name}/report.json, or give --env-id ID here"
            path = user_path(name)
            report = read_report(path / "report.json" if path.is_dir() else path, fix=fix)
            sides.append(make_side(name, {None: report}, args.target_return))
        else:
            sides.append(_run_episodes(args, name))
    result = select_by_trials(sides, args.trials, seed=args.seed)
    print(trials_text(result))
    return Outcome(result)


def _run_episodes(args: Namespace, name: str) -> Side:
    """Return the episodes that a policy runs in the environment, from the same seeds as the others."""
    from rl_transformer.evaluation.evaluate import evaluate
    from rl_transformer.evaluation.stored_reports import StoredReport, make_side
    from rl_transformer.policy import load_policy

    env_kwargs, wrappers = environment_arguments(args)
    report = evaluate(
        load_policy(name),
        args.env_id,
        target_returns=[] if args.target_return is None else [args.target_return],
        targets=parse_targets(args.target),
        num_episodes=args.num_episodes or _NUM_EPISODES,
        seed=_EVALUATION_SEED,
        max_steps=args.max_steps,
        env_kwargs=env_kwargs,
        wrappers=wrappers,
        progress=True,
    )
    return make_side(name, {None: StoredReport(Path(name), report.to_dict())}, args.target_return)

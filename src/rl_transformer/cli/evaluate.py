"""`rlt evaluate` scores a policy in a live environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser, optional_path
from rl_transformer.cli.condition_targets import add_targets_argument, parse_targets
from rl_transformer.cli.environment import (
    add_environment_arguments,
    add_step_timeout_argument,
    environment_arguments,
)
from rl_transformer.errors import RLTransformerError

if TYPE_CHECKING:
    from rl_transformer.evaluation.report import EvaluationReport
    from rl_transformer.policy import Policy


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Score a policy in a live environment; every episode is reported.")
    parser.add_argument("folder", type=str, help="A run folder, a policy folder, or a folder of rlt train --seeds.")
    parser.add_argument(
        "--env-id", type=str | None, default=None, help="Gymnasium id of the environment; MODULE:ID imports a module."
    )
    parser.add_argument(
        "--target-return",
        nargs="+",
        type=float,
        default=[],
        help="Target returns; without any, the advised one (see rlt targets).",
    )
    add_targets_argument(parser)
    add_environment_arguments(parser)
    parser.add_argument(
        "--max-live",
        type=int | None,
        default=None,
        help="Environments open at the same time; null: one per episode, at most 256 per process.",
    )
    add_step_timeout_argument(parser)
    parser.add_argument("--num-episodes", type=int, default=20, help="Episodes per target return.")
    parser.add_argument(
        "--seed", type=int, default=1_000_000, help="Seed of each target's first episode; episode i uses SEED + i."
    )
    parser.add_argument(
        "--reference",
        type=str | None,
        default=None,
        help="Also report the normalized score: hopper, halfcheetah, walker2d (D4RL), or atari-GAME for breakout, qbert, pong, seaquest.",
    )
    parser.add_argument(
        "--figure",
        type=str | None,
        default=None,
        help="Plot achieved against target return to this PNG file; needs --data.",
    )
    parser.add_argument(
        "--data", type=str | None, default=None, help="URI of the training data, whose returns the figure shows."
    )
    parser.add_argument("--video", type=str | None, default=None, help="Record the first episode as .gif or .mp4.")
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda or cuda:N.")
    return parser


def run(args: Namespace) -> Outcome:
    """Run the episodes and print a table with one row per target."""
    import numpy as np

    from rl_transformer.evaluation.plots import plot_target_vs_achieved
    from rl_transformer.evaluation.training_seeds import combine_seeds, common_targets
    from rl_transformer.evaluation.video import check_video, save_video
    from rl_transformer.runtime.paths import check_writable
    from rl_transformer.trajectories import open_trajectories

    if bool(args.figure) != bool(args.data):
        raise RLTransformerError(
            "one of the two is missing",
            where="--figure and --data",
            fix="give both: the figure compares the policy's returns with those of the data",
        )
    # Everything that can be wrong with files is checked before the episodes, which may take minutes.
    check_writable(args.figure, ".png")
    check_writable(args.video)
    if args.video:
        check_video(args.video)
    data = open_trajectories(args.data) if args.data else None
    policies = _load_policies(args)
    if isinstance(policies, dict):
        target_returns = common_targets(policies, args.target_return)
        report = combine_seeds({seed: _evaluate(args, one, target_returns) for seed, one in policies.items()})
    else:
        report = _evaluate(args, policies, args.target_return)
    print(report)
    # The table is printed first: a figure or video that fails must not cost the result.
    figure = optional_path(args.figure)
    if figure is not None and data is not None:
        policy = next(iter(policies.values())) if isinstance(policies, dict) else policies
        values = policy.spec.returns.comparable(data, np.arange(data.num_trajectories))
        plot_target_vs_achieved({"policy": report}, values.tolist(), figure)
    if args.video:
        save_video(report.recordings[0], args.video)
    return Outcome(report.to_dict())


def _load_policies(args: Namespace) -> Policy | dict[int, Policy]:
    """Return the policy of the folder, or the policies of a folder of training seeds, by seed."""
    from rl_transformer.evaluation.evaluate import no_environment
    from rl_transformer.launch.seeds import seed_folders
    from rl_transformer.policy import load_policy
    from rl_transformer.runtime.machine import find_device

    device = find_device(args.device, where="--device")
    folder = Path(args.folder)
    has_policy = (folder / "policy.json").exists() or (folder / "policy").exists()
    folders = {} if has_policy else seed_folders(folder)
    # All of them before the first episode: one that is missing must not surface after the others were evaluated.
    policies = {seed: load_policy(path).to(device) for seed, path in folders.items()}
    single = None if policies else load_policy(args.folder).to(device)
    policy = single or next(iter(policies.values()))
    if args.env_id is None:
        raise no_environment(policy.spec.data)
    # A target far outside of the data still runs, but the user should know that the policy extrapolates.
    warning = policy.target_warning(args.target_return, parse_targets(args.target))
    if warning:
        print(warning)
    return single or policies


def _evaluate(args: Namespace, policy: Policy, target_returns: Sequence[float]) -> EvaluationReport:
    """Return the evaluation of one policy."""
    from rl_transformer.evaluation.evaluate import evaluate

    env_kwargs, wrappers = environment_arguments(args)
    return evaluate(
        policy,
        args.env_id,
        target_returns=target_returns,
        targets=parse_targets(args.target),
        num_episodes=args.num_episodes,
        seed=args.seed,
        max_live=args.max_live,
        max_steps=args.max_steps,
        step_timeout=args.step_timeout,
        env_kwargs=env_kwargs,
        wrappers=wrappers,
        reference=args.reference,
        record=1 if args.video else 0,
        progress=True,
    )

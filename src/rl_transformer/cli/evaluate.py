"""`rlt evaluate` scores a policy in a live environment."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser, optional_path
from rl_transformer.cli.targets import add_targets_argument, parse_targets
from rl_transformer.errors import RLTransformerError


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Score a policy in a live environment; every episode is reported.")
    parser.add_argument("folder", type=str, help="A run folder or a policy folder.")
    parser.add_argument("--env-id", type=str, required=True, help="Gymnasium id of the environment.")
    parser.add_argument(
        "--target-return",
        nargs="+",
        type=float,
        default=[],
        help="Target returns; without any, the policy's suggestions.",
    )
    add_targets_argument(parser)
    parser.add_argument("--num-episodes", type=int, default=20, help="Episodes per target return.")
    parser.add_argument(
        "--seed", type=int, default=1_000_000, help="Seed of each target's first episode; episode i uses SEED + i."
    )
    parser.add_argument(
        "--reference",
        type=str | None,
        default=None,
        help="hopper, halfcheetah or walker2d: also report D4RL's normalized score.",
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
    from rl_transformer.evaluation.evaluate import evaluate
    from rl_transformer.evaluation.plots import plot_target_vs_achieved
    from rl_transformer.evaluation.video import check_video, save_video
    from rl_transformer.policy import load_policy
    from rl_transformer.runtime.files import check_writable
    from rl_transformer.runtime.machine import find_device
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
    targets = parse_targets(args.target)
    data = open_trajectories(args.data) if args.data else None
    policy = load_policy(args.folder).to(find_device(args.device))
    # A target far outside of the data still runs, but the user should know that the policy extrapolates.
    warning = policy.target_warning(args.target_return, targets)
    if warning:
        print(warning)
    report = evaluate(
        policy,
        env_id=args.env_id,
        target_returns=args.target_return,
        targets=targets,
        num_episodes=args.num_episodes,
        seed=args.seed,
        reference=args.reference,
        record=1 if args.video else 0,
    )
    print(report)
    # The table is printed first: a figure or video that fails must not cost the result.
    figure = optional_path(args.figure)
    if figure is not None and data is not None:
        plot_target_vs_achieved({"policy": report}, data.episode_returns.tolist(), figure)
    if args.video:
        save_video(report.recordings[0], args.video)
    return Outcome(report.to_dict())

"""`rlt collect` records episodes as a store."""

from __future__ import annotations

import sys
from dataclasses import replace

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.condition_targets import add_targets_argument, parse_targets
from rl_transformer.cli.convert import add_layout_argument, check_layout, write_in_layout
from rl_transformer.cli.environment import (
    add_environment_arguments,
    add_step_timeout_argument,
    environment_arguments,
)
from rl_transformer.errors import RLTransformerError


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Record episodes of random actions, or of a policy, as a store.")
    parser.add_argument("env_id", type=str, help="Gymnasium id of the environment.")
    parser.add_argument("--output", type=str, required=True, help="Folder to write; must be empty or new.")
    add_layout_argument(parser)
    parser.add_argument("--num-episodes", type=int, required=True, help="Number of episodes to record.")
    parser.add_argument(
        "--policy",
        type=str | None,
        default=None,
        help="Folder of the policy that acts, or scripted:tracker?noise=0..1 for ALE/Pong-v5 and ALE/Breakout-v5; null: "
        "random actions.",
    )
    parser.add_argument("--target-return", type=float | None, default=None, help="The policy's target return.")
    add_targets_argument(parser)
    add_environment_arguments(parser)
    add_step_timeout_argument(parser)
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Seed of the first episode; episode i uses SEED + i, so seeds of two data sets must be at least --num-episodes apart.",
    )
    return parser


def run(args: Namespace) -> Outcome:
    """Record the episodes and print a summary of the store."""
    from tqdm import tqdm

    from rl_transformer.environments.scripted import PREFIX, scripted_behavior
    from rl_transformer.environments.sources import EnvironmentSource, opened
    from rl_transformer.evaluation.collection import record_episodes
    from rl_transformer.policy import load_policy

    check_layout(args.layout)
    # gymnasium rejects a negative seed only when the first episode begins, with an error of its own.
    if args.num_episodes < 1 or args.seed < 0:
        raise RLTransformerError(
            f"{args.num_episodes} episodes from seed {args.seed}",
            where="--num-episodes, --seed",
            fix="give 1 episode or more, and a seed of 0 or more",
        )
    is_scripted = bool(args.policy) and args.policy.startswith(PREFIX)
    if (args.target_return is not None or args.target) and (not args.policy or is_scripted):
        raise RLTransformerError(
            "scripted and random actions have no target",
            where="--target-return, --target",
            fix="pass --policy too, or leave the targets out",
        )
    policy = load_policy(args.policy) if args.policy and not is_scripted else None
    env_kwargs, wrappers = environment_arguments(args)
    source = EnvironmentSource.of(args.env_id, env_kwargs=env_kwargs, wrappers=wrappers)
    source = replace(source, step_timeout=args.step_timeout)
    with opened(source) as live:
        spec, trajectories = record_episodes(
            live.environment,
            args.env_id,
            args.num_episodes,
            seed=args.seed,
            policy=policy,
            target=args.target_return,
            targets=parse_targets(args.target),
            behavior=scripted_behavior(args.policy, live.environment) if is_scripted else None,
            max_steps=args.max_steps,
            step_timeout=args.step_timeout,
        )
        # Whoever evaluates on this data has to make the same environment. The limit counts steps outside of all wrappers,
        # some of which skip steps of the environment.
        limit = [] if args.max_steps is None else [f'TimeLimit={{"max_episode_steps": {args.max_steps}}}']
        spec = replace(
            spec,
            env_kwargs={name: value for name, value in env_kwargs.items() if name != "max_episode_steps"} or None,
            env_wrappers=(*wrappers, *limit),
            max_episode_steps=env_kwargs.get("max_episode_steps"),
        )
        # Episodes are run while they are written, so memory holds one of them, however many are recorded.
        hidden = not sys.stderr.isatty()
        progress = tqdm(trajectories, total=args.num_episodes, unit="episode", disable=hidden, leave=False)
        return write_in_layout(args, spec, progress)

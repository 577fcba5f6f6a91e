"""`rlt sweep` searches for good options."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome
from rl_transformer.cli.train import recipe_parser, resolve_run_config
from rl_transformer.errors import RLTransformerError


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command; its options have the values of the preset ``first`` as defaults."""
    space = ("--space FILE", "YAML file with the options to search and their choices or ranges.")
    trials = ("--trials N", "Total number of trials, including those of earlier calls.")
    parser = recipe_parser(prog, first, "Search for good options.", [space, trials])
    parser.add_argument("--space", type=str, required=True, help=space[1])
    parser.add_argument("--trials", type=int, required=True, help=trials[1])
    return parser


def run(args: Namespace) -> Outcome:
    """Run trials until there are ``--trials``, and print the best one."""
    config = resolve_run_config(args)  # before torch is imported, so that a wrong option is reported at once
    from rl_transformer.launch.sweep import read_space, sweep

    if args.trials < 1:
        raise RLTransformerError(f"{args.trials} is not positive", where="--trials", fix="give 1 or more")
    result = sweep(config, read_space(Path(args.space), config), num_trials=args.trials)
    best = result["best"]
    print(f"best: trial {best['trial']}, {best['options']}, score {best['score']:.4g}")
    return Outcome(result)

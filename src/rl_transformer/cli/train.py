"""`rlt train` trains a policy from logged data."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome
from rl_transformer.cli.config_options import RESUME, Flag, config_parser, resolve_config
from rl_transformer.config import PRESETS, RunConfig, preset
from rl_transformer.errors import RLTransformerError

FLAGS = (
    Flag("--data", "dataset.uri"),
    Flag("--train-steps", "training.train_steps"),
    Flag("--seed", "training.seed"),
    Flag("--checkpoint-every", "training.checkpoint_every"),
)


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command; its options have the values of the preset ``first`` as defaults."""
    seeds = ("--seeds FIRST..LAST", "One run per seed, in OUTPUT/seed-N; on a GPU all seeds are trained together.")
    parser = recipe_parser(prog, first, "Train a policy from logged data.", [RESUME, seeds])
    parser.add_argument("--resume", action="store_true", help=RESUME[1])
    parser.add_argument("--seeds", type=str | None, default=None, help=seeds[1])
    return parser


def recipe_parser(
    prog: str, first: str | None, description: str, arguments: Sequence[tuple[str, str]]
) -> ArgumentParser:
    """Return a parser for a preset and every option of a run.

    Args:
        prog: The command as the user types it.
        first: The first argument, which must be the preset.
        description: The command's description, one sentence.
        arguments: (argument, help) for each further argument of the command.

    Raises:
        RLTransformerError: The first argument is not a preset.
    """
    # The preset decides the defaults of the options, so it has to be known before the options are declared.
    names = ", ".join(PRESETS)
    shows_help = first in (None, "-h", "--help", "--help-all")
    if not shows_help and first not in PRESETS:
        raise RLTransformerError(
            f"{first!r} is not a preset" if not str(first).startswith("-") else "the preset is not the first argument",
            where=prog,
            fix=f"write one of {names} first, for example {prog} fast --data URI --output DIR",
        )
    usage = f"{prog} PRESET --data URI --output DIR [options]"
    about = f"{description} PRESET is a recipe, one of {names}."
    # `rlt train --help` without a preset shows one, so that there are defaults to show.
    config = preset(str(first)) if first in PRESETS else preset("gym")
    shown = f"{about} Defaults of {first if first in PRESETS else 'gym'} in brackets."
    parser = config_parser(prog, usage, shown, config, FLAGS, arguments)
    parser.add_argument("preset", choices=list(PRESETS), help="The recipe.")
    return parser


def resolve_run_config(args: Namespace) -> RunConfig:
    """Return the preset's configuration with the values of the file and the options."""
    return resolve_config(args, preset(args.preset), FLAGS)


def run(args: Namespace) -> Outcome:
    """Train one policy, or one per seed, and print where it is."""
    config = resolve_run_config(args)
    if args.seeds is None:
        from rl_transformer.policy import load_policy
        from rl_transformer.run import train

        folder = train(config, resume=args.resume)
        print(f"policy: {folder / 'policy'}")
        policy_hash = load_policy(folder).content_hash
        steps = config.training.train_steps
        return Outcome({"output": str(folder), "policy": policy_hash, "train_steps": steps})
    return _train_seeds(args, config)


def _train_seeds(args: Namespace, config: RunConfig) -> Outcome:
    """Train one policy per seed of ``--seeds``."""
    from rl_transformer.launch.seeds import train_seeds
    from rl_transformer.policy import load_policy

    seeds = _parse_range(args.seeds)
    # --seeds replaces the seed in every run, so a single seed would have no effect. A seed in --config is allowed:
    # every config.json has one.
    if args.seed is not None or "seed" in args.as_dict().get("training", {}):
        raise RLTransformerError("a seed is given too", where="--seeds", fix="give only one of them")
    folders = train_seeds(config, seeds, resume=args.resume)
    print(f"policies: {folders[0]} ... {folders[-1]}")
    runs = [
        {"seed": seed, "output": str(folder), "policy": load_policy(folder).content_hash}
        for seed, folder in zip(seeds, folders, strict=True)
    ]
    return Outcome({"runs": runs, "train_steps": config.training.train_steps})


def _parse_range(text: str) -> list[int]:
    """Return the numbers of a range such as 0..7, which includes both ends.

    Raises:
        RLTransformerError: The text is not a range.
    """
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise RLTransformerError(f"{text!r} is not a range", where="--seeds", fix="write it as 0..7, both included")
    return list(range(int(first), int(last) + 1))

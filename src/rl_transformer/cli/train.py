"""`rlt train` trains a policy from logged data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, parse_seeds
from rl_transformer.cli.config_options import RESUME, Flag, config_parser, read_options_file, resolve_config
from rl_transformer.config import PRESETS, RunConfig, preset
from rl_transformer.errors import RLTransformerError, did_you_mean

if TYPE_CHECKING:
    from rl_transformer.policy import Policy

FLAGS = (
    Flag("--data", "dataset.uri"),
    Flag("--train-steps", "training.train_steps"),
    Flag("--seed", "training.seed"),
    Flag("--init-from", "model.init_from"),
    Flag("--checkpoint-every", "training.checkpoint_every"),
)


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command; its options have the values of the preset ``first`` as defaults."""
    seeds = (
        "--seeds SEEDS",
        "One run per seed, in OUTPUT/seed-N: 5 (0 to 4), 0..4 or 0,2,7. On a GPU they are trained together.",
    )
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
    is_option = first is None or first.startswith("-")
    if not is_option and first not in PRESETS:
        names = ", ".join(PRESETS)
        raise RLTransformerError(
            f"{first!r} is not a preset",
            where=prog,
            fix=f"{did_you_mean(str(first), PRESETS)}write one of {names} first, for example "
            f"{prog} fast --data URI --output DIR",
        )
    usage = f"{prog} PRESET --data URI --output DIR [options]"
    about = (
        f"{description} PRESET is a recipe, one of {', '.join(PRESETS)}; leave it out with --config RUN/config.json."
    )
    # `rlt train --help` without a preset shows one, so that there are defaults to show.
    name = "gym" if is_option else str(first)
    shown = f"{about} Defaults of {name} in brackets."
    parser = config_parser(prog, usage, shown, preset(name), FLAGS, arguments)
    # It may also follow the options, because only the help depends on it.
    parser.add_argument("preset", nargs="?", choices=list(PRESETS), help="The recipe.")
    return parser


def resolve_run_config(args: Namespace) -> RunConfig:
    """Return the preset's configuration with the values of the file and the options.

    Raises:
        RLTransformerError: No preset is named, or the file was made from another one.
    """
    return resolve_config(args, _starting_point(args.preset, args.config), FLAGS)


def _starting_point(name: str | None, file: str | None) -> RunConfig:
    """Return the configuration that the options of the file and the command line change."""
    values = {} if file is None else read_options_file(file)
    recorded = values.get("preset")
    # A file without sections is not looked at here: reading its options reports it.
    is_run = recorded is not None or {"output", "dataset", "model", "training"} <= values.keys()
    if name is None:
        if file is None or not is_run:
            fix = f"write one of {', '.join(PRESETS)}; leave it out only with --config RUN/config.json"
            raise RLTransformerError("no preset is named", where="rlt train", fix=fix)
        return preset(str(recorded)) if recorded else RunConfig()
    # A run's file sets every option. A preset beside it would have no effect, so it must be the one of that run.
    if recorded and recorded != name:
        raise RLTransformerError(
            f"names the preset {recorded!r}, and {name!r} is given",
            where=str(file),
            fix=f"leave {name} out, or leave --config out",
        )
    start = preset(name)
    if is_run and not recorded:  # a run of a version that did not record it
        run = RunConfig.from_dict(values, where=str(file))
        set_by_preset = [option for option, _, _ in start.options() if start.get(option) != RunConfig().get(option)]
        other = [option for option in set_by_preset if run.get(option) != start.get(option)]
        if other:
            raise RLTransformerError(
                f"sets every option, and sets {other[0]} differently from the preset {name!r}",
                where=str(file),
                fix=f"leave {name} out to repeat that run, or leave --config out",
            )
    return start


def run(args: Namespace) -> Outcome:
    """Train one policy, or one per seed, and print where it is."""
    config = resolve_run_config(args)
    if args.seeds is None:
        from rl_transformer.policy import load_policy
        from rl_transformer.run import train

        folder = train(config, resume=args.resume)
        policy = load_policy(folder)
        print(f"policy: {folder / 'policy'}")
        print(_next_step(folder, policy, str(config.dataset.uri)))
        steps = config.training.train_steps
        return Outcome({"output": str(folder), "policy": policy.content_hash, "train_steps": steps})
    return _train_seeds(args, config)


def _next_step(folder: Path, policy: Policy, uri: str) -> str:
    """Return the targets that the policy suggests, and the command that evaluates it, or judges it where there are logs only."""
    lines = []
    words = ["rlt", "evaluate", shlex.quote(str(folder)), policy.spec.data.environment_options or "--env-id ID"]
    if policy.spec.data.table is not None:
        from rl_transformer.trajectories.store_files import store_folder

        held_out = uri.partition("?")[0] + "-held-out"
        is_there = uri.startswith("rlt:") and store_folder(held_out).is_dir()
        words = ["rlt", "judge", shlex.quote(str(folder)), "--data", shlex.quote(held_out) if is_there else "HELD-OUT"]
    if policy.spec.takes_target:
        from rl_transformer.evaluation.target_report import describe_targets, targets_text

        lines.append(targets_text(describe_targets(policy)))
    lines.append(f"next: {' '.join(words)}")
    if policy.spec.data.wrappers_note:  # on a line of its own, so that the command can be copied
        lines.append(f"the environment of the data: {policy.spec.data.wrappers_note}")
    return "\n".join(lines)


def _train_seeds(args: Namespace, config: RunConfig) -> Outcome:
    """Train one policy per seed of ``--seeds``."""
    from rl_transformer.launch.seeds import train_seeds
    from rl_transformer.policy import load_policy

    seeds = parse_seeds(args.seeds)
    # --seeds replaces the seed in every run, so a single seed would have no effect. A seed in --config is allowed:
    # every config.json has one.
    if args.seed is not None or "seed" in args.as_dict().get("training", {}):
        raise RLTransformerError("a seed is given too", where="--seeds", fix="give only one of them")
    folders = train_seeds(config, seeds, resume=args.resume)
    print(f"policies: {', '.join(map(str, folders))}")
    policy = load_policy(folders[0])
    # Evaluation takes all seeds together; a verdict is about one policy.
    judged = folders[0] if policy.spec.data.table is not None else folders[0].parent
    print(_next_step(judged, policy, str(config.dataset.uri)))
    runs = [
        {"seed": seed, "output": str(folder), "policy": load_policy(folder).content_hash}
        for seed, folder in zip(seeds, folders, strict=True)
    ]
    return Outcome({"runs": runs, "train_steps": config.training.train_steps})

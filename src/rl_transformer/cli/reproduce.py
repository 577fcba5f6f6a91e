"""`rlt reproduce` repeats an experiment of the papers and judges it by a rule written before the run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser, parse_seeds
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import log

if TYPE_CHECKING:
    from rl_transformer.reproductions.experiment import Experiment


_OF_MEASUREMENTS = ("seeds", "data", "env_id", "tuning_data", "text", "language_model", "device", "jobs")


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    from rl_transformer.reproductions import EXPERIMENTS

    parser = new_parser(
        prog,
        "Repeat an experiment from the papers and judge it by rules; its page lists the rules that were changed after the run.",
    )
    parser.add_argument("name", type=str, help=f"Experiment: {', '.join(EXPERIMENTS)}.")
    parser.add_argument("--quick", action="store_true", help="Run the same code at a smaller size, in minutes.")
    parser.add_argument(
        "--seeds", type=str | None, default=None, help="Training seeds, 5 or 0..4; null: the experiment's default."
    )
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="Folder of the results; null: reproductions/results/NAME (quick: reproductions/quick/NAME). "
        "Data and policies of all experiments are cached in .runs next to it.",
    )
    _add_inputs(parser)
    parser.add_argument(
        "--jobs", type=int | None, default=None, help="Policies trained at the same time; null: one per core."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="Measure nothing; recompute every figure of finished results from their cells, and exit 1 if one differs.",
    )
    parser.add_argument(
        "--judge-again",
        action="store_true",
        help="Measure nothing; judge finished results by the current rules. The page lists the earlier rules.",
    )
    return parser


def _add_inputs(parser: ArgumentParser) -> None:
    """Add the options that name data, text, a language model, and the device."""
    parser.add_argument("--data", type=str | None, default=None, help="URI of control data; null: it is generated.")
    parser.add_argument("--env-id", type=str | None, default=None, help="Environment of --data.")
    parser.add_argument(
        "--tuning-data",
        type=str | None,
        default=None,
        help="URI of other data of --env-id for choosing learning rates, in experiments that do so; null: --data.",
    )
    parser.add_argument("--game", type=str | None, default=None, help="atari: the game of --replay, such as Breakout.")
    parser.add_argument(
        "--replay",
        type=str | None,
        default=None,
        help="atari: folder of the game's replay buffers, such as Breakout/1/replay_logs; null: scripted players generate the data.",
    )
    parser.add_argument(
        "--text",
        type=str | None,
        default=None,
        help="wikipedia: text file, or folder of *.txt, to pretrain on, and to measure language models on.",
    )
    parser.add_argument(
        "--language-model",
        type=str | None,
        default=None,
        help="wikipedia-3: folder that rlt pretrain import writes, from whose first blocks policies start.",
    )
    parser.add_argument(
        "--device",
        type=str | None,
        default=None,
        help="Device on which language models and policies are trained, and policies evaluated: cpu, cuda or cuda:N; null: cpu.",
    )


def run(args: Namespace) -> Outcome:
    """Make the measurements that are missing, judge them, and write the page."""
    from rl_transformer.reproductions import find_experiment
    from rl_transformer.reproductions.reproduction import Setup, reproduce
    from rl_transformer.runtime.machine import find_device
    from rl_transformer.runtime.system import usable_cores

    experiment = find_experiment(args.name, replay_of=_game(args))
    default_seeds = experiment.quick_seeds if args.quick else experiment.seeds
    seeds = default_seeds if args.seeds is None else _count(parse_seeds(args.seeds))
    jobs = usable_cores() if args.jobs is None else args.jobs
    if jobs < 1:
        raise RLTransformerError(f"{jobs} is not positive", where="--jobs", fix="give 1 or more")
    if bool(args.data) != bool(args.env_id):
        raise RLTransformerError("one of the two is missing", where="--data and --env-id", fix="give both, or neither")
    if args.data and not experiment.takes_data:
        raise RLTransformerError(f"{args.name} has its own data", where="--data", fix="leave --data and --env-id out")
    if args.tuning_data and not (args.data and experiment.takes_tuning_data):
        problem = (
            "is used together with --data only"
            if experiment.takes_tuning_data
            else f"{args.name} chooses nothing on data"
        )
        fix = "give --data and --env-id, too" if experiment.takes_tuning_data else "leave it out"
        raise RLTransformerError(problem, where="--tuning-data", fix=fix)
    if args.text and not experiment.takes_text:
        raise RLTransformerError(f"{args.name} reads no text", where="--text", fix="leave it out")
    if args.language_model and not experiment.takes_language_model:
        raise RLTransformerError(f"{args.name} starts from no such model", where="--language-model", fix="leave it out")
    folder = f"{args.name}-{args.game.lower()}" if args.game else args.name
    output = Path(args.output or f"reproductions/{'quick' if args.quick else 'results'}/{folder}")
    if args.check or args.judge_again:
        return _without_measuring(args, experiment, output)
    device = args.device or "cpu"
    find_device(device, where="--device")
    setup = Setup(
        quick=args.quick,
        seeds=seeds,
        output=output,
        data=args.data,
        env_id=args.env_id,
        tuning_data=args.tuning_data,
        text=args.text,
        language_model=args.language_model,
        device=device,
        game=args.game,
        replay=args.replay,
    )
    return Outcome(reproduce(experiment, setup, jobs=jobs, command=_command(args, seeds)))


def _without_measuring(args: Namespace, experiment: Experiment, output: Path) -> Outcome:
    """Check finished results, or judge them by the present rules."""
    from rl_transformer.reproductions.checking import check_results
    from rl_transformer.reproductions.reproduction import judge_again

    if args.check and args.judge_again:
        raise RLTransformerError("exclude each other", where="--check and --judge-again", fix="give one of them")
    set_here = [name for name in _OF_MEASUREMENTS if getattr(args, name) is not None]
    if set_here:
        option = "--" + set_here[0].replace("_", "-")
        problem = f"has no effect with {'--check' if args.check else '--judge-again'}, which reads it from the folder"
        raise RLTransformerError(problem, where=option, fix="leave it out")
    if args.judge_again:
        return Outcome(judge_again(experiment, output))
    mismatches = check_results(experiment, output)
    for mismatch in mismatches:
        log.info(f"MISMATCH {output}: {mismatch}")
    if not mismatches:
        log.info(f"{output}: every figure follows from the cells")
    return Outcome({"name": experiment.name, "mismatches": mismatches}, exit_code=1 if mismatches else 0)


def _game(args: Namespace) -> str | None:
    """Return the game whose replay buffers are used, after checking what was given with it."""
    if bool(args.game) != bool(args.replay):
        raise RLTransformerError("one of the two is missing", where="--game and --replay", fix="give both, or neither")
    if args.game and args.name != "atari":
        raise RLTransformerError(f"{args.name} has no games", where="--game, --replay", fix="leave them out")
    return args.game


def _count(seeds: list[int]) -> int:
    """Return the number of seeds, which must be the first ones.

    Raises:
        RLTransformerError: They are others. Data sets and graphs of an experiment follow from the seed's number.
    """
    if seeds != list(range(len(seeds))):
        fix = f"write {len(seeds)}, or 0..{len(seeds) - 1}"
        raise RLTransformerError("an experiment's seeds count up from 0", where="--seeds", fix=fix)
    return len(seeds)


def _command(args: Namespace, seeds: int) -> str:
    """Return the command for the result's page."""
    # Only arguments that change the results: a page must not depend on the folder or on the number of jobs.
    words = ["rlt", "reproduce", args.name, *(["--quick"] if args.quick else []), "--seeds", str(seeds)]
    if args.data:
        words += ["--data", args.data, "--env-id", args.env_id]
    if args.tuning_data:
        words += ["--tuning-data", args.tuning_data]
    if args.game:
        words += ["--game", args.game, "--replay", args.replay]
    if args.text:
        words += ["--text", args.text]
    if args.language_model:
        words += ["--language-model", args.language_model]
    if args.device not in (None, "cpu"):
        words += ["--device", args.device]
    return shlex.join(words)

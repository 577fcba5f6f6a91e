"""`rlt pretrain` trains small language models on text or on random sequences, or imports one."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli import pretrain_import
from rl_transformer.cli.command import Outcome
from rl_transformer.cli.config_options import RESUME, Flag, config_parser, resolve_config
from rl_transformer.errors import RLTransformerError
from rl_transformer.language.config import KINDS

_TRAINING_FLAGS = (
    Flag("--train-steps", "training.train_steps"),
    Flag("--seed", "training.seed"),
    Flag("--checkpoint-every", "training.checkpoint_every"),
)
_FLAGS = {
    "text": (Flag("--data", "dataset.uri"), Flag("--held-out", "dataset.held_out"), *_TRAINING_FLAGS),
    "synthetic": _TRAINING_FLAGS,
}
_DESCRIPTION = (
    "Train a small language model. KIND is text, or synthetic: Markov chains or their control (Wang et al. 2024); or import, "
    "which converts a GGUF file."
)


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command; its options are those of the kind ``first``.

    Raises:
        RLTransformerError: The first argument is not a kind of pretraining.
    """
    if first == pretrain_import.KIND:
        return pretrain_import.make_parser(prog)
    # The kind decides which options exist, so it has to be known before the others are parsed.
    shows_help = first in (None, "-h", "--help", "--help-all")
    if not shows_help and first not in KINDS:
        raise RLTransformerError(
            f"{first!r} is not a kind of pretraining",
            where=prog,
            fix=f"write text, synthetic or import first, for example {prog} text --data FILE --output DIR",
        )
    kind = str(first) if first in KINDS else "text"
    usage = f"{prog} KIND --output DIR [options]"
    description = f"{_DESCRIPTION} Defaults in brackets."
    parser = config_parser(prog, usage, description, KINDS[kind](), _FLAGS[kind], [RESUME])
    parser.add_argument("kind", choices=list(KINDS), help="text or synthetic.")
    parser.add_argument("--resume", action="store_true", help=RESUME[1])
    return parser


def run(args: Namespace) -> Outcome:
    """Pretrain a language model and print its measurements; or import one."""
    if args.kind == pretrain_import.KIND:
        return pretrain_import.run(args)
    config = resolve_config(args, KINDS[args.kind](), _FLAGS[args.kind])
    from rl_transformer.language.pretrain import pretrain, read_report

    folder = pretrain(config, resume=args.resume)
    # Read from the folder, because a run that was finished before is not measured again.
    report = read_report(folder)
    print(f"language model: {folder / 'model'}")
    for name, value in report.items():
        if isinstance(value, float):
            print(f"  {name.replace('_', ' ')} {value:.4f}")
    return Outcome(report)

"""`rlt pretrain import` converts a language model of a GGUF file to a folder that ``model.trunk`` takes."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.errors import RLTransformerError

KIND = "import"


def make_parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Convert the language model in a GGUF file, once, to a folder for --model.trunk.")
    parser.add_argument("kind", choices=[KIND], help="import.")
    parser.add_argument("file", type=str, help="GGUF file of a causal language model.")
    parser.add_argument("--output", type=str, required=True, help="Folder of safetensors to write; it must not exist.")
    parser.add_argument("--blocks", type=int | None, default=None, help="Keep the first N blocks; null: all of them.")
    parser.add_argument(
        "--held-out",
        type=str | None,
        default=None,
        help="Text file to measure bits per byte on, also with shuffled weights.",
    )
    parser.add_argument(
        "--context", type=int, default=128, help="With --held-out: most tokens that the model sees at once."
    )
    return parser


def run(args: Namespace) -> Outcome:
    """Convert the file, and print what it holds."""
    from rl_transformer.language.gguf import import_gguf
    from rl_transformer.language.held_out import HeldOutText
    from rl_transformer.language.text import read_text

    if args.held_out is not None and args.blocks is not None:
        raise RLTransformerError(
            "the output head of a language model only fits the complete model",
            where="--held-out, --blocks",
            fix="give one of them",
        )
    text = None if args.held_out is None else read_text(args.held_out)  # before minutes of work
    report = import_gguf(args.file, args.output, blocks=args.blocks)
    print(
        f"language model: {args.output}: {report['architecture']}, {report['blocks']} of {report['blocks_in_file']} blocks, "
        f"width {report['width']}, {report['parameters']:,} parameters; most weights were {report['quantization']}, all are "
        "float32 now"
    )
    if text is not None:
        held_out = HeldOutText(args.output, text)
        report["context"] = args.context
        for weights in ("pretrained", "shuffled"):
            report[f"{weights}_bits_per_byte"] = bits = held_out.bits_per_byte(args.context, weights)
            print(f"  held-out bits per byte, {weights} weights, context {args.context}: {bits:.4f}")
    return Outcome(report)

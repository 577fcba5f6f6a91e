"""`rlt pretrain`: small language models of our own, on text or on random sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from rl_transformer.cli.train import FLAGS, Flags, add_configuration, resolved
from rl_transformer.language.config import KINDS

_FLAGS: dict[str, Flags] = {
    "text": {
        "data": ("dataset", "uri", "Text file, or folder of *.txt."),
        "held_out": ("dataset", "held_out", "Text to measure on."),
        **{name: flag for name, flag in FLAGS.items() if name != "data"},
    },
    "synthetic": {name: flag for name, flag in FLAGS.items() if name != "data"},
}


def add_pretrain_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt pretrain`."""
    kind = next((argument for argument in arguments[:2] if argument in KINDS), "text")
    parser.add_argument(
        "kind", choices=list(KINDS), help="text; or synthetic: Markov chains, or their control (Wang et al. 2024)."
    )
    add_configuration(parser, KINDS[kind](), _FLAGS[kind])
    parser.add_argument("--resume", action="store_true", help="Continue the run in the folder, or start it.")
    parser.add_argument("--json", type=str | None, default=None, help="Write what was measured to this file.")


def run_pretrain(args: Any, arguments: Sequence[str]) -> None:
    """Pretrain a language model."""
    config = resolved(args, arguments, args.kind, KINDS[args.kind], _FLAGS[args.kind])
    from rl_transformer.runtime.files import check_writable, to_json, write_text
    from rl_transformer.language.language_model import pretrain, read_report

    check_writable(args.json)
    folder = pretrain(config, resume=args.resume)
    report = read_report(folder)
    print(f"language model: {folder / 'model'}")
    for name, value in report.items():
        if isinstance(value, float):
            print(f"  {name.replace('_', ' ')} {value:.4f}")
    if args.json:
        write_text(Path(args.json), to_json(report))

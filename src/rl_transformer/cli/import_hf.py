"""`rlt import-hf` makes a policy of a Decision Transformer that transformers saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.errors import RLTransformerError


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Make a policy from a folder saved by transformers' DecisionTransformerModel.")
    parser.add_argument("folder", type=str, help="The folder, with config.json and model.safetensors.")
    parser.add_argument("--output", type=str, required=True, help="Folder of the policy; it must be empty or new.")
    what = "of each feature of the training data's observations: numbers, or a .json or .npy file."
    parser.add_argument("--mean", nargs="+", type=str, required=True, help=f"Mean {what}")
    parser.add_argument("--std", nargs="+", type=str, required=True, help=f"Standard deviation {what}")
    parser.add_argument("--scale", type=float, required=True, help="Divisor of returns, for example 1000.")
    parser.add_argument(
        "--context-length", type=int, default=20, help="Context length: timesteps that a prediction may see."
    )
    parser.add_argument("--action-low", type=float, default=-1.0, help="Lower bound of the actions.")
    parser.add_argument("--action-high", type=float, default=1.0, help="Upper bound of the actions.")
    return parser


def run(args: Namespace) -> Outcome:
    """Write the policy and print where it is."""
    from rl_transformer.policy.import_huggingface import import_huggingface

    output = Path(args.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RLTransformerError("exists already and is not empty", where=output, fix="name another folder")
    policy = import_huggingface(
        args.folder,
        mean=_numbers(args.mean, "--mean"),
        std=_numbers(args.std, "--std"),
        scale=args.scale,
        context_length=args.context_length,
        action_low=args.action_low,
        action_high=args.action_high,
    )
    policy.save(output / "policy")
    print(f"policy: {output / 'policy'}")
    print(f"next: rlt evaluate {output} --env-id ID --target-return X")
    return Outcome({"output": str(output), "policy": policy.content_hash})


def _numbers(words: Sequence[str], option: str) -> list[float]:
    """Return the numbers that are given, or those in the file that is named."""
    import numpy as np

    fix = "give numbers, or a .json file with a list, or a .npy file"
    try:
        path = Path(words[0])
        if len(words) > 1 or path.suffix not in (".json", ".npy"):
            return [float(word) for word in words]
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False).astype(float).ravel().tolist()
        return [float(number) for number in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise RLTransformerError(f"cannot be read as numbers: {error}", where=option, fix=fix) from None

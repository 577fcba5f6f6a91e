"""`rlt export` writes a policy as files that act without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.runtime.types import JsonObject


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        prog, "Write a policy as ONNX, with its rules, recorded steps and clients in Python and JavaScript."
    )
    parser.add_argument("policy", type=str, help="A run folder or policy folder, or hub:ORG/NAME@REVISION.")
    parser.add_argument("--to", type=str, required=True, help="Folder to write; an earlier export there is replaced.")
    parser.add_argument(
        "--cached",
        action="store_true",
        help="Write policy_step.onnx, too: one timestep and a KV cache (sliding-window attention).",
    )
    parser.add_argument(
        "--quantize", type=Literal["int8"], default=None, help="Write policy_int8.onnx, too, and measure its error."
    )
    parser.add_argument(
        "--also",
        nargs="+",
        type=Literal["pt2", "triton"],
        default=[],
        help="Further formats: pt2 (torch.export), triton (a model repository of Triton Inference Server).",
    )
    parser.add_argument(
        "--action-selection",
        type=Literal["greedy", "sample"],
        default=None,
        help="How the exported policy chooses an action; default: as the policy does.",
    )
    parser.add_argument(
        "--data", type=str, default=None, help="Data whose steps are recorded; default: randomly drawn steps."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the recorded steps.")
    return parser


def run(args: Namespace) -> Outcome:
    """Write the export and print what it holds."""
    from rl_transformer.export.onnx_file import require_onnx
    from rl_transformer.export.write import ExportOptions, export_policy
    from rl_transformer.policy import load_policy
    from rl_transformer.runtime.paths import user_path
    from rl_transformer.trajectories import open_trajectories

    require_onnx()
    policy = load_policy(args.policy)
    options = ExportOptions(
        cached=args.cached,
        quantize=args.quantize,
        also=tuple(args.also),
        action_selection=args.action_selection,
        seed=args.seed,
    )
    folder = user_path(args.to)
    rules = export_policy(policy, folder, options, None if args.data is None else open_trajectories(args.data))
    print("\n".join(_summary(folder, rules)))
    return Outcome({"output": str(folder), **rules})


def _summary(folder: Path, rules: JsonObject) -> list[str]:
    """Return the lines that tell what was written, how exact it is, and how to go on."""
    lines = []
    for name, file in rules["files"].items():
        error = f"largest difference from the session {file['largest_difference']:.2g}"
        others = file.get("other_actions")
        error = error if others is None else f"{others} of {rules['golden']['steps']} actions differ from the session's"
        lines.append(f"{folder / name}: {file['bytes'] / 2**20:.2f} MiB, {error}")
    if rules["action_selection"] == "sample":
        lines.append("note: the policy samples its actions; clients draw the random numbers (input uniforms)")
    lines.append(f"next: python {folder / 'golden.py'} {folder}, or rlt verify {folder}")
    return lines

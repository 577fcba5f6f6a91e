"""Write an exported policy: the network as ONNX, its rules, recorded steps, and clients that act with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.export.golden import golden_steps
from rl_transformer.export.graph import PolicyModule, StepModule, WindowModule
from rl_transformer.export.interface import Port, step_ports, window_ports
from rl_transformer.export.onnx_file import quantize, require_onnx, to_onnx, trace, write_onnx
from rl_transformer.export.rules import FORMAT, action_tolerance, check_exportable, describe
from rl_transformer.export.triton import write_repository
from rl_transformer.policy import Policy
from rl_transformer.runtime.files import to_json, write_folder, write_text
from rl_transformer.runtime.reading import read_json, sha256
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset

RULES = "policy.json"
GOLDEN = "golden.npz"
WINDOW = "policy.onnx"
STEP = "policy_step.onnx"
QUANTIZED = "policy_int8.onnx"
PROGRAM = "policy.pt2"
TRITON = "triton"
CLIENTS = ("session.py", "golden.py", "session.mjs", "golden.mjs")
FORMATS = ("pt2", "triton")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write beside the ONNX file of whole windows."""

    cached: bool = False
    """Write policy_step.onnx, too."""
    quantize: str | None = None
    """int8: write policy_int8.onnx, too, and measure its error."""
    also: Sequence[str] = ()
    """Further formats of the network, among `FORMATS`."""
    action_selection: str | None = None
    """greedy or sample, instead of the policy's own."""
    seed: int = 0
    """Of the recorded steps."""


def export_policy(
    policy: Policy, folder: Path, options: ExportOptions, dataset: TrajectoryDataset | None = None
) -> JsonObject:
    """Write an export completely, or leave the disk unchanged, and return its rules.

    Args:
        policy: The policy.
        folder: Where; an earlier export there is replaced, anything else is refused.
        options: What to write.
        dataset: Whose steps are recorded in golden.npz; None: steps inside of the policy's spaces are drawn.

    Raises:
        RLTransformerError: A part of the policy cannot be exported, a package is missing, or the folder holds something
            else.
    """
    require_onnx()
    if options.action_selection is not None:
        policy = _with_selection(policy.to("cpu"), options.action_selection)
    check_exportable(policy)
    if options.cached and policy.spec.model.attention_span is None:
        raise RLTransformerError(
            "the policy has full attention, so nothing computed for one timestep remains valid at the next",
            where="--cached",
            fix="leave it out, or train with --model.attention sliding_window",
        )
    # By the session, before anything is exported: they are what every file is held to.
    steps = golden_steps(policy, options.seed, dataset)
    rules = describe(policy)
    rules["golden"] = {
        "file": GOLDEN,
        "steps": len(steps["actions"]),
        "tolerance": action_tolerance(policy),
        "seed": options.seed,
        "observations": "drawn" if dataset is None else "recorded",
        "is_flat": dataset is not None or policy.spec.data.observation_space.kind != "box",
    }

    _refuse_other_content(folder)
    write_folder(folder, lambda temporary: _fill(temporary, policy, options, rules, steps))
    return rules


def _fill(
    folder: Path, policy: Policy, options: ExportOptions, rules: JsonObject, steps: Mapping[str, np.ndarray]
) -> None:
    """Write every file of an export, and add to its rules what the files are and how exact they are.

    Raises:
        RLTransformerError: A file chooses other actions than the session.
    """
    # Uncompressed: a client can read it without a library for compression.
    np.savez(folder / GOLDEN, allow_pickle=False, **steps)
    for name in CLIENTS:
        # Copies, because a robot that runs them need not have this package.
        (folder / name).write_bytes((files("rl_transformer.export") / "reference" / name).read_bytes())
    # Twice written: the clients that measure read the rules, and what they measure goes into them.
    rules["files"] = _write_networks(policy, folder, options)
    # The clients read the rules from the folder, so they are there before anything is measured.
    write_text(folder / RULES, to_json(rules))
    for name, file in rules["files"].items():
        file |= measure_difference(folder, name, steps)
        # Quantization is known to change actions; its error is reported, and the user judges it.
        if name != QUANTIZED and file["largest_difference"] > rules["golden"]["tolerance"]:
            raise RLTransformerError(
                f"{name} chooses actions that differ by {file['largest_difference']:.3g} from the session's",
                where="export",
                fix="report this with the output of rlt doctor, and act in Python meanwhile",
            )
    write_text(folder / RULES, to_json(rules))


def _write_networks(policy: Policy, folder: Path, options: ExportOptions) -> dict[str, JsonObject]:
    """Write the files of the network, and return what to write about each of them."""
    described = {WINDOW: _write_network(WindowModule(policy), window_ports(policy), folder / WINDOW, options.also)}
    if options.cached:
        described[STEP] = _write_network(StepModule(policy), step_ports(policy), folder / STEP)
    if options.quantize is not None:
        quantize(folder / WINDOW, folder / QUANTIZED)
        described[QUANTIZED] = {**described[WINDOW], **_describe_file(folder / QUANTIZED)}
    if "triton" in options.also:
        write_repository(folder / TRITON, folder / WINDOW, *window_ports(policy))
    return described


def _write_network(
    module: PolicyModule, ports: tuple[list[Port], list[Port]], path: Path, also: Sequence[str] = ()
) -> JsonObject:
    """Write an ONNX file, and perhaps the program that it was made of, and return its description."""
    import torch

    inputs, outputs = ports
    program = trace(module, inputs)
    if "pt2" in also:
        torch.export.save(program, path.with_name(PROGRAM))
    write_onnx(path, to_onnx(program, inputs, outputs))
    named = {"inputs": [port.to_dict() for port in inputs], "outputs": [port.to_dict() for port in outputs]}
    return {**named, **_describe_file(path)}


def _describe_file(path: Path) -> JsonObject:
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def _with_selection(policy: Policy, selection: str) -> Policy:
    """Return the policy with another way of choosing an action from the head's parameters."""
    if selection == "sample" and not policy.model.predict_action.can_sample:
        raise RLTransformerError(
            f"the {policy.spec.model.action_head} head has no distribution to draw from",
            where="--action-selection",
            fix="leave it out",
        )
    spec = replace(policy.spec, action_selection=selection)
    return Policy(spec, policy.model, policy.normalizer, policy.return_model, policy.support)


def measure_difference(folder: Path, name: str, steps: Mapping[str, np.ndarray]) -> JsonObject:
    """Return how far the actions of an exported file are from the recorded ones, in the environment's units."""
    from rl_transformer.export.reference.golden import replay
    from rl_transformer.export.reference.session import Policy as ExportedPolicy

    actions = replay(ExportedPolicy(folder, name), steps)
    difference = np.abs(actions.astype(np.float64) - steps["actions"]).reshape(len(actions), -1)
    return {
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "other_actions": int((difference > 0).any(axis=1).sum()) if steps["actions"].dtype.kind in "iub" else None,
    }


def _refuse_other_content(folder: Path) -> None:
    """Raise an error if a folder holds anything but an earlier export."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    rules = folder / RULES
    if rules.is_file() and read_json(rules, fix="name another folder").get("format") == FORMAT:
        return
    raise RLTransformerError(
        "already exists and is not an export", where=folder, fix="name another folder, or remove this one"
    )

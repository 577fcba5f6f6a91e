"""Resumable state that survives a kill at any moment.

A checkpoint is a folder step-N with safetensors and JSON, written aside, synced, hashed in a manifest
and renamed. What counts is the newest one that verifies; nothing is ever deleted for lacking a manifest.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.files import check_format, read_json, to_json, verify_folder, write_folder, write_text
from rl_transformer.training.optimizer import WeightAverage, trained_parameters

FORMAT_VERSION = 1
_STEP = re.compile(r"step-(\d+)")
_FILES = ("state.json", "state.safetensors")
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    state: dict[str, Any],
) -> Path:
    """Write everything that the next update depends on, and return the checkpoint's folder.

    Random numbers are a function of (seed, step), so the step is all that is kept of them.
    """
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for name, parameter in trained_parameters(model).items():
        for moment in MOMENTS:
            if moment in optimizer.state.get(parameter, {}):
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    if average is not None:
        tensors |= {f"average.{name}": t for name, t in average.averages.items()}

    def fill(temporary: Path) -> None:
        save_file(
            {k: t.detach().cpu().contiguous() for k, t in tensors.items()},
            temporary / "state.safetensors",
            metadata={"format": "pt"},
        )
        write_text(temporary / "state.json", to_json({"format_version": FORMAT_VERSION, "step": step, **state}))

    path = folder / f"step-{step}"
    if path.exists() and newest_verified(folder, lambda _: None) != path:
        # Somebody's checkpoint lost its manifest, or was damaged: that is no reason to delete it.
        path.rename(folder / f"{path.name}.set-aside-{secrets.token_hex(4)}")
    write_folder(path, fill)
    return path


def read_state(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state without its tensors."""
    state = read_json(path / "state.json", fix="remove this checkpoint and resume from the one before")
    check_format(state, FORMAT_VERSION, where=path / "state.json")
    return state


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> dict[str, Any]:
    """Restore what `save_checkpoint` wrote into ``model``, ``optimizer`` and ``average``; return its state."""
    state, tensors, parameters = read_state(path), load_file(path / "state.safetensors"), trained_parameters(model)
    try:
        model.load_state_dict({k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise RLTransformerError(
            f"belongs to another model: {' '.join(str(error).split())[:200]}",
            where=path,
            fix="resume with the same transformer, or train into another folder",
        ) from None
    for name, parameter in parameters.items():
        if f"exp_avg.{name}" in tensors:
            moments: dict[str, Tensor] = {m: tensors[f"{m}.{name}"].to(parameter.device) for m in MOMENTS}
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state["step"]), device=parameter.device),
                **moments,
            }
    if average is not None:
        for name, tensor in average.averages.items():
            tensor.copy_(tensors[f"average.{name}"])
    return state


def newest_verified(folder: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint whose every byte is as written; say which newer ones are not."""
    for path in reversed(_numbered(folder)):
        try:
            verify_folder(path, required=_FILES)
            if read_json(path / "state.json", fix="").get("step") != int(path.name.removeprefix("step-")):
                raise RLTransformerError("holds another step than its name says", where=path, fix="")
        except RLTransformerError as error:
            say(f"checkpoint {path.name} is damaged and is not used: {error.where}: {error.problem}")
            continue
        return path
    return None


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints that verify, and what killed writers left behind.

    Folders without a manifest are left alone: a missing marker is no reason to delete.
    """
    verified = []
    for path in reversed(_numbered(folder)):
        try:
            verify_folder(path, required=_FILES, hashes=len(verified) < keep)
        except RLTransformerError:
            continue
        verified.append(path)
    for path in verified[keep:]:
        shutil.rmtree(path)
    for path in [*folder.glob(".step-*.tmp-*"), *folder.glob(".step-*.old-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _numbered(folder: Path) -> list[Path]:
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found)]

"""Resumable state that survives a kill at any moment.

A checkpoint is a folder step-N with safetensors and JSON, written to a temporary folder, synced, hashed in a
manifest and renamed. Training resumes from the newest one that verifies; a missing manifest never
deletes anything.
"""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rl_transformer.config.migrations import migrate_checkpoint_tensor
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import log
from rl_transformer.runtime.files import check_format, read_json, to_json, verify_folder, write_folder, write_text
from rl_transformer.runtime.types import JsonObject
from rl_transformer.training.ema import EMA
from rl_transformer.training.optimizer import trained_parameters

FORMAT_VERSION = 1
_STEP = re.compile(r"step-(\d+)")
_FILES = ("state.json", "state.safetensors")
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    folder: Path,
    step: int,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
    state: JsonObject,
) -> Path:
    """Write everything that the next update depends on, and return the checkpoint's folder.

    Random numbers are a function of (seed, step), so no generator state is stored.

    Args:
        folder: Folder of the run's checkpoints.
        step: Updates made so far.
        objective: The `TrainingObjective`: the model, and what the loss trains besides.
        optimizer: Its moments are stored.
        ema: Its averages are stored.
        state: JSON-ready values to store with them.
    """
    tensors = dict(objective.state_dict())  # named model.*, and loss.* for what only the loss needs
    for name, parameter in trained_parameters(objective).items():
        for moment in MOMENTS:
            if moment in optimizer.state.get(parameter, {}):
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    if ema is not None:
        tensors |= {f"average.{name}": t for name, t in ema.averages.items()}

    def fill(temporary: Path) -> None:
        save_file(
            {k: t.detach().cpu().contiguous() for k, t in tensors.items()},
            temporary / "state.safetensors",
            metadata={"format": "pt"},
        )
        write_text(temporary / "state.json", to_json({"format_version": FORMAT_VERSION, "step": step, **state}))

    path = folder / f"step-{step}"
    if path.exists() and newest_verified(folder, report=False) != path:
        # A checkpoint of this step lost its manifest or is damaged: set it aside instead of deleting it.
        path.rename(folder / f"{path.name}.set-aside-{secrets.token_hex(4)}")
    write_folder(path, fill)
    return path


def read_state(path: Path) -> JsonObject:
    """Return a checkpoint's state without its tensors."""
    state = read_json(path / "state.json", fix="remove this checkpoint and resume from the one before")
    check_format(state, FORMAT_VERSION, where=path / "state.json")
    return state


def load_checkpoint(path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> JsonObject:
    """Restore what `save_checkpoint` wrote into ``objective``, ``optimizer`` and ``ema``; return its state."""
    state = read_state(path)
    stored = load_file(path / "state.safetensors")
    tensors = {migrate_checkpoint_tensor(name): tensor for name, tensor in stored.items()}
    try:
        objective.load_state_dict({k: t for k, t in tensors.items() if k.startswith(("model.", "loss."))})
    except RuntimeError as error:
        raise RLTransformerError(
            f"belongs to another model: {' '.join(str(error).split())[:200]}",
            where=path,
            fix="resume with the same transformer, or train into another folder",
        ) from None
    for name, parameter in trained_parameters(objective).items():
        if f"exp_avg.{name}" in tensors:
            moments: dict[str, Tensor] = {m: tensors[f"{m}.{name}"].to(parameter.device) for m in MOMENTS}
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state["step"]), device=parameter.device),
                **moments,
            }
    if ema is not None:
        for name, tensor in ema.averages.items():
            tensor.copy_(tensors[f"average.{name}"])
    return state


def newest_verified(folder: Path, *, report: bool) -> Path | None:
    """Return the newest checkpoint whose every byte is as written; with ``report``, name newer ones that are not."""
    for path in reversed(_numbered(folder)):
        try:
            verify_folder(path, required=_FILES)
            if read_json(path / "state.json", fix="").get("step") != int(path.name.removeprefix("step-")):
                raise RLTransformerError("holds another step than its name says", where=path, fix="")
        except RLTransformerError as error:
            if report:
                log.info(f"checkpoint {path.name} is damaged and is not used: {error.where}: {error.problem}")
            continue
        return path
    return None


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints that verify, and temporary folders of killed processes.

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

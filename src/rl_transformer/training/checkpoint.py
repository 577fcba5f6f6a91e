"""Save and load training state so that a run survives being killed at any moment.

A checkpoint is a folder step-N of safetensors and JSON. It is written to a temporary folder, synced to disk, hashed in
a manifest and renamed into place. Training resumes from the newest checkpoint that passes verification. A folder
without a manifest is never deleted.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from rl_transformer.config.migrations import migrate_checkpoint_tensor
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import disk, log
from rl_transformer.runtime.files import (
    remove_leftovers,
    to_json,
    translate_write_errors,
    verify_folder,
    write_folder,
    write_text,
)
from rl_transformer.runtime.machine import code_version
from rl_transformer.runtime.reading import check_format, parse_tensors, read_bytes, read_json
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.training.ema import EMA
from rl_transformer.training.optimizer import trained_parameters

FORMAT_VERSION = 1
_STEP = re.compile(r"step-(\d+)")
_MAY_LACK = ("data_content", "options")  # earlier versions did not store them
_FILES = ("state.json", "state.safetensors")
# AdamW's names for its running averages of the gradient and of the squared gradient. They are part of the file format.
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
        objective: The `TrainingObjective`: the model, and the loss with any parameters of its own.
        optimizer: The optimizer whose moments are stored.
        ema: The EMA whose averages are stored; None without EMA.
        state: JSON-ready values to store with the tensors.

    Raises:
        RLTransformerError: The checkpoint cannot be written, for example because the disk is full.
    """
    tensors = dict(objective.state_dict())  # named model.*, and loss.* for parameters that only the loss has
    # Moments are stored by parameter name, not by the optimizer's index: the order of parameters may change between
    # versions, and a moment assigned to the wrong tensor of the same shape would go unnoticed.
    for name, parameter in trained_parameters(objective).items():
        for moment in MOMENTS:
            if moment in optimizer.state.get(parameter, {}):
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    if ema is not None:
        tensors |= {f"average.{name}": t for name, t in ema.averages.items()}

    on_cpu = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
    broken = _first_not_finite(on_cpu)
    if broken is not None:
        # Saved, they would be the newest state of the run, from which no update leads anywhere.
        raise RLTransformerError(
            f"{broken} holds NaN or infinite values, so nothing is saved; earlier checkpoints are kept",
            where=f"update {step}",
            fix="lower training.learning_rate, or use training.precision float32, and resume or start again",
        )

    def fill(temporary: Path) -> None:
        disk.DISK.save_tensors(temporary / "state.safetensors", on_cpu)
        write_text(temporary / "state.json", to_json({"format_version": FORMAT_VERSION, "step": step, **state}))

    path = folder / f"step-{step}"
    if path.exists() and newest_verified(folder, report=False) != path:
        # A checkpoint of this step lost its manifest or is damaged. Set it aside instead of deleting it: the damage may
        # be in the manifest alone, and then the user can still recover the weights.
        path.rename(folder / f"{path.name}.set-aside-{secrets.token_hex(4)}")
    write_folder(path, fill)
    return path


def checkpoint_bytes(objective: nn.Module, parameters: Iterable[Tensor], ema: EMA | None) -> int:
    """Return the size of a checkpoint: the weights, and of each trained parameter its moments and its average."""
    weights = sum(tensor.nbytes for tensor in objective.state_dict().values())
    return weights + sum(parameter.nbytes for parameter in parameters) * (len(MOMENTS) + (ema is not None))


def numeric_environment(device: str, world_size: int) -> JsonObject:
    """Return the settings that change results in the last bits, in addition to configuration and data."""
    return {
        # The number of threads decides how sums are split, and thereby how they are rounded.
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rl_transformer": code_version(),
        "device": device,
        "world_size": world_size,
    }


def report_changed_environment(state: JsonMapping, now: JsonMapping) -> None:
    """Print a line if a resumed run can differ from an uninterrupted one in the last bits, and why."""
    before = {"world_size": 1, **state}  # checkpoints of the first version do not store it
    changed = [
        f"{name} {before[name]} -> {value}"
        for name, value in now.items()
        if before.get(name, value) != value  # earlier versions stored less
    ]
    if changed:
        log.info(f"not bit-exact with the uninterrupted run: {', '.join(changed)}")


def read_state(path: Path) -> JsonObject:
    """Return the JSON state of a checkpoint, without its tensors.

    Raises:
        RLTransformerError: The file is missing, damaged or malformed, or was written by a later version.
    """
    where = path / "state.json"
    fix = "remove this checkpoint and resume from the one before"
    state = read_json(where, fix=fix)
    check_format(state, FORMAT_VERSION, where=where)
    kinds = {"step": int, "evaluated": int, "dataset_fingerprint": str, "data_content": str, "options": dict}
    for name, kind in kinds.items():
        if type(state.get(name)) is not kind and (name in state or name not in _MAY_LACK):
            raise RLTransformerError(f"{name} is {state.get(name)!r:.100}, not {kind.__name__}", where=where, fix=fix)
    return state


def load_checkpoint(path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> JsonObject:
    """Restore ``objective``, ``optimizer`` and ``ema`` in place from a checkpoint, and return its JSON state.

    Raises:
        RLTransformerError: The tensors do not fit the model, because the checkpoint belongs to another one.
    """
    state = read_state(path)
    where = path / "state.safetensors"
    fix = "remove this checkpoint and resume from the one before"
    stored = parse_tensors(read_bytes(where, fix=fix), where=where, fix=fix)
    broken = _first_not_finite(stored)
    if broken is not None:
        raise RLTransformerError(f"{broken} holds NaN or infinite values", where=where, fix=fix)
    # Renaming here, before anything is matched by name, lets checkpoints of every released version load.
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
        # A parameter without moments had received no gradient yet, so AdamW would create them at its first step.
        if f"exp_avg.{name}" in tensors:
            moments: dict[str, Tensor] = {m: _stored(tensors, f"{m}.{name}", parameter, path) for m in MOMENTS}
            # AdamW counts steps per parameter for its bias correction. All counts equal the run's step, because every
            # update steps every parameter, so they are not stored.
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state["step"]), device=parameter.device),
                **moments,
            }
    if ema is not None:
        for name, tensor in ema.averages.items():
            tensor.copy_(_stored(tensors, f"average.{name}", tensor, path))
    return state


def _stored(tensors: dict[str, Tensor], name: str, like: Tensor, where: Path) -> Tensor:
    """Return a stored tensor on the device of another one, whose shape it must have."""
    if name not in tensors or tensors[name].shape != like.shape:
        raise RLTransformerError(
            f"lacks {name}, or holds it in another shape",
            where=where,
            fix="remove this checkpoint and resume from the one before, or train into another folder",
        )
    return tensors[name].to(like.device)


def _first_not_finite(tensors: dict[str, Tensor]) -> str | None:
    """Return the name of the first tensor with NaN or infinite values, or None."""
    # A sum is not finite if a summand is not, and takes a fraction of the time; overflow of the sum itself is ruled out
    # by the slower check.
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            return name
    return None


def newest_verified(folder: Path, *, report: bool) -> Path | None:
    """Return the newest checkpoint whose bytes match its manifest; None if there is none.

    Args:
        folder: Folder of the run's checkpoints.
        report: Print a line for every newer checkpoint that is damaged.
    """
    for path in reversed(_numbered(folder)):
        try:
            _verify(path)
        except RLTransformerError as error:
            if report:
                log.info(f"checkpoint {path.name} is damaged and is not used: {error.where}: {error.problem}")
            continue
        return path
    return None


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` verified checkpoints, and the temporary folders of killed processes.

    Folders that fail verification are left alone: they may hold the only copy of a long run. Of those that are older than
    ``keep`` verified ones, only names and sizes are verified.
    """
    verified = []
    for path in reversed(_numbered(folder)):
        try:
            # Only checkpoints that are kept must be intact byte for byte, so that deleting the others loses nothing.
            # Hashing the ones to be deleted as well would read gigabytes for no gain.
            _verify(path, hashes=len(verified) < keep)
        except RLTransformerError:
            continue
        verified.append(path)
    for path in verified[keep:]:
        with translate_write_errors(path):
            disk.DISK.remove(path)
    # `write_folder` leaves these behind if it is killed. Only the process that owns the run saves, so none is in use.
    with translate_write_errors(folder):
        remove_leftovers(folder)


def _verify(path: Path, *, hashes: bool = True) -> None:
    """Raise an `RLTransformerError` if a checkpoint is damaged or has the name of another one; see `verify_folder`."""
    verify_folder(path, required=_FILES, hashes=hashes)
    # A folder that someone renamed passes its hashes, but resuming from it would repeat or skip updates.
    if read_json(path / "state.json", fix="").get("step") != int(path.name.removeprefix("step-")):
        raise RLTransformerError("contains a different step than its file name says", where=path, fix="")


def _numbered(folder: Path) -> list[Path]:
    """Return the checkpoint folders by step; sorting by name would put step-1000 before step-200."""
    steps = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))]
    return [path for _, path in sorted(steps)]

"""The folder of a run: what may be in it before, and what is written about it."""

from __future__ import annotations

from pathlib import Path

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.files import read_json, to_json, write_text
from rl_transformer.machine import describe_machine


def is_finished(folder: Path, config: RunConfig, *, resume: bool) -> bool:
    """Check that a run may be made in ``folder``, and return whether it is there and finished."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not resume)):
        raise RLTransformerError(
            "is there already and not empty",
            where=folder,
            fix="name another folder, or pass --resume to continue the run in it",
        )
    if not (folder / "config.json").exists():
        return False
    stored = read_json(folder / "config.json", fix="remove the folder and start again")
    steps = _check_same(stored, config.to_dict(), folder)
    if steps < config.training.train_steps or not (folder / "policy" / "manifest.json").exists():
        return False
    print(f"{folder} is finished at step {steps}: nothing to do", flush=True)
    return True


def write_run_files(folder: Path, config: RunConfig) -> None:
    """Write config.json, complete, and run.json: the machine."""
    try:
        write_text(folder / "config.json", to_json(config.to_dict()))
        write_text(folder / "run.json", to_json(describe_machine(config)))
    except OSError as error:
        raise RLTransformerError(
            f"cannot be written: {error.strerror}", where=folder, fix="name a folder that you may write to"
        ) from None


def _check_same(stored: dict, wanted: dict, folder: Path) -> int:
    before = int(stored["training"]["train_steps"])
    for section, values in wanted.items():
        pairs = values.items() if isinstance(values, dict) else ()
        for name, value in pairs:
            old = stored.get(section, {}).get(name)
            if old != value and not (name == "train_steps" and value > before):
                raise RLTransformerError(
                    f"{section}.{name} is {value!r}, and the run was started with {old!r}",
                    where=folder,
                    fix="resume with the same options (only a larger --train-steps may differ), or train into another folder",
                )
    return before

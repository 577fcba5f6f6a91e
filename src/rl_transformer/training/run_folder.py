"""The folder of a run: what may be in it before, and what is written about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rl_transformer.config import Sections
from rl_transformer.errors import RLTransformerError
from rl_transformer.files import check_format, read_json, to_json, write_text
from rl_transformer.machine import describe_machine

FORMAT_VERSION = 1
_FINISHED = "finished.json"


POLICY = "policy/manifest.json"


def is_finished(folder: Path, config: Any, *, resume: bool, product: str = POLICY) -> bool:
    """Check that a run may be made in ``folder``, and return whether it is there and finished.

    Args:
        folder: The run folder.
        config: A `RunConfig`, or another configuration with a section ``training``.
        resume: Whether the folder may hold a run of the same configuration.
        product: The file that a finished run has.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not resume)):
        raise RLTransformerError(
            "is there already and not empty",
            where=folder,
            fix="name another folder, or pass --resume to continue the run in it",
        )
    if not (folder / "config.json").exists():
        if any((folder / "checkpoints").glob("step-*")):
            raise RLTransformerError(
                "has checkpoints and no config.json", where=folder, fix="restore it, or train anew"
            )
        return False
    start_again = "name the folder of a run, or another folder to start a new one in"
    check_format(read_json(folder / "run.json", fix=start_again), FORMAT_VERSION, where=folder / "run.json")
    # Through the configuration's class, so that options which did not exist yet have the values that change nothing.
    values = read_json(folder / "config.json", fix=start_again)
    stored = type(config).from_dict(values, where=folder / "config.json")
    stored.check_types()
    _check_same(stored, config, folder)
    if not (folder / _FINISHED).exists() or not (folder / product).exists():
        return False
    steps = read_json(folder / _FINISHED, fix="remove this file and resume").get("train_steps")
    if steps != config.training.train_steps:
        return False
    print(f"{folder} is finished at step {steps}: nothing to do", flush=True)
    return True


def write_run_files(folder: Path, config: Any, *, dataset_fingerprint: str) -> None:
    """Write config.json, complete, and run.json: the machine and the data."""
    machine = {"format_version": FORMAT_VERSION, "dataset_fingerprint": dataset_fingerprint, **describe_machine(config)}
    write_text(folder / "run.json", to_json(machine))
    write_text(folder / "config.json", to_json(config.to_dict()))


def mark_finished(folder: Path, config: Any) -> None:
    """Record, after everything else was written, up to which step the run is complete."""
    write_text(folder / _FINISHED, to_json({"train_steps": config.training.train_steps}))


def _check_same(stored: Sections, wanted: Sections, folder: Path) -> None:
    before, now = stored.to_dict(), wanted.to_dict()
    for section, values in now.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            old = before[section][name]
            if old != value and not (name == "train_steps" and value > old):
                raise RLTransformerError(
                    f"{section}.{name} is {value!r}, and the run was started with {old!r}",
                    where=folder,
                    fix="resume with the same options (only a larger --train-steps may differ), "
                    "or train into another folder",
                )

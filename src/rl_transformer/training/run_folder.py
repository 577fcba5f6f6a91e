"""The run folder: what it may hold before a run, and what is written about the run."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import check_format, read_json, to_json, write_text
from rl_transformer.runtime.machine import describe_machine
from rl_transformer.runtime.types import JsonMapping, JsonObject

FORMAT_VERSION = 2  # 2: options renamed, see config.migrations
POLICY_MANIFEST = "policy/manifest.json"
_FINISHED = "finished.json"


class TrainedConfig(Protocol):
    """A configuration of something that is trained into a run folder."""

    training: TrainingConfig

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        ...

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object = "config.json") -> Self:
        """Read what `to_dict` returned."""
        ...

    def check_values(self) -> None:
        """Refuse values of the wrong type or out of bounds."""
        ...


def prepare_run_folder(folder: Path, config: TrainedConfig, *, resume: bool, product: str = POLICY_MANIFEST) -> bool:
    """Check that a run may be made in ``folder``; return True if it is finished and there is nothing to do.

    Args:
        folder: The run folder.
        config: The run's configuration.
        resume: The folder may hold a run of the same configuration.
        product: The file that a finished run has.

    Raises:
        RLTransformerError: A folder with other content, or with a run of other options.
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
    fix = "name the folder of a run, or another folder to start a new one in"
    check_format(read_json(folder / "run.json", fix=fix), FORMAT_VERSION, where=folder / "run.json")
    # Read through the configuration's class, so that renamed options are translated and newer ones have the
    # defaults that change nothing.
    stored = type(config).from_dict(read_json(folder / "config.json", fix=fix), where=folder / "config.json")
    stored.check_values()
    _check_same_options(stored, config, folder)
    if not (folder / _FINISHED).exists() or not (folder / product).exists():
        return False
    steps = read_json(folder / _FINISHED, fix="remove this file and resume").get("train_steps")
    return steps == config.training.train_steps


def write_run_files(folder: Path, config: TrainedConfig, *, data: str, dataset_fingerprint: str) -> None:
    """Write config.json, complete, and run.json: the machine and the data.

    Args:
        folder: The run folder.
        config: The run's configuration.
        data: Where the data is, as the user named it.
        dataset_fingerprint: What identifies its content.
    """
    machine = {
        "format_version": FORMAT_VERSION,
        "data": data,
        "dataset_fingerprint": dataset_fingerprint,
        **describe_machine(config.training.device, config.training.threads),
    }
    write_text(folder / "run.json", to_json(machine))
    write_text(folder / "config.json", to_json(config.to_dict()))


def mark_finished(folder: Path, config: TrainedConfig) -> None:
    """Record, after everything else was written, up to which step the run is complete."""
    write_text(folder / _FINISHED, to_json({"train_steps": config.training.train_steps}))


def _check_same_options(stored: TrainedConfig, current: TrainedConfig, folder: Path) -> None:
    before = stored.to_dict()
    for section, values in current.to_dict().items():
        for name, value in values.items() if isinstance(values, dict) else ():
            old = before[section][name]
            if old != value and not (name == "train_steps" and value > old):
                raise RLTransformerError(
                    f"{section}.{name} is {value!r}, and the run was started with {old!r}",
                    where=folder,
                    fix="resume with the same options (only a larger --train-steps may differ), "
                    "or train into another folder",
                )

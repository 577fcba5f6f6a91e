"""Check a run folder before a run, and write the files that describe the run."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import check_format, read_json, to_json, write_text
from rl_transformer.runtime.machine import describe_machine
from rl_transformer.runtime.types import JsonMapping, JsonObject

FORMAT_VERSION = 2  # format 2 renamed options; config.migrations translates format 1
POLICY_MANIFEST = "policy/manifest.json"
_FINISHED = "finished.json"


class TrainedConfig(Protocol):
    """Describes the methods that a configuration needs to be trained into a run folder."""

    training: TrainingConfig

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        ...

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object = "config.json") -> Self:
        """Return the configuration that `to_dict` was called on."""
        ...

    def check_values(self) -> None:
        """Raise an `RLTransformerError` for a value of the wrong type or out of bounds."""
        ...


def prepare_run_folder(folder: Path, config: TrainedConfig, *, resume: bool, product: str = POLICY_MANIFEST) -> bool:
    """Check that a run may use ``folder``; return True if the run in it is finished and there is nothing to do.

    Args:
        folder: The run folder.
        config: The run's configuration.
        resume: Allow a folder that holds a run of the same configuration.
        product: A file that every finished run has, relative to the folder.

    Raises:
        RLTransformerError: The folder has other content, or holds a run with other options.
    """
    # Without --resume a folder with content is never used: an overwritten run cannot be recovered.
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not resume)):
        raise RLTransformerError(
            "exists already and is not empty",
            where=folder,
            fix="name another folder, or pass --resume to continue the run in it",
        )
    if not (folder / "config.json").exists():
        # config.json is written before the first checkpoint, so it was deleted. Without it nothing shows whether the
        # checkpoints belong to these options.
        if any((folder / "checkpoints").glob("step-*")):
            raise RLTransformerError(
                "has checkpoints but no config.json",
                where=folder,
                fix="restore config.json from a copy, or train into another folder",
            )
        return False
    fix = "name the folder of a run, or another folder to start a new one in"
    check_format(read_json(folder / "run.json", fix=fix), FORMAT_VERSION, where=folder / "run.json")
    # The file is read through the configuration's class, which translates renamed options and gives options that are
    # newer than the run their defaults, which keep the old behavior. Comparing the files would reject such runs.
    stored = type(config).from_dict(read_json(folder / "config.json", fix=fix), where=folder / "config.json")
    stored.check_values()
    _check_same_options(stored, config, folder)
    if not (folder / _FINISHED).exists() or not (folder / product).exists():
        return False
    # A finished run may be continued with more train_steps; it then counts as unfinished.
    steps = read_json(folder / _FINISHED, fix="remove this file and resume").get("train_steps")
    return steps == config.training.train_steps


def write_run_files(folder: Path, config: TrainedConfig, *, data: str, dataset_fingerprint: str) -> None:
    """Write config.json, with every option, and run.json, which describes the machine and the data.

    Args:
        folder: The run folder.
        config: The run's configuration.
        data: URI of the data, as the user wrote it.
        dataset_fingerprint: Hash of the data's content.
    """
    machine = {
        "format_version": FORMAT_VERSION,
        "data": data,
        "dataset_fingerprint": dataset_fingerprint,
        **describe_machine(config.training.device, config.training.threads),
    }
    # config.json comes second: `prepare_run_folder` takes its presence as a sign that run.json is there, too.
    write_text(folder / "run.json", to_json(machine))
    write_text(folder / "config.json", to_json(config.to_dict()))


def mark_finished(folder: Path, config: TrainedConfig) -> None:
    """Record the step at which the run is complete; call this after everything else was written."""
    write_text(folder / _FINISHED, to_json({"train_steps": config.training.train_steps}))


def _check_same_options(stored: TrainedConfig, current: TrainedConfig, folder: Path) -> None:
    """Raise an `RLTransformerError` if an option differs from the stored run's; the output folder may."""
    before = stored.to_dict()
    for section, values in current.to_dict().items():
        for name, value in values.items() if isinstance(values, dict) else ():
            old = before[section][name]
            # More updates only extend a run. Fewer could not be honored, because the checkpoint is past them already.
            if old != value and not (name == "train_steps" and value > old):
                raise RLTransformerError(
                    f"{section}.{name} is {value!r}, and the run was started with {old!r}",
                    where=folder,
                    fix="resume with the same options (only a larger --train-steps may differ), "
                    "or train into another folder",
                )

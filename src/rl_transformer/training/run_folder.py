"""Check a run folder before a run, and write the files that describe the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol, Self

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import log
from rl_transformer.runtime.files import remove_leftovers, to_json, translate_write_errors, write_text
from rl_transformer.runtime.lock import owned
from rl_transformer.runtime.machine import describe_machine
from rl_transformer.runtime.reading import check_format, read_json
from rl_transformer.runtime.types import JsonMapping, JsonObject, OptionValue
from rl_transformer.training.optimizer import learning_rate

FORMAT_VERSION = 2  # format 2 renamed options; config.migrations translates format 1
POLICY_MANIFEST = "policy/manifest.json"
_FINISHED = "finished.json"
_RUN = "run.json"
_LOCK = ".lock"
_SCHEDULE_CHANGES = "schedule_changes"
# Options that do not change what is learned, so a resumed run may have other values. That the data is the same follows
# from its fingerprint and not from its path, which may have moved.
_FREE_SECTIONS = ("evaluation",)
_FREE_OPTIONS = (
    "dataset.uri",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.tensorboard",
    "training.wandb",
    "training.threads",  # changes the last bits, which the trainer then reports
)


class TrainedConfig(Protocol):
    """Describes the members that a configuration needs to be trained into a run folder."""

    training: TrainingConfig

    @property
    def why_not_longer(self) -> str | None:
        """Reason why more updates would make another run than one of that length from the start, or None."""
        ...

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


def prepare_run_folder(
    folder: Path,
    config: TrainedConfig,
    *,
    resume: bool,
    data: str | None,
    fingerprint: Callable[[], str],
    product: str = POLICY_MANIFEST,
) -> bool:
    """Check that a run may use ``folder``; return True if the run in it is finished and there is nothing to do.

    Args:
        folder: The run folder.
        config: The run's configuration.
        resume: Allow a folder that holds a run of the same configuration.
        data: URI of the data; None: it is open already, so that comparing its content costs little.
        fingerprint: Returns the hash of the data's content. It is called only for a finished run whose data may be
            another one; an unfinished run compares the data when it loads its checkpoint.
        product: A file that every finished run has, relative to the folder.

    Raises:
        RLTransformerError: The folder has other content, or holds a run with other options or data.
    """
    if not _holds_run(folder, resume=resume):
        _remove_leftovers(folder)
        return False
    fix = "name the folder of a run, or another folder to start a new one in"
    run = read_json(folder / _RUN, fix=fix)
    check_format(run, FORMAT_VERSION, where=folder / _RUN)
    # The file is read through the configuration's class, which translates renamed options and gives options that are
    # newer than the run their defaults, which keep the old behavior. Comparing the files would reject such runs.
    stored = type(config).from_dict(read_json(folder / "config.json", fix=fix), where=folder / "config.json")
    stored.check_values()
    _check_same_options(stored, config, folder)
    _check_longer_run(stored, config, folder)
    _remove_leftovers(folder)
    if not (folder / _FINISHED).exists() or not (folder / product).exists():
        return False
    # A finished run may be continued with more train_steps; it then counts as unfinished.
    steps = read_json(folder / _FINISHED, fix="remove this file and resume").get("train_steps")
    if steps != config.training.train_steps:
        return False
    if run["data"] != data and run["dataset_fingerprint"] != fingerprint():
        raise RLTransformerError(
            f"is a finished run on other data ({run['data']})", where=folder, fix="train into another folder"
        )
    _report_options_that_come_too_late(stored, config, folder)
    log.info(f"{folder} is finished at step {config.training.train_steps}: nothing to do")
    return True


@contextmanager
def owned_run(folder: Path, *, is_main: bool = True) -> Iterator[None]:
    """Keep other processes from writing a run folder inside the block.

    Args:
        folder: The run folder, which may not exist yet.
        is_main: False in the other processes that train the same run; they write nothing.

    Raises:
        RLTransformerError: Another process trains in this folder.
    """
    if not is_main or (folder.exists() and not folder.is_dir()):  # `prepare_run_folder` refuses what is no folder
        yield
        return
    with ExitStack() as stack:
        # Inside and not beside the folder, because it may be the only place that can be written.
        stack.callback(_remove_if_empty, folder)
        with translate_write_errors(folder):
            stack.enter_context(owned(folder / _LOCK, what=folder))
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes have left that were killed while they wrote here; the caller has the lock."""
    with translate_write_errors(folder):
        remove_leftovers(folder)


def _holds_run(folder: Path, *, resume: bool) -> bool:
    """Return True if the folder holds a run; raise an error if it may not be used."""
    # Without --resume a folder with content is never used: an overwritten run cannot be recovered.
    if folder.exists() and (not folder.is_dir() or (_content(folder) and not resume)):
        raise RLTransformerError(
            "exists already and is not empty",
            where=folder,
            fix="name another folder, or pass --resume (resume=True in Python) to continue the run in it",
        )
    if (folder / "config.json").exists():
        return True
    # config.json is written before the first checkpoint, so it was deleted. Without it nothing shows whether the
    # checkpoints belong to these options.
    if any((folder / "checkpoints").glob("step-*")):
        raise RLTransformerError(
            "has checkpoints but no config.json",
            where=folder,
            fix="restore config.json from a copy, or train into another folder",
        )
    return False


def _content(folder: Path) -> list[Path]:
    """Return what is in a folder beside the lock of the process that is about to use it."""
    return [path for path in folder.iterdir() if path.name != _LOCK]


def write_run_files(folder: Path, config: TrainedConfig, *, data: str, dataset_fingerprint: str, step: int) -> None:
    """Write config.json, with every option, and run.json, which describes the machine and the data.

    Args:
        folder: The run folder.
        config: The run's configuration.
        data: URI of the data, as the user wrote it.
        dataset_fingerprint: Hash of the data's content.
        step: Updates that were already made.
    """
    machine = {
        "format_version": FORMAT_VERSION,
        "data": data,
        "dataset_fingerprint": dataset_fingerprint,
        **describe_machine(config.training.device, config.training.threads),
    }
    changes = _schedule_changes(folder, config, step)
    if changes:
        machine[_SCHEDULE_CHANGES] = changes
    # config.json comes second: `prepare_run_folder` takes its presence as a sign that run.json is there, too.
    write_text(folder / _RUN, to_json(machine))
    write_text(folder / "config.json", to_json(config.to_dict()))


def mark_finished(folder: Path, config: TrainedConfig) -> None:
    """Record the step at which the run is complete; call this after everything else was written."""
    write_text(folder / _FINISHED, to_json({"train_steps": config.training.train_steps}))


def _differences(stored: TrainedConfig, current: TrainedConfig) -> Iterator[tuple[str, OptionValue, OptionValue]]:
    """Yield (option, stored value, current value) for every option that differs; the output folder is not one."""
    before = stored.to_dict()
    for section, values in current.to_dict().items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if before[section][name] != value:
                yield f"{section}.{name}", before[section][name], value


def _is_free(option: str) -> bool:
    """Return True if a resumed run may have another value of the option."""
    return option in _FREE_OPTIONS or option.partition(".")[0] in _FREE_SECTIONS


def _check_same_options(stored: TrainedConfig, current: TrainedConfig, folder: Path) -> None:
    """Raise an `RLTransformerError` if an option that changes what is learned differs from the stored run's."""
    is_longer = current.training.train_steps > stored.training.train_steps
    for option, before, value in _differences(stored, current):
        # More updates only extend a run. Fewer could not be honored, because the checkpoint is past them already.
        if _is_free(option) or (is_longer and option in ("training.train_steps", "training.schedule_steps")):
            continue
        if option == "training.schedule_steps" and (
            current.training.schedule_length == stored.training.schedule_length
        ):
            continue  # spelled out or left to its default, the schedule is the same
        raise RLTransformerError(
            f"{option} is {value!r}, and the run was started with {before!r}",
            where=folder,
            fix="resume with the same options (a larger --train-steps, evaluation, trackers, checkpoints and the "
            "data's path may differ), or train into another folder",
        )


def _check_longer_run(stored: TrainedConfig, current: TrainedConfig, folder: Path) -> None:
    """Raise an `RLTransformerError` if more updates would not be the uninterrupted run of that length.

    The user may choose another schedule for the further updates by naming its length; the change of the learning rate
    is then printed, and recorded in run.json.
    """
    before = stored.training
    now = current.training
    if now.train_steps == before.train_steps:
        return
    if current.why_not_longer is not None:
        raise RLTransformerError(
            f"the run was started with {before.train_steps} updates and cannot be extended: {current.why_not_longer}",
            where=folder,
            fix=f"train into another folder with --train-steps {now.train_steps}",
        )
    if now.schedule == "constant" or now.schedule_length == before.schedule_length:
        return
    last = before.train_steps
    rates = f"{learning_rate(last, before):.3g} at update {last}, {learning_rate(last + 1, now):.3g} at {last + 1}"
    if now.schedule_steps is None:
        length = before.schedule_steps
        if length is not None:
            raise RLTransformerError(
                f"its learning rate falls to zero along a cosine of {length} updates, which was set when it began",
                where=folder,
                fix=f"repeat --training.schedule_steps {length}; up to update {length} it then is the uninterrupted run",
            )
        raise RLTransformerError(
            f"its learning rate falls to zero along a cosine of {before.schedule_length} updates, so "
            f"{now.train_steps} updates would not be the same run as {now.train_steps} without an interruption",
            where=folder,
            fix=f"train into another folder with --train-steps {now.train_steps}, or continue with a new schedule by "
            f"--training.schedule_steps {now.train_steps} (learning rate {rates}); set training.schedule_steps from "
            "the start of a run that you may extend",
        )
    log.info(
        f"note: the schedule now spans {now.schedule_length} updates instead of {before.schedule_length}: learning "
        f"rate {rates}; the run is not the uninterrupted one, and run.json says so"
    )


def _schedule_changes(folder: Path, config: TrainedConfig, step: int) -> list[JsonObject]:
    """Return the changes of the schedule so far, for run.json: the last update before each, and both lengths."""
    if step == 0 or not (folder / "config.json").exists():
        return []
    fix = "restore it from a copy"
    changes = list(read_json(folder / _RUN, fix=fix).get(_SCHEDULE_CHANGES, []))
    stored = type(config).from_dict(read_json(folder / "config.json", fix=fix), where=folder / "config.json")
    lengths = [options.schedule_length for options in (stored.training, config.training)]
    if config.training.schedule != "constant" and lengths[0] != lengths[1]:
        changes.append({"after_update": step, "before": lengths[0], "now": lengths[1]})
    return changes


def _report_options_that_come_too_late(stored: TrainedConfig, current: TrainedConfig, folder: Path) -> None:
    """Print the options of a finished run that differ and have no effect any more."""
    late = [option for option, _, _ in _differences(stored, current) if option != "dataset.uri"]
    if late:
        log.info(
            f"note: {folder} is finished, so {', '.join(late)} has no effect; rlt evaluate evaluates a finished policy"
        )

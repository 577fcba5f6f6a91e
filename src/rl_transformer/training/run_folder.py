"""Check a run folder before a run, and write the files that describe the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import log
from rl_transformer.runtime.files import remove_leftovers, to_json, translate_write_errors, write_text
from rl_transformer.runtime.lock import owned
from rl_transformer.runtime.machine import describe_machine
from rl_transformer.runtime.reading import check_format, read_json
from rl_transformer.runtime.types import JsonObject
from rl_transformer.training.same_run import TrainedConfig, check_longer_run, check_same_options, differences

FORMAT_VERSION = 2  # format 2 renamed options; config.migrations translates format 1
POLICY_MANIFEST = "policy/manifest.json"
_FINISHED = "finished.json"
_RUN = "run.json"
_LOCK = ".lock"
_SCHEDULE_CHANGES = "schedule_changes"


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
    check_same_options(stored, config, folder)
    check_longer_run(stored, config, folder)
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
    late = [option for option, _, _ in differences(stored, current) if option != "dataset.uri"]
    if late:
        log.info(
            f"note: {folder} is finished, so {', '.join(late)} has no effect; rlt evaluate evaluates a finished policy"
        )

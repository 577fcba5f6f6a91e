"""Compare a run with the one that it continues: the options and the data must be the same, or the difference is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import log
from rl_transformer.runtime.types import JsonMapping, JsonObject, OptionValue
from rl_transformer.training.optimizer import learning_rate

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


def differences(stored: TrainedConfig, current: TrainedConfig) -> Iterator[tuple[str, OptionValue, OptionValue]]:
    """Yield (option, stored value, current value) for every option that differs; the output folder is not one."""
    before = stored.to_dict()
    for section, values in current.to_dict().items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if before[section][name] != value:
                yield f"{section}.{name}", before[section][name], value


def fixed_options(config: TrainedConfig) -> JsonObject:
    """Return the options by section that decide what is learned, for the state of a checkpoint."""
    return {
        section: {name: value for name, value in values.items() if not _is_free(f"{section}.{name}")}
        for section, values in config.to_dict().items()
        if isinstance(values, dict)
    }


def check_same_run(
    state: JsonMapping, checkpoint: Path, data_fingerprint: str, data_content: str, config: TrainedConfig | None
) -> None:
    """Check that a checkpoint belongs to this run, and was not copied from the folder of another one.

    Args:
        state: The checkpoint's JSON state.
        checkpoint: Its folder.
        data_fingerprint: Hash of the data's content.
        data_content: Hash of the files of a store; empty: unknown.
        config: The run's configuration; None: it is not compared.

    Raises:
        RLTransformerError: It was written on other data, or with other options.
    """
    contents = {state.get("data_content", ""), data_content} - {""}
    if state["dataset_fingerprint"] != data_fingerprint or len(contents) > 1:
        raise RLTransformerError(
            "the data has changed since the checkpoint was written",
            where=checkpoint,
            fix="restore the dataset (or the text, or the policy of --init-from), or train into another folder",
        )
    if config is None or "options" not in state:  # earlier versions did not store them
        return
    other = _other_option(type(config).from_dict(state["options"], where=checkpoint / "state.json"), config)
    if other is not None:
        option, there, here = other
        raise RLTransformerError(
            f"was written by a different run: {option} was {there!r} there, and is {here!r} here",
            where=checkpoint,
            fix="remove this checkpoint and resume from the one before, or restore this run's own",
        )


def _is_free(option: str) -> bool:
    """Return True if a resumed run may have another value of the option."""
    return option in _FREE_OPTIONS or option.partition(".")[0] in _FREE_SECTIONS


def check_same_options(stored: TrainedConfig, current: TrainedConfig, folder: Path) -> None:
    """Raise an `RLTransformerError` if an option that changes what is learned differs from the stored run's."""
    other = _other_option(stored, current)
    if other is not None:
        option, before, value = other
        raise RLTransformerError(
            f"{option} is {value!r}, and the run was started with {before!r}",
            where=folder,
            fix="resume with the same options (a larger --train-steps, evaluation, trackers, checkpoints and the "
            "data's path may differ), or train into another folder",
        )


def _other_option(stored: TrainedConfig, current: TrainedConfig) -> tuple[str, OptionValue, OptionValue] | None:
    """Return (option, stored value, current value) of the first option that makes it another run; None: there is none."""
    is_longer = current.training.train_steps > stored.training.train_steps
    for option, before, value in differences(stored, current):
        # More updates only extend a run. Fewer could not be honored, because the checkpoint is past them already.
        if _is_free(option) or (is_longer and option in ("training.train_steps", "training.schedule_steps")):
            continue
        if option == "training.schedule_steps" and (
            current.training.schedule_length == stored.training.schedule_length
        ):
            continue  # spelled out or left to its default, the schedule is the same
        return option, before, value
    return None


def check_longer_run(stored: TrainedConfig, current: TrainedConfig, folder: Path) -> None:
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
                fix=f"repeat --training.schedule_steps {length}; up to update {length} it is then identical to the uninterrupted run",
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

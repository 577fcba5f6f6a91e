"""Train one run per seed; on a GPU all of them as one stacked batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rl_transformer.config import RunConfig
from rl_transformer.policy.initial_policy import with_initial_policy
from rl_transformer.run import train
from rl_transformer.runtime.machine import cpu_threads, find_device
from rl_transformer.runtime.paths import user_path
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.memory import translate_memory_errors_of
from rl_transformer.training.run_folder import owned_run, prepare_run_folder
from rl_transformer.training.stacked_seeds import fit_stacked
from rl_transformer.training_run import TrainingRun, build_policy, build_trainer
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.open import open_training_data
from rl_transformer.windows.selection import select_data


def train_seeds(
    config: RunConfig, seeds: Sequence[int], *, resume: bool = False, dataset: TrajectoryDataset | None = None
) -> list[Path]:
    """Train one policy per seed and return the run folders, which are seed-N below ``config.output``.

    On a GPU the seeds are trained as one stacked batch, and each run equals `train` with its seed up to rounding. On a
    CPU, and if `can_stack_seeds` is False, they are trained one after the other.

    Args:
        config: Options that all runs share; the seed in it is not used.
        seeds: One seed per run.
        resume: Continue the runs in the folders; finished ones are left unchanged.
        dataset: The data, if it is already open.

    Raises:
        RLTransformerError: A problem with the data, the options or a folder that the user can fix.
        Interrupted: SIGTERM or SIGINT, after all runs in progress were saved.
    """
    # All configurations are checked before the first run, so that a mistake does not surface after hours.
    config, _ = with_initial_policy(config)
    configs = []
    for seed in seeds:
        one = RunConfig.from_dict(config.to_dict())
        one.training.seed = seed
        one.output = str(user_path(config.output) / f"seed-{seed}")
        one.check()
        configs.append(one)
    data = open_training_data(config.dataset, dataset)  # opened once, and shared by all seeds
    if not can_stack_seeds(config):
        return [train(one, resume=resume, dataset=data) for one in configs]
    with ExitStack() as stack:
        for one in configs:
            stack.enter_context(owned_run(user_path(one.output)))
        # Runs that were finished by an earlier call are left out; the stack then has fewer rows.
        unfinished = [
            one
            for one in configs
            if not prepare_run_folder(
                user_path(one.output), one, resume=resume, data=None, fingerprint=lambda: data.fingerprint
            )
        ]
        if unfinished:
            _train_stacked(unfinished, data)
    return [user_path(one.output) for one in configs]


def seed_folders(output: Path) -> dict[int, Path]:
    """Return the run folders that `train_seeds` wrote below ``output``, by seed; empty if there are none."""
    found = {}
    for folder in output.glob("seed-*"):
        seed = folder.name.removeprefix("seed-")
        if folder.is_dir() and seed.isdecimal():
            found[int(seed)] = folder
    return dict(sorted(found.items()))


def can_stack_seeds(config: RunConfig) -> bool:
    """Return True if runs that differ only in their seed can be trained as one stacked batch."""
    # Stacking needs one GPU, and a loss without random numbers from the CPU. A return model would be a second training
    # with other data, and pretrained trunks run code of transformers that vmap cannot batch.
    one_device = config.training.device.startswith("cuda") and "WORLD_SIZE" not in os.environ
    return one_device and not (config.needs_return_model or config.training.entropy_weight or config.model.trunk)


def _train_stacked(configs: list[RunConfig], dataset: TrajectoryDataset) -> None:
    """Train the runs of all configurations as one stacked batch."""
    with cpu_threads(configs[0].training.threads), translate_memory_errors_of(configs[0]):
        runs = [assemble_run(config, dataset) for config in configs]
        for run in runs:
            run.start()
        fit_stacked([run.trainer for run in runs])
        for run in runs:
            run.finish()


def assemble_run(config: RunConfig, dataset: TrajectoryDataset) -> TrainingRun:
    """Return a run of a single process that is ready for its first update: stages 4 to 6 of `train`.

    Nothing is read from or written to the run folder; `TrainingRun.start` does that.
    """
    device = find_device(config.training.device)
    group = ProcessGroup()
    config, initial = with_initial_policy(config)
    data = select_data(dataset, config)
    return build_trainer(data, build_policy(data, config, device, group, initial=initial), config, device, group)

"""One run per seed; on a GPU as one stacked batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rl_transformer.config import RunConfig
from rl_transformer.run import train
from rl_transformer.runtime.machine import cpu_threads, find_device
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.run_folder import prepare_run_folder
from rl_transformer.training.stacked_seeds import fit_stacked
from rl_transformer.training_run import TrainingRun, build_policy, build_trainer, select_data
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories


def train_seeds(
    config: RunConfig, seeds: Sequence[int], *, resume: bool = False, dataset: TrajectoryDataset | None = None
) -> list[Path]:
    """Train one policy per seed, in run folders seed-N below ``config.output``; arguments as in `train`.

    On a GPU the seeds are trained as one stacked batch; each run equals `train` with its seed, to
    rounding. Otherwise, and for runs with a return model, the seeds are trained one after the other.
    """
    configs = []
    for seed in seeds:
        one = RunConfig.from_dict(config.to_dict())
        one.training.seed = seed
        one.output = str(Path(config.output) / f"seed-{seed}")
        one.check()
        configs.append(one)
    dataset = dataset or open_trajectories(config.dataset.uri)
    if not can_stack_seeds(config):
        return [train(one, resume=resume, dataset=dataset) for one in configs]
    unfinished = [one for one in configs if not prepare_run_folder(Path(one.output), one, resume=resume)]
    if unfinished:
        _train_stacked(unfinished, dataset)
    return [Path(one.output) for one in configs]


def can_stack_seeds(config: RunConfig) -> bool:
    """Return True if runs differing only in seed can be trained as one stacked batch."""
    one_device = config.training.device.startswith("cuda") and "WORLD_SIZE" not in os.environ
    return one_device and not (config.needs_return_model or config.training.entropy_weight or config.model.trunk)


def _train_stacked(configs: list[RunConfig], dataset: TrajectoryDataset) -> None:
    with cpu_threads(configs[0].training.threads):
        runs = [assemble_run(config, dataset) for config in configs]
        for run in runs:
            run.start()
        fit_stacked([run.trainer for run in runs])
        for run in runs:
            run.finish()


def assemble_run(config: RunConfig, dataset: TrajectoryDataset) -> TrainingRun:
    """Return a run of this process alone, ready for its first update: stages 4 to 6 of `train`."""
    device = find_device(config.training.device)
    group = ProcessGroup()
    data = select_data(dataset, config)
    return build_trainer(data, build_policy(data, config, device, group, None), config, device, group)

"""Train a policy from logged data: the main path of this library.

    data -> conditions -> windows -> model -> training -> policy

Read `train` from top to bottom; everything else is reached from it.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.initial_policy import with_initial_policy
from rl_transformer.runtime.machine import cpu_threads, find_device
from rl_transformer.runtime.paths import user_path
from rl_transformer.training.cuda_graph import make_updates
from rl_transformer.training.distributed import init_distributed
from rl_transformer.training.memory import translate_memory_errors_of
from rl_transformer.training.run_folder import owned_run, prepare_run_folder
from rl_transformer.training.trainer import fit
from rl_transformer.training_run import build_policy, build_trainer
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.open import open_training_data
from rl_transformer.windows.selection import select_data


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    dataset: TrajectoryDataset | None = None,
    transformer: nn.Module | None = None,
) -> Path:
    """Train a policy and return its run folder, from which `load_policy` loads the policy.

    Args:
        config: Everything that determines the run.
        resume: Continue the run in the folder, or start it if there is none. A finished run is left unchanged.
        dataset: The data, if it is already open; ``config.dataset.uri`` then is only a name for it.
        transformer: A model of the transformers library to start the trunk from, instead of ``config.model.trunk``.

    Raises:
        RLTransformerError: A problem with the data, the options or the folder that the user can fix.
        Interrupted: SIGTERM or SIGINT, after a checkpoint was saved; the same call with ``resume`` continues.
    """
    # 1. Options: wrong or contradictory ones are rejected before anything is read or written.
    config, initial = with_initial_policy(_checked_arguments(config, dataset))
    folder = user_path(config.output)

    # 2. Machine: the device, its CPU threads, and the processes that torchrun started, if any.
    device = find_device(config.training.device)
    with (
        cpu_threads(config.training.threads),
        init_distributed(device, config.training.batch_size) as group,
        owned_run(folder, is_main=group.is_main),
        translate_memory_errors_of(config),
    ):
        # 3. Run folder: new, or with a run to continue, or with a finished one.
        if prepare_run_folder(
            folder,
            config,
            resume=resume,
            data=config.dataset.uri if dataset is None else None,
            fingerprint=lambda: open_training_data(config.dataset, dataset).fingerprint,
        ):
            return folder
        group.barrier()  # no process writes to the folder before every process has checked it

        # 4. Data: columns over all timesteps, and the episodes to learn from.
        data = select_data(open_training_data(config.dataset, dataset), config)

        # 5. Policy: its sizes and units follow from data and options, its initial weights from the seed.
        built = build_policy(data, config, device, group, transformer=transformer, initial=initial)

        # 6. Trainer: windows, loss, optimizer and evaluations; the state of a checkpoint is restored if there is one.
        run = build_trainer(data, built, config, device, group)
        run.start()

        # 7. Training: first the return model, if the run has one, then the policy.
        run.fit_return_model()
        fit([run.trainer], make_updates(run.trainer))

        # 8. Policy folder: weights, statistics and units, and the report of the last evaluation.
        run.finish()
        group.barrier()  # the folder is complete when any process returns
    return folder


def _checked_arguments(config: RunConfig, dataset: TrajectoryDataset | None) -> RunConfig:
    """Return the configuration of a run, with a name for data that is already open and has none.

    Raises:
        RLTransformerError: An argument is of another type, or an option is wrong or contradicts another one.
    """
    if not isinstance(config, RunConfig):
        raise RLTransformerError(
            f"is a {type(config).__name__}, not a RunConfig", where="config", fix='begin with rlt.preset("fast")'
        )
    if dataset is not None and not isinstance(dataset, TrajectoryDataset):
        raise RLTransformerError(
            f"is a {type(dataset).__name__}, not a TrajectoryDataset",
            where="dataset",
            fix="pass TrajectoryDataset.from_episodes(episodes), or open_trajectories(URI)",
        )
    if dataset is not None and not config.dataset.uri:
        config = RunConfig.from_dict(config.to_dict())
        config.dataset.uri = dataset.location or "in memory"
    config.check()
    return config

"""Policies of the experiments: trained once, and shared by every experiment that needs the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rl_transformer.config import ConfigBase, RunConfig
from rl_transformer.evaluation.evaluate import evaluate
from rl_transformer.policy import Policy, load_policy
from rl_transformer.reproductions.code_hash import engine_hash
from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.provenance import note_policy
from rl_transformer.run import train
from rl_transformer.runtime.lock import waiting_lock
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories import TrajectoryDataset

ConfigT = TypeVar("ConfigT", bound=ConfigBase)
EVALUATION_SEED = 1_000_000
"""Seed of the first episode of every evaluation; no data is collected with these, and nothing is tuned on them."""


def with_options(base: ConfigT, options: JsonMapping) -> ConfigT:
    """Set options (section.field) on a configuration, and return it."""
    for name, value in options.items():
        base.set(name, value)
    return base


def cached_policy(config: RunConfig, setup: Setup, dataset: TrajectoryDataset) -> Policy:
    """Train a policy on one thread or a GPU, or load the one that the same code trained with the same configuration and data."""
    return load_policy(cached_run(config, setup, dataset), device=setup.device)


def cached_run(config: RunConfig, setup: Setup, dataset: TrajectoryDataset) -> Path:
    """Return the run folder of `cached_policy`."""
    config.training.threads = 1
    config.training.device = setup.device
    config.dataset.uri = config.dataset.uri or dataset.fingerprint
    config.output = ""  # where a run is written is no part of its identity
    options = options_not_at_default(config)
    identity = json.dumps([engine_hash(), dataset.fingerprint, dataset.spec.to_dict(), options], sort_keys=True)
    folder = setup.runs / hashlib.sha256(identity.encode()).hexdigest()[:16]
    config.output = str(folder)
    with waiting_lock(folder.with_suffix(".lock")):
        run = train(config, resume=True, dataset=dataset)
    note_policy(run)
    return run


def options_not_at_default(config: RunConfig) -> JsonObject:
    """Return what a configuration sets, by section.field: options that come to exist later do not change it."""
    values = config.to_dict()
    defaults = RunConfig().to_dict()
    return {
        f"{section}.{name}": value
        for section, options in values.items()
        if isinstance(options, dict)
        for name, value in options.items()
        if value != defaults[section][name]
    }


def cached_dataset(setup: Setup, name: str, make: Callable[[Path], TrajectoryDataset]) -> Path:
    """Make a data set in the shared folder, unless it is there, and return its folder."""
    folder = setup.runs / "data" / name
    with waiting_lock(folder.with_suffix(".lock")):
        if not (folder / "manifest.json").exists():
            make(folder)
    return folder


def returns_at(
    policy: Policy, env_id: str, targets: Sequence[float], num_episodes: int, seed: int = EVALUATION_SEED
) -> list[list[float]]:
    """Return the episodes' returns for each target; one list for a policy that takes none."""
    target_returns = list(targets) if policy.spec.takes_target else []
    report = evaluate(policy, env_id=env_id, target_returns=target_returns, num_episodes=num_episodes, seed=seed)
    return [target.episode_returns for target in report.targets]

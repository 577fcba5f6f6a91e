"""The parts of a training run, put together: what `run.train` calls stage by stage."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rl_transformer.conditions import ReturnToGo
from rl_transformer.conditions.interface import checked_column
from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.in_training import PolicyEvaluator
from rl_transformer.language.co_training import LanguageLoss
from rl_transformer.language.initialization import TrunkInitialization
from rl_transformer.models import build_model
from rl_transformer.policy import Policy
from rl_transformer.policy.gatherer import condition_column, make_gatherer
from rl_transformer.policy.make_spec import make_policy_spec, with_suggested_targets
from rl_transformer.runtime import log
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.lora import apply_trunk_mode, merge_lora
from rl_transformer.training.losses import HeldOutError
from rl_transformer.training.metrics import Metrics, last_and_best, make_trackers
from rl_transformer.training.optimizer import describe_parameter_groups
from rl_transformer.training.return_model import fit_return_model, predicted_returns
from rl_transformer.training.run_folder import mark_finished, write_run_files
from rl_transformer.training.trainer import Evaluation, Trainer
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.gathering import ConditionColumn, WindowSource
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.sampling import WindowSampler
from rl_transformer.windows.selection import EpisodeSplit, split_episodes


@dataclass(frozen=True)
class SelectedData:
    """The data of a run."""

    dataset: TrajectoryDataset
    returns: ReturnToGo
    """What a return is in this run."""
    episode_returns: np.ndarray
    """(E,) each episode's return."""
    split: EpisodeSplit


@dataclass(frozen=True)
class BuiltPolicy:
    """A policy with its initial weights."""

    policy: Policy
    language_loss: LanguageLoss | None
    """What is minimized instead of the loss of the actions, if language is kept beside the policy."""
    has_pretrained_trunk: bool


def select_data(dataset: TrajectoryDataset, config: RunConfig) -> SelectedData:
    """Define the return and choose the episodes to learn from."""
    returns = ReturnToGo.from_data(dataset, config)
    episode_returns = returns.totals(dataset)
    return SelectedData(dataset, returns, episode_returns, split_episodes(dataset, episode_returns, config))


def build_policy(
    data: SelectedData, config: RunConfig, device: torch.device, group: ProcessGroup, transformer: nn.Module | None
) -> BuiltPolicy:
    """Build the policy's networks with their initial weights, on the device."""
    trunk = TrunkInitialization.from_config(config, transformer)
    spec = make_policy_spec(data.dataset, data.returns, data.split, config, trunk.model_fields)
    torch.manual_seed(config.training.seed)
    model = build_model(spec.arch, spec.model, spec.context_length)
    language_loss = trunk.apply(model, device, group)
    apply_trunk_mode(model, config.training.trunk, config.training.lora_rank)
    if config.training.trunk == "lora" and not any(
        p.requires_grad for p in model.get_submodule("encoder").parameters()
    ):
        raise RLTransformerError(
            f"the trunk {spec.model.blocks!r} has no attention that LoRA could update",
            where="training.trunk",
            fix="use full or frozen",
        )
    return_model = spec.build_return_model()
    normalizer = Normalizer.from_data(spec.data, data.dataset.statistics, action_tanh=spec.model.action_tanh)
    policy = Policy(
        spec,
        model.to(device),
        normalizer.to(device),
        None if return_model is None else return_model.to(device),
    )
    if language_loss is not None:
        language_loss.to(device)
    return BuiltPolicy(policy, language_loss, trunk.source is not None or trunk.module is not None)


def build_trainer(
    data: SelectedData, built: BuiltPolicy, config: RunConfig, device: torch.device, group: ProcessGroup
) -> TrainingRun:
    """Put windows, loss, optimizer and evaluations together; nothing is written, and no update is made."""
    policy = built.policy
    gatherer = make_gatherer(policy.spec, policy.normalizer, data.dataset, config.window_length, device)
    sampler = WindowSampler(
        data.dataset.offsets,
        data.split.train,
        seed=config.training.seed,
        start=config.windows.start,
        return_balance=config.windows.return_balance,
        episode_returns=data.episode_returns,
    )
    windows = WindowSource(sampler, gatherer, config.training.batch_size)
    folder = Path(config.output)
    evaluations: list[Evaluation] = []
    if len(data.split.held_out):
        held_out = WindowSampler(
            data.dataset.offsets, data.split.held_out, seed=config.training.seed, start=config.windows.start
        )
        evaluations.append(HeldOutError(policy.model, held_out, gatherer, config.training.batch_size))
    evaluator = PolicyEvaluator(policy, config.evaluation) if config.evaluation.env_id and group.is_main else None
    if evaluator is not None:
        evaluations.append(evaluator)
    language_loss = built.language_loss
    trainer = Trainer(
        model=policy.model,
        batches=windows,
        config=config.training,
        folder=folder,
        metrics=Metrics(folder, make_trackers(folder, config.training, config.to_dict())),
        evaluations=evaluations,
        evaluate_every=config.evaluation.every,
        data_fingerprint=_data_fingerprint(data.dataset, policy)
        + ("" if language_loss is None else language_loss.data_fingerprint),
        loss=language_loss,
        eager_only=language_loss is not None or policy.spec.model.trunk is not None,
        group=group,
    )
    return TrainingRun(config, data, built, windows, trainer, evaluator)


def _data_fingerprint(dataset: TrajectoryDataset, policy: Policy) -> str:
    """Return what identifies the data of a run: observations, actions and rewards, and what else is conditioned on."""
    further = [condition for condition in policy.spec.conditions if condition.name != "return_to_go"]
    columns = (checked_column(condition, dataset) for condition in further)
    return dataset.fingerprint + "".join(hashlib.sha256(column.tobytes()).hexdigest() for column in columns)


@dataclass
class TrainingRun:
    """One run from its first update to its policy folder."""

    config: RunConfig
    data: SelectedData
    built: BuiltPolicy
    windows: WindowSource
    trainer: Trainer
    evaluator: PolicyEvaluator | None

    @property
    def policy(self) -> Policy:
        """The policy that is trained."""
        return self.built.policy

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.trainer.folder

    def start(self) -> None:
        """Continue from the newest checkpoint, if there is one, and write what the run is."""
        self.trainer.resume()
        if not self.trainer.group.is_main:
            return
        dataset = self.data.dataset
        write_run_files(self.folder, self.config, data=self.config.dataset.uri, dataset_fingerprint=dataset.fingerprint)
        evaluation = self.config.evaluation
        warning = self.policy.target_warning(evaluation.target_returns, evaluation.targets)
        if warning:
            log.info(warning)
        if self.built.has_pretrained_trunk:
            log.info("\n".join(describe_parameter_groups(self.trainer.optimizer, self.config.training)))

    def fit_return_model(self) -> None:
        """Train the return model, if the run has one, and label the data with expected returns if asked to."""
        policy = self.policy
        dataset = self.data.dataset
        if policy.return_model is None:
            return
        fit_return_model(
            policy.return_model,
            self.config.training,
            self.windows,
            dataset,
            self.data.returns,
            self.folder / "return_model",
            self.trainer.group,
        )
        if self.config.returns.label != "expected":
            return
        scale = self.data.returns.scale
        expected = predicted_returns(policy.return_model, self.windows.gatherer, dataset.offsets) * scale
        labels = ConditionColumn(expected.astype(np.float32), scale)
        columns = [
            labels if condition.name == "return_to_go" else condition_column(condition, dataset)
            for condition in policy.spec.conditions
        ]
        gatherer = self.windows.gatherer.with_conditions(columns)
        self.windows = WindowSource(self.windows.sampler, gatherer, self.windows.batch_size)
        self.trainer.batches = self.windows
        first_steps = dataset.offsets[np.sort(self.windows.sampler.trajectories)]
        policy.spec = with_suggested_targets(policy.spec, self.config, expected[first_steps])

    def finish(self) -> None:
        """Write the policy folder and the report, and mark the run as finished."""
        if not self.trainer.group.is_main:
            return
        with self.trainer.policy_weights():
            merge_lora(self.policy.model)
            self.policy.save(self.folder / "policy")
            if self.evaluator is not None:
                self.trainer.metrics.flush()
                report = self.evaluator.report or self.evaluator.run()  # none if resumed after the last evaluation
                content = {**report.to_dict(), "while_training": last_and_best(self.folder)}
                write_text(self.folder / "report.json", to_json(content))
        mark_finished(self.folder, self.config)

"""Assemble the parts of a training run, stage by stage, for `run.train`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rl_transformer.config import RunConfig
from rl_transformer.evaluation.in_training import PolicyEvaluator
from rl_transformer.language.co_training import LanguageLoss
from rl_transformer.language.initialization import TrunkInitialization
from rl_transformer.models import build_model
from rl_transformer.models.return_model import ReturnModel
from rl_transformer.policy import Policy
from rl_transformer.policy.advice import TargetAdvice
from rl_transformer.policy.gatherer import condition_column, data_fingerprint, make_gatherer
from rl_transformer.policy.initial_policy import choose_statistics, copy_initial_weights
from rl_transformer.policy.make_spec import make_policy_spec, with_suggested_targets
from rl_transformer.policy.support import Support
from rl_transformer.runtime import log
from rl_transformer.runtime.free_space import check_disk_space
from rl_transformer.runtime.paths import user_path
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.lora import apply_trunk_mode, merge_lora
from rl_transformer.training.losses import HeldOutLoss
from rl_transformer.training.memorization import memorization_note, repetition_note
from rl_transformer.training.metrics import Metrics, last_and_best, make_trackers
from rl_transformer.training.optimizer import describe_parameter_groups, learning_rate
from rl_transformer.training.return_model import cross_fitted_returns, fit_return_model
from rl_transformer.training.run_folder import mark_finished, write_run_files
from rl_transformer.training.trainer import Evaluation, Trainer
from rl_transformer.trajectories.open import watch_training_data
from rl_transformer.windows.gathering import ConditionColumn, WindowSource
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.sampling import WindowSampler
from rl_transformer.windows.selection import SelectedData


@dataclass(frozen=True)
class BuiltPolicy:
    """Holds a policy with its initial weights, and the loss that its options select."""

    policy: Policy
    language_loss: LanguageLoss | None
    """Loss with language objectives; None: the loss of the actions alone."""
    has_pretrained_trunk: bool
    initial_policy_hash: str = ""
    """Content hash of the policy that the weights come from; empty if they are random."""


def build_policy(
    data: SelectedData,
    config: RunConfig,
    device: torch.device,
    group: ProcessGroup,
    *,
    transformer: nn.Module | None = None,
    initial: Policy | None = None,
) -> BuiltPolicy:
    """Build the policy's networks with their initial weights, on the device.

    Args:
        data: The run's data, from which sizes and units follow.
        config: The run's options.
        device: Device to train on.
        group: The processes that train together.
        transformer: A module to start the trunk from; None: ``model.trunk`` or random weights.
        initial: The policy of ``model.init_from``, whose weights replace the random ones where they fit.

    Raises:
        RLTransformerError: The transformer is missing or does not suit the options.
    """
    trunk = TrunkInitialization.from_config(config, transformer)
    spec = make_policy_spec(data.dataset, data.returns, data.split, config, trunk.model_fields)
    # Seeded directly before the model: initial weights then depend on the seed alone, not on random numbers that
    # loading data or a transformer may have used.
    torch.manual_seed(config.training.seed)
    model = build_model(spec.arch, spec.model, spec.context_length)
    language_loss = trunk.apply(model, device, group)
    if initial is not None:
        copy_initial_weights(model, spec, initial)
    # Pretrained weights are loaded first, because low-rank updates rename the weights that they wrap.
    apply_trunk_mode(model, config.training.trunk, config.training.lora_rank)
    return_model = spec.build_return_model()
    own_statistics = Normalizer.from_data(spec.data, data.dataset.statistics, action_tanh=spec.model.action_tanh)
    normalizer = choose_statistics(own_statistics, spec, initial, config)
    policy = Policy(
        spec,
        model.to(device),
        normalizer.to(device),
        None if return_model is None else return_model.to(device),
        Support.from_data(data.dataset, data.split, normalizer, config.policy.support_size),
    )
    if spec.takes_target:
        policy.spec = replace(spec, advice=make_advice(policy, data, config))
    if language_loss is not None:
        language_loss.to(device)
    origin = "" if initial is None else initial.content_hash
    return BuiltPolicy(policy, language_loss, trunk.source is not None or trunk.module is not None, origin)


def make_advice(
    policy: Policy, data: SelectedData, config: RunConfig, expected: np.ndarray | None = None
) -> TargetAdvice:
    """Return the advice on targets that the training episodes give; ``expected``: see `TargetAdvice.from_data`."""
    chosen = config.policy.suggested_targets
    fixed = None if chosen is None else float(max(chosen))
    episodes = np.sort(data.split.train)
    return TargetAdvice.from_data(
        data.dataset, data.returns, episodes, policy.normalizer, expected=expected, fixed=fixed
    )


def build_trainer(
    data: SelectedData, built: BuiltPolicy, config: RunConfig, device: torch.device, group: ProcessGroup
) -> TrainingRun:
    """Assemble windows, loss, optimizer and evaluations; no checkpoint is read, and no update is made.

    Raises:
        RLTransformerError: An environment or target of the evaluation is wrong, or an experiment tracker is missing.
    """
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
    windows = WindowSource(sampler, gatherer, config.training.batch_size, config.training.image_shift)
    folder = user_path(config.output)
    evaluations: list[Evaluation] = []
    # Held-out windows come from the same gatherer, so they have the same normalization and conditions.
    if len(data.split.held_out):
        held_out = WindowSampler(
            data.dataset.offsets, data.split.held_out, seed=config.training.seed, start=config.windows.start
        )
        evaluations.append(HeldOutLoss(policy.model, held_out, gatherer, config.training.batch_size))
    # Only the main process evaluates; environments in the others would do the same work again.
    evaluator = PolicyEvaluator(policy, config.evaluation) if config.evaluation.env_id and group.is_main else None
    if evaluator is not None:
        evaluations.append(evaluator)
    language_loss = built.language_loss
    trainer = Trainer(
        model=policy.model,
        batches=windows,
        config=config.training,
        options=config,
        folder=folder,
        metrics=Metrics(folder, make_trackers(folder, config.training, config.to_dict())),
        evaluations=evaluations,
        evaluate_every=config.evaluate_every,
        stop_if_evaluation_fails=config.evaluation.on_error == "stop",
        data_fingerprint=data_fingerprint(policy.spec, data.dataset)
        + ("" if language_loss is None else language_loss.data_fingerprint)
        + built.initial_policy_hash,
        data_content=data.dataset.summary.content,
        check_data=watch_training_data(data.dataset),
        loss=language_loss,
        # Text batches are drawn on the CPU by step, and transformers' models may decide on the CPU what they compute.
        eager_only=language_loss is not None or policy.spec.model.trunk is not None,
        group=group,
    )
    return TrainingRun(config, data, built, windows, trainer, evaluator)


@dataclass
class TrainingRun:
    """Runs the stages of one run, from its first update to its policy folder."""

    config: RunConfig
    data: SelectedData
    built: BuiltPolicy
    windows: WindowSource
    trainer: Trainer
    evaluator: PolicyEvaluator | None

    @property
    def policy(self) -> Policy:
        """Policy that is trained."""
        return self.built.policy

    @property
    def folder(self) -> Path:
        """Run folder."""
        return self.trainer.folder

    def start(self) -> None:
        """Continue from the newest checkpoint, if there is one, and write config.json and run.json.

        Raises:
            RLTransformerError: The data has changed since the checkpoint was written, or a part of the model was replaced
                by one that the policy folder could not name.
        """
        # Before training rather than when the policy is loaded, hours later.
        options = self.config.training
        self.policy.check_rebuildable(partial(apply_trunk_mode, trunk=options.trunk, rank=options.lora_rank))
        # The files are written after a successful resume, so that a failed one leaves the folder as it is.
        self.trainer.resume()
        if not self.trainer.group.is_main:
            return
        # Of all that is kept, and of the checkpoint that is written before an old one goes.
        check_disk_space(self.folder, self.trainer.bytes_to_write(), what="the checkpoints and the policy of this run")
        write_run_files(
            self.folder,
            self.config,
            data=self.config.dataset.uri,
            dataset_fingerprint=self.data.dataset.fingerprint,
            step=self.trainer.step,
        )
        log.info(self.data.summary())
        evaluation = self.config.evaluation
        if warning := self.policy.target_warning(evaluation.target_returns, evaluation.targets):
            log.info(warning)
        training = self.config.training
        if training.warmup_steps >= training.train_steps:
            reached = learning_rate(training.train_steps, training)
            log.info(
                f"note: the warm-up of {training.warmup_steps} updates is as long as the run or longer: the learning "
                f"rate ends at {reached:g} instead of {training.learning_rate:g}"
            )
        if note := repetition_note(self.config, self.data.dataset.lengths[self.data.split.train]):
            log.info(note)
        # Which parameters are trained, and how fast, is the first question about a pretrained trunk.
        if self.built.has_pretrained_trunk:
            log.info("\n".join(describe_parameter_groups(self.trainer.optimizer, self.config.training)))

    def fit_return_model(self) -> None:
        """Train the return model, if the run has one; with ``returns.label`` expected, relabel the data."""
        policy = self.policy
        dataset = self.data.dataset
        if policy.return_model is None:
            return
        folder = self.folder / "return_model"
        untrained = copy.deepcopy(policy.return_model)

        def fit_model(model: ReturnModel, windows: WindowSource, folder: Path) -> ReturnModel:
            group = self.trainer.group
            fit_return_model(model, self.config.training, windows, dataset, self.data.returns, folder, group)
            return model

        fit_model(policy.return_model, self.windows, folder)
        if self.config.returns.label != "expected":
            return
        # Predictions are in the model's units; labels are stored in the data's, with their scale, like any condition.
        scale = self.data.returns.scale
        expected = scale * cross_fitted_returns(
            policy.return_model,
            self.windows,
            dataset.offsets,
            self.config.returns.folds,
            lambda fold, windows: fit_model(copy.deepcopy(untrained), windows, folder / f"fold-{fold}"),
        )
        labels = ConditionColumn(expected.astype(np.float32), scale)
        columns = [
            labels if condition.name == "return_to_go" else condition_column(condition, dataset)
            for condition in policy.spec.conditions
        ]
        gatherer = self.windows.gatherer.with_conditions(columns)
        self.windows = replace(self.windows, gatherer=gatherer)
        self.trainer.batches = self.windows
        # Expected returns vary less than realized ones, and suggested targets must come from what was trained on.
        episodes = np.sort(self.windows.sampler.trajectories)
        values = self.data.returns.select_comparable(expected, dataset.offsets, episodes)
        policy.spec = with_suggested_targets(policy.spec, self.config, values)
        if policy.spec.takes_target:
            policy.spec = replace(policy.spec, advice=make_advice(policy, self.data, self.config, values))

    def finish(self) -> None:
        """Write the policy folder and the report, and mark the run as finished."""
        if not self.trainer.group.is_main:
            return
        if note := memorization_note(self.folder):
            log.info(note)
        with self.trainer.policy_weights():
            # The trainer's model changes as well, which does no harm: its run is over.
            merge_lora(self.policy.model)
            self.policy.save(self.folder / "policy")
            if self.evaluator is not None:
                stop = self.trainer.stop_if_evaluation_fails
                self.evaluator.write_report(self.folder, last_and_best, stop_if_it_fails=stop)
        # Last, so that a process killed before this point finishes the run again when it is resumed.
        mark_finished(self.folder, self.config)

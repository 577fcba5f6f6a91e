"""Hold the state of a training run, and run the training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import log
from rl_transformer.runtime.machine import CoreMonitor
from rl_transformer.runtime.signals import Interrupted, StopSignals
from rl_transformer.runtime.system import keep_freed_memory
from rl_transformer.runtime.types import JsonObject
from rl_transformer.training.checkpoint import (
    checkpoint_bytes,
    load_checkpoint,
    newest_verified,
    numeric_environment,
    prune_checkpoints,
    read_state,
    report_changed_environment,
    save_checkpoint,
)
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.ema import EMA
from rl_transformer.training.losses import ActionLoss, Loss, TrainingObjective
from rl_transformer.training.metrics import Metrics, Progress
from rl_transformer.training.optimizer import learning_rate, make_optimizer, trained_parameters
from rl_transformer.training.same_run import TrainedConfig, check_same_run, fixed_options
from rl_transformer.training.updates import UpdateResult, Updates
from rl_transformer.windows.batch import BatchSource

Evaluation = Callable[[int, Callable[[], None]], Mapping[str, float]]
"""A function of (step, check) that returns values for metrics.jsonl.

It calls ``check`` regularly, so that a stop signal does not have to wait for the end of the evaluation.
"""


def fit(trainers: Sequence[Trainer], updates: Updates) -> None:
    """Train runs up to ``train_steps``; call `Trainer.resume` first to continue from a checkpoint.

    Args:
        trainers: One run, or several that differ only in their seed and are at the same step.
        updates: The strategy that makes their updates.

    Raises:
        Interrupted: SIGTERM or SIGINT, after a checkpoint was saved.
        RLTransformerError: A loss or gradient is not finite; that update is not made.
    """
    lead = trainers[0]
    keep_freed_memory()
    for trainer in trainers:
        trainer.model.train()
    with lead.signals as signals:
        progress = Progress(lead.config.train_steps, lead.step, shown=lead.group.is_main)
        # On a GPU the CPU's thread waits by design.
        cores = CoreMonitor(torch.get_num_threads() if lead.batches.device.type == "cpu" else 1)
        try:
            for trainer in trainers:
                # A signal during an evaluation leaves a checkpoint of its step without the evaluation's row, so the
                # resumed run makes the evaluation first.
                trainer.evaluate_if_due(signals, progress)
            while lead.step < lead.config.train_steps:
                first = lead.step + 1
                # A block ends where the next checkpoint or evaluation is due, so blocks do not shift them.
                results = updates.run(first, lead.steps_until_due(updates.max_steps))
                for step, of_each in enumerate(results, start=first):
                    for trainer, result in zip(trainers, of_each, strict=True):
                        trainer.record(step, result)
                progress.update(lead.step, results[-1][-1].loss)
                if (note := cores.note()) is not None and lead.group.is_main:
                    progress.write(note)
                for trainer in trainers:
                    trainer.evaluate_if_due(signals, progress)
                # Signals only set a flag, which is read here, between two updates: the checkpoint is of a whole update.
                if signals.received or lead.step % lead.config.checkpoint_every == 0:
                    for trainer in trainers:
                        trainer.save_if_new()
                    signals.check()
        finally:
            progress.close()
    for trainer in trainers:
        trainer.save_if_new()
        trainer.metrics.flush()  # with the row of the last evaluation, which comes after the last checkpoint


@dataclass
class Trainer:
    """Holds everything that a run's next update depends on, and writes its checkpoints and metrics."""

    model: nn.Module
    batches: BatchSource[Any, Any]
    config: TrainingConfig
    folder: Path
    metrics: Metrics
    evaluations: Sequence[Evaluation] = ()
    """Evaluations made every ``evaluate_every`` updates and at the end, with the policy's weights in the model."""
    evaluate_every: int = 10_000
    stop_if_evaluation_fails: bool = False
    """End the run if an evaluation raises an exception; otherwise it is reported, and training goes on."""
    data_fingerprint: str = ""
    """Hash of the data's content; a run resumes only on the same data."""
    data_content: str = ""
    """Hash of the files of a store; compared where a checkpoint has one, too."""
    options: TrainedConfig | None = None
    """All options of the run, which its checkpoints must share; None: the run of another trainer checks them."""
    check_data: Callable[[], None] = lambda: None
    """Raises an error if the data was changed in place; called before every checkpoint."""
    loss: Loss | None = None
    """The loss to minimize; None: the loss of the logged actions."""
    eager_only: bool = False
    """True if model or loss need the step's number on the CPU, which a captured CUDA graph does not have."""
    group: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that train together; the main one writes and evaluates."""

    def __post_init__(self) -> None:
        loss = ActionLoss(self.config, self.group) if self.loss is None else self.loss
        self.objective = TrainingObjective(self.model, loss)
        self.optimizer: torch.optim.Optimizer = make_optimizer(self.objective, self.config)
        trained = trained_parameters(self.objective)
        # Parameters that are not optimized must not require gradients: DistributedDataParallel expects a gradient from
        # every parameter that does, and the backward pass would compute gradients that nobody uses.
        for parameter in self.objective.parameters():
            parameter.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        self.parameters = list(trained.values())
        self.wrapped_objective = self.group.wrap_ddp(self.objective)
        self.ema: EMA | None = EMA(self.objective, self.config.ema_decay) if self.config.ema_decay else None
        self.step = 0
        self.signals = StopSignals()
        self._evaluated = 0
        self._saved = 0
        self._clock = time.monotonic()

    @property
    def checkpoints(self) -> Path:
        """Folder of the resumable checkpoints."""
        return self.folder / "checkpoints"

    def backward(self, step: int | None, batch: object, num_valid: float | None) -> tuple[Tensor, Tensor]:
        """Compute the clipped gradients of a batch; return the loss and the gradient norm before clipping.

        Args:
            step: Number of the update, from 1; None inside a captured CUDA graph.
            batch: This process's shard of the global batch.
            num_valid: Divisor of the summed loss; None: the shard's number of valid steps.
        """
        device = self.batches.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            loss = self.wrapped_objective(step, batch, num_valid)
        self.optimizer.zero_grad()
        loss.backward()
        # Without clipping the norm is still computed, because metrics.jsonl records it.
        limit = float("inf") if self.config.max_gradient_norm is None else self.config.max_gradient_norm
        return loss.detach(), torch.nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True)

    def record(self, step: int, result: UpdateResult) -> None:
        """Advance to ``step`` and record the values of its update.

        Raises:
            RLTransformerError: The loss or gradient is not finite, so the update was not made.
        """
        values = result._asdict()
        if not result.is_finite:
            self._raise_not_finite(step, values)
        self.step = step
        if self.group.is_main:
            self.metrics.add(step, {**values, "learning_rate": learning_rate(step, self.config)})

    def _raise_not_finite(self, step: int, values: dict[str, float]) -> None:
        self.metrics.flush()  # the rows before the failure show how it came about
        self.check_data()
        name = next(name for name, value in values.items() if not abs(value) < float("inf"))
        # Batches are a function of (seed, step), so drawing again names the episodes of the one that failed.
        origin = self.batches.describe(self.group.shard(self.batches.draw(step)))
        raise RLTransformerError(
            f"{name} is {values[name]}; no update was made; the batch came from {origin}",
            where=f"update {step}",
            fix="check this data with rlt inspect, lower training.learning_rate, or use training.precision float32",
        )

    def steps_until_due(self, most: int) -> int:
        """Return the number of updates, at most ``most``, until an evaluation, a checkpoint or the end is due."""
        left = [every - self.step % every for every in (self.config.checkpoint_every, self.evaluate_every)]
        return min(most, self.config.train_steps - self.step, *left)

    def resume(self) -> None:
        """Continue from the newest verified checkpoint, if there is one.

        Raises:
            RLTransformerError: The data has changed since the checkpoint was written, or another run wrote it.
        """
        path = newest_verified(self.checkpoints, report=self.group.is_main)
        # Without the barrier the main process could write a checkpoint that a slower process then resumes from.
        self.group.barrier()
        if path is None:
            # A run may have been killed after its first rows and before its first checkpoint. Its rows would otherwise
            # appear twice.
            if self.group.is_main and self.metrics.truncate_after(0):
                log.info("no usable checkpoint: starting again from step 0")
            return
        stored = read_state(path)
        check_same_run(stored, path, self.data_fingerprint, self.data_content, self.options)
        state = load_checkpoint(path, self.objective, self.optimizer, self.ema)
        self.step = int(state["step"])
        self._saved = self.step
        self._evaluated = int(state["evaluated"])
        self.group.barrier()  # every process has read the checkpoint before the main one may delete it
        if self.group.is_main:
            self.metrics.truncate_after(self.step, evaluated=self._evaluated == self.step)
            log.info(f"resumed from step {self.step} ({path.name})")
            report_changed_environment(state, self._environment())

    def save_if_new(self) -> None:
        """Write a checkpoint, unless the newest one is of this step."""
        if self.step != self._saved:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of the current step, and the metrics up to it."""
        self.check_data()
        if self.group.is_main:
            # Metrics first: rows newer than the checkpoint are dropped on resume, missing ones would be a gap.
            self.metrics.flush()
            self.metrics.time(self.step, time.monotonic() - self._clock)
            self._clock = time.monotonic()
            state = {
                "dataset_fingerprint": self.data_fingerprint,
                "data_content": self.data_content,
                "evaluated": self._evaluated,
                "options": {} if self.options is None else fixed_options(self.options),
                **self._environment(),
            }
            save_checkpoint(self.checkpoints, self.step, self.objective, self.optimizer, self.ema, state)
            prune_checkpoints(self.checkpoints, self.config.keep_checkpoints)
        self._saved = self.step

    def bytes_to_write(self) -> int:
        """Return the size of the checkpoints that will be kept beside those there, of one while it is written, and of the policy."""
        every = self.config.checkpoint_every
        every = min(every, self.evaluate_every if self.evaluations else every)
        made = -(-(self.config.train_steps - self.step) // every)
        present = len(list(self.checkpoints.glob("step-*")))
        kept = min(made, max(0, self.config.keep_checkpoints - present))
        return (kept + 2) * checkpoint_bytes(self.objective, self.parameters, self.ema)

    def _environment(self) -> JsonObject:
        return numeric_environment(str(self.batches.device), self.group.world_size)

    def evaluate_if_due(self, signals: StopSignals, progress: Progress) -> None:
        """Make the evaluations if they are due at this step; an interrupted evaluation records nothing."""
        due = self.step % self.evaluate_every == 0 or self.step == self.config.train_steps
        if not due or self._evaluated == self.step or not self.evaluations or not self.group.is_main:
            return
        # First, because an environment is somebody else's code: whatever it does must not cost the updates.
        self.save_if_new()
        row: dict[str, float] = {}
        with self.policy_weights():
            try:
                with signals.at_once():
                    for evaluation in self.evaluations:
                        row |= evaluation(self.step, signals.check)
            except Interrupted:
                # Nothing is recorded: the resumed run repeats the evaluation, because its checkpoint is older than that.
                signals.check()
                raise
            except Exception as error:
                if self.stop_if_evaluation_fails:
                    raise
                problem = " ".join(str(error).split()) or type(error).__name__
                progress.write(f"step {self.step}: the evaluation failed, and training continues: {problem}")
        self._evaluated = self.step
        if row:
            self.metrics.add(self.step, row)
            progress.write(f"step {self.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))

    @contextmanager
    def policy_weights(self) -> Iterator[None]:
        """Put the policy's weights (the EMA, if there is one) into the model inside the block, without dropout."""
        if self.ema is not None:
            self.ema.swap()
        self.model.eval()
        try:
            yield
        finally:
            if self.ema is not None:
                self.ema.swap()
            self.model.train()

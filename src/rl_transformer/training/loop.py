"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.machine import keep_freed_memory
from rl_transformer.models.dropout import dropout_masks
from rl_transformer.training.checkpoint import (
    load_checkpoint,
    newest_verified,
    prune_checkpoints,
    read_state,
    save_checkpoint,
)
from rl_transformer.training.device import DeviceUpdates, updates_on_device
from rl_transformer.training.losses import action_error, action_loss
from rl_transformer.training.metrics import Metrics, Progress
from rl_transformer.training.optimizer import (
    WeightAverage,
    learning_rate,
    make_optimizer,
    set_rates,
    trained_parameters,
)
from rl_transformer.training.ranks import Ranks
from rl_transformer.training.signals import Interrupted, StopSignals
from rl_transformer.windows.gather import WindowBatch, WindowGatherer
from rl_transformer.windows.sampling import WindowSampler

_ENTROPY_SITE = 0xE0
_VALIDATION_WINDOWS = 2_000


class _Objective(nn.Module):
    """The loss as a module around the model, which is what data-parallel training takes."""

    def __init__(self, model: nn.Module, loss: Callable[[int | None, WindowBatch, float | None], Tensor]) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, step: int | None, batch: WindowBatch, num_valid: float | None) -> Tensor:
        return self._loss(step, batch, num_valid)


def _silent(message: str) -> None:
    """Say nothing: another rank says it."""


Evaluate = Callable[[int, Callable[[], None]], Mapping[str, float]]


@dataclass
class Trainer:
    """A model, the windows it learns from, and where its run is kept.

    ``evaluate(step, check)`` is called every ``evaluate_every`` updates with the policy's weights in
    place; its numbers go to metrics.jsonl. It should call ``check`` now and then, so that a signal
    is not kept waiting.
    """

    model: Any
    """A `PolicyModel`, or with ``loss`` whatever that takes."""
    sampler: WindowSampler
    gatherer: WindowGatherer
    config: TrainingConfig
    folder: Path
    metrics: Metrics
    validation: WindowSampler | None = None
    evaluate: Evaluate | None = None
    evaluate_every: int = 10_000
    dataset_fingerprint: str = ""
    loss: Callable[..., Tensor] | None = None
    """What is minimized, called with model, batch, step and num_valid as `action_loss`; that of the actions if not given."""
    needs_step: bool = False
    """The model or the loss takes the number of the step on the CPU: no blocks of updates on a device."""
    ranks: Ranks = Ranks()  # noqa: RUF009  a constant
    """The processes that train together; only the first writes and evaluates."""

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.model, self.config)
        trained = trained_parameters(self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)  # data-parallel training waits for every other gradient
        self.parameters = list(trained.values())
        self.objective = self.ranks.together(_Objective(self.model, self._loss))
        self.average = WeightAverage(self.model, self.config.average_decay) if self.config.average_decay else None
        self.step = 0
        self._signals = StopSignals()
        self._evaluated = self._saved = 0
        self.on_device: DeviceUpdates | None = updates_on_device(self)
        self._clock = time.monotonic()

    @property
    def checkpoints(self) -> Path:
        """Folder of the resumable states."""
        return self.folder / "checkpoints"

    def fit(self) -> None:
        """Train up to ``train_steps``; call `resume` first to continue from a checkpoint.

        Raises:
            Interrupted: SIGTERM or SIGINT, after a checkpoint was saved.
            RLTransformerError: A loss or gradient that is not finite; no update is made with it.
        """
        keep_freed_memory()
        self.model.train()
        with self._signals as signals:
            progress = Progress(self.config.train_steps, self.step, shown=self.ranks.writes)
            try:
                self.evaluate_if_due(signals, progress)  # a signal may have cut the last one short
                while self.step < self.config.train_steps:
                    loss = self.update(self.step + 1) if self.on_device is None else self.update_block(self.on_device)
                    progress.update(self.step, loss)
                    self.evaluate_if_due(signals, progress)
                    if signals.received or self.step % self.config.checkpoint_every == 0:
                        self.save()
                        signals.check()
            finally:
                progress.close()
        self.save_if_new()

    def save_if_new(self) -> None:
        """Write a checkpoint unless the newest one is of this step."""
        if self.step != self._saved:
            self.save()

    def update(self, step: int) -> float:
        """Make update ``step`` and return its loss. Every random draw is a function of (seed, step)."""
        index = self.sampler.draw(step, self.config.batch_size)
        batch = self.gatherer.gather(self.ranks.share(index))
        num_valid = None if self.ranks.world_size == 1 else self.gatherer.count_valid(index) / self.ranks.world_size
        with dropout_masks(self.config.seed, step, batch.states.device, self.ranks.rank):
            loss, norm = self.gradients(step, batch, num_valid)
        loss, norm = self._agree(loss), norm.item()
        self.require_finite(step, loss, norm)
        set_rates(self.optimizer, learning_rate(step, self.config))
        self.optimizer.step()
        if self.average is not None:
            self.average.take(self.average.weight(step))
        self.record(step, loss, norm)
        return loss

    def update_block(self, updates: DeviceUpdates) -> float:
        """Make updates up to the next thing that is due, a block at the most, and return the last loss."""
        first, count = self.step + 1, self.updates_until_due(updates.block)
        loss = 0.0
        for step, [(loss, norm)] in enumerate(updates.run(first, count), start=first):
            self.require_finite(step, loss, norm)
            self.record(step, loss, norm)
        return loss

    def updates_until_due(self, most: int) -> int:
        """Return how many updates to make before something else is due, ``most`` at the most."""
        left = [every - self.step % every for every in (self.config.checkpoint_every, self.evaluate_every)]
        return min(most, self.config.train_steps - self.step, *left)

    def gradients(self, step: int | None, batch: WindowBatch, num_valid: float | None) -> tuple[Tensor, Tensor]:
        """Put the clipped gradients of a batch in place, and return the loss and the norm before clipping."""
        precision, device = self.config.precision, batch.states.device
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = self.objective(step, batch, num_valid)
        self.optimizer.zero_grad()
        loss.backward()
        limit = float("inf") if self.config.max_gradient_norm is None else self.config.max_gradient_norm
        return loss.detach(), torch.nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True)

    def record(self, step: int, loss: float, norm: float) -> None:
        """Count update ``step`` as made."""
        self.step = step
        if self.ranks.writes:
            rate = learning_rate(step, self.config)
            self.metrics.add(step, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})

    def _agree(self, loss: Tensor) -> float:
        """Return the loss of the whole batch, and let a signal to one process stop all of them after this update."""
        if self.ranks.world_size == 1:
            return loss.item()
        received = float(self._signals.received or 0)
        total, stops, number = self.ranks.total(loss, float(received > 0), received).tolist()
        if stops:
            self._signals.received = round(number / stops)
        return total / self.ranks.world_size

    def _loss(self, step: int | None, batch: WindowBatch, num_valid: float | None) -> Tensor:
        if self.loss is not None:
            return self.loss(self.model, batch, step=step, num_valid=num_valid)
        weight = self.config.entropy_weight
        normals = self._normals(step, batch)
        return action_loss(self.model, batch, num_valid=num_valid, entropy_weight=weight, normals=normals)

    def resume(self) -> None:
        """Continue from the newest verified checkpoint, if there is one."""
        say = print if self.ranks.writes else _silent
        path = newest_verified(self.checkpoints, say)
        self.ranks.wait()  # nobody writes before everybody has looked
        if path is None:
            # A run may have died after its first rows and before its first checkpoint.
            if self.ranks.writes and self.metrics.cut_back(0):
                say("no usable checkpoint: starting again from step 0")
            return
        if read_state(path)["dataset_fingerprint"] != self.dataset_fingerprint:
            raise RLTransformerError(
                "the data has changed since the checkpoint was written",
                where=path,
                fix="restore the data set (or the text), or train into another folder",
            )
        state = load_checkpoint(path, self.model, self.optimizer, self.average)
        self.step = self._saved = int(state["step"])
        self._evaluated = int(state["evaluated"])
        self.ranks.wait()
        if self.ranks.writes:
            self.metrics.cut_back(self.step)
        say(f"resumed from step {self.step} ({path.name})")
        before = {"world_size": 1, **state}  # checkpoints of the first version do not say
        changed = {k: (before[k], v) for k, v in self._conditions().items() if before.get(k) != v}
        if changed:
            told = ", ".join(f"{name} {before} -> {now}" for name, (before, now) in changed.items())
            say(f"not bit-exact with the uninterrupted run: {told}")

    def save(self) -> None:
        """Write a checkpoint of the current step, and the metrics up to it."""
        if not self.ranks.writes:
            self._saved = self.step
            return
        self.metrics.flush()
        self.metrics.time(self.step, time.monotonic() - self._clock)
        self._clock = time.monotonic()
        state = {"dataset_fingerprint": self.dataset_fingerprint, "evaluated": self._evaluated, **self._conditions()}
        save_checkpoint(self.checkpoints, self.step, self.model, self.optimizer, self.average, state)
        prune_checkpoints(self.checkpoints, self.config.keep_checkpoints)
        self._saved = self.step

    def _conditions(self) -> dict[str, str | int]:
        """What bit-exactness depends on besides the configuration."""
        device = str(self.gatherer.device)
        world_size = self.ranks.world_size
        return {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "device": device,
            "world_size": world_size,
        }

    def _normals(self, step: int | None, batch: WindowBatch) -> Tensor | None:
        if not self.config.entropy_weight:
            return None
        assert step is not None  # updates on the device have no entropy bonus
        random = np.random.default_rng([self.config.seed, step, _ENTROPY_SITE])
        whole = random.standard_normal((self.config.batch_size, *batch.actions.shape[1:]), dtype=np.float32)
        mine = whole[self.ranks.slice_of(self.config.batch_size)]
        return torch.from_numpy(mine).to(batch.actions.device)

    def require_finite(self, step: int, loss: float, norm: float) -> None:
        """Refuse numbers with which no update is made, naming the episodes they came from."""
        numbers = {"loss": loss, "gradient_norm": norm}
        bad = [name for name, value in numbers.items() if not abs(value) < float("inf")]
        if not bad:
            return
        self.metrics.flush()
        drawn = self.ranks.share(self.sampler.draw(step, self.config.batch_size))
        episodes = sorted(set(drawn.trajectories.tolist()))
        named = ", ".join(map(str, episodes[:20])) + (" ..." if len(episodes) > 20 else "")
        raise RLTransformerError(
            f"{bad[0]} is {numbers[bad[0]]}; no update was made; the batch came from episodes {named}",
            where=f"update {step}",
            fix="look at these episodes with rlt inspect, lower training.learning_rate, or use training.precision float32",
        )

    def evaluate_if_due(self, signals: StopSignals, progress: Progress) -> None:
        """Evaluate and validate if it is time to."""
        due = self.step % self.evaluate_every == 0 or self.step == self.config.train_steps
        if not due or self._evaluated == self.step or not (self.evaluate or self.validation) or not self.ranks.writes:
            return
        row: dict[str, float] = {}
        with self.policy_weights():
            try:
                if self.validation is not None:
                    row["validation_action_error"] = self._validation_error()
                if self.evaluate is not None:
                    row |= self.evaluate(self.step, signals.check)
            except Interrupted:
                row = {}
        if signals.received:
            self.save()
            signals.check()
        self._evaluated = self.step
        self.metrics.add(self.step, row)
        progress.say(f"step {self.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))

    @contextmanager
    def policy_weights(self) -> Iterator[None]:
        """Put the policy's weights into the model, ready to act, and the training state back after."""
        if self.average is not None:
            self.average.swap()
        self.model.eval()
        try:
            yield
        finally:
            if self.average is not None:
                self.average.swap()
            self.model.train()

    def _validation_error(self) -> float:
        """Return the mean error of greedy actions on evenly spread windows of held-out episodes."""
        assert self.validation is not None
        count = min(_VALIDATION_WINDOWS, self.validation.num_steps)
        steps = np.linspace(0, self.validation.num_steps - 1, count).astype(np.int64)
        total, weight = 0.0, 0
        for part in np.array_split(steps, -(-count // self.config.batch_size)):
            error, valid = action_error(self.model, self.gatherer.gather(self.validation.locate(part)))
            total, weight = total + error, weight + valid
        return total / weight

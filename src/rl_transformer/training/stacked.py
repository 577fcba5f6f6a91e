"""Several seeds trained together: their weights are stacked, and every product is one of stacks.

One small model leaves a GPU idle; eight of them are eight times the work in hardly more launches. Each
seed draws the windows and dropout masks of its own run, is clipped by its own norm, and ends
in a run folder of its own, equal to the run of that seed alone on the same device to rounding.

Not measured: no GPU was at hand. The tests run this code on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.dropout import dropout_masks
from rl_transformer.training.checkpoint import MOMENTS
from rl_transformer.training.device import BLOCK, DeviceUpdates
from rl_transformer.training.loop import Trainer
from rl_transformer.training.metrics import Progress
from rl_transformer.training.optimizer import trained_parameters
from rl_transformer.training.signals import StopSignals
from rl_transformer.windows.gather import WindowBatch


def fit_together(trainers: Sequence[Trainer], block: int = BLOCK) -> None:
    """Train runs that differ in their seed alone, all from the same step; as `Trainer.fit` otherwise.

    Raises:
        Interrupted: SIGTERM or SIGINT, after every seed was saved.
        RLTransformerError: Seeds that stand at different steps, or a number that is not finite; no seed
            makes an update with it.
    """
    lead = trainers[0]
    steps = [trainer.step for trainer in trainers]
    if len(set(steps)) > 1:
        raise RLTransformerError(
            f"the seeds stand at steps {steps}",
            where="--seeds",
            fix="bring those that are behind up to the others first, each with --seed and --resume",
        )
    updates = StackedUpdates(trainers, block)
    for trainer in trainers:
        trainer.model.train()
    with StopSignals() as signals:
        progress = Progress(lead.config.train_steps, lead.step)
        try:
            for trainer in trainers:
                trainer.evaluate_if_due(signals, progress)
            while lead.step < lead.config.train_steps:
                first, count = lead.step + 1, lead.updates_until_due(block)
                loss = 0.0
                for step, numbers in enumerate(updates.run(first, count), start=first):
                    for trainer, (loss, norm) in zip(trainers, numbers, strict=True):
                        trainer.require_finite(step, loss, norm)
                        trainer.record(step, loss, norm)
                progress.update(lead.step, loss)
                for trainer in trainers:
                    trainer.evaluate_if_due(signals, progress)
                if signals.received or lead.step % lead.config.checkpoint_every == 0:
                    for trainer in trainers:
                        trainer.save()
                    signals.check()
        finally:
            progress.close()
    for trainer in trainers:
        trainer.save_if_new()


class StackedUpdates(DeviceUpdates):
    """Makes blocks of the updates of several trainers at once.

    Every seed's parameters, moments and averages become views of its rows of a stack (S, ...), so
    that what evaluates and saves one seed needs to know nothing of the others.
    """

    def __init__(self, trainers: Sequence[Trainer], block: int) -> None:
        super().__init__(trainers, block)
        lead = trainers[0]
        self._own = [trained_parameters(trainer.model) for trainer in trainers]
        self._stacks: dict[str, Tensor] = {}
        for name in self._own[0]:
            self._stacks[name] = torch.stack([own[name].detach() for own in self._own]).requires_grad_()
            for seed, own in enumerate(self._own):
                own[name].data = self._stacks[name].detach()[seed]
        self.live = list(self._stacks.values())
        self._seeds = torch.tensor([trainer.config.seed for trainer in trainers], device=self.step.device)
        self.optimizer = self._stacked_optimizer(lead)
        self.averages = self._stacked_averages()

    def _stacked_optimizer(self, lead: Trainer) -> torch.optim.AdamW:
        names = {parameter: name for name, parameter in self._own[0].items()}
        groups = [
            {**group, "params": [self._stacks[names[p]] for p in group["params"]]}
            for group in lead.optimizer.param_groups
        ]
        optimizer = torch.optim.AdamW(groups, lr=lead.config.learning_rate, betas=lead.config.betas, fused=True)
        for name, stack in self._stacks.items():
            parameters = [own[name] for own in self._own]
            found = [t.optimizer.state.get(p, {}) for t, p in zip(self.trainers, parameters, strict=True)]
            moments = {
                moment: torch.stack(
                    [s.get(moment, torch.zeros_like(p)) for s, p in zip(found, parameters, strict=True)]
                )
                for moment in MOMENTS
            }
            step = torch.tensor(float(lead.step), device=stack.device)
            optimizer.state[stack] = {"step": step, **moments}
            for seed, (trainer, parameter) in enumerate(zip(self.trainers, parameters, strict=True)):
                trainer.optimizer.state[parameter] = {"step": step, **{k: m[seed] for k, m in moments.items()}}
        return optimizer

    def _stacked_averages(self) -> list[Tensor]:
        averages = [trainer.average for trainer in self.trainers if trainer.average is not None]
        stacks = {name: torch.stack([a.averages[name] for a in averages]) for name in self._stacks if averages}
        for seed, average in enumerate(averages):
            average.averages = {name: stack[seed] for name, stack in stacks.items()}
        return list(stacks.values())

    def gradients(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Put clipped gradients of all seeds in place, and return losses (S,) and norms before clipping (S,)."""
        lead, columns = self.trainers[0], (*batch.inputs, batch.valid_mask)
        by_seed = [column.unflatten(0, (len(self.trainers), -1)) for column in columns]

        def loss_of(parameters: dict[str, Tensor], seed: Tensor, *windows: Tensor) -> Tensor:
            named = {f"model.{name}": parameter for name, parameter in parameters.items()}
            with dropout_masks(seed, self.step, self.step.device):
                return functional_call(lead.objective, named, (None, WindowBatch(*windows), None))

        precision = lead.config.precision
        with torch.autocast(self.step.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            found, losses = vmap(grad_and_value(loss_of))(self._stacks, self._seeds, *by_seed)
        norms = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
        limit = float("inf") if lead.config.max_gradient_norm is None else lead.config.max_gradient_norm
        scale = (limit / (norms + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        for name, stack in self._stacks.items():
            stack.grad = found[name] * scale.view(-1, *[1] * (stack.dim() - 1))
        return losses.detach(), norms

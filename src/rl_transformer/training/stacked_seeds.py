"""Train several seeds at once: their weights are stacked, and one batched matrix product computes all of them.

A single small model leaves a GPU mostly idle; eight stacked models are eight times the work in hardly more kernel
launches. Each seed uses the windows and dropout masks of its own run, is clipped by its own gradient norm and ends in
its own run folder. It equals the run of that seed alone on the same device, up to rounding.

`rlt bench gpu` times it. Tests run this code on a CPU as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.trunk.dropout import dropout_masks
from rl_transformer.training.checkpoint import MOMENTS
from rl_transformer.training.cuda_graph import BLOCK, DeviceUpdates
from rl_transformer.training.optimizer import trained_parameters
from rl_transformer.training.trainer import Trainer, fit
from rl_transformer.windows.batch import WindowBatch


def fit_stacked(trainers: Sequence[Trainer], max_steps: int = BLOCK) -> None:
    """Train runs that differ only in their seed as one stacked batch.

    Args:
        trainers: One trainer per seed; all must be at the same step.
        max_steps: Updates per block.

    Raises:
        Interrupted: SIGTERM or SIGINT, after every seed was saved.
        RLTransformerError: The seeds are at different steps, or a loss is not finite; then no seed makes that update.
    """
    # One step counter drives the schedule, the EMA weight and Adam's bias correction of all seeds. Seeds are at
    # different steps if the process was killed between the checkpoints of two of them.
    steps = [trainer.step for trainer in trainers]
    if len(set(steps)) > 1:
        raise RLTransformerError(
            f"the seeds are at steps {steps}",
            where="--seeds",
            fix="first continue the seeds that are behind, each with --seed and --resume",
        )
    fit(trainers, StackedUpdates(trainers, max_steps))


class StackedUpdates(DeviceUpdates):
    """Makes blocks of updates of several runs at once.

    Every run's parameters, moments and averages become views of its row of a stack (S, ...). Code that evaluates or
    saves one run therefore works unchanged.
    """

    def __init__(self, trainers: Sequence[Trainer], max_steps: int) -> None:
        super().__init__(trainers, max_steps)
        lead = trainers[0]
        self._own = [trained_parameters(trainer.objective) for trainer in trainers]
        self._stacks: dict[str, Tensor] = {}
        for name in self._own[0]:
            self._stacks[name] = torch.stack([own[name].detach() for own in self._own]).requires_grad_()
            # .data rebinds the storage but keeps the Parameter object, which the model and the optimizer refer to.
            for seed, own in enumerate(self._own):
                own[name].data = self._stacks[name].detach()[seed]
        self.live = list(self._stacks.values())
        self._seeds = torch.tensor([trainer.config.seed for trainer in trainers], device=self.step.device)
        self.optimizer = self._stacked_optimizer(lead)
        self.averages = self._stacked_averages()

    def _stacked_optimizer(self, lead: Trainer) -> torch.optim.AdamW:
        """Return AdamW over the stacks, and make every run's own optimizer state a view of the stacked one."""
        # AdamW works element by element, so one step on a stack equals one step on each of its rows.
        names = {parameter: name for name, parameter in self._own[0].items()}
        groups = [
            {**group, "params": [self._stacks[names[p]] for p in group["params"]]}
            for group in lead.optimizer.param_groups
        ]
        optimizer = torch.optim.AdamW(groups, lr=lead.config.learning_rate, betas=lead.config.betas, fused=True)
        for name, stack in self._stacks.items():
            parameters = [own[name] for own in self._own]
            states = [t.optimizer.state.get(p, {}) for t, p in zip(self.trainers, parameters, strict=True)]
            # Zeros are AdamW's own initialization, for runs that have not made an update yet.
            moments = {
                moment: torch.stack(
                    [s.get(moment, torch.zeros_like(p)) for s, p in zip(states, parameters, strict=True)]
                )
                for moment in MOMENTS
            }
            step = torch.tensor(float(lead.step), device=stack.device)
            optimizer.state[stack] = {"step": step, **moments}
            # `save_checkpoint` reads each run's own optimizer, so that must show its rows of the stacked moments.
            for seed, (trainer, parameter) in enumerate(zip(self.trainers, parameters, strict=True)):
                trainer.optimizer.state[parameter] = {"step": step, **{k: m[seed] for k, m in moments.items()}}
        return optimizer

    def _stacked_averages(self) -> list[Tensor]:
        """Return the stacked EMAs, and make every run's averages views of them; an empty list without EMA."""
        averages = [trainer.ema for trainer in self.trainers if trainer.ema is not None]
        stacks = {name: torch.stack([a.averages[name] for a in averages]) for name in self._stacks if averages}
        for seed, average in enumerate(averages):
            average.averages = {name: stack[seed] for name, stack in stacks.items()}
        return list(stacks.values())

    def backward(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Compute clipped gradients of all seeds; return losses (S,) and gradient norms before clipping (S,)."""
        lead = self.trainers[0]
        columns = (*batch.inputs, batch.valid_mask, *(() if batch.allowed is None else (batch.allowed,)))
        # One gather fetched the windows of all seeds, seed after seed: (S B, ...) becomes (S, B, ...) for vmap.
        by_seed = [column.unflatten(0, (len(self.trainers), -1)) for column in columns]

        def loss_of(parameters: dict[str, Tensor], seed: Tensor, *windows: Tensor) -> Tensor:
            named = {f"model.{name}": parameter for name, parameter in parameters.items()}
            # The mask is a function of (seed, step), not of a global generator, so each seed has its own run's masks.
            with dropout_masks(seed, self.step, self.step.device):
                return functional_call(lead.objective, named, (None, WindowBatch(*windows), None))

        precision = lead.config.precision
        with torch.autocast(self.step.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            gradients, losses = vmap(grad_and_value(loss_of))(self._stacks, self._seeds, *by_seed)
        # clip_grad_norm_ would clip by the norm over all seeds together, so one seed's large gradient would shrink the
        # updates of the others. The formula, 1e-6 included, is that of clip_grad_norm_ per seed.
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        limit = float("inf") if lead.config.max_gradient_norm is None else lead.config.max_gradient_norm
        scale = (limit / (norms + 1e-6)).clamp(max=1.0)
        for name, stack in self._stacks.items():
            stack.grad = gradients[name] * scale.view(-1, *[1] * (stack.dim() - 1))
        return losses.detach(), norms

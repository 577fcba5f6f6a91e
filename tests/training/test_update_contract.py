"""Claims about every way of making updates: they are those of a loop in plain torch, and none is made with NaN.

The reference loop below knows nothing of the optimizer, the loss or the schedule of the library. It takes from it
the model with its initial weights, the windows of a step, and the dropout masks of (seed, step).
"""

import dataclasses
import math

import pytest
import torch

from rl_transformer.launch.seeds import assemble_run
from rl_transformer.models.trunk.dropout import dropout_masks
from rl_transformer.training.cuda_graph import DeviceUpdates
from rl_transformer.training.stacked_seeds import StackedUpdates
from rl_transformer.training.updates import EagerUpdates
from rl_transformer.windows.gathering import WindowGatherer
from tests.toys import point_data, tiny_config
from tests.training.runs import assert_close_weights

NUM_UPDATES = 10
BLOCK = 4  # so that ten updates are three blocks, the last of them shorter
CPU = torch.device("cpu")

# Each strategy with its seeds, and with the type of the step from which it draws dropout masks: masks of a step on
# the device (a tensor) are hashed, others come from numpy.
STRATEGIES = {
    "eager": (lambda trainers: EagerUpdates(trainers[0]), [3], int),
    "device": (lambda trainers: DeviceUpdates(trainers, BLOCK), [3], torch.tensor),
    "one stacked seed": (lambda trainers: StackedUpdates(trainers, BLOCK), [3], torch.tensor),
    "two stacked seeds": (lambda trainers: StackedUpdates(trainers, BLOCK), [3, 2**40], torch.tensor),
}
# Weight decay and clipping are strong enough to be noticed if they were left out.
TRAINING = {"weight_decay": 0.1, "max_gradient_norm": 0.05, "betas": (0.8, 0.95), "ema_decay": 0.5}
OPTIONS = {
    "published": {},
    "cosine": {"schedule": "cosine", "train_steps": NUM_UPDATES},
    "no clipping": {"max_gradient_norm": None},
}


def runs_of(tmp_path, seeds, training):
    """Return one run per seed, ready for its first update."""
    runs = []
    for seed in seeds:
        options = {**TRAINING, **training, "seed": seed, "checkpoint_every": 1000}
        run = assemble_run(tiny_config(tmp_path / f"seed-{seed}", training=options), point_data())
        run.trainer.model.train()
        runs.append(run)
    return runs


def make_all(updates, count=NUM_UPDATES):
    """Make ``count`` updates in calls of at most ``max_steps``; return their results, one list per step."""
    results = []
    while len(results) < count:
        results += updates.run(len(results) + 1, min(updates.max_steps, count - len(results)))
    return results


def reference_rate(step, training):
    """Return the learning rate of a step, from its definition."""
    if step <= training.warmup_steps:
        return training.learning_rate * step / training.warmup_steps
    if training.schedule == "constant":
        return training.learning_rate
    share = (step - training.warmup_steps) / (training.train_steps - training.warmup_steps)
    return training.learning_rate * (1 + math.cos(math.pi * share)) / 2


def clip(parameters, limit):
    """Scale gradients so that their common norm is at most ``limit``; return the norm before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    if limit is not None and norm > limit:
        for gradient in gradients:
            gradient *= limit / norm
    return norm


def reference_loop(run, as_step):
    """Make the updates of a run in plain torch; return losses, gradient norms, weights and EMA."""
    training = run.config.training
    model = run.policy.model
    optimizer = torch.optim.AdamW(model.parameters(), betas=training.betas, weight_decay=training.weight_decay)
    ema = {name: weight.clone() for name, weight in weights_of(model).items()}
    losses = []
    norms = []
    for step in range(1, NUM_UPDATES + 1):
        batch = run.windows.gatherer.gather(run.windows.sampler.draw(step, training.batch_size))
        with dropout_masks(training.seed, as_step(step), CPU):
            actions = model.predict_actions(*batch.inputs)
        loss = (actions - batch.actions)[batch.valid_mask].square().mean()
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        norms.append(clip(list(model.parameters()), training.max_gradient_norm))
        for group in optimizer.param_groups:
            group["lr"] = reference_rate(step, training)
        optimizer.step()
        decay = min(training.ema_decay, step / (step + 10))
        for name, weight in weights_of(model).items():
            ema[name] = decay * ema[name] + (1 - decay) * weight
    return losses, norms, weights_of(model), ema


def weights_of(model):
    """Return copies of the weights that an action depends on."""
    untrained = ("predict_state.", "predict_return.")  # transformers' heads
    return {n: p.detach().clone() for n, p in model.named_parameters() if not n.startswith(untrained)}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_updates_are_those_of_a_plain_loop(strategy, option, tmp_path):
    make, seeds, as_step = STRATEGIES[strategy]
    runs = runs_of(tmp_path, seeds, OPTIONS[option])
    results = make_all(make([run.trainer for run in runs]))
    for place, reference in enumerate(runs_of(tmp_path, seeds, OPTIONS[option])):
        losses, norms, weights, ema = reference_loop(reference, as_step)
        assert [of_each[place].loss for of_each in results] == pytest.approx(losses, rel=1e-5)
        assert [of_each[place].gradient_norm for of_each in results] == pytest.approx(norms, rel=1e-4)
        trainer = runs[place].trainer
        assert_close_weights(weights_of(trainer.model), weights, atol=2e-6)
        assert_close_weights(trainer.ema.averages, ema, atol=2e-6)


def poison(monkeypatch, call, row):
    """Make the loss of the ``call``-th batch infinite through its window ``row``."""
    genuine = WindowGatherer.gather_at
    calls = []

    def gather_at(self, rows, trajectories):
        batch = genuine(self, rows, trajectories)
        calls.append(len(calls) + 1)
        if calls[-1] != call:
            return batch
        conditions = batch.conditions.clone()
        conditions[row] = math.inf
        return dataclasses.replace(batch, conditions=conditions)

    monkeypatch.setattr(WindowGatherer, "gather_at", gather_at)


@pytest.mark.parametrize("bad_step", [1, 6])  # the first of its block, and one in the middle of another
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_after_a_loss_that_is_not_finite_no_weight_of_any_seed_changes(strategy, bad_step, tmp_path, monkeypatch):
    make, seeds, _ = STRATEGIES[strategy]
    healthy = runs_of(tmp_path, seeds, {})
    make_all(make([run.trainer for run in healthy]), bad_step - 1)
    runs = runs_of(tmp_path, seeds, {})
    updates = make([run.trainer for run in runs])
    poison(monkeypatch, bad_step, row=-1)  # with two seeds, a window of the second
    first = 1
    results = []
    while len(results) < bad_step:  # as the training loop does, which stops after the call with the bad update
        results += updates.run(first, updates.max_steps)
        first += updates.max_steps
    finite = [all(result.is_finite for result in of_each) for of_each in results[:bad_step]]
    assert finite == [True] * (bad_step - 1) + [False]
    for run, untouched in zip(runs, healthy, strict=True):
        for name, weight in weights_of(untouched.trainer.model).items():
            assert torch.equal(weights_of(run.trainer.model)[name], weight), name
        for name, average in untouched.trainer.ema.averages.items():
            assert torch.equal(run.trainer.ema.averages[name], average), name

"""Puts NaN and infinite numbers into runs: they end by name, nothing broken is saved, and the resumed run is the whole one."""

import dataclasses
import shutil

import numpy as np
import torch
from safetensors.torch import load_file

from rl_transformer import RLTransformerError, train
from rl_transformer.training.checkpoint import newest_verified
from rl_transformer.training.updates import EagerUpdates
from tests.misfortune.resumes import SMALL, merged
from tests.misfortune.tally import Tally, silenced, without_waiting
from tests.toys import point_data, tiny_config
from tests.training.runs import assert_equal_runs

STEPS = 16
OPTIONS = {
    "decision transformer": {},
    "behavior cloning": {"model": {"arch": "behavior_cloning"}, "training": {"ema_decay": 0.9}},
    "gaussian": {"model": {"action_head": "gaussian"}, "training": {"precision": "bfloat16", "ema_decay": 0.9}},
}
NUMBERS = (float("nan"), float("inf"), float("-inf"))


def config_of(name, folder):
    training = {"train_steps": STEPS, "batch_size": 4}
    return tiny_config(folder, **merged(SMALL, {"training": training}, OPTIONS[name]))


class Injection:
    """Puts one number into a run before one of its updates.

    Args:
        random: Chooses what and where.
    """

    def __init__(self, random):
        self.place = list(PLACES)[random.integers(len(PLACES))]
        self.step = int(random.integers(1, STEPS + 1))
        self.number = NUMBERS[random.integers(len(NUMBERS))]
        self.random = random
        self.happened = False

    def __str__(self):
        return f"{self.number} into the {self.place} of update {self.step}"

    def put(self, tensor):
        """Put the number at a random place of a tensor, and return the tensor."""
        with torch.no_grad():
            tensor.view(-1)[int(self.random.integers(tensor.numel()))] = self.number
        self.happened = True
        return tensor

    def run(self, config, data):
        """Train with it; return the error that ends the run, or None."""
        genuine = EagerUpdates._update

        def update(updates, step):
            if step != self.step:
                return genuine(updates, step)
            trainer = updates._trainer
            undo = PLACES[self.place](self, trainer)
            try:
                return genuine(updates, step)
            finally:
                if undo is not None:
                    undo()

        EagerUpdates._update = update
        try:
            train(config, dataset=data)
        except RLTransformerError as error:
            return error
        finally:
            EagerUpdates._update = genuine
        return None


# Where the number is put: functions of (injection, trainer), which return what takes it away again, if anything does.


def into_batch(field):
    """Return a function that puts the number into a real step of a field of the batch."""

    def put(injection, trainer):
        batches = trainer.batches
        if getattr(batches.gather(batches.draw(injection.step)), field).numel() == 0:
            return None  # a policy without conditions has none

        class Poisoned:
            def __getattr__(self, name):
                return getattr(batches, name)

            def gather(self, index):
                batch = batches.gather(index)
                values = getattr(batch, field).clone()
                real = batch.valid_mask.nonzero()
                at = real[int(injection.random.integers(len(real)))]
                values[tuple(at)] = injection.put(values[tuple(at)].clone())
                return dataclasses.replace(batch, **{field: values})

        trainer.batches = Poisoned()
        return lambda: setattr(trainer, "batches", batches)

    return put


def into_activation(injection, trainer):
    modules = [module for module in trainer.model.modules() if not list(module.children())]
    module = modules[int(injection.random.integers(len(modules)))]

    def hook(module, inputs, output):
        if torch.is_tensor(output) and output.is_floating_point():
            return injection.put(output.clone())
        return output

    return module.register_forward_hook(hook).remove


def into_loss(injection, trainer):
    objective = trainer.wrapped_objective
    injection.happened = True
    trainer.wrapped_objective = lambda *args: objective(*args) * injection.number
    return lambda: setattr(trainer, "wrapped_objective", objective)


def into_gradient(injection, trainer):
    parameter = _parameter(injection, trainer)
    return parameter.register_hook(lambda gradient: injection.put(gradient.clone())).remove


def into_parameter(injection, trainer):
    injection.put(_parameter(injection, trainer).data)


def into_moment(injection, trainer):
    state = trainer.optimizer.state.get(_parameter(injection, trainer))
    if state:  # there is none before the first update
        injection.put(state[["exp_avg", "exp_avg_sq"][int(injection.random.integers(2))]])


def into_average(injection, trainer):
    if trainer.ema is not None:
        averages = list(trainer.ema.averages.values())
        injection.put(averages[int(injection.random.integers(len(averages)))])


def _parameter(injection, trainer):
    return trainer.parameters[int(injection.random.integers(len(trainer.parameters)))]


BEFORE_THE_UPDATE = {
    "observations": into_batch("states"), "actions": into_batch("actions"), "returns-to-go": into_batch("conditions"),
    "loss": into_loss, "gradient": into_gradient,
}  # fmt: skip
"""Places where the update itself must notice."""
PLACES = {
    **BEFORE_THE_UPDATE,
    "activations": into_activation,
    "weights": into_parameter,
    "moments": into_moment,
    "average": into_average,
}


def broken_tensors(folder):
    """Return the names of tensors with numbers that are not finite, in what a run would go on from or hand out."""
    files = [path for path in folder.rglob("*.safetensors") if (path.parent / "manifest.json").exists()]
    return [
        f"{path}: {name}" for path in files for name, tensor in load_file(path).items() if not tensor.isfinite().all()
    ]


def judge(injection, config, whole, data):
    """Train with the injection and resume; return the outcome."""
    folder = whole.with_name("broken")
    error = injection.run(config, data)
    assert broken_tensors(folder) == []
    if error is None:
        # Nobody has seen it: it was not used, or a function with a limit, such as tanh, made it finite.
        is_harmless = not injection.happened or (injection.place == "activations" and not np.isnan(injection.number))
        assert is_harmless, "the run ended as if nothing had happened"
        if not injection.happened:
            assert_equal_runs(whole, folder)
        return "without effect"
    assert not (folder / "policy").exists()
    assert error.fix
    step = int(str(error.where).removeprefix("update "))
    assert step >= injection.step
    if injection.place in BEFORE_THE_UPDATE:
        assert step == injection.step
        assert "no update was made; the batch came from" in error.problem
        assert "episode" in error.problem
    saved = newest_verified(folder / "checkpoints", report=False)
    assert saved is None or int(saved.name[5:]) < step
    train(config, dataset=data, resume=True)
    assert_equal_runs(whole, folder)
    return "refused"


def attack(root, number, seed, only):
    """Put ``number`` numbers into runs; return the counts by place and what went wrong."""
    tally = Tally()
    data = point_data(8)
    with without_waiting(), silenced():
        wholes = {name: train(config_of(name, root / name / "whole"), dataset=data) for name in OPTIONS}
        for which in range(number):
            random = np.random.default_rng([seed, which])
            name = list(OPTIONS)[random.integers(len(OPTIONS))]
            injection = Injection(random)
            if tally.is_enough or (only and injection.place not in only):
                continue
            config = config_of(name, root / name / "broken")
            what = f"{name}: {injection}"
            tally.judge(injection.place, what, lambda n=name, i=injection, c=config: judge(i, c, wholes[n], data))
            shutil.rmtree(root / name / "broken", ignore_errors=True)
    tally.report("weights")
    return tally.parts, tally.wrong

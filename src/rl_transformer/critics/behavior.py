"""Networks that estimate what the behavior of a log does: the probability of each action, or what a density needs.

Errors of these probabilities multiply over the steps of an episode, so that much more depends on their last digits than where
networks of this size are usual: what each choice here was worth is on the page of `rlt reproduce judge-environments`.

Shapes: N steps, A actions, B steps of a batch, P outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rl_transformer.critics.features import StepFeatures
from rl_transformer.critics.networks import PREDICTED_AT_ONCE, FitOptions, make_network, minimize, rows_where
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int

# Ten times that of critics, and two layers more: with fewer, or smaller steps, borders between actions come out blurred.
_LEARNING_RATE = 1e-2
_HIDDEN_LAYERS = 4
_WIDTH = 64  # twice as many were no better
_VALIDATION_SHARE = 0.1
# Each 4 times as long as the one before; the last is tried only where unseen episodes still profit from the one before it.
_SHARES_OF_UPDATES = (1 / 64, 1 / 16, 1 / 4, 1)
_GAIN = 2.0
"""By how much a temperature must raise the log-likelihood of unseen steps: half of the 95 % quantile of chi-square, 1.92."""


@dataclass(frozen=True)
class BehaviorModel:
    """Estimated probabilities of the behavior's actions."""

    probabilities: Float64[np.ndarray, "N A"]
    temperatures: list[float]
    """Temperature by which each fold's logits were divided to calibrate its probabilities; 1: unchanged."""


@dataclass(frozen=True)
class FittedNetwork:
    """A network of the behavior, and what it reads."""

    network: nn.Sequential
    read: StepFeatures
    updates: int
    unseen_loss: float
    """Mean loss of the steps of held-out episodes."""

    def __call__(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B P"]:
        """Return the outputs at some steps."""
        return self.network(self.read.read(rows))

    @torch.no_grad()
    def predict(self, rows: Int[Tensor, "_"]) -> Float[Tensor, "_ P"]:
        """Return the outputs at many steps."""
        return torch.cat([self(part) for part in rows.split(PREDICTED_AT_ONCE)])


def fit_behavior(
    features: StepFeatures,
    folds: Int[np.ndarray, "N"],
    allowed: Bool[np.ndarray, "N A"] | None,
    options: FitOptions,
) -> BehaviorModel:
    """Fit the probability of the logged action at every step by maximum likelihood, and calibrate it.

    Args:
        features: What the network reads.
        folds: Number of the fold of each step.
        allowed: True at the actions that were allowed; others get probability 0.
        options: Sizes.
    """
    mask = None if allowed is None else torch.from_numpy(allowed)
    probabilities = torch.zeros(len(folds), features.num_actions, dtype=torch.float64)
    temperatures = []
    for fold in np.unique(folds):
        others = rows_where(folds != fold)
        random = generator(Stream.OFFLINE_JUDGING, options.seed, int(fold), 0)

        def loss(outputs: Float[Tensor, "B A"], rows: Int[Tensor, "B"]) -> Tensor:
            return functional.cross_entropy(_masked(outputs, mask, rows), features.actions[rows])

        fitted, held_out = fit_likely(features, others, features.num_actions, loss, options, random)
        temperature = _temperature(_masked(fitted.predict(held_out), mask, held_out), features.actions[held_out])
        rows = rows_where(folds == fold)
        logits = _masked(fitted.predict(rows), mask, rows).double()
        probabilities[rows] = (logits / temperature).softmax(1)
        temperatures.append(temperature)
    return BehaviorModel(probabilities.numpy(), temperatures)


def fit_likely(
    features: StepFeatures,
    rows: Int[Tensor, "_"],
    outputs: int,
    loss: Callable[[Float[Tensor, "B P"], Int[Tensor, "B"]], Tensor],
    options: FitOptions,
    random: np.random.Generator,
) -> tuple[FittedNetwork, Int[Tensor, "_"]]:
    """Fit networks of the behavior to some steps; return the best of them, and the steps that it has not seen.

    A tenth of the episodes is held out. It decides how long to fit, and whether to read the present step alone, earlier
    observations, or earlier actions too: a history that the behavior did not look at is learned by heart.

    Args:
        features: What a network may read.
        rows: The steps, of whole episodes.
        outputs: Numbers that the network returns for a step.
        loss: Returns the mean loss of the logged actions from the network's outputs at some steps.
        options: Sizes.
        random: Decides on weights, batches and the unseen tenth.
    """
    seen, held_out = _hold_out(features, rows, random)

    def fit(read: StepFeatures, share: float) -> FittedNetwork:
        """Fit a network that reads these features, with a share of all updates."""
        network = make_network(read.width, outputs, _WIDTH, random, hidden_layers=_HIDDEN_LAYERS)
        updates = max(1, round(share * options.behavior_updates))
        minimize(network, lambda at: loss(network(read.read(at)), at), seen, updates, _LEARNING_RATE, random)
        with torch.no_grad():
            found = sum(float(loss(network(read.read(at)), at)) * len(at) for at in held_out.split(PREDICTED_AT_ONCE))
        # A fit that ran away is no better than none.
        unseen = found / len(held_out) if np.isfinite(found) else float("inf")
        return FittedNetwork(network, read, updates, unseen)

    *short, long, longest = _SHARES_OF_UPDATES
    candidates = [fit(read, share) for read in _readings(features) for share in (*short, long)]
    best = min(candidates, key=lambda candidate: candidate.unseen_loss)
    # Fitting longer helps no reading that was better after less.
    if best.updates == round(long * options.behavior_updates):
        best = min(best, fit(best.read, longest), key=lambda candidate: candidate.unseen_loss)
    return best, held_out


def _readings(features: StepFeatures) -> list[StepFeatures]:
    """Return what networks of the behavior may read."""
    present = replace(features, history=1)
    if features.history == 1:
        return [present]
    # Of its own past a behavior often needs what it saw, and not what it drew by chance.
    return [present, replace(features, past_actions=False), features]


def _hold_out(
    features: StepFeatures, rows: Int[Tensor, "_"], random: np.random.Generator
) -> tuple[Int[Tensor, "_"], Int[Tensor, "_"]]:
    """Return the steps to fit to, and those of a tenth of the episodes; with a single episode both are the same."""
    # Whole episodes: where they differ in ways that the present step does not show, a history recognizes an episode again.
    episodes = torch.cumsum(features.timesteps == 0, 0)[rows]
    numbers = random.permutation(np.unique(episodes.numpy()))
    chosen = torch.isin(episodes, torch.from_numpy(numbers[: max(1, int(_VALIDATION_SHARE * len(numbers)))]))
    return (rows if len(numbers) == 1 else rows[~chosen]), rows[chosen]


def _masked(
    logits: Float[Tensor, "B A"], allowed: Bool[Tensor, "N A"] | None, rows: Int[Tensor, "B"]
) -> Float[Tensor, "B A"]:
    return logits if allowed is None else logits.masked_fill(~allowed[rows], -torch.inf)


def _temperature(logits: Float[Tensor, "_ A"], actions: Int[Tensor, "_"]) -> float:
    """Return the number that makes held-out actions most likely when logits are divided by it; 1 if chance explains the gain."""
    # A grid, in steps of 1 %, cannot fail to converge.
    candidates = torch.linspace(-1.5, 1.5, 301).exp()
    losses = [float(functional.cross_entropy(logits / value, actions)) for value in candidates]
    best = int(np.argmin(losses))
    # A few percent too much or too little at every step is a wrong weight after dozens of them.
    gain = (float(functional.cross_entropy(logits, actions)) - losses[best]) * len(actions)
    return float(candidates[best]) if gain > _GAIN else 1.0

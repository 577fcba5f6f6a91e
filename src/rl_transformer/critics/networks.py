"""Small networks fitted to a log: probabilities of the behavior's actions, and values of a judged policy's actions.

Every step is predicted by a network that was fitted without its fold, so that no episode judges itself.

Shapes: N steps, A actions, K of them, B steps of a batch, F features of a step, P outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rl_transformer.critics.features import StepFeatures
from rl_transformer.critics.possible_returns import clip_values, possible_returns
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int

_BATCH = 512
PREDICTED_AT_ONCE = 8192
_VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class FitOptions:
    """Sizes of the networks and of their training."""

    hidden_size: int = 128
    behavior_updates: int = 2000
    critic_updates: int = 4000
    learning_rate: float = 1e-3
    target_rate: float = 0.05
    """Share by which the critic's slowly following copy moves to it after each update."""
    seed: int = 0


@dataclass(frozen=True)
class BehaviorModel:
    """Estimated probabilities of the behavior's actions."""

    probabilities: Float64[np.ndarray, "N A"]
    temperatures: list[float]
    """By which each fold's logits were divided so that its probabilities are calibrated; 1: they were."""


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

        network, read, held_out = fit_likely(features, others, features.num_actions, loss, options, random)
        temperature = _temperature(_predict(network, read, held_out, mask), features.actions[held_out])
        rows = rows_where(folds == fold)
        logits = _predict(network, read, rows, mask).double()
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
) -> tuple[nn.Sequential, StepFeatures, Int[Tensor, "_"]]:
    """Fit a network of the behavior to some steps; return it, what it reads, and the tenth of the steps that it has not seen.

    It reads the present step alone, or the history too if that makes the unseen steps more likely. A history that the behavior
    did not look at is learned by heart, and errors of propensities multiply over the steps of an episode.

    Args:
        features: What a network may read.
        rows: The steps.
        outputs: Numbers that the network returns for a step.
        loss: Returns the mean loss of the logged actions from the network's outputs at some steps.
        options: Sizes.
        random: Decides on weights, batches and the unseen tenth.
    """
    # Episodes are not split here: a single choice, and a temperature, are hardly overfitted by a few shared episodes.
    order = rows[torch.from_numpy(random.permutation(len(rows)))]
    count = max(1, int(_VALIDATION_SHARE * len(rows)))
    held_out = order[:count]
    fitted = order[count:] if len(rows) > 1 else order
    candidates = []
    for history in sorted({1, features.history}):
        read = replace(features, history=history)
        network = make_network(read.width, outputs, options, random)

        def loss_at(at: Int[Tensor, "B"], network: nn.Module = network, read: StepFeatures = read) -> Tensor:
            return loss(network(read.read(at)), at)

        minimize(network, loss_at, fitted, options.behavior_updates, options, random)
        with torch.no_grad():
            found = sum(float(loss_at(part)) * len(part) for part in held_out.split(PREDICTED_AT_ONCE))
        candidates.append((found, network, read))
    _, network, read = min(candidates, key=lambda candidate: candidate[0])
    return network, read, held_out


def fit_action_values(
    features: StepFeatures,
    folds: Int[np.ndarray, "N"],
    policy: Float64[np.ndarray, "N A"],
    rewards: Float64[np.ndarray, "N"],
    is_last: Bool[np.ndarray, "N"],
    options: FitOptions,
) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """Return the values of each logged action and of each state if the judged policy acts afterwards.

    Args:
        features: What the network reads.
        folds: Number of the fold of each step.
        policy: The judged policy's probability of each action at every step.
        rewards: Rewards.
        is_last: True at the last step of its episode, after which nothing is earned.
        options: Sizes.
    """

    def taken(network: nn.Module, rows: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        return network(features.read(rows)).gather(1, features.actions[rows, None])[:, 0]

    def offered(network: nn.Module, rows: Int[Tensor, "B"]) -> Float[Tensor, "B A"]:
        return network(features.read(rows))

    sizes = (features.width, features.num_actions)
    return fit_critics(sizes, folds, rewards, is_last, options, taken, offered, torch.from_numpy(policy).float())


def fit_critics(
    sizes: tuple[int, int],
    folds: Int[np.ndarray, "N"],
    rewards: Float64[np.ndarray, "N"],
    is_last: Bool[np.ndarray, "N"],
    options: FitOptions,
    taken: Callable[[nn.Module, Int[Tensor, "B"]], Float[Tensor, "B"]],
    offered: Callable[[nn.Module, Int[Tensor, "B"]], Float[Tensor, "B K"]],
    weights: Float[Tensor, "N K"],
) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """Return the values of each logged action and of each state, by critics that were fitted without its fold.

    They are fitted by fitted Q evaluation, and values beyond `possible_returns` are moved into that range, in targets and
    in what is returned.

    Args:
        sizes: Inputs and outputs of a critic.
        folds: Number of the fold of each step.
        rewards: Rewards.
        is_last: True at the last step of its episode, after which nothing is earned.
        options: Sizes.
        taken: Returns a critic's values of the logged actions at some steps.
        offered: Returns a critic's values of K actions there, all or some drawn ones.
        weights: With what probability the judged policy takes each of the K actions at every step.
    """
    # In units of their spread, for one learning rate whatever rewards are counted in.
    scale = float(np.std(rewards)) or 1.0
    scaled = torch.from_numpy(rewards / scale).float()
    ends = possible_returns(rewards, is_last).scaled(scale)
    goes_on = torch.from_numpy(~is_last)
    follow = get_ema_multi_avg_fn(1 - options.target_rate)

    def state(network: nn.Module, rows: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        # Each action before the average: a single one that nobody tried may be valued at anything.
        return (weights[rows] * clip_values(offered(network, rows), ends, rows)).sum(1)

    of_actions = torch.zeros(len(folds), dtype=torch.float64)
    of_states = torch.zeros(len(folds), dtype=torch.float64)
    for fold in np.unique(folds):
        random = generator(Stream.OFFLINE_JUDGING, options.seed, int(fold), 1)
        network = make_network(*sizes, options, random)
        # Targets come from a copy that follows slowly: a network that chases its own predictions may run away.
        following = make_network(*sizes, options, random)
        following.load_state_dict(network.state_dict())

        def loss(rows: Int[Tensor, "B"], network: nn.Module = network, following: nn.Module = following) -> Tensor:
            after = torch.clamp(rows + 1, max=len(folds) - 1)
            with torch.no_grad():
                # At the next logged step it is the policy that acts, not the behavior.
                target = scaled[rows] + state(following, after) * goes_on[rows]
                follow(list(following.parameters()), list(network.parameters()), None)
            return functional.mse_loss(taken(network, rows), target)

        minimize(network, loss, rows_where(folds != fold), options.critic_updates, options, random)
        with torch.no_grad():
            for rows in rows_where(folds == fold).split(PREDICTED_AT_ONCE):
                of_actions[rows] = clip_values(taken(network, rows)[:, None], ends, rows)[:, 0].double() * scale
                of_states[rows] = state(network, rows).double() * scale
    return of_actions.numpy(), of_states.numpy()


def rows_where(selected: Bool[np.ndarray, "N"]) -> Int[Tensor, "_"]:
    """Return the numbers of the selected steps."""
    return torch.from_numpy(np.flatnonzero(selected))


def make_network(inputs: int, outputs: int, options: FitOptions, random: np.random.Generator) -> nn.Sequential:
    """Return a new network whose weights follow from ``random`` alone."""
    # Nothing else may depend on how many networks were made here.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random.integers(2**31)))
        width = options.hidden_size
        return nn.Sequential(
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, outputs),
        )


def minimize(
    network: nn.Module,
    loss: Callable[[Int[Tensor, "B"]], Tensor],
    rows: Int[Tensor, "_"],
    updates: int,
    options: FitOptions,
    random: np.random.Generator,
) -> None:
    """Run Adam on random batches of ``rows``, with a learning rate that falls to 0."""
    optimizer = torch.optim.Adam(network.parameters(), options.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        batch = rows[torch.from_numpy(random.integers(0, len(rows), _BATCH))]
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _predict(
    network: nn.Module, features: StepFeatures, rows: Int[Tensor, "_"], allowed: Bool[Tensor, "N A"] | None
) -> Float[Tensor, "_ A"]:
    parts = [_masked(network(features.read(part)), allowed, part) for part in rows.split(PREDICTED_AT_ONCE)]
    return torch.cat(parts)


def _masked(
    logits: Float[Tensor, "B A"], allowed: Bool[Tensor, "N A"] | None, rows: Int[Tensor, "B"]
) -> Float[Tensor, "B A"]:
    return logits if allowed is None else logits.masked_fill(~allowed[rows], -torch.inf)


def _temperature(logits: Float[Tensor, "_ A"], actions: Int[Tensor, "_"]) -> float:
    """Return the number that makes the likelihood of held-out actions largest when logits are divided by it."""
    # A grid is enough for one number, and cannot fail to converge.
    candidates = torch.linspace(-1.5, 1.5, 61).exp()
    losses = [float(functional.cross_entropy(logits / value, actions)) for value in candidates]
    return float(candidates[int(np.argmin(losses))])

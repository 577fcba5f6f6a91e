"""Small networks fitted to a log, and those of them that estimate values of a judged policy's actions.

Every step is predicted by a network that was fitted without its fold, so that no episode judges itself. What the behavior
does is estimated in `behavior`.

Shapes: N steps, A actions, K of them, B steps of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rl_transformer.critics.features import StepFeatures
from rl_transformer.critics.possible_returns import clip_values, possible_returns
from rl_transformer.runtime.machine import cpu_threads
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int

_BATCH = 512
PREDICTED_AT_ONCE = 8192


@dataclass(frozen=True)
class FitOptions:
    """Sizes of the networks and of their training."""

    hidden_size: int = 128
    """The critic's."""
    behavior_updates: int = 8000
    """Largest number of updates of a behavior model; unseen episodes decide how many are best."""
    critic_updates: int = 4000
    learning_rate: float = 1e-3
    """The critic's; behavior models use a larger one."""
    target_rate: float = 0.05
    """Rate at which the critic's target network moves towards it after each update."""
    seed: int = 0


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
        network = make_network(*sizes, options.hidden_size, random)
        # Targets come from a copy that follows slowly: a network that chases its own predictions may run away.
        following = make_network(*sizes, options.hidden_size, random)
        following.load_state_dict(network.state_dict())

        def loss(rows: Int[Tensor, "B"], network: nn.Module = network, following: nn.Module = following) -> Tensor:
            after = torch.clamp(rows + 1, max=len(folds) - 1)
            with torch.no_grad():
                # At the next logged step it is the policy that acts, not the behavior.
                target = scaled[rows] + state(following, after) * goes_on[rows]
                follow(list(following.parameters()), list(network.parameters()), None)
            return functional.mse_loss(taken(network, rows), target)

        minimize(network, loss, rows_where(folds != fold), options.critic_updates, options.learning_rate, random)
        with torch.no_grad():
            for rows in rows_where(folds == fold).split(PREDICTED_AT_ONCE):
                of_actions[rows] = clip_values(taken(network, rows)[:, None], ends, rows)[:, 0].double() * scale
                of_states[rows] = state(network, rows).double() * scale
    return of_actions.numpy(), of_states.numpy()


def rows_where(selected: Bool[np.ndarray, "N"]) -> Int[Tensor, "_"]:
    """Return the numbers of the selected steps."""
    return torch.from_numpy(np.flatnonzero(selected))


def make_network(
    inputs: int, outputs: int, width: int, random: np.random.Generator, *, hidden_layers: int = 2
) -> nn.Sequential:
    """Return a new network whose weights follow from ``random`` alone."""
    # Nothing else may depend on how many networks were made here.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random.integers(2**31)))
        widths = [inputs, *[width] * hidden_layers]
        hidden = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(width, outputs))


# Networks this small gain nothing from a second thread, and where other programs use the cores threads wait for each other: that
# took more than five times as long.
@cpu_threads(1)
def minimize(
    network: nn.Module,
    loss: Callable[[Int[Tensor, "B"]], Tensor],
    rows: Int[Tensor, "_"],
    updates: int,
    learning_rate: float,
    random: np.random.Generator,
) -> None:
    """Run Adam on random batches of ``rows``, with a learning rate that falls to 0."""
    optimizer = torch.optim.Adam(network.parameters(), learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        batch = rows[torch.from_numpy(random.integers(0, len(rows), _BATCH))]
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
        schedule.step()

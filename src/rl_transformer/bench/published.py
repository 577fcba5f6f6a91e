"""The baseline: `transformers.DecisionTransformerModel` in the published loop.

Written from the description of the published code (kzl `gym/experiment.py`, `seq_trainer.py` and
`evaluate_episodes.py`), for measurements only. Nothing here slows it: the model has transformers'
defaults with its fast attention, losses are not read back, and no diagnostics are computed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.errors import require
from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.trajectories import TrajectoryDataset

if TYPE_CHECKING:
    import gymnasium as gym

_MAX_STEPS = 1000
_NOT_OF_THE_MODEL = ("architectures", "model_type", "dtype")
"""Fields of config.json that transformers writes itself."""


def published_model(config: DecisionTransformerConfig) -> nn.Module:
    """Return a new model of transformers with our configuration's sizes."""
    require("transformers", extra="lm", purpose="the published baseline")
    import transformers

    sizes = {name: value for name, value in config.to_hf_dict().items() if name not in _NOT_OF_THE_MODEL}
    return transformers.DecisionTransformerModel(transformers.DecisionTransformerConfig(**sizes))


def load_published_model(folder: Path) -> nn.Module:
    """Load a model from a folder in transformers' layout."""
    require("transformers", extra="lm", purpose="the published baseline")
    import transformers

    return cast(nn.Module, transformers.DecisionTransformerModel.from_pretrained(folder)).eval()


class PublishedSampler:
    """Draws a batch one window at a time, in Python.

    For each window it draws an episode by its length and a start in it, slices the columns, sums
    returns-to-go over the rest of the episode, pads on the left (actions with -10) and normalizes; then it
    makes one tensor per column.
    """

    def __init__(
        self, dataset: TrajectoryDataset, *, context_length: int, scale: float, max_ep_len: int, seed: int
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.context_length = context_length
        self.scale = scale
        self.max_ep_len = max_ep_len
        self.episodes = [dataset.trajectory(index) for index in range(len(dataset))]
        statistics = dataset.statistics
        assert statistics is not None
        self.mean = statistics.mean
        self.std = statistics.scale
        # The published code sorts episodes by return first, which changes which ones equal random numbers choose.
        lengths = dataset.lengths
        order = np.argsort(dataset.episode_returns)
        self.order = order
        self.probabilities = lengths[order] / lengths.sum()

    def draw(self, batch_size: int) -> tuple[Tensor, ...]:
        """Return states, actions, returns-to-go, timesteps and mask of a batch, (B, K, ...) each."""
        chosen = self.random.choice(len(self.order), size=batch_size, replace=True, p=self.probabilities)
        columns: list[list[np.ndarray]] = [[], [], [], [], []]
        for position in chosen:
            for column, part in zip(columns, self._window(int(self.order[position])), strict=True):
                column.append(part)
        dtypes = (torch.float32, torch.float32, torch.float32, torch.long, torch.long)
        return tuple(
            torch.from_numpy(np.concatenate(column, axis=0)).to(dtype=dtype)
            for column, dtype in zip(columns, dtypes, strict=True)
        )

    def _window(self, index: int) -> tuple[np.ndarray, ...]:
        """Return states, actions, returns-to-go, timesteps and mask of a random window of an episode: (1, K, ...)."""
        episode = self.episodes[index]
        length = self.context_length
        # Any step may be the first of a window, so most windows at the end of an episode are short and padded.
        start = int(self.random.integers(0, len(episode.rewards)))
        states = episode.observations[start : start + length][None]
        actions = episode.actions[start : start + length][None]
        num_real = states.shape[1]
        timesteps = np.arange(start, start + num_real)[None]
        timesteps = np.where(timesteps >= self.max_ep_len, self.max_ep_len - 1, timesteps)
        returns = _returns_to_go(episode.rewards[start:])[:num_real][None, :, None]
        missing = length - num_real
        states = np.concatenate([np.zeros((1, missing, states.shape[2])), states], axis=1)
        states = (states - self.mean) / self.std
        # -10 is the published padding of actions; the mask hides it.
        actions = np.concatenate([np.full((1, missing, actions.shape[2]), -10.0), actions], axis=1)
        returns = np.concatenate([np.zeros((1, missing, 1)), returns], axis=1) / self.scale
        timesteps = np.concatenate([np.zeros((1, missing)), timesteps], axis=1)
        mask = np.concatenate([np.zeros((1, missing)), np.ones((1, num_real))], axis=1)
        return states, actions, returns, timesteps, mask


def _returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """Return the sum of the rewards from each step to the end, in a loop over steps as published."""
    sums = np.zeros_like(rewards)
    sums[-1] = rewards[-1]
    for t in reversed(range(len(rewards) - 1)):
        sums[t] = rewards[t] + sums[t + 1]
    return sums


class PublishedTrainer:
    """Makes one update after the other: draw, forward, masked squared error, clip, AdamW, warm-up."""

    def __init__(
        self,
        model: nn.Module,
        sampler: PublishedSampler,
        *,
        batch_size: int,
        precision: str,
        warmup_steps: int = 10_000,
        learning_rate: float = 1e-4,
        cosine_steps: int | None = None,
        max_gradient_norm: float = 0.25,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.train().to(self.device)
        self.sampler = sampler
        self.batch_size = batch_size
        self.precision = precision
        self.max_gradient_norm = max_gradient_norm
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)

        def share_of_rate(steps: int) -> float:
            """Return the share of the learning rate after some updates: warm-up, then constant as published, or a cosine to zero."""
            if cosine_steps is None or steps < warmup_steps:
                return min((steps + 1) / warmup_steps, 1)
            return (1 + math.cos(math.pi * (steps - warmup_steps) / (cosine_steps - warmup_steps))) / 2

        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, share_of_rate)

    def update(self) -> Tensor:
        """Make one update and return its loss, not read back."""
        # One copy per column and update, as published.
        batch = [column.to(self.device) for column in self.sampler.draw(self.batch_size)]
        states, actions, returns, timesteps, mask = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            predicted = self.model(
                states=states, actions=actions, returns_to_go=returns, timesteps=timesteps, attention_mask=mask
            ).action_preds
        # Selecting rows copies them and waits for the mask; it is what the published loop does, so it is timed.
        is_real = mask.reshape(-1) > 0
        width = predicted.shape[2]
        loss = F.mse_loss(predicted.reshape(-1, width)[is_real].float(), actions.reshape(-1, width)[is_real])
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_gradient_norm)
        self.optimizer.step()
        self.scheduler.step()
        return loss.detach()


class PublishedActor:
    """Acts with transformers' model: an episode's history grows, and each action computes the last K steps."""

    def __init__(
        self, model: nn.Module, *, mean: np.ndarray, std: np.ndarray, scale: float, context_length: int
    ) -> None:
        self.model = model
        self.scale = scale
        self.context_length = context_length
        self.mean = torch.as_tensor(mean)
        self.std = torch.as_tensor(std)

    @torch.no_grad()
    def forward(self, states: Tensor, actions: Tensor, returns: Tensor, timesteps: Tensor) -> Tensor:
        """Return the action at the end of a history (1, t, ...): crop, pad left, compute, take the last."""
        length = self.context_length
        states, actions, returns, timesteps = (x[:, -length:] for x in (states, actions, returns, timesteps))
        num_real = states.shape[1]
        missing = length - num_real
        mask = torch.cat([torch.zeros(missing), torch.ones(num_real)]).long()[None]
        padded = [
            torch.cat([torch.zeros(1, missing, *x.shape[2:], dtype=x.dtype), x], dim=1)
            for x in (states, actions, returns, timesteps)
        ]
        predicted = self.model(
            states=padded[0], actions=padded[1], returns_to_go=padded[2], timesteps=padded[3], attention_mask=mask
        )
        return predicted.action_preds[0, -1]

    def episode(
        self, environment: gym.Env, target_return: float, seed: int, max_steps: int = _MAX_STEPS
    ) -> tuple[float, int]:
        """Run one episode and return its return and length."""
        shape = environment.action_space.shape
        assert shape is not None
        observation, _ = environment.reset(seed=seed)
        states = torch.as_tensor(observation, dtype=torch.float32)[None]
        actions = torch.zeros(0, *shape)
        timesteps = torch.zeros(1, 1, dtype=torch.long)
        returns = torch.tensor([[target_return / self.scale]], dtype=torch.float32)
        total = 0.0
        for t in range(max_steps):
            actions = torch.cat([actions, torch.zeros(1, *shape)])
            normalized = (states - self.mean) / self.std
            action = self.forward(normalized[None], actions[None], returns[..., None], timesteps)
            actions[-1] = action
            observation, reward, terminated, truncated, _ = environment.step(action.numpy())
            total += float(reward)
            states = torch.cat([states, torch.as_tensor(observation, dtype=torch.float32)[None]])
            returns = torch.cat([returns, returns[:, -1:] - float(reward) / self.scale], dim=1)
            timesteps = torch.cat([timesteps, torch.full((1, 1), t + 1)], dim=1)
            if terminated or truncated:
                return total, t + 1
        return total, max_steps

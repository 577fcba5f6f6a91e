"""The baseline for Atari: the published model of images and buttons, its training step and its way of playing.

Written from the description of the published code (kzl `atari/`, after minGPT), for measurements only. As there, windows
are made one at a time in Python, attention is written out, the history of a game is one growing tensor of float images,
and games are played one after the other.

Shapes: B windows, T timesteps, L tokens (3 per timestep), E width, A actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.trajectories import TrajectoryDataset

PIXELS = (4, 84, 84)
_DROPOUT = 0.1


class _Block(nn.Module):
    """A transformer block with attention as separate operations."""

    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.attention_dropout = nn.Dropout(_DROPOUT)
        self.residual_dropout = nn.Dropout(_DROPOUT)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(_DROPOUT)
        )
        self.mask: Tensor
        self.register_buffer("mask", torch.tril(torch.ones(tokens, tokens)).view(1, 1, tokens, tokens))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))

    def _attend(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            part(x).view(batch, length, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = (query @ key.transpose(-2, -1)) / math.sqrt(key.shape[-1])
        scores = scores.masked_fill(self.mask[:, :, :length, :length] == 0, float("-inf"))
        mixed = self.attention_dropout(F.softmax(scores, dim=-1)) @ value
        return self.residual_dropout(self.project(mixed.transpose(1, 2).reshape(batch, length, width)))


class PublishedAtariModel(nn.Module):
    """The published model for Atari, with the sizes of one of our configurations."""

    def __init__(self, config: DecisionTransformerConfig, context_length: int) -> None:
        super().__init__()
        width = config.hidden_size
        actions = config.act_dim
        tokens = 3 * context_length
        self.context_length = context_length
        self.state_encoder = nn.Sequential(
            nn.Conv2d(PIXELS[0], 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, width),
            nn.Tanh(),
        )
        self.return_embedding = nn.Sequential(nn.Linear(1, width), nn.Tanh())
        self.action_embedding = nn.Sequential(nn.Embedding(actions, width), nn.Tanh())
        self.local_positions = nn.Parameter(torch.zeros(1, tokens + 1, width))
        self.global_positions = nn.Parameter(torch.zeros(1, config.max_ep_len + 1, width))
        self.dropout = nn.Dropout(_DROPOUT)
        self.blocks = nn.Sequential(*(_Block(width, config.n_head, tokens) for _ in range(config.n_layer)))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, actions, bias=False)

    def forward(self, states: Tensor, actions: Tensor | None, returns: Tensor, timesteps: Tensor) -> Tensor:
        """Return logits (B, T, A).

        Args:
            states: (B, T, 4 * 84 * 84), in [0, 1].
            actions: (B, T, 1), or (B, T - 1, 1) while acting; None at a game's first step.
            returns: (B, T, 1).
            timesteps: (B, 1, 1), of the window's first step.
        """
        batch, steps = states.shape[:2]
        encoded = self.state_encoder(states.reshape(-1, *PIXELS).float()).reshape(batch, steps, -1)
        acted = steps if actions is None else actions.shape[1]
        # While acting, the newest step has no action yet, and its third token is left out.
        tokens = encoded.new_zeros(batch, 3 * steps - int(actions is None or acted < steps), encoded.shape[2])
        tokens[:, ::3] = self.return_embedding(returns.float())
        tokens[:, 1::3] = encoded
        if actions is not None:
            tokens[:, 2::3] = self.action_embedding(actions.long().squeeze(-1))
        # As published: all tokens of a window share the global position of its first step; local ones tell them apart.
        every = self.global_positions.repeat_interleave(batch, dim=0)
        first = torch.gather(every, 1, timesteps.repeat_interleave(every.shape[-1], dim=-1))
        x = self.dropout(tokens + first + self.local_positions[:, : tokens.shape[1]])
        return self.head(self.ln_f(self.blocks(x)))[:, 1::3]


class PublishedAtariTrainer:
    """Makes one update after the other: windows in Python, cross-entropy, clipped gradients, AdamW."""

    def __init__(
        self, model: PublishedAtariModel, dataset: TrajectoryDataset, *, batch_size: int, precision: str
    ) -> None:
        self.model = model.train()
        self.batch_size = batch_size
        self.precision = precision
        self.random = np.random.default_rng(0)
        # Biases and the parameters of layer norms have one axis; they are not decayed.
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        others = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95))
        # As in the published data set every state is a stack of four frames already.
        self.states = _stacked_frames(dataset)
        self.actions = np.asarray(dataset.actions)
        self.returns = np.asarray(dataset.returns_to_go)
        self.timesteps = np.concatenate([np.arange(length) for length in dataset.lengths])
        self.ends = np.repeat(dataset.offsets[1:], dataset.lengths)

    def update(self) -> Tensor:
        """Make one update and return its loss, not read back."""
        windows = [self._window() for _ in range(self.batch_size)]
        states, actions, returns, timesteps = (torch.stack(column) for column in zip(*windows, strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self.model(states, actions, returns, timesteps)
        # In float32 under autocast, too: the sum of exponentials would be coarse in bfloat16.
        loss = F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), actions.reshape(-1))
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()

    def _window(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a random window of an episode, moved back from its end so that it is full."""
        length = self.model.context_length
        index = int(self.random.integers(len(self.actions) - length))
        done = min(int(self.ends[index]), index + length)
        start = done - length
        states = torch.tensor(np.array(self.states[start:done]), dtype=torch.float32).reshape(length, -1) / 255.0
        actions = torch.tensor(self.actions[start:done], dtype=torch.long).unsqueeze(1)
        returns = torch.tensor(self.returns[start:done], dtype=torch.float32).unsqueeze(1)
        timesteps = torch.tensor(self.timesteps[start : start + 1], dtype=torch.int64).unsqueeze(1)
        return states, actions, returns, timesteps


def _stacked_frames(dataset: TrajectoryDataset) -> list[np.ndarray]:
    """Return for every step the last four frames of its episode, the first one repeated."""
    stacks = []
    for begin, end in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True):
        for step in range(begin, end):
            frames = [dataset.observations[max(begin, step - back)] for back in (3, 2, 1, 0)]
            stacks.append(np.concatenate(frames))
    return stacks


@torch.no_grad()
def play(
    model: PublishedAtariModel,
    reset: Callable[[], Tensor],
    step: Callable[[int], tuple[Tensor, float, bool]],
    *,
    target_return: float,
    max_steps: int,
) -> tuple[float, int]:
    """Play one game and return its score and length, with sampled actions.

    Args:
        model: The model.
        reset: Returns the first four frames, (1, 4, 84, 84) in [0, 1].
        step: Takes an action; returns the next frames, the reward, and True at the end.
        target_return: The return to ask for.
        max_steps: Steps after which the game is cut off.
    """
    model.eval()
    state = reset().unsqueeze(0).reshape(1, 1, -1)
    states = state
    returns = [target_return]
    actions: list[int] = []
    score = 0.0
    for t in range(max_steps):
        length = model.context_length
        window = states[:, -length:]
        # One action fewer than states, because that of the newest state is about to be chosen.
        chosen = torch.tensor(actions[t + 1 - window.shape[1] :], dtype=torch.long)[None, :, None] if actions else None
        asked = torch.tensor(returns[-window.shape[1] :])[None, :, None]
        first = torch.full((1, 1, 1), t + 1 - window.shape[1], dtype=torch.int64)
        logits = model(window, chosen, asked, first)
        action = int(torch.multinomial(F.softmax(logits[0, -1], dim=-1), 1))
        actions.append(action)
        following, reward, done = step(action)
        score += reward
        if done:
            return score, t + 1
        # Copies the whole game at every step, as the published loop does; this is part of what is measured.
        states = torch.cat([states, following.reshape(1, 1, -1)], dim=1)
        returns.append(returns[-1] - reward)
    return score, max_steps

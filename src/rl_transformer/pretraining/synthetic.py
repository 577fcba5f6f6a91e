"""Random sequences to pretrain on (Wang et al. 2024): one-step Markov chains, and their control without structure."""

from __future__ import annotations

import numpy as np
import torch

from rl_transformer.pretraining.config import SyntheticConfig
from rl_transformer.pretraining.text import TextBatch
from rl_transformer.windows.sampling import WindowIndex

_SITE = 0x5C


class RandomSequences:
    """Draws fresh sequences, (seed, step) after (seed, step); `Trainer` takes it for sampler and gatherer.

    The transition probabilities are those of the paper's code: those from state i are
    softmax(u / temperature) with u uniform from numpy's generator of ``chain_seed`` + 1 + i, the first
    state's likewise from ``chain_seed``. Its training set of 128,000 sequences is not kept: every sequence is new.
    """

    on_device = False

    def __init__(self, config: SyntheticConfig, seed: int, device: torch.device) -> None:
        self.config, self.seed, self.device, self.length = config, seed, device, config.length + 1
        rows = [self._distribution(config.chain_seed + i) for i in range(config.states + 1)]
        self._first, self._next = rows[0].cumsum(), np.cumsum(rows[1:], axis=1)
        self.transitions = np.array(rows[1:])
        """(S, S) probabilities of the next state, a row a state."""

    def _distribution(self, seed: int) -> np.ndarray:
        if self.config.uri == "iid":
            return np.full(self.config.states, 1 / self.config.states)
        scores = np.random.default_rng(seed).random(self.config.states) / self.config.temperature
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()

    def entropy(self) -> float:
        """Return the mean surprise (nats) of the next state: what no model can do better than."""
        values, vectors = np.linalg.eig(self.transitions.T)
        stationary = np.real(vectors[:, np.argmax(np.real(values))])
        stationary = stationary / stationary.sum()
        possible = np.maximum(self.transitions, 1e-300)  # 0 log 0 is 0
        return float(-(stationary[:, None] * self.transitions * np.log(possible)).sum())

    def draw(self, step: int, batch_size: int) -> WindowIndex:
        """Return a seed for each sequence of update ``step``."""
        seeds = np.random.default_rng([self.seed, step, _SITE]).integers(0, 2**63, batch_size)
        return WindowIndex(seeds, np.zeros(batch_size, np.int64))

    def gather(self, index: WindowIndex) -> TextBatch:
        """Draw the sequences."""
        uniforms = np.stack([np.random.default_rng(int(seed)).random(self.length) for seed in index.rows])
        states = np.empty(uniforms.shape, np.int64)
        states[:, 0] = np.searchsorted(self._first, uniforms[:, 0])
        last = self.config.states - 1
        for place in range(1, self.length):
            # Rounding may leave a distribution's total just below 1.
            states[:, place] = (self._next[states[:, place - 1]] < uniforms[:, place, None]).sum(1).clip(max=last)
        states[:, 0] = states[:, 0].clip(max=last)
        return TextBatch(torch.from_numpy(states).to(self.device))

    def count_valid(self, index: WindowIndex) -> int:
        """Return the number of states that are predicted."""
        return len(index.rows) * (self.length - 1)

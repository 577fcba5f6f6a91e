"""Generate random sequences to pretrain on: Markov chains, and independent states as a control (Wang et al. 2024)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rl_transformer.language.config import SyntheticConfig
from rl_transformer.runtime.random_streams import Stream, generator


class RandomSequences:
    """Generates new random sequences for every (seed, step); a `BatchSource`.

    The transition probabilities are those of the paper's code. From state i they are softmax(u / temperature), with u
    drawn uniformly by NumPy's generator with the seed ``chain_seed`` + 1 + i; the distribution of the first state uses
    ``chain_seed``. The paper's code repeats 128,000 sequences; here every sequence is new.

    Args:
        config: Kind and sizes of the sequences.
        batch_size: Sequences per update.
        seed: Seed of the run.
        device: Device of the batches.
    """

    def __init__(self, config: SyntheticConfig, *, batch_size: int, seed: int, device: torch.device) -> None:
        self.config = config
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.length = config.length + 1
        # chain_seed is separate from the run's seed: all training seeds of an experiment learn the same chain.
        rows = [self._distribution(config.chain_seed + i) for i in range(config.states + 1)]
        # Cumulative distributions: a uniform number selects a state by a comparison with them (inverse transform).
        self._first = rows[0].cumsum()
        self._next = np.cumsum(rows[1:], axis=1)
        self.transitions = np.array(rows[1:])
        """(S, S) probabilities of the next state, one row per state."""

    def _distribution(self, seed: int) -> np.ndarray:
        if self.config.uri == "iid":
            return np.full(self.config.states, 1 / self.config.states)
        scores = np.random.default_rng(seed).random(self.config.states) / self.config.temperature
        weights = np.exp(scores - scores.max())  # shifted, because exp would overflow at low temperatures
        return weights / weights.sum()

    def entropy(self) -> float:
        """Return the entropy (nats) of the next state given the current one, the lowest loss that a model can reach."""
        # States count by how often a long sequence visits them: the stationary distribution, which is the left
        # eigenvector of the transition matrix with the eigenvalue 1, the largest one.
        values, vectors = np.linalg.eig(self.transitions.T)
        stationary = np.real(vectors[:, np.argmax(np.real(values))])
        stationary = stationary / stationary.sum()
        possible = np.maximum(self.transitions, 1e-300)  # 0 log 0 is 0
        return float(-(stationary[:, None] * self.transitions * np.log(possible)).sum())

    def draw(self, step: int) -> np.ndarray:
        """Return one seed for each sequence of update ``step``: (B,)."""
        return self.draw_seeds(step, self.batch_size)

    def draw_seeds(self, step: int, count: int) -> np.ndarray:
        """Return the seeds of ``count`` sequences: (count,) int64."""
        return generator(Stream.SYNTHETIC_SEQUENCES, self.seed, step).integers(0, 2**63, count)

    def gather(self, index: np.ndarray) -> Tensor:
        """Return the sequences with the seeds ``index`` (B,): (B, L) int64."""
        # A generator per sequence: a process that gathers only its shard gets the same sequences as a single process.
        uniforms = np.stack([np.random.default_rng(int(seed)).random(self.length) for seed in index])
        states = np.empty(uniforms.shape, np.int64)
        states[:, 0] = np.searchsorted(self._first, uniforms[:, 0])
        last = self.config.states - 1
        for t in range(1, self.length):
            # By rounding, a cumulative distribution may end just below 1, and a uniform number may be above it.
            states[:, t] = (self._next[states[:, t - 1]] < uniforms[:, t, None]).sum(1).clip(max=last)
        states[:, 0] = states[:, 0].clip(max=last)
        return torch.from_numpy(states).to(self.device)

    def count_valid(self, index: np.ndarray) -> int:
        """Return the number of states that are predicted: all but the first of each sequence."""
        return len(index) * (self.length - 1)

    def describe(self, index: np.ndarray) -> str:
        """Return a text with the seeds of the sequences, for error messages."""
        return f"sequences with the seeds {', '.join(map(str, index[:20].tolist()))}"

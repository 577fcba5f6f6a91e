"""A Markov decision process with finitely many states: exact values, and logs of any size.

Shapes: S states, A actions, E episodes, N steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rl_transformer.critics.tabular import TabularLog
from rl_transformer.errors import RLTransformerError


@dataclass(frozen=True)
class FiniteMDP:
    """States, actions, rewards and how they follow each other; what is missing of a probability ends the episode."""

    transitions: np.ndarray
    """(S, A, S): probability of each next state; the rows sum to 1 or less."""
    rewards: np.ndarray
    """(S, A): expected reward."""
    start: np.ndarray
    """(S,): probability of each first state."""
    end_rewards: bool = False
    """True: the reward is drawn, 0 or 1, when the episode ends; False: it is paid as expected at every step."""

    def state_values(self, policy: np.ndarray) -> np.ndarray:
        """Return the exact value of each state (S,) under a policy (S, A)."""
        moves = np.einsum("sa,sat->st", policy, self.transitions)
        return np.linalg.solve(np.eye(len(moves)) - moves, (policy * self.rewards).sum(1))

    def value(self, policy: np.ndarray) -> float:
        """Return the exact expected return."""
        return float(self.start @ self.state_values(policy))

    def action_values(self, policy: np.ndarray) -> np.ndarray:
        """Return the exact value of each action (S, A)."""
        return self.rewards + self.transitions @ self.state_values(policy)

    @cached_property
    def best_action_values(self) -> np.ndarray:
        """Return the action values (S, A) of the best policy."""
        values = np.zeros(len(self.start))
        while True:
            by_action = self.rewards + self.transitions @ values
            if np.abs(by_action.max(1) - values).max() < 1e-12:
                return by_action
            values = by_action.max(1)

    @cached_property
    def _cumulative(self) -> np.ndarray:
        # In float32, because a table of all triples is large; the last column closes the gap to 1, which is the end.
        return self.transitions.cumsum(2).astype(np.float32)

    def sample(self, policy: np.ndarray, episodes: int, random: np.random.Generator) -> tuple[TabularLog, np.ndarray]:
        """Return logged episodes of a policy, and their offsets (E + 1,)."""
        states = draw_numbers(np.broadcast_to(self.start.cumsum(), (episodes, len(self.start))), random)
        live = np.arange(episodes)
        parts: list[tuple[np.ndarray, ...]] = []
        choose = policy.cumsum(1)
        while len(live):
            actions = np.minimum(draw_numbers(choose[states], random), policy.shape[1] - 1)
            # A number beyond the last cumulative probability is the end of the episode.
            following = draw_numbers(self._cumulative[states, actions], random)
            ends = following == len(self.start)
            parts.append((live, states, actions, self._draw_rewards(states, actions, ends, random), ends))
            live = live[~ends]
            states = following[~ends]
        episode, state, action, reward, last = (np.concatenate(column) for column in zip(*parts, strict=True))
        # Collected timestep by timestep; a stable sort brings them into episodes.
        order = np.argsort(episode, kind="stable")
        offsets = np.append(0, np.cumsum(np.bincount(episode, minlength=episodes)))
        columns = (state[order], action[order], reward[order], last[order])
        return TabularLog(*columns, len(self.start), policy.shape[1]), offsets

    def _draw_rewards(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        ends: np.ndarray,
        random: np.random.Generator,
    ) -> np.ndarray:
        """Return the rewards of some steps."""
        expected = self.rewards[states, actions]
        if not self.end_rewards:
            return expected
        # The expected reward is the probability to end with a reward, so given the end it is divided by that of the end.
        ending = np.maximum(1 - self.transitions[states, actions].sum(1), 1e-300)
        return np.where(ends & (random.random(len(states)) < expected / ending), 1.0, 0.0)


def draw_numbers(cumulative: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return one number per row of cumulative probabilities, drawn with them."""
    return numbers_at(cumulative, random.random(len(cumulative), np.float64))


def numbers_at(cumulative: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Return the number that a uniform draw in [0, 1) stands for, for each row of cumulative probabilities."""
    return (uniforms[:, None] >= cumulative).sum(1)


@cache
def icu_sepsis() -> tuple[FiniteMDP, np.ndarray]:
    """Return ICU-Sepsis (Choudhary et al. 2024) and the clinicians' policy: 713 states, 25 actions, 1 for survival.

    Raises:
        RLTransformerError: The package icu-sepsis is not installed.
    """
    # Its file is read, and the package not imported: that would import the unmaintained gym. For the same reason it is in no
    # extra, which would install what it depends on.
    spec = find_spec("icu_sepsis")
    if spec is None or spec.submodule_search_locations is None:
        raise RLTransformerError(
            "ICU-Sepsis needs the data of the package icu-sepsis, which is not installed",
            where="icu_sepsis",
            fix="pip install --no-deps icu-sepsis==2.0.1",
        )
    with np.load(Path(spec.submodule_search_locations[0]) / "envs/assets/dynamics.npz") as arrays:
        transitions = arrays["tx_mat"]
        rewards = (transitions * arrays["r_mat"]).sum(2)
        start = arrays["d_0"]
        clinicians = arrays["expert_policy"]
    # The last three states are the ends: death, survival, and what follows them.
    live = slice(0, len(start) - 3)
    mdp = FiniteMDP(transitions[live, :, live], rewards[live], start[live], end_rewards=True)
    return mdp, clinicians[live]

"""Step live episodes together: one forward pass for all of them, and the next episode in a slot that becomes free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rl_transformer.conditions.interface import Target
from rl_transformer.environments.live import LiveEnvironment
from rl_transformer.policy import Policy
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.nested import stack


@dataclass
class Episode:
    """Holds the target and the result of one live episode, in the environment's units."""

    target_return: float | None
    seed: int
    episode_return: float = 0.0
    episode_length: int = 0
    achieved: float | None = None
    """What it achieved in the unit of the policy's targets, if that is not the sum of the rewards."""
    outcomes: dict[str, float] = field(default_factory=dict)
    """Sums of further outcomes, such as cost."""
    truncated_by_limit: bool = False
    """The episode was cut off by the limit of the evaluation, and not ended by the environment."""
    frames: list[np.ndarray] = field(default_factory=list)
    """(height, width, 3) uint8 images, one per step, if the episode was recorded."""


@dataclass(frozen=True)
class Assignment:
    """Describes what to run: one episode for each pair of target return and seed."""

    target_returns: Sequence[float | None]
    """One per episode; None for policies that take none."""
    seeds: Sequence[int]
    """Seeds of environment and policy, one per episode."""
    targets: Mapping[str, Target] | None = None
    """Targets of further conditions, the same in all episodes."""
    record: int = 0
    """Store the frames of the first N episodes."""
    max_live: int | None = None
    """Environments at the same time, over all processes; None: `episodes.MAX_LIVE` per process."""
    max_steps: int | None = None
    """Steps after which an episode is cut off; None: no limit."""


class EpisodeLoop:
    """Runs all episodes in the given environments, one slot each, and writes the results into the episodes."""

    def __init__(
        self,
        policy: Policy,
        environments: list[LiveEnvironment],
        episodes: list[Episode],
        assignment: Assignment,
        finish_episode: Callable[[], None],
    ) -> None:
        self._environments = environments
        self._episodes = episodes
        self._assignment = assignment
        self._finish_episode = finish_episode
        slots = len(environments)
        self._running = list(range(slots))  # index of the episode in each slot
        self._waiting = iter(range(slots, len(episodes)))
        first = episodes[:slots]
        self._sessions = policy.sessions(
            [e.target_return for e in first], [e.seed for e in first], targets=assignment.targets
        )
        self._returns = policy.spec.returns
        self._rewards: list[list[float]] = [[] for _ in environments]
        self._outcome_names = sorted({condition.outcome for condition in policy.spec.conditions} - {"reward"})

    def run(self, observation: Nested, check: Callable[[], None]) -> None:
        """Run all episodes; ``observation`` is the first one of slot 0, which is reset already."""
        others = zip(self._environments[1:], self._episodes[1:], strict=False)
        observations = [observation, *(environment.reset(episode.seed) for environment, episode in others)]
        live = list(range(len(self._environments)))
        while live:
            check()
            # One forward pass for all live slots. Ended slots are left out, so the batch shrinks towards the end.
            actions = self._sessions.act(live, stack([observations[slot] for slot in live]), self._allowed(live))
            rewards = []
            outcomes: dict[str, list[float]] = {name: [] for name in self._outcome_names}
            ended = []
            for slot, action in zip(live, actions, strict=True):
                observations[slot], reward, is_over = self._step(slot, action, outcomes)
                rewards.append(reward)
                if is_over:
                    ended.append(slot)
            # Sessions observe before ended slots are reset, because the rewards of an episode's last step are among
            # these.
            self._sessions.observe(live, rewards, **outcomes)
            for slot in ended:
                following = self._begin_next(slot)
                if following is None:
                    live.remove(slot)
                else:
                    observations[slot] = following

    def _allowed(self, live: list[int]) -> np.ndarray | None:
        """Return the masks of legal actions of the live slots, (R, M), or None if no environment restricts them."""
        masks = [self._environments[slot].allowed() for slot in live]
        given = next((mask for mask in masks if mask is not None), None)
        if given is None:
            return None
        return np.stack([np.ones_like(given) if mask is None else mask for mask in masks])

    def _step(self, slot: int, action: Nested, outcomes: dict[str, list[float]]) -> tuple[Nested, float, bool]:
        """Execute an action; return the next observation, the reward and whether the episode is over."""
        episode = self._episodes[self._running[slot]]
        environment = self._environments[slot]
        observation, reward, terminated, truncated = environment.step(action)
        episode.episode_return += reward
        episode.episode_length += 1
        for name, values in outcomes.items():
            value = environment.outcome(name)
            values.append(value)
            episode.outcomes[name] = episode.outcomes.get(name, 0.0) + value
        if self._running[slot] < self._assignment.record:
            episode.frames.append(environment.render())
        is_over = terminated or truncated
        if not is_over and episode.episode_length == self._assignment.max_steps:
            episode.truncated_by_limit = True
            is_over = True
        if self._returns.note is not None:
            self._rewards[slot].append(reward)
            if is_over:
                episode.achieved = self._returns.of_episode(np.array(self._rewards[slot]))
                self._rewards[slot].clear()
        return observation, reward, is_over

    def _begin_next(self, slot: int) -> Nested | None:
        """Begin the next waiting episode in a slot and return its first observation; None if none is waiting."""
        self._finish_episode()
        following = next(self._waiting, None)
        if following is None:
            return None
        self._running[slot] = following
        episode = self._episodes[following]
        self._sessions.reset([slot], [episode.target_return], [episode.seed])
        return self._environments[slot].reset(episode.seed)

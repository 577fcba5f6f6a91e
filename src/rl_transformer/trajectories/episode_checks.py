"""Checks that compare whole episodes with each other: their units, ends, returns and actions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding, shifted
from rl_transformer.trajectories.nested import leaves
from rl_transformer.trajectories.trajectory import Trajectory

# An episode is in another unit if both size and spread of a feature are this many times those of the others.
_UNIT = 30.0
_USUAL = 4.0
_MOST = 0.9
_FEWEST_STEPS = 10
_FEWEST_EPISODES = 10
_MOST_NUMBERS = 20_000_000
_MANY = 20
_MOST_ACTIONS = 4_096

_STILL = 0.01
"""Above this share of steps that change no observation, a final one that equals the last is no surprise."""


class Units:
    """Finds episodes in which a feature is many times larger or smaller than in all others."""

    def __init__(self) -> None:
        self._sizes: list[np.ndarray] = []
        self._spreads: list[np.ndarray] = []
        self._episodes: list[int] = []
        self._num_numbers = 0

    def add(self, episode: int, offsets: np.ndarray, rows: Trajectory, actions: np.ndarray) -> None:
        """Keep size and spread of every feature of each episode; see `StepCheck`."""
        arrays = [a.reshape(len(a), -1) for a in leaves(rows.observations, "").values()]
        if any(a.dtype.kind != "f" for a in arrays) or self._num_numbers > _MOST_NUMBERS:
            return
        values = np.concatenate(arrays, axis=1) if len(arrays) > 1 else arrays[0]
        lengths = np.diff(offsets)
        if lengths.max(initial=0) < _FEWEST_STEPS:
            return
        # In the recorded precision: it is about factors of 30, and copies of large blocks take most of the time.
        with np.errstate(over="ignore", invalid="ignore"):
            means = np.add.reduceat(values, offsets[:-1]) / lengths[:, None]
            squares = np.add.reduceat(np.square(values - np.repeat(means, lengths, axis=0)), offsets[:-1])
            sizes = np.add.reduceat(np.abs(values), offsets[:-1]) / lengths[:, None]
            spreads = np.sqrt(squares / lengths[:, None])
        for index in np.flatnonzero(lengths >= _FEWEST_STEPS):
            self._sizes.append(sizes[index])
            self._spreads.append(spreads[index])
            self._episodes.append(episode + int(index))
            self._num_numbers += 2 * values.shape[1]

    def join(self, later: Units, first_episode: int) -> None:
        """Take over what was seen of later episodes; see `StepCheck`."""
        if self._num_numbers <= _MOST_NUMBERS:
            self._sizes += later._sizes
            self._spreads += later._spreads
            self._episodes += [first_episode + episode for episode in later._episodes]
            self._num_numbers += later._num_numbers

    def findings(self) -> Iterator[Finding]:
        """Yield a warning about episodes in another unit."""
        if len(self._episodes) < _FEWEST_EPISODES or len({len(size) for size in self._sizes}) > 1:
            return
        ratios = []
        for values in (np.stack(self._sizes), np.stack(self._spreads)):
            usual = np.median(values, axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios.append(np.abs(np.log(values / usual)))
        size, spread = ratios  # of logarithms: a thousandth is as far as a thousand times
        # Signals that rest in some episodes have no usual spread.
        steady = (spread <= np.log(_USUAL)).mean(axis=0) >= _MOST
        far = steady & (size >= np.log(_UNIT)) & (spread >= np.log(_UNIT)) & np.isfinite(size) & np.isfinite(spread)
        found = np.argwhere(far)
        if len(found):
            positions = [{"episode": self._episodes[e], "feature": int(f)} for e, f in found[:MAX_POSITIONS]]
            problem = f"is more than {_UNIT:g} times larger or smaller than in other episodes, and so is its spread"
            fix = "check whether these episodes were recorded in a different unit, and convert them"
            yield Finding("warning", "unit change", "observations", problem, fix, len(found), positions)


class Actions:
    """Finds dimensions of actions that never change, and discrete actions that were never taken."""

    def __init__(self, spec: DataSpec) -> None:
        space = spec.action_space
        self._is_continuous = space.is_continuous
        self._low: np.ndarray | float = np.inf
        self._high: np.ndarray | float = -np.inf
        self._start = int(space.start) if space.kind == "discrete" else 0
        self._taken = np.zeros(space.n if space.kind == "discrete" and space.n <= _MOST_ACTIONS else 0, bool)
        self._num_steps = 0

    def add(self, episode: int, offsets: np.ndarray, rows: Trajectory, actions: np.ndarray) -> None:
        """Look at the actions of episodes; see `StepCheck`."""
        self._num_steps += len(actions)
        self._low = np.fmin(self._low, actions.min(axis=0))
        self._high = np.fmax(self._high, actions.max(axis=0))
        if len(self._taken):
            numbers = np.unique(actions) - self._start
            inside = numbers[(numbers >= 0) & (numbers < len(self._taken)) & (numbers == np.floor(numbers))]
            self._taken[inside.astype(np.int64)] = True

    def join(self, later: Actions, first_episode: int) -> None:
        """Take over what was seen of later episodes; see `StepCheck`."""
        self._num_steps += later._num_steps
        self._low = np.fmin(self._low, later._low)
        self._high = np.fmax(self._high, later._high)
        self._taken |= later._taken

    def findings(self) -> Iterator[Finding]:
        """Yield findings about what was never done."""
        if self._num_steps < _MANY:
            return
        # In so few steps as above, chance could do this.
        constant = np.flatnonzero(np.atleast_1d(self._low == self._high))
        if constant.size:
            problem = "never changes, so there is nothing to learn about it"
            fix = "check that the right column was recorded as the action, or leave the dimension out"
            positions = [{"feature": int(i)} for i in constant[:MAX_POSITIONS]]
            yield Finding("warning", "constant action", "actions", problem, fix, constant.size, positions)
        unused = np.flatnonzero(~self._taken)
        if unused.size:
            listed = ", ".join(str(int(i) + self._start) for i in unused[:8]) + (" ..." if unused.size > 8 else "")
            problem = f"of the space was never taken: {listed}"
            fix = "nothing, if the policy need not take it; it cannot learn when to"
            positions = [{"action": int(i) + self._start} for i in unused[:MAX_POSITIONS]]
            yield Finding("info", "unused action", "actions", problem, fix, unused.size, positions)


class EndsAndReturns:
    """Finds time limits that were recorded as ends of the task, and returns that are all the same."""

    def __init__(self) -> None:
        self._returns: set[float] = set()
        self._num_episodes = 0
        self._terminated: dict[int, int] = {}
        self._num_truncated = 0

    def add(self, length: int, terminated: bool, truncated: bool, episode_return: float) -> None:
        """Look at the next episode."""
        self._num_episodes += 1
        if len(self._returns) < 2:
            self._returns.add(episode_return)
        if terminated:
            self._terminated[length] = self._terminated.get(length, 0) + 1
        elif truncated:
            self._num_truncated += 1

    def join(self, later: EndsAndReturns) -> None:
        """Take over what was seen of later episodes."""
        self._num_episodes += later._num_episodes
        self._returns |= later._returns
        self._num_truncated += later._num_truncated
        for length, count in later._terminated.items():
            self._terminated[length] = self._terminated.get(length, 0) + count

    def findings(self) -> Iterator[Finding]:
        """Yield findings about ends and returns."""
        if self._num_episodes >= _MANY and len(self._returns) == 1 and self._returns != {0.0}:
            problem = f"are all {next(iter(self._returns)):g}: a different target return has no meaning"
            fix = "train behavior cloning (model.conditions []), or record rewards that differ between episodes"
            yield Finding("warning", "equal returns", "rewards", problem, fix, 1)
        if not self._terminated or self._num_truncated:
            return
        longest = max(self._terminated)
        at_longest = self._terminated[longest]
        # Single steps are bandits. At one length only, the task itself may have it.
        is_limit = at_longest >= _MANY and longest > 1 and len(self._terminated) > 1
        if is_limit and at_longest >= 0.3 * sum(self._terminated.values()):
            problem = f"{at_longest} of {sum(self._terminated.values())} terminated episodes have exactly {longest} steps, the maximum: a time limit seems to be recorded as termination"
            fix = "record these episodes as truncated, if a time limit ended them"
            yield Finding("info", "time limit as an end", "terminated", problem, fix, at_longest)


class FinalObservations:
    """Finds final observations that are copies of the last observation acted on."""

    def __init__(self) -> None:
        self._count = 0
        self._num_episodes = 0
        self._num_steps = 0
        self._num_still = 0
        self._places: list[dict[str, int]] = []

    def add(self, episode: int, trajectory: Trajectory) -> None:
        """Compare the last two observations of an episode."""
        observations, final = trajectory.observations, trajectory.final_observation
        if not isinstance(observations, np.ndarray) or final is None or observations.dtype.kind != "f":
            return
        # Whole numbers, such as positions on a grid, may well stay the same in the last step.
        last = np.asarray(observations[-1])
        if np.shape(final) != last.shape or not (last != np.floor(last)).any():
            return
        self._num_episodes += 1
        # In a maze, for example, a step against a wall changes nothing, and the last step may be one.
        self._num_steps += len(observations) - 1
        same = np.asarray(observations[1:]) == np.asarray(observations[:-1])
        # An episode of one step has no two observations, and NumPy infers no axis of nothing.
        self._num_still += int(same.reshape(len(same), last.size).all(axis=1).sum())
        if (np.asarray(final) == last).all():
            self._count += 1
            if len(self._places) < MAX_POSITIONS:
                self._places.append({"episode": episode})

    def join(self, later: FinalObservations, first_episode: int) -> None:
        """Take over what was seen of later episodes; see `StepCheck`."""
        self._count += later._count
        self._num_episodes += later._num_episodes
        self._num_steps += later._num_steps
        self._num_still += later._num_still
        self._places += shifted(later._places, first_episode)[: MAX_POSITIONS - len(self._places)]

    def findings(self) -> Iterator[Finding]:
        """Yield a warning if some are copies, where observations do not stand still anyway."""
        is_usual = self._num_still > _STILL * self._num_steps
        if self._count and not is_usual:
            problem = "equals the last observation that was acted on, so the one after the last action is missing"
            fix = "record the observation that the last action led to, or leave final observations out"
            yield Finding(
                "warning", "repeated final observation", "final_observation", problem, fix, self._count, self._places
            )

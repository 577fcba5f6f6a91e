"""Find recordings in which the flag of an end is set again after it."""

from __future__ import annotations

from collections.abc import Iterator

from rl_transformer.trajectories.findings import Finding

# Long episodes from which it is no accident that each is followed by exactly one of one step.
_MIN_PAIRS = 3
_ONE_END = "end the episode at the first flag and leave out the steps after it, or record without them"


class ConsecutiveEnds:
    """Finds recordings in which the flag of an end stays set, so that every further step looks like an episode."""

    def __init__(self) -> None:
        # Apart for the two flags: a flag of the task may stay set in data whose other episodes end by a time limit.
        self._num_long = {"terminated": 0, "truncated": 0}
        self._num_followed = {"terminated": 0, "truncated": 0}
        self._num_paired = {"terminated": 0, "truncated": 0}
        self._num_short = 0
        self._num_unflagged = 0  # longer ones without an end
        self._run = 0  # one-step episodes since the last longer one
        self._last_end = ""  # the flag of that longer one

    def add(self, length: int, terminated: bool, truncated: bool) -> None:
        """Count whether one-step episodes follow longer ones."""
        flag = "terminated" if terminated else "truncated" if truncated else ""
        if length > 1:
            if self._is_pair():
                self._num_paired[self._last_end] += 1
            self._last_end = flag
            self._run = 0
            if flag:
                self._num_long[flag] += 1
            else:
                self._num_unflagged += 1
            return
        self._num_short += 1
        self._run = self._run + 1 if flag else 0
        # Two in a row: a single episode of one step may follow any other.
        if self._run == 2 and self._last_end:
            self._num_followed[self._last_end] += 1

    def _is_pair(self) -> bool:
        """Return True if exactly one episode of one step has followed the last longer one."""
        return bool(self._last_end) and self._run == 1

    def findings(self) -> Iterator[Finding]:
        """Yield a warning if most longer episodes that end by one flag are followed by several of one step."""
        yield from self._runs()
        yield from self._pairs()

    def _pairs(self) -> Iterator[Finding]:
        """Yield a warning if nearly all of them are followed by exactly one, as chance would not have it."""
        for flag, num_long in self._num_long.items():
            is_last = flag == self._last_end
            paired = self._num_paired[flag] + (is_last and self._is_pair())
            # What follows the last of them may not have been recorded.
            num_long -= is_last and self._run == 0
            if paired >= _MIN_PAIRS and paired >= 0.9 * num_long:
                problem = f"{paired} of {num_long} longer {flag} episodes are followed by exactly one episode of a single step: an end flag, the same or another one, seems to be set again at the following step"
                yield Finding("warning", "consecutive ends", flag, problem, _ONE_END, paired)

    def _runs(self) -> Iterator[Finding]:
        num_episodes = self._num_short + self._num_unflagged + sum(self._num_long.values())
        by_chance = (self._num_short / max(num_episodes, 1)) ** 2  # two in a row, if the order meant nothing
        for flag, followed in self._num_followed.items():
            share = followed / max(self._num_long[flag], 1)
            # In games such as Blackjack, episodes of one step are many, and runs of them common.
            if share > max(0.5, by_chance + 0.2):
                problem = (
                    f"{self._num_short} episodes have one step, in runs after {followed} of the {self._num_long[flag]} "
                    f"longer {flag} ones: the flag seems to stay set after an end"
                )
                yield Finding("warning", "consecutive ends", flag, problem, _ONE_END, followed)

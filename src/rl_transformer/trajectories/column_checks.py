"""Checks of further columns: times and counters that do not run forward evenly, and next observations that do not follow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding, shifted
from rl_transformer.trajectories.trajectory import Trajectory

_TIME = re.compile(
    r"(?i)(?:^|.*[_ ./])(?:time|times|timestamp|timestamps|date|datetime|clock|unix|at)(?:[_ ]?(?:s|ms|ns|utc))?$"
)
_COUNTER = re.compile(r"(?i)(?:step|steps|timestep|timesteps|time_step|frame|frame_index|index)$")
NEXT_OBSERVATIONS = re.compile(r"(?i)next_?(?:observations?|obs|states?)$")
# A pause is a gap if it is this many times longer than the usual one, as powers of two; usual is the median.
_GAP = 5
_LEAST_EXPONENT = -40
_NUM_EXPONENTS = 128
# Columns in which most steps do not run forward are no clocks, whatever their name is.
_MOST_FORWARD = 0.9


def is_time(name: str) -> bool:
    """Return True if a column with this name holds times."""
    return _TIME.match(name) is not None


@dataclass
class _Clock:
    """What is known of the differences of one column."""

    num_steps: int = 0
    num_ones: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(_NUM_EXPONENTS, np.int64))
    places: dict[str | int, list[dict[str, int]]] = field(default_factory=dict)
    backwards: int = 0
    repeated: int = 0
    skipped: int = 0

    def keep(self, what: str | int, places: list[dict[str, int]]) -> None:
        """Keep the first places."""
        kept = self.places.setdefault(what, [])
        kept += places[: MAX_POSITIONS - len(kept)]


class Clocks:
    """Finds times and counters that run backwards, stand still, or skip something."""

    def __init__(self) -> None:
        self._clocks: dict[str, _Clock] = {}

    def add(self, episode: int, offsets: np.ndarray, rows: Trajectory, actions: np.ndarray) -> None:
        """Look at the columns of episodes; see `StepCheck`."""
        for name, values in rows.extras.items():
            column = np.asarray(values)
            # The name alone would take a flag for a clock; the values alone a total for one.
            is_clock = column.ndim == 1 and column.dtype.kind in "iuf" and (is_time(name) or _COUNTER.match(name))
            if not is_clock or len(column) < 2 or not np.isfinite(column).all():
                continue
            self._add_column(self._clocks.setdefault(name, _Clock()), episode, offsets, column)

    def _add_column(self, clock: _Clock, episode: int, offsets: np.ndarray, column: np.ndarray) -> None:
        # Whole numbers are subtracted as such: times in nanoseconds are beyond what float64 tells apart.
        whole = column.dtype.kind in "iu"
        differences = np.diff(column.astype(np.int64) if whole else column.astype(np.float64)).astype(np.float64)
        # What lies between two episodes is no pause.
        inside = np.ones(len(column) - 1, bool)
        inside[offsets[1:-1] - 1] = False
        clock.num_steps += int(inside.sum())
        clock.num_ones += int((differences[inside] == 1).sum())
        # Powers of two are few, whatever the unit is, so that pauses of any number can be counted.
        exponents = np.clip(np.frexp(differences)[1] - _LEAST_EXPONENT, 0, _NUM_EXPONENTS - 1)
        forward = inside & (differences > 0)
        clock.counts += np.bincount(exponents[forward], minlength=_NUM_EXPONENTS)
        found = {
            "backwards": np.flatnonzero(inside & (differences < 0)),
            "repeated": np.flatnonzero(inside & (differences == 0)),
            "skipped": np.flatnonzero(inside & (differences > 1)),
        }
        for what, at in found.items():
            setattr(clock, what, getattr(clock, what) + len(at))
            clock.keep(what, _places(episode, offsets, at[:MAX_POSITIONS] + 1))
        for exponent in np.unique(exponents[forward]):
            if len(clock.places.get(int(exponent), ())) < MAX_POSITIONS:
                at = np.flatnonzero(forward & (exponents == exponent))[:MAX_POSITIONS]
                clock.keep(int(exponent), _places(episode, offsets, at + 1))

    def join(self, later: Clocks, first_episode: int) -> None:
        """Take over what was seen of later episodes; see `StepCheck`."""
        for name, more in later._clocks.items():
            clock = self._clocks.setdefault(name, _Clock())
            clock.num_steps += more.num_steps
            clock.num_ones += more.num_ones
            clock.counts += more.counts
            clock.backwards += more.backwards
            clock.repeated += more.repeated
            clock.skipped += more.skipped
            for what, places in more.places.items():
                clock.keep(what, shifted(places, first_episode))

    def findings(self) -> Iterator[Finding]:
        """Yield warnings about every clock."""
        for name, clock in self._clocks.items():
            num_forward = int(clock.counts.sum())
            if not num_forward or num_forward < _MOST_FORWARD * clock.num_steps:
                continue
            if clock.backwards:
                fix = "sort the steps by their time, or end the episode there"
                places = clock.places["backwards"]
                yield Finding("warning", "time goes backwards", name, "decreases", fix, clock.backwards, places)
            if clock.repeated:
                fix = "remove copies of steps, or record times that tell them apart"
                places = clock.places["repeated"]
                problem = "is the same as at the step before"
                yield Finding("warning", "repeated time", name, problem, fix, clock.repeated, places)
            yield from _gaps(name, clock)


def _gaps(name: str, clock: _Clock) -> Iterator[Finding]:
    fix = "end the episode there, or find out what the recording left out"
    if _COUNTER.match(name):
        if clock.skipped and clock.num_ones >= _MOST_FORWARD * clock.num_steps:
            places = clock.places["skipped"]
            yield Finding("warning", "missing step", name, "skips numbers", fix, clock.skipped, places)
        return
    usual = int((clock.counts.cumsum() * 2 >= clock.counts.sum()).argmax())
    long = [exponent for exponent in range(usual + _GAP, _NUM_EXPONENTS) if clock.counts[exponent]]
    if long:
        places = sorted((p for e in long for p in clock.places[e]), key=lambda p: (p["episode"], p["step"]))
        problem = f"comes after a pause of more than {2 ** (_GAP - 1)} times the usual one"
        count = int(clock.counts[long].sum())
        yield Finding("warning", "gap in time", name, problem, fix, count, places[:MAX_POSITIONS])


class NextObservations:
    """Compares recorded next observations with the observations of the next steps."""

    def __init__(self) -> None:
        self._count = 0
        self._name = ""
        self._num_steps = 0
        self._places: list[dict[str, int]] = []

    def add(self, episode: int, offsets: np.ndarray, rows: Trajectory, actions: np.ndarray) -> None:
        """Look at the steps of episodes; see `StepCheck`."""
        observations = rows.observations
        if not isinstance(observations, np.ndarray) or len(observations) < 2:
            return
        for name, values in rows.extras.items():
            if NEXT_OBSERVATIONS.match(name) and values.shape == observations.shape:
                differs = (values[:-1] != observations[1:]).reshape(len(values) - 1, -1).any(axis=1)
                differs[offsets[1:-1] - 1] = False
                at = np.flatnonzero(differs)
                self._name = name
                self._count += len(at)
                self._num_steps += len(values) - (len(offsets) - 1)
                self._places += _places(episode, offsets, at[: MAX_POSITIONS - len(self._places)])

    def join(self, later: NextObservations, first_episode: int) -> None:
        """Take over what was seen of later episodes; see `StepCheck`."""
        self._name = later._name or self._name
        self._count += later._count
        self._num_steps += later._num_steps
        self._places += shifted(later._places, first_episode)[: MAX_POSITIONS - len(self._places)]

    def findings(self) -> Iterator[Finding]:
        """Yield a warning about steps that do not follow one another."""
        # If they differ everywhere, the column is something else, such as observations in another unit.
        if 0 < self._count <= 0.5 * self._num_steps:
            problem = "is not the observation of the next step: steps are missing there, or episodes were joined"
            fix = "end the episode there"
            yield Finding(
                "warning", "steps do not follow", self._name, problem, fix, self._count, self._places[:MAX_POSITIONS]
            )


def _places(episode: int, offsets: np.ndarray, rows: np.ndarray) -> list[dict[str, int]]:
    which = np.searchsorted(offsets, rows, side="right") - 1
    return [{"episode": episode + int(w), "step": int(row - offsets[w])} for w, row in zip(which, rows, strict=True)]

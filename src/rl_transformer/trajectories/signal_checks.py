"""Checks of single signals in a whole dataset: outliers, signals that stand still, and signals that stay at their bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding
from rl_transformer.trajectories.nested import leaves
from rl_transformer.trajectories.trajectory import Trajectory

# The numbers below are ours. They are set so that no signal of the sets in the tests, and of Minari's hopper and door sets that
# were looked at, is reported.
# A value is an outlier if it is this many times larger than 99 % of the others, and larger than this number itself: signals that
# rest at rounding noise and then move have the first ratio, too.
_OUTLIER = 1e5
_MOST = 0.99
# Episodes that are shorter say nothing about a signal that stands still.
_LONG = 10
# A signal is lively in an episode if it changes in this share of the steps; in most episodes that are not frozen, it has to be.
_LIVELY = 0.9
# Share of the values exactly at one bound from which on a signal is saturated. A value of 0 is no bound: forces without contact.
_SATURATED = 0.5
# A saturated signal has this many values at least; switches and codes have fewer. Looked for in the first rows.
_VALUES = 10
_FIRST_ROWS = 1_000
# Wider arrays are flattened pictures.
_WIDEST = 4_096
# Powers of two between which magnitudes are counted.
_LEAST_EXPONENT = -64
_NUM_EXPONENTS = 192


@dataclass
class _Signal:
    """Holds a few numbers for each of the D features of an array."""

    counts: np.ndarray
    """(D, _NUM_EXPONENTS): values by the power of two of their magnitude; zeros are not counted."""
    largest: np.ndarray
    """(D,) largest magnitude."""
    place: np.ndarray
    """(D, 2) episode and step of it."""
    bounds: np.ndarray
    """(2, D) smallest and largest value."""
    at_bounds: np.ndarray
    """(2, D) number of values that equal them."""
    lively: np.ndarray
    """(D,) number of long episodes in which it changes all the time."""
    frozen: np.ndarray
    """(D,) number of long episodes in which it never changes."""
    frozen_places: list[dict[str, int]] = field(default_factory=list)
    first_rows: list[np.ndarray] = field(default_factory=list)
    num_rows: int = 0
    num_long: int = 0

    @classmethod
    def of_width(cls, width: int) -> _Signal:
        """Return the state before the first episode."""
        return cls(
            counts=np.zeros((width, _NUM_EXPONENTS), np.int64),
            largest=np.zeros(width),
            place=np.zeros((width, 2), np.int64),
            bounds=np.stack([np.full(width, np.inf), np.full(width, -np.inf)]),
            at_bounds=np.zeros((2, width), np.int64),
            lively=np.zeros(width, np.int64),
            frozen=np.zeros(width, np.int64),
        )

    def join(self, later: _Signal, first_episode: int) -> None:
        """Take over what is known of later episodes, the first of which is ``first_episode`` here."""
        self.counts += later.counts
        # Of equal ones, the earlier counts.
        larger = later.largest > self.largest
        self.largest[larger] = later.largest[larger]
        self.place[larger] = later.place[larger] + [first_episode, 0]
        for side in (0, 1):
            self.raise_bounds(side, later.bounds[side])
            self.at_bounds[side] += np.where(later.bounds[side] == self.bounds[side], later.at_bounds[side], 0)
        for place in later.frozen_places:
            earlier = sum(known["feature"] == place["feature"] for known in self.frozen_places)
            if earlier < MAX_POSITIONS:
                self.frozen_places.append({**place, "episode": first_episode + place["episode"]})
        self.lively += later.lively
        self.frozen += later.frozen
        self.first_rows += later.first_rows[: _FIRST_ROWS - len(self.first_rows)]
        self.num_rows += later.num_rows
        self.num_long += later.num_long

    def raise_bounds(self, side: int, extreme: np.ndarray) -> None:
        """Replace the bounds of one side (D,) that ``extreme`` exceeds, and forget how many values equal them."""
        farther = extreme < self.bounds[side] if side == 0 else extreme > self.bounds[side]
        self.bounds[side][farther] = extreme[farther]
        self.at_bounds[side][farther] = 0


class Signals:
    """Finds outliers in observations, actions and rewards, and signals of observations that stand still or are saturated."""

    def __init__(self, spec: DataSpec) -> None:
        self._has_continuous_actions = spec.action_space.is_continuous
        self._signals: dict[str, _Signal] = {}

    def add(self, episode: int, offsets: np.ndarray, rows: Trajectory, actions: np.ndarray) -> None:
        """Update the numbers of every feature of floating point.

        Args:
            episode: Number of the first of E episodes.
            offsets: (E + 1,) rows at which they begin, and N.
            rows: Their arrays, (N, ...).
            actions: (N, *action_shape) recorded actions.
        """
        arrays = {**leaves(rows.observations, "observations"), "rewards": rows.rewards}
        if self._has_continuous_actions:
            arrays["actions"] = actions
        for name, array in arrays.items():
            width = array.size // len(array)
            if array.dtype.kind != "f" or not 0 < width <= _WIDEST or not np.isfinite(array).all():
                continue
            values = array.reshape(len(array), -1)
            signal = self._signals.setdefault(name, _Signal.of_width(width))
            if signal.largest.shape != (width,):
                continue  # refused elsewhere
            _add_magnitudes(signal, episode, offsets, np.abs(values.astype(np.float64)))
            if name.startswith("observations"):
                _add_range(signal, values)
                _add_changes(signal, episode, offsets, values)

    def join(self, later: Signals, first_episode: int) -> None:
        """Take over what is known of later episodes, the first of which is ``first_episode`` here."""
        for name, signal in later._signals.items():
            known = self._signals.setdefault(name, _Signal.of_width(len(signal.largest)))
            if known.largest.shape == signal.largest.shape:
                known.join(signal, first_episode)

    def findings(self) -> Iterator[Finding]:
        """Yield warnings about outliers, frozen and saturated signals."""
        for name, signal in self._signals.items():
            yield from _outliers(name, signal)
            yield from _frozen(name, signal)
            yield from _saturated(name, signal)


def _add_magnitudes(signal: _Signal, episode: int, offsets: np.ndarray, magnitudes: np.ndarray) -> None:
    width = magnitudes.shape[1]
    exponents = np.clip(np.frexp(magnitudes)[1] - _LEAST_EXPONENT, 0, _NUM_EXPONENTS - 1)
    cells = (exponents + _NUM_EXPONENTS * np.arange(width))[magnitudes > 0]
    signal.counts += np.bincount(cells, minlength=signal.counts.size).reshape(signal.counts.shape)
    steps = magnitudes.argmax(axis=0)
    peaks = magnitudes[steps, np.arange(width)]
    larger = peaks > signal.largest
    signal.largest[larger] = peaks[larger]
    which = np.searchsorted(offsets, steps[larger], side="right") - 1
    signal.place[larger, 0] = episode + which
    signal.place[larger, 1] = steps[larger] - offsets[which]


def _add_range(signal: _Signal, values: np.ndarray) -> None:
    signal.num_rows += len(values)
    if len(signal.first_rows) < _FIRST_ROWS:
        signal.first_rows += list(values[: _FIRST_ROWS - len(signal.first_rows)].copy())
    for side, extreme in enumerate((values.min(axis=0), values.max(axis=0))):
        signal.raise_bounds(side, extreme)
        signal.at_bounds[side] += (values == signal.bounds[side]).sum(axis=0)


def _add_changes(signal: _Signal, episode: int, offsets: np.ndarray, values: np.ndarray) -> None:
    lengths = np.diff(offsets)
    long = np.flatnonzero(lengths >= _LONG)
    if not long.size:
        return
    # All episodes at once, because a log may have a million of them. Row i says whether row i + 1 is another one.
    changed = np.zeros(values.shape, bool)
    changed[:-1] = values[1:] != values[:-1]
    # Every second part is an episode; those between are its last row, and shorter episodes.
    bounds = np.stack([offsets[long], offsets[long + 1] - 1], axis=1).ravel()
    shares = np.add.reduceat(changed, bounds, axis=0, dtype=np.int64)[::2] / (lengths[long] - 1)[:, None]
    signal.num_long += len(long)
    signal.lively += (shares >= _LIVELY).sum(axis=0)
    is_frozen = shares == 0
    places = [
        (int(row), int(feature))
        for feature in np.flatnonzero(is_frozen.any(axis=0))
        for row in np.flatnonzero(is_frozen[:, feature])[: max(0, MAX_POSITIONS - int(signal.frozen[feature]))]
    ]
    signal.frozen_places += [
        {"episode": episode + int(long[row]), "feature": feature} for row, feature in sorted(places)
    ]
    signal.frozen += is_frozen.sum(axis=0)


def _outliers(name: str, signal: _Signal) -> Iterator[Finding]:
    totals = signal.counts.sum(axis=1)
    usual = (signal.counts.cumsum(axis=1) >= _MOST * totals[:, None]).argmax(axis=1) + _LEAST_EXPONENT
    limits = np.maximum(_OUTLIER * np.exp2(usual), _OUTLIER)
    features = np.flatnonzero(signal.largest > limits)
    if not features.size:
        return
    first = int(features[0])
    above = np.arange(_NUM_EXPONENTS) + _LEAST_EXPONENT > usual[:, None] + np.log2(_OUTLIER)
    count = max(features.size, int((signal.counts * above)[features].sum()))
    problem = f"is up to {signal.largest[first]:.3g}, and 99 % of its values are below {np.exp2(usual[first]):.3g}"
    fix = "repair or remove these steps: they dominate the feature's mean and scale, which makes all other values nearly equal"
    positions = [
        {"episode": int(signal.place[i, 0]), "step": int(signal.place[i, 1]), "feature": int(i)}
        for i in features[:MAX_POSITIONS]
    ]
    yield Finding("warning", "outlier", name, problem, fix, count, positions)


def _frozen(name: str, signal: _Signal) -> Iterator[Finding]:
    moving = signal.num_long - signal.frozen
    is_frozen = (signal.frozen > 0) & (signal.lively >= _LIVELY * moving) & (signal.lively >= signal.frozen)
    features = np.flatnonzero(is_frozen)
    if features.size:
        count = int(signal.frozen[features].sum())
        positions = [place for place in signal.frozen_places if is_frozen[place["feature"]]][:MAX_POSITIONS]
        problem = "never changes in an episode, but changes at nearly every step of others"
        fix = "check whether the sensor or the recording failed, and if so remove these episodes"
        yield Finding("warning", "frozen signal", name, problem, fix, count, positions)


def _saturated(name: str, signal: _Signal) -> Iterator[Finding]:
    if not signal.first_rows:
        return
    values = [len(np.unique(column)) for column in np.stack(signal.first_rows).T]
    shares = np.where(signal.bounds != 0, signal.at_bounds / signal.num_rows, 0.0)
    is_saturated = (shares.max(axis=0) >= _SATURATED) & (np.array(values) >= _VALUES)
    features = np.flatnonzero(is_saturated)
    if features.size:
        first = int(features[0])
        side = int(shares[:, first].argmax())
        problem = f"is exactly {signal.bounds[side, first]:.6g}, its {('smallest', 'largest')[side]} value, in {shares[side, first]:.0%} of the steps"
        fix = "check whether the sensor's range was too small or the recording clipped it; values beyond it are lost"
        positions = [{"feature": int(i)} for i in features[:MAX_POSITIONS]]
        yield Finding("warning", "saturated signal", name, problem, fix, features.size, positions)

"""Find observations that already hold the action, the reward or the outcome that they should only precede.

Each feature is compared with what was not known yet when the policy acted, and, where that makes a difference, with the
same thing one step earlier, which may well be known. An honest policy that acts on one feature alone, and an environment
whose reward is one feature, look the same as a leak, so that every finding is a warning to look at.

Shapes: N steps, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.equal_values import shares_of_equal_steps
from rl_transformer.trajectories.explained_variance import (
    categories,
    is_determined,
    scaled_columns,
    share_explained,
    smooth_functions,
    without_step_means,
)
from rl_transformer.trajectories.feature_names import observation_names
from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding
from rl_transformer.trajectories.leaked_outcomes import END, OUTCOME, leaked_ends, leaked_outcomes
from rl_transformer.trajectories.sampled_steps import SampledSteps
from rl_transformer.trajectories.shared_steps import OVERLAP, overlapping_episodes

ACTION = "action among the observations"
REWARD = "reward among the observations"
AFTER_ACTION = "observation after the action"
NOT_CHECKED = "leakage not checked"
LEAKAGE_KINDS = (ACTION, REWARD, AFTER_ACTION, OUTCOME, END, OVERLAP)
"""Kinds of the findings of `find_leakage` that need a look before a policy is trained or judged with the data."""

# Share of a feature's variance from which on it is a copy; noise of a fifth of its standard deviation leaves more.
_COPY = 0.95
# A value of this step is to blame only if that of the step before leaves this many times more unexplained.
_CLEARLY = 3.0
_ADDED = 0.2
_FEWEST_STEPS = 200
_FEWEST_EPISODES = 10
# Features that differ from their most frequent value in fewer steps say too little.
_FEWEST_OTHER = 20
# Shares below which what remains of a feature is rounding.
_ROUNDING = 1e-6
_SCHEDULED = 1e-4
# More features would make the regressions of what follows an action long and unstable.
_MOST_FEATURES = 64
# Share of what a feature's past leaves open that the present action explains at least, and how many times better both
# observations have to tell the action than one of them.
_INNOVATION = 0.1
_TOLD_BY_BOTH = 2.0
_FREE = 0.1
_EXACTLY = 300.0
_MANY_VALUES = 12


def find_leakage(dataset: TrajectoryDataset) -> list[Finding]:
    """Return a warning for every way in which observations hold what they should precede; an empty list if none is found.

    What cannot be looked at is an info of the kind "leakage not checked", with the reason.

    Args:
        dataset: The data; about 20,000 of its steps are looked at.
    """
    if not len(dataset):
        return [_not_checked("no episode is without errors")]
    steps = SampledSteps.of(dataset)
    findings = list(overlapping_episodes(dataset))
    if not steps.observations.shape[1]:
        return [*findings, _not_checked("the observations are images or indices with very many values")]
    if len(steps.episodes) < _FEWEST_EPISODES or steps.num_steps < _FEWEST_STEPS:
        few = f"there are only {len(steps.episodes)} episodes and {steps.num_steps} steps"
        return [*findings, _not_checked(f"{few}; {_FEWEST_EPISODES} and {_FEWEST_STEPS} are needed")]
    names = observation_names(dataset.spec)
    changes = _Changes.of(steps)
    for later in _later_values(steps):
        copies = changes.copies(later)
        findings += later.findings("equals or nearly equals", copies, names)
        findings += later.findings_in_part(steps, ~copies, names)
        findings += later.findings("changes from the step before by", changes.totals(later) & ~copies, names)
        if steps.observations.shape[1] <= _MOST_FEATURES:
            after = changes.after(later) & ~copies & ~changes.totals(later)
            findings += later.findings_after(after, names)
        elif later.kind == ACTION:
            reason = f"there are more than {_MOST_FEATURES} numbers in an observation"
            findings.append(_not_checked(reason, "being recorded after the action"))
    findings += leaked_outcomes(steps, names, without_step_means)
    findings += leaked_ends(steps, names)
    return findings


@dataclass(frozen=True)
class _Later:
    """What is not known yet when the policy acts: the action or the reward of this step."""

    kind: str
    what: str
    functions: np.ndarray
    """(N, P) columns whose linear functions follow any function of it."""
    numbers: np.ndarray
    """(N, Q) the thing itself, or columns of 0 and 1."""
    values: np.ndarray
    """(N, R) the thing itself, as recorded."""
    fix: str

    def findings(self, relation: str, features: np.ndarray, names: list[str]) -> Iterator[Finding]:
        """Yield one finding for the features (D,) that are True."""
        yield from _about(
            self.kind, features, names, f"{relation} a function of {self.what} of the same step", self.fix
        )

    def findings_in_part(self, steps: SampledSteps, features: np.ndarray, names: list[str]) -> Iterator[Finding]:
        """Yield one finding for those of the features (D,) that are this step's value in some of the steps."""
        shares = np.where(features, shares_of_equal_steps(steps.observations, self.values, steps.step), 0)
        problem = f"exactly equals {self.what} of the same step in up to {shares.max():.0%} of the steps"
        yield from _about(self.kind, shares > 0, names, problem, self.fix)

    def findings_after(self, features: np.ndarray, names: list[str]) -> Iterator[Finding]:
        """Yield one finding for features that already follow this step's value."""
        problem = f"follows from the previous observation and {self.what} of the same step, not of the step before: it seems to be recorded afterwards"
        kind = AFTER_ACTION if self.kind == ACTION else self.kind
        yield from _about(kind, features, names, problem, self.fix)


def _later_values(steps: SampledSteps) -> Iterator[_Later]:
    """Yield the actions and, if they differ, the rewards."""
    numbers = scaled_columns(steps.action_numbers)
    if not steps.is_continuous:
        # A total of numbers of actions counts them as numbers.
        numbers = np.column_stack([numbers, scaled_columns(steps.actions.astype(np.float64))])
    functions = smooth_functions(steps.actions) if steps.is_continuous else steps.action_numbers
    fix = "record what was known before the action was chosen, or leave the feature out; if the recorded policy used nothing else, it is not a leak"
    yield _Later(ACTION, "the action", functions, numbers, steps.actions, fix)
    rewards = steps.rewards[:, None]
    values = np.unique(rewards)
    if len(values) > 1:
        functions = categories(rewards) if len(values) <= _MANY_VALUES else smooth_functions(rewards)
        fix = "leave the feature out, or give it one step later, if the reward is not known before the action"
        yield _Later(REWARD, "the reward", functions, scaled_columns(rewards), rewards, fix)


@dataclass(frozen=True)
class _Changes:
    """Holds features with their values one step before, and what can be asked of them."""

    steps: SampledSteps
    features: np.ndarray
    """(N, D) scaled observations."""
    is_usable: np.ndarray
    """(D,) True for features that change often enough."""
    later_rows: np.ndarray
    """Rows that have a row before them in their episode."""

    @classmethod
    def of(cls, steps: SampledSteps) -> _Changes:
        """Return the features of the steps."""
        features = scaled_columns(steps.observations)
        usual = np.median(features, axis=0)
        others = (features != usual).sum(axis=0)
        same = (features == usual).sum(axis=0)
        is_usable = (others >= _FEWEST_OTHER) & ((same >= _FEWEST_OTHER) | (same * 2 < len(features)))
        return cls(steps, features, is_usable, np.flatnonzero(steps.step > 0))

    def copies(self, later: _Later) -> np.ndarray:
        """Return which features (D,) are functions of this step's value, and not as well of the one before."""
        steps = self.steps
        features = without_step_means(self.features, steps.step)
        is_free = features.var(axis=0) > _SCHEDULED
        now = share_explained(features, without_step_means(later.functions, steps.step), steps.episode)
        is_copy = self.is_usable & is_free & (now >= _COPY)
        if not is_copy.any() or len(self.later_rows) < _FEWEST_STEPS:
            return is_copy
        rows = self.later_rows
        chosen = self.features[np.ix_(rows, np.flatnonzero(is_copy))]
        value, value_before = later.functions[rows], later.functions[rows - 1]
        episode = steps.episode[rows]
        now = _open(chosen, value, episode)
        before = _open(chosen, value_before, episode)
        both = np.minimum(_open(chosen, np.column_stack([value, value_before]), episode), np.minimum(now, before))
        # Values may change so slowly that the one before says nearly as much: this step's has to add something to it.
        is_of_now = (1 - both / before >= _ADDED) & (1 - both / now <= 0.25 * (1 - both / before))
        # If a value stays the same for whole episodes, only their first steps can tell it from that of the step before.
        first = np.flatnonzero(steps.step == 0)
        at_first = share_explained(self.features[np.ix_(first, np.flatnonzero(is_copy))], later.numbers[first], first)
        stays = (before <= 1 - _COPY) & (at_first >= _COPY) & (len(first) >= _FEWEST_OTHER)
        is_copy[is_copy] = is_of_now | stays
        return is_copy & ~self._was_known_before(is_copy, later)

    def _was_known_before(self, copies: np.ndarray, later: _Later) -> np.ndarray:
        """Return which features (D,) the step before determines exactly, so that they hold nothing that is new.

        A policy that acts on one number, in an environment without chance, looks like a copy of its action; but what the
        observation and the action of the step before determine was known before this action was chosen.

        Args:
            copies: (D,) True for features that are functions of this step's value; only these are looked at.
            later: What they are functions of.
        """
        known = np.zeros(len(copies), bool)
        if copies.any():
            rows = self.later_rows
            past = np.column_stack([self.features[rows - 1], later.functions[rows - 1]])
            # Before the first step there is nothing: there other features have to say it, none of which is a copy, too.
            first = np.flatnonzero(self.steps.step == 0)
            known[copies] = is_determined(self.features[np.ix_(rows, np.flatnonzero(copies))], past) & is_determined(
                self.features[np.ix_(first, np.flatnonzero(copies))],
                self.features[np.ix_(first, np.flatnonzero(~copies))],
            )
        return known

    def totals(self, later: _Later) -> np.ndarray:
        """Return which features (D,) change by a function of this step's value, and not of the one before."""
        rows = self.later_rows
        if len(rows) < _FEWEST_STEPS:
            return np.zeros(len(self.is_usable), bool)
        episode = self.steps.episode[rows]
        differences = self.features[rows] - self.features[rows - 1]
        now = share_explained(differences, later.functions[rows], episode)
        before = share_explained(differences, later.functions[rows - 1], episode)
        is_total = self.is_usable & (differences.var(axis=0) > _ROUNDING) & (now >= _COPY)
        return is_total & ((1 - now) * _CLEARLY <= 1 - before)

    def after(self, later: _Later) -> np.ndarray:
        """Return which features (D,) follow from the observation before and this step's value, and not the one before.

        An honest policy's action follows from the present observation alone, and needs no earlier one; and what it did
        before has an effect on the present observation.
        """
        rows = self.later_rows
        nothing = np.zeros(len(self.is_usable), bool)
        if len(rows) < _FEWEST_STEPS:
            return nothing
        episode = self.steps.episode[rows]
        present = self.features[rows]
        past = self.features[rows - 1]
        value = later.numbers[rows]
        value_before = later.numbers[rows - 1]
        all_past = np.column_stack([past, value_before])
        alone = _open(value, present, episode)
        by_past = _open(value, all_past, episode)
        by_both = _open(value, np.column_stack([present, all_past]), episode)
        by_one = np.minimum(alone, by_past)
        # Of an action that one observation nearly tells, only noise is left, unless both tell it exactly.
        told = (by_both * _TOLD_BY_BOTH <= by_one) & ((by_one >= _FREE) | (by_both * _EXACTLY <= by_one))
        if not told.any():
            return nothing
        left = _open(present, past, episode)
        gain_now = 1 - _open(present, np.column_stack([past, value[:, told]]), episode) / left
        gain_before = 1 - _open(present, all_past, episode) / left
        is_open = (left > _ROUNDING) & self.is_usable & (gain_now >= _INNOVATION)
        # Either nothing but this step's value matters, or it explains all that is open and the one before much less.
        return is_open & ((gain_before <= 0.1 * gain_now) | ((1 - gain_now) * 10 <= 1 - gain_before))


def _open(values: np.ndarray, regressors: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Return the share of each column's variance that the regressors leave open; 1 for columns that never change."""
    return np.where(values.var(axis=0) > 0, np.clip(1 - share_explained(values, regressors, episode), 1e-9, None), 1.0)


def _about(kind: str, features: np.ndarray, names: list[str], problem: str, fix: str) -> Iterator[Finding]:
    found = np.flatnonzero(features)
    if found.size:
        listed = ", ".join(repr(names[i]) for i in found[:5]) + (" and others" if found.size > 5 else "")
        positions = [{"feature": int(i)} for i in found[:MAX_POSITIONS]]
        yield Finding("warning", kind, "observations", f"({listed}) {problem}", fix, found.size, positions)


def _not_checked(reason: str, what: str = "leakage of what follows them") -> Finding:
    problem = f"were not checked for {what}: {reason}"
    return Finding("info", NOT_CHECKED, "observations", problem, "check how the columns were recorded", 1)

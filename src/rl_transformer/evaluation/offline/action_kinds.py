"""What depends on the kind of the actions: probabilities of discrete ones, densities of vectors.

Shapes: N steps, A joint actions or numbers of an action vector, K drawn actions per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np

from rl_transformer.conditions.interface import Target
from rl_transformer.critics.behavior import BehaviorModel, fit_behavior
from rl_transformer.critics.features import StepFeatures, action_units, joint_actions, joint_masks
from rl_transformer.critics.networks import FitOptions, fit_action_values
from rl_transformer.critics.vectors import GaussianBehavior, fit_gaussian_behavior, fit_vector_values
from rl_transformer.evaluation.offline.gates import Gate
from rl_transformer.evaluation.offline.likelihood import action_distance, action_likelihood, propensity_calibration
from rl_transformer.evaluation.offline.log_columns import PROPENSITY, propensity_column, recorded_propensities
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.policy_actions import action_draws, action_probabilities, has_density
from rl_transformer.evaluation.offline.support import FLOOR, rare_actions
from rl_transformer.policy import Policy
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Bool, Float64, Int
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset

WEIGHTS = "importance weights"
DENSITY = "density of the behavior"
LARGEST_CALIBRATION_ERROR = 0.2
_LARGEST_AT_BOUNDS = 0.01
DRAWS = 8
"""Actions drawn per step to represent a policy over action vectors."""
_SMALLEST_PROPENSITY = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A policy and the targets that it is given."""

    policy: Policy
    target_return: float | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)
    name: str = "policy"


@dataclass(frozen=True)
class SeenLog:
    """What a policy would do at every logged step, and what that would be worth."""

    log_policy: Float64[np.ndarray, "N"]
    action_values: Float64[np.ndarray, "N"]
    state_values: Float64[np.ndarray, "N"]
    missing: Float64[np.ndarray, "N"]
    """The probability that it gives to actions about which the log says almost nothing."""
    acts: Float64[np.ndarray, "N A"]
    """Probabilities of joint actions, or the mean action vector."""
    has_weights: bool = True
    """False: it never takes exactly a logged action, so only fitted Q evaluation exists."""


@dataclass(frozen=True)
class _Estimated:
    """A log, what networks read of it, and which fold each step is in."""

    dataset: TrajectoryDataset
    features: StepFeatures
    folds: Int[np.ndarray, "N"]
    options: FitOptions
    propensity: str | None = None
    """Column with the probability, or density, of each logged action; None: the usual one, if there is one."""

    @cached_property
    def rewards(self) -> Float64[np.ndarray, "N"]:
        """Return the rewards as networks need them."""
        return np.asarray(self.dataset.rewards, np.float64)

    @property
    def propensities(self) -> str:
        """Return where the propensities come from."""
        recorded = propensity_column(self.dataset, self.propensity)
        if recorded is not None:
            return f"recorded in the column {recorded}"
        count = len(np.unique(self.folds))
        return f"estimated by a network, cross-fitted over {count} folds of the episodes and calibrated"


class DiscreteActions(_Estimated):
    """Discrete actions, or several discrete parts, of which every combination counts as one."""

    @cached_property
    def _actions(self) -> Int[np.ndarray, "N"]:
        return joint_actions(self.dataset)

    @cached_property
    def _behavior(self) -> BehaviorModel:
        return fit_behavior(self.features, self.folds, joint_masks(self.dataset), self.options)

    @cached_property
    def log_behavior(self) -> Float64[np.ndarray, "N"]:
        """Return the log-probability of each logged action under the behavior."""
        recorded = recorded_propensities(self.dataset, self.propensity)
        if recorded is None:
            # A network may round a probability to 0, and an action that was taken had one above.
            taken = self._behavior.probabilities[np.arange(len(self._actions)), self._actions]
            recorded = np.maximum(taken, _SMALLEST_PROPENSITY)
        return np.log(recorded)

    @property
    def temperatures(self) -> list[float]:
        """Return by which each fold's logits were divided."""
        return self._behavior.temperatures

    def calibration(self) -> JsonObject:
        """Return how often actions of an estimated probability are taken."""
        return propensity_calibration(self._behavior.probabilities, self._actions)

    def gates(self, candidates: list[Candidate]) -> list[Gate]:
        """Return nothing: a greedy policy sometimes does what was logged, and support says how often."""
        return []

    def see(self, candidate: Candidate, is_last: Bool[np.ndarray, "N"]) -> SeenLog:
        """Return the log as a policy sees it."""
        acts = action_probabilities(candidate.policy, self.dataset, candidate.target_return, candidate.targets)
        return self.see_probabilities(acts, is_last)

    def see_probabilities(self, acts: Float64[np.ndarray, "N A"], is_last: Bool[np.ndarray, "N"]) -> SeenLog:
        """Return the log as a policy sees it that takes the joint actions with these probabilities."""
        values = fit_action_values(self.features, self.folds, acts, self.rewards, is_last, self.options)
        # Minus infinity is meant: the weight of such an episode is 0 from there on.
        with np.errstate(divide="ignore"):  # a greedy policy never does most of what was logged
            log_policy = np.log(acts[np.arange(len(acts)), self._actions])
        return SeenLog(log_policy, *values, rare_actions(acts, self._behavior.probabilities), acts)

    def likelihood(self, steps: LoggedSteps, seen: SeenLog) -> JsonObject:
        """Return the probability of logged actions under the policy."""
        behavior = self._behavior.probabilities
        return action_likelihood(steps, self._actions, self.folds, seen.acts, behavior, joint_masks(self.dataset))


class VectorActions(_Estimated):
    """Action vectors; everything but recorded densities is in units of the logged spread here."""

    @cached_property
    def _actions(self) -> Float64[np.ndarray, "N A"]:
        return np.asarray(self.features.actions, np.float64)

    @cached_property
    def _behavior(self) -> GaussianBehavior:
        return fit_gaussian_behavior(self.features, self.folds, self.options)

    @cached_property
    def log_behavior(self) -> Float64[np.ndarray, "N"]:
        """Return the log density of each logged action under the behavior, per unit of the data."""
        recorded = recorded_propensities(self.dataset, self.propensity, largest=np.inf)
        if recorded is not None:
            return np.log(recorded)
        return self._behavior.log_densities(self._actions) - np.log(action_units(self.dataset)[1]).sum()

    @property
    def temperatures(self) -> list[float]:
        """Return by which each fold's spreads were multiplied."""
        return self._behavior.scales

    def calibration(self) -> JsonObject:
        """Return how evenly logged actions fill their estimated distributions."""
        return self._behavior.calibration(self._actions)

    def gates(self, candidates: list[Candidate]) -> list[Gate]:
        """Return whether weights exist, and whether the densities that they need can be believed."""
        gates = [_weights_gate(each) for each in candidates]
        low, high = self.dataset.spec.action_space.bounds
        actions = np.asarray(self.dataset.actions)
        at_bounds = float(((actions <= low) | (actions >= high)).any(1).mean())
        if at_bounds > _LARGEST_AT_BOUNDS:
            text = f"{at_bounds:.1%} of the logged actions lie at a bound, where no density is defined"
            gates.append(Gate(DENSITY, False, text, "log actions before they are clipped, or evaluate the policy live"))
        if propensity_column(self.dataset, self.propensity) is None:
            error = self.calibration()["expected_calibration_error"]
            text = f"logged actions fill the deciles of the estimated Gaussians unevenly: error {error:.2f}"
            passed = error <= LARGEST_CALIBRATION_ERROR
            fix = f"record the density with which each action was drawn in a column {PROPENSITY}"
            gates.append(Gate(DENSITY, passed, f"{text}, limit {LARGEST_CALIBRATION_ERROR}", "" if passed else fix))
        return gates

    def see(self, candidate: Candidate, is_last: Bool[np.ndarray, "N"]) -> SeenLog:
        """Return the log as a policy sees it."""
        random = generator(Stream.OFFLINE_JUDGING, self.options.seed, 2)
        is_drawn = has_density(candidate.policy)
        uniforms = random.random((len(is_last), DRAWS if is_drawn else 1, self._actions.shape[1]))
        given = (candidate.target_return, candidate.targets)
        draws, log_policy = action_draws(candidate.policy, self.dataset, *given, uniforms)
        return self.see_draws(draws, log_policy, is_last, has_weights=is_drawn)

    def see_draws(
        self,
        draws: Float64[np.ndarray, "N K A"],
        log_policy: Float64[np.ndarray, "N"],
        is_last: Bool[np.ndarray, "N"],
        *,
        has_weights: bool = True,
    ) -> SeenLog:
        """Return the log as a policy sees it that acts like these draws, and has this log density of the logged actions."""
        center, spread = action_units(self.dataset)
        draws = (draws - center) / spread
        values = fit_vector_values(self.features, self.folds, draws, self.rewards, is_last, self.options)
        # Rare as a discrete action is: the behavior seldom acts so, or further from what it usually does.
        missing = (self._behavior.tail_probabilities(draws) < FLOOR).mean(1)
        return SeenLog(log_policy, *values, missing, draws.mean(1), has_weights)

    def likelihood(self, steps: LoggedSteps, seen: SeenLog) -> JsonObject:
        """Return how far the policy's mean action is from the logged one."""
        return action_distance(steps, self._actions, seen.acts, self._behavior.means)


LoggedActions: TypeAlias = DiscreteActions | VectorActions
"""The actions of a log, with the estimates of the behavior that took them."""


def _weights_gate(candidate: Candidate) -> Gate:
    if has_density(candidate.policy):
        return Gate(WEIGHTS, True, f"{candidate.name} draws its actions from a density")
    return Gate(
        WEIGHTS,
        False,
        f"{candidate.name} is deterministic and never takes exactly a logged action vector: only fitted Q evaluation applies, and its interval leaves out the error of the fit",
        "train with model.action_head gaussian and policy.action_selection sample, or evaluate the policy live",
    )

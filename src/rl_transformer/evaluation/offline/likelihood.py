"""How well a policy predicts logged actions, beside chance, the majority action and behavior cloning.

Shapes: N steps, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.support import return_deciles, timestep_ranges
from rl_transformer.runtime.shapes import Bool, Float64, Int
from rl_transformer.runtime.types import JsonObject

MEASURE = "mean probability of the logged action; for a greedy policy the share of steps at which it acts as the log"

DISTANCE = "mean square distance of the mean action from the logged one, in units of the logged actions' spread"


def action_likelihood(
    steps: LoggedSteps,
    actions: Int[np.ndarray, "N"],
    folds: Int[np.ndarray, "N"],
    policy: Float64[np.ndarray, "N A"],
    behavior: Float64[np.ndarray, "N A"],
    allowed: Bool[np.ndarray, "N A"] | None,
) -> JsonObject:
    """Return the probability of logged actions, over all steps, by timestep and by return decile; JSON-ready.

    Args:
        steps: The log.
        actions: Logged joint actions.
        folds: Number of the fold of each step; majority action and behavior cloning come from the other folds.
        policy: The policy's probability of each action.
        behavior: Behavior cloning's: that of a network fitted to the other folds.
        allowed: Which actions were allowed; None: all.
    """
    rows = np.arange(len(actions))
    count = policy.shape[1] if allowed is None else allowed.sum(1)
    majority = np.zeros(len(actions))
    # The most frequent action of the other episodes, as for behavior cloning: both must not have seen what they predict.
    for fold in np.unique(folds):
        most = np.bincount(actions[folds != fold], minlength=policy.shape[1]).argmax()
        majority[folds == fold] = actions[folds == fold] == most
    measures = {
        "policy": policy[rows, actions],
        "behavior_cloning": behavior[rows, actions],
        "majority_action": majority,
        "chance": np.broadcast_to(1.0 / np.asarray(count, np.float64), (len(actions),)),
    }

    return _by_place(MEASURE, steps, measures)


def action_distance(
    steps: LoggedSteps,
    actions: Float64[np.ndarray, "N A"],
    policy: Float64[np.ndarray, "N A"],
    behavior: Float64[np.ndarray, "N A"],
) -> JsonObject:
    """Return how far action vectors are from the logged ones, in the places of `action_likelihood`; JSON-ready.

    Args:
        steps: The log.
        actions: Logged actions, in units of their spread.
        policy: The policy's mean action.
        behavior: Behavior cloning's: the mean of the density that was fitted to the other folds.
    """
    # In units of the logged spread the best single action is as far away as 1 on average, in its square.
    guesses = {"policy": policy, "behavior_cloning": behavior, "mean_action": np.zeros_like(actions)}
    measures = {name: np.square(guess - actions).mean(1) for name, guess in guesses.items()}
    return _by_place(DISTANCE, steps, measures)


def _by_place(measure: str, steps: LoggedSteps, measures: Mapping[str, Float64[np.ndarray, "N"]]) -> JsonObject:
    """Return the means of some measures over all steps, by timestep and by return."""

    def means(selected: Int[np.ndarray, "_"]) -> JsonObject:
        found = {name: float(values[selected].mean()) for name, values in measures.items()}
        return {"steps": len(selected), **found}

    return {
        "measure": measure,
        "all": means(np.arange(len(steps.rewards))),
        "by_timestep": [{**place, **means(selected)} for place, selected in timestep_ranges(steps)],
        "by_return": [{**place, **means(selected)} for place, selected in return_deciles(steps)],
    }


def propensity_calibration(
    behavior: Float64[np.ndarray, "N A"], actions: Int[np.ndarray, "N"], bins: int = 10
) -> JsonObject:
    """Return how often actions of an estimated probability are taken: the expected calibration error, and a table.

    Every action at every step is one forecast; ranges of probability hold equally many of them.
    """
    # Also the actions that were not taken: a probability of 0.1 is right if it happens in a tenth of all such cases.
    forecasts = behavior.ravel()
    taken = np.zeros_like(behavior, dtype=bool)
    taken[np.arange(len(actions)), actions] = True
    happened = taken.ravel()
    edges = np.unique(np.quantile(forecasts, np.linspace(0, 1, bins + 1)))
    places = np.searchsorted(edges[1:-1], forecasts, side="right") if len(edges) > 2 else np.zeros(len(forecasts), int)
    table = []
    error = 0.0
    for place in np.unique(places):
        here = places == place
        expected = float(forecasts[here].mean())
        observed = float(happened[here].mean())
        table.append({"estimated": expected, "taken": observed, "share": float(here.mean())})
        error += abs(expected - observed) * float(here.mean())
    return {"expected_calibration_error": error, "table": table}

"""How well a policy predicts logged actions, beside chance, the majority action and behavior cloning.

Shapes: N steps, A actions.
"""

from __future__ import annotations

import numpy as np

from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.support import return_deciles, timestep_ranges
from rl_transformer.runtime.shapes import Bool, Float64, Int
from rl_transformer.runtime.types import JsonObject

MEASURE = "mean probability of the logged action; for a greedy policy the share of steps at which it acts as the log"


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
    for fold in np.unique(folds):
        most = np.bincount(actions[folds != fold], minlength=policy.shape[1]).argmax()
        majority[folds == fold] = actions[folds == fold] == most
    measures = {
        "policy": policy[rows, actions],
        "behavior_cloning": behavior[rows, actions],
        "majority_action": majority,
        "chance": np.broadcast_to(1.0 / np.asarray(count, np.float64), (len(actions),)),
    }

    def means(selected: Int[np.ndarray, "_"]) -> JsonObject:
        found = {name: float(values[selected].mean()) for name, values in measures.items()}
        return {"steps": len(selected), **found}

    return {
        "measure": MEASURE,
        "all": means(rows),
        "by_timestep": [{**place, **means(selected)} for place, selected in timestep_ranges(steps)],
        "by_return": [{**place, **means(selected)} for place, selected in return_deciles(steps)],
    }


def propensity_calibration(
    behavior: Float64[np.ndarray, "N A"], actions: Int[np.ndarray, "N"], bins: int = 10
) -> JsonObject:
    """Return how often actions of an estimated probability are taken: the expected calibration error, and a table.

    Every action at every step is one forecast; ranges of probability hold equally many of them.
    """
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

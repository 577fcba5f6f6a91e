"""What verdicts got right: shares of them, over the cells of `rlt reproduce judge` and `judge-environments`.

A cell's ``judged`` has one row per verdict, from `judge_policies.describe_verdict`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from rl_transformer.evaluation.offline.verdict import BETTER, DECIDING, NOT_ESTABLISHED, REPORTED
from rl_transformer.evaluation.statistics import over_seeds, ratio_over_seeds
from rl_transformer.reproductions.experiment import JSON, Measured, Score, Setup, pick

Test = Callable[[JSON], bool]


def every(row: JSON) -> bool:
    """Return True."""
    return True


def is_supported(row: JSON) -> bool:
    """Return whether every condition on gates and support holds."""
    return row["supported"]


def covers(row: JSON) -> bool:
    """Return whether the interval holds the true difference."""
    return row["interval"][0] <= row["exact"] <= row["interval"][1]


def is_wrong(row: JSON) -> bool:
    """Return whether a policy is called better that is not."""
    return row["verdict"] == BETTER and row["exact"] <= 0


def abstains(row: JSON) -> bool:
    """Return whether nothing is established."""
    return row["verdict"] == NOT_ESTABLISHED


def is_visible(row: JSON) -> bool:
    """Return whether the exact difference is so large that nine of ten logs would show it."""
    error = (row["interval"][1] - row["interval"][0]) / 2 / stats.norm.ppf((1 + REPORTED) / 2)
    return abs(row["exact"]) >= (stats.norm.ppf((1 + DECIDING) / 2) + stats.norm.ppf(0.9)) * error


def share_of(measured: Measured, happens: Test, among: Test = every) -> float | None:
    """Return the share of verdicts for which something happens; None if there are none."""
    rows = [row for cell in measured for row in cell["judged"].values() if among(row)]
    return float(np.mean([happens(row) for row in rows])) if rows else None


def rate_of(measured: Measured, setup: Setup, happens: Test, among: Test = every) -> Score:
    """Return a share over seeds; a seed without any such verdict is left out."""
    shares = [share_of(pick(measured, seed=seed), happens, among) for seed in range(setup.seeds)]
    return over_seeds([share for share in shares if share is not None], "logs")


def regret_of(measured: Measured, setup: Setup, by: str, among: Test = every) -> Score:
    """Return how much less the picked policy earns than the best of the candidates and the behavior."""
    values = []
    for seed in range(setup.seeds):
        regrets = []
        for cell in pick(measured, seed=seed):
            rows = [row for row in cell["judged"].values() if among(row)]
            # Staying with the behavior is always possible, and costs nothing.
            best = max(0.0, *(row["exact"] for row in rows))
            # The judge picks only among those that it calls better; the others pick whatever looks best to them.
            if by == "judge":
                called = [row for row in rows if row["verdict"] == BETTER]
                picked = max(called, key=lambda row: row["difference"])["exact"] if called else 0.0
            elif by == "behavior":
                picked = 0.0
            else:
                first = max(rows, key=lambda row: row[by]["difference"])
                picked = first["exact"] if first[by]["difference"] > 0 else 0.0
            regrets.append(best - picked)
        values.append(float(np.mean(regrets)))
    return over_seeds(values, "logs")


def describe_share(measured: Measured, happens: Test, among: Test = every) -> str:
    """Return a share of verdicts in words, with its 95 % interval over logs: verdicts of one log err together."""
    logs = [[happens(row) for row in cell["judged"].values() if among(row)] for cell in measured]
    logs = [verdicts for verdicts in logs if verdicts]
    if not logs:
        return "there is no such verdict"
    hits = [sum(verdicts) for verdicts in logs]
    counts = [len(verdicts) for verdicts in logs]
    found = f"{100 * sum(hits) / sum(counts):.1f} % of {sum(counts)} verdicts"
    if len(logs) < 2:
        return f"{found}, one log"
    if 0 < sum(hits) < sum(counts):
        interval = ratio_over_seeds(hits, counts)["interval"]
        if interval is None:
            return f"{found} in {len(logs)} logs"
        low, high = np.clip(interval, 0, 1)
        return f"{found} [{100 * low:.1f}, {100 * high:.1f}] over {len(logs)} logs"
    # No spread to judge by: the exact interval of logs in which it happens.
    exact = stats.binomtest(sum(hit > 0 for hit in hits), len(logs)).proportion_ci(0.95)
    return f"{found}, in {sum(hit > 0 for hit in hits)} of {len(logs)} logs [{100 * exact.low:.1f}, {100 * exact.high:.1f}]"

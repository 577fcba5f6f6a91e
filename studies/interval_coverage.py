"""How often the 95 % intervals of a report hold the true mean: python studies/interval_coverage.py.

Prints a row per distribution and number of episodes, beside the percentile bootstrap that earlier versions used.
"""

import numpy as np
from scipy import stats

from rl_transformer.evaluation.statistics import return_interval

TRIALS = 4_000
COUNTS = (2, 3, 5, 10, 20, 100)
# Name -> function of (random, n) that draws n returns, true mean, range of the returns.
DISTRIBUTIONS = {
    "normal": (lambda random, n: random.normal(size=n), 0.0, None),
    "skewed (exponential)": (lambda random, n: random.exponential(size=n), 1.0, None),
    "0 or 1, half successes": (lambda random, n: (random.random(n) < 0.5).astype(float), 0.5, (0.0, 1.0)),
    "0 or 1, 90 % successes": (lambda random, n: (random.random(n) < 0.9).astype(float), 0.9, (0.0, 1.0)),
}


def percentile_bootstrap(values):
    means = np.random.default_rng(0).choice(values, (500, len(values))).mean(axis=1)
    return np.quantile(means, (0.025, 0.975))


def coverage(draw, mean, return_range, count):
    """Return the share of intervals that hold the mean: of the report, and of the percentile bootstrap."""
    random = np.random.default_rng(count)
    held = np.zeros(2)
    for _ in range(TRIALS):
        returns = draw(random, count)
        interval = return_interval(returns.tolist(), return_range)
        if interval is not None:
            held[0] += interval.low <= mean <= interval.high
        low, high = percentile_bootstrap(returns)
        held[1] += low <= mean <= high
    return held / TRIALS


if __name__ == "__main__":
    half = stats.norm.ppf(0.975) * np.sqrt(0.95 * 0.05 / TRIALS)
    print(f"share of intervals that hold the mean, +- {half:.3f}; in brackets the percentile bootstrap")
    print("| returns | " + " | ".join(f"n = {count}" for count in COUNTS) + " |")
    for name, distribution in DISTRIBUTIONS.items():
        rows = [coverage(*distribution, count) for count in COUNTS]
        print(f"| {name} | " + " | ".join(f"{ours:.2f} ({theirs:.2f})" for ours, theirs in rows) + " |", flush=True)

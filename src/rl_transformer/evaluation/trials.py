"""How good a choice among policies is after a number of live trials, simulated from recorded episodes.

In the manner of Jackson et al. 2025 ("A clean slate for offline reinforcement learning"): a bandit spends the trials, one
episode each, and picks the policy with the best mean so far. Repeating it many times on recorded episodes shows how good
the pick is after each trial.

Shapes: C policies, E episodes of each, R repeats, T trials.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.differences import format_number
from rl_transformer.evaluation.stored_reports import Side, check_same_episodes
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.types import JsonObject

_REPEATS = 2000
FEWEST_EPISODES = 10
"""Half of the episodes are drawn from and the other half judges the pick; with fewer neither says anything."""
_SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


def select_by_trials(sides: Sequence[Side], trials: int, *, seed: int = 0) -> JsonObject:
    """Return how good the pick is after 1 ... T trials; JSON-ready.

    Args:
        sides: Two or more policies with the episodes that they ran, all from the same seeds.
        trials: T.
        seed: Seed of the repeats.

    Raises:
        RLTransformerError: Fewer than two policies or too few episodes, or episodes of different environments.
    """
    if len(sides) < 2:
        raise RLTransformerError("there is nothing to choose from", where="rlt select", fix="name two or more runs")
    if trials < 1:
        raise RLTransformerError(f"is {trials}", where="--trials", fix="give 1 or more")
    check_same_episodes(sides)
    returns = np.array([side.first["episode_returns"] for side in sides], np.float64)
    if returns.shape[1] < FEWEST_EPISODES:
        fix = f"evaluate {FEWEST_EPISODES} or more: rlt select RUNS --env-id ID --num-episodes N"
        raise RLTransformerError(f"holds {returns.shape[1]} episodes", where=sides[0].name, fix=fix)
    picks, values = simulate_trials(returns, trials, generator(Stream.LIVE_TRIALS, seed))
    means = returns.mean(1)
    best = int(means.argmax())
    first = next(iter(sides[0].reports.values())).values
    return {
        "env_id": first["env_id"],
        "pick": sides[best].name,
        "episodes": returns.shape[1],
        "seed": first["seed"],
        "repeats": _REPEATS,
        "unit": "episodes",
        "candidates": [
            {
                "run": side.name,
                "mean": float(mean),
                "interval": side.first["interval"],
                "target_return": side.first["target_return"],
            }
            for side, mean in zip(sides, means, strict=True)
        ],
        "after": [_after(trial + 1, pick, values, best) for trial, pick in enumerate(picks)],
    }


def _after(trials: int, picks: np.ndarray, values: np.ndarray, best: int) -> JsonObject:
    """Return how good the picks are after some trials."""
    earned = np.take_along_axis(values, picks[:, None], axis=1)[:, 0]
    return {
        "trials": trials,
        "value": float(earned.mean()),
        "regret": float((values[:, best] - earned).mean()),
        "probability_best": float((picks == best).mean()),
    }


def simulate_trials(
    returns: np.ndarray, trials: int, random: np.random.Generator, *, repeats: int = _REPEATS
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate a bandit: the policy that each repeat would pick after every trial, and what each policy is worth there.

    A repeat divides the episodes at random: trials draw from one half, with replacement, and the means of the other half are
    what the policies are worth.

    Returns the places of the picks, (T, R), and the worths, (R, C).

    Args:
        returns: (C, E), returns of the episodes; column e is from the same seed for every policy.
        trials: T.
        random: Source of the divisions and draws.
        repeats: R.
    """
    policies, episodes = returns.shape
    every = np.arange(repeats)
    # Episodes that made a policy look good must not judge it as well: the pick would look better than it is.
    halves = random.permuted(np.tile(np.arange(episodes), (repeats, 1)), axis=1)
    shown, rest = halves[:, : episodes // 2], halves[:, episodes // 2 :]
    # Policies are tried in an order of chance, which also decides between equal ones.
    order = random.permuted(np.tile(np.arange(policies), (repeats, 1)), axis=1)
    sums, counts = np.zeros((repeats, policies)), np.zeros((repeats, policies))
    squares = np.zeros(repeats)
    picks = np.empty((trials, repeats), np.int64)
    for trial in range(trials):
        place = np.full(repeats, trial) if trial < policies else upper_bounds(sums, counts, squares).argmax(1)
        episode = shown[every, random.integers(0, shown.shape[1], repeats)]
        earned = returns[order[every, place], episode]
        sums[every, place] += earned
        counts[every, place] += 1
        squares += earned**2
        means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
        picks[trial] = order[every, means.argmax(1)]
    return picks, returns[:, rest].mean(2).T


def upper_bounds(sums: np.ndarray, counts: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return upper confidence bounds, (R, C): UCB1 (Auer et al. 2002) in units of the spread of all returns so far.

    Args:
        sums: (R, C), sum of the returns of each policy.
        counts: (R, C), its trials; one or more.
        squares: (R,), sum of the squares of all returns.
    """
    trials = counts.sum(1, keepdims=True)
    # UCB1 is for rewards from 0 to 1; returns have any unit, which nobody knows before the first trials.
    spread = np.sqrt(np.maximum(squares[:, None] / trials - (sums.sum(1, keepdims=True) / trials) ** 2, 0))
    return sums / counts + spread * np.sqrt(2 * np.log(trials) / counts)


def trials_text(result: JsonObject) -> str:
    """Return the result as lines for a terminal."""
    width = max(len("candidate"), *(len(row["run"]) for row in result["candidates"]))
    lines = [
        f"{result['env_id']}, {result['episodes']} episodes of each policy from seed {result['seed']}; best of them: {result['pick']}",
        f"{'candidate':<{width}} {'mean':>8}  95 % interval over episodes",
    ]
    for row in sorted(result["candidates"], key=lambda row: -row["mean"]):
        interval = row["interval"]
        shown = "-" if interval is None else f"[{format_number(interval[0])}, {format_number(interval[1])}]"
        lines.append(f"{row['run']:<{width}} {format_number(row['mean']):>8}  {shown}")
    lines.append(f"after N trials (episodes, by a UCB bandit; means of {result['repeats']:,} repeats):")
    lines.append(f"{'trials':>8} {'return of the pick':>19} {'regret':>8} {'picks the best':>15}")
    after = result["after"]
    for row in after:
        if row["trials"] in _SHOWN or row is after[-1]:
            value, regret = format_number(row["value"]), format_number(row["regret"])
            lines.append(f"{row['trials']:>8} {value:>19} {regret:>8} {row['probability_best']:>14.0%}")
    return "\n".join(lines)

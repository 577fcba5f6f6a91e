"""Find the controller of Hopper around which `rlt reproduce judge-environments` builds its policies: a random search.

    python studies/judge_hopper_controller.py [--tries 400]

Nine numbers: what each of the three joints is given at rest, and by how much the torso's angle and its angular velocity change that.
Nothing is learned from a log, so that the search knows nothing of the judge.
"""

import argparse

import numpy as np

from rl_transformer.reproductions.judged_hopper import SPREAD, Hoppers, controller

EPISODES = 16


def mean_return(numbers, seed):
    """Return the mean return of the controller with the noise of the trial's policies."""
    random = np.random.default_rng(seed)
    played = Hoppers(EPISODES)
    seen = played.reset(random)
    live = np.ones(EPISODES, dtype=bool)
    total = 0.0
    while live.any():
        means = controller(seen, numbers)
        seen, rewards, over = played.step(means + SPREAD * random.standard_normal(means.shape))
        total += float(rewards[live].sum())
        live &= ~over
    return total / EPISODES


def main():
    """Search, and print each better controller."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=400)
    random = np.random.default_rng(0)
    best = np.zeros((3, 3))
    best_return = mean_return(best, seed=0)
    for number in range(parser.parse_args().tries):
        # Near the best so far, or anywhere in one of four tries.
        width = np.array([0.15, 0.4, 0.08]) if number % 4 else np.array([0.4, 1.0, 0.2])
        center = best if number % 4 else np.zeros((3, 3))
        tried = np.round(center + width[:, None] * random.standard_normal((3, 3)), 2)
        found = mean_return(tried, seed=1 + number)
        # Again with other episodes: the best of many tries was partly lucky.
        if found > best_return and (again := mean_return(tried, seed=10_000 + number)) > best_return:
            best, best_return = tried, again
            print(f"try {number}: mean return {again:.1f}, controller {tried.tolist()}", flush=True)


if __name__ == "__main__":
    main()

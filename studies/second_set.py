"""Make HalfCheetah-v5 data with an agent that is trained here: data that no recipe was tuned on.

    python studies/second_set.py --output half-cheetah [--iterations 300]

The agent is a linear policy found by augmented random search (Mania, Guy and Recht 2018, V2-t: normalized
observations, the best directions only). Half of the episodes are played by its last parameters, half by
those along the way, all with noise on the actions; so returns spread from nothing to what it learned.
"""

import argparse
from pathlib import Path

import gymnasium
import numpy as np

from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.trajectories.store import write_store

ENV_ID = "HalfCheetah-v5"
DIRECTIONS = 16
BEST = 8
STEP = 0.02
NOISE = 0.03
HORIZON = 300  # while searching; episodes of the data have all 1,000 steps
ACTION_NOISE = 0.1


class RunningStatistics:
    """Running mean and deviation of observations."""

    def __init__(self, size):
        self.count = 1e-4
        self.mean = np.zeros(size)
        self.mean_of_squares = np.ones(size)

    def add(self, observation):
        """Take one more observation into account."""
        self.count += 1
        self.mean = self.mean + (observation - self.mean) / self.count
        self.mean_of_squares = self.mean_of_squares + (observation**2 - self.mean_of_squares) / self.count

    def mean_and_deviation(self):
        """Return mean and standard deviation of the observations so far."""
        return self.mean, np.sqrt(np.maximum(self.mean_of_squares - self.mean**2, 1e-6))


def rollout(environment, weights, scale, statistics, seed):
    """Return the return of one episode's first steps."""
    observation, _ = environment.reset(seed=seed)
    mean, deviation = scale
    total = 0.0
    for _ in range(HORIZON):
        statistics.add(observation)
        action = np.clip(weights @ ((observation - mean) / deviation), -1, 1)
        observation, reward, terminated, truncated, _ = environment.step(action)
        total += reward
        if terminated or truncated:
            break
    return total


def search(iterations, seed):
    """Return (weights, scale) of some iterations, the last one last."""
    environment = gymnasium.make(ENV_ID)
    random = np.random.default_rng(seed)
    num_observations = environment.observation_space.shape[0]
    num_actions = environment.action_space.shape[0]
    weights = np.zeros((num_actions, num_observations))
    statistics = RunningStatistics(num_observations)
    agents = []
    for iteration in range(iterations):
        scale = statistics.mean_and_deviation()
        directions = random.normal(size=(DIRECTIONS, *weights.shape))
        seeds = random.integers(2**31, size=DIRECTIONS)
        scores = np.array(
            [
                [rollout(environment, weights + sign * NOISE * d, scale, statistics, int(s)) for sign in (1, -1)]
                for d, s in zip(directions, seeds, strict=True)
            ]
        )
        best = np.argsort(-scores.max(1))[:BEST]
        gain = ((scores[best, 0] - scores[best, 1])[:, None, None] * directions[best]).mean(0)
        weights = weights + STEP / scores[best].std() * gain
        if iteration % 10 == 9 or iteration == iterations - 1:
            agents.append((weights.copy(), statistics.mean_and_deviation()))
            print(f"{iteration + 1}/{iterations}: {scores.mean():.0f} in {HORIZON} steps", flush=True)
    return agents


class MixedSkillAgent:
    """Plays every episode with parameters of its own: half of them with the last ones."""

    def __init__(self, agents):
        self.agents = agents
        self.random = None
        self.chosen = agents[-1]

    def __call__(self, observation, random):
        if random is not self.random:  # every episode comes with its own generator
            self.random = random
            self.chosen = self.agents[-1 if random.random() < 0.5 else random.integers(len(self.agents))]
        weights, (mean, deviation) = self.chosen
        action = weights @ ((observation - mean) / deviation) + ACTION_NOISE * random.normal(size=len(weights))
        return np.clip(action, -1, 1).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    agent = MixedSkillAgent(search(args.iterations, args.seed))
    recorded = record_episodes(gymnasium.make(ENV_ID), ENV_ID, args.episodes, seed=10_000_000, behavior=agent)
    data = write_store(args.output, *recorded)
    quartiles = np.quantile(data.episode_returns, (0, 0.25, 0.5, 0.75, 1)).round()
    print(f"{len(data)} episodes, {data.num_steps} steps, returns {quartiles.tolist()}, fingerprint {data.fingerprint}")


if __name__ == "__main__":
    main()

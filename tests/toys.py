"""Small data sets and environments that the tests make for themselves."""

import gymnasium as gym
import numpy as np

from rl_transformer.config.run import RunConfig
from rl_transformer.trajectories import TrajectoryDataset

POINT = "tests/Point-v0"


class PointEnv(gym.Env):
    """A point on a line: the action moves it, the reward is what the action asks for, 12 steps.

    The return is the sum of (action + 1) / 2, so asking for a return has a meaning that a policy can
    be tested for: constant actions 2 * target / 12 - 1 earn the target.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    length = 12

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = float(self.np_random.normal()), 0
        return np.array([self.at, 0], np.float32), {}

    def step(self, action):
        self.at += float(action[0])
        self.steps += 1
        observation = np.array([self.at, self.steps / self.length], np.float32)
        return observation, (float(action[0]) + 1) / 2, self.steps == self.length, False, {}

    def render(self):
        return np.full((16, 16, 3), int(127 + 40 * np.tanh(self.at)), np.uint8)


if POINT not in gym.registry:
    gym.register(POINT, entry_point=PointEnv)


def point_data(num_episodes=40, seed=0) -> TrajectoryDataset:
    """Episodes of the point whose actions hover around a level of their own."""
    random, environment, episodes = np.random.default_rng(seed), PointEnv(), []
    for episode in range(num_episodes):
        observation, _ = environment.reset(seed=seed * 1000 + episode)
        level = random.uniform(-0.8, 0.8)
        seen, actions, rewards = [observation], [], []
        for _ in range(PointEnv.length):
            actions.append(np.clip(level + 0.1 * random.normal(size=1), -1, 1).astype(np.float32))
            observation, reward, *_ = environment.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
        episodes.append(
            {
                "observations": np.array(seen),
                "actions": np.array(actions),
                "rewards": np.array(rewards),
                "terminated": True,
            }
        )
    return TrajectoryDataset.from_episodes(
        episodes, observation_space=environment.observation_space, action_space=environment.action_space, source="point"
    )


def telling_data(lengths=(4, 7, 2)) -> TrajectoryDataset:
    """Episodes whose numbers say where they come from: observation 103 is episode 1, timestep 3."""
    episodes = []
    for episode, length in enumerate(lengths):
        place = np.float32(100 * episode + np.arange(length + 1))
        episodes.append(
            {
                "observations": np.stack([place, -place], axis=1),
                "actions": (place[:-1, None] / 1000).astype(np.float32),
                "rewards": 10.0**episode * (1 + np.arange(length)),
                "terminated": episode % 2 == 0,
                "truncated": episode % 2 == 1,
            }
        )
    return TrajectoryDataset.from_episodes(episodes, source="telling")


def tiny_config(output, **sections) -> RunConfig:
    """A run of seconds; ``sections`` are dicts of options."""
    config = RunConfig()
    config.output, config.dataset.uri = str(output), "memory"
    config.model.hidden_size, config.model.n_layer = 16, 2
    config.windows.context_length = 5
    config.training.train_steps, config.training.warmup_steps, config.training.learning_rate = 12, 2, 1e-3
    config.training.batch_size, config.training.checkpoint_every, config.training.threads = 8, 4, 1
    for section, values in sections.items():
        for name, value in values.items():
            assert hasattr(getattr(config, section), name), name
            setattr(getattr(config, section), name, value)
    return config

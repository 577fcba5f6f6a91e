"""A robot with two cameras, a gripper and joints: an environment, and episodes of it."""

import gymnasium as gym
import numpy as np

from rl_transformer.trajectories import TrajectoryDataset

ROBOT = "tests/TwoCameras-v0"
PARTS = {
    "front": gym.spaces.Box(0, 255, (40, 38, 3), np.uint8),  # channels last
    "gripper": gym.spaces.Discrete(3),
    "joints": gym.spaces.Box(-np.inf, np.inf, (4,), np.float32),
    "wrist": gym.spaces.Box(0, 255, (1, 36, 36), np.uint8),
}


class TwoCameras(gym.Env):
    """The brightness of the wrist camera is the action that earns a reward, if the gripper is 0; else joint 0 tells it."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Dict(PARTS)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action):
        reward = float(action == self.right)
        self.steps += 1
        return self._look(), reward, self.steps == 8, False, {}

    def _look(self):
        random = self.np_random
        self.right = int(random.integers(2))
        gripper = int(random.integers(3))
        tells = [self.right, 1 - self.right] if gripper == 0 else [int(random.integers(2)), self.right]
        joints = random.normal(50, 20, 4).astype(np.float32)
        joints[0] = 1000 + tells[1]
        return {
            "front": random.integers(0, 256, (40, 38, 3), dtype=np.uint8),
            "gripper": gripper,
            "joints": joints,
            "wrist": np.full((1, 36, 36), 40 + 160 * tells[0], np.uint8),
        }


if ROBOT not in gym.registry:
    gym.register(ROBOT, entry_point=TwoCameras)


def robot_episodes(count, seed=0, skill=0.8):
    environment = TwoCameras()
    random = np.random.default_rng(seed)
    episodes = []
    for episode in range(count):
        observation, _ = environment.reset(seed=seed * 1000 + episode)
        seen, actions, rewards = [observation], [], []
        for _ in range(8):
            action = environment.right if random.random() < skill else 1 - environment.right
            observation, reward, *_ = environment.step(action)
            seen.append(observation)
            actions.append(action)
            rewards.append(reward)
        columns = {name: np.stack([row[name] for row in seen]) for name in PARTS}
        episodes.append({"observations": columns, "actions": actions, "rewards": rewards, "terminated": True})
    return episodes


def robot_data(count=6, **more):
    environment = TwoCameras()
    return TrajectoryDataset.from_episodes(
        robot_episodes(count, **more),
        observation_space=environment.observation_space,
        action_space=environment.action_space,
        source="robot",
    )

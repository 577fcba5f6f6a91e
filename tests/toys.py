"""Small datasets, environments and policies that the tests make for themselves."""

import gymnasium as gym
import numpy as np
import torch

from rl_transformer.config.run import RunConfig
from rl_transformer.models import build_model
from rl_transformer.policy import Policy
from rl_transformer.policy.make_spec import make_policy_spec
from rl_transformer.policy.support import Support
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.selection import select_data

POINT = "tests/Point-v0"
TOLL = "tests/Toll-v0"
DIALS = "tests/Dials-v0"


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
        self.at = float(self.np_random.normal())
        self.steps = 0
        return np.array([self.at, 0], np.float32), {}

    def step(self, action):
        self.at += float(action[0])
        self.steps += 1
        observation = np.array([self.at, self.steps / self.length], np.float32)
        return observation, (float(action[0]) + 1) / 2, self.steps == self.length, False, {}

    def render(self):
        return np.full((16, 16, 3), int(127 + 40 * np.tanh(self.at)), np.uint8)


class TollEnv(PointEnv):
    """The point with a toll: a second action decides the cost of a step, 0 ... 20, and nothing else.

    So return and cost can be asked for independently, and costs (up to 240) are not in the model's unit.
    """

    largest_toll = 20.0

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        cost = self.largest_toll * (float(action[1]) + 1) / 2
        return observation, reward, terminated, truncated, {"cost": cost}


class DialsEnv(gym.Env):
    """Two dials, of three and of two positions: the observation shows the right ones, a reward of 1 for each; 2 steps.

    The first dial counts its positions from 1. Random actions earn 2 * (1/3 + 1/2) = 5/3 of 4.
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    length = 2

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 1, (5,), np.float32)
        self.action_space = gym.spaces.MultiDiscrete([3, 2], start=[1, 0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._turn(), {}

    def step(self, action):
        reward = float((np.asarray(action) == self.right).sum())
        self.steps += 1
        return self._turn(), reward, self.steps == self.length, False, {}

    def _turn(self):
        self.right = np.array([1 + self.np_random.integers(3), self.np_random.integers(2)])
        observation = np.zeros(5, np.float32)
        observation[[self.right[0] - 1, 3 + self.right[1]]] = 1
        return observation


for env_id, entry_point in {POINT: PointEnv, TOLL: TollEnv, DIALS: DialsEnv}.items():
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=entry_point)


def record(environment, choose_action, seed, info_names=()):
    """Return one episode as a dict of arrays; ``info_names`` are columns that the environment reports in ``info``."""
    observation, _ = environment.reset(seed=seed)
    columns = {"observations": [observation], "actions": [], "rewards": [], **{name: [] for name in info_names}}
    terminated = False
    while not terminated:
        action = choose_action()
        observation, reward, terminated, _, info = environment.step(action)
        step = {"observations": observation, "actions": action, "rewards": reward}
        for name, values in columns.items():
            values.append(step[name] if name in step else info[name])
    return {**{name: np.array(values) for name, values in columns.items()}, "terminated": True}


def point_data(num_episodes=40, seed=0) -> TrajectoryDataset:
    """Episodes of the point whose actions hover around a level of their own."""
    return _hovering_data(PointEnv(), num_episodes, seed, "point")


def toll_data(num_episodes=40, seed=0) -> TrajectoryDataset:
    """Episodes of the toll whose actions hover around levels of their own; with the column cost."""
    return _hovering_data(TollEnv(), num_episodes, seed, "toll", ["cost"])


def _hovering_data(environment, num_episodes, seed, source, info_names=()) -> TrajectoryDataset:
    random = np.random.default_rng(seed)
    size = environment.action_space.shape[0]
    episodes = []
    for episode in range(num_episodes):
        level = random.uniform(-0.8, 0.8) if size == 1 else random.uniform(-0.8, 0.8, size)

        def hover(level=level):
            return np.clip(level + 0.1 * random.normal(size=size), -1, 1).astype(np.float32)

        episodes.append(record(environment, hover, seed * 1000 + episode, info_names))
    return TrajectoryDataset.from_episodes(
        episodes,
        observation_space=environment.observation_space,
        action_space=environment.action_space,
        source=source,
    )


def camera_data(num_episodes=12, seed=0) -> TrajectoryDataset:
    """Episodes of small pictures with three discrete actions; the brightness of a picture tells the next action."""
    random = np.random.default_rng(seed)
    episodes = []
    for _ in range(num_episodes):
        length = int(random.integers(4, 9))
        actions = random.integers(0, 3, length)
        pictures = random.integers(0, 40, (length + 1, 1, 36, 36))
        pictures[:-1] += 80 * actions[:, None, None, None]
        columns = {"observations": pictures.astype(np.uint8), "actions": actions}
        episodes.append({**columns, "rewards": (actions == 1).astype(float), "terminated": True})
    return TrajectoryDataset.from_episodes(
        episodes,
        observation_space=gym.spaces.Box(0, 255, (1, 36, 36), np.uint8),
        action_space=gym.spaces.Discrete(3),
        source="camera",
    )


def dials_data(num_episodes=300, seed=0) -> TrajectoryDataset:
    """Episodes of the dials whose actions are random."""
    environment = DialsEnv()
    environment.action_space.seed(seed)
    episodes = [record(environment, environment.action_space.sample, seed * 1000 + i) for i in range(num_episodes)]
    return TrajectoryDataset.from_episodes(
        episodes,
        observation_space=environment.observation_space,
        action_space=environment.action_space,
        source="dials",
    )


def telling_data(lengths=(4, 7, 2), *, with_cost=False) -> TrajectoryDataset:
    """Episodes whose numbers say where they come from: observation 103 is episode 1, timestep 3.

    With cost, the cost of that step is 1030.
    """
    episodes = []
    for episode, length in enumerate(lengths):
        place = np.float32(100 * episode + np.arange(length + 1))
        further = {"cost": 10.0 * place[:-1]} if with_cost else {}
        episodes.append(
            {
                "observations": np.stack([place, -place], axis=1),
                "actions": (place[:-1, None] / 1000).astype(np.float32),
                "rewards": 10.0**episode * (1 + np.arange(length)),
                "terminated": episode % 2 == 0,
                "truncated": episode % 2 == 1,
                **further,
            }
        )
    return TrajectoryDataset.from_episodes(episodes, source="telling")


def tiny_config(output, **sections) -> RunConfig:
    """A run of seconds; ``sections`` are dicts of options."""
    config = RunConfig()
    config.output = str(output)
    config.dataset.uri = "memory"
    config.model.hidden_size = 16
    config.model.n_layer = 2
    config.windows.context_length = 5
    config.training.train_steps = 12
    config.training.warmup_steps = 2
    config.training.learning_rate = 1e-3
    config.training.batch_size = 8
    config.training.checkpoint_every = 4
    config.training.threads = 1
    for section, values in sections.items():
        for name, value in values.items():
            config.set(f"{section}.{name}", value)
    return config


def untrained_policy(dataset, **sections) -> Policy:
    """A policy with random weights that are large enough for mistakes to show; ``sections`` as in `tiny_config`."""
    config = tiny_config("unused", **sections)
    data = select_data(dataset, config)
    spec = make_policy_spec(dataset, data.returns, data.split, config, {})
    model = build_model(spec.arch, spec.model, spec.context_length)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    normalizer = Normalizer.from_data(spec.data, dataset.statistics, action_tanh=spec.model.action_tanh)
    return_model = spec.build_return_model()
    return Policy(spec, model, normalizer, return_model, Support.from_data(dataset, data.split, normalizer, 1024))

"""A user's own module: a reader, a state encoder, an action head, a condition, a trunk and an environment.

The tests write this text to my_plugin.py in a folder of their own; the package and the tests never import this file.
"""

import json
from dataclasses import asdict, dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rl_transformer.conditions import CONDITIONS
from rl_transformer.conditions.interface import finite_target, sum_to_go
from rl_transformer.models.embeddings import ENCODERS
from rl_transformer.models.heads import HEADS
from rl_transformer.models.trunk.dropout import Dropout
from rl_transformer.models.trunk.interface import TRUNKS, TrunkOutput
from rl_transformer.trajectories import DataSpec, Space, Trajectory
from rl_transformer.trajectories.readers import READERS, ReaderOption, Source


class XyzReader:
    """One episode per line, as JSON."""

    usage = "xyz:FILE"
    options = {"skip": ReaderOption(0, "Leave out the first episodes.", int)}  # noqa: RUF012

    def open(self, path, *, skip):
        spec = DataSpec(Space.box((2,)), Space.box((1,), -1.0, 1.0), source=path)
        return Source(spec, self._episodes(path, skip))

    def _episodes(self, path, skip):
        with open(path) as file:
            for line in list(file)[skip:]:
                yield Trajectory.from_mapping({**json.loads(line), "terminated": True}, where=path)


class MyEncoder(nn.Module):
    """Two layers with dropout between them."""

    def __init__(self, config):
        super().__init__()
        self.first = nn.Linear(config.state_dim, 24)
        self.dropout = Dropout(0.2)
        self.second = nn.Linear(24, config.hidden_size)

    def forward(self, states):
        return self.second(self.dropout(torch.tanh(self.first(states))))


class MyHead(nn.Module):
    """The middle and the width of a uniform distribution; trained by absolute error."""

    space_kinds = ("box",)
    can_sample = True
    has_entropy = True
    num_allowed = 0

    def __init__(self, config):
        super().__init__()
        self.middle = nn.Linear(config.hidden_size, config.act_dim)
        self.width = nn.Linear(config.hidden_size, config.act_dim)
        self.num_uniforms = config.act_dim

    @staticmethod
    def make_embedding(config):
        return nn.Linear(config.act_dim, config.hidden_size)

    def forward(self, hidden):
        return torch.cat([torch.tanh(self.middle(hidden)), nn.functional.softplus(self.width(hidden))], dim=-1)

    def loss(self, parameters, actions):
        middle, width = parameters.chunk(2, dim=-1)
        return ((middle - actions).abs() / width + width.log()).mean(-1)

    def error(self, parameters, actions):
        return (self.greedy(parameters) - actions).abs().mean(-1)

    def greedy(self, parameters, allowed=None):
        return parameters.chunk(2, dim=-1)[0]

    def sample(self, parameters, uniforms, allowed=None):
        middle, width = parameters.chunk(2, dim=-1)
        return (middle + width * (2 * uniforms - 1)).clamp(-1, 1).float()

    def entropy(self, parameters, normals):
        return parameters.chunk(2, dim=-1)[1].log().sum(-1)


@dataclass(frozen=True)
class FuelToGo:
    """The fuel that is still to be used; the environment reports it as info["fuel"]."""

    name = "my_condition"
    outcome = "fuel"
    width = 1
    scale: float = 1.0

    @classmethod
    def from_data(cls, dataset, config):
        return cls(scale=float(np.abs(dataset.columns["fuel"]).sum() / len(dataset)))

    def column(self, dataset):
        return sum_to_go(dataset.columns["fuel"].astype(np.float64), dataset.offsets).astype(np.float32)

    def initial(self, target):
        return finite_target("my_condition", target)

    def after(self, value, outcome):
        return value - outcome[:, None]

    def to_dict(self):
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_dict(cls, values):
        return cls(scale=values["scale"])


class MyTrunk(nn.Module):
    """A recurrent network: every output depends on earlier tokens only."""

    supports_kv_cache = False

    def __init__(self, config):
        super().__init__()
        self.layers = nn.GRU(config.hidden_size, config.hidden_size, num_layers=config.n_layer, batch_first=True)

    def run(self, tokens, valid, *, keep_hidden=False, keep_weights=False):
        return TrunkOutput(self.layers(tokens)[0])

    def hidden_at(self, tokens, positions):
        return self.run(tokens, None).last_hidden_state[:, positions]


class DriveEnv(gym.Env):
    """The action is the reward, from 0 to 1, and uses fuel; 10 steps."""

    def __init__(self, render_mode=None):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.array([self.np_random.normal(), 0], np.float32), {}

    def step(self, action):
        self.steps += 1
        observation = np.array([float(action[0]), self.steps / 10], np.float32)
        return observation, (float(action[0]) + 1) / 2, self.steps == 10, False, {"fuel": abs(float(action[0]))}


READERS.register("xyz", XyzReader)
ENCODERS.register("my_encoder", MyEncoder)
HEADS.register("my_head", MyHead)
CONDITIONS.register("my_condition", FuelToGo)
TRUNKS.register("my_trunk", MyTrunk)
gym.register("my_plugin/Drive-v0", entry_point=DriveEnv)

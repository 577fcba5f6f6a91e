"""The kinds of policies that are claimed to act alike: options of `untrained_policy` by name."""

import numpy as np

from rl_transformer.trajectories import Space, TrajectoryDataset
from tests.toys import dials_data, point_data, toll_data, untrained_policy

KINDS = {
    "published": {},
    "added": {"model": {"condition_entry": "added"}},
    "delayed": {"returns": {"update": "keep"}},
    "clipped": {"returns": {"reward_clip": 0.4}},
    "cloning": {"model": {"conditions": []}},
    "mlp": {"model": {"arch": "behavior_cloning"}},
    "window positions": {"model": {"timestep_embedding": "window"}},
    "window positions added": {"model": {"timestep_embedding": "window", "condition_entry": "added"}},
    "sliding window": {"model": {"attention": "sliding_window"}},
    "sliding window added": {"model": {"attention": "sliding_window", "condition_entry": "added"}},
    "gaussian sample": {"model": {"action_head": "gaussian"}, "policy": {"action_selection": "sample"}},
}
BOTH_CONDITIONS = {"conditions": ["return_to_go", "cost_to_go"]}
SAMPLE = {"action_selection": "sample"}


def integer_data(actions, action_space, num_episodes=12):
    """Episodes with observations of two numbers and the given actions, repeated."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(size=(len(actions) + 1, 2)).astype(np.float32),
            "actions": np.roll(actions, i, axis=0),
            "rewards": random.normal(size=len(actions)),
            "truncated": True,
        }
        for i in range(num_episodes)
    ]
    return TrajectoryDataset.from_episodes(episodes, action_space=action_space)


def image_data(num_episodes=3):
    """Episodes of random gray images with two actions."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.integers(0, 255, (8, 1, 36, 36), dtype=np.uint8),
            "actions": random.integers(0, 2, 7),
            "rewards": random.normal(size=7),
            "truncated": True,
        }
        for _ in range(num_episodes)
    ]
    return TrajectoryDataset.from_episodes(episodes, action_space=Space.discrete(2))


def discrete_data():
    return integer_data(np.array([1, 2, 3, 1, 2, 3]), Space.discrete(3, start=1))


def box_int_data():
    return integer_data(np.array([[0, 5], [3, 9], [10, 7]]), Space.box((2,), [0, 5], [10, 9], dtype="int64"))


# The data and the options of a policy of every kind of action, observation, condition and attention.
ALL_KINDS = {
    **{name: (point_data, options) for name, options in KINDS.items()},
    "gaussian greedy": (point_data, {"model": {"action_head": "gaussian"}}),
    "two conditions": (toll_data, {"model": BOTH_CONDITIONS}),
    "two conditions in a sliding window": (toll_data, {"model": {**BOTH_CONDITIONS, "attention": "sliding_window"}}),
    "generated target": (point_data, {"policy": {"target": "generated"}, "returns": {"bins": 11}}),
    "generated target, two conditions": (toll_data, {"model": BOTH_CONDITIONS, "policy": {"target": "generated"}}),
    "discrete": (discrete_data, {}),
    "discrete sample in a sliding window": (
        discrete_data,
        {"policy": SAMPLE, "model": {"attention": "sliding_window"}},
    ),
    "multi-discrete": (dials_data, {}),
    "multi-discrete sample": (dials_data, {"policy": SAMPLE}),
    "box of integers": (box_int_data, {}),
    "box of integers, gaussian sample": (box_int_data, {"model": {"action_head": "gaussian"}, "policy": SAMPLE}),
    "stacked images": (image_data, {"model": {"frame_stack": 3}}),
    "stacked images in a sliding window": (
        image_data,
        {"model": {"frame_stack": 3, "attention": "sliding_window"}, "policy": SAMPLE},
    ),
    "images through impala": (image_data, {"model": {"state_encoder": "impala"}}),
    "one step of context": (image_data, {"model": {"frame_stack": 2}, "windows": {"context_length": 1}}),
}


class Episode:
    """What a caller brings to an episode of any kind of policy: targets, observations, outcomes, masks, actions."""

    def __init__(self, kind, length=14, seed=0):
        make_data, options = ALL_KINDS[kind]
        data = make_data()
        self.policy = untrained_policy(data, **options)
        random = np.random.default_rng(seed)
        spec = self.policy.spec
        self.target = 5.0 if spec.takes_target else None
        self.targets = {c.name: 60.0 for c in spec.conditions if c.name != "return_to_go"}
        self.has_cost = bool(self.targets)
        space = spec.data.observation_space
        shape = (length, *space.shape)
        self.observations = random.normal(size=shape).astype(np.float32)
        if space.is_image:
            self.observations = random.integers(0, 255, shape, dtype=np.uint8)
        self.rewards = random.normal(size=length)
        # Logged actions are actions of the space.
        self.actions = spec.data.action_space.decode_actions(data.actions[:length])
        self.allowed_size = self.policy.model.predict_action.num_allowed

    def session(self, seed=3):
        return self.policy.session(self.target, seed, targets=self.targets or None)

    def outcomes(self, t):
        return {"cost": float(abs(self.rewards[t]))} if self.has_cost else {}

    def step(self, session, t, executed=None):
        """Act and observe; return the action of the policy."""
        action = session.act(self.observations[t])
        session.observe(self.rewards[t], action=executed, **self.outcomes(t))
        return np.asarray(action).tolist()

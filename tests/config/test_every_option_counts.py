"""Claim: no option is ignored. In every kind of run, another value changes the run's files or is refused."""

import json

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer import RLTransformerError, RunConfig, TrajectoryDataset, train
from rl_transformer.training.metrics import read_metrics
from tests.toys import POINT, camera_data, point_data, tiny_config
from tests.training.runs import stored_tensors

# One value that differs from the default for every option. An option that is missing here fails the test.
OTHER_VALUES = {
    "dataset.uri": "elsewhere",
    "dataset.top_fraction": 0.3,
    "dataset.min_return": 4.0,
    "dataset.max_trajectories": 5,
    "dataset.validation_fraction": 0.5,
    "dataset.clip_actions": True,
    "dataset.observe": ["position"],
    "model.arch": "behavior_cloning",
    "model.conditions": [],
    "model.condition_entry": "added",
    "model.stream_entry": "tokens",
    "model.action_head": "gaussian",
    "model.action_tanh": False,
    "model.state_encoder": "nature_cnn",
    "model.hidden_size": 24,
    "model.n_layer": 3,
    "model.n_head": 2,
    "model.n_inner": 12,
    "model.activation_function": "silu",
    "model.resid_pdrop": 0.5,
    "model.embd_pdrop": 0.5,
    "model.attn_pdrop": 0.5,
    "model.max_ep_len": 7,
    "model.initializer_range": 0.1,
    "model.timestep_initializer_range": 0.5,
    "model.timestep_embedding": "after_norm",
    "model.frame_stack": 3,
    "model.attention": "sliding_window",
    "model.embedding": "mlp",
    "model.blocks": "huggingface",
    "model.trunk": "nowhere",
    "model.init_from": "nowhere",
    "model.init_statistics": "refit",
    "model.trunk_weights": "random",
    "model.positions": "tokens",
    "model.tie_action_head": True,
    "windows.context_length": 3,
    "windows.window_length": 7,
    "windows.start": "first",
    "windows.return_balance": 1.0,
    "returns.kind": "next:3",
    "returns.scale": 3.0,
    "returns.update": "keep",
    "returns.reward_clip": 0.25,
    "returns.label": "expected",
    "returns.predict": True,
    "returns.bins": 7,
    "returns.folds": 3,
    "training.train_steps": 3,
    "training.batch_size": 5,
    "training.learning_rate": 0.01,
    "training.warmup_steps": 3,
    "training.schedule": "cosine",
    "training.schedule_steps": 9,
    "training.weight_decay": 0.5,
    "training.decay": "matrices",
    "training.betas": (0.5, 0.6),
    "training.max_gradient_norm": 0.01,
    "training.ema_decay": 0.5,
    "training.entropy_weight": 0.1,
    "training.image_shift": 3,
    "training.trunk": "frozen",
    "training.lora_rank": 4,
    "training.trunk_learning_rate": 0.01,
    "training.trunk_weight_decay": 0.9,
    "training.precision": "bfloat16",
    "training.seed": 7,
    "training.threads": 2,
    "training.device": "cuda",
    "training.checkpoint_every": 1,
    "training.keep_checkpoints": 1,
    "training.tensorboard": True,
    "training.wandb": True,
    "language.alignment_weight": 0.1,
    "language.alignment_centroids": 7,
    "language.alignment_steps": 7,
    "language.text": "nowhere",
    "language.text_weight": 0.1,
    "language.text_batch_size": 3,
    "language.text_length": 16,
    "policy.action_selection": "sample",
    "policy.suggested_targets": [3.0],
    "policy.target": "generated",
    "policy.support_size": 40,
    "policy.prior_exponent": 3.0,
    "policy.prior_floor": 0.5,
    "evaluation.env_id": POINT,
    "evaluation.target_returns": [3.0],
    "evaluation.targets": {"cost_to_go": 3.0},
    "evaluation.num_episodes": 2,
    "evaluation.every": 2,
    "evaluation.seed": 7,
    "evaluation.max_live": 1,
    "evaluation.max_steps": 3,
    "evaluation.step_timeout": 60.0,
    "evaluation.env_kwargs": {"max_episode_steps": 4},
    "evaluation.wrappers": ['TimeLimit={"max_episode_steps": 5}'],
    "evaluation.on_error": "stop",
}


# Where that value would be what the kind of run has anyway.
VALUES_OF_A_KIND = {
    ("image", "model.state_encoder"): "vector",
    ("behavior_cloning", "model.conditions"): ["cost_to_go"],
}


# Options whose effect is not in the run's files, and is tested elsewhere: clipping finds nothing to clip in this data, the
# number of environments that are open changes no result, and no evaluation fails or hangs here.
NO_RESULT = {"dataset.clip_actions", "evaluation.max_live", "evaluation.on_error", "evaluation.step_timeout"}
HAS_ALREADY = {
    "behavior_cloning": {"model.arch"},
    "unconditioned": {"model.conditions"},
    "evaluated": {"evaluation.env_id"},
}


def walking_data() -> TrajectoryDataset:
    """Episodes with vectors as observations and three discrete actions."""
    random = np.random.default_rng(0)
    episodes = []
    for _ in range(12):
        length = int(random.integers(4, 13))
        actions = random.integers(0, 3, length)
        observations = random.normal(size=(length + 1, 2)).astype(np.float32)
        rewards = (actions == 1).astype(float)
        episodes.append({"observations": observations, "actions": actions, "rewards": rewards, "terminated": True})
    return TrajectoryDataset.from_episodes(episodes, action_space=gym.spaces.Discrete(3), source="walking")


KINDS = {
    "vector": (point_data, {}),
    "image": (camera_data, {"model": {"frame_stack": 2}}),
    "discrete": (walking_data, {}),
    "behavior_cloning": (point_data, {"model": {"arch": "behavior_cloning"}}),
    "unconditioned": (point_data, {"model": {"conditions": []}}),
    # Evaluated at the end only: a checkpoint is written before each evaluation.
    "evaluated": (point_data, {"evaluation": {"env_id": POINT, "num_episodes": 1, "every": 100}}),
}


def small_run(kind, folder, option=None) -> RunConfig:
    training = {
        "train_steps": 4,
        "warmup_steps": 1,
        "max_gradient_norm": 1.0,
        "weight_decay": 0.1,
        "checkpoint_every": 2,
    }
    config = tiny_config(folder, training=training, **KINDS[kind][1])
    if option is not None:
        before = config.get(option)
        config.set(option, VALUES_OF_A_KIND.get((kind, option), OTHER_VALUES[option]))
        assert config.get(option) != before
    return config


def contents(folder, option=None):
    """Return everything in a run folder that an option can change, but for the record of the option itself."""
    policy = json.loads((folder / "policy/policy.json").read_text())
    # The definition of the return acts through the conditions; without any, it and the targets are mere records.
    further = [] if policy["conditions"] else ["suggested_targets", "target_ranges"]
    for name in ("versions", "returns", *further):
        del policy[name]
    if option is not None:
        policy["model"].pop(option.partition(".")[2], None)
    tensors = {name: tensor.numpy().tobytes() for name, tensor in stored_tensors(folder).items()}
    report = folder / "report.json"
    run = json.loads((folder / "run.json").read_text())
    return (
        policy,
        tensors,
        read_metrics(folder),
        sorted(str(path.relative_to(folder)).partition(".tfevents")[0] for path in folder.rglob("*")),
        json.loads(report.read_text()) if report.exists() else None,
        (run["data"], run["threads"]),
    )


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """A run of every kind without another option."""
    folder = tmp_path_factory.mktemp("unchanged")
    return {kind: train(small_run(kind, folder / kind), dataset=KINDS[kind][0]()) for kind in KINDS}


def test_every_option_is_walked():
    assert {name for name, _, _ in RunConfig().options()} == set(OTHER_VALUES)


@pytest.mark.parametrize("kind", KINDS)
def test_no_option_is_ignored(kind, unchanged, tmp_path):
    """Reported as: what the user sets is ignored, for example a misspelled option or one of another reader."""
    data = KINDS[kind][0]()
    ignored = []
    for option in sorted(set(OTHER_VALUES) - HAS_ALREADY.get(kind, set())):
        folder = tmp_path / option
        try:
            run = train(small_run(kind, folder, option), dataset=data)
        except RLTransformerError:
            continue  # refused; that the fix helps is claimed where each refusal is tested
        if option not in NO_RESULT and contents(run, option) == contents(unchanged[kind], option):
            ignored.append(option)
    assert not ignored

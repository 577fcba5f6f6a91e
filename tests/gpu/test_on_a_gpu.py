"""Claims about training and acting on an NVIDIA GPU; they need one, and are run by hand where there is one."""

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.config import preset
from rl_transformer.evaluation.evaluate import evaluate
from rl_transformer.launch.seeds import train_seeds
from rl_transformer.run import make_updates
from rl_transformer.training import cuda_graph
from rl_transformer.training.cuda_graph import DeviceUpdates
from rl_transformer.training.metrics import read_metrics
from rl_transformer.training.updates import EagerUpdates
from tests.toys import POINT, camera_data, dials_data, point_data, tiny_config, untrained_policy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA GPU")

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
RUNS = {
    "published": (point_data, {}),
    "EMA and cosine": (point_data, {"training": {"ema_decay": 0.9, "schedule": "cosine"}}),
    "no clipping": (point_data, {"training": {"max_gradient_norm": None}}),
    "expected returns": (point_data, {"returns": {"label": "expected"}}),
    "sliding window": (point_data, {"model": {"attention": "sliding_window"}}),
    "return added": (point_data, {"model": {"condition_entry": "added"}}),
    "gaussian head": (point_data, {"model": {"action_head": "gaussian"}}),
    "multi-discrete head": (dials_data, {"model": {"action_head": "multi_discrete"}}),
    "cloning": (point_data, {"model": {"conditions": []}}),
    "pictures": (camera_data, {"model": {"frame_stack": 4}}),
    "impala": (camera_data, {"model": {"frame_stack": 2, "state_encoder": "impala"}}),
    "shifted pictures": (camera_data, {"model": {"frame_stack": 2}, "training": {"image_shift": 3}}),
    "positions of the window": (camera_data, {"model": {"timestep_embedding": "window"}}),
}


def config_of(folder, options, **training):
    """A tiny run on the GPU, of more updates than the warm-up before the capture makes."""
    sections = {section: dict(values) for section, values in options.items()}
    sections["training"] = {"device": "cuda", **sections.get("training", {}), **training}
    return tiny_config(folder, **sections)


def losses(folder):
    return [row["loss"] for row in read_metrics(folder)]


@pytest.fixture
def eager(monkeypatch):
    """Return a function that switches the captured graph off."""
    return lambda: monkeypatch.setattr("rl_transformer.run.make_updates", EagerUpdates)


@pytest.mark.parametrize("name", RUNS)
def test_a_captured_graph_makes_the_updates_of_the_plain_loop(name, eager, tmp_path):
    """Dropout included: masks are functions of (seed, step), and shapes, rates and weights follow the same schedule."""
    make_data, options = RUNS[name]
    captured = train(config_of(tmp_path / "graph", options), dataset=make_data())
    eager()
    plain = train(config_of(tmp_path / "plain", options), dataset=make_data())
    assert losses(captured) == pytest.approx(losses(plain), rel=1e-3)
    assert len(set(losses(captured))) > 1
    assert sorted(path.name for path in (captured / "checkpoints").iterdir()) == sorted(
        path.name for path in (plain / "checkpoints").iterdir()
    )


def test_the_graph_is_what_trains(tmp_path, monkeypatch):
    captures = []
    genuine = DeviceUpdates._capture
    monkeypatch.setattr(DeviceUpdates, "_capture", lambda self, *block: captures.append(block) or genuine(self, *block))
    train(config_of(tmp_path / "run", {}), dataset=point_data())
    assert captures == [(1, 4)]
    assert make_updates is cuda_graph.make_updates


@pytest.mark.parametrize("name", ["published", "pictures", "multi-discrete head"])
def test_a_gpu_makes_the_updates_of_a_cpu(name, tmp_path):
    """Without dropout, whose masks are other ones, and in float32."""
    make_data, options = RUNS[name]
    options = options | {"model": options.get("model", {}) | NO_DROPOUT}
    on_gpu = train(config_of(tmp_path / "gpu", options), dataset=make_data())
    on_cpu = train(config_of(tmp_path / "cpu", options, device="cpu"), dataset=make_data())
    rel = 5e-2 if name == "pictures" else 2e-3  # convolutions multiply in TF32 there
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=rel)


@pytest.mark.parametrize("name", ["published", "EMA and cosine", "pictures"])
def test_a_stopped_run_resumes_to_the_updates_of_an_uninterrupted_one(name, tmp_path):
    make_data, options = RUNS[name]
    length = {"schedule_steps": 16} if "schedule" in options.get("training", {}) else {}
    whole = train(config_of(tmp_path / "whole", options, train_steps=16, **length), dataset=make_data())
    train(config_of(tmp_path / "parts", options, train_steps=8, **length), dataset=make_data())
    parts = config_of(tmp_path / "parts", options, train_steps=16, **length)
    parts = train(parts, dataset=make_data(), resume=True)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.parametrize("name", ["published", "EMA and cosine", "pictures", "sliding window", "cloning"])
def test_seeds_trained_together_are_the_runs_of_each_alone(name, tmp_path):
    make_data, options = RUNS[name]
    seeds = (0, 3, 2**40)
    together = train_seeds(config_of(tmp_path / "together", options), seeds, dataset=make_data())
    for seed, folder in zip(seeds, together, strict=True):
        alone = train(config_of(tmp_path / f"alone-{seed}", options, seed=seed), dataset=make_data())
        rel = 5e-2 if name == "pictures" else 2e-3  # convolutions multiply in TF32, and take other paths under vmap
        assert losses(folder) == pytest.approx(losses(alone), rel=rel)


def test_bfloat16_is_close_to_float32(tmp_path):
    exact = train(config_of(tmp_path / "float32", {}), dataset=point_data())
    short = train(config_of(tmp_path / "bfloat16", {}, precision="bfloat16"), dataset=point_data())
    assert losses(short) == pytest.approx(losses(exact), rel=0.05)
    assert losses(short) != losses(exact)


def test_after_a_number_that_is_not_finite_no_update_is_made(tmp_path):
    """The first batch with the bad action comes in some replay of the graph; the newest checkpoint stays valid."""
    data = point_data()
    config = config_of(tmp_path / "run", {}, learning_rate=1e30, max_gradient_norm=None, train_steps=200)
    with pytest.raises(RLTransformerError, match="no update was made"):
        train(config, dataset=data)


@pytest.mark.parametrize("context", ["full", "sliding_window"])
@pytest.mark.parametrize("data", [point_data, camera_data])
def test_a_policy_acts_on_a_gpu_as_on_a_cpu(context, data, tmp_path):
    dataset = data()
    policy = untrained_policy(dataset, model={"attention": context, "hidden_size": 32, "n_head": 2})
    policy.save(tmp_path / "policy")
    numbers = {}
    for device in ("cpu", "cuda"):
        session = load_policy(tmp_path / "policy", device=device).session(4.0)
        episode = dataset.trajectory(0)
        numbers[device] = []
        for t in range(len(episode.rewards)):
            action = session.act(episode.observations[t])
            numbers[device].append(np.asarray(action))
            session.observe(episode.rewards[t])
    np.testing.assert_allclose(np.stack(numbers["cuda"]), np.stack(numbers["cpu"]), atol=1e-4)


def test_evaluation_on_a_gpu_gives_the_returns_of_a_cpu(tmp_path):
    policy = untrained_policy(point_data())
    policy.save(tmp_path / "policy")
    reports = [
        evaluate(
            load_policy(tmp_path / "policy", device=device), env_id=POINT, target_returns=[4.0, 8.0], num_episodes=3
        )
        for device in ("cpu", "cuda")
    ]
    for one, other in zip(*(report.targets for report in reports), strict=True):
        assert one.episode_returns == pytest.approx(other.episode_returns, abs=1e-3)


def test_evaluations_during_training_run_on_the_gpu(tmp_path):
    evaluation = {"env_id": POINT, "target_returns": [4.0], "num_episodes": 2, "every": 5}
    folder = train(config_of(tmp_path / "run", {"evaluation": evaluation}), dataset=point_data())
    assert [row["step"] for row in read_metrics(folder) if "return_at_4" in row] == [5, 10, 12]


@pytest.mark.parametrize("name", ["gym", "fast", "image", "atari"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_preset_trains_on_a_gpu(name, precision, tmp_path):
    config = preset(name)
    config.dataset.uri = "memory"
    config.output = str(tmp_path / "run")
    for option, value in {"device": "cuda", "precision": precision, "train_steps": 20}.items():
        config.set(f"training.{option}", value)
    if name == "atari":
        config.set("training.batch_size", 16)
    data = camera_data() if name in ("image", "atari") else point_data()
    folder = train(config, dataset=data)
    assert np.isfinite(losses(folder)).all()

"""Claims about the tutorials' interface: items, batches, splits, and a loss that a training loop can minimize."""

import gymnasium as gym
import numpy as np
import pytest
import torch
import transformers

from rl_transformer import RLTransformerError, TrajectoryDataset
from rl_transformer.models.decision_transformer import DecisionTransformer
from rl_transformer.trajectories.store import write_store
from rl_transformer.utils.data import BatchSampler, Dataset
from rl_transformer.utils.evaluation import batch_loss, evaluate
from tests.toys import point_data, telling_data

KEYS = ["states", "actions", "rewards", "returns_to_go", "timesteps", "attention_mask"]


@pytest.fixture
def t5():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))


def test_item_i_begins_at_timestep_i_and_padding_comes_last():
    """Episodes of 4, 7 and 2 steps; the rewards of episode e are 10^e * (1, 2, ...)."""
    data = telling_data((4, 7, 2))
    windows = Dataset(data, context_length=3, return_scale=1.0)
    assert len(windows) == 13
    item = windows[4 + 5]  # episode 1, timestep 5: two real steps are left
    assert list(item) == KEYS
    assert item["timesteps"].tolist()[:2] == [5, 6]
    assert item["attention_mask"].tolist() == [1, 1, 0]
    assert item["rewards"][:2, 0].tolist() == [60, 70]
    assert item["returns_to_go"][:2, 0].tolist() == [130, 70]
    assert len(list(iter(Dataset(telling_data((2, 2)), context_length=2)))) == 4  # iteration ends


def test_a_batch_of_items_equals_one_gather():
    windows = Dataset(point_data(5), context_length=4)
    indices = np.array([3, 0, 41])
    together = windows.gather(indices)
    for name in KEYS:
        assert torch.equal(together[name], torch.stack([windows[int(i)][name] for i in indices])), name


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_data_loader_with_workers_gives_the_same_items(workers):
    windows = Dataset(point_data(4), context_length=4)
    loader = torch.utils.data.DataLoader(windows, batch_size=16, num_workers=workers)
    states = torch.cat([batch["states"] for batch in loader])
    assert torch.equal(states, windows.gather(np.arange(len(windows)))["states"])


def test_splits_are_disjoint_together_all_and_share_their_units():
    data = point_data(20)
    train = Dataset(data, split="train", validation_fraction=0.2)
    validation = Dataset(data, split="validation", validation_fraction=0.2)
    assert len(train) == 16 * 12
    assert len(validation) == 4 * 12
    everything = Dataset(data).gather(np.arange(20 * 12))["states"].flatten(1)
    parts = [part.gather(np.arange(len(part)))["states"].flatten(1) for part in (train, validation)]
    assert {tuple(row) for row in torch.cat(parts).tolist()} == {tuple(row) for row in everything.tolist()}
    assert train.returns.scale == validation.returns.scale
    with pytest.raises(RLTransformerError, match="split 'test'"):
        Dataset(data, split="test")


def test_a_path_may_be_a_folder_or_a_uri(tmp_path):
    data = point_data(3)
    write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(3)))
    for path in (tmp_path / "store", str(tmp_path / "store"), f"rlt:{tmp_path / 'store'}"):
        assert len(Dataset(path)) == 36


def test_one_epoch_has_whole_batches_of_distinct_windows_in_an_order_of_its_own():
    windows = Dataset(point_data(7), context_length=4)  # 84 windows
    batches = BatchSampler(windows, batch_size=32)
    first = list(batches)
    assert len(batches) == len(first) == 2
    assert [len(batch["states"]) for batch in first] == [32, 32]
    rows = torch.cat([batch["states"][:, 0] for batch in first])
    assert len({tuple(row) for row in rows.tolist()}) == 64
    second = list(batches)
    assert not torch.equal(first[0]["states"], second[0]["states"])
    again = list(BatchSampler(windows, batch_size=32))
    assert torch.equal(first[0]["states"], again[0]["states"])
    assert [len(batch["states"]) for batch in BatchSampler(windows, batch_size=1000)] == [84]


def test_sizes_follow_from_the_data_and_the_batch_fits_the_forward_pass(t5):
    windows = Dataset(point_data(5), context_length=4)
    model = DecisionTransformer(transformer=t5, dataset=windows).eval()
    assert (model.config.state_dim, model.config.act_dim, model.config.max_ep_len) == (2, 1, 12)
    batch = windows.gather(np.arange(6))
    predicted = model(**batch).action_preds
    squared = ((predicted - batch["actions"]) ** 2).mean(-1)[batch["attention_mask"].bool()]
    torch.testing.assert_close(batch_loss(model, batch), squared.mean(), rtol=1e-5, atol=1e-6)
    with pytest.raises(RLTransformerError, match="follow from the dataset"):
        DecisionTransformer(transformer=t5, dataset=windows, act_dim=3)
    with pytest.raises(RLTransformerError, match="missing"):
        DecisionTransformer(transformer=t5, state_dim=3)


def test_the_validation_loss_is_the_mean_over_all_real_timesteps_whatever_the_batch_size(t5):
    windows = Dataset(telling_data((4, 7, 2)), context_length=3)
    model = DecisionTransformer(transformer=t5, dataset=windows).train()
    batch = windows.gather(np.arange(13))
    model.eval()
    expected = batch_loss(model, batch).item()
    model.train()
    for batch_size in (1, 5, 100):
        assert evaluate(model, windows, batch_size=batch_size) == pytest.approx(expected, rel=1e-5)
    assert model.training  # its mode is restored


@pytest.mark.parametrize(
    ("space", "draw"),
    [
        (gym.spaces.Discrete(3), lambda random: random.integers(0, 3, 6)),
        (gym.spaces.MultiDiscrete([2, 3]), lambda random: random.integers(0, 2, (6, 2))),
        (gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), lambda random: random.normal(size=(6, 2))),
    ],
    ids=["discrete", "multi_discrete", "unbounded"],
)
def test_any_action_space_trains(space, draw, t5):
    random = np.random.default_rng(0)
    episodes = [
        {"observations": random.normal(size=(6, 3)), "actions": draw(random), "rewards": np.ones(6), "terminated": True}
        for _ in range(4)
    ]
    windows = Dataset(TrajectoryDataset.from_episodes(episodes, action_space=space), context_length=3)
    model = DecisionTransformer(transformer=t5, dataset=windows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = evaluate(model, windows)
    for _ in range(15):
        for batch in BatchSampler(windows, batch_size=8):
            loss = batch_loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert evaluate(model, windows) < before


def test_images_train_too(t5):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (6, 36, 36, 3), dtype=np.uint8)
    episode = {"observations": images, "actions": np.zeros((6, 1)), "rewards": np.ones(6), "terminated": True}
    windows = Dataset(TrajectoryDataset.from_episodes([episode]), context_length=3, frame_stack=2)
    model = DecisionTransformer(transformer=t5, dataset=windows)
    assert model.config.image_shape == (6, 36, 36)
    assert np.isfinite(evaluate(model, windows))

"""Claims about the encoders of images: what they compute, which images they take, and that policies keep them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.cli.main import main
from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.models.embeddings import ENCODERS, check_encoder_contract, make_state_encoder
from rl_transformer.trajectories.images import SMALLEST_IMAGE
from rl_transformer.trajectories.store import write_store
from tests.toys import camera_data, point_data, tiny_config

NAMES = ("nature_cnn", "impala")


def config_of(name, image_shape, hidden_size=8):
    return DecisionTransformerConfig(
        state_dim=1, act_dim=3, hidden_size=hidden_size, image_shape=image_shape, state_encoder=name
    )


@pytest.mark.parametrize("image_shape", [(1, SMALLEST_IMAGE, SMALLEST_IMAGE), (4, 84, 84), (3, 37, 50), (12, 64, 36)])
@pytest.mark.parametrize("name", NAMES)
def test_images_of_every_size_from_the_smallest_on_become_tokens(name, image_shape):
    config = config_of(name, image_shape)
    check_encoder_contract(make_state_encoder(config), config, name)


@pytest.mark.parametrize("name", NAMES)
def test_smaller_images_are_refused(name):
    with pytest.raises(RLTransformerError, match="images of 36 x 35 pixels are too small"):
        make_state_encoder(config_of(name, (1, 36, 35)))


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_refused_by_the_name_of_the_encoder_and_auto_takes_them(name, tmp_path):
    with pytest.raises(RLTransformerError, match=f"{name} takes images, and the observations are vectors") as caught:
        train(tiny_config(tmp_path / "run", model={"state_encoder": name}), dataset=point_data())
    assert caught.value.where == "model.state_encoder"
    assert caught.value.fix == "use auto"
    train(tiny_config(tmp_path / "auto", model={"state_encoder": "auto"}), dataset=point_data())


def impala_by_hand(weights, images):
    """The network of Espeholt et al. (2018), figure 3, in the order of its parameters."""
    weights = list(weights)

    def convolve(x):
        return F.conv2d(x, weights.pop(0), weights.pop(0), padding=1)

    x = images / 255
    for _ in range(3):
        x = F.max_pool2d(convolve(x), 3, stride=2, padding=1)
        for _ in range(2):
            x = x + convolve(F.relu(convolve(F.relu(x))))
    x = F.relu(x).flatten(1)
    return F.linear(x, weights.pop(0), weights.pop(0))


def test_impala_is_the_published_network():
    encoder = make_state_encoder(config_of("impala", (3, 40, 52)))
    images = torch.randint(0, 256, (5, 3, 40, 52), dtype=torch.uint8)
    weights = dict(encoder.named_parameters())
    assert [tuple(w.shape) for n, w in weights.items() if w.dim() == 4 and w.shape[0] != w.shape[1]] == [
        (16, 3, 3, 3),
        (32, 16, 3, 3),
    ]
    assert sum(w.dim() == 4 for w in weights.values()) == 15  # fifteen convolutions, and one linear layer
    assert sum(w.dim() == 2 for w in weights.values()) == 1
    with torch.no_grad():
        torch.testing.assert_close(encoder(images[None])[0], impala_by_hand(weights.values(), images))


def test_nature_cnn_has_its_released_tensors_and_initial_weights():
    """Stored policies name these tensors, and a seed has to give the same weights as before."""
    torch.manual_seed(3)
    encoder = make_state_encoder(config_of("auto", (2, 36, 36)))
    torch.manual_seed(3)
    layers = [nn.Conv2d(2, 32, 8, stride=4), nn.Conv2d(32, 64, 4, stride=2), nn.Conv2d(64, 64, 3), nn.Linear(64, 8)]
    names = ["convolutions.0", "convolutions.2", "convolutions.4", "project.0"]
    expected = {
        f"{name}.{kind}": getattr(layer, kind)
        for name, layer in zip(names, layers, strict=True)
        for kind in ("weight", "bias")
    }
    found = encoder.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_names_of_image_encoders_are_registered():
    for name in NAMES:
        assert not ENCODERS.is_from_plugin(name)


def test_a_policy_with_impala_is_trained_by_the_command_stored_and_loaded(tmp_path):
    data = camera_data()
    write_store(tmp_path / "data", data.spec, (data.trajectory(i) for i in range(len(data))))
    arguments = ["train", "image", "--data", f"rlt:{tmp_path / 'data'}", "--output", str(tmp_path / "run")]
    sizes = ["--model.hidden_size", "16", "--model.n_layer", "1", "--training.batch_size", "4", "--train-steps", "3"]
    augmented = ["--model.state_encoder", "impala", "--training.image_shift", "2", "--training.threads", "1"]
    assert main([*arguments, *sizes, *augmented]) == 0
    policy = load_policy(tmp_path / "run")
    assert policy.spec.model.state_encoder == "impala"
    policy.save(tmp_path / "again")
    actions = []
    for loaded in (policy, load_policy(tmp_path / "again")):
        session = loaded.session(2.0)
        for t in range(4):
            actions.append(session.act(data.observations[t]))
            session.observe(0.0)
    assert actions[:4] == actions[4:]
    assert np.isin(actions, (0, 1, 2)).all()

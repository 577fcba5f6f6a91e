"""Claims about `timestep_embedding="window"`: it computes what the published Atari model does."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.models import DecisionTransformerConfig, DecisionTransformerModel
from tests.toys import point_data, tiny_config, untrained_policy

WIDTH = 16
HEADS = 2
STEPS = 5


def atari_model(**options):
    """A small model of images and buttons whose tables are not zero any more."""
    torch.manual_seed(0)
    config = DecisionTransformerConfig(
        state_dim=1, act_dim=4, action_head="discrete", image_shape=(4, 36, 36), hidden_size=WIDTH, n_layer=2,
        n_head=HEADS, activation_function="gelu", max_ep_len=50, timestep_embedding="window", window_length=STEPS,
        **options,
    )  # fmt: skip
    model = DecisionTransformerModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)  # so that a tanh makes a difference
    return model


def atari_inputs(steps=STEPS, batch=3):
    random = torch.Generator().manual_seed(1)
    states = torch.randint(0, 256, (batch, steps, 4, 36, 36), generator=random, dtype=torch.uint8)
    actions = torch.randint(0, 4, (batch, steps), generator=random)
    returns = torch.randn(batch, steps, 1, generator=random)
    timesteps = torch.tensor([0, 7, 31])[:batch, None] + torch.arange(steps)
    return states, actions, returns, timesteps


def published_logits(model, states, actions, returns, timesteps):
    """The forward of kzl's `model_atari.py`, written down from its description, one window at a time."""
    weights = model.state_dict()

    def linear(x, name):
        return x @ weights[f"{name}.weight"].t() + weights[f"{name}.bias"]

    def block(x, name):
        length = x.shape[0]
        attention = F.layer_norm(x, (WIDTH,), weights[f"{name}.ln_1.weight"], weights[f"{name}.ln_1.bias"])
        qkv = attention @ weights[f"{name}.attn.c_attn.weight"] + weights[f"{name}.attn.c_attn.bias"]
        heads = []
        for head in range(HEADS):
            size = WIDTH // HEADS
            query, key, value = (qkv[:, part * WIDTH + head * size :][:, :size] for part in range(3))
            scores = query @ key.t() / math.sqrt(size)
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ value)
        mixed = torch.cat(heads, dim=1) @ weights[f"{name}.attn.c_proj.weight"] + weights[f"{name}.attn.c_proj.bias"]
        x = x + mixed
        mlp = F.layer_norm(x, (WIDTH,), weights[f"{name}.ln_2.weight"], weights[f"{name}.ln_2.bias"])
        inner = F.gelu(mlp @ weights[f"{name}.mlp.c_fc.weight"] + weights[f"{name}.mlp.c_fc.bias"])
        return x + inner @ weights[f"{name}.mlp.c_proj.weight"] + weights[f"{name}.mlp.c_proj.bias"]

    result = []
    for window in range(len(states)):
        tokens = []
        for step in range(states.shape[1]):
            tokens.append(torch.tanh(linear(returns[window, step], "embed_return")))
            image = states[window, step][None].float() / 255
            for layer, stride in ((0, 4), (2, 2), (4, 1)):
                name = f"embed_state.convolutions.{layer}"
                image = F.relu(F.conv2d(image, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride))
            tokens.append(torch.tanh(linear(image.flatten(), "embed_state.project.0")))
            tokens.append(torch.tanh(weights["embed_action.weight"][actions[window, step]]))
        x = torch.stack(tokens)
        local = weights["embed_position.per_token"].flatten(0, 1)[: len(x)]
        x = x + weights["embed_timestep.weight"][timesteps[window, 0]] + local
        for layer in range(2):
            x = block(x, f"encoder.h.{layer}")
        x = F.layer_norm(x, (WIDTH,), weights["encoder.ln_f.weight"], weights["encoder.ln_f.bias"])
        result.append(linear(x[1::3], "predict_action.linear"))
    return torch.stack(result)


@pytest.mark.parametrize("steps", [1, 3, STEPS])
def test_the_window_positions_are_those_of_the_published_atari_model(steps):
    model = atari_model()
    with torch.no_grad():
        ours = model.predict_actions(*atari_inputs(steps))
        assert torch.allclose(ours, published_logits(model, *atari_inputs(steps)), atol=1e-5)
        # The full forward and the one that acts agree with it.
        states, actions, returns, timesteps = atari_inputs(steps)
        assert torch.allclose(model(states, actions, None, returns, timesteps).action_preds, ours, atol=1e-5)
        newest = model.predict_actions(states, actions, returns, timesteps, at=steps - 1)
        assert torch.allclose(newest, ours[:, -1], atol=1e-5)


def test_later_timesteps_of_a_window_do_not_matter_and_its_first_one_does():
    model = atari_model()
    states, actions, returns, timesteps = atari_inputs()
    with torch.no_grad():
        expected = model.predict_actions(states, actions, returns, timesteps)
        other = timesteps.clone()
        other[:, 1:] = 0
        assert torch.equal(model.predict_actions(states, actions, returns, other), expected)
        assert not torch.allclose(model.predict_actions(states, actions, returns, timesteps + 1), expected)


def test_both_tables_begin_at_zero_as_published():
    config = atari_model().config
    model = DecisionTransformerModel(config)
    assert not model.embed_timestep.weight.any()
    assert not model.embed_position.per_token.any()


def test_what_has_no_place_in_the_window_is_refused():
    model = atari_model()
    states, actions, returns, timesteps = atari_inputs()
    mask = torch.ones(3, STEPS)
    mask[1, 0] = 0
    with pytest.raises(RLTransformerError, match="pad on the right"):
        model(states, actions, None, returns, timesteps, mask)
    longer = [torch.cat([part, part], dim=1) for part in (states, actions)]
    with pytest.raises(RLTransformerError, match="10 timesteps, and the model has positions for 5"):
        model(*longer, None, returns.repeat(1, 2, 1), timesteps.repeat(1, 2))
    with pytest.raises(RLTransformerError, match="belong together"):
        DecisionTransformerConfig(timestep_embedding="window")


def test_sessions_count_positions_from_the_first_step_that_they_remember():
    """The published code passes a window's first timestep in training and the newest one while acting."""
    policy = untrained_policy(point_data(), model={"timestep_embedding": "window"})
    model = policy.model
    torch.manual_seed(0)
    with torch.no_grad():
        model.embed_timestep.weight.normal_()
        model.embed_position.per_token.normal_()
    length = policy.spec.context_length
    steps = length + 3  # the last windows do not begin at timestep 0
    observations = np.random.default_rng(0).normal(size=(steps, 2)).astype(np.float32)
    session = policy.session(6.0)
    actions = []
    for observation in observations:
        actions.append(session.act(observation))
        session.observe(0.5)
    states = policy.normalizer.normalize(torch.from_numpy(observations))
    returns = torch.from_numpy((6.0 - 0.5 * np.arange(steps)) / policy.spec.returns.scale).float()[:, None]
    inputs = policy.normalizer.to_model_actions(torch.from_numpy(np.array(actions)))
    for step in range(steps):
        window = slice(max(0, step - length + 1), step + 1)
        parts = (states[window], inputs[window], returns[window], torch.arange(steps)[window])
        with torch.no_grad():
            expected = model.predict_actions(*(part[None] for part in parts))[0, -1]
        assert np.allclose(policy.normalizer.to_env_actions(expected).numpy(), actions[step], atol=1e-5)


def test_training_moves_both_tables_and_a_sliding_window_is_refused(tmp_path):
    config = tiny_config(tmp_path / "run", model={"timestep_embedding": "window"})
    model = load_policy(train(config, dataset=point_data())).model
    assert model.embed_position.per_token.any()
    assert model.embed_timestep.weight.any()
    with pytest.raises(RLTransformerError, match="no fixed windows"):
        train(tiny_config(tmp_path / "other", model={"timestep_embedding": "window", "attention": "sliding_window"}))

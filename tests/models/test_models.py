"""Claims about the network: what a prediction can see, and that its numbers are the published ones."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rl_transformer import (
    DecisionTransformerConfig,
    DecisionTransformerGPT2Model,
    DecisionTransformerModel,
    RLTransformerError,
)
from rl_transformer.models.behavior_cloning import BehaviorCloningModel
from rl_transformer.models.config import ACTIVATIONS
from rl_transformer.models.decision_transformer import num_parameters
from rl_transformer.models.trunk.dropout import Dropout, dropout_masks
from rl_transformer.models.trunk.gpt2 import causal_mask
from rl_transformer.models.heads.continuous import make_action_head
from rl_transformer.models.trunk.kv_cache import KVCache

T = 6
SMALL = {"state_dim": 3, "act_dim": 2, "hidden_size": 16, "n_layer": 2, "n_head": 2, "max_ep_len": 50}
VARIANTS = {
    "published": {},
    "added condition": {"condition_entry": "added"},
    "no condition": {"conditions": ()},
    "two conditions": {"conditions": ("return_to_go", "cost_to_go")},
    "discrete": {"action_head": "discrete"},
    "gaussian": {"action_head": "gaussian"},
    "images": {"image_shape": (1, 36, 36)},
    "position vector": {"constant_position": True},
    "sliding_window": {"attention_span": T},
}


def make(name, **more):
    config = DecisionTransformerConfig(**(SMALL | VARIANTS[name] | more))
    model = DecisionTransformerModel(config).eval()
    for parameter in model.parameters():  # zero biases would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(config, batch=2, length=T):
    states = torch.randn(batch, length, config.state_dim)
    if config.image_shape:
        states = torch.randint(0, 255, (batch, length, *config.image_shape), dtype=torch.uint8)
    actions = torch.randn(batch, length, config.act_dim)
    if config.action_head == "discrete":
        actions = torch.randint(0, config.act_dim, (batch, length))
    return [
        states,
        actions,
        torch.randn(batch, length, len(config.conditions)),
        torch.arange(length).expand(batch, length),
    ]


def changed_at(tensor, t):
    tensor = tensor.clone()
    tensor[:, t] = 1 - tensor[:, t] if tensor.dtype == torch.int64 else tensor[:, t] + 1
    return tensor


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("place", "first_visible"), [(0, 0), (1, 1), (2, 0)], ids=["observation", "action", "condition"]
)
def test_a_prediction_sees_the_past_and_nothing_else(variant, place, first_visible):
    """Changing input t moves predictions from t on (t + 1 for the action) and no earlier one."""
    model = make(variant)
    given = inputs(model.config)
    if given[place].numel() == 0:
        assert model.config.conditions == ()
        return
    before = model.predict_actions(*given)
    for t in range(T):
        changed = list(given)
        changed[place] = changed_at(given[place], t)
        moved = (model.predict_actions(*changed) - before).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [step >= t + first_visible for step in range(T)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_stands_in_padding_never_matters(variant):
    model = make(variant)
    given = inputs(model.config)
    short = [g[:, :4] for g in given]
    expected = model.predict_actions(*short)
    torch.testing.assert_close(model.predict_actions(*given)[:, :4], expected, atol=1e-6, rtol=0)
    for t in range(4):
        torch.testing.assert_close(model.predict_actions(*given, at=t), expected[:, t], atol=1e-6, rtol=0)


@pytest.mark.parametrize("variant", ["published", "no condition", "position vector"])
def test_acting_computes_the_numbers_of_the_complete_forward(variant):
    model = make(variant)
    states, actions, conditions, timesteps = inputs(model.config)
    complete = model(states, actions, None, conditions if conditions.shape[-1] else None, timesteps)
    torch.testing.assert_close(
        model.predict_actions(states, actions, conditions, timesteps), complete.action_preds, atol=1e-6, rtol=0
    )


def test_streaming_attention_sees_its_span_in_every_layer_and_no_further():
    """With span 2 and 2 layers a prediction at t sees t, t - 1 and, through t - 1, t - 2."""
    model = make("sliding_window", attention_span=2)
    given = inputs(model.config)
    before = model.predict_actions(*given)
    for t in range(T):
        changed = list(given)
        changed[0] = changed_at(given[0], t)
        moved = (model.predict_actions(*changed) - before).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [t <= step <= t + 2 for step in range(T)]
    naive = torch.tensor([[j <= i and i // 3 - j // 3 < 2 for j in range(3 * T)] for i in range(3 * T)])
    assert torch.equal(causal_mask(3 * T, 2, 3, torch.device("cpu"))[0, 0] == 0, naive)


@pytest.mark.parametrize("variant", ["published", "added condition", "no condition", "two conditions", "discrete"])
@torch.inference_mode()
def test_streamed_actions_are_those_of_the_whole_history(variant):
    """Kept keys and values give, over 1,000 steps, what a forward pass over the whole episode gives."""
    model, length = make(variant, attention_span=5, max_ep_len=1000), 1000
    given = inputs(model.config, batch=3, length=length)
    expected = model.predict_actions(*given)
    stream = KVCache(model.config, 3, torch.device("cpu"))
    rows = np.arange(3)
    for t in range(length):
        live = rows if t % 7 else rows[::-1].copy()  # in whatever order they come
        stream.begin(live, np.full(3, t))
        pair = [column[live.copy()][:, [max(0, t - 1), t]] for column in given]
        torch.testing.assert_close(model.predict_next_action(*pair, stream), expected[live.copy(), t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_made_on_another_device_than_the_inputs(variant):
    """The meta device computes shapes only, and refuses a tensor of any other device, as a GPU would."""
    model = make(variant).to("meta")
    given = [g.to("meta") for g in inputs(model.config)]
    assert model.predict_actions(*given).device.type == "meta"
    assert model.predict_actions(*given, at=2).device.type == "meta"
    if not model.config.extensions_in_use:
        assert model(given[0], given[1], None, given[2]).action_preds.device.type == "meta"


def test_left_and_right_padding_of_any_content_give_the_unpadded_numbers():
    model = make("published")
    states, actions, returns, timesteps = inputs(model.config, length=4)
    expected = model(states, actions, None, returns, timesteps).action_preds
    for side in ("left", "right"):
        for amount in (1, 3):
            padded = []
            for value in (states, actions, returns, timesteps):
                junk = torch.full((2, amount, *value.shape[2:]), 7, dtype=value.dtype)
                padded.append(torch.cat([junk, value] if side == "left" else [value, junk], dim=1))
            mask = torch.ones(2, 4 + amount)
            where = slice(amount, None) if side == "left" else slice(0, 4)
            mask[:, : amount if side == "left" else 4 + amount] = 0
            mask[:, where] = 1
            out = model(padded[0], padded[1], None, padded[2], padded[3], attention_mask=mask)
            torch.testing.assert_close(out.action_preds[:, where], expected, atol=1e-6, rtol=0)
            assert torch.isfinite(out.action_preds).all()


def random_config(random):
    heads = int(random.choice([1, 2, 4]))
    return {
        "state_dim": int(random.integers(1, 12)),
        "act_dim": int(random.integers(1, 6)),
        "hidden_size": heads * int(random.choice([4, 8])),
        "max_ep_len": 64,
        "action_tanh": bool(random.integers(2)),
        "n_positions": 128,
        "n_layer": int(random.integers(1, 4)),
        "n_head": heads,
        "n_inner": None if random.integers(2) else 24,
        "activation_function": str(random.choice(ACTIVATIONS)),
        "layer_norm_epsilon": float(random.choice([1e-5, 1e-3])),
        "initializer_range": float(random.choice([0.02, 0.5])),
        "scale_attn_weights": bool(random.integers(2)),
        "scale_attn_by_inverse_layer_idx": bool(random.integers(2)),
        "reorder_and_upcast_attn": bool(random.integers(2)),
        "bos_token_id": None,
        "eos_token_id": None,
    }


@pytest.mark.parametrize("seed", range(40))
def test_outputs_equal_those_of_transformers(seed, tmp_path):
    import transformers

    random = np.random.default_rng(seed)
    values = random_config(random)
    torch.manual_seed(seed)
    theirs_config = transformers.DecisionTransformerConfig(**values)
    theirs_config._attn_implementation = "eager"
    theirs = transformers.DecisionTransformerModel(theirs_config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = DecisionTransformerModel.from_pretrained(tmp_path / "theirs").eval()

    batch, length = int(random.integers(1, 9)), int(random.integers(1, 21))
    given = {
        "states": torch.randn(batch, length, values["state_dim"]),
        "actions": torch.randn(batch, length, values["act_dim"]),
        "rewards": torch.randn(batch, length, 1),
        "returns_to_go": torch.randn(batch, length, 1),
        "timesteps": torch.randint(0, 64, (batch, length)),
        "attention_mask": torch.ones(batch, length),
    }
    real = random.integers(1, length + 1, batch)
    padding = random.choice(["left", "right", "none"])
    for row, count in enumerate(real):
        if padding == "left":
            given["attention_mask"][row, : length - count] = 0
        elif padding == "right":
            given["attention_mask"][row, count:] = 0
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected, found = theirs(**given, **options), ours(**given, **options)
        plain = theirs(**given, return_dict=False)
    valid = given["attention_mask"].bool()
    tokens = valid.repeat_interleave(3, dim=1)
    for name in ("state_preds", "action_preds", "return_preds"):
        torch.testing.assert_close(found[name][valid], expected[name][valid], atol=1e-5, rtol=1e-5)
        assert torch.isfinite(found[name]).all()
    torch.testing.assert_close(
        found.last_hidden_state[tokens], expected.last_hidden_state[tokens], atol=1e-5, rtol=1e-5
    )
    assert len(found.hidden_states) == len(expected.hidden_states) == values["n_layer"] + 1
    for mine, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[tokens], other[tokens], atol=1e-5, rtol=1e-5)
    for mine, other in zip(found.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(mine.transpose(1, 2)[tokens], other.transpose(1, 2)[tokens], atol=1e-5, rtol=1e-5)
    for mine, other in zip(ours(**given, return_dict=False), plain, strict=True):
        torch.testing.assert_close(mine[valid], other[valid], atol=1e-5, rtol=1e-5)

    ours.save_pretrained(tmp_path / "ours")
    back, notes = transformers.DecisionTransformerModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        again = back.eval()(**given)
    torch.testing.assert_close(again.action_preds[valid], found.action_preds[valid], atol=1e-5, rtol=1e-5)


def test_a_bare_trunk_equals_that_of_transformers(tmp_path):
    import transformers

    values = {
        "hidden_size": 16,
        "n_layer": 2,
        "n_head": 2,
        "vocab_size": 11,
        "n_positions": 32,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    theirs = transformers.DecisionTransformerGPT2Model(transformers.DecisionTransformerConfig(**values)).eval()
    theirs.save_pretrained(tmp_path / "trunk")
    ours = DecisionTransformerGPT2Model.from_pretrained(tmp_path / "trunk").eval()
    words = torch.randint(0, 11, (2, 7))
    torch.testing.assert_close(ours(words)[0], theirs(words)[0], atol=1e-6, rtol=0)
    embedded, places = torch.randn(2, 7, 16), torch.randint(0, 32, (2, 7))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    mine = ours(inputs_embeds=embedded, attention_mask=mask, position_ids=places)
    other = theirs(inputs_embeds=embedded, attention_mask=mask, position_ids=places)
    torch.testing.assert_close(mine[0][mask.bool()], other[0][mask.bool()], atol=1e-6, rtol=0)
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.DecisionTransformerGPT2Model.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(back(words)[0], theirs(words)[0], atol=1e-6, rtol=0)
    with pytest.raises(RLTransformerError, match="past_key_values is not supported"):
        ours(words, past_key_values=object())
    with pytest.raises(RLTransformerError, match="encoder_hidden_states is not supported"):
        ours(words, encoder_hidden_states=embedded)


def test_weights_of_half_precision_are_read_as_float32(tmp_path):
    model = make("published")
    model.save_pretrained(tmp_path)
    weights = {name: t.bfloat16() for name, t in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = DecisionTransformerModel.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert loaded.predict_actions(*inputs(model.config)).dtype == torch.float32


def test_the_published_size_has_the_published_number_of_parameters():
    hopper = DecisionTransformerConfig(state_dim=11, act_dim=3, max_ep_len=1000)
    assert num_parameters(DecisionTransformerModel(hopper)) == 727_567
    assert (
        num_parameters(
            DecisionTransformerModel(
                DecisionTransformerConfig(state_dim=11, act_dim=3, max_ep_len=1000, constant_position=True)
            )
        )
        == 727_695
    )
    walker = DecisionTransformerConfig(state_dim=17, act_dim=6, max_ep_len=1000, constant_position=True)
    assert num_parameters(DecisionTransformerModel(walker)) == 730_008


def test_the_configuration_has_the_names_and_defaults_of_transformers():
    import transformers

    theirs, ours = transformers.DecisionTransformerConfig(), DecisionTransformerConfig()
    from rl_transformer.models.config import hf_field_names

    for name in hf_field_names():
        assert getattr(theirs, name) == getattr(ours, name), name


def test_a_model_that_transformers_would_misread_is_not_saved_in_its_layout(tmp_path):
    for variant, name in (
        ("added condition", "condition_entry"),
        ("no condition", "conditions"),
        ("discrete", "action_head"),
    ):
        with pytest.raises(RLTransformerError, match=f"has no .*{name}"):
            make(variant).save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_unreadable_model_folders_are_refused_by_name(tmp_path):
    model = make("published")
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(RLTransformerError, match=r"config\.json: no such file"):
        DecisionTransformerModel.from_pretrained(tmp_path / "nothing")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"n_layer": 3}))
    with pytest.raises(RLTransformerError, match=r"the file lacks encoder\.h\.2"):
        DecisionTransformerModel.from_pretrained(tmp_path / "m")
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(RLTransformerError, match="model_type is 'gpt2'"):
        DecisionTransformerModel.from_pretrained(tmp_path / "m")
    (tmp_path / "m/model.safetensors").write_bytes(b"junk")
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    with pytest.raises(RLTransformerError, match="cannot be read"):
        DecisionTransformerModel.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_head": 3}, "hidden_size=128 is not a multiple of n_head=3"),
        ({"activation_function": "swish"}, "activation_function='swish' is unknown"),
        ({"add_cross_attention": True}, "no second sequence"),
        ({"resid_pdrop": 1.5}, r"resid_pdrop=1.5 is not in \[0, 1\)"),
        ({"state_dim": 0}, "state_dim=0 is not positive"),
        ({"conditions": ("return_to_go", "return_to_go")}, "repeat a name"),
    ],
)
def test_contradicting_configurations_are_refused(values, message):
    with pytest.raises(RLTransformerError, match=message):
        DecisionTransformerConfig(**values)


def test_a_timestep_beyond_the_table_is_an_error_that_names_both_numbers():
    model = make("published")
    states, actions, returns, timesteps = inputs(model.config)
    with pytest.raises(RLTransformerError, match="timestep 55 is beyond the table of 50"):
        model(states, actions, None, returns, timesteps + 50)


def test_a_sequence_that_is_all_padding_is_an_error():
    model = make("published")
    states, actions, returns, timesteps = inputs(model.config)
    with pytest.raises(RLTransformerError, match="all padding"):
        model(states, actions, None, returns, timesteps, attention_mask=torch.zeros(2, T))


def test_the_mlp_sees_the_last_observations_and_nothing_else():
    model = BehaviorCloningModel(DecisionTransformerConfig(**SMALL, conditions=()), context_length=3).eval()
    given = inputs(model.config)
    before = model.predict_actions(*given)
    for t in range(T):
        changed = [changed_at(given[0], t), *given[1:]]
        moved = (model.predict_actions(*changed) - before).abs().amax(dim=(0, 2)) > 1e-7
        assert moved.tolist() == [t <= step < t + 3 for step in range(T)]
    torch.testing.assert_close(model.predict_actions(*given, at=1), before[:, 1])


def test_initial_weights_are_those_of_the_published_code():
    model = DecisionTransformerModel(DecisionTransformerConfig(hidden_size=128)).requires_grad_(False)
    assert model.encoder.h[0].mlp.c_fc.weight.std() == pytest.approx(0.02, rel=0.05)
    assert model.encoder.h[0].mlp.c_fc.bias.abs().max() == 0
    assert model.embed_timestep.weight.std() == pytest.approx(1, rel=0.02)
    bound = 1 / math.sqrt(17)  # torch's own scheme for the embeddings, as published
    assert model.embed_state.weight.abs().max() == pytest.approx(bound, rel=0.02)


@pytest.mark.parametrize("kind", ["continuous", "discrete", "gaussian"])
def test_heads_learn_the_action_that_was_taken(kind):
    config = DecisionTransformerConfig(**SMALL, action_head=kind)
    head = make_action_head(config)
    hidden = torch.ones(1, 1, 16)
    action = torch.tensor([[1]]) if kind == "discrete" else torch.tensor([[[0.5, -0.25]]])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, 1500)
    for _ in range(1500):
        optimizer.zero_grad()
        loss = head.loss(head(hidden), action)
        assert loss.shape == (1, 1)
        loss.mean().backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(head.greedy(head(hidden)), action, atol=0.03, rtol=0)
    assert head.error(head(hidden), action).item() == pytest.approx(0, abs=0.03)


def test_the_gaussian_density_integrates_to_one_and_its_entropy_is_its_own():
    head = make_action_head(DecisionTransformerConfig(state_dim=1, act_dim=1, hidden_size=4, action_head="gaussian"))
    parameters = torch.tensor([[0.3, -0.4]])
    grid = torch.linspace(-0.9999, 0.9999, 20_001)[:, None]
    density = torch.exp(-head.loss(parameters.expand(len(grid), 2), grid))
    width = grid[1] - grid[0]
    assert float((density * width).sum()) == pytest.approx(1, abs=2e-3)
    normals = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    estimated = head.entropy(parameters.expand(len(normals), 2), normals).mean()
    assert float(estimated) == pytest.approx(float((torch.special.entr(density) * width).sum()), abs=5e-3)


def test_sampling_follows_the_distribution_and_the_legal_actions():
    head = make_action_head(DecisionTransformerConfig(state_dim=1, act_dim=3, hidden_size=4, action_head="discrete"))
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    uniforms = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(head.sample(logits, uniforms), minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.softmax(logits[0], 0), atol=0.01, rtol=0)
    legal = torch.tensor([True, True, False]).expand(20_000, 3)
    assert head.sample(logits, uniforms, legal).max() == 1
    assert head.greedy(logits, legal).tolist()[0] == 1
    assert head.greedy(logits).tolist()[0] == 2


def test_dropout_has_its_rate_and_its_masks_are_independent():
    layer = Dropout(0.1).train()
    ones = torch.ones(300, 400)

    def masks(step, seed=0):
        with dropout_masks(seed, step, torch.device("cpu")):
            return layer(ones), layer(ones)

    first, second = masks(1)
    torch.testing.assert_close(first.unique(), torch.tensor([0, 1 / 0.9]))
    assert (first == 0).float().mean() == pytest.approx(0.1, abs=0.003)
    assert first.mean() == pytest.approx(1, abs=0.004)
    for other in (second, masks(2)[0], masks(1, seed=1)[0]):
        assert np.corrcoef(first.flatten(), other.flatten())[0, 1] == pytest.approx(0, abs=0.01)
    assert np.corrcoef(first[:, :-1].flatten(), first[:, 1:].flatten())[0, 1] == pytest.approx(0, abs=0.01)
    assert torch.equal(first, masks(1)[0])
    residual = torch.randn(300, 400)
    with dropout_masks(0, 1, torch.device("cpu")):
        torch.testing.assert_close(layer.add_to(residual, ones), residual + first)
    assert torch.equal(layer.eval()(ones), ones)


def test_images_take_bytes_and_refuse_what_is_too_small():
    model = DecisionTransformerModel(
        DecisionTransformerConfig(image_shape=(4, 84, 84), act_dim=3, action_head="discrete", max_ep_len=10)
    )
    images = torch.randint(0, 255, (2, 3, 4, 84, 84), dtype=torch.uint8)
    out = model.predict_actions(
        images, torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, 1), torch.arange(3).expand(2, 3)
    )
    assert out.shape == (2, 3, 3)
    assert model.embed_state.project[0].in_features == 3136  # 64 x 7 x 7, as published
    with pytest.raises(RLTransformerError, match="10 x 84 pixels are too small"):
        DecisionTransformerModel(DecisionTransformerConfig(image_shape=(1, 10, 84)))

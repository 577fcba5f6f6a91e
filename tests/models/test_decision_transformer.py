"""Claims about the networks: what a prediction can see, and what they refuse to compute."""

import math

import numpy as np
import pytest
import torch

from rl_transformer import DecisionTransformerConfig, DecisionTransformerModel, RLTransformerError
from rl_transformer.models.behavior_cloning import BehaviorCloningModel
from rl_transformer.models.interface import num_parameters
from rl_transformer.models.trunk.kv_cache import KVCache
from rl_transformer.models.trunk.masks import causal_mask
from tests.models.small_models import SMALL, VARIANTS, T, changed_at, inputs, make


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


def test_sliding_window_attention_sees_its_span_in_every_layer_and_no_further():
    """With span 2 and 2 layers a prediction at t sees t, t - 1 and, through t - 1, t - 2."""
    model = make("sliding window", attention_span=2)
    given = inputs(model.config)
    before = model.predict_actions(*given)
    for t in range(T):
        changed = list(given)
        changed[0] = changed_at(given[0], t)
        moved = (model.predict_actions(*changed) - before).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [t <= step <= t + 2 for step in range(T)]
    naive = torch.tensor([[j <= i and i // 3 - j // 3 < 2 for j in range(3 * T)] for i in range(3 * T)])
    assert torch.equal(causal_mask(3 * T, 2, 3, torch.device("cpu"))[0, 0] == 0, naive)


@pytest.mark.parametrize(
    "variant",
    [
        "published",
        "added condition",
        "no condition",
        "two conditions",
        "a wide condition",
        "discrete",
        "multi-discrete",
    ],
)
@torch.inference_mode()
def test_actions_from_the_kv_cache_are_those_of_the_whole_history(variant):
    """Cached keys and values give, over 1,000 steps, what a forward pass over the whole episode gives."""
    length = 1000
    model = make(variant, attention_span=5, max_ep_len=length)
    given = inputs(model.config, batch=3, length=length)
    expected = model.predict_actions(*given)
    cache = KVCache(model.config, 3, torch.device("cpu"))
    rows = np.arange(3)
    for t in range(length):
        live = rows if t % 7 else rows[::-1].copy()  # in whatever order they come
        cache.begin(live, np.full(3, t))
        pair = [column[live.copy()][:, [max(0, t - 1), t]] for column in given]
        actions = model.next_action_from(model.embed(*pair).tokens, cache)
        torch.testing.assert_close(actions, expected[live.copy(), t], atol=1e-5, rtol=1e-5)


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


def test_the_published_size_has_the_published_number_of_parameters():
    hopper = DecisionTransformerConfig(state_dim=11, act_dim=3, max_ep_len=1000)
    assert num_parameters(DecisionTransformerModel(hopper)) == 727_567
    with_position = DecisionTransformerConfig(state_dim=11, act_dim=3, max_ep_len=1000, constant_position=True)
    assert num_parameters(DecisionTransformerModel(with_position)) == 727_695
    walker = DecisionTransformerConfig(state_dim=17, act_dim=6, max_ep_len=1000, constant_position=True)
    assert num_parameters(DecisionTransformerModel(walker)) == 730_008


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_head": 3}, "hidden_size=128 is not a multiple of n_head=3"),
        ({"activation_function": "swish"}, "activation_function='swish' is unknown"),
        ({"add_cross_attention": True}, "no second sequence"),
        ({"resid_pdrop": 1.5}, r"resid_pdrop=1.5 is not in \[0, 1\)"),
        ({"state_dim": 0}, "state_dim=0 is not positive"),
        ({"n_inner": -1}, "n_inner=-1 is not positive"),
        ({"attention_span": 0}, "attention_span=0 is not positive"),
        ({"conditions": ("return_to_go", "return_to_go")}, "repeat a name"),
        ({"condition_widths": (1, 2)}, r"condition_widths \[1, 2\] for \['return_to_go'\]"),
        ({"condition_widths": (0,)}, "give one positive width each"),
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

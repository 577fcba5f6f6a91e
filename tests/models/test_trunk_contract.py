"""Claims about every registered trunk: causal, one set of numbers on every path, and blind to padding."""

import numpy as np
import pytest
import torch
from torch import nn

from rl_transformer import DecisionTransformerConfig, DecisionTransformerModel, RLTransformerError
from rl_transformer.models.huggingface.trunk import fields_of
from rl_transformer.models.trunk.interface import TRUNKS, TrunkOutput
from rl_transformer.models.trunk.kv_cache import KVCache
from tests.models.small_models import inputs
from tests.models.tiny_transformers import transformer

BUILT_IN = [name for name in TRUNKS.names() if not TRUNKS.is_from_plugin(name)]
SIZES = {"state_dim": 3, "act_dim": 2, "hidden_size": 16, "n_layer": 2, "n_head": 2, "max_ep_len": 50}
# Every built-in trunk, in its variants: the name in TRUNKS, and the fields of its configuration.
VARIANTS = {
    "gpt2": ("gpt2", dict),
    "gpt2, sliding window": ("gpt2", lambda: {"attention_span": 2}),
    "gpt2, position vector": ("gpt2", lambda: {"constant_position": True}),
    "gpt2, token positions": ("gpt2", lambda: {"token_positions": True, "n_positions": 64}),
    "huggingface T5": ("huggingface", lambda: fields_of(transformer("t5"))),
    "huggingface GPT-2": ("huggingface", lambda: fields_of(transformer("gpt2"))),
    "huggingface GPT-2, token positions": (
        "huggingface",
        lambda: {**fields_of(transformer("gpt2")), "token_positions": True},
    ),
}
CACHED = ["gpt2"]  # trunks whose decode_step works
LENGTH = 12  # tokens: four timesteps of a return, an observation and an action
every_trunk = pytest.mark.parametrize("variant", VARIANTS)


def make(variant):
    """Return a trunk without dropout in which no parameter is zero."""
    name, fields = VARIANTS[variant]
    config = DecisionTransformerConfig(**{**SIZES, **fields()})
    trunk = TRUNKS.get(name, where="test")(config).eval()
    for parameter in trunk.parameters():
        if parameter.numel():
            nn.init.normal_(parameter, std=0.3)
    return trunk, config


def test_both_built_in_trunks_are_held_to_the_contract():
    assert len(BUILT_IN) == 2
    assert set(BUILT_IN) == {name for name, _ in VARIANTS.values()}
    assert len(VARIANTS) == 7
    assert {name for variant, (name, _) in VARIANTS.items() if make(variant)[0].supports_kv_cache} == set(CACHED)


@every_trunk
def test_a_token_changes_its_own_output_and_later_ones_but_none_before_it(variant):
    trunk, config = make(variant)
    tokens = torch.randn(2, LENGTH, 16)
    before = trunk.run(tokens, None).last_hidden_state
    assert before.shape == tokens.shape
    span = config.attention_span
    for changed in range(LENGTH):
        other = tokens.clone()
        other[:, changed] = torch.randn(2, 16)  # a constant added to a token would vanish in the layer norms
        moved = (trunk.run(other, None).last_hidden_state - before).abs().amax(dim=(0, 2)) > 1e-6
        # In each of the two layers a token sees the last `span` timesteps of three tokens.
        last_step = LENGTH if span is None else changed // 3 + 2 * (span - 1)
        assert moved.tolist() == [i >= changed and i // 3 <= last_step for i in range(LENGTH)]


@every_trunk
@pytest.mark.parametrize("positions", [slice(None), slice(1, None, 3), slice(8, 12), slice(0, 1)], ids=str)
def test_run_and_hidden_at_compute_the_same_numbers(variant, positions):
    trunk, _ = make(variant)
    tokens = torch.randn(3, LENGTH, 16)
    expected = trunk.run(tokens, None).last_hidden_state[:, positions]
    torch.testing.assert_close(trunk.hidden_at(tokens, positions), expected, atol=1e-6, rtol=1e-5)


@every_trunk
@pytest.mark.parametrize("content", [0.0, 7.0])
def test_padding_is_invisible_on_either_side_and_among_windows_of_other_lengths(variant, content):
    trunk, _ = make(variant)
    tokens = torch.randn(3, LENGTH, 16)
    alone = trunk.run(tokens, None).last_hidden_state
    left = torch.cat([torch.full((3, 6, 16), content), tokens], dim=1)
    right = torch.cat([tokens, torch.full((3, 6, 16), content)], dim=1)
    is_real = torch.ones(3, LENGTH + 6, dtype=torch.bool)
    for padded, real in ((left, slice(6, None)), (right, slice(0, LENGTH))):
        valid = torch.zeros_like(is_real)
        valid[:, real] = True
        hidden = trunk.run(padded, valid).last_hidden_state
        assert torch.isfinite(hidden).all()
        torch.testing.assert_close(hidden[:, real], alone, atol=1e-5, rtol=1e-5)
    # Windows of 12, 9 and 6 real tokens in one batch, as training has them: padding follows.
    mixed = right.clone()
    counts = [12, 9, 6]
    for row, count in enumerate(counts):
        mixed[row, count:] = content
    valid = torch.arange(LENGTH + 6) < torch.tensor(counts)[:, None]
    for hidden in (trunk.run(mixed, valid).last_hidden_state, trunk.hidden_at(mixed, slice(None))):
        for row, count in enumerate(counts):
            torch.testing.assert_close(hidden[row, :count], alone[row, :count], atol=1e-5, rtol=1e-5)


@every_trunk
def test_hidden_states_and_attention_weights_are_returned_when_they_are_kept(variant):
    trunk, _ = make(variant)
    tokens = torch.randn(2, LENGTH, 16)
    plain = trunk.run(tokens, None)
    assert (plain.hidden_states, plain.attentions) == (None, None)
    kept = trunk.run(tokens, None, keep_hidden=True, keep_weights=True)
    torch.testing.assert_close(kept.last_hidden_state, plain.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert len(kept.hidden_states) == 3  # the tokens, and after each of two layers
    torch.testing.assert_close(kept.hidden_states[-1], kept.last_hidden_state)
    assert len(kept.attentions) == 2
    for weights in kept.attentions:
        assert weights.shape == (2, 2, LENGTH, LENGTH)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, LENGTH), atol=1e-5, rtol=0)
        assert weights.triu(1).abs().max() < 1e-6


@every_trunk
def test_gradients_reach_every_parameter_that_counts(variant):
    trunk, _ = make(variant)
    trunk.run(torch.randn(2, LENGTH, 16), None).last_hidden_state.square().sum().backward()
    trained = [p for p in trunk.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@pytest.mark.parametrize("span", [1, 2, 5])
@pytest.mark.parametrize("name", CACHED)
def test_decoding_with_the_cache_equals_recomputing_all_tokens_under_the_sliding_window_mask(name, span):
    """Sessions of other lengths share the cache; each timestep brings the last action and the new tokens."""
    config = DecisionTransformerConfig(**SIZES, attention_span=span)
    trunk = TRUNKS.get(name, where="test")(config).eval()
    assert trunk.supports_kv_cache
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, std=0.3)
    steps = 9
    per_step = config.tokens_per_timestep
    tokens = torch.randn(3, steps * per_step, 16)
    expected = under_naive_mask(trunk, tokens, span, per_step)
    torch.testing.assert_close(trunk.run(tokens, None).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    cache = KVCache(config, 3, torch.device("cpu"))
    with_a_start = torch.cat([torch.zeros(3, 1, 16), tokens], dim=1)  # before the first step there is no action
    begins = [0, 0, 3]  # session 2 joins later
    for t in range(steps + 3):
        rows = np.array([s for s in (2, 0, 1) if 0 <= t - begins[s] < steps])
        at = np.array([t - begins[s] for s in rows])
        cache.begin(rows, at)
        new = torch.stack([with_a_start[s, per_step * k : per_step * (k + 1)] for s, k in zip(rows, at, strict=True)])
        decoded = trunk.decode_step(new, cache)
        assert decoded.shape == new.shape
        for output, s, k in zip(decoded, rows, at, strict=True):
            first = 1 if k == 0 else 0
            recomputed = expected[s, max(0, per_step * k - 1) : per_step * (k + 1) - 1]
            torch.testing.assert_close(output[first:], recomputed, atol=1e-5, rtol=1e-5)


def under_naive_mask(trunk, tokens, span, per_step):
    """Run the blocks under a mask that is written down pair by pair."""
    length = tokens.shape[1]
    visible = [[j <= i and i // per_step - j // per_step < span for j in range(length)] for i in range(length)]
    mask = torch.zeros(1, 1, length, length).masked_fill_(~torch.tensor(visible), -1e30)
    hidden = tokens
    for block in trunk.h:
        hidden, _ = block(hidden, mask)
    return trunk.ln_f(hidden)


@pytest.mark.parametrize("variant", [variant for variant, (name, _) in VARIANTS.items() if name not in CACHED])
def test_a_trunk_without_a_cache_refuses_to_decode_and_to_be_given_a_sliding_window(variant):
    trunk, config = make(variant)
    with pytest.raises(RLTransformerError, match="has no sliding-window attention") as caught:
        trunk.decode_step(torch.randn(1, 3, 16), None)
    assert caught.value.fix == "use model.attention full"
    with pytest.raises(RLTransformerError, match="sliding-window attention needs our own blocks"):
        DecisionTransformerConfig(**{**vars(config), "attention_span": 2})


def test_a_policy_is_built_around_the_trunk_that_its_options_name():
    """A registered trunk is found by ``blocks``, and computes the policy's numbers."""
    made = []

    class Doubling(nn.Module):
        supports_kv_cache = False

        def __init__(self, config):
            super().__init__()
            made.append(self)

        def run(self, tokens, valid, **keep):
            return TrunkOutput(2 * tokens)

        def hidden_at(self, tokens, positions):
            return 2 * tokens[:, positions]

    TRUNKS.register("doubling", Doubling)
    try:
        model = DecisionTransformerModel(DecisionTransformerConfig(**SIZES, blocks="doubling"))
        given = inputs(model.config)
        observations = model.embed(*given).tokens[:, 1::3]
        assert model.trunk is made[0]
        torch.testing.assert_close(model.predict_actions(*given), model.predict_action(2 * observations))
    finally:
        TRUNKS.unregister("doubling")
    with pytest.raises(RLTransformerError, match="there is no trunk 'doubling'"):
        DecisionTransformerModel(DecisionTransformerConfig(**SIZES, blocks="doubling"))


def test_the_adapter_for_transformers_cannot_be_named_without_a_transformer():
    with pytest.raises(RLTransformerError, match=r"set model\.trunk"):
        DecisionTransformerModel(DecisionTransformerConfig(**SIZES, blocks="huggingface"))

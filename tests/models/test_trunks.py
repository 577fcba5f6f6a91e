"""Claims about transformers of Hugging Face as trunks: causal, blind to padding, and built from data without code."""

import copy

import pytest
import torch
import transformers

from rl_transformer import DecisionTransformerConfig, DecisionTransformerModel, RLTransformerError
from rl_transformer.models.decision_transformer import DecisionTransformer
from rl_transformer.models.huggingface.trunk import HFTrunk, build_transformer, fields_of
from rl_transformer.models.trunk.dropout import dropout_masks
from tests.models.tiny_transformers import KINDS, SIZES, WIDTH, T, inputs, model_around, transformer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("place", "first_visible"), [(0, 0), (1, 1), (2, 0)], ids=["observation", "action", "return"])
def test_a_prediction_sees_the_past_and_nothing_else(kind, place, first_visible):
    """Changing input t moves predictions from t on (t + 1 for the action) and no earlier one."""
    model = model_around(kind)
    given = list(inputs())
    before = model.predict_actions(*given)
    for t in range(T):
        changed = list(given)
        changed[place] = given[place].clone()
        changed[place][:, t] += 1
        moved = (model.predict_actions(*changed) - before).abs().amax((0, 2)) > 1e-6
        seen = t + first_visible
        # What a state-space model keeps of a step fades away.
        until = min(T, seen + 1) if kind == "mamba" else T
        assert moved[:until].tolist() == [step >= seen for step in range(until)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [False, True], ids=["positions off", "positions of tokens"])
def test_padding_changes_nothing_on_either_side_in_any_amount_whatever_it_holds(kind, positions):
    if positions and kind in ("t5", "llama", "qwen3", "mamba", "gpt_neox"):
        with pytest.raises(RLTransformerError, match="no position table to add"):
            model_around(kind, token_positions=True)
        return
    model = model_around(kind, **({"token_positions": True} if positions else {}))
    states, actions, returns, timesteps = inputs()
    alone = model(states, actions, returns_to_go=returns, timesteps=timesteps).action_preds
    for amount in (1, 4):
        for content in (0.0, 7.0):
            pads = [torch.full((2, amount, x.shape[2]), content) for x in (states, actions, returns)]
            time = torch.zeros(2, amount, dtype=torch.int64)
            ones = torch.ones(2, T)
            zeros = torch.zeros(2, amount)
            for left in (True, False):
                joined = [
                    torch.cat((p, x) if left else (x, p), 1)
                    for p, x in zip(pads, (states, actions, returns), strict=True)
                ]
                mask = torch.cat((zeros, ones) if left else (ones, zeros), 1)
                times = torch.cat((time, timesteps) if left else (timesteps, time), 1)
                found = model(
                    joined[0], joined[1], returns_to_go=joined[2], timesteps=times, attention_mask=mask
                ).action_preds
                found = found[:, amount:] if left else found[:, :T]
                assert (found - alone).abs().max() <= 1e-6


def test_windows_may_be_longer_than_a_table_that_adds_nothing():
    model = model_around("gpt2")
    given = inputs(length=30)  # 90 tokens, 64 positions
    given = (*given[:3], given[3].clamp(max=19))
    states = given[0].clone()
    states[:, 0] += 1
    moved = (model.predict_actions(states, *given[1:]) - model.predict_actions(*given)).abs().amax((0, 2))
    assert (moved > 1e-6).all()
    with pytest.raises(RLTransformerError, match="89 tokens"):
        model_around("gpt2", token_positions=True).predict_actions(*given)


def test_positions_are_those_of_real_tokens_or_add_nothing():
    """Never a hidden constant: with the table off its numbers do not matter, with it on they do, place by place."""
    given = transformer("gpt2")
    tokens = torch.randn(1, 5, WIDTH)
    off, on = (HFTrunk(fields_of(given)["trunk"], given, token_positions=p).eval() for p in (False, True))
    moved = copy.deepcopy(given)
    moved.transformer.wpe.weight.data += 1
    assert torch.equal(
        off.run(tokens, None).last_hidden_state,
        HFTrunk(fields_of(moved)["trunk"], moved, token_positions=False).eval().run(tokens, None).last_hidden_state,
    )
    silent = copy.deepcopy(given)
    silent.transformer.wpe.weight.data.zero_()
    for trunk, reference in ((off, silent), (on, given)):
        expected = reference.eval().transformer(inputs_embeds=tokens).last_hidden_state
        assert torch.equal(trunk.run(tokens, None).last_hidden_state, expected)


def test_a_trunks_own_dropout_is_a_function_of_seed_and_step():
    """Other masks at every step and every call, the same ones again for the same (seed, step)."""
    trunk = model_around("t5").encoder.train()
    tokens = torch.randn(2, 5, WIDTH)

    def drawn(seed, step):
        with dropout_masks(seed, step, torch.device("cpu")):
            return [trunk.hidden_at(tokens, slice(None)) for _ in range(2)]

    one, two = drawn(0, 1)
    again = drawn(0, 1)
    assert torch.equal(one, again[0])
    assert torch.equal(two, again[1])
    assert not any(torch.equal(one, x) for x in (two, drawn(0, 2)[0], drawn(1, 1)[0]))
    state = torch.get_rng_state()
    drawn(0, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_bidirectional_transformers_are_refused_by_name():
    torch.manual_seed(0)
    sizes = {k: v for k, v in SIZES.items() if k != "vocab_size"}
    bert = transformers.BertModel(transformers.BertConfig(**SIZES))
    vit = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8))
    for module, name in ((bert, "BertModel"), (vit, "ViTModel"), (torch.nn.Linear(3, 3), "Linear")):
        with pytest.raises(RLTransformerError, match=name):
            DecisionTransformer(transformer=module, state_dim=3, act_dim=2)


def test_a_policys_file_cannot_choose_kernels_or_code():
    config = fields_of(transformer("llama"))["trunk"]
    hostile = {
        **config,
        "auto_map": {"AutoModel": "mine.Model"},
        "_attn_implementation": "org/kernels",
        "attn_implementation": "org/kernels",
    }
    built = build_transformer(hostile)
    assert not hasattr(built.config, "auto_map")
    assert built.config._attn_implementation == "sdpa"


def test_parity_options_of_reids_code():
    """LayerNorm first, then time; and actions read out by their own embedding."""
    sizes = {"state_dim": 3, "act_dim": 2, "hidden_size": WIDTH, "n_layer": 1, "max_ep_len": 20}
    torch.manual_seed(0)
    config = DecisionTransformerConfig(**sizes, timestep_embedding="after_norm", tie_action_head=True)
    after = DecisionTransformerModel(config).eval()
    states, actions, returns, timesteps = inputs()
    tokens, normalized = after.embed(states, actions, returns, timesteps)
    parts = [
        after.embed_ln(after.embed_return(returns)),
        after.embed_ln(after.embed_state(states)),
        after.embed_ln(after.embed_action(actions)),
    ]
    time = after.embed_timestep(timesteps)
    assert torch.allclose(normalized, torch.stack(parts, 2).flatten(1, 2), atol=1e-6)
    assert torch.allclose(tokens, torch.stack([p + time for p in parts], 2).flatten(1, 2), atol=1e-6)
    hidden = after.encoder.run(tokens, None).last_hidden_state[:, 1::3]
    expected = torch.tanh(hidden @ after.embed_action.weight)
    assert torch.allclose(after.predict_actions(states, actions, returns, timesteps), expected, atol=1e-6)
    assert "predict_action.0.weight" not in after.state_dict()


def test_experts_that_a_few_tokens_do_not_meet_are_kept():
    sizes = {
        "d_model": WIDTH,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "vocab_size": 40,
        "num_experts": 32,
        "num_sparse_decoder_layers": 1,
    }
    torch.manual_seed(0)
    switch = transformers.SwitchTransformersModel(transformers.SwitchTransformersConfig(**sizes, num_decoder_layers=2))
    model = DecisionTransformer(transformer=switch, state_dim=3, act_dim=2, max_ep_len=20)
    assert all(p.numel() for name, p in model.named_parameters() if "expert" in name)
    model.predict_actions(*inputs(batch=8)).square().sum().backward()


@pytest.mark.parametrize("wrong", [{"hidden_size": "a"}, {"num_attention_heads": 0}, {"vocab_size": -1}, {"hidden_act": "nope"}, {"model_type": "timm_backbone"}])  # fmt: skip
def test_a_garbled_trunk_in_a_policy_is_refused(wrong):
    with pytest.raises(RLTransformerError):
        build_transformer({**fields_of(transformer("llama"))["trunk"], **wrong})
    with pytest.raises(RLTransformerError, match="mapping"):
        DecisionTransformerConfig(trunk="llama")

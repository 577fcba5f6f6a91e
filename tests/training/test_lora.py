"""Claims about frozen and low-rank trunks, and MLP embeddings."""

import copy

import pytest
import torch

from rl_transformer import DecisionTransformerModel, RLTransformerError, load_policy, train
from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.training.lora import apply_trunk_mode, merge_lora
from rl_transformer.training.optimizer import trained_parameters
from tests.toys import point_data, tiny_config

CONFIG = DecisionTransformerConfig(state_dim=2, act_dim=1, hidden_size=16, n_layer=2, max_ep_len=12, embedding="mlp")


def inputs():
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(3, 4, 2, generator=generator)
    actions = torch.randn(3, 4, 1, generator=generator)
    conditions = torch.randn(3, 4, 1, generator=generator)
    return states, actions, conditions, torch.arange(4).expand(3, 4)


def test_low_rank_trains_what_it_says_and_starts_from_the_same_numbers():
    torch.manual_seed(0)
    model = DecisionTransformerModel(CONFIG).eval()
    before = model.predict_actions(*inputs())
    apply_trunk_mode(model, "lora", 3)
    assert torch.equal(model.predict_actions(*inputs()), before)
    of_trunk = [name for name in trained_parameters(model) if name.startswith("encoder.")]
    assert of_trunk == [f"encoder.h.{i}.attn.c_attn.parametrizations.weight.0.{m}" for i in (0, 1) for m in "ab"]
    assert {name.partition(".")[0] for name in trained_parameters(model)} == {
        "encoder", "embed_timestep", "embed_return", "embed_state", "embed_action", "embed_ln", "predict_action",
    }  # fmt: skip
    shapes = {tuple(p.shape) for name, p in trained_parameters(model).items() if name in of_trunk}
    assert shapes == {(16, 3), (3, 48)}


def test_merging_keeps_the_numbers_and_leaves_a_plain_model():
    torch.manual_seed(0)
    model = DecisionTransformerModel(CONFIG).eval()
    names = list(model.state_dict())
    apply_trunk_mode(model, "lora", 3)
    for name, parameter in model.named_parameters():
        if name.endswith(".b"):
            torch.nn.init.normal_(parameter)
    before = model.predict_actions(*inputs())
    merge_lora(model)
    assert torch.allclose(model.predict_actions(*inputs()), before, atol=1e-6)
    assert sorted(model.state_dict()) == sorted(names)


@pytest.mark.parametrize("trunk", ["frozen", "lora"])
def test_the_frozen_weights_are_the_same_to_the_bit_after_training(trunk, tmp_path):
    config = tiny_config(tmp_path / "run", training={"trunk": trunk, "ema_decay": 0.5})
    policy = load_policy(train(config, dataset=point_data()))
    torch.manual_seed(config.training.seed)
    fresh = DecisionTransformerModel(policy.spec.model)
    for name, tensor in fresh.state_dict().items():
        if name.startswith(("predict_state", "predict_return")):
            continue  # transformers' heads that no action depends on
        is_trained = not name.startswith("encoder.") or (trunk == "lora" and name.endswith("c_attn.weight"))
        assert torch.equal(policy.model.state_dict()[name], tensor) != is_trained, name


def test_a_stopped_low_rank_run_continues_exactly(tmp_path):
    options = {"training": {"trunk": "lora", "train_steps": 12}}
    whole = load_policy(train(tiny_config(tmp_path / "whole", **options), dataset=point_data()))
    half = copy.deepcopy(options)
    half["training"]["train_steps"] = 6
    train(tiny_config(tmp_path / "half", **half), dataset=point_data())
    extended = load_policy(train(tiny_config(tmp_path / "half", **options), resume=True, dataset=point_data()))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, extended.model.state_dict()[name]), name


def test_mlp_embeddings_are_lamos():
    model = DecisionTransformerModel(CONFIG)
    x = torch.randn(5, 2)
    hidden = model.embed_state.first(x)
    expected = model.embed_state.second(torch.nn.functional.gelu(hidden)) + hidden
    assert torch.equal(model.embed_state(x), expected)
    with pytest.raises(RLTransformerError, match="embedding"):
        model.save_pretrained("/nowhere")


def test_the_mlp_policy_refuses_options_of_the_transformer(tmp_path):
    for option in ({"training": {"trunk": "lora"}}, {"returns": {"predict": True}}, {"model": {"embedding": "mlp"}}):
        options = {section: dict(values) for section, values in option.items()}
        options.setdefault("model", {})["arch"] = "behavior_cloning"
        with pytest.raises(RLTransformerError, match="MLP"):
            train(tiny_config(tmp_path / "run", **options), dataset=point_data())

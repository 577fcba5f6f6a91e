"""Claims about own parts in a model: what is trained can be loaded, or it is refused before it is trained, with a way out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rl_transformer import DecisionTransformerModel, RLTransformerError, load_policy, train
from rl_transformer.launch.seeds import assemble_run
from rl_transformer.models.embeddings import ENCODERS
from rl_transformer.models.heads.continuous import ContinuousHead
from rl_transformer.models.parts import check_same_parts
from rl_transformer.models.trunk.block import Block
from rl_transformer.models.trunk.gpt2 import DecisionTransformerGPT2Model
from rl_transformer.policy.storage import write_policy_folder
from rl_transformer.trajectories import Space, TrajectoryDataset
from tests.models.small_models import make
from tests.toys import point_data, tiny_config, untrained_policy


class Encoder(nn.Module):
    """An encoder of a user: normalized vectors become tokens."""

    def __init__(self, config):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(config.state_dim, config.hidden_size), nn.Tanh())

    def forward(self, states):
        return self.layers(states)


class SquashedLinear(nn.Linear):
    """The tensors of nn.Linear, and other numbers: loading its file would be a silently wrong model."""

    def forward(self, input):
        return super().forward(input).tanh()


class OtherHead(ContinuousHead):
    """The tensors of the built-in head, and other actions."""

    def greedy(self, parameters, allowed=None):
        return -parameters


class OtherBlock(Block):
    """A block that has no second branch."""

    def _add_branches(self, hidden, attended):
        return hidden + attended


def replace_encoder(model):
    model.embed_state = Encoder(model.config)


def replace_encoder_of_equal_tensors(model):
    model.embed_state = SquashedLinear(model.config.state_dim, model.config.hidden_size)


def replace_head(model):
    model.predict_action = OtherHead(model.config)


def replace_head_by_a_plain_layer(model):
    model.predict_action = nn.Sequential(nn.Linear(model.config.hidden_size, model.config.act_dim), nn.Tanh())


def replace_block(model):
    model.encoder.h[0] = OtherBlock(model.config, 0)


def add_block(model):
    model.encoder.h.append(Block(model.config, 2))


def remove_block(model):
    del model.encoder.h[1]


def add_parameter(model):
    model.temperature = nn.Parameter(torch.ones(1))


def add_buffer(model):
    model.register_buffer("shift", torch.zeros(2))


def add_module(model):
    model.critic = nn.Linear(2, 1)


def widen(model):
    model.embed_timestep = nn.Embedding(500, model.config.hidden_size)


def replace_activation(model):
    model.encoder.h[0].mlp.activation = torch.sin


def replace_method(model):
    model.predict_actions = lambda *inputs, **options: None


CHANGES = {
    replace_encoder: ("model.embed_state", "model.state_encoder NAME"),
    replace_encoder_of_equal_tensors: ("model.embed_state", "model.state_encoder NAME"),
    replace_head: ("model.predict_action", "model.action_head NAME"),
    replace_head_by_a_plain_layer: ("model.predict_action", "model.action_head NAME"),
    replace_block: ("model.encoder.h.0", "model.blocks NAME"),
    add_block: ("model.encoder.h.2", "model.blocks NAME"),
    remove_block: ("model.encoder.h.1", "model.blocks NAME"),
    add_parameter: ("model.temperature", "docs/extending.md"),
    add_buffer: ("model.shift", "docs/extending.md"),
    add_module: ("model.critic", "docs/extending.md"),
    widen: ("model.embed_timestep", "docs/extending.md"),
    replace_activation: ("model.encoder.h.0.mlp.activation", "model.blocks NAME"),
    replace_method: ("model.predict_actions", "docs/extending.md"),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_replaced_part_is_refused_before_training_and_when_a_model_is_saved(change, tmp_path):
    where, fix = CHANGES[change]
    run = assemble_run(tiny_config(tmp_path / "run"), point_data())
    change(run.policy.model)
    with pytest.raises(RLTransformerError) as caught:
        run.start()
    assert caught.value.where.removesuffix(".weight") == where
    assert fix in caught.value.fix
    with pytest.raises(RLTransformerError, match="could not be loaded"):
        run.policy.save(tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
    model = make("published", n_layer=2)
    change(model)
    with pytest.raises(RLTransformerError) as caught:
        model.save_pretrained(tmp_path / "model")
    assert caught.value.where.removesuffix(".weight") == where
    assert not (tmp_path / "model").exists()


def test_the_way_out_works_when_it_is_followed(tmp_path):
    """The encoder that was refused above, by name: it trains, and the loaded policy acts the same."""
    ENCODERS.register("NAME", Encoder)
    try:
        folder = train(tiny_config(tmp_path / "run", model={"state_encoder": "NAME"}), dataset=point_data())
        policy = load_policy(folder)
        assert isinstance(policy.model.embed_state, Encoder)
        assert policy.session(8.0).act(np.zeros(2)).shape == (1,)
    finally:
        ENCODERS.unregister("NAME")


def test_a_replaced_part_of_the_return_model_is_refused_too(tmp_path):
    policy = untrained_policy(point_data(), returns={"predict": True, "bins": 5})
    policy.save(tmp_path / "whole")
    policy.return_model.return_logits = SquashedLinear(16, 5)
    with pytest.raises(RLTransformerError, match="SquashedLinear has replaced Linear"):
        policy.save(tmp_path / "p")


def test_a_bare_trunk_with_a_replaced_block_is_not_written(tmp_path):
    model = make("published")
    trunk = DecisionTransformerGPT2Model(model.config)
    trunk.save_pretrained(tmp_path / "whole")
    trunk.h[1] = OtherBlock(model.config, 1)
    with pytest.raises(RLTransformerError, match="OtherBlock has replaced Block"):
        trunk.save_pretrained(tmp_path / "trunk")


class WithLoss(DecisionTransformerModel):
    """The usual wrapper for trainers: a forward that returns the loss."""

    def forward(self, **inputs):
        return {"loss": super().forward(**inputs)[1].square().mean()}


class WithOtherActions(DecisionTransformerModel):
    def predict_actions(self, *inputs, **options):
        return -super().predict_actions(*inputs, **options)


def test_a_forward_of_ones_own_may_be_saved_but_not_other_actions(tmp_path):
    config = make("published").config
    WithLoss(config).save_pretrained(tmp_path / "loss")
    DecisionTransformerModel.from_pretrained(tmp_path / "loss")
    with pytest.raises(RLTransformerError, match="WithOtherActions has replaced DecisionTransformerModel"):
        WithOtherActions(config).save_pretrained(tmp_path / "other")


def test_checking_a_model_draws_no_random_number(tmp_path):
    policy = untrained_policy(point_data())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    policy.save(tmp_path / "p")
    policy.model.save_pretrained(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", ["frozen", "lora"])
def test_low_rank_updates_are_no_replaced_parts(mode, tmp_path):
    folder = train(tiny_config(tmp_path / "run", training={"trunk": mode}), dataset=point_data())
    load_policy(folder)


def test_the_same_model_built_twice_has_the_same_parts():
    for variant in ("published", "images", "multi-discrete", "gaussian", "sliding window"):
        model = make(variant)
        check_same_parts(model, DecisionTransformerModel(model.config))


# Settings, hooks and tensors, which no file holds or which a file would lose


def change_norm(model):
    model.embed_ln.eps = 0.1


def change_dropout(model):
    model.encoder.drop.p = 0.7


def bound_embedding(model):
    model.embed_timestep.max_norm = 1.0


def change_scale(model):
    model.encoder.h[1].ln_1.eps = 1e-2


def add_hook(model):
    model.predict_action.register_forward_hook(lambda module, inputs, output: -output)


def add_pre_hook(model):
    model.encoder.register_forward_pre_hook(lambda module, inputs: inputs)


def double(model):
    model.double()


def half_a_layer(model):
    model.embed_state.bfloat16()


SETTINGS = {
    change_norm: ("model.embed_ln.eps", "it is 0.1"),
    change_dropout: ("model.encoder.drop.p", "it is 0.7"),
    bound_embedding: ("model.embed_timestep.max_norm", "it is 1.0, and the configuration says None"),
    change_scale: ("model.encoder.h.1.ln_1.eps", "it is 0.01"),
    add_hook: ("model.predict_action", "a forward hook of"),
    add_pre_hook: ("model.encoder", "a forward hook of"),
    double: ("model.", "float64, and the configuration says"),
    half_a_layer: ("model.embed_state", "bfloat16, and the configuration says"),
}


@pytest.mark.parametrize("change", SETTINGS, ids=lambda change: change.__name__)
def test_a_model_that_would_load_as_another_one_is_refused_before_training_and_when_it_is_saved(change, tmp_path):
    where, problem = SETTINGS[change]
    run = assemble_run(tiny_config(tmp_path / "run"), point_data())
    change(run.policy.model)
    model = make("published")
    change(model)
    for save in (run.start, lambda: run.policy.save(tmp_path / "p"), lambda: model.save_pretrained(tmp_path / "m")):
        with pytest.raises(RLTransformerError) as caught:
            save()
        assert caught.value.where.startswith(where)
        assert problem in caught.value.problem
    assert not (tmp_path / "p").exists()
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_a_convolution_with_other_steps_is_refused(name):
    """Some steps leave the shape of every tensor as it is."""
    model = make("images")
    setattr(model.embed_state.convolutions[4], name, (2, 2))
    with pytest.raises(RLTransformerError, match=rf"convolutions.4.{name}: it is \(2, 2\)"):
        check_same_parts(model, DecisionTransformerModel(model.config))


def test_a_configuration_that_was_exchanged_later_is_refused(tmp_path):
    policy = untrained_policy(point_data())
    policy.model.config = replace(policy.model.config, timestep_embedding="after_norm")
    with pytest.raises(RLTransformerError, match=r"model\.config: it is "):
        policy.save(tmp_path / "p")


def test_numbers_that_are_in_no_file_are_those_of_the_configuration(tmp_path):
    policy = untrained_policy(point_data(), returns={"predict": True, "bins": 5})
    policy.return_model.values.mul_(2)
    with pytest.raises(RLTransformerError, match="values: its numbers are not those"):
        policy.save(tmp_path / "p")


def test_a_models_own_notes_and_removed_hooks_are_no_difference(tmp_path):
    policy = untrained_policy(point_data())
    policy.model.note = "mine"
    policy.model.train()
    policy.model.requires_grad_(False)
    policy.model.embed_ln.register_forward_hook(lambda *args: None).remove()
    policy.save(tmp_path / "p")
    load_policy(tmp_path / "p")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_policy_that_is_not_finite_is_neither_saved_nor_loaded_and_the_tensor_is_named(value, tmp_path):
    policy = untrained_policy(point_data(), returns={"predict": True, "bins": 5})
    kind = "NaN" if value != value else "an infinite value"
    for tensor, name in (
        (policy.model.embed_ln.bias, "model.embed_ln.bias"),
        (policy.return_model.return_logits.weight, "return_model.return_logits.weight"),
        (policy.normalizer.observation_mean, "normalizer.observation_mean"),
    ):
        with torch.no_grad():
            before = tensor.clone()
            tensor.view(-1)[1] = value
        with pytest.raises(RLTransformerError, match=f"the policy holds {kind}: {name}"):
            policy.save(tmp_path / "p")
        write_policy_folder(tmp_path / name, policy.spec, policy.tensors())
        with pytest.raises(RLTransformerError, match=f"the policy holds {kind}: {name}"):
            load_policy(tmp_path / name)
        with torch.no_grad():
            tensor.copy_(before)
    policy.save(tmp_path / "p")


def test_actions_without_bounds_are_finite_enough(tmp_path):
    policy = untrained_policy(unbounded_data(), model={"action_tanh": False})
    assert torch.isinf(policy.normalizer.action_low).all()
    policy.save(tmp_path / "p")
    assert load_policy(tmp_path / "p").session(8.0).act(np.zeros(2)).shape == (1,)


def unbounded_data():
    """Episodes whose actions have no bounds."""
    random = np.random.default_rng(0)
    episode = {
        "observations": random.normal(size=(6, 2)),
        "actions": random.normal(size=(6, 1)),
        "rewards": np.ones(6),
        "terminated": True,
    }
    return TrajectoryDataset.from_episodes([episode], action_space=Space.box((1,)))

"""Claims about the arguments of `forward`: what is not the contract is refused, and never read as something else."""

import copy
import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from rl_transformer import RLTransformerError
from rl_transformer.models.decision_transformer import DecisionTransformer
from rl_transformer.models.trunk.gpt2 import DecisionTransformerGPT2Model
from tests.models.small_models import T, inputs, make

MASK = torch.ones(2, T)
MASK[0, 4:] = 0
BAD_MASKS = {
    "0 = real, -10000 = pad": ((1 - MASK) * -10000.0, "attention_mask holds -10000, neither 0 nor 1"),
    "minus infinity": ((1 - MASK).masked_fill(MASK == 0, -torch.inf).nan_to_num(nan=0.0), "holds -"),
    "1 = real, -1 = pad": (2 * MASK - 1, "attention_mask holds -1"),
    "token types": (2 * MASK, "attention_mask holds 2"),
    "probabilities": (0.5 * MASK, "attention_mask holds 0.5"),
    "NaN": (MASK.masked_fill(MASK == 0, torch.nan), "attention_mask holds nan"),
    "a number per token": (MASK.repeat_interleave(3, 1), r"attention_mask has shape \(2, 18\)"),
    "one row for all": (MASK[:1], r"attention_mask has shape \(1, 6\)"),
    "no batch": (MASK[0], r"attention_mask has shape \(6,\)"),
    "four axes": (MASK[:, None, None], r"attention_mask has shape \(2, 1, 1, 6\)"),
    "all padding": (torch.zeros(2, T), "row of zeros"),
    "upside down": (torch.zeros(2, T).masked_fill(MASK == 0, 1.0), "row of zeros"),
}


@pytest.fixture(params=["published", "sliding window", "discrete", "transformer="])
def model(request):
    if request.param != "transformer=":
        return make(request.param)
    from transformers import GPT2Config, GPT2Model

    gpt2 = GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=5))
    return DecisionTransformer(gpt2, state_dim=3, act_dim=2).eval()


def call(model, mask, batch):
    states, actions, conditions, timesteps = batch
    return model(states, actions, None, conditions, timesteps, mask).action_preds


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_mask_that_is_not_the_contract_is_refused(name, model):
    """A mask to add to scores has 0 at real tokens, the opposite of ours. Reported as transformers#5295."""
    mask, message = BAD_MASKS[name]
    with pytest.raises(RLTransformerError, match=message) as caught:
        call(model, mask, inputs(model.config))
    assert re.search("1 at real", caught.value.fix)


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_bare_trunk_refuses_the_same_masks(name):
    trunk = DecisionTransformerGPT2Model(make("published").config).eval()
    mask, message = BAD_MASKS[name]
    with pytest.raises(RLTransformerError, match=message):
        trunk(inputs_embeds=torch.randn(2, T, 16), attention_mask=mask)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32, torch.float16])
def test_zeros_and_ones_of_any_dtype_are_the_same_mask(dtype, model):
    batch = inputs(model.config)
    torch.testing.assert_close(call(model, MASK.to(dtype), batch), call(model, MASK, batch))


BAD_SHAPES = {
    "states of another width": (0, lambda x: x[..., :2], "states has shape"),
    "states without a batch": (0, lambda x: x[0], "states has shape"),
    "states of no axis": (0, lambda x: x.sum(), "states has shape"),
    "actions of another batch": (1, lambda x: x[:1], "actions has shape"),
    "shifted actions": (1, lambda x: x[:, 1:], "actions has shape"),
    "returns without an axis": (2, lambda x: x[..., 0], "returns_to_go has shape"),
    "one return for all": (2, lambda x: x[:, :1], "returns_to_go has shape"),
    "two returns": (2, lambda x: torch.cat([x, x], -1), "returns_to_go has shape"),
    "timesteps of another length": (3, lambda x: x[:, 1:], "timesteps has shape"),
    "negative timesteps": (3, lambda x: x - 1, "timestep -1 is beyond"),
    "late timesteps": (3, lambda x: x + 9999, "is beyond the table"),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_arguments_of_other_shapes_are_refused_by_name(name, model):
    place, change, message = BAD_SHAPES[name]
    batch = inputs(model.config)
    batch[place] = change(batch[place])
    with pytest.raises(RLTransformerError, match=message):
        call(model, None, batch)


@pytest.mark.parametrize("at", [-1, T, 99])
def test_a_timestep_outside_the_window_is_refused(at):
    """Counted from the end it would be read as another position, silently."""
    model = make("published")
    with pytest.raises(RLTransformerError, match="there is no position"):
        model.predict_actions(*inputs(model.config), at=at)


# Types and dtypes


def test_a_mask_from_numpy_is_the_mask_it_holds(model):
    batch = inputs(model.config)
    expected = call(model, MASK, batch)
    for mask in (MASK.numpy(), MASK.numpy().astype(bool), MASK.long().numpy()):
        assert torch.equal(call(model, mask, batch), expected)
    with pytest.raises(RLTransformerError, match="attention_mask holds -inf"):
        call(model, MASK.log().numpy(), batch)


def test_float64_of_numpy_becomes_the_dtype_of_the_weights(model):
    states, actions, returns, timesteps = inputs(model.config)
    actions = actions.double() if actions.is_floating_point() else actions.to(torch.int16)
    batch = [states.double(), actions, returns.double(), timesteps.to(torch.int16)]
    expected = [states.double().float(), actions.to(batch[1].dtype), returns, timesteps]
    assert torch.equal(call(model, MASK, batch), call(model, MASK, expected))
    precise = make("published").double()
    floats = [x.double() if x.is_floating_point() else x for x in inputs(precise.config)]
    assert call(precise, MASK, floats).dtype == torch.float64


BAD_DTYPES = {
    "timesteps of floats": ("published", 3, torch.float32, "timesteps.long()"),
    "timesteps of truth values": ("published", 3, torch.bool, "timesteps.long()"),
    "states of integers": ("published", 0, torch.int64, "states.float()"),
    "actions of integers": ("published", 1, torch.int64, "actions.float()"),
    "returns of integers": ("published", 2, torch.int64, "returns_to_go.float()"),
    "indices of floats": ("discrete", 1, torch.float32, "actions.long()"),
    "indices per part of floats": ("multi-discrete", 1, torch.float32, "actions.long()"),
}


@pytest.mark.parametrize("name", BAD_DTYPES)
def test_an_argument_of_another_dtype_is_refused_and_the_fix_works(name):
    variant, place, dtype, fix = BAD_DTYPES[name]
    model = make(variant)
    batch = inputs(model.config)
    batch[place] = batch[place].to(dtype)
    with pytest.raises(RLTransformerError, match=re.escape(f"has the dtype {dtype}")) as caught:
        call(model, MASK, batch)
    assert fix in caught.value.fix
    batch[place] = batch[place].long() if "long" in fix else batch[place].float()
    call(model, MASK, batch)


def traced(tracer, model, mask, batch):
    """The shape of the predictions, without any numbers."""
    if tracer == "the meta device":
        return call(copy.deepcopy(model).to("meta"), mask.to("meta"), [x.to("meta") for x in batch]).shape
    if tracer == "make_fx":
        graph = make_fx(lambda m, *b: call(model, m, b), tracing_mode="fake", _allow_non_fake_inputs=True)(mask, *batch)
        return graph(mask, *batch).shape
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        if tracer == "fake tensors":
            mask, *batch = [mode.from_tensor(x) for x in (mask, *batch)]
        return call(model, mask, batch).shape


@pytest.mark.parametrize("tracer", ["the meta device", "make_fx", "fake tensors", "fake mode"])
@pytest.mark.parametrize("variant", ["published", "discrete", "images", "sliding window"])
def test_a_tracer_that_knows_no_values_gets_through_forward(variant, tracer):
    model = make(variant)
    batch = inputs(model.config)
    assert traced(tracer, model, MASK, batch) == call(model, MASK, batch).shape

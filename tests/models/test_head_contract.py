"""Claims about every registered action head: shapes, gradients, legal actions, and draws from the distribution it says."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from rl_transformer import DecisionTransformerConfig, DecisionTransformerModel, RLTransformerError
from rl_transformer.models.heads import HEADS, default_head, make_action_head
from rl_transformer.models.heads.interface import check_head_contract
from rl_transformer.runtime.registry import loading_plugin
from tests.models.small_models import inputs

BUILT_IN = [name for name in HEADS.names() if not HEADS.is_from_plugin(name)]
SIZES = {"state_dim": 3, "hidden_size": 16, "n_layer": 1, "n_head": 2, "max_ep_len": 50}
FIELDS = {
    "continuous": {"act_dim": 2},
    "discrete": {"act_dim": 4},
    "multi_discrete": {"act_dim": 9, "action_parts": (4, 2, 3)},
    "gaussian": {"act_dim": 2},
}
MASKED = ["discrete", "multi_discrete"]
SAMPLING = ["discrete", "multi_discrete", "gaussian"]
NUM_DRAWS = 40_000
every_head = pytest.mark.parametrize("name", BUILT_IN)


def make(name):
    """Return a head and its configuration."""
    config = DecisionTransformerConfig(**SIZES, **FIELDS[name], action_head=name)
    return make_action_head(config), config


def parts_of(config):
    """Return the number of values of each part of a discrete action."""
    return config.action_parts or (config.act_dim,)


def logged_actions(config, *leading):
    """Return random actions in the model's units."""
    actions = inputs(config, *leading)[1]
    return actions if config.action_head in MASKED else actions.clamp(-1, 1)


def random_masks(config, count):
    """Return (count, M) masks with at least one legal value per part."""
    masks = torch.rand(count, sum(parts_of(config))) < 0.4
    for mask in masks.split(parts_of(config), dim=-1) if config.action_parts else (masks,):
        mask[torch.arange(count), torch.randint(0, mask.shape[1], (count,))] = True
    return masks


def values_of_parts(actions, config):
    """Return discrete actions (...) or (..., P) as (..., P)."""
    return actions if config.action_parts else actions[..., None]


def test_all_four_built_in_heads_are_held_to_the_contract():
    assert len(BUILT_IN) == 4
    assert set(BUILT_IN) == set(FIELDS)
    assert [name for name in BUILT_IN if make(name)[0].num_allowed] == MASKED
    assert [name for name in BUILT_IN if HEADS.get(name, where="test").can_sample] == SAMPLING


def test_every_kind_of_action_space_has_a_default_head():
    defaults = {kind: default_head(kind) for kind in ("box", "discrete", "multi_discrete")}
    assert defaults == {"box": "continuous", "discrete": "discrete", "multi_discrete": "multi_discrete"}


@every_head
def test_a_head_keeps_the_contract_that_plugins_are_checked_against(name):
    head, config = make(name)
    check_head_contract(head, config)
    assert head.num_uniforms == {"discrete": 1, "multi_discrete": 3}.get(name, config.act_dim)
    assert head.num_allowed == {"discrete": 4, "multi_discrete": 9}.get(name, 0)


@every_head
def test_gradients_reach_the_head_its_input_and_the_embedding_of_the_action(name):
    head, config = make(name)
    hidden = torch.randn(5, 7, 16, requires_grad=True)
    actions = logged_actions(config, 5, 7)
    losses = head.loss(head(hidden), actions)
    assert losses.shape == (5, 7)
    losses.mean().backward()
    assert (hidden.grad.abs().sum(-1) > 0).all()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, parameter_name
    embedding = head.make_embedding(config)
    embedding(actions).square().sum().backward()
    for parameter_name, parameter in embedding.named_parameters():
        assert parameter.grad.abs().sum() > 0, parameter_name


@every_head
def test_the_loss_of_a_step_depends_on_that_step_alone(name):
    head, config = make(name)
    parameters = head(torch.randn(3, 4, 16))
    actions = logged_actions(config, 3, 4)
    together = head.loss(parameters, actions)
    for b, t in itertools.product(range(3), range(4)):
        alone = head.loss(parameters[b : b + 1, t : t + 1], actions[b : b + 1, t : t + 1])
        torch.testing.assert_close(alone[0, 0], together[b, t])


@every_head
def test_the_error_is_zero_at_the_greedy_action(name):
    head, _ = make(name)
    parameters = head(torch.randn(3, 4, 16))
    greedy = head.greedy(parameters)
    assert head.error(parameters, greedy).tolist() == [[0.0] * 4] * 3
    other = (greedy + 1) % 2 if name in MASKED else greedy + 0.5
    expected = 1.0 if name in MASKED else 0.5
    torch.testing.assert_close(head.error(parameters, other), torch.full((3, 4), expected))


@pytest.mark.parametrize("name", MASKED)
def test_greedy_and_sampled_actions_are_legal_in_every_part(name):
    head, config = make(name)
    parameters = torch.randn(500, head.num_allowed)
    allowed = random_masks(config, 500)
    greedy = values_of_parts(head.greedy(parameters, allowed), config)
    drawn = values_of_parts(head.sample(parameters, torch.rand(500, head.num_uniforms), allowed), config)
    for row in range(500):
        begin = 0
        for part, size in enumerate(parts_of(config)):
            legal = [value for value in range(size) if allowed[row, begin + value]]
            best = max(legal, key=lambda value: parameters[row, begin + value].item())
            assert greedy[row, part] == best
            assert drawn[row, part] in legal
            begin += size
    everything = torch.ones_like(allowed)
    assert torch.equal(head.greedy(parameters, everything), head.greedy(parameters))


@pytest.mark.parametrize("name", MASKED)
def test_draws_have_the_frequencies_of_the_softmax_and_parts_are_independent(name):
    head, config = make(name)
    logits = torch.randn(head.num_allowed)
    drawn = head.sample(logits.expand(NUM_DRAWS, -1), torch.rand(NUM_DRAWS, head.num_uniforms))
    drawn = values_of_parts(drawn, config)
    probabilities = [part.softmax(-1) for part in logits.split(parts_of(config) if config.action_parts else (4,))]
    for part, expected in enumerate(probabilities):
        shares = torch.bincount(drawn[:, part], minlength=len(expected)) / NUM_DRAWS
        torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)
    for values in itertools.product(*(range(len(p)) for p in probabilities)):
        share = (drawn == torch.tensor(values)).all(-1).float().mean()
        expected = math.prod(float(p[v]) for p, v in zip(probabilities, values, strict=True))
        assert float(share) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", MASKED)
def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_legal_value(name):
    head, config = make(name)
    allowed = torch.ones(1, head.num_allowed, dtype=torch.bool)
    ends = torch.cumsum(torch.tensor(parts_of(config)), 0)
    allowed[0, ends - 1] = False  # each part's last value is illegal
    parameters = torch.zeros(1, head.num_allowed)
    for uniform, expected in ((0.0, [0] * len(ends)), (1 - 2**-24, [size - 2 for size in parts_of(config)])):
        drawn = head.sample(parameters, torch.full((1, head.num_uniforms), uniform), allowed)
        assert values_of_parts(drawn, config)[0].tolist() == expected


def test_gaussian_draws_have_the_distribution_whose_likelihood_is_the_loss():
    """The share of draws below a threshold is the integral of exp(-loss) up to it."""
    head, _ = make("gaussian")
    parameters = torch.tensor([0.3, -0.8, -0.4, 0.1])  # two means, two raw deviations
    drawn = head.sample(parameters.expand(NUM_DRAWS, -1), torch.rand(NUM_DRAWS, 2))
    grid = torch.linspace(-0.99999, 0.99999, 20_001)
    for dimension in range(2):
        actions = torch.zeros(len(grid), 2)
        actions[:, dimension] = grid
        density = torch.exp(-head.loss(parameters.expand(len(grid), -1), actions))
        cumulative = density.cumsum(0) / density.sum()
        for threshold in (-0.5, 0.0, 0.4, 0.8):
            share = (drawn[:, dimension] < threshold).float().mean()
            expected = cumulative[torch.searchsorted(grid, threshold)]
            assert float(share) == pytest.approx(float(expected), abs=0.01)


@every_head
def test_a_head_that_cannot_sample_returns_its_greedy_action(name):
    head, _ = make(name)
    parameters = head(torch.randn(50, 16))
    drawn = head.sample(parameters, torch.rand(50, head.num_uniforms))
    assert torch.equal(drawn, head.greedy(parameters)) == (name not in SAMPLING)


@every_head
def test_an_entropy_is_estimated_or_refused_as_the_head_declares(name):
    head, config = make(name)
    parameters = head(torch.randn(2, 3, 16))
    if head.has_entropy:
        assert torch.isfinite(head.entropy(parameters, torch.randn(2, 3, config.act_dim))).all()
        return
    with pytest.raises(RLTransformerError, match=f"the {name} head has no entropy bonus"):
        head.entropy(parameters, torch.randn(2, 3, config.act_dim))


def test_the_loss_of_several_parts_is_the_sum_of_a_naive_loop():
    head, config = make("multi_discrete")
    parameters = torch.randn(5, 6, 9)
    actions = logged_actions(config, 5, 6)
    found = head.loss(parameters, actions)
    for b, t in itertools.product(range(5), range(6)):
        begin = 0
        expected = torch.tensor(0.0)
        for part, size in enumerate((4, 2, 3)):
            expected = expected + F.cross_entropy(parameters[b, t, begin : begin + size], actions[b, t, part])
            begin += size
        torch.testing.assert_close(found[b, t], expected)


@every_head
def test_a_tied_head_reads_actions_out_with_the_embedding_of_actions(name):
    if name == "gaussian":
        with pytest.raises(RLTransformerError, match="tie_action_head"):
            DecisionTransformerConfig(**SIZES, **FIELDS[name], action_head=name, tie_action_head=True)
        return
    config = DecisionTransformerConfig(**SIZES, **FIELDS[name], action_head=name, tie_action_head=True)
    model = DecisionTransformerModel(config).eval()
    given = inputs(config)
    hidden = model.trunk.run(model.embed(*given).tokens, None).last_hidden_state[:, 1::3]
    weight = model.embed_action.weight
    expected = torch.tanh(hidden @ weight) if name == "continuous" else hidden @ weight.t()
    torch.testing.assert_close(model.predict_actions(*given), expected, atol=1e-5, rtol=1e-5)


def broken(**changes):
    """Return a class like the continuous head, with other methods."""
    return type("Broken", (HEADS.get("continuous", where="test"),), changes)


BROKEN = {
    r"loss\(\) has shape \(2,\)": {"loss": lambda self, parameters, actions: parameters.mean((1, 2))},
    r"error\(\) has shape \(2, 3, 2\)": {"error": lambda self, parameters, actions: parameters - actions},
    r"the embedding has shape \(2, 3, 2\)": {"make_embedding": staticmethod(lambda config: torch.nn.Identity())},
    r"sample\(\) has shape \(2, 3, 1\)": {
        "sample": lambda self, parameters, uniforms, allowed=None: parameters[..., :1]
    },
    "a call raised ZeroDivisionError": {"greedy": lambda self, parameters, allowed=None: 1 / 0},
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_head_of_a_plugin_that_breaks_the_contract_is_named(message):
    with loading_plugin("my_plugin"):
        HEADS.register("broken", broken(**BROKEN[message]))
    try:
        config = DecisionTransformerConfig(**SIZES, act_dim=2, action_head="broken")
        with pytest.raises(RLTransformerError, match=f"head 'broken' breaks its contract: {message}") as caught:
            DecisionTransformerModel(config)
        assert caught.value.where == "plugin my_plugin"
    finally:
        HEADS.unregister("broken")

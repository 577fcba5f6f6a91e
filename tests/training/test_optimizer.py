"""Claims about the optimizer: which parameters it trains with which options, its schedule, and the EMA."""

import pytest
import torch

from rl_transformer.config import TrainingConfig, preset
from rl_transformer.models import BehaviorCloningModel, DecisionTransformerConfig, DecisionTransformerModel
from rl_transformer.training.ema import EMA
from rl_transformer.training.optimizer import learning_rate, parameter_groups, trained_parameters


def test_the_learning_rate_rises_linearly_then_stays_or_falls():
    published = preset("gym").training  # 1e-4 after a warm-up of 10,000 updates
    assert learning_rate(1, published) == pytest.approx(1e-8)
    assert learning_rate(10_000, published) == pytest.approx(1e-4)
    assert learning_rate(99_999, published) == pytest.approx(1e-4)
    cosine = TrainingConfig(schedule="cosine", learning_rate=1.0, warmup_steps=10, train_steps=110)
    assert [learning_rate(s, cosine) for s in (5, 10, 60, 110)] == pytest.approx([0.5, 1, 0.5, 0])
    assert learning_rate(1, TrainingConfig(warmup_steps=0)) == pytest.approx(1e-4)


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_every_trained_parameter_is_in_exactly_one_group(decay):
    model = DecisionTransformerModel(DecisionTransformerConfig(hidden_size=16, n_layer=2))
    groups = parameter_groups(model, TrainingConfig(decay=decay, weight_decay=0.1))
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(trained_parameters(model))
    assert not [n for n in names if n.startswith(("predict_state", "predict_return"))]
    by_role = {group["role"]: group for group in groups}
    assert by_role["decay"]["weight_decay"] == 0.1
    if decay == "matrices":
        assert set(by_role) == {"decay", "no_decay"}
        assert "embed_timestep.weight" in by_role["no_decay"]["names"]
        assert "embed_ln.weight" in by_role["no_decay"]["names"]
        assert "encoder.h.0.attn.c_attn.weight" in by_role["decay"]["names"]
        assert all(n.endswith("weight") for n in by_role["decay"]["names"])


def test_an_empty_group_is_a_bug_and_not_a_silent_option():
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

    with pytest.raises(ValueError, match="group is empty"):
        parameter_groups(Bare(), TrainingConfig(decay="matrices", weight_decay=0.1))


def test_state_and_return_heads_are_left_out_of_training():
    model = DecisionTransformerModel(DecisionTransformerConfig())
    assert not {n for n in trained_parameters(model) if n.startswith("predict_") and not n.startswith("predict_action")}
    assert set(trained_parameters(BehaviorCloningModel(DecisionTransformerConfig(), 2)))


def test_the_ema_is_that_of_its_definition_and_swaps_back():
    model = torch.nn.Linear(2, 1)
    ema = EMA(model, 0.9)
    by_hand = model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight += step
        ema.update(ema.weight(step))
        decay = min(0.9, step / (step + 10))
        by_hand = decay * by_hand + (1 - decay) * model.weight.detach()
    live = model.weight.detach().clone()
    ema.swap()
    torch.testing.assert_close(model.weight.detach(), by_hand)
    ema.swap()
    assert torch.equal(model.weight.detach(), live)


def test_after_the_end_of_its_cosine_the_learning_rate_stays_zero():
    config = TrainingConfig(schedule="cosine", learning_rate=1.0, warmup_steps=0, schedule_steps=10, train_steps=40)
    assert [learning_rate(step, config) for step in (10, 11, 15, 20, 40)] == pytest.approx([0.0] * 5)


def test_only_matrices_decay():
    model = DecisionTransformerModel(DecisionTransformerConfig(hidden_size=16, n_layer=1))
    groups = parameter_groups(model, TrainingConfig(decay="matrices", weight_decay=0.1))
    assert {group["role"]: group["weight_decay"] for group in groups} == {"decay": 0.1, "no_decay": 0.0}

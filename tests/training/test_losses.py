"""Claims about the loss of a batch: it is a mean over real steps, and padding has no part in it."""

import math

import pytest
import torch

from rl_transformer.models import DecisionTransformerConfig, DecisionTransformerModel
from rl_transformer.training.losses import action_loss, held_out_sums, masked_mean
from rl_transformer.windows.batch import WindowBatch

LENGTHS = (5, 1, 3)
"""Real steps of the windows of a batch."""


def model_of(**options):
    config = DecisionTransformerConfig(state_dim=3, act_dim=2, hidden_size=16, n_layer=1, max_ep_len=9, **options)
    return DecisionTransformerModel(config).eval()


def random_batch(lengths):
    """Windows of random numbers, as long as the longest."""
    longest = max(lengths)
    count = len(lengths)
    return WindowBatch(
        states=torch.randn(count, longest, 3),
        actions=torch.rand(count, longest, 2),
        conditions=torch.randn(count, longest, 1),
        timesteps=torch.arange(longest).expand(count, longest),
        valid_mask=torch.arange(longest) < torch.tensor(lengths)[:, None],
    )


def test_the_loss_divides_by_the_number_of_real_steps():
    values = torch.tensor([[1.0, 2, 100], [4, 100, 100]])
    valid = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, valid).item() == pytest.approx(7 / 3)
    assert masked_mean(torch.tensor([[1.0, math.nan]]), torch.tensor([[True, False]])).item() == 1


def loop_over_real_steps(model, batch):
    """Return the mean squared error, computed one window and one real step at a time by `forward`."""
    errors = []
    for i, length in enumerate(LENGTHS):
        window = slice(i, i + 1)
        output = model(
            batch.states[window, :length],
            batch.actions[window, :length],
            None,
            batch.conditions[window, :length],
            batch.timesteps[window, :length],
        )
        errors += [(output.action_preds[0, t] - batch.actions[i, t]).square().mean() for t in range(length)]
    return torch.stack(errors).mean()


def test_the_loss_and_its_gradient_equal_a_loop_over_real_steps_and_ignore_padding():
    torch.manual_seed(0)
    model = model_of()
    batch = random_batch(LENGTHS)

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    loop = loop_over_real_steps(model, batch)
    loss = action_loss(model, batch)
    assert loss.item() == pytest.approx(loop.item(), rel=1e-6)
    expected = gradients(loop)
    found = gradients(loss)
    assert set(expected) - set(found) == set()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-4)
    padding = ~batch.valid_mask
    batch.states[padding] = 1e3
    batch.actions[padding] = 7
    batch.conditions[padding] = -1e3
    assert action_loss(model, batch).item() == pytest.approx(loop.item(), rel=1e-6)
    assert action_loss(model, batch, entropy_weight=0.0).item() == pytest.approx(loop.item(), rel=1e-6)
    summed, error, count = held_out_sums(model, batch)
    assert count == sum(LENGTHS)
    assert summed / count == pytest.approx(loop.item(), rel=1e-6)
    assert 0 < error / count < 2


def test_the_entropy_bonus_ignores_padding_as_the_loss_does():
    model = model_of(action_head="gaussian")
    batch = random_batch((4, 1))
    normals = torch.randn(2, 4, 2)
    parameters = model.predict_actions(*batch.inputs)
    head = model.predict_action
    expected = [
        head.loss(parameters, batch.actions)[i, t] - 0.3 * head.entropy(parameters, normals)[i, t]
        for i in (0, 1)
        for t in range(4)
        if batch.valid_mask[i, t]
    ]
    loss = action_loss(model, batch, entropy_weight=0.3, normals=normals)
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    normals[~batch.valid_mask] = 1e6
    batch.actions[~batch.valid_mask] = 0.999
    assert action_loss(model, batch, entropy_weight=0.3, normals=normals).item() == pytest.approx(loss.item(), rel=1e-6)


def test_nan_at_a_padded_step_reaches_neither_the_mean_nor_its_gradient():
    values = torch.tensor([[1.0, float("nan")], [3.0, float("inf")]], requires_grad=True)
    mean = masked_mean(values, torch.tensor([[True, False], [True, False]]))
    mean.backward()
    assert mean.item() == 2.0
    assert values.grad.tolist() == [[0.5, 0.0], [0.5, 0.0]]

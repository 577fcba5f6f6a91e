"""Claims about action heads: each learns what was done, and its distribution is the one it says."""

import pytest
import torch

from rl_transformer import DecisionTransformerConfig
from rl_transformer.models.heads import make_action_head
from tests.models.small_models import SMALL

TAKEN = {
    "continuous": torch.tensor([[[0.5, -0.25]]]),
    "discrete": torch.tensor([[1]]),
    "multi_discrete": torch.tensor([[[2, 1]]]),
    "gaussian": torch.tensor([[[0.5, -0.25]]]),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_heads_learn_the_action_that_was_taken(kind):
    sizes = {"act_dim": 5, "action_parts": (3, 2)} if kind == "multi_discrete" else {}
    config = DecisionTransformerConfig(**(SMALL | sizes), action_head=kind)
    head = make_action_head(config)
    hidden = torch.ones(1, 1, 16)
    action = TAKEN[kind]
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

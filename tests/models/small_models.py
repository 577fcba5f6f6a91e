"""Small networks of every variant, with inputs for them."""

import torch

from rl_transformer import DecisionTransformerConfig, DecisionTransformerModel

T = 6
SMALL = {"state_dim": 3, "act_dim": 2, "hidden_size": 16, "n_layer": 2, "n_head": 2, "max_ep_len": 50}
VARIANTS = {
    "published": {},
    "added condition": {"condition_entry": "added"},
    "no condition": {"conditions": ()},
    "two conditions": {"conditions": ("return_to_go", "cost_to_go")},
    "a wide condition": {"conditions": ("goal", "return_to_go"), "condition_widths": (3, 1)},
    "discrete": {"action_head": "discrete"},
    "multi-discrete": {"action_head": "multi_discrete", "act_dim": 5, "action_parts": (3, 2)},
    "gaussian": {"action_head": "gaussian"},
    "images": {"image_shape": (1, 36, 36)},
    "position vector": {"constant_position": True},
    "sliding window": {"attention_span": T},
}


def make(variant, **more):
    """Return a model of a variant, in which no weight and no bias is zero: that would hide mistakes."""
    config = DecisionTransformerConfig(**(SMALL | VARIANTS[variant] | more))
    model = DecisionTransformerModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(config, batch=2, length=T):
    """Return random states, actions, conditions and timesteps for a configuration."""
    states = torch.randn(batch, length, config.state_dim)
    if config.image_shape:
        states = torch.randint(0, 255, (batch, length, *config.image_shape), dtype=torch.uint8)
    actions = torch.randn(batch, length, config.act_dim)
    if config.action_head == "discrete":
        actions = torch.randint(0, config.act_dim, (batch, length))
    if config.action_head == "multi_discrete":
        actions = torch.stack([torch.randint(0, size, (batch, length)) for size in config.action_parts], dim=-1)
    conditions = torch.randn(batch, length, sum(config.widths))
    return [states, actions, conditions, torch.arange(length).expand(batch, length)]


def changed_at(tensor, t):
    """Return a copy with another value, which is valid too, at timestep t."""
    tensor = tensor.clone()
    tensor[:, t] = (tensor[:, t] + 1) % 2 if tensor.dtype == torch.int64 else tensor[:, t] + 1
    return tensor

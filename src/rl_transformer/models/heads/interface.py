"""The interface of action heads, and their registry.

Shapes: *B any leading axes (windows, timesteps, sessions), E hidden_size, F parameters of the head, *action the axes of
one action, M length of the legal-action mask, U uniform numbers per action, A length of an action vector.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.runtime.registry import Registry, broken_contract, call_plugin
from rl_transformer.runtime.shapes import Bool, Float, Shaped


class ActionHead(Protocol):
    """Maps hidden states to parameters, and these to losses and actions; implementations are `nn.Module`s.

    Actions are in the model's units: vectors in [-1, 1], or indices from 0.
    """

    space_kinds: ClassVar[tuple[str, ...]]
    """Kinds of action space that this head fits: box, discrete, multi_discrete."""
    can_sample: ClassVar[bool]
    """True if `sample` draws from a distribution; otherwise it returns the greedy action."""
    has_entropy: ClassVar[bool]
    """True if `entropy` is defined, so that training can add an entropy bonus."""
    num_uniforms: int
    """U: the number of uniform random numbers that `sample` uses per action."""
    num_allowed: int
    """M: the length of a legal-action mask; 0 if the head takes none."""

    def __init__(self, config: DecisionTransformerConfig) -> None: ...

    @staticmethod
    def make_embedding(config: DecisionTransformerConfig) -> nn.Module:
        """Return the module that embeds actions as tokens: (*B, *action) -> (*B, E)."""
        ...

    def __call__(self, hidden: Float[Tensor, "*B E"]) -> Float[Tensor, "*B F"]:
        """Return the parameters of the actions at some hidden states."""
        ...

    def loss(self, parameters: Float[Tensor, "*B F"], actions: Shaped[Tensor, "*B *action"]) -> Float[Tensor, "*B"]:
        """Return the training loss of each logged action."""
        ...

    def error(self, parameters: Float[Tensor, "*B F"], actions: Shaped[Tensor, "*B *action"]) -> Float[Tensor, "*B"]:
        """Return how far the greedy action is from each logged action, for validation."""
        ...

    def greedy(
        self, parameters: Float[Tensor, "*B F"], allowed: Bool[Tensor, "*B M"] | None = None
    ) -> Shaped[Tensor, "*B *action"]:
        """Return the best action, among the ``allowed`` ones if a mask is given."""
        ...

    def sample(
        self,
        parameters: Float[Tensor, "*B F"],
        uniforms: Float[Tensor, "*B U"],
        allowed: Bool[Tensor, "*B M"] | None = None,
    ) -> Shaped[Tensor, "*B *action"]:
        """Draw an action with the random numbers ``uniforms``, which lie in [0, 1)."""
        ...

    def entropy(self, parameters: Float[Tensor, "*B F"], normals: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Estimate the entropy of each distribution from one draw of standard normal numbers."""
        ...


HEADS: Registry[type[ActionHead]] = Registry(
    "action head",
    required=(
        "space_kinds", "can_sample", "has_entropy", "make_embedding", "loss", "error", "greedy", "sample", "entropy",
    ),
)  # fmt: skip
"""All action heads, by their name in ``model.action_head``."""


def default_head(space_kind: str) -> str:
    """Return the name of the first registered head that fits an action space."""
    return next(name for name in HEADS.names() if space_kind in HEADS.get(name, where="action head").space_kinds)


def make_action_head(config: DecisionTransformerConfig) -> ActionHead:
    """Return the head that ``config.action_head`` names.

    Raises:
        RLTransformerError: There is no such head, or it comes from a plugin and breaks the contract.
    """
    name = config.action_head
    kind = HEADS.get(name, where="model.action_head")
    head = call_plugin(HEADS, name, "the constructor", lambda: kind(config))
    if HEADS.is_from_plugin(name):
        call_plugin(HEADS, name, "a call", lambda: check_head_contract(head, config))
    return head


@torch.no_grad()
def check_head_contract(head: ActionHead, config: DecisionTransformerConfig) -> None:
    """Run a head on a few zeros and check the shapes of its results.

    Raises:
        RLTransformerError: A result does not have the promised shape; the message names the plugin.
    """
    name = config.action_head
    # Two windows of three timesteps: different sizes, so that exchanged axes are noticed.
    parameters = head(torch.zeros(2, 3, config.hidden_size))
    actions = head.greedy(parameters)
    shapes = {
        "loss()": head.loss(parameters, actions).shape,
        "error()": head.error(parameters, actions).shape,
        "the embedding": head.make_embedding(config)(actions).shape,
    }
    expected = {"loss()": (2, 3), "error()": (2, 3), "the embedding": (2, 3, config.hidden_size)}
    for what, shape in shapes.items():
        if tuple(shape) != expected[what]:
            raise broken_contract(HEADS, name, f"{what} has shape {tuple(shape)}, not {expected[what]}")
    if tuple(parameters.shape[:2]) != (2, 3):
        raise broken_contract(HEADS, name, f"the parameters have shape {tuple(parameters.shape)}, not (2, 3, F)")
    sampled = head.sample(parameters, torch.full((2, 3, head.num_uniforms), 0.5))
    if sampled.shape != actions.shape:
        problem = f"sample() has shape {tuple(sampled.shape)}, and greedy() {tuple(actions.shape)}"
        raise broken_contract(HEADS, name, problem)


def no_entropy(head: str) -> RLTransformerError:
    """Return the error about an entropy bonus for a head that has none."""
    return RLTransformerError(
        f"the {head} head has no entropy bonus",
        where="training.entropy_weight",
        fix="set model.action_head to gaussian, or leave it 0",
    )

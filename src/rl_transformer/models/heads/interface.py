"""What an action head is, and the registry of them.

Shapes: ... any leading axes (windows, timesteps, sessions), E hidden_size, F parameters of the head, A
length of an action vector or number of discrete actions, M length of the legal-action mask.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.runtime.registry import Registry, broken_contract, call_plugin


class ActionHead(Protocol):
    """Maps hidden states (..., E) to parameters (..., F), and these to losses and actions; also an `nn.Module`.

    Actions are in the model's units: vectors in [-1, 1], or indices from 0. Implementations are
    constructed with the model's configuration alone.
    """

    space_kinds: ClassVar[tuple[str, ...]]
    """Kinds of action space this head fits: box, discrete, multi_discrete."""
    can_sample: ClassVar[bool]
    """`sample` draws from a distribution; False: it returns the greedy action."""
    has_entropy: ClassVar[bool]
    """`entropy` is defined, so that training can add an entropy bonus."""
    num_uniforms: int
    """Uniform random numbers that `sample` uses per action."""
    num_allowed: int
    """M: length of a legal-action mask; 0 if the head takes none."""

    @staticmethod
    def make_embedding(config: DecisionTransformerConfig) -> nn.Module:
        """Return the module that embeds actions as tokens: actions (...) -> (..., E)."""
        ...

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return parameters: (..., E) -> (..., F)."""
        ...

    def loss(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the training loss of each logged action: (...)."""
        ...

    def error(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return how far the greedy action is from each logged action, for validation: (...)."""
        ...

    def greedy(self, parameters: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the best action, among the ``allowed`` (..., M) ones if a mask is given."""
        ...

    def sample(self, parameters: Tensor, uniforms: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Draw an action from ``uniforms`` (..., num_uniforms) in [0, 1)."""
        ...

    def entropy(self, parameters: Tensor, normals: Tensor) -> Tensor:
        """Estimate the entropy from one draw of standard normal numbers (..., A): (...)."""
        ...


HEADS: Registry[type[ActionHead]] = Registry(
    "action head",
    required=(
        "space_kinds", "can_sample", "has_entropy", "make_embedding", "loss", "error", "greedy", "sample", "entropy",
    ),
)  # fmt: skip
"""All action heads by their name in ``model.action_head``."""


def default_head(space_kind: str) -> str:
    """Return the name of the first registered head that fits an action space."""
    return next(name for name in HEADS.names() if space_kind in HEADS.get(name, where="action head").space_kinds)


def make_action_head(config: DecisionTransformerConfig) -> ActionHead:
    """Return the head that ``config.action_head`` names.

    Raises:
        RLTransformerError: No such head, or one from a plugin that breaks the contract.
    """
    name = config.action_head
    kind = HEADS.get(name, where="model.action_head")
    head = call_plugin(HEADS, name, "the constructor", lambda: kind(config))  # pyright: ignore[reportCallIssue]
    if HEADS.is_from_plugin(name):
        call_plugin(HEADS, name, "a call", lambda: check_head_contract(cast(ActionHead, head), config))
    return cast(ActionHead, head)


@torch.no_grad()
def check_head_contract(head: ActionHead, config: DecisionTransformerConfig) -> None:
    """Run a head on a few zeros and raise if a result does not have the promised shape.

    Raises:
        RLTransformerError: The first promise that is broken, naming the plugin.
    """
    name = config.action_head
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
    """Return the error of a head without an entropy bonus."""
    return RLTransformerError(
        f"the {head} head has no entropy bonus",
        where="training.entropy_weight",
        fix="set model.action_head to gaussian, or leave it 0",
    )

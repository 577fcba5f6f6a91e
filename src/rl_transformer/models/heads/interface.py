"""The interface of action heads, and their registry; built-in heads are registered in `__init__.py` beside it.

Shapes: *B any leading axes (windows, timesteps, sessions), E hidden_size, F parameters of the head, M length of the
legal-action mask, U uniform numbers per action, A length of an action vector. Actions have the leading axes *B, and then
none (an index) or one (a vector, or an index per part).
"""

from __future__ import annotations

from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.contracts import check_module, trying_out
from rl_transformer.runtime.registry import Registry, broken_contract, call_plugin
from rl_transformer.runtime.shapes import Bool, Float, Shaped


class ActionHead(Protocol):
    """Maps hidden states to parameters, and these to losses and actions; implementations are `nn.Module`s.

    Actions are in the model's units: vectors in [-1, 1], or indices from 0.

    A head with a distribution may also have ``probabilities(parameters, allowed)``, a tuple with one (*B, n) distribution
    per discrete part, or, for vectors, ``log_densities(parameters, actions)`` and ``interval_probabilities(parameters, low,
    high)``, both (*B, A). Sessions report them.
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

    def loss(self, parameters: Float[Tensor, "*B F"], actions: Shaped[Tensor, "..."]) -> Float[Tensor, "*B"]:
        """Return the training loss of each logged action."""
        ...

    def error(self, parameters: Float[Tensor, "*B F"], actions: Shaped[Tensor, "..."]) -> Float[Tensor, "*B"]:
        """Return how far the greedy action is from each logged action, for validation."""
        ...

    def greedy(
        self, parameters: Float[Tensor, "*B F"], allowed: Bool[Tensor, "*B M"] | None = None
    ) -> Shaped[Tensor, "..."]:
        """Return the best action, among the ``allowed`` ones if a mask is given."""
        ...

    def sample(
        self,
        parameters: Float[Tensor, "*B F"],
        uniforms: Float[Tensor, "*B U"],
        allowed: Bool[Tensor, "*B M"] | None = None,
    ) -> Shaped[Tensor, "..."]:
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
        check_module(HEADS, name, head)
        what = "a call with model.tie_action_head" if config.tie_action_head else "a call"
        call_plugin(HEADS, name, what, lambda: check_head_contract(head, config))
    return head


def check_head_contract(head: ActionHead, config: DecisionTransformerConfig) -> None:
    """Run a head on a few zeros and check the shapes of its results.

    Raises:
        RLTransformerError: A result does not have the promised shape; the message names the plugin.
    """
    name = config.action_head
    with trying_out(cast(nn.Module, head)):
        for what, (shape, expected) in _result_shapes(head, config).items():
            if shape != expected:
                raise broken_contract(HEADS, name, f"{what} has shape {shape}, not {expected}")
    if head.num_allowed not in (0, config.act_dim):
        problem = f"num_allowed is {head.num_allowed}, neither 0 nor the number of discrete actions, {config.act_dim}"
        raise broken_contract(HEADS, name, problem)


def _result_shapes(
    head: ActionHead, config: DecisionTransformerConfig
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return for every result of a head its shape and the promised one."""
    # Two windows of three timesteps: different sizes, so that exchanged axes are noticed.
    leading = (2, 3)
    # What the model hands to a tied head has been multiplied with the embedding of actions already.
    width = config.act_dim if config.tie_action_head else config.hidden_size
    parameters = head(torch.zeros(*leading, width))
    greedy = head.greedy(parameters)
    actions = _logged_actions(head, config, tuple(greedy.shape))
    embedding = head.make_embedding(config)
    if config.tie_action_head and not isinstance(getattr(embedding, "weight", None), Tensor):
        raise broken_contract(
            HEADS, config.action_head, "its embedding has no weight, which model.tie_action_head needs"
        )
    uniforms = torch.full((*leading, head.num_uniforms), 0.5)
    shapes = {
        "a call": (parameters.shape[:-1], leading),
        "greedy()": (greedy.shape, actions.shape),
        "sample()": (head.sample(parameters, uniforms).shape, actions.shape),
        "loss()": (head.loss(parameters, actions).shape, leading),
        "error()": (head.error(parameters, actions).shape, leading),
        "the embedding": (embedding(actions).shape, (*leading, config.hidden_size)),
    }
    if head.num_allowed:
        allowed = torch.ones(*leading, head.num_allowed, dtype=torch.bool)
        shapes["greedy() with a mask"] = (head.greedy(parameters, allowed).shape, actions.shape)
        shapes["sample() with a mask"] = (head.sample(parameters, uniforms, allowed).shape, actions.shape)
    if head.has_entropy:
        normals = torch.zeros(*leading, config.act_dim)
        shapes["entropy()"] = (head.entropy(parameters, normals).shape, leading)
    return {what: (tuple(shape), tuple(expected)) for what, (shape, expected) in shapes.items()}


def _logged_actions(head: ActionHead, config: DecisionTransformerConfig, greedy: tuple[int, ...]) -> Tensor:
    """Return zeros in the form of logged actions, of the kind that the head's own actions have if it fits several."""
    if config.action_parts:
        return torch.zeros(2, 3, len(config.action_parts), dtype=torch.int64)
    is_vector = "box" in head.space_kinds and ("discrete" not in head.space_kinds or len(greedy) == 3)
    return torch.zeros(2, 3, config.act_dim) if is_vector else torch.zeros(2, 3, dtype=torch.int64)


def no_entropy(head: str) -> RLTransformerError:
    """Return the error about an entropy bonus for a head that has none."""
    return RLTransformerError(
        f"the {head} head has no entropy bonus",
        where="training.entropy_weight",
        fix="set model.action_head to gaussian, or leave it 0",
    )

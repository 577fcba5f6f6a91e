"""Modules that turn observations and actions into tokens and hidden states into numbers; the registry of state encoders.

Shapes: *B any leading axes (windows, timesteps), E hidden_size, D length of an observation vector, L bytes of an observation, S tokens of an observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.contracts import check_module, trying_out
from rl_transformer.models.image_encoders import ImageEncoder, impala, nature_cnn
from rl_transformer.models.trunk.reproducible_sums import read_rows
from rl_transformer.runtime.registry import Registry, broken_contract, call_plugin
from rl_transformer.runtime.shapes import Float, Int, UInt8
from rl_transformer.trajectories.mixed_rows import Streams
from rl_transformer.trajectories.mixed_tensors import split_rows


class DiscreteActionEmbedding(nn.Embedding):
    """A table of action tokens."""

    def forward(self, input: Int[Tensor, "*B"]) -> Float[Tensor, "*B E"]:
        return F.embedding(input.long(), self.weight)


class ResidualMLP(nn.Module):
    """Two linear layers with a residual connection, W2 gelu(W1 x) + W1 x: LaMo's embedding (Shi et al. 2024)."""

    def __init__(self, inputs: int, hidden_size: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden_size)
        self.second = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        hidden = self.first(x)
        return self.second(F.gelu(hidden)) + hidden


class WindowPositions(nn.Module):
    """The tokens of the published Atari model (kzl `mingpt/model_atari.py`).

    The embeddings of conditions and actions go through a tanh, as that of an image does in its encoder, and there is no
    norm. Every token gets a vector of its place in the window, and the timestep of the window's first step. Both tables
    begin at zero.
    """

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        assert config.window_length is not None
        self.is_added = config.condition_entry == "added"
        self.per_token = nn.Parameter(torch.zeros(config.window_length, config.tokens_per_timestep, config.hidden_size))

    def forward(
        self, others: list[Float[Tensor, "B T E"]], observation: Float[Tensor, "B T E"], time: Float[Tensor, "B T E"]
    ) -> tuple[Float[Tensor, "B T P E"], Float[Tensor, "B T P E"]]:
        """Return the tokens with and without their positions.

        Args:
            others: Embeddings of the conditions and, last, of the action.
            observation: Embedding of the observation.
            time: Embeddings of all timesteps, of which the first one is used.
        """
        *conditions, action = [embedded.tanh() for embedded in others]
        before = [sum(conditions, observation)] if self.is_added else [*conditions, observation]
        tokens = torch.stack([*before, action], dim=2)
        return tokens + time[:, :1, None] + self.per_token[: tokens.shape[1]], tokens


def vector_embedding(config: DecisionTransformerConfig, inputs: int) -> nn.Module:
    """Return the module that embeds vectors of ``inputs`` numbers: (..., inputs) -> (..., hidden_size)."""
    embedding = nn.Linear if config.embedding == "linear" else ResidualMLP
    return embedding(inputs, config.hidden_size)


def vector_readout(config: DecisionTransformerConfig, outputs: int) -> nn.Module:
    """Return the module that reads ``outputs`` numbers from hidden states: (..., hidden_size) -> (..., outputs)."""
    width = config.hidden_size
    if config.embedding == "linear":
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs))


def _vector_encoder(config: DecisionTransformerConfig) -> nn.Module:
    if config.image_shape is not None:
        raise RLTransformerError(
            "vector takes vectors, and the observations are images", where="model.state_encoder", fix="use auto"
        )
    return vector_embedding(config, config.state_dim)


Encoder = Callable[[DecisionTransformerConfig], nn.Module]
"""A function that builds, from a configuration, a module from observations to tokens (B, T, E): from vectors (B, T, D),
or from uint8 images (B, T, channels, height, width). Of observations with several pictures it encodes each one."""

ENCODERS: Registry[Encoder] = Registry("state encoder")
"""All state encoders by their name in ``model.state_encoder``."""

ENCODERS.register("vector", _vector_encoder)
ENCODERS.register("nature_cnn", nature_cnn)
ENCODERS.register("impala", impala)


def make_state_encoder(config: DecisionTransformerConfig) -> nn.Module:
    """Return the encoder that ``config.state_encoder`` names; auto is the one for images or the one for vectors.

    Raises:
        RLTransformerError: No such encoder, or one from a plugin that breaks the contract.
    """
    if config.streams:
        return StreamEncoder(config)
    name = config.state_encoder
    if name == "auto":
        name = "vector" if config.image_shape is None else "nature_cnn"
    build = ENCODERS.get(name, where="model.state_encoder")
    encoder = call_plugin(ENCODERS, name, "the encoder's constructor", lambda: build(config))
    # A plugin may break its contract in any way, and without this check it would fail far from its own code.
    if ENCODERS.is_from_plugin(name):
        check_module(ENCODERS, name, encoder)
        call_plugin(ENCODERS, name, "the encoder", lambda: check_encoder_contract(encoder, config, name))
    return encoder


class StreamEncoder(nn.Module):
    """Encodes every picture and the numbers of an observation on their own.

    Each picture has an encoder of the kind ``config.state_encoder``; the numbers are embedded as vectors are. The result is
    the sum of their tokens (B, T, E), or with ``stream_entry`` tokens all of them (B, T, S, E).
    """

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.streams = Streams(*split_shapes(config.streams))
        self.is_summed = config.stream_entry == "sum"
        self.pictures = nn.ModuleList(
            make_state_encoder(replace(config, image_shape=shape, streams=())) for shape in self.streams.pictures
        )
        self.numbers = vector_embedding(config, self.streams.numbers) if self.streams.numbers else None

    def forward(self, rows: UInt8[Tensor, "B T L"]) -> Float[Tensor, "B T E"] | Float[Tensor, "B T S E"]:
        pictures, numbers = split_rows(self.streams, rows)
        tokens = [encode(picture) for encode, picture in zip(self.pictures, pictures, strict=True)]
        if self.numbers is not None and numbers is not None:
            tokens.append(self.numbers(numbers))
        return self._joined(tokens)

    def _joined(self, tokens: list[Float[Tensor, "*B E"]]) -> Float[Tensor, "*B E"] | Float[Tensor, "*B S E"]:
        """Return the sum of the parts' tokens, or all of them."""
        return torch.stack(tokens).sum(0) if self.is_summed or len(tokens) == 1 else torch.stack(tokens, dim=-2)

    @property
    def keeps_tokens(self) -> bool:
        """True if tokens of one timestep do not depend on others, so that acting can keep them."""
        return all(isinstance(encoder, ImageEncoder) for encoder in self.pictures)

    def encode_sessions(self, rows: UInt8[Tensor, "R L"]) -> Float[Tensor, "R E"] | Float[Tensor, "R S E"]:
        """Return the tokens of one observation per session; see `ImageEncoder.encode_sessions`."""
        pictures, numbers = split_rows(self.streams, rows)
        tokens = [
            cast(ImageEncoder, encoder).encode_sessions(picture)
            for encoder, picture in zip(self.pictures, pictures, strict=True)
        ]
        if self.numbers is not None and numbers is not None:
            tokens.append(read_rows(self.numbers, numbers))
        return self._joined(tokens)


def split_shapes(shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Return the shapes of the pictures, and how many numbers there are beside them."""
    pictures = tuple(shape for shape in shapes if len(shape) == 3)
    return pictures, sum(shape[0] for shape in shapes if len(shape) == 1)


def check_encoder_contract(encoder: nn.Module, config: DecisionTransformerConfig, name: str) -> None:
    """Encode a few zeros and raise an error if the tokens do not have the promised shape."""
    # Two windows of three timesteps: different sizes, so that exchanged axes are noticed.
    states = torch.zeros(2, 3, *config.state_shape, dtype=torch.uint8 if config.reads_bytes else torch.float32)
    with trying_out(encoder):
        tokens = encoder(states)
    is_float = isinstance(tokens, Tensor) and tokens.is_floating_point()
    if not is_float or tuple(tokens.shape) != (2, 3, config.hidden_size):
        result = f"{tuple(tokens.shape)} {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        problem = f"states {tuple(states.shape)} became {result}, not {(2, 3, config.hidden_size)} torch.float32"
        raise broken_contract(ENCODERS, name, problem)

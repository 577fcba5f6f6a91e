"""From observations and actions to tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.trajectories.spaces import SMALLEST_IMAGE


class ImageEncoder(nn.Module):
    """The convolutions of Mnih et al. (2015), as Decision Transformer uses them for Atari.

    Takes uint8 images (..., channels, height, width) and returns tokens (..., hidden_size). Pixels
    are divided by 255 here, so that a window of images stays bytes until the device has it.
    """

    def __init__(self, image_shape: Sequence[int], hidden_size: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < SMALLEST_IMAGE:
            raise RLTransformerError(
                f"images of {height} x {width} pixels are too small for the image encoder",
                where="image_shape",
                fix=f"resize the images to {SMALLEST_IMAGE} x {SMALLEST_IMAGE} or more, or flatten them to vectors",
            )
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.project = nn.Sequential(nn.Linear(flat, hidden_size), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(0, -4).float() / 255
        return self.project(self.convolutions(pixels)).view(*images.shape[:-3], -1)


class DiscreteActionEmbedding(nn.Embedding):
    """A table of action tokens: (...,) whole numbers -> (..., hidden_size)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input.long(), self.weight)


class ResidualMLP(nn.Module):
    """Two linear layers with a shortcut, W2 gelu(W1 x) + W1 x: LaMo's embedding (Shi et al. 2024)."""

    def __init__(self, inputs: int, hidden_size: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden_size), nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(F.gelu(hidden)) + hidden


def vector_embedding(config: DecisionTransformerConfig, inputs: int) -> nn.Module:
    """Return what embeds vectors of ``inputs`` numbers: (..., inputs) -> (..., hidden_size)."""
    embedding = nn.Linear if config.embedding == "linear" else ResidualMLP
    return embedding(inputs, config.hidden_size)

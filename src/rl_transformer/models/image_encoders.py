"""Convolutional encoders that turn images into tokens.

Shapes: *B any leading axes (windows, timesteps), E hidden_size, N images, R sessions that act.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.trunk.reproducible_sums import read_rows
from rl_transformer.runtime.shapes import Float, UInt8
from rl_transformer.trajectories.images import SMALLEST_IMAGE

_IMPALA_CHANNELS = (16, 32, 32)  # of the three stages
# On CPUs convolutions of a single image are summed in another order than those of several.
_MIN_IMAGES = 4


class ImageEncoder(nn.Module):
    """Convolutions, and a projection of their flattened output to a token.

    Pixels are divided by 255 here, so that windows of images stay uint8 until they are on the device.

    Args:
        image_shape: (channels, height, width) of an image.
        hidden_size: Width of a token.
        convolutions: A module from pixels (N, channels, height, width) to flat features (N, F), for any F.
        squashed: True for a tanh after the projection.

    Raises:
        RLTransformerError: The images are too small.
    """

    def __init__(
        self, image_shape: Sequence[int], hidden_size: int, convolutions: nn.Sequential, *, squashed: bool
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < SMALLEST_IMAGE:
            raise RLTransformerError(
                f"images of {height} x {width} pixels are too small for the image encoder",
                where="image_shape",
                fix=f"resize the images to {SMALLEST_IMAGE} x {SMALLEST_IMAGE} or more, or flatten them to vectors",
            )
        self.convolutions = convolutions
        # The size after the convolutions depends on the image in steps, because strides leave pixels out at the border.
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        projection = nn.Linear(flat, hidden_size)
        self.project = nn.Sequential(projection, nn.Tanh()) if squashed else projection

    def forward(self, images: UInt8[Tensor, "*B channels height width"]) -> Float[Tensor, "*B E"]:
        # Convolutions take one leading axis, windows of images have two.
        features = self._convolve(images.flatten(0, -4))
        return self.project(features).view(*images.shape[:-3], -1)

    def encode_sessions(self, images: UInt8[Tensor, "R channels height width"]) -> Float[Tensor, "R E"]:
        """Return the tokens of one image per session, each the same to the bit whoever else acts at the same time."""
        rows = torch.arange(max(len(images), _MIN_IMAGES), device=images.device) % len(images)
        return read_rows(self.project, self._convolve(images[rows])[: len(images)])

    def _convolve(self, images: UInt8[Tensor, "N channels height width"]) -> Float[Tensor, "N F"]:
        """Return the flat features of images."""
        # With the channels as the innermost axis, convolutions of few channels run two to four times as fast on a CPU. In
        # place, because a float copy of a batch of images is the largest array of an update.
        pixels = images.permute(0, 2, 3, 1).contiguous().float().div_(255)
        return self.convolutions(pixels.permute(0, 3, 1, 2))

    @property
    def keeps_tokens(self) -> bool:
        """True: a token follows from one image, so that acting can keep it."""
        return True


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each after a ReLU, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "N channels height width"]) -> Float[Tensor, "N channels height width"]:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


def nature_cnn(config: DecisionTransformerConfig) -> ImageEncoder:
    """Return the convolutions of Mnih et al. (2015), as Decision Transformer uses them for Atari."""
    image_shape = _image_shape(config, "nature_cnn")
    convolutions = nn.Sequential(
        nn.Conv2d(image_shape[0], 32, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=1),
        nn.ReLU(),
        nn.Flatten(),
    )
    return ImageEncoder(image_shape, config.hidden_size, convolutions, squashed=True)


def impala(config: DecisionTransformerConfig) -> ImageEncoder:
    """Return the residual network of IMPALA (Espeholt et al. 2018, figure 3, the large architecture).

    Its last ReLU is left out, because a token may be negative: the projection is linear, like that of a vector.
    """
    image_shape = _image_shape(config, "impala")
    layers: list[nn.Module] = []
    before = image_shape[0]
    for channels in _IMPALA_CHANNELS:
        layers += [
            nn.Conv2d(before, channels, 3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            ResidualBlock(channels),
            ResidualBlock(channels),
        ]
        before = channels
    layers += [nn.ReLU(), nn.Flatten()]
    return ImageEncoder(image_shape, config.hidden_size, nn.Sequential(*layers), squashed=False)


def _image_shape(config: DecisionTransformerConfig, name: str) -> tuple[int, ...]:
    """Return the shape of the images that the encoder ``name`` takes, or raise an error if there are none."""
    if config.image_shape is None:
        raise RLTransformerError(
            f"{name} takes images, and the observations are vectors", where="model.state_encoder", fix="use auto"
        )
    return config.image_shape

"""Decide which arrays are images, and which axes hold their channels."""

from __future__ import annotations

import math

import numpy as np

# Pixels per side. On smaller images nothing remains after the three convolutions of the image encoder (nature_cnn).
SMALLEST_IMAGE = 36
_CHANNELS = (1, 3, 4)  # gray, RGB and RGBA


def image_axes(shape: tuple[int, ...], smallest: int = SMALLEST_IMAGE) -> tuple[int, ...] | None:
    """Return the axes of values with ``shape`` in the order channels, height, width; None if they are not images.

    Two adjacent axes are height and width if they are large enough for the image encoder and the other axes are
    smaller. The others are channels: colors, or stacked frames, before or after them or both. Smaller grids, such as
    the maps of grid worlds, are flattened like any other box.

    Args:
        shape: Shape of one value: two axes, three, or four for stacked frames with a channel axis of their own.
        smallest: Smallest height and width of an image.
    """
    if not 2 <= len(shape) <= 4:
        return None
    pairs = [first for first in range(len(shape) - 1) if min(shape[first : first + 2]) >= smallest]
    if not pairs:
        return None
    # If every axis is large, as in (84, 84, 84), stacked frames come first, the order of this library and of torch.
    height = pairs[-1]
    channels = [axis for axis in range(len(shape)) if axis not in (height, height + 1)]
    return (*channels, height, height + 1)


def image_layout(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return (channels, height, width) of values with ``shape``, or None if they are not images; see `image_axes`."""
    axes = image_axes(shape)
    if axes is None:
        return None
    return math.prod(shape[axis] for axis in axes[:-2]), shape[axes[-2]], shape[axes[-1]]


def with_layout(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image with its axes as in ``shape``, whose channels, height and width are the same.

    Raises:
        ValueError: One of the two is not an image, or they differ in a size.
    """
    axes = image_axes(image.shape)
    wanted = image_axes(shape)
    if axes is None or wanted is None or image_layout(image.shape) != image_layout(shape):
        raise ValueError(f"an image of shape {image.shape} has no layout {shape}")
    ordered = image.transpose(axes).reshape([shape[axis] for axis in wanted])
    return np.ascontiguousarray(ordered.transpose(np.argsort(wanted)))


def was_image_before(shape: tuple[int, ...]) -> bool:
    """Return True if the first version of stores and policies took uint8 values with ``shape`` for images, too.

    It flattened stacked frames with channels last, such as (84, 84, 12), and frames with an axis of their own.
    """
    if len(shape) not in (2, 3):
        return False
    first, second, third = (1, *shape) if len(shape) == 2 else shape
    has_channels_last = len(shape) == 3 and third in _CHANNELS and first not in _CHANNELS
    return min((first, second) if has_channels_last else (second, third)) >= SMALLEST_IMAGE

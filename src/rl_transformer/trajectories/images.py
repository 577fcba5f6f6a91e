"""Decide which arrays are images, and which axis holds their channels."""

from __future__ import annotations

# Pixels per side. On smaller images nothing remains after the three convolutions of the image encoder (nature_cnn).
SMALLEST_IMAGE = 36
_CHANNELS = (1, 3, 4)  # gray, RGB and RGBA


def image_layout(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return (channels, height, width) of uint8 values with ``shape``, or None if they are not images.

    An image has two axes, or three of which the first or last holds the channels, and is large enough for the image
    encoder. Smaller grids, such as the maps of grid worlds, are flattened like any other box.
    """
    if len(shape) not in (2, 3):
        return None
    first, second, third = (1, *shape) if len(shape) == 2 else shape
    layout = (third, first, second) if has_channels_last(shape) else (first, second, third)
    return layout if min(layout[1:]) >= SMALLEST_IMAGE else None


def has_channels_last(shape: tuple[int, ...]) -> bool:
    """Return True if ``shape`` is (height, width, channels), gymnasium's order, and not (channels, height, width)."""
    # A shape such as (4, 84, 4) could be either. Channels first is assumed then, as stacked frames have it.
    return len(shape) == 3 and shape[2] in _CHANNELS and shape[0] not in _CHANNELS

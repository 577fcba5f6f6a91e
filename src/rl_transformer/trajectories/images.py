"""Which arrays are images, and where their channels are."""

from __future__ import annotations

SMALLEST_IMAGE = 36  # pixels per side: below this nothing is left after the image encoder's three convolutions
_CHANNELS = (1, 3, 4)


def image_layout(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return (channels, height, width) of a uint8 array, or None if it is not an image.

    An image has two axes, or three of which the first or last are channels, and is large enough for the image
    encoder. Smaller grids are flattened like any other box.
    """
    if len(shape) not in (2, 3):
        return None
    first, second, third = (1, *shape) if len(shape) == 2 else shape
    layout = (third, first, second) if has_channels_last(shape) else (first, second, third)
    return layout if min(layout[1:]) >= SMALLEST_IMAGE else None


def has_channels_last(shape: tuple[int, ...]) -> bool:
    """Return True for (height, width, channels)."""
    return len(shape) == 3 and shape[2] in _CHANNELS and shape[0] not in _CHANNELS

"""Rows of observations that consist of pictures and numbers, such as two cameras and the joints of a robot.

A row holds the bytes of all pictures, channels first and one picture after the other, and then the bytes of the other
parts as float32 numbers (little-endian). So a dataset stays one array of bytes, which can be read from disk in place, and
pictures take one byte per pixel.

Shapes: T timesteps, L bytes of a row, V numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.space_values import parts_of

if TYPE_CHECKING:
    from rl_transformer.trajectories.spaces import Space

NUMBER_BYTES = 4


class Streams(NamedTuple):
    """What a row consists of."""

    pictures: tuple[tuple[int, ...], ...]
    """(channels, height, width) of every picture, in the order of the space."""
    numbers: int
    """Numbers of all other parts together."""

    @property
    def picture_bytes(self) -> int:
        """Bytes of all pictures together."""
        return sum(math.prod(shape) for shape in self.pictures)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.picture_bytes + NUMBER_BYTES * self.numbers

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the pictures and, if there are numbers, (V,) as the last one."""
        return (*self.pictures, (self.numbers,)) if self.numbers else self.pictures


def find_streams(space: Space) -> Streams | None:
    """Return the streams of a space that has a picture beside other parts; None for any other space."""
    if space.is_image or not space.has_image:
        return None
    leaves = list(_leaves(space))
    pictures = tuple(leaf.image_shape for leaf in leaves if leaf.image_shape is not None)
    return Streams(pictures, sum(leaf.flat_dim for leaf in leaves if leaf.image_shape is None))


def _leaves(space: Space) -> Iterator[Space]:
    """Yield every part that has no parts itself, in order."""
    if not space.parts:
        yield space
    for _, part in space.parts:
        yield from _leaves(part)


def pack_rows(space: Space, values: Nested, where: object) -> np.ndarray:
    """Convert nested values with one leading axis to rows of bytes (T, L).

    Raises:
        RLTransformerError: The values do not have the form of the space.
    """
    # Rows of a store are packed already.
    if isinstance(values, np.ndarray) and (values.shape[1:], values.dtype) == (space.flat_shape, space.flat_dtype):
        return values
    flat = list(_flat_leaves(space, values, where))
    lengths = {len(array) for _, array in flat}
    if len(lengths) != 1:
        raise RLTransformerError(
            f"has parts of {sorted(lengths)} timesteps", where=where, fix="record every part at every timestep"
        )
    pictures = [array.reshape(len(array), -1) for is_picture, array in flat if is_picture]
    numbers = [array.astype("<f4") for is_picture, array in flat if not is_picture]
    if not numbers:
        return np.concatenate(pictures, axis=1)
    joined = np.ascontiguousarray(np.concatenate(numbers, axis=1))
    return np.concatenate([*pictures, joined.view(np.uint8)], axis=1)


def _flat_leaves(space: Space, values: Nested, where: object) -> Iterator[tuple[bool, np.ndarray]]:
    """Yield (is it a picture, flat values) for every part that has no parts itself."""
    if not space.parts:
        yield space.is_image, space.flatten(values, where=where)
        return
    for name, part, part_values in parts_of(space, values, where):
        yield from _flat_leaves(part, part_values, f"{where}[{name}]")


def num_numbers(space: Space) -> int:
    """Return how many numbers of an observation are normalized: all of a vector, those beside pictures, none of an image."""
    if space.streams is not None:
        return space.streams.numbers
    return 0 if space.is_image else space.flat_dim


def numbers_of(space: Space, flat: np.ndarray) -> np.ndarray:
    """Return the numbers (T, num_numbers) of flat observations; see `Space.flatten`."""
    if space.streams is None:
        return np.zeros((len(flat), 0), np.float32) if space.is_image else flat
    packed = np.ascontiguousarray(flat[:, space.streams.picture_bytes :])
    return packed.view("<f4").astype(np.float32)

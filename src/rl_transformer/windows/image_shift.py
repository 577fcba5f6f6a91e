"""Shift the images of training windows at random, an augmentation from DrQ (Yarats et al. 2021).

Shapes: B windows, T timesteps.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Int, UInt8
from rl_transformer.windows.batch import WindowBatch


def draw_shifts(seed: int, step: int, batch_size: int, most: int) -> Int[np.ndarray, "B 2"]:
    """Return the shifts of a global batch, as a function of (seed, step).

    Args:
        seed: Seed of the run.
        step: Number of the update.
        batch_size: B, summed over all processes.
        most: Largest shift in pixels.

    Returns:
        Rows and columns from -most to most by which the crop of each window lies below and to the right of the image.
    """
    return generator(Stream.IMAGE_SHIFT, seed, step).integers(-most, most + 1, (batch_size, 2))


def shift_batch(batch: WindowBatch, shifts: Int[Tensor, "B 2"]) -> WindowBatch:
    """Return the batch with the images of each window shifted; see `shift_images`."""
    next_states = None if batch.next_states is None else shift_images(batch.next_states, shifts)
    return replace(batch, states=shift_images(batch.states, shifts), next_states=next_states)


def shift_images(
    images: UInt8[Tensor, "B T channels height width"], shifts: Int[Tensor, "B 2"]
) -> UInt8[Tensor, "B T channels height width"]:
    """Return crops of the images at ``shifts``; pixels beyond a border repeat the border.

    All images of a window, and all stacked frames of an image, are shifted alike. A shift of their own would look like
    a motion of the whole scene, and so hide the motion that the policy has to see.
    """
    height, width = images.shape[-2:]
    # A crop from a padded image, without the padded image: places outside are moved to the nearest pixel inside.
    rows = (torch.arange(height, device=images.device) + shifts[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shifts[:, 1:]).clamp(0, width - 1)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (B, height * width), in a flat image
    flat = images.flatten(3).flatten(1, 2)
    return flat.gather(2, pixels[:, None].expand_as(flat)).view(images.shape)

"""Write episodes as .gif or .mp4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.runtime.files import translate_write_errors


def check_video(path: str) -> None:
    """Check, before any episode is run, that a video can be written to ``path``.

    Raises:
        RLTransformerError: The path does not end with .gif or .mp4, or the package that writes it is not installed.
    """
    if Path(path).suffix not in (".gif", ".mp4"):
        raise RLTransformerError("is neither a .gif nor an .mp4", where=path, fix="end the file name with .gif or .mp4")
    if path.endswith(".gif"):
        require("PIL", extra=None, purpose="writing a .gif")
    else:
        require("imageio", extra="video", purpose="writing a .mp4")
        require("imageio_ffmpeg", extra="video", purpose="writing a .mp4")


def save_video(frames: Sequence[np.ndarray], path: str, *, frames_per_second: int = 30) -> None:
    """Write frames as .gif or .mp4.

    Args:
        frames: (height, width, 3) uint8 images of one size.
        path: File to write; its suffix selects the format.
        frames_per_second: Speed of the video.

    Raises:
        RLTransformerError: Another suffix, a missing package, or a file that cannot be written.
    """
    check_video(path)
    with translate_write_errors(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".gif"):
            from PIL import Image

            images = [Image.fromarray(frame) for frame in frames]
            duration = 1000 // frames_per_second
            images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)
        else:
            import imageio

            # Codecs prefer sides that are multiples of 16, and imageio would rescale the frames to them.
            imageio.mimwrite(path, list(frames), fps=frames_per_second, macro_block_size=1)

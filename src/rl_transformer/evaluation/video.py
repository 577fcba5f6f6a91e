"""Write episodes as .gif or .mp4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.runtime.files import write_output


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
    write = _write_gif if path.endswith(".gif") else _write_mp4
    write_output(Path(path), lambda temporary: write(frames, temporary, frames_per_second))


def _write_gif(frames: Sequence[np.ndarray], path: Path, frames_per_second: int) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    duration = 1000 // frames_per_second
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)


def _write_mp4(frames: Sequence[np.ndarray], path: Path, frames_per_second: int) -> None:
    from imageio_ffmpeg import write_frames

    # The format is said, because the temporary name does not end with it. Codecs prefer sides that are multiples of 16;
    # macro_block_size=1 keeps frames from being scaled to them.
    height, width = frames[0].shape[:2]
    writer = write_frames(
        str(path), (width, height), fps=frames_per_second, macro_block_size=1, output_params=["-f", "mp4"]
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()

"""Read frames of video files with PyAV, whose library (FFmpeg) is in C: `runtime.child` runs `check` in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import av
import av.container
import av.error
import numpy as np

from rl_transformer.errors import RLTransformerError

# Decoding a long recording takes longer than such a process may; after this many seconds packets are only taken apart.
_SECONDS_OF_DECODING = 20
_FIX = "record or download the video again"


def check(path: Path) -> None:
    """Decode a video file as far as there is time, and take all of it apart, so that what harms a process shows here."""
    began = time.monotonic()
    with av.open(str(path)) as container:
        for packet in container.demux(_stream(container, path)):
            if time.monotonic() - began < _SECONDS_OF_DECODING:
                for _ in packet.decode():
                    pass


def frames_at(path: Path, times: np.ndarray, shape: tuple[int, int, int], tolerance: float) -> np.ndarray:
    """Return the frames (T, H, W, 3) uint8 that are shown at some times, as RGB.

    Args:
        path: A video file.
        times: (T,) seconds since the beginning of the file, in ascending order.
        shape: Height, width and 3.
        tolerance: Seconds by which the time of a frame may differ from what is asked.

    Raises:
        RLTransformerError: There is no frame at one of the times, frames have another size, or the file is damaged.
    """
    frames = np.empty((len(times), *shape), np.uint8)
    done = 0
    try:
        for shown_at, frame in _frames_from(path, float(times[0]) - tolerance):
            while done < len(times) and abs(shown_at - times[done]) < tolerance:
                frames[done] = _picture(frame, shape, path)
                done += 1
            if done == len(times) or shown_at > times[done] + tolerance:
                break
    except av.error.FFmpegError as error:
        raise RLTransformerError(f"cannot be decoded: {error}", where=path, fix=_FIX) from None
    if done < len(times):
        problem = f"has no frame within {tolerance:g} s of {times[done]:.4f} s"
        raise RLTransformerError(problem, where=path, fix=f"{_FIX}, or leave it out of what the policy observes")
    return frames


def _stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise RLTransformerError("holds no video", where=path, fix=_FIX)
    return container.streams.video[0]


def _frames_from(path: Path, begin: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield (seconds, frame) from the last key frame before a time on."""
    with av.open(str(path)) as container:
        stream = _stream(container, path)
        base = stream.time_base
        if base is None:
            raise RLTransformerError("does not say at which times its frames are shown", where=path, fix=_FIX)
        # Frames between two key frames are differences, hence the way from the one before.
        container.seek(max(int(begin / base), 0), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is not None:
                yield float(frame.pts * base), frame


def _picture(frame: av.VideoFrame, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    picture = frame.to_ndarray(format="rgb24")
    if picture.shape != shape:
        problem = f"has frames of {picture.shape[0]} x {picture.shape[1]} pixels, and meta/info.json says {shape[0]} x {shape[1]}"
        raise RLTransformerError(problem, where=path, fix="correct the shape of this feature in meta/info.json")
    return picture

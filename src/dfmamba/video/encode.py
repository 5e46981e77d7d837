"""Writing films, and what is drawn on their frames."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dfmamba.draw.canvas import INK, SIDE_COLORS, WHITE, font, text_width
from dfmamba.draw.overlay import draw_overlay
from dfmamba.predict.track import Tracked

QUALITY = "20"
"""x264's constant rate factor; lower is better and larger."""

_FINEST = 10_000
"""At least so many ticks a second, to keep the times of frames that don't come regularly."""


class OverlayWriter:
    """A film in H.264 (MPEG-4 part 2 where PyAV comes without an encoder for it), without sound.

    It can be read up to the last written second even if the program is killed. A context manager.

    Args:
        path: of the film, which is replaced; its suffix names the container, .mp4 or .mkv.
        fps: frames a second.
        size: width and height of the frames. H.264 wants even numbers: an odd one gains a pixel.

    Raises:
        ImportError: if PyAV is missing; the message names the extra.
        OSError, ValueError: if the film cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float | Fraction, size: tuple[int, int]) -> None:
        from dfmamba.extras import need

        (av,) = need("video", "av")
        self.path, self._av, self.size = Path(path), av, size
        rate = Fraction(fps).limit_denominator(1001)
        ticks = rate.numerator * -(-_FINEST // rate.numerator)
        self._base = Fraction(1, ticks)
        self._step, self._last = round(1 / rate / self._base), -1
        options = {"flush_packets": "1"}
        if self.path.suffix.lower() == ".mp4":
            options["movflags"] = "+hybrid_fragmented+frag_keyframe"
        try:
            self._container = av.open(f"file:{os.path.abspath(path)}", "w", options=options)
            has = "libx264" in av.codecs_available
            self._stream: Any = self._container.add_stream("libx264" if has else "mpeg4", rate=rate)
            self._stream.width, self._stream.height = (side + side % 2 for side in size)
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = self._base
            self._stream.codec_context.gop_size = max(round(2 * rate), 1)
            if has:
                self._stream.options = {"crf": QUALITY, "preset": "veryfast"}
            else:
                self._stream.bit_rate = 4 * size[0] * size[1]
            self._container.start_encoding()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from None

    def write(self, picture: np.ndarray, time_s: float | None = None) -> None:
        """Add a frame.

        Args:
            picture: (H, W, 3) uint8 RGB of the film's size.
            time_s: when it is shown; None: one frame's time after the last one.

        Raises:
            ValueError: if the size is another one.
            OSError: if it cannot be written.
        """
        if picture.shape != (self.size[1], self.size[0], 3):
            raise ValueError(f"{self.path}: expected frames of {self.size}, got shape {picture.shape}")
        odd = [(0, side % 2) for side in picture.shape[:2]]
        padded = np.pad(picture, [*odd, (0, 0)], mode="edge") if any(more for _, more in odd) else picture
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        following = 0 if self._last < 0 else self._last + self._step
        ticks = following if time_s is None else round(time_s / self._base)
        self._last = max(ticks, self._last + 1)
        frame.pts, frame.time_base = self._last, self._base
        self._encode(frame)

    def close(self) -> None:
        """Write what is left and finish the file.

        Raises:
            OSError: if that fails.
        """
        if self._container is None:
            return
        try:
            self._encode(None)
            self._container.close()
        except self._av.error.FFmpegError as error:
            raise self._failed(error) from None
        finally:
            self._container = None

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _encode(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except self._av.error.FFmpegError as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> OSError:
        return OSError(
            f"{self.path}: the film cannot be written ({getattr(error, 'strerror', None) or error})"
        )


def draw_tracked(tracked: Tracked, smoothed: bool = False) -> np.ndarray:
    """The frame with its hands, their numbers and, where it is so, the word "smoothed".

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = draw_overlay(tracked.frame.picture, tracked.prediction)
    draw = ImageDraw.Draw(image)
    size = max(round(0.021 * max(image.size)), 9)
    for hand in tracked.prediction.hands:
        x, y = np.clip(hand.box_xyxy[2:], 0, np.array(image.size) - 1)
        _tag(image, draw, (x, y), f"#{hand.track}", SIDE_COLORS[hand.side], size)
    if smoothed:
        _tag(image, draw, (float(image.width), float(image.height)), "smoothed", INK, size)
    return np.asarray(image)


def _tag(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    color: tuple[int, ...],
    size: int,
) -> None:
    """A word on a plate whose lower right corner is `corner`."""
    wide, high = text_width(text, size) + 0.9 * size, 1.5 * size
    x, y = max(corner[0] - wide, 0.0), max(corner[1] - high, 0.0)
    draw.rounded_rectangle((x, y, x + wide - 1, y + high - 1), 0.4 * size, fill=color[:3])
    draw.text((x + wide / 2, y + high / 2), text, fill=WHITE, font=font(size), anchor="mm")

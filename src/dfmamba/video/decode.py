"""Films and cameras through PyAV."""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.io.images import MAX_MEGAPIXELS
from dfmamba.video.frames import Frame, FrameReader

FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,gif,mjpeg,yuv4mpegpipe"
"""Containers that are opened. Play lists, which could name other files or addresses, are not among them."""

MISSING_S, MISSING_SHARE = 0.5, 0.02
"""A film that ends earlier than it says, by more than both of these, has been cut off."""

CAMERA_PATIENCE_S = 10.0
"""How long a camera may take for a picture."""

_DEFAULT_FPS = Fraction(25)


class FilmFrames(FrameReader):
    """The frames of a film as they are to be seen: upright, with square pixels; sound is ignored.

    Films whose pixels aren't square (DV, HDV, DVD, broadcast) are enlarged along the shorter side of a pixel.
    Of several streams of pictures it is the one that players take (`_chosen`). What cannot be decoded, or
    only with gaps, is left out and counted. So are later frames of another shape than the first (a phone
    turned within a call): `fault` names their number and sizes. Those of the same shape and another size
    are brought to the first one's.

    Args:
        path: a file of one of `FORMATS`, whatever its suffix.

    Raises:
        ImportError: if PyAV is missing.
        OSError: if the file does not exist or cannot be read.
        ValueError: if it is not a film or has less than two frames; the message names the file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            reason = "is not a regular file" if path.exists() else "no such file"
            raise FileNotFoundError(f"{path}: {reason}, expected a film")
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        # The prefix keeps names such as "pipe:0" from being taken as protocols.
        self._open(f"file:{os.path.abspath(path)}", str(path), options=options)
        if len(self._first) < 2:
            self.close()
            raise ValueError(f"{path}: {len(self._first)} readable frames, a film has more")

    def _open(self, name: str, shown: str, format: str | None = None, options: Any = None) -> None:
        from dfmamba.extras import need

        (av,) = need("video", "av")
        self.name, self._av = shown, av
        try:
            self._container = av.open(name, format=format, options=options or {}, metadata_errors="replace")
        except PermissionError:
            raise PermissionError(f"{shown}: no permission to read this file") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise ValueError(f"{shown}: not a film, or a damaged one ({_reason(error)})") from None
        stream = _chosen(av, self._container)
        if stream is None:
            self.close()
            raise ValueError(f"{shown}: there are no pictures in it")
        self._stream = stream
        if self._stream.codec_context is None:
            self.close()
            raise ValueError(f"{shown}: its coding of pictures is unknown")
        self._stream.codec_context.options = {"max_pixels": str(MAX_MEGAPIXELS * 1_000_000)}
        rate = self._stream.average_rate or self._stream.guessed_rate or _DEFAULT_FPS
        self.fps = min(max(Fraction(rate), Fraction(1, 60)), Fraction(1000))
        self.total = self._count()
        self._packets, self._index, self._last = 0, 0, -1.0
        self._start: float | None = None
        self._matrix: np.ndarray | None = None
        self._ratios: tuple[Fraction, Fraction] | None = None
        self._others = 0
        self._rest = self._decode()
        self._first: list[Frame] = []
        try:
            for frame in self._rest:
                self._first.append(frame)
                if len(self._first) == 2:
                    break
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        while self._first:
            yield self._first.pop(0)
        yield from self._rest

    def _decode(self) -> Iterator[Frame]:
        errors = self._av.error.FFmpegError
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except BlockingIOError:  # a camera that has no new picture yet
                self._wait()
                continue
            except errors as error:
                self.fault = (
                    f"{self.name}: reading stopped at {max(self._last, 0.0):.1f} s ({_reason(error)})"
                )
                return
            self._packets += packet.size > 0
            try:
                images = packet.decode()
            except errors:
                self.broken += 1
                self._index += 1
                continue
            for image in images:
                frame = self._frame(image)
                del image
                self._index += 1
                if frame is None:
                    self.broken += 1
                else:
                    self._last = frame.time_s
                    yield frame
                    del frame
        self.fault = self.fault or self._early()

    def _wait(self) -> None:
        raise self._av.error.EOFError(0, "it gives no pictures")

    def _frame(self, image: Any) -> Frame | None:
        """None for a frame that is broken, or of another shape than the first."""
        if image.is_corrupt:
            return None
        width, height = square_size(image.width, image.height, self._pixel_ratio())
        if max(width * height, image.width * image.height) > MAX_MEGAPIXELS * 1_000_000:
            return None
        matrix = _display_matrix(image)
        self._matrix = self._matrix if matrix is None else matrix
        lying = self._matrix is not None and self._matrix[0, 0] == 0
        shown = (height, width) if lying else (width, height)
        if not hasattr(self, "size"):
            self.size = shown
        if not _same_shape(shown, self.size):
            self._leave_out(shown, self._time(image))
            return None
        width, height = self.size[::-1] if lying else self.size
        try:
            picture = image.to_ndarray(format="rgb24", width=width, height=height)
        except (self._av.error.FFmpegError, ValueError):
            return None
        picture = picture if self._matrix is None else turned(picture, self._matrix)
        return Frame(self._index, self._time(image), picture)

    def _pixel_ratio(self) -> Fraction:
        """Width by height of a pixel: what the container says, until the pictures' own value changes."""
        coded = _ratio(self._stream.codec_context.sample_aspect_ratio)
        if self._ratios is None:
            self._ratios = _ratio(self._stream.sample_aspect_ratio), coded
        first, coded_first = self._ratios
        return first if coded == coded_first else coded

    def _leave_out(self, size: tuple[int, int], time_s: float) -> None:
        if self._others == 0:
            self._other = f"from {time_s:.1f} s on are {size[0]} x {size[1]} pixels"
        self._others += 1
        self.fault = (
            f"{self.name}: its shape changes: {self._others} frames {self._other}, those before "
            f"{self.size[0]} x {self.size[1]}; left out, cut the film there and predict both parts"
        )

    def _time(self, image: Any) -> float:
        stamp = image.time
        if stamp is not None and self._start is None:
            self._start = float(stamp) - float(self._index / self.fps)
        seconds = None if stamp is None or self._start is None else float(stamp) - self._start
        if seconds is None or seconds <= self._last:  # no time stamp, or a damaged one
            seconds = max(self._last, 0.0) + float(1 / self.fps) if self._last >= 0 else 0.0
        return seconds

    def _count(self) -> int | None:
        if self._stream.frames > 0:
            return int(self._stream.frames)
        seconds = self._seconds()
        return None if seconds is None else max(round(seconds * self.fps), 1)

    def _seconds(self) -> float | None:
        """How long the film says it is."""
        stream, whole = self._stream, self._container.duration
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if whole is None else whole / 1e6

    def _early(self) -> str | None:
        if self._stream.frames > 0:
            if self._packets >= self._stream.frames:
                return None
            return f"{self.name}: it ends early, after {self._packets} of {self._stream.frames} frames"
        seconds, end = self._seconds(), max(self._last, 0.0) + float(1 / self.fps)
        if seconds is None or seconds - end <= max(MISSING_S, MISSING_SHARE * seconds):
            return None
        return f"{self.name}: it ends early, after {end:.1f} of {seconds:.1f} s"


class CameraFrames(FilmFrames):
    """The pictures of a camera, without end. Those that come while nobody asks are dropped by the system.

    Args:
        number: of the camera, from 0.

    Raises:
        ImportError: if PyAV is missing.
        OSError: if there is no such camera, or it gives no pictures.
    """

    def __init__(self, number: int) -> None:
        self._waited = 0.0
        name, form = camera_address(number)
        try:
            self._open(name, f"camera:{number}", format=form)
        except ValueError as error:
            raise OSError(f"{error}; is a camera connected, and free?") from None
        if not self._first:
            self.close()
            raise OSError(f"camera:{number}: it gives no pictures; is it used by another program?")
        self.total = None

    def _count(self) -> None:
        return None

    def _wait(self) -> None:
        self._waited += 0.005
        if self._waited > CAMERA_PATIENCE_S:
            super()._wait()
        time.sleep(0.005)

    def _frame(self, image: Any) -> Frame | None:
        self._waited = 0.0
        return super()._frame(image)

    def _early(self) -> str | None:
        return f"{self.name}: the camera stopped"


def camera_address(number: int) -> tuple[str, str]:
    """Name and FFmpeg format of a camera on this system.

    Raises:
        ImportError: if PyAV is missing.
        OSError: if there is no such camera.
    """
    if sys.platform == "darwin":
        return f"{number}:none", "avfoundation"
    if sys.platform == "win32":
        from dfmamba.extras import need

        (device,) = need("video", "av.device")
        found = [one for one in device.enumerate_input_devices("dshow") if "video" in one.media_types]
        if number >= len(found):
            raise OSError(f"camera:{number}: no such camera, {len(found)} found")
        return found[number].name, "dshow"
    path = f"/dev/video{number}"
    if not os.path.exists(path):
        raise FileNotFoundError(f"camera:{number}: no such camera ({path} does not exist)")
    return path, "v4l2"


def turned(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) as a display matrix wants it seen.

    Args:
        matrix: (2, 2) of whole numbers; a step in x of the stored picture becomes (matrix[0, 0],
            matrix[0, 1]) in x and y of the shown one, one in y the second row.
    """
    if matrix[0, 0] == 0:
        picture, matrix = picture.transpose(1, 0, 2), matrix[::-1]
    return np.ascontiguousarray(picture[:: int(matrix[1, 1]), :: int(matrix[0, 0])])


def square_size(width: int, height: int, ratio: Fraction) -> tuple[int, int]:
    """Width and height that a picture has with square pixels: one of them grows, none shrinks.

    Args:
        ratio: width by height of one of its pixels.
    """
    if ratio >= 1:
        return round(width * ratio), height
    return width, round(height / ratio)


_ODDEST = 8
"""Pixels longer than this are a damaged header's."""


def _ratio(value: Fraction | None) -> Fraction:
    """The shape of a pixel; square where it isn't said, or makes no sense."""
    if value is None or value <= 0 or not Fraction(1, _ODDEST) <= value <= _ODDEST:
        return Fraction(1)
    return Fraction(value)


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are the same picture, up to the rows and columns that codings fill up."""
    across, down = size[0] * other[1], size[1] * other[0]
    return abs(across - down) <= 0.02 * max(across, down) + max(*size, *other) / 2


def _chosen(av: Any, container: Any) -> Any:
    """The stream of pictures that players show; None without one.

    Covers and thumbnails are none. The one marked as default comes first, then FFmpeg's choice (the most
    frames, the highest rate), then the first.
    """
    kinds = av.stream.Disposition
    covers = kinds.attached_pic | kinds.timed_thumbnails
    streams = [one for one in container.streams.video if not one.disposition & covers]
    usable = [one for one in streams if one.codec_context is not None] or streams
    marked = [one for one in usable if one.disposition & kinds.default]
    best = container.streams.best("video")
    index = -1 if best is None else best.index
    return min(marked or usable, key=lambda one: one.index != index, default=None)


def _display_matrix(image: Any) -> np.ndarray | None:
    """The turn that comes with a frame as quarter turns and mirrors; None where none comes with it."""
    try:
        values = struct.unpack("=9i", bytes(image.side_data["DISPLAYMATRIX"]))
    except (KeyError, struct.error, TypeError, ValueError):
        return None
    linear = np.array([values[0:2], values[3:5]], dtype=np.float64)
    largest = np.abs(linear).max()
    matrix = np.rint(linear / largest).astype(int) if largest > 0 else np.eye(2, dtype=int)
    straight = np.abs(matrix).sum(axis=0).tolist() == [1, 1] == np.abs(matrix).sum(axis=1).tolist()
    return matrix if straight else np.eye(2, dtype=int)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)

"""Frames one after the other, from a film, a camera or a folder; only the current one is in memory."""

from __future__ import annotations

import abc
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from dfmamba.io.images import find_images, load_image
from dfmamba.predict.track import Frame

FOLDER_FPS = 25
"""Frames a second of a folder of frames, where nothing else is said."""

SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"),
        *(".wmv", ".asf", ".flv", ".ogv", ".3gp", ".3g2", ".mjpeg", ".y4m"),
    }
)
"""Files with these suffixes are films, unless their first bytes are those of a picture."""

_CAMERA = re.compile(r"camera:(\d+)")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LIVE = re.compile(r"(rtsps?|rtmps?|rtp|srt|udp|tcp|mms|rist)://", re.IGNORECASE)
RAW_SUFFIXES = frozenset({".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".obu", ".ivf"})
"""Coded pictures without a container, which have no times: they are named, not read."""

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_FILMS = (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"OggS", b"\x30\x26\xb2\x75", b"\0\0\x01\xba", b"\0\0\x01\xb3")
_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


class FrameReader(abc.ABC):
    """Frames in order, read as they are asked for. A context manager; iterate once.

    Attributes:
        fps: frames a second, the mean where it varies.
        size: width and height in pixels of every frame, as it is to be seen, with square pixels.
        total: number of frames, about; None where unknown.
        broken: frames that could not be read and were left out, so far.
        fault: why the frames ended before the film's end, or some of another shape were left out; else None.
    """

    fps: Fraction
    size: tuple[int, int]
    total: int | None = None
    broken: int = 0
    fault: str | None = None

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:  # noqa: B027
        """Lets go of the file or device, where there is one."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_frames(source: str | os.PathLike[str], fps: float | None = None) -> FrameReader:
    """Open a film.

    Args:
        source: a film, "camera:N" for the N-th camera of this machine from 0, or a folder of pictures, which
            are taken in the order of their names, numbers in them by value.
        fps: frames a second of a folder, `FOLDER_FPS` if None; films and cameras know theirs.

    Raises:
        ImportError: if PyAV is missing, for films and cameras; the message names the extra.
        OSError: if the source does not exist or cannot be read, or there is no such camera.
        ValueError: if it is no film, an address or a raw stream without container, or `fps` is given and
            makes no sense.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise ValueError(f"fps: expected frames a second from above 0 to 1000, got {fps:g}")
    camera = camera_number(source)
    if camera is not None:
        from dfmamba.video.decode import CameraFrames

        return CameraFrames(camera)
    if _ADDRESS.match(os.fspath(source)) and not os.path.lexists(source):
        raise ValueError(
            f"{source}: addresses aren't opened; record it first, such as with "
            f"`ffmpeg -i ADDRESS -t 60 -c copy film.mkv`, and give that file"
        )
    if Path(source).suffix.lower() in RAW_SUFFIXES and Path(source).is_file():
        raise ValueError(
            f"{source}: a raw stream of coded pictures has no container and no times; put it into one, such "
            f"as with `ffmpeg -r 25 -i {Path(source).name} -c copy film.mp4`, and give that file"
        )
    if Path(source).is_dir():
        return FolderFrames(Path(source), Fraction(fps or FOLDER_FPS).limit_denominator(1001))
    from dfmamba.video.decode import FilmFrames

    return FilmFrames(Path(source))


def camera_number(source: str | os.PathLike[str]) -> int | None:
    """N of "camera:N", else None.

    Raises:
        ValueError: if it begins with "camera:" and goes on otherwise.
    """
    text = os.fspath(source)
    if not text.startswith("camera:") or os.path.lexists(text):
        return None
    match = _CAMERA.fullmatch(text)
    if match is None:
        raise ValueError(f"{text}: expected camera:N with the number of a camera, such as camera:0")
    return int(match[1])


def is_film(source: str | os.PathLike[str], gifs: bool = False) -> bool:
    """Whether this is a camera or a file that looks like a film: by its first bytes, then by its suffix.

    Args:
        gifs: count GIFs as films.
    """
    if camera_number(source) is not None or _LIVE.match(os.fspath(source)):
        return True
    path = Path(source)
    try:
        if not path.is_file():  # a pipe would block
            return False
        with path.open("rb") as file:
            head = file.read(16)
    except (OSError, ValueError):
        return False
    if gifs and head.startswith(b"GIF8"):
        return True
    if head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return False
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return False
    known = head.startswith(_FILMS) or head[4:8] in _ATOMS or (head[:4] == b"RIFF" and head[8:11] == b"AVI")
    return bool(head) and (known or path.suffix.lower() in SUFFIXES | RAW_SUFFIXES)


class FolderFrames(FrameReader):
    """The pictures of a folder as the frames of a film.

    Pictures that are unusable, or of another size than the first, count as broken.

    Raises:
        OSError, ValueError: if no picture of the folder is usable.
    """

    def __init__(self, folder: Path, fps: Fraction = Fraction(FOLDER_FPS)) -> None:
        self.files = sorted(find_images([folder]), key=lambda path: natural(path.name))
        self.fps, self.total = fps, len(self.files)
        problem: Exception | None = None
        for path in self.files:
            try:
                height, width = load_image(path).shape[:2]
                break
            except (OSError, ValueError) as error:
                problem = problem or error
        else:
            raise ValueError(f"{folder}: no usable frame ({problem})")
        self.size = (width, height)

    def __iter__(self) -> Iterator[Frame]:
        width, height = self.size
        for index, path in enumerate(self.files):
            try:
                picture = load_image(path)
            except (OSError, ValueError):
                self.broken += 1
                continue
            if picture.shape[:2] != (height, width):
                self.broken += 1
                continue
            yield Frame(index, float(index / self.fps), picture, str(path))


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorting key by which frame2 comes before frame10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]

"""Pictures from files: upright RGB arrays, or one line that says why not."""

from __future__ import annotations

import glob
import io
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_MEGAPIXELS = 100
"""Pictures with more pixels than this many millions are refused before they are decoded."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif")


class _PictureError(ValueError):
    """A reason that is already worded for the user."""


class UnsupportedPictureError(_PictureError):
    """The file is no picture of a known format, or not a still one."""


class PictureTooLargeError(_PictureError):
    """The picture has more than `MAX_MEGAPIXELS`."""


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a still picture as upright 8-bit RGB.

    Args:
        path: the file; see `decode_image` for what is read.

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: if the file is missing, not a regular file or not readable; the message names it.
        ValueError: as `decode_image`; the message names the file and the reason.
    """
    path = Path(path)
    _require_regular_file(path)
    with path.open("rb") as file:
        return decode_image(file, str(path))


def decode_image(
    content: bytes | BinaryIO, name: str = "picture", formats: tuple[str, ...] = FORMATS
) -> np.ndarray:
    """Read a still picture from the bytes of its file as upright 8-bit RGB.

    JPEG, PNG, WebP, BMP, TIFF and GIF files are read. The EXIF orientation is applied, transparent pixels
    are laid over white, 16-bit grey is scaled to 8 bits.

    Args:
        content: the bytes, or an open binary file with them, which can be sought and is read from its start.
        name: what an error message calls the picture.
        formats: those that are read, some of `FORMATS`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnsupportedPictureError: it is animated or no picture of these formats.
        PictureTooLargeError: it is larger than `MAX_MEGAPIXELS`.
        ValueError: it is empty, damaged or of a colour mode that is not supported. All messages are one line
            that starts with the name.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            file.seek(0)
            head = file.read(12)
            if not head:
                raise _PictureError(f"{name}: the file is empty")
            file.seek(0)
            return _decode(file, name, formats)
        except _PictureError:
            raise
        except UnidentifiedImageError:
            raise UnsupportedPictureError(_unknown_format(head, name, formats)) from None
        except Image.DecompressionBombError:
            raise PictureTooLargeError(
                f"{name}: picture too large: more than {MAX_MEGAPIXELS} megapixels"
            ) from None
        except Exception as error:
            # Pillow's decoders answer damaged bytes with almost any exception type.
            raise ValueError(f"{name}: damaged or truncated picture ({_one_line(error)})") from None


def as_picture(image: Image.Image | np.ndarray, name: str = "image") -> np.ndarray:
    """Turn a Pillow image or an array into upright 8-bit RGB.

    Args:
        image: a Pillow image of any mode (its EXIF orientation is applied), or an array (H, W, 3) or
            (H, W), RGB or grey, either uint8 or floating with values from 0 to 1.
        name: what an error message calls the picture.

    Returns:
        (H, W, 3) uint8; the input itself where it already is that.

    Raises:
        TypeError: if it is neither a Pillow image nor an array.
        ValueError: if shape, type or values are not as above.
    """
    if isinstance(image, Image.Image):
        return _to_rgb(_upright(image), name)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name}: expected a path, Pillow image or array, got {type(image).__name__}")
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"{name}: expected an array (H, W, 3) or (H, W), got shape {image.shape}")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"{name}: expected uint8 or floating values, got {image.dtype}")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"{name}: floating values must lie in 0..1, got {low:g}..{high:g} (divide by 255?)")
    return np.rint(image * 255.0).astype(np.uint8)


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the pictures that files, folders and patterns name.

    A file counts as it is, whatever its suffix. A folder gives the pictures directly inside it, a pattern
    (`*`, `?`, `[`) those that match it, both by suffix, sorted by name, hidden files left out. A file that
    is named twice is listed once.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder holds no picture or a pattern matches none.
    """
    found: dict[Path, None] = {}
    for name in paths:
        path = Path(name)
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if _looks_like_picture(entry))
            if not inside:
                raise ValueError(f"{path}: no pictures in this folder (looked for {_suffix_list()})")
        elif os.path.lexists(path):
            inside = [path]
        elif glob.has_magic(str(name)):
            matches = (Path(match) for match in glob.glob(str(name), recursive=True))
            inside = sorted(match for match in matches if _looks_like_picture(match))
            if not inside:
                raise ValueError(f"{name}: no pictures match this pattern (looked for {_suffix_list()})")
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
        found.update(dict.fromkeys(inside))
    return list(found)


def _require_regular_file(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror or error})") from None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path}: is a folder, expected a picture")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a regular file, expected a picture")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path}: no permission to read this file")


def _decode(file: BinaryIO, name: str, formats: tuple[str, ...]) -> np.ndarray:
    with Image.open(file, formats=formats) as image:
        width, height = image.size
        if width * height > MAX_MEGAPIXELS * 1_000_000:
            raise PictureTooLargeError(
                f"{name}: picture too large: {width} x {height}, the limit is {MAX_MEGAPIXELS} megapixels"
            )
        # An MPO is a JPEG with previews or a second eye behind it: its first frame is the photo.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            kind = "picture with several pages" if image.format == "TIFF" else "animated picture"
            raise UnsupportedPictureError(f"{name}: {kind}: save the one you want as a still picture")
        image.load()
        return _to_rgb(_upright(image), name)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        grey = _grey_to_8_bit(np.asarray(image), name)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    try:
        return np.array(image.convert("RGB"))
    except ValueError:
        raise _PictureError(f"{name}: colour mode {mode} is not supported, save the picture as RGB") from None


def _grey_to_8_bit(values: np.ndarray, name: str) -> np.ndarray:
    """Integers are taken as 0..65535; floating values as 0..1, or as 0..255 where one exceeds 1."""
    low, high = float(values.min()), float(values.max())
    floating = np.issubdtype(values.dtype, np.floating)
    full = (1.0 if high <= 1.0 else 255.0) if floating else 65535.0
    if not (low >= 0.0 and high <= full):
        raise _PictureError(f"{name}: grey values {low:g}..{high:g} lie outside 0..{full:g}")
    return np.rint(values * (255.0 / full)).astype(np.uint8)


def _looks_like_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _suffix_list() -> str:
    return " ".join(sorted(SUFFIXES))


def _unknown_format(head: bytes, name: str, formats: tuple[str, ...]) -> str:
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return f"{name}: HEIC and AVIF pictures are not supported, save it as JPEG or PNG"
    return f"{name}: not a picture, or one of an unknown format (known: {', '.join(formats)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__

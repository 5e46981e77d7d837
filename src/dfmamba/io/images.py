"""Pictures from files: upright RGB arrays, or one line that says why not."""

from __future__ import annotations

import glob
import importlib
import io
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from dfmamba.text import printable

MAX_MEGAPIXELS = 100
"""Pictures with more pixels than this many millions are refused before they are decoded."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
)
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
"""Read where the extra `heif` is installed."""

DRAWING = "dfmamba drawing"
"""What drawings of this program name as their software, so that they aren't taken for photos later."""

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
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_RAW_HEADS = (b"FUJIFILM", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM")
_RAW_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "kdc", "mef", "mos", "mrw", "nef"),
        *("nrw", "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
    )
)
_FILM_SUFFIXES = frozenset(
    {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".h264", ".264"}
)
_HEIF_MISSING = "HEIC: pip install 'dfmamba[heif]', or save it as JPEG"
_RAW = "a raw photo of a camera: develop it and save it as JPEG, PNG or TIFF"

_NEW_SUBFILE, _SUBFILE, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 254, 255, 262, 330, 50706
_WIDTH, _HEIGHT = 256, 257
_SENSOR_COLOURS = (32803, 34892)
"""Photometric interpretation of what a sensor measured: colour filter array, linear raw."""


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

    JPEG, PNG, WebP, BMP, TIFF and GIF files are read, HEIC where the extra `heif` is installed. The EXIF
    orientation is applied, transparent pixels are laid over white, 16-bit grey is scaled to 8 bits. Raw
    photos (DNG, NEF and so on) are refused: what could be read of them is a thumbnail.

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
            if formats == FORMATS and head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
                return _decode_heif(file, name)
            if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":
                raise UnsupportedPictureError(f"{name}: {_RAW}")
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


def decode_grey_16(content: bytes, name: str) -> np.ndarray:
    """The values of a 16-bit grey PNG, such as a depth map, from the bytes of its file.

    Returns:
        (H, W) int32 or uint16.

    Raises:
        PictureTooLargeError: it is larger than `MAX_MEGAPIXELS`.
        ValueError: it is no 16-bit grey PNG, or damaged; the message starts with the name.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            _require_size(image.size, name)
            mode = image.mode
            if not mode.startswith("I"):
                raise _PictureError(f"{name}: PNG of mode {mode}; expected a depth map, 16-bit grey")
            return np.array(image)
    except _PictureError:
        raise
    except Exception as error:
        # Pillow's decoders answer damaged bytes with almost any exception type.
        raise ValueError(f"{name}: damaged or no PNG ({type(error).__name__})") from None


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
        ValueError: if shape, type or values are not as above, or the Pillow image is closed or damaged.
    """
    if isinstance(image, Image.Image):
        return _of_pillow(image, name)
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


def encode_drawing(image: Image.Image) -> bytes:
    """A drawing as PNG that says what made it, so that `list_images` leaves it out."""
    facts = PngImagePlugin.PngInfo()
    facts.add_text("Software", DRAWING)
    memory = io.BytesIO()
    image.save(memory, "PNG", pnginfo=facts)
    return memory.getvalue()


def is_drawing(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a drawing that `encode_drawing` made; False where it can't be read."""
    try:
        with open(path, "rb") as file:
            return f"tEXtSoftware\0{DRAWING}".encode() in file.read(256)
    except OSError:
        return False


@dataclass(frozen=True)
class Listing:
    """The pictures of files, folders and patterns, and what there was beside them.

    Attributes:
        images: the pictures.
        left_out: other entries of the folders, hidden ones excepted, and why each isn't read.
    """

    images: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...] = ()

    @property
    def notes(self) -> list[str]:
        """One line for each folder and reason: how many entries, and the names of the first three."""
        groups: dict[tuple[Path, str], list[str]] = {}
        for path, reason in self.left_out:
            groups.setdefault((path.parent, reason), []).append(path.name)
        return [
            printable(
                f"{folder}: left out {len(names)} ({', '.join(names[:3])}{', ...' if names[3:] else ''}): "
                f"{reason}"
            )
            for (folder, reason), names in groups.items()
        ]


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The `images` of `list_images`."""
    return list(list_images(paths).images)


def list_images(paths: Iterable[str | os.PathLike[str]], none: bool = False) -> Listing:
    """List the pictures that files, folders and patterns name.

    A file counts as it is, whatever its suffix. A folder gives the pictures directly inside it, a pattern
    (`*`, `?`, `[`) those that match it, both by suffix, sorted by name, hidden files and drawings of this
    program left out. A file that is named twice is listed once.

    Args:
        paths: files, folders and patterns.
        none: whether a folder or pattern may be without pictures.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder holds no picture or a pattern matches none.
    """
    if isinstance(paths, str | os.PathLike):  # whose letters are no paths
        paths = [paths]
    found: dict[Path, None] = {}
    left_out: dict[Path, str] = {}
    for name in paths:
        path = Path(name)
        if path.is_dir():
            inside = sorted(path.iterdir())
        elif os.path.lexists(path):
            found[path] = None
            continue
        elif glob.has_magic(str(name)):
            inside = sorted(Path(match) for match in glob.glob(str(name), recursive=True))
        else:
            raise FileNotFoundError(f"{printable(path)}: no such file or folder")
        reasons = {entry: _unread(entry) for entry in inside if not entry.name.startswith(".")}
        images = [entry for entry, reason in reasons.items() if not reason]
        others = {entry: reason for entry, reason in reasons.items() if reason}
        if not images and not none:
            where = "in this folder" if path.is_dir() else "match this pattern"
            beside = "; ".join(Listing((), tuple(others.items())).notes[:3])
            raise ValueError(
                f"{printable(path)}: no pictures {where} (looked for {_suffix_list()})"
                + (f"; {beside}" if beside else "")
            )
        found.update(dict.fromkeys(images))
        left_out.update(others)
    return Listing(tuple(found), tuple(entry for entry in left_out.items() if entry[0] not in found))


def _unread(path: Path) -> str:
    """Why an entry of a folder is no picture that is read; "" for one that is."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return "a folder, whose pictures aren't looked for: name it, too"
    if not path.exists():
        return "a link to a file that doesn't exist"
    if not path.is_file():
        return "not a regular file"
    if suffix in HEIF_SUFFIXES:
        return "" if _heif() else _HEIF_MISSING
    if suffix in _RAW_SUFFIXES:
        return _RAW
    if suffix in _FILM_SUFFIXES:
        return "a film: name it by itself"
    if suffix not in SUFFIXES:
        return "not a picture, by its suffix"
    return "a drawing of this program" if suffix == ".png" and is_drawing(path) else ""


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
        _require_size(image.size, name)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_raw(image):
            raise UnsupportedPictureError(f"{name}: {_RAW}")
        # An MPO is a JPEG with previews or a second eye behind it: its first frame is the photo.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            kind = "picture with several pages" if image.format == "TIFF" else "animated picture"
            raise UnsupportedPictureError(f"{name}: {kind}: save the one you want as a still picture")
        image.load()
        return _to_rgb(_upright(image), name)


def _require_size(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MAX_MEGAPIXELS * 1_000_000:
        raise PictureTooLargeError(
            f"{name}: picture too large: {size[0]} x {size[1]}, the limit is {MAX_MEGAPIXELS} megapixels"
        )


def _is_raw(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether a TIFF holds a larger picture than its first one, or what a sensor measured: a raw photo."""
    tags: Any = image.tag_v2
    reduced = tags.get(_NEW_SUBFILE, 0) & 1 or tags.get(_SUBFILE) == 2
    if reduced or _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _SENSOR_COLOURS:
        return True
    for inner in _inner_tags(image):
        width, height = inner.get(_WIDTH, 0), inner.get(_HEIGHT, 0)
        if inner.get(_PHOTOMETRIC) in _SENSOR_COLOURS or width * height > image.width * image.height:
            return True
    return False


def _inner_tags(image: TiffImagePlugin.TiffImageFile) -> Iterator[Any]:
    """The tags of the pictures inside of the first one of a TIFF."""
    places, file = image.tag_v2.get(_SUB_IFDS, ()), image.fp
    assert file is not None
    file.seek(0)
    head = file.read(8)
    for place in (places if isinstance(places, tuple) else (places,))[:16]:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head, group=_SUB_IFDS)
        file.seek(place)
        tags.load(file)
        yield tags


def _heif() -> Any:
    """The library of the extra `heif`; None where it is not installed."""
    try:
        return importlib.import_module("pi_heif")
    except ImportError:
        return None


def _decode_heif(file: BinaryIO, name: str) -> np.ndarray:
    library = _heif()
    if library is None:
        raise UnsupportedPictureError(f"{name}: {_HEIF_MISSING}")
    try:
        image = library.open_heif(file, convert_hdr_to_8bit=True)
        _require_size(image.size, name)
        picture = image.to_pillow()  # upright already
    except _PictureError:
        raise
    except Exception as error:
        raise _PictureError(f"{name}: damaged or truncated HEIC picture ({_one_line(error)})") from None
    return _to_rgb(picture, name)


def _of_pillow(image: Image.Image, name: str) -> np.ndarray:
    try:
        image.load()
    except Exception as error:
        # A closed file gives ValueError or AttributeError, damaged bytes almost any exception type.
        raise ValueError(
            f"{name}: this Pillow image can't be read ({_one_line(error)}): it was closed, or its file is "
            "damaged; call load() before the file is closed"
        ) from None
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


def _suffix_list() -> str:
    return " ".join(sorted(SUFFIXES))


def _unknown_format(head: bytes, name: str, formats: tuple[str, ...]) -> str:
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return f"{name}: AVIF pictures are not supported, save it as JPEG or PNG"
    if head.startswith(_RAW_HEADS) or head[4:12] == b"ftypcrx " or Path(name).suffix.lower() in _RAW_SUFFIXES:
        return f"{name}: {_RAW}"
    return f"{name}: not a picture, or one of an unknown format (known: {', '.join(formats)})"


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:120] or type(error).__name__

"""Whether pictures are those of the benchmark: digests of the first ones, and a small reference file.

Rendering is bit-exact on one type of machine. Elsewhere floating point may round otherwise, so that there are
thumbnails and joints to compare with, too. `make_reference.py` writes the reference.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studies.synthhands5.pictures import Pictures, load_pictures, render, renderer_config
from studies.synthhands5.settings import SETTINGS, SPLITS, VERSION

SAMPLES = 8
"""Pictures of each split that the reference holds."""
THUMBNAIL = 16
"""Side of the thumbnails in pixels."""
REFERENCE = Path(__file__).parent / "assets" / f"reference-v{VERSION}.safetensors"

TOLERANCE_LEVELS = 2
TOLERANCE_MM = 0.01
TOLERANCE_PX = 0.01
"""What rounding may do to a thumbnail's pixel (of 255), and to a joint in the camera frame or the picture."""

_DIGESTED = ("pixels", "joints_2d_px", "joints_mm", "valid", "visible", "camera")


@dataclass(frozen=True)
class Check:
    """How far pictures are from the reference.

    Attributes:
        setting: one of `SETTINGS`.
        split: one of `SPLITS`.
        identical: bit for bit, labels included.
        picture_difference: largest difference of the thumbnails, in levels of 255.
        joint_difference_mm: largest difference of a joint's coordinate in the camera frame.
        joint_difference_px: the same in the picture.
    """

    setting: str
    split: str
    identical: bool
    picture_difference: int
    joint_difference_mm: float
    joint_difference_px: float

    @property
    def ok(self) -> bool:
        """Whether they are the benchmark's pictures, but for rounding."""
        return self.identical or (
            self.picture_difference <= TOLERANCE_LEVELS
            and self.joint_difference_mm <= TOLERANCE_MM
            and self.joint_difference_px <= TOLERANCE_PX
        )

    @property
    def line(self) -> str:
        """For people."""
        place = f"{self.setting} {self.split}"
        if self.identical:
            return f"{place}: identical"
        what = "equal but for rounding" if self.ok else "NOT the benchmark's pictures"
        return (
            f"{place}: {what} (thumbnails differ by up to {self.picture_difference} levels, joints by "
            f"{self.joint_difference_mm:.3g} mm and {self.joint_difference_px:.3g} px)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return {**asdict(self), "ok": self.ok}


def first_pictures(
    setting: str, split: str, count: int = SAMPLES, folder: str | Path | None = None
) -> Pictures:
    """The first pictures of a split, as models get them.

    Args:
        setting: one of `SETTINGS`.
        split: one of `SPLITS`.
        count: how many.
        folder: of a rendered benchmark; None renders them now, into a temporary folder.

    Raises:
        OSError: the folder holds no such pictures.
        ValueError: unknown setting or split, or fewer pictures than asked for.
        ImportError: they are to be rendered, and the extra `synthetic` is missing.
    """
    renderer_config(setting, split)
    if not 1 <= count <= SPLITS[split].pictures:
        raise ValueError(f"got {count} pictures; expected 1 to {SPLITS[split].pictures}, all of {split!r}")
    if folder is not None:
        pictures = load_pictures(setting, split, folder, count)
    else:
        with tempfile.TemporaryDirectory(prefix="synthhands5-") as place:
            render(setting, split, place, workers=0, count=count, progress=False)
            pictures = load_pictures(setting, split, place, count)
    return replace(pictures, **{name: getattr(pictures, name)[:count] for name in _DIGESTED})


def digest_of(pictures: Pictures) -> str:
    """SHA-256 of pixels and labels, as hexadecimal digits."""
    found = hashlib.sha256()
    for name in _DIGESTED:
        values = getattr(pictures, name).numpy()
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        found.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        found.update(values.tobytes())
    return found.hexdigest()


def digest(setting: str, split: str, first: int = SAMPLES, folder: str | Path | None = None) -> str:
    """SHA-256 over pixels and labels of the first pictures of a split, as hexadecimal digits.

    Args and errors are those of `first_pictures`.
    """
    return digest_of(first_pictures(setting, split, first, folder))


def thumbnails(pixels: Tensor) -> Tensor:
    """Means over squares: (n, S, S, 3) uint8 -> (n, `THUMBNAIL`, `THUMBNAIL`, 3) uint8."""
    n, size = pixels.shape[:2]
    side = size // THUMBNAIL
    squares = pixels.view(n, THUMBNAIL, side, THUMBNAIL, side, 3).double()
    return squares.mean((2, 4)).round().to(torch.uint8)


def make_reference() -> tuple[dict[str, Tensor], dict[str, str]]:
    """Renders the first pictures of every split: tensors and metadata of the reference file."""
    tensors: dict[str, Tensor] = {}
    metadata = {"version": str(VERSION)}
    for setting in SETTINGS:
        for split in SPLITS:
            pictures = first_pictures(setting, split)
            name = f"{setting}/{split}"
            metadata[name] = digest_of(pictures)
            tensors[f"{name}/thumbnails"] = thumbnails(pictures.pixels)
            tensors[f"{name}/joints_mm"] = pictures.joints_mm.float()
            tensors[f"{name}/joints_px"] = pictures.joints_2d_px.float()
    return tensors, metadata


def read_reference(setting: str, split: str, path: str | Path = REFERENCE) -> tuple[str, dict[str, Tensor]]:
    """What a reference file holds of one split.

    Returns:
        The digest, and `thumbnails` (n, 16, 16, 3) uint8, `joints_mm` (n, 2, 21, 3) in the camera frame and
        `joints_px` (n, 2, 21, 2), right hand then left.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged or of another version.
    """
    from safetensors import SafetensorError, safe_open

    path, name = Path(path), f"{setting}/{split}"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; make it: python -m studies.synthhands5.make_reference"
        )
    shapes = {
        "thumbnails": (SAMPLES, THUMBNAIL, THUMBNAIL, 3),
        "joints_mm": (SAMPLES, 2, 21, 3),
        "joints_px": (SAMPLES, 2, 21, 2),
    }
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            if metadata.get("version") != str(VERSION):
                raise ValueError(f"version {metadata.get('version')!r}, expected {str(VERSION)!r}")
            if name not in metadata:
                raise ValueError(f"no digest of {name}")
            tensors = {key: file.get_tensor(f"{name}/{key}") for key in shapes}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: no reference of the benchmark ({error})") from error
    for key, shape in shapes.items():
        if tuple(tensors[key].shape) != shape:
            raise ValueError(
                f"{path}: no reference of the benchmark "
                f"({name}/{key} has shape {tuple(tensors[key].shape)}, expected {shape})"
            )
    return metadata[name], tensors


def check(
    setting: str, split: str, folder: str | Path | None = None, reference: str | Path = REFERENCE
) -> Check:
    """Compares the first pictures of a split with the reference.

    Args:
        setting: one of `SETTINGS`.
        split: one of `SPLITS`.
        folder: of a rendered benchmark; None renders the pictures now, which also checks this machine.
        reference: file of the reference.

    Raises:
        OSError: the folder or the reference isn't there.
        ValueError: unknown setting or split, too few pictures, or a damaged reference.
        ImportError: they are to be rendered, and the extra `synthetic` is missing.
    """
    renderer_config(setting, split)
    wanted, known = read_reference(setting, split, reference)
    pictures = first_pictures(setting, split, SAMPLES, folder)

    def largest(name: str, values: Tensor) -> float:
        return float((values.double() - known[name].double()).abs().max())

    return Check(
        setting=setting,
        split=split,
        identical=digest_of(pictures) == wanted,
        picture_difference=int(largest("thumbnails", thumbnails(pictures.pixels))),
        joint_difference_mm=largest("joints_mm", pictures.joints_mm),
        joint_difference_px=largest("joints_px", pictures.joints_2d_px),
    )

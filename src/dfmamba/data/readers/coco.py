"""What the readers of COCO-like annotations with 42 joints share: JSON, entries in little memory, pictures.

The lists of InterHand2.6M hold more than a million entries. They are shrunk while they are parsed, so that
no more than one entry is ever held as nested Python lists.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dfmamba.data.index import Index, index_folder
from dfmamba.data.indexed import IndexedDataset
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import convert_joints
from dfmamba.io import untrusted

PICTURE_MISSING = "picture missing"

TWO_HANDS = convert_joints(np.arange(42), "interhand", "openpose", axis=0)
"""(2, 21): where each joint of two hands, right then left, OpenPose order, is among the 42."""

LARGEST_SIDE = 1 << 15
"""No picture is wider or higher, in pixels."""

LARGEST_FOCAL = 1e5
"""No focal length and no principal point is larger, in pixels."""


class Picture(NamedTuple):
    """An entry of "images"; the fields are as they came."""

    id: Any
    file_name: Any
    width: Any
    height: Any
    capture: Any
    seq_name: Any
    camera: Any
    frame_idx: Any


class Label(NamedTuple):
    """An entry of "annotations"; `valid` is (2, 21) bool, or None where "joint_valid" isn't 42 flags."""

    id: Any
    image_id: Any
    bbox: Any
    valid: np.ndarray | None
    hand_type: Any
    hand_type_valid: Any


class Frame(NamedTuple):
    """Joints of one moment.

    Attributes:
        world: (2, 21, 3) mm, right then left, OpenPose order.
        valid: (2, 21) bool.
    """

    world: np.ndarray
    valid: np.ndarray


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file, UTF-8.
        hook: gets every object of the file, the inner ones first; what it returns takes their place.

    Raises:
        OSError: the file can't be read; the message names it.
        ValueError: it is damaged, truncated, or not an object; the message names it.
    """
    content = untrusted.read_json(path, hook)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {type(content).__name__}; expected a JSON object")
    return content


def part(content: dict[str, Any], name: str, kind: type, path: Path) -> Any:
    """`content[name]`.

    Raises:
        ValueError: there is none of that type; the message names the file.
    """
    value = content.get(name)
    if not isinstance(value, kind):
        raise ValueError(f'{path}: "{name}" is {type(value).__name__}; expected {kind.__name__}')
    return value


def read_ids(path: Path) -> list[str]:
    """The lines of a text file that hold something, stripped.

    Raises:
        OSError: the file can't be read.
        ValueError: it is not text.
    """
    try:
        lines = untrusted.read_bytes(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text, the file is damaged ({error.reason})") from error
    return [line.strip() for line in lines if line.strip()]


def flags(value: Any) -> np.ndarray | None:
    """42 flags, also one list each, as (2, 21) bool; None for anything else."""
    try:
        array = np.array(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if array.shape not in ((42,), (42, 1)) or array.dtype.kind not in "biuf":
        return None
    return (array.reshape(42) > 0)[TWO_HANDS]


def shrink_entry(entry: dict[str, Any]) -> Any:
    """Hook of `read_json` for "images" and "annotations"."""
    if "file_name" in entry:
        return Picture(*map(entry.get, Picture._fields))
    if "image_id" in entry:
        return Label(
            entry.get("id"),
            entry["image_id"],
            entry.get("bbox"),
            flags(entry.get("joint_valid")),
            entry.get("hand_type"),
            entry.get("hand_type_valid"),
        )
    return entry


def shrink_frame(entry: dict[str, Any]) -> Any:
    """Hook of `read_json` for files of joints: `Frame`, or None where there are not 42 joints."""
    if "world_coord" not in entry:
        return entry
    world = untrusted.numbers(entry["world_coord"], (42, 3))
    valid = flags(entry["joint_valid"]) if "joint_valid" in entry else np.ones((2, 21), bool)
    return None if world is None or valid is None else Frame(world[TWO_HANDS], valid)


def read_lists(path: Path) -> tuple[dict[int, Picture], list[Any]]:
    """Pictures by their id, and the labels, of a file with "images" and "annotations".

    Raises:
        OSError: the file can't be read.
        ValueError: it is damaged.
    """
    content = read_json(path, shrink_entry)
    images, labels = part(content, "images", list, path), part(content, "annotations", list, path)
    return {p.id: p for p in images if isinstance(p, Picture) and is_id(p.id)}, labels


def picture_of(label: Any, pictures: dict[int, Picture]) -> Picture | str:
    """The picture of a label, or why label or picture can't be used."""
    if not isinstance(label, Label):
        return "annotation without image_id"
    if not is_id(label.id):
        return "annotation without id"
    picture = pictures.get(label.image_id) if is_id(label.image_id) else None
    if picture is None:
        return "annotation of a picture that is not listed"
    if not is_inner_path(picture.file_name):
        return "file name is no path within the data set"
    for side in (picture.width, picture.height):
        if type(side) is not int or not 0 < side <= LARGEST_SIDE:
            return "size of the picture is unusable"
    if not isinstance(picture.seq_name, str) or not picture.seq_name.isprintable():
        return "name of the sequence is unusable"
    if label.valid is None:
        return "wrong number of joints in the list of pictures"
    return picture


def is_id(value: Any) -> bool:
    """Whether this can be the number of a picture or annotation; float64 holds it exactly."""
    return type(value) is int and 0 <= value < 1 << 53


def is_inner_path(value: Any) -> bool:
    """Whether this is the relative path of a file, that doesn't leave the folder where it starts."""
    if not isinstance(value, str) or not value.isprintable() or value.startswith("/"):
        return False
    return value.rpartition("/")[2] not in ("", ".") and ".." not in value.split("/")


def pinhole(focal: Any, centre: Any) -> Camera | None:
    """A camera of fx, fy and cx, cy in pixels; None where these are no plausible numbers."""
    f, c = untrusted.numbers(focal, (2,)), untrusted.numbers(centre, (2,))
    if f is None or c is None or not (np.abs([*f, *c]) < LARGEST_FOCAL).all() or not (f >= 1).all():
        return None
    return Camera(*f.tolist(), *c.tolist())


def is_rotation(matrix: np.ndarray) -> bool:
    """Whether a 3x3 matrix turns without mirroring or stretching."""
    with np.errstate(all="ignore"):
        return bool(np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and np.linalg.det(matrix) > 0)


class PictureFolders:
    """Which pictures exist; each folder is listed once.

    Args:
        root: the folder that paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            try:
                with os.scandir(self._root / folder) as entries:
                    names = {entry.name for entry in entries if entry.is_file()}
            except OSError:
                names = set()
            self._names[folder] = names
        return name in names


class CocoDataset(IndexedDataset):
    """A data set whose list of pictures may be ahead of a download that is still going on.

    Pictures that are missing are left out under `PICTURE_MISSING`, by their path relative to the root. When
    one of those named in the report has arrived, the index is made anew.
    """

    def _open(self) -> Index:
        index = super()._open()
        named = index.report.examples.get(PICTURE_MISSING, ())
        if any((self.root / name).is_file() for name in named):
            shutil.rmtree(index_folder(self.NAME, self.split, self.root, self.options), ignore_errors=True)
            index = super()._open()
        return index


def folders_of(images: Path) -> list[Path]:
    """A folder of pictures and the folders in it, whose times tell of pictures that came or went."""
    if not images.is_dir():
        return [images]
    with os.scandir(images) as entries:
        return [images, *sorted(Path(entry.path) for entry in entries if entry.is_dir())]

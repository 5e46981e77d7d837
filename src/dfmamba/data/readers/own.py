"""Own data: a folder with pictures and one JSON file a split, as docs/train/own_data.md says.

`dfmamba.data.own_format` writes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.own_format import FORMAT, SPLITS, UNITS_MM, VERSION, files_digest
from dfmamba.data.sample import load_depth_png
from dfmamba.hands.camera import Camera, to_25d
from dfmamba.hands.skeleton import HAND_NAMES, JOINT_NAMES, NUM_JOINTS, WRIST
from dfmamba.io.images import SUFFIXES, load_image
from dfmamba.io.untrusted import numbers, read_json
from dfmamba.text import quote

_HEADER = ("format", "version", "units", "joint_names", "samples")
_OPTIONAL = ("depth_unit_mm", "teacher")
_ENTRY = ("id", "picture", "depth", "size", "camera", "box", "hands")
_HAND = ("side", "joints_cam", "joints_2d_px", "depth_px", "valid", "visible", "disagreement")
_LARGEST_SIZE = 100_000


class OwnData(IndexedDataset):
    """A split of a folder in the own format.

    A file that breaks the format (unknown or missing keys, wrong types, unknown joint names or units) is
    refused as a whole; entries with unusable values are left out and counted.

    Args:
        root: the folder with `<split>.json`.
        split: "train", "val" or "test".
        labels: another file of labels than `<split>.json`; its paths are relative to `root` as well.
        disagreement: of labels by a teacher (`dfmamba data label`), the largest disagreement to use.

    Raises:
        OSError, ValueError: see `IndexedDataset`.
    """

    NAME = "own data"
    SPLITS = SPLITS

    def __init__(
        self, root: str | Path, split: str, labels: str | Path = "", disagreement: float | str = math.inf
    ) -> None:
        options = {"labels": str(labels), "disagreement": float(disagreement)}
        super().__init__(root, split, **{k: v for k, v in options.items() if v not in ("", math.inf)})

    def sources(self) -> list[Path]:
        """The split's JSON file."""
        return [Path(self.options.get("labels") or self.root / f"{self.split}.json")]

    def rows(self, report: Report) -> Iterator[Row]:
        """The entries of the file, in its order."""
        path = self.sources()[0]
        content = read_file(path)
        for i, entry in enumerate(content.samples):
            where = f"{path}: sample {i}"
            check_entry(entry, where, content)
            name = entry.get("id") or entry.get("picture") or entry["depth"]
            with np.errstate(all="ignore"):
                row = self._row(entry, content)
            if isinstance(row, str):
                report.leave_out(name, row)
            else:
                yield Row(id=name, extra=(content.depth_unit_mm,), **row)

    def open_depth(self, row: Row) -> np.ndarray:
        """See `IndexedDataset.open_depth`."""
        path = self.root / row.depth
        depth = load_depth_png(path, row.extra[0])
        if depth.shape[::-1] != row.size:
            raise ValueError(
                f"{path}: {depth.shape[1]} x {depth.shape[0]} pixels; "
                f"the labels say {row.size[0]} x {row.size[1]}"
            )
        return depth

    def _row(self, entry: Mapping[str, Any], content: Content) -> dict[str, Any] | str:
        """Fields of a row, or why there is none."""
        files = {key: entry.get(key) or "" for key in ("picture", "depth")}
        for key, what in (("picture", "picture"), ("depth", "depth map")):
            if files[key]:
                bytes_ = _size_of(self.root / files[key])
                if not bytes_:
                    return f"the {what} is {'missing' if bytes_ is None else 'empty'}"
        size = entry.get("size") or self._measure(files, content)
        if isinstance(size, str):
            return size
        camera = entry.get("camera")
        if camera is not None:
            try:
                camera = Camera(*camera)
            except (TypeError, ValueError, OverflowError):
                return "the camera is not four usable numbers: wrong intrinsics"
        box = entry.get("box")
        if box is not None:
            box = numbers(box)
            if box is None:
                return "the box is not four finite numbers"
        most = self.options.get("disagreement", math.inf)
        for hand in entry["hands"]:
            off = hand.get("disagreement")
            if off is not None and not (_is_number(off) and off >= 0):
                return "disagreement is not a number from 0 on"
            if off is not None and off > most:
                return f"the teacher's disagreement is above {most:g}"
        hands = _read_hands(entry["hands"], camera, content)
        if isinstance(hands, str):
            return hands
        return {**files, **hands, "size": tuple(size), "camera": camera, "box_xyxy": box}

    def _measure(self, files: Mapping[str, str], content: Content) -> tuple[int, int] | str:
        """Width and height, from the picture itself."""
        try:
            if files["picture"]:
                shape = load_image(self.root / files["picture"]).shape
            else:
                shape = load_depth_png(self.root / files["depth"], content.depth_unit_mm).shape
        except (OSError, ValueError):
            return "the picture or depth map is damaged"
        return shape[1], shape[0]

    def key(self) -> Mapping[str, Any]:
        folders = sorted(Path(folder) for folder, _, _ in os.walk(self.root))
        pictures = files_digest(folders, lambda name: Path(name).suffix.lower() in SUFFIXES)
        return {**super().key(), "pictures": pictures}


@dataclass(frozen=True)
class Content:
    """A file of the own format, its header checked.

    Attributes:
        samples: the entries, not checked.
        joints: position of each of the file's joints in `JOINT_NAMES`.
        unit_mm: of its lengths.
        depth_unit_mm: mm a step of its depth maps; nan where not declared.
    """

    samples: list[Any]
    joints: list[int]
    unit_mm: float
    depth_unit_mm: float


def read_file(path: Path) -> Content:
    """Reads a file of the own format and checks its header.

    Raises:
        OSError: it can't be read.
        ValueError: it is no JSON or breaks the format; the message names it.
    """
    return parse_file(read_json(path), str(path))


def parse_file(content: Any, path: str) -> Content:
    """As `read_file`, of what the file holds; `path` starts the messages."""
    _check_keys(content, _HEADER, _OPTIONAL, path)
    if content["format"] != FORMAT or content["version"] != VERSION:
        raise ValueError(
            f"{path}: format {quote(content['format'])}, version {quote(content['version'])}; "
            f"expected {FORMAT!r}, {VERSION}"
        )
    units, names, unit = content["units"], content["joint_names"], content.get("depth_unit_mm")
    if not isinstance(units, str) or units not in UNITS_MM:
        raise ValueError(f"{path}: units are {quote(units)}; expected one of {', '.join(UNITS_MM)}")
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: joint_names is {_kind(names)}; expected a list of names")
    for name in names:
        if name not in JOINT_NAMES or names.count(name) > 1:
            raise ValueError(
                f"{path}: joint_names has {quote(name)}, which is unknown or twice there; "
                f"known: {', '.join(JOINT_NAMES)}"
            )
    if unit is not None and not (_is_number(unit) and 0 < unit < 1e4):
        raise ValueError(f"{path}: depth_unit_mm is {quote(unit)}; expected mm a step, above 0")
    if not isinstance(content["samples"], list):
        raise ValueError(f"{path}: samples is {_kind(content['samples'])}; expected a list")
    return Content(
        samples=content["samples"],
        joints=[JOINT_NAMES.index(name) for name in names],
        unit_mm=UNITS_MM[units],
        depth_unit_mm=math.nan if unit is None else float(unit),
    )


def check_entry(entry: Any, where: str, content: Content) -> None:
    """Checks keys and types of an entry, not its values.

    Args:
        entry: of `samples`.
        where: file and entry, for the messages.
        content: its file.

    Raises:
        ValueError: the entry breaks the format.
    """
    _check_keys(entry, ("hands",), _ENTRY, where)
    for key in ("id", "picture", "depth"):
        value = entry.get(key)
        if value is None and key in entry and key != "id":
            continue
        if key in entry and not (isinstance(value, str) and value and _encodable(value)):
            raise ValueError(f"{where}: {key} is {_kind(value)}; expected a text that is not empty")
        if key != "id" and value is not None and not _is_inside(value):
            raise ValueError(f"{where}: {key} is {quote(value)}; expected a path inside of the folder")
    if not entry.get("picture") and not entry.get("depth"):
        raise ValueError(f"{where} has neither picture nor depth; expected at least one of them")
    if entry.get("depth") and math.isnan(content.depth_unit_mm):
        raise ValueError(f"{where} has depth, but the file has no depth_unit_mm; add it")
    size = entry.get("size")
    if size is not None and not _is_size(size):
        raise ValueError(f"{where}: size is {quote(size)}; expected [width, height] in pixels")
    for key, length in (("camera", 4), ("box", 4)):
        value = entry.get(key)
        if value is not None and not (isinstance(value, list) and len(value) == length):
            raise ValueError(f"{where}: {key} is {_kind(value)}; expected a list of {length} numbers or null")
    if not isinstance(entry["hands"], list):
        raise ValueError(f"{where}: hands is {_kind(entry['hands'])}; expected a list")
    for hand in entry["hands"]:
        _check_keys(hand, ("side",), _HAND, f"{where}, a hand")
        if hand["side"] not in HAND_NAMES:
            raise ValueError(f"{where}: side is {quote(hand['side'])}; expected right or left")


def _read_hands(hands: list[Any], camera: Camera | None, content: Content) -> dict[str, Any] | str:
    """The labels of both hands as fields of a row, or why they can't be used."""
    shape = (2, NUM_JOINTS)
    joints, pixels = np.zeros((*shape, 3)), np.zeros((*shape, 2))
    depth = None if all(hand.get("joints_cam") is not None for hand in hands) else np.full(shape, np.nan)
    valid, visible, present = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(2, bool)
    seen = any(hand.get("visible") is not None for hand in hands)
    for hand in hands:
        side, count = HAND_NAMES.index(hand["side"]), len(content.joints)
        if present[side]:
            return "two hands of one side"
        present[side] = True
        if hand.get("joints_cam") is not None:
            given = numbers(hand["joints_cam"])
            if given is None or given.shape != (count, 3):
                return "joints_cam is not three numbers for each of the joint names"
            joints[side, content.joints] = given * content.unit_mm
            if depth is not None and camera is not None and WRIST in content.joints:
                depth[side] = to_25d(joints[side], camera)[:, 2]
        elif hand.get("joints_2d_px") is None:
            return "neither joints_cam nor joints_2d_px"
        elif hand.get("depth_px") is not None:
            assert depth is not None
            given = hand["depth_px"]
            given = numbers([np.nan if d is None else d for d in given]) if isinstance(given, list) else None
            if given is None or given.shape != (count,):
                return "depth_px is not a number or null for each of the joint names"
            depth[side, content.joints] = given
        if hand.get("joints_2d_px") is not None:
            given = numbers(hand["joints_2d_px"])
            if given is None or given.shape != (count, 2):
                return "joints_2d_px is not two numbers for each of the joint names"
            pixels[side, content.joints] = given
        elif camera is None:
            return "neither joints_2d_px nor a camera"
        else:
            pixels[side] = camera.project(joints[side])
        for key, target in (("valid", valid), ("visible", visible)):
            flags = np.ones(count, bool)
            if hand.get(key) is not None:
                flags = np.array(hand[key], object)
                if flags.shape != (count,) or not all(isinstance(flag, bool) for flag in flags):
                    return f"{key} is not true or false for each of the joint names"
            target[side, content.joints] = flags.astype(bool)
    return {
        "joints_cam_mm": joints,
        "joints_2d_px": pixels,
        "depth_px": depth,
        "valid": valid,
        "visible": visible if seen else None,
        "present": present,
    }


def _check_keys(value: Any, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: is {_kind(value)}; expected an object")
    for key in required:
        if key not in value:
            raise ValueError(f"{where}: lacks {key!r}")
    for key in value:
        if key not in required and key not in optional:
            known = ", ".join(dict.fromkeys((*required, *optional)))
            raise ValueError(f"{where}: unknown key {quote(key)}; known: {known}")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(side, int) and 0 < side <= _LARGEST_SIZE for side in value)
    )


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return not (parts.is_absolute() or ".." in parts.parts or "\0" in path or Path(path).is_absolute())


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _size_of(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None

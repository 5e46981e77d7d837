"""Reader of InterHand2.6M (Moon et al., ECCV 2020), versions 1.0 and 0.0, 5 and 30 frames a second.

Layout of version 1.0, in the root or in its folder `InterHand2.6M_{5,30}fps_batch1`:

    images/{train,val,test}/Capture{N}/{sequence}/cam{camera}/image{frame}.jpg
    annotations/{split}/InterHand2.6M_{split}_{data,camera,joint_3d}.json
    annotations/{split}/aid_{human,machine}_annot_{split}.txt

The lists of ids are a download of their own and may also lie in `annotations` or in the root; without them
it isn't known who made an annotation. Version 0.0 has `annotations/{all,human_annot,machine_annot}` instead
of `annotations/{split}`, and about half of the pictures: figures of the two can't be compared.

Joints in the camera are R (world - position), in mm; there is no distortion.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dfmamba.data.index import Report, Row
from dfmamba.data.readers.coco import (
    PICTURE_MISSING,
    CocoDataset,
    Frame,
    Label,
    Picture,
    PictureFolders,
    folders_of,
    is_id,
    is_rotation,
    picture_of,
    pinhole,
    read_ids,
    read_json,
    read_lists,
    shrink_frame,
)
from dfmamba.hands.camera import Camera
from dfmamba.io.untrusted import numbers

ANNOTATIONS = ("all", "human", "machine")
HAND_TYPES: dict[str, tuple[bool, bool]] = {
    "right": (True, False),
    "left": (False, True),
    "interacting": (True, True),
}
"""Hand type of the source -> which hands are there, right and left."""


class _View(NamedTuple):
    rotation: np.ndarray
    position_mm: np.ndarray
    camera: Camera


class InterHand26M(CocoDataset):
    """InterHand2.6M, one sample a picture, in the order of the annotations.

    A joint is valid where the annotation says so (annotated and inside of the picture) and its 3D point was
    found. The rule of InterNet and A2J-Transformer, that a hand without a valid wrist has no valid joint, is
    not applied here. The box is the annotated one: x, y, width, height in the same pixel coordinates as the
    joints become x, y, x + width, y + height (it is 1.2 times the tight box of the joints about its centre).
    Intrinsics are taken as they are; the source doesn't say where in a pixel integers lie. Pictures without
    any valid joint are left out; they count in no figure of the official evaluation.

    The official evaluation takes all samples of one hand before all of two; that order changes no figure.
    Choose by the hand type in `extra`. A group is a capture's sequence.

    Args:
        root: the folder with `images` and `annotations`, or with `InterHand2.6M_{fps}fps_batch1`.
        split: "train", "val" or "test".
        fps: 5 or 30, the variant of the copy; their ids differ.
        annotations: "all", or those that people ("human") or a machine made; some are of both.
        version: "1.0" or "0.0"; None looks which of their folders is there.

    Raises:
        OSError: a folder or file is missing or unreadable.
        ValueError: a file is damaged or belongs to another variant, or an argument is unknown.
    """

    NAME = "InterHand2.6M"
    SPLITS = ("train", "val", "test")
    EXTRA = ("hand_type", "hand_type_valid", "human", "machine", "annotation_id")
    """What `Row.extra` holds: 0 right, 1 left, 2 interacting; 1 if that is sure; who made the annotation (nan
    where no list says so); the annotation's id, by which files of boxes and root depths name it."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        fps: int = 5,
        annotations: str = "all",
        version: str | None = None,
    ) -> None:
        if fps not in (5, 30):
            raise ValueError(f"{self.NAME}: fps is {fps!r}; expected 5 or 30")
        if annotations not in ANNOTATIONS:
            raise ValueError(
                f"{self.NAME}: annotations is {annotations!r}; expected one of {', '.join(ANNOTATIONS)}"
            )
        if version not in (None, "1.0", "0.0"):
            raise ValueError(f"{self.NAME}: version is {version!r}; expected '1.0', '0.0' or None")
        named = re.search(r"_(5|30)fps", Path(root).resolve().name)
        if named and int(named[1]) != fps:
            raise ValueError(f"{root}: a copy at {named[1]} frames a second; pass fps={named[1]}")
        self.fps, self.annotations = fps, annotations
        self._labels_in = self._find(Path(root), "annotations")
        self._images = self._find(Path(root), "images") / split
        if version is None:
            old = not (self._labels_in / split).is_dir() and any(
                (self._labels_in / name).is_dir() for name in ("all", "human_annot", "machine_annot")
            )
            version = "0.0" if old else "1.0"
        self.version = version
        super().__init__(root, split, fps=fps, annotations=annotations, version=version)

    def _find(self, root: Path, name: str) -> Path:
        batch = root / f"InterHand2.6M_{self.fps}fps_batch1" / name
        return batch if batch.is_dir() else root / name

    def _file(self, content: str) -> Path:
        """One of the official JSON files."""
        name = f"InterHand2.6M_{self.split}_{content}.json"
        if self.version == "1.0":
            return self._labels_in / self.split / name
        folder = "all" if self.annotations == "all" else f"{self.annotations}_annot"
        if folder == "all" and self.split == "val":
            folder = "machine_annot"  # nobody else annotated it, and "all" has no files of it
        return self._labels_in / folder / name

    def _id_list(self, maker: str) -> Path | None:
        """The list of the annotations that people or a machine made, if there is one."""
        name = f"aid_{maker}_annot_{self.split}.txt"
        for folder in (self._labels_in / self.split, self._labels_in, self.root):
            if (folder / name).is_file():
                return folder / name
        return None

    def sources(self) -> list[Path]:
        files = [self._file(content) for content in ("data", "camera", "joint_3d")]
        if self.version == "1.0":
            found = {maker: self._id_list(maker) for maker in ("human", "machine")}
            if self.annotations != "all" and found[self.annotations] is None:
                missing = self._labels_in / self.split / f"aid_{self.annotations}_annot_{self.split}.txt"
                raise OSError(
                    f"{missing}: missing; version 1.0 marks {self.annotations} annotations by this list of "
                    "ids alone. It is a download of its own; without it choose annotations='all'"
                )
            files += [path for path in found.values() if path is not None]
        return [*files, *folders_of(self._images)]

    def rows(self, report: Report) -> Iterator[Row]:
        data = self._file("data")
        pictures, labels = read_lists(data)
        cameras = read_json(self._file("camera"))
        joints = read_json(self._file("joint_3d"), shrink_frame)
        makers = self._makers(labels, data)
        chosen = makers.get(self.annotations) if self.version == "1.0" else None
        views: dict[tuple[str, str], _View | str] = {}
        folders = PictureFolders(self.root)
        prefix = self._images.relative_to(self.root).as_posix()
        for label in labels:
            picture = picture_of(label, pictures)
            if chosen is not None and isinstance(label, Label) and is_id(label.id) and label.id not in chosen:
                continue
            if isinstance(picture, str):
                report.leave_out(f"annotation {getattr(label, 'id', '?')}", picture)
                continue
            name = f"{prefix}/{picture.file_name}"
            at = str(picture.capture), str(picture.camera)
            if at not in views:
                views[at] = _view(cameras, *at)
            made = tuple(math.nan if ids is None else float(label.id in ids) for ids in makers.values())
            row = _row(label, picture, views[at], _frame(joints, at[0], str(picture.frame_idx)), name, made)
            if isinstance(row, Row) and name not in folders:
                row = PICTURE_MISSING
            if isinstance(row, Row):
                yield row
            else:
                report.leave_out(name, row)

    def _makers(self, labels: list[Any], data: Path) -> dict[str, frozenset[int] | None]:
        """Ids of the annotations that people and a machine made, None where it isn't known."""
        known = frozenset(label.id for label in labels if isinstance(label, Label) and is_id(label.id))
        if self.version == "0.0":
            return {maker: known if maker == self.annotations else None for maker in ("human", "machine")}
        makers: dict[str, frozenset[int] | None] = {}
        for maker in ("human", "machine"):
            path = self._id_list(maker)
            makers[maker] = None
            if path is None:
                continue
            lines = read_ids(path)
            wrong = next((line for line in lines if not line.isdecimal() or len(line) > 15), None)
            if wrong is not None:
                raise ValueError(f"{path}: {wrong[:40]!r} is no id of an annotation; expected one a line")
            ids = frozenset(map(int, lines))
            if not ids <= known:
                raise ValueError(
                    f"{path}: id {min(ids - known)} is not in {data}; the two are of different versions or "
                    "frame rates, or one is damaged. Get the list that belongs to it, or remove this one"
                )
            makers[maker] = ids
        return makers


def _view(cameras: dict[str, Any], capture: str, name: str) -> _View | str:
    """A camera of a capture, or what is wrong with it."""
    entry = cameras.get(capture)
    if not isinstance(entry, dict):
        return "capture missing in the camera file"
    parts = [entry.get(key) for key in ("camrot", "campos", "focal", "princpt")]
    values = [part.get(name) if isinstance(part, dict) else None for part in parts]
    if any(value is None for value in values):
        return "camera missing in the camera file"
    rotation, position = numbers(values[0], (3, 3)), numbers(values[1], (3,))
    camera = pinhole(values[2], values[3])
    if rotation is None or position is None or camera is None or not is_rotation(rotation):
        return "wrong intrinsics or pose in the camera file"
    return _View(rotation, position, camera)


def _frame(joints: dict[str, Any], capture: str, frame: str) -> Frame | str:
    """The joints of a moment, or what is wrong with them."""
    frames = joints.get(capture)
    if not isinstance(frames, dict):
        return "capture missing in the joint file"
    if frame not in frames:
        return "frame missing in the joint file"
    found = frames[frame]
    return found if isinstance(found, Frame) else "wrong number of joints in the joint file"


def _row(
    label: Label, picture: Picture, view: _View | str, frame: Frame | str, name: str, made: tuple[float, ...]
) -> Row | str:
    """The labels of a picture, or why there are none."""
    if isinstance(view, str):
        return view
    if isinstance(frame, str):
        return frame
    present = HAND_TYPES.get(label.hand_type) if isinstance(label.hand_type, str) else None
    if present is None:
        return "hand_type is neither right, left nor interacting"
    box = numbers(label.bbox, (4,))
    if box is None:
        return "the box is not four numbers"
    with np.errstate(all="ignore"):
        box[2:] += box[:2]
        joints_cam = (frame.world - view.position_mm) @ view.rotation.T
    assert label.valid is not None
    kind, sure = list(HAND_TYPES).index(label.hand_type), label.hand_type_valid in (1, True)
    return Row(
        id=picture.file_name,
        picture=name,
        joints_cam_mm=joints_cam,
        valid=label.valid & frame.valid,
        camera=view.camera,
        size=(picture.width, picture.height),
        box_xyxy=box,
        present=np.array(present),
        group=f"Capture{picture.capture}/{picture.seq_name}",
        extra=(float(kind), float(sure), *made, float(label.id)),
    )

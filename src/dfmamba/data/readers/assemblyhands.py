"""Reader of the egocentric pictures of AssemblyHands (Ohkawa et al., CVPR 2023), annotations v1-1.

Layout:

    images/ego_images_rectified/{split}/{sequence}/HMC_{id}_mono10bit/{frame:06d}.jpg
    annotations/{split}/assemblyhands_{split}_ego_{data,calib}_v1-1.json
    annotations/{split}/assemblyhands_{split}_joint_3d_v1-1.json
    annotations/{split}/invalid_{split}_ego.txt

The last one is written by the authors' toolkit; it may be absent. Pictures are monochrome and rectified, so
that their cameras are pinholes. Joints in the camera are R world + t in mm; [R | t] is of each frame, as the
headset moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    is_rotation,
    part,
    picture_of,
    pinhole,
    read_ids,
    read_json,
    read_lists,
    shrink_frame,
)
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import HAND_NAMES
from dfmamba.io.untrusted import numbers

MIN_JOINTS = 10
"""Hands with fewer valid joints are left out, as by the authors' toolkit."""


class AssemblyHands(CocoDataset):
    """The egocentric pictures of AssemblyHands, one sample for each hand that has a box, right before left.

    A sample has the joints and the box of its own hand only; the other one is absent from it, also where the
    picture shows it. The box is the annotated one, x0, y0, x1, y1; the toolkit crops 1.75 times its longer
    side. A joint is valid where the annotation says so (it is seen from this camera) and its 3D point exists.
    Left out are hands with fewer than 10 valid joints, and those that the toolkit's list of invalid crops
    names. An id is the picture and the hand, "FILE,0" for the right, as in that list; a group is a sequence.

    Args:
        root: the folder with `images` and `annotations`.
        split: "train", "val" or "test"; labels of the last one were not published.
        version: of the annotation files, as in their names.

    Raises:
        OSError: a folder or file is missing or unreadable.
        ValueError: a file is damaged, or the version is none.
    """

    NAME = "AssemblyHands"
    SPLITS = ("train", "val", "test")
    EXTRA = ("hand", "annotation_id")
    """What `Row.extra` holds: 0 right, 1 left; the id of the annotation, which two hands may share."""

    def __init__(self, root: str | Path, split: str, version: str = "v1-1") -> None:
        if not isinstance(version, str) or not re.fullmatch(r"v\d+-\d+", version):
            raise ValueError(f"{self.NAME}: version is {version!r}; expected one such as 'v1-1'")
        self.version = version
        super().__init__(root, split, version=version)

    def _file(self, content: str) -> Path:
        folder = self.root / "annotations" / self.split
        return folder / f"assemblyhands_{self.split}_{content}_{self.version}.json"

    @property
    def _invalid(self) -> Path:
        return self.root / "annotations" / self.split / f"invalid_{self.split}_ego.txt"

    def sources(self) -> list[Path]:
        files = [self._file(content) for content in ("ego_data", "ego_calib", "joint_3d")]
        files += [self._invalid] if self._invalid.is_file() else []
        return [*files, *folders_of(self.root / "images" / "ego_images_rectified" / self.split)]

    def rows(self, report: Report) -> Iterator[Row]:
        calib, joint_file = self._file("ego_calib"), self._file("joint_3d")
        pictures, labels = read_lists(self._file("ego_data"))
        cameras = part(read_json(calib), "calibration", dict, calib)
        joints = part(read_json(joint_file, shrink_frame), "annotations", dict, joint_file)
        invalid = frozenset(read_ids(self._invalid)) if self._invalid.is_file() else frozenset()
        folders = PictureFolders(self.root)
        for label in labels:
            picture = picture_of(label, pictures)
            if isinstance(picture, str):
                report.leave_out(f"annotation {getattr(label, 'id', '?')}", picture)
                continue
            name = f"images/{picture.file_name}"
            boxes = label.bbox
            if not isinstance(boxes, dict) or all(boxes.get(hand) is None for hand in HAND_NAMES):
                report.leave_out(name, "no hand has a box")
                continue
            found = _labels(label, picture, cameras, joints)
            for hand, side in enumerate(HAND_NAMES):
                if boxes.get(side) is None:
                    continue
                crop = f"{picture.file_name},{hand}"
                row = found if isinstance(found, str) else _of_hand(found, hand, boxes[side], label, name)
                if crop in invalid:
                    row = "listed as invalid by the toolkit"
                elif isinstance(row, Row) and name not in folders:
                    row = PICTURE_MISSING
                if isinstance(row, Row):
                    yield row
                else:
                    report.leave_out(name if row == PICTURE_MISSING else crop, row)


def _labels(
    label: Label, picture: Picture, cameras: dict[str, Any], joints: dict[str, Any]
) -> tuple[Picture, np.ndarray, np.ndarray, Camera] | str:
    """Picture, joints (2, 21, 3) in the camera, their validity, and the camera; or what is wrong."""
    if type(picture.frame_idx) is not int:
        return "frame_idx is not a whole number"
    moment, lens = f"{picture.frame_idx:06d}", f"{picture.camera}_mono10bit"
    calibration = cameras.get(picture.seq_name)
    if not isinstance(calibration, dict):
        return "sequence missing in the calibration file"
    inner = _get(calibration, "intrinsics", lens)
    if inner is None:
        return "camera missing in the calibration file"
    outer = _get(calibration, "extrinsics", moment, lens)
    if outer is None:
        return "frame missing in the calibration file"
    matrix, pose = numbers(inner, (3, 3)), numbers(outer, (3, 4))
    if matrix is None or pose is None or not is_rotation(pose[:, :3]):
        return "wrong intrinsics or pose in the calibration file"
    camera = pinhole(matrix[[0, 1], [0, 1]].tolist(), matrix[:2, 2].tolist())
    if camera is None or not np.allclose(matrix, camera.matrix, atol=1e-3):
        return "wrong intrinsics or pose in the calibration file"
    frames = joints.get(picture.seq_name)
    if not isinstance(frames, dict):
        return "sequence missing in the joint file"
    if moment not in frames:
        return "frame missing in the joint file"
    frame = frames[moment]
    if not isinstance(frame, Frame):
        return "wrong number of joints in the joint file"
    with np.errstate(all="ignore"):
        joints_cam = frame.world @ pose[:, :3].T + pose[:, 3]
    assert label.valid is not None
    return picture, joints_cam, label.valid & frame.valid, camera


def _of_hand(
    found: tuple[Picture, np.ndarray, np.ndarray, Camera], hand: int, box: Any, label: Label, name: str
) -> Row | str:
    """The labels of one hand, or why there are none."""
    picture, joints_cam, seen, camera = found
    corners = numbers(box, (4,))
    if corners is None:
        return "the box is not four numbers"
    valid = seen & (np.arange(2) == hand)[:, None]
    if valid.sum() < MIN_JOINTS:
        return f"fewer than {MIN_JOINTS} valid joints"
    return Row(
        id=f"{picture.file_name},{hand}",
        picture=name,
        joints_cam_mm=joints_cam,
        valid=valid,
        camera=camera,
        size=(picture.width, picture.height),
        box_xyxy=corners,
        group=picture.seq_name,
        extra=(float(hand), float(label.id)),
    )


def _get(entry: Any, *keys: str) -> Any:
    """What lies under these keys, one in the other; None where one is missing."""
    for key in keys:
        entry = entry.get(key) if isinstance(entry, dict) else None
    return entry

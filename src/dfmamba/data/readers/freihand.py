"""Reader of FreiHAND: right hands, 224 x 224 pixels, in OpenPose order.

Layout (lmb-freiburg/freihand, version 2):

    training/rgb/%08d.jpg        130,240 pictures: 32,560 poses in four versions
    evaluation/rgb/%08d.jpg      3,960 pictures
    {training,evaluation}_K.json      per pose 3 x 3
    {training,evaluation}_xyz.json    per pose 21 x 3, metres, camera frame

Picture n of N poses shows pose n modulo N: first all poses before the green screen ("gs"), then three times
with another background ("hom", "sample", "auto"). The labels of the evaluation set were released later, in an
archive of their own. Masks, mesh parameters (`*_mano.json`), meshes and scales are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import LARGEST, IndexedDataset
from dfmamba.data.sample import RIGHT
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import convert_joints
from dfmamba.io.untrusted import numbers, read_json

FOLDER = "FreiHAND_pub_v2"
SIZE = (224, 224)
"""Width and height of every picture."""

VERSIONS = ("gs", "hom", "sample", "auto")
"""The backgrounds of the training pictures, in the order of their numbers."""


class FreiHAND(IndexedDataset):
    """FreiHAND as a sequence of `HandSample`, in the order of the pictures' numbers.

    The box is that of the joints; `visible` says only that a joint lies inside of the picture. Intrinsics are
    taken as they are: the data set does not say whether it counts pixel centres or corners.

    Args:
        root: the folder `FreiHAND_pub_v2`, or the one that holds it.
        split: "training" or "evaluation".
        versions: which backgrounds of the training split: "all" or one of `VERSIONS`. The evaluation split
            has one version.

    Raises:
        OSError, ValueError: see `IndexedDataset`; ValueError also for unknown `versions`.
    """

    NAME = "freihand"
    SPLITS = ("training", "evaluation")

    def __init__(self, root: str | Path, split: str = "training", versions: str = "all") -> None:
        if versions not in ("all", *VERSIONS):
            raise ValueError(
                f"{self.NAME}: versions is {versions!r}; expected all or one of {', '.join(VERSIONS)}"
            )
        inner = Path(root) / FOLDER
        super().__init__(inner if inner.is_dir() else root, split, versions=versions)

    def sources(self) -> list[Path]:
        matrices, xyz = (self.root / f"{self.split}_{name}.json" for name in ("K", "xyz"))
        if self.split == "evaluation" and matrices.exists() and not xyz.exists():
            raise OSError(
                f"{xyz}: missing; the labels of FreiHAND's evaluation set are a separate download: "
                "unpack it into this folder"
            )
        return [xyz, matrices, self.root / self.split / "rgb"]

    def rows(self, report: Report) -> Iterator[Row]:
        xyz_file, matrix_file, folder = self.sources()
        poses, matrices = _read_list(xyz_file), _read_list(matrix_file)
        if len(poses) != len(matrices):
            raise ValueError(
                f"{xyz_file}: {len(poses)} poses, but {len(matrices)} in {matrix_file.name}; expected as many"
            )
        versions = VERSIONS if self.split == "training" else VERSIONS[:1]
        files = {file.name for file in folder.iterdir() if file.is_file() and file.stat().st_size}
        total = len(poses) * len(versions)
        beyond = sum(file[:-4].isdecimal() and int(file[:-4]) >= total for file in files)
        if beyond:
            raise ValueError(
                f"{folder}: {beyond} pictures are numbered {total} or more, but {xyz_file.name} has "
                f"{len(poses)} poses: pictures and labels don't belong together"
            )
        for at, version in enumerate(versions):
            if self.split == "training" and self.options["versions"] not in ("all", version):
                continue
            for i, (pose, matrix) in enumerate(zip(poses, matrices, strict=True)):
                picture = f"{self.split}/rgb/{picture_number(i, at, len(poses)):08d}.jpg"
                row = _row(picture, version if self.split == "training" else "", pose, matrix)
                if picture.rpartition("/")[2] not in files:
                    report.leave_out(picture, "picture missing")
                elif isinstance(row, str):
                    report.leave_out(picture, row)
                else:
                    yield row


def picture_number(pose: int, version: int, poses: int) -> int:
    """Number of the picture of a pose in a version (index into `VERSIONS`), of so many poses."""
    return pose + version * poses


def _row(picture: str, version: str, pose: Any, matrix: Any) -> Row | str:
    """The row of one picture, or what is wrong with its labels."""
    xyz, intrinsics = numbers(pose), numbers(matrix)
    if xyz is None or xyz.shape != (21, 3):
        return "xyz is not 21 x 3 numbers"
    if intrinsics is None or not intrinsics.size or not np.abs(intrinsics).max() < LARGEST:
        return "K is not the matrix of a pinhole camera"
    try:
        camera = Camera.from_matrix(intrinsics)
    except ValueError:
        return "K is not the matrix of a pinhole camera"
    joints = np.zeros((2, 21, 3))
    with np.errstate(all="ignore"):
        joints[RIGHT] = convert_joints(xyz, "freihand", "openpose") * 1000.0
        pixels = camera.project(joints[RIGHT])
    inside = ((pixels >= -0.5) & (pixels <= np.array(SIZE) - 0.5)).all(-1)
    if np.isfinite(xyz).all() and (xyz[:, 2] > 0).all() and inside.mean() < 0.5:
        return "most joints lie outside of the picture: wrong intrinsics"
    valid = np.zeros((2, 21), bool)
    valid[RIGHT] = True
    return Row(
        id=picture,
        picture=picture,
        joints_cam_mm=joints,
        valid=valid,
        camera=camera,
        size=SIZE,
        group=version,
    )


def _read_list(path: Path) -> list[Any]:
    """A JSON file that holds a list, as long as the split has poses."""
    values = read_json(path)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: expected a list with an entry per pose")
    return values

"""NYU Hand Pose (Tompson et al., ACM Transactions on Graphics 2014): depth maps of one hand.

Official layout:

    {train,test}/depth_{k}_%07d.png         camera k = 1, 2, 3; 640 x 480; mm = 256 G + B
    {train,test}/synthdepth_{k}_%07d.png    the fitted model, rendered; likewise
    {train,test}/rgb_{k}_%07d.png           another camera, not registered to the depth: not read
    {train,test}/joint_data.mat             joint_names (36), joint_uvd and joint_xyz (3, N, 36, 3)

Samples hold the 14 joints that are evaluated, in the order "nyu14", as hand 0 (right): the pictures are
mirrored, and what they show has the shape of a right hand. The published figures use camera 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.sample import RIGHT, HandSample
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import joint_order
from dfmamba.io.images import load_image
from dfmamba.io.joint_files import read_joint_file
from dfmamba.io.mat_file import read_mat
from dfmamba.metrics.depth_benchmarks import DEPTH_BENCHMARKS

SIZE = (640, 480)
"""Width and height of all pictures."""

CAMERAS = (1, 2, 3)
LABELS = "joint_data.mat"
ALL_JOINTS = joint_order("nyu").labels
SECOND_TEST_SUBJECT = 2440
"""The first test frame of the second person, whose hand is smaller."""

MOST_APART_MM = 5.0
"""joint_xyz may differ from joint_uvd's back-projection by this (median over the joints)."""

_BENCHMARK = DEPTH_BENCHMARKS["nyu"]
CAMERA = Camera(_BENCHMARK.fx, _BENCHMARK.fy, _BENCHMARK.u0, _BENCHMARK.v0)
"""Intrinsics of the depth pictures, those that the published figures are computed with."""


class NyuHands(IndexedDataset):
    """NYU Hand Pose as downloaded; see the module.

    Args:
        root: the folder that holds `train` and `test`.
        split: "train" or "test".
        camera: 1 (frontal, the published protocol), 2 or 3.
        synthetic: read the rendered depth maps instead of the measured ones.
        centres: text file with a hand centre a frame, "x y z" in mm with y up, as several depth methods
            publish them; "{split}" in its name stands for the split. None: the mean of the 14 labelled
            joints.

    Raises:
        OSError: a folder or file is missing.
        ValueError: unknown split or camera, labels that are damaged or incomplete, centres of another number
            of frames.
    """

    NAME = "nyu"
    SPLITS = ("train", "test")
    ORDER = "nyu14"
    KIND = "depth"

    def __init__(
        self,
        root: str | Path,
        split: str,
        camera: int = 1,
        synthetic: bool = False,
        centres: str | Path | None = None,
    ) -> None:
        if camera not in CAMERAS:
            raise ValueError(f"camera is {camera!r}; expected 1, 2 or 3")
        self.camera, self.synthetic = int(camera), bool(synthetic)
        self.centres = None if centres is None else Path(str(centres).replace("{split}", split))
        named = None if centres is None else str(centres)
        super().__init__(root, split, camera=self.camera, synthetic=self.synthetic, centres=named)

    def sources(self) -> list[Path]:
        """`joint_data.mat` and the file of centres."""
        labels = self.root / self.split / LABELS
        return [labels] if self.centres is None else [labels, self.centres]

    def rows(self, report: Report) -> Iterator[Row]:
        """The frames of one camera; see `IndexedDataset.rows`. `extra` is the centre (x, y, z)."""
        path = self.root / self.split / LABELS
        uvd, xyz = read_labels(path, self.camera)
        with np.errstate(all="ignore"):  # values that are not finite are left out by the common checks
            joints = _BENCHMARK.to_mm(uvd)
            centres = self._centres(joints)
            wrong = np.median(np.linalg.norm(joints - xyz, axis=-1), axis=1) > MOST_APART_MM
        prefix = f"{'synthdepth' if self.synthetic else 'depth'}_{self.camera}_"
        with os.scandir(path.parent) as entries:
            there = {entry.name for entry in entries if entry.name.startswith(prefix)}
        for i in range(len(uvd)):
            name = f"{prefix}{i + 1:07d}"
            if f"{name}.png" not in there:
                report.leave_out(f"{self.split}/{name}", "picture missing")
            elif wrong[i]:
                report.leave_out(f"{self.split}/{name}", "joint_xyz and joint_uvd disagree: wrong intrinsics")
            elif self.centres is not None and not centres[i, 2] > 0:
                report.leave_out(f"{self.split}/{name}", "its centre lies behind the camera")
            else:
                yield self._row(i, name, uvd[i], joints[i], centres[i])

    def _row(self, i: int, name: str, uvd: np.ndarray, joints: np.ndarray, centre: np.ndarray) -> Row:
        both = np.zeros((2, len(joints), 3))
        both[RIGHT] = joints
        subject = "" if self.split == "train" else f"subject {1 + (i >= SECOND_TEST_SUBJECT)}"
        return Row(
            id=f"{self.split}/{name}",
            picture="",
            depth=f"{self.split}/{name}.png",
            joints_cam_mm=both,
            joints_2d_px=np.stack([uvd[:, :2], np.zeros_like(uvd[:, :2])]),
            valid=np.repeat([[True], [False]], len(joints), axis=1),
            camera=CAMERA,
            size=SIZE,
            group=subject,
            extra=(float(centre[0]), float(centre[1]), float(centre[2])),
        )

    def _centres(self, joints: np.ndarray) -> np.ndarray:
        """(N, 3) mm, camera frame."""
        if self.centres is None:
            return joints.mean(axis=1)
        centres = read_joint_file(self.centres, 1)[:, 0]
        if len(centres) != len(joints):
            raise ValueError(
                f"{self.centres}: {len(centres)} centres; {self.split} has {len(joints)} labelled frames"
            )
        return centres * (1.0, -1.0, 1.0)

    def open_depth(self, row: Row) -> np.ndarray:
        """(480, 640) float32, mm along z, 0 where nothing was measured; see `IndexedDataset.open_depth`."""
        path = self.root / row.depth
        picture = load_image(path)
        if picture.shape[1::-1] != row.size:
            raise ValueError(
                f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels; "
                f"expected {row.size[0]} x {row.size[1]}"
            )
        return picture[..., 1].astype(np.float32) * 256 + picture[..., 2]

    def labels(self, i: int, pictures: bool = False) -> HandSample:
        """One sample with its centre; see `IndexedDataset.labels`."""
        return super().labels(i, pictures).replace(centre_mm=np.array(self.index[i].extra))


def read_labels(path: Path, camera: int) -> tuple[np.ndarray, np.ndarray]:
    """The 14 evaluated joints of all frames of one camera, chosen by name.

    Args:
        path: a `joint_data.mat`.
        camera: 1, 2 or 3.

    Returns:
        joint_uvd (N, 14, 3): pixels and mm; joint_xyz (N, 14, 3): mm, turned from y up to y down. float64.

    Raises:
        OSError: the file can't be read.
        ValueError: it is damaged, or not of the official shape and names.
    """
    found = read_mat(path, ("joint_names", "joint_uvd", "joint_xyz"))
    named = found["joint_names"]
    names = [str(name).strip() for name in named] if isinstance(named, list) else []
    if sorted(names) != sorted(ALL_JOINTS):
        raise ValueError(
            f"{path}: joint_names are {names[:3]} ... ({len(names)}); "
            f"expected {', '.join(ALL_JOINTS[:3])}, ... ({len(ALL_JOINTS)})"
        )
    chosen = [names.index(label) for label in joint_order("nyu14").labels]
    arrays = []
    for name in ("joint_uvd", "joint_xyz"):
        array = found[name]
        shape: tuple[int, ...] = array.shape if isinstance(array, np.ndarray) else ()
        frames = shape[1] if len(shape) == 4 else 0
        if not frames or shape != (len(CAMERAS), frames, len(ALL_JOINTS), 3):
            raise ValueError(
                f"{path}: {name} has shape {shape}; "
                f"expected numbers ({len(CAMERAS)}, frames, {len(ALL_JOINTS)}, 3)"
            )
        arrays.append(array[camera - 1][:, chosen].astype(np.float64))
    uvd, xyz = arrays
    if len(uvd) != len(xyz):
        raise ValueError(f"{path}: joint_uvd has {len(uvd)} frames, joint_xyz {len(xyz)}; download it again")
    return uvd, xyz * (1.0, -1.0, 1.0)

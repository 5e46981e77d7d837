"""Reader of the Rendered Handpose Dataset (RHD), called RHP in papers on two hands.

Layout (lmb-freiburg/hand3d; each file `%05d.png` has 320 x 320 pixels):

    {training,evaluation}/color/     8-bit RGB
    {training,evaluation}/depth/     RGB, (256 R + G) / 65535 * 5 metres along z
    {training,evaluation}/mask/      0 background, 1 person, 2-17 left hand, 18-33 right hand
    {training,evaluation}/anno_{training,evaluation}.pickle

The pickle maps the number of a picture to `xyz` (42, 3) in metres, camera frame, `uv_vis` (42, 3), pixel and
1 where the joint is seen, and `K` (3, 3). Joints 0-20 are the left hand, 21-41 the right: the wrist, then
each finger from tip to base. The scale of the depth maps is that of the public loaders; no real depth map was
at hand to check it.

Each picture labels two hands but is used for one. The published loader of InterNet and A2J-Transformer reads
a conversion whose rule is not documented; the default here is that of hand3d, see `RenderedHands`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import LARGEST, IndexedDataset
from dfmamba.data.sample import LEFT, RIGHT
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import convert_joints
from dfmamba.io.array_pickle import read_array_pickle
from dfmamba.io.images import load_image

FOLDER = "RHD_published_v2"
SIZE = (320, 320)
"""Width and height of every picture."""

DEPTH_RANGE_MM = 5000.0
"""Depth that the largest value of a depth map stands for."""

LEFT_LABELS, RIGHT_LABELS = (2, 17), (18, 33)
"""First and last label of each hand in a mask."""

HAND_RULES = ("mask", "visible", "both")


class RenderedHands(IndexedDataset):
    """RHD as a sequence of `HandSample`.

    `visible` is the label of the data set; the box is that of all joints of the chosen hand, also of those
    outside of the picture. Pixels and intrinsics are taken as they are: the data set does not say whether it
    counts pixel centres or corners.

    Args:
        root: the folder `RHD_published_v2`, or the one that holds it.
        split: "training" (41,258 pictures) or "evaluation" (2,728).
        hand: which hand counts; the other one is absent, as in the published protocols.
            "mask": the one with more pixels in the mask, the right one where they have as many (hand3d);
            "visible": the one with more joints that are seen, likewise (Minimal-Hand);
            "both": each hand of which a joint is seen.
        depth: also read depth maps.

    Raises:
        OSError, ValueError: see `IndexedDataset`; ValueError also for an unknown `hand`.
    """

    NAME = "rhp"
    SPLITS = ("training", "evaluation")

    def __init__(
        self, root: str | Path, split: str = "training", hand: str = "mask", depth: bool = False
    ) -> None:
        if hand not in HAND_RULES:
            raise ValueError(f"{self.NAME}: hand is {hand!r}; expected one of {', '.join(HAND_RULES)}")
        inner = Path(root) / FOLDER
        super().__init__(inner if inner.is_dir() else root, split, hand=hand, depth=bool(depth))

    @property
    def _used(self) -> list[str]:
        """Folders of the split whose files are needed."""
        needed = {"color": True, "mask": self.options["hand"] == "mask", "depth": self.options["depth"]}
        return [name for name, used in needed.items() if used]

    def sources(self) -> list[Path]:
        folder = self.root / self.split
        return [folder / f"anno_{self.split}.pickle", *(folder / name for name in self._used)]

    def rows(self, report: Report) -> Iterator[Row]:
        path, *folders = self.sources()
        entries = read_array_pickle(path)
        if not isinstance(entries, dict) or not all(type(number) is int for number in entries):
            raise ValueError(f"{path}: expected a dict of entries by the number of their picture")
        files = {
            folder.name: {file.name for file in folder.iterdir() if file.is_file() and file.stat().st_size}
            for folder in folders
        }
        for number in sorted(entries):
            name = f"{number:05d}.png"
            lacks = [folder for folder in self._used if name not in files[folder]]
            if lacks:
                report.leave_out(f"{self.split}/{name}", f"file in {lacks[0]} is missing or empty")
                continue
            row = self._row(number, entries[number])
            if isinstance(row, str):
                report.leave_out(f"{self.split}/{name}", row)
            else:
                yield row

    def _row(self, number: int, entry: Any) -> Row | str:
        """The row of one entry, or what is wrong with it."""
        fields: tuple[Any, ...] = ()
        if isinstance(entry, dict):
            fields = tuple(entry.get(name) for name in ("xyz", "uv_vis", "K"))
        if not fields or not all(isinstance(field, np.ndarray) for field in fields):
            return "entry lacks an array xyz, uv_vis or K"
        xyz, uv_vis, matrix = (field.astype(np.float64) for field in fields)
        if xyz.shape != (42, 3) or uv_vis.shape != (42, 3):
            return "wrong number of joints; expected xyz and uv_vis of 42 x 3"
        try:
            camera = Camera.from_matrix(matrix)
        except ValueError:
            return "K is not the matrix of a pinhole camera"
        if np.abs(matrix).max() >= LARGEST:
            return "K is not the matrix of a pinhole camera"
        with np.errstate(over="ignore"):
            joints = convert_joints(xyz, "rhd", "openpose") * 1000.0
        labelled = convert_joints(uv_vis, "rhd", "openpose")
        seen = labelled[..., 2] == 1
        inside = ((labelled[..., :2] >= -0.5) & (labelled[..., :2] <= np.array(SIZE) - 0.5)).all(-1)
        path = f"{self.split}/{{}}/{number:05d}.png"
        if self.options["hand"] == "both":
            chosen = seen.any(1)
            if not chosen.any():
                return "no joint of either hand is seen"
        else:
            if self.options["hand"] == "visible":
                counts = seen.sum(1)
            else:
                try:
                    counts = hand_pixels(load_mask(self.root / path.format("mask")))
                except (OSError, ValueError):
                    return "mask is damaged or of another size"
            chosen = np.arange(2) == (LEFT if counts[LEFT] > counts[RIGHT] else RIGHT)
        return Row(
            id=path.format("color"),
            picture=path.format("color"),
            joints_cam_mm=joints,
            valid=np.repeat(chosen[:, None], 21, axis=1),
            camera=camera,
            size=SIZE,
            joints_2d_px=labelled[..., :2],
            visible=seen & inside,
            depth=path.format("depth") if self.options["depth"] else "",
        )

    def open_depth(self, row: Row) -> np.ndarray:
        codes = _load(self.root / row.depth).astype(np.float32)
        return (codes[..., 0] * 256 + codes[..., 1]) * np.float32(DEPTH_RANGE_MM / 65535)


def load_mask(path: Path) -> np.ndarray:
    """The labels of a mask, (320, 320) uint8.

    Raises:
        OSError: it is missing.
        ValueError: it is damaged or of another size.
    """
    return _load(path)[..., 0]


def hand_pixels(mask: np.ndarray) -> np.ndarray:
    """Pixels of the right and of the left hand in a mask, (2,) int."""
    counts = np.bincount(mask.ravel(), minlength=RIGHT_LABELS[1] + 1)
    return np.array([counts[first : last + 1].sum() for first, last in (RIGHT_LABELS, LEFT_LABELS)])


def _load(path: Path) -> np.ndarray:
    picture = load_image(path)
    if picture.shape[1::-1] != SIZE:
        raise ValueError(f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels; expected 320 x 320")
    return picture

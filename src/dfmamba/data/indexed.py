"""What every reader of a data set shares: an index of checked labels, pictures on access."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dfmamba.data.index import Index, Report, Row, fingerprint, index_folder, open_index, write_index
from dfmamba.data.sample import HandSample
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.skeleton import joint_order
from dfmamba.io.images import load_image

LARGEST = 1e5
"""No length in mm and no pixel of a usable label is larger."""

LARGEST_OFFSET_PX = 10.0
"""3D joints whose median distance to independently labelled pixels is larger don't belong to them."""

BOX_MARGIN = 0.5
"""Most joints lie in their labelled box enlarged by this share of its sides, or intrinsics are wrong."""


class IndexedDataset(ABC):
    """A data set in its official layout, as a sequence of `HandSample`.

    A reader says which files hold its labels (`sources`), turns them into rows (`rows`) and, where pictures
    need more than decoding, how to open them (`open_picture`, `open_depth`). Everything else is here: the
    index and its renewal, the checks, the report.

    Args:
        root: the folder of the data set as downloaded.
        split: one of `SPLITS`.
        options: further choices of the reader that change its rows; part of the index's name.

    Attributes:
        report: how many samples there are, and what was left out and why.

    Raises:
        OSError: the folder or a file of labels is missing or unreadable.
        ValueError: a file of labels is damaged, the split is unknown, or nothing usable is in it.
    """

    NAME: ClassVar[str]
    SPLITS: ClassVar[tuple[str, ...]]
    ORDER: ClassVar[str] = "openpose"
    KIND: ClassVar[str] = "real"
    REVISION: ClassVar[int] = 1
    """Counted up when a reader's rows change, so that old indices are made anew."""

    def __init__(self, root: str | Path, split: str, **options: Any) -> None:
        self.root, self.split, self.options = Path(root), split, options
        if split not in self.SPLITS:
            raise ValueError(f"{self.NAME}: split is {split!r}; expected one of {', '.join(self.SPLITS)}")
        if not self.root.is_dir():
            raise OSError(f"{self.root}: no such folder; expected a copy of {self.NAME}")
        self.joints = len(joint_order(self.ORDER).joints)
        self.index = self._open()
        self.report = self.index.report
        if not len(self.index):
            raise ValueError(
                f"{self.root}: no usable sample in {self.NAME} {split}: {'; '.join(self.report.lines)}"
            )

    @abstractmethod
    def sources(self) -> list[Path]:
        """The files that the labels come from; when one changes, the index is made anew."""

    @abstractmethod
    def rows(self, report: Report) -> Iterator[Row]:
        """The entries of the split, in the official order.

        Rows need not be checked: the caller does that. What can't even be made a row goes to
        `report.leave_out`.

        Raises:
            OSError: a file of labels can't be read.
            ValueError: a file of labels is damaged as a whole; the message names it.
        """

    def open_picture(self, row: Row) -> np.ndarray:
        """(H, W, 3) uint8.

        Raises:
            OSError: the picture is missing.
            ValueError: it is damaged, or of another size than labelled.
        """
        picture = load_image(self.root / row.picture)
        if picture.shape[1::-1] != row.size:
            raise ValueError(
                f"{self.root / row.picture}: {picture.shape[1]} x {picture.shape[0]} pixels; "
                f"the labels say {row.size[0]} x {row.size[1]}"
            )
        return picture

    def open_depth(self, row: Row) -> np.ndarray:
        """(H, W) float32, mm along z, 0 where nothing was measured.

        Raises:
            OSError: the file is missing.
            ValueError: it is damaged.
        """
        raise NotImplementedError(f"{self.NAME} has no depth maps")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> HandSample:
        """One sample with its picture.

        Raises:
            IndexError: there is none of that index.
            OSError: its picture is missing.
            ValueError: its picture is damaged.
        """
        return self.labels(i, pictures=True)

    def __iter__(self) -> Iterator[HandSample]:
        return (self[i] for i in range(len(self)))

    def evenly(self, limit: int | None = None) -> Iterator[HandSample]:
        """Some samples with their pictures, evenly spaced over the split; all where `limit` is None."""
        return (self[i] for i in self.spaced(limit))

    def spaced(self, limit: int | None = None) -> list[int]:
        """Indices of at most `limit` evenly spaced samples, of all where it is None."""
        if limit is None or limit >= len(self):
            return list(range(len(self)))
        return np.linspace(0, len(self) - 1, max(limit, 0)).round().astype(int).tolist()

    def labels(self, i: int, pictures: bool = False) -> HandSample:
        """One sample, without its picture unless asked for.

        Raises:
            IndexError: there is none of that index.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        row = self.index[i]
        assert row.joints_2d_px is not None
        assert row.box_xyxy is not None
        assert row.visible is not None
        assert row.present is not None
        return HandSample(
            image=self.open_picture(row) if pictures and row.picture else None,
            depth_mm=self.open_depth(row) if pictures and row.depth else None,
            joints_2d_px=row.joints_2d_px,
            joints_cam_mm=row.joints_cam_mm,
            depth_px=row.depth_px,
            valid=row.valid,
            visible=row.visible,
            present=row.present,
            camera=row.camera,
            box_xyxy=row.box_xyxy,
            id=row.id,
            kind=self.KIND,
            order=self.ORDER,
        )

    def key(self) -> Mapping[str, Any]:
        """What the labels depend on; what is made of them is made anew when it changes."""
        return {
            "reader": [self.NAME, self.REVISION],
            "split": self.split,
            "options": self.options,
            "files": fingerprint(self.sources()),
        }

    def _open(self) -> Index:
        folder = index_folder(self.NAME, self.split, self.root, self.options)
        key = self.key()
        found = open_index(folder, key)
        if found is not None:
            return found
        for path, size, _ in key["files"]:
            if size < 0:
                raise OSError(f"{path}: missing; expected by {self.NAME} {self.split} in {self.root}")
        report = Report()
        return write_index(folder, self._checked(report), report, key, self.ORDER, self.joints)

    def _checked(self, report: Report) -> Iterator[Row]:
        shown = sys.stderr.isatty()
        for count, row in enumerate(self.rows(report)):
            if shown and count % 1000 == 0:
                print(f"\rindexing {self.NAME} {self.split}: {count} ", end="", file=sys.stderr, flush=True)
            complete, reason = complete_row(row, self.joints)
            if complete is None:
                report.leave_out(row.id, reason)
            else:
                yield complete
        if shown:
            print("\r" + " " * 50 + "\r", end="", file=sys.stderr)


def complete_row(row: Row, joints: int) -> tuple[Row | None, str]:
    """Fills in what a reader left open, or says in a few words what is wrong with the labels.

    Args:
        row: as a reader gives it.
        joints: joints a hand.

    Returns:
        The complete row and "", or None and the reason.
    """
    shape = (2, joints, 3)
    try:
        cam = np.asarray(row.joints_cam_mm, np.float64)
        valid = np.asarray(row.valid, bool)
        visible = None if row.visible is None else np.asarray(row.visible, bool)
        pixels = None if row.joints_2d_px is None else np.asarray(row.joints_2d_px, np.float64)
        depth = None if row.depth_px is None else np.asarray(row.depth_px, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None, "labels are not arrays of numbers"
    if cam.shape != shape or valid.shape != shape[:2]:
        return None, f"wrong number of joints, or coordinates: expected {shape}"
    if visible is not None and visible.shape != shape[:2]:
        return None, f"wrong number of joints in the visibility: expected {shape[:2]}"
    if not 1 <= min(row.size) <= max(row.size) < LARGEST:
        return None, "the picture has no plausible size"
    if not valid.any():
        return None, "no valid joint"
    if depth is None:
        if not (np.abs(cam[valid]) < LARGEST).all():
            return None, "a joint is not finite or absurdly far"
        if (cam[valid][:, 2] <= 0).any():
            return None, "a joint lies behind the camera"
    elif depth.shape != shape[:2]:
        return None, f"wrong number of joints in the depths: expected {shape[:2]}"
    elif (np.abs(depth[valid]) >= LARGEST).any():
        return None, "a depth is absurdly large"
    cam = np.where(valid[..., None], cam, 0.0) if depth is None else np.zeros(shape)
    projected = None
    if row.camera is not None and depth is None:
        with np.errstate(over="ignore", invalid="ignore"):
            projected = row.camera.project(cam)
    if pixels is None:
        if projected is None:
            return None, "neither pixels nor a camera"
        pixels = projected
    elif pixels.shape != (2, joints, 2):
        return None, f"wrong number of pixels: expected {(2, joints, 2)}"
    if not (np.abs(pixels[valid]) < LARGEST).all():
        return None, "a pixel is not finite or absurdly far"
    if projected is not None:
        off = np.linalg.norm(projected[valid] - pixels[valid], axis=-1)
        if not np.median(off) <= LARGEST_OFFSET_PX:
            return None, "3D joints don't fall on their pixels: wrong intrinsics"
    pixels = np.where(valid[..., None], pixels, 0.0)
    box = row.box_xyxy
    if box is None:
        box = box_of_points(pixels, valid)
    else:
        try:
            box = np.asarray(box, np.float64)
        except (TypeError, ValueError, OverflowError):
            return None, "the box is not four finite numbers"
        if box.shape != (4,) or not (np.abs(box) < LARGEST).all():
            return None, "the box is not four finite numbers"
    low, high = box[:2], box[2:]
    if not (high > low).all():
        return None, "the box has no area"
    margin = BOX_MARGIN * (high - low)
    near = ((pixels >= low - margin) & (pixels <= high + margin)).all(-1)
    if not near[valid].mean() >= 0.5:
        return None, "most joints lie outside of the box: wrong intrinsics"
    width, height = row.size
    inside = ((pixels >= -0.5) & (pixels <= np.array([width, height]) - 0.5)).all(-1)
    present = np.asarray(valid.any(1) if row.present is None else row.present, bool)
    return replace(
        row,
        joints_cam_mm=cam,
        depth_px=None if depth is None else np.where(valid & np.isfinite(depth), depth, np.nan),
        joints_2d_px=pixels,
        valid=valid,
        visible=(inside if visible is None else visible) & valid,
        present=present | valid.any(1),
        box_xyxy=box,
    ), ""

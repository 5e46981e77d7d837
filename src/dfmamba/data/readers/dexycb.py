"""DexYCB (Chao et al., CVPR 2021): hands that grasp objects, eight cameras, splits S0 to S3.

Layout as downloaded: `<subject>/<sequence>/meta.yml`, `<subject>/<sequence>/<serial>/color_%06d.jpg`,
`aligned_depth_to_color_%06d.png` and `labels_%06d.npz`, `calibration/intrinsics/<serial>_640x480.yml`.
Splits and units are those of the data set's toolkit (dex-ycb-toolkit).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.own_format import files_digest
from dfmamba.data.sample import LEFT, RIGHT, HandSample, load_depth_png
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import KNUCKLES, NUM_JOINTS, WRIST, convert_joints
from dfmamba.io.untrusted import parse_yaml, read_bytes, read_npz
from dfmamba.text import quote

SUBJECTS = (
    "20200709-subject-01", "20200813-subject-02", "20200820-subject-03", "20200903-subject-04",
    "20200908-subject-05", "20200918-subject-06", "20200928-subject-07", "20201002-subject-08",
    "20201015-subject-09", "20201022-subject-10",
)  # fmt: skip
SERIALS = (
    "836212060125", "839512060362", "840412060917", "841412060263",
    "932122060857", "932122060861", "932122061900", "932122062010",
)  # fmt: skip
SEQUENCES = 100
"""Sequences a subject; the splits count them by position, sorted by name."""

SIZE = (640, 480)
DETNET_JOINTS = 10
"""Joints that have to be visible for `detnet_filter`."""

_MM_PER_M = 1000.0
_NO_LABEL = -1.0
_SEG_HAND = 255
_LARGEST_MEMBER = 1 << 22
_MASK_HAND, _MASK_OBJECT = (1, 2), 3

_MIDDLE_KNUCKLE = KNUCKLES[1]
_PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """What a split takes.

    Attributes:
        subjects: positions in `SUBJECTS`.
        serials: positions in `SERIALS`.
        sequences: positions among a subject's sequences, sorted by name.
    """

    subjects: tuple[int, ...]
    serials: tuple[int, ...]
    sequences: tuple[int, ...]


def split_of(name: str) -> Split:
    """The official split of a name such as "s0_train".

    S0 default, S1 unseen subjects, S2 unseen views, S3 unseen grasped objects.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in DexYCB.SPLITS:
        raise ValueError(f"split is {quote(name)}; expected one of {', '.join(DexYCB.SPLITS)}")
    setup, part = name.split("_")
    which = _PARTS.index(part)
    subjects, serials, sequences = tuple(range(10)), tuple(range(8)), tuple(range(SEQUENCES))
    if setup == "s0":
        subjects = (subjects, (0, 1), tuple(range(2, 10)))[which]
        sequences = tuple(i for i in sequences if (i % 5 == 4) == (part != "train"))
    elif setup == "s1":
        subjects = ((0, 1, 2, 3, 4, 5, 9), (6,), (7, 8))[which]
    elif setup == "s2":
        serials = ((0, 1, 2, 3, 4, 5), (6,), (7,))[which]
    else:
        held_back = ((), (3, 19), (7, 11, 15))
        train = set(range(20)) - {3, 7, 11, 15, 19}
        groups = train if part == "train" else set(held_back[which])
        sequences = tuple(i for i in sequences if i // 5 in groups)
    return Split(subjects, serials, sequences)


class DexYCB(IndexedDataset):
    """A split of DexYCB.

    `visible` says that a joint lies inside of the picture: occlusion is not labelled. The box is that of all
    joints. `extra` of a row is the frame's number in the split as the toolkit counts it (frames without a
    hand included), which its result files name.

    Args:
        root: the folder with the subjects' folders and `calibration`.
        split: "s0_train", "s0_val", "s0_test" and so on to "s3_test".
        min_visible: leave out frames with fewer joints inside of the picture.
        detnet_filter: leave out what the DetNet line of work does: fewer than 10 joints visible, or the
            wrist or the middle knuckle not.
        partial: take subjects of which sequences are missing. Their sequences then belong to other splits
            than the official ones.
        depth: samples have `depth_mm`, aligned with the picture.
        mask: samples have `mask`: the hand and objects.

    Raises:
        OSError, ValueError: see `IndexedDataset`; also a subject with another number of sequences than 100.
    """

    NAME = "DexYCB"
    SPLITS = tuple(f"s{setup}_{part}" for setup in range(4) for part in _PARTS)

    def __init__(
        self,
        root: str | Path,
        split: str,
        min_visible: int = 0,
        detnet_filter: bool = False,
        partial: bool = False,
        depth: bool = False,
        mask: bool = False,
    ) -> None:
        self.depth, self.mask = depth, mask
        super().__init__(root, split, min_visible=min_visible, detnet_filter=detnet_filter, partial=partial)

    def sources(self) -> list[Path]:
        """The sequences' meta.yml and the cameras' intrinsics."""
        metas = [self.root / sequence / "meta.yml" for sequence in self._sequences()]
        return metas + [self._intrinsics(i) for i in split_of(self.split).serials]

    def rows(self, report: Report) -> Iterator[Row]:
        """Sequence by sequence, camera by camera, frame by frame, as the toolkit counts."""
        chosen = split_of(self.split)
        cameras: dict[str, Camera | str] = {}
        for i in chosen.serials:
            path = self._intrinsics(i)
            try:
                cameras[SERIALS[i]] = read_intrinsics(path)
            except (OSError, ValueError):
                cameras[SERIALS[i]] = f"{path.relative_to(self.root)} is damaged"
        for i in chosen.subjects:
            if not (self.root / SUBJECTS[i]).is_dir():
                report.leave_out(SUBJECTS[i], "the subject's folder is missing")
        number = 0
        for sequence in self._sequences():
            try:
                meta: Meta | None = read_meta(self.root / sequence / "meta.yml")
            except (OSError, ValueError):
                meta = None
            for serial, camera in cameras.items():
                folder = f"{sequence}/{serial}"
                sizes = _sizes(self.root / folder)
                # Without its meta.yml the pictures there tell how far the toolkit counts.
                frames = (
                    sum(name.startswith("color_") for name in sizes or ()) if meta is None else meta.frames
                )
                for frame in range(frames):
                    name = f"{folder}/{frame:06d}"
                    row: dict[str, Any] | str
                    if meta is None:
                        row = "the sequence's meta.yml is damaged"
                    elif isinstance(camera, str):
                        row = camera
                    else:
                        row = self._row(folder, frame, meta.side, camera, sizes)
                    if isinstance(row, str):
                        report.leave_out(name, row)
                    else:
                        yield Row(id=name, group=sequence, extra=(float(number),), **row)
                    number += 1

    def _row(
        self, folder: str, frame: int, side: int, camera: Camera, sizes: Mapping[str, int] | None
    ) -> dict[str, Any] | str:
        """Fields of a row, or why there is none."""
        if sizes is None:
            return "the camera's folder is missing"
        picture, labels = f"color_{frame:06d}.jpg", f"labels_{frame:06d}.npz"
        for name, what in ((picture, "picture"), (labels, "file of labels")):
            if not sizes.get(name, 0):
                return f"the {what} is {'empty' if name in sizes else 'missing'}"
        try:
            arrays = read_labels(self.root / folder / labels, ("joint_3d", "joint_2d"))
        except (OSError, ValueError):
            return "the file of labels is damaged"
        cam, pixels = (array.astype(np.float64) for array in arrays.values())
        if (cam == _NO_LABEL).all() or (pixels == _NO_LABEL).all():
            return "no hand is labelled"
        if cam.shape != (1, NUM_JOINTS, 3) or pixels.shape != (1, NUM_JOINTS, 2):
            return "wrong number of joints"
        joints, points = np.zeros((2, NUM_JOINTS, 3)), np.zeros((2, NUM_JOINTS, 2))
        valid, visible = np.zeros((2, NUM_JOINTS), bool), np.zeros((2, NUM_JOINTS), bool)
        with np.errstate(over="ignore"):
            joints[side] = convert_joints(cam[0], "dexycb", "openpose") * _MM_PER_M
        points[side] = convert_joints(pixels[0], "dexycb", "openpose")
        valid[side] = np.not_equal(cam[0], _NO_LABEL).any(-1)
        inside = ((points[side] >= -0.5) & (points[side] <= np.array(SIZE) - 0.5)).all(-1)
        visible[side] = inside & valid[side]
        count = int(visible.sum())
        if count < self.options["min_visible"]:
            return "fewer joints are visible than min_visible"
        if self.options["detnet_filter"] and (
            count < DETNET_JOINTS or not visible[side, [WRIST, _MIDDLE_KNUCKLE]].all()
        ):
            return "too little is visible for detnet_filter"
        return {
            "picture": f"{folder}/{picture}",
            "joints_cam_mm": joints,
            "joints_2d_px": points,
            "valid": valid,
            "visible": visible,
            "camera": camera,
            "size": SIZE,
        }

    def labels(self, i: int, pictures: bool = False) -> HandSample:
        """As `IndexedDataset.labels`, with depth and mask where asked for."""
        sample = super().labels(i, pictures)
        if not pictures:
            return sample
        color = self.root / self.index[i].picture
        frame = color.stem.removeprefix("color_")
        if self.depth:
            path = color.with_name(f"aligned_depth_to_color_{frame}.png")
            sample = sample.replace(depth_mm=load_depth_png(path, unit_mm=1.0))
        if self.mask:
            side = LEFT if sample.present[LEFT] else RIGHT
            sample = sample.replace(mask=_mask(color.with_name(f"labels_{frame}.npz"), side))
        return sample

    def _sequences(self) -> list[str]:
        """Paths of the split's sequences under the root, in official order."""
        chosen = split_of(self.split)
        found = []
        for i in chosen.subjects:
            folder = self.root / SUBJECTS[i]
            if not folder.is_dir():
                continue
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
            if len(names) != SEQUENCES and not self.options["partial"]:
                raise ValueError(
                    f"{folder}: {len(names)} sequences, expected {SEQUENCES}; the splits count them, so "
                    "finish the download, or pass partial=True for splits other than the official ones"
                )
            found += [f"{SUBJECTS[i]}/{names[k]}" for k in chosen.sequences if k < len(names)]
        if not found:
            raise ValueError(
                f"{self.root}: no sequence of {self.split}; expected folders such as {SUBJECTS[0]}"
            )
        return found

    def _intrinsics(self, serial: int) -> Path:
        return self.root / "calibration" / "intrinsics" / f"{SERIALS[serial]}_{SIZE[0]}x{SIZE[1]}.yml"

    def key(self) -> Mapping[str, Any]:
        serials = [SERIALS[i] for i in split_of(self.split).serials]
        folders = (self.root / sequence / serial for sequence in self._sequences() for serial in serials)
        frames = files_digest(folders, lambda name: name.startswith(("color_", "labels_")))
        return {**super().key(), "frames": frames}


@dataclass(frozen=True)
class Meta:
    """What a meta.yml says of its sequence.

    Attributes:
        frames: number of frames.
        side: 0 right, 1 left: the hand in the sequence.
    """

    frames: int
    side: int


def read_meta(path: Path) -> Meta:
    """Reads a sequence's meta.yml.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged; the message names it.
    """
    content = _read_yaml(path)
    frames, sides = content.get("num_frames"), content.get("mano_sides")
    if not isinstance(frames, int) or not 0 <= frames < 1_000_000:
        raise ValueError(f"{path}: num_frames is {quote(frames)}; expected a number of frames")
    if sides not in (["right"], ["left"]):
        raise ValueError(f"{path}: mano_sides is {quote(sides)}; expected [right] or [left]")
    return Meta(frames, RIGHT if sides == ["right"] else LEFT)


def read_intrinsics(path: Path) -> Camera:
    """Reads the colour camera of an intrinsics file.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged or holds no usable camera; the message names it.
    """
    color = _read_yaml(path).get("color")
    try:
        assert isinstance(color, dict)
        return Camera(*(float(color[key]) for key in ("fx", "fy", "ppx", "ppy")))
    except (AssertionError, KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{path}: expected color with usable fx, fy, ppx and ppy") from None


def read_labels(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads arrays of numbers from a labels file.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged, or an array is missing or holds no numbers; the message names it.
    """
    arrays = read_npz(path, names, _LARGEST_MEMBER)
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{path}: {name} holds {array.dtype}; expected numbers")
    return arrays


def _mask(path: Path, side: int) -> np.ndarray:
    seg = read_labels(path, ("seg",))["seg"]
    if seg.shape != SIZE[::-1]:
        raise ValueError(f"{path}: seg has shape {seg.shape}; expected {SIZE[::-1]}")
    mask = np.where(seg == _SEG_HAND, _MASK_HAND[side], np.where(seg > 0, _MASK_OBJECT, 0))
    return mask.astype(np.uint8)


def _sizes(folder: Path) -> dict[str, int] | None:
    """Name -> bytes of a folder's files; None where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries}
    except OSError:
        return None


def _read_yaml(path: Path) -> dict[Any, Any]:
    content = parse_yaml(read_bytes(path), path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content

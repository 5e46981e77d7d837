"""Reader of the real-world test set of Snap Inc. (100 crops of one person's left hand, with 3D joints).

Folder layout: `annotations.json` and the 256 x 256 pictures that it names. Joints are in OpenPose order, in
cm in the camera frame (x right, y down, z forward); the intrinsics are those of the crop.

The labels are taken as they are. Their crop intrinsics were made by scaling the original picture's from the
corner of the crop, (cx - x0) * s; if the original principal point counts pixel centres as integers, as this
package does, joints lie up to half a crop pixel from where the picture shows them. The source does not say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.data.sample import LEFT, RIGHT, HandSample
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.camera import Camera
from dfmamba.io.images import load_image
from dfmamba.io.untrusted import numbers, read_json
from dfmamba.text import quote

_HANDS = {"right": RIGHT, "left": LEFT}
_CM = 10.0
_LARGEST = 1e6
"""No length in mm and no pixel of this data is larger."""


class SnapRealWorld:
    """The data set as a sequence of `HandSample` of kind "real".

    All labels are read at once, pictures on access. `visible` says only that a joint lies inside the picture:
    the source does not label occlusion. There is no mask and no depth.

    Args:
        folder: the folder with `annotations.json`.

    Raises:
        OSError: if `annotations.json` cannot be read.
        ValueError: if it is not JSON or an entry is wrong; the message names the file and the entry.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "annotations.json"
        content = read_json(path)
        entries = content.get("annotations") if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f'{path}: expected an object with a list "annotations"')
        self._labels = [_read_entry(entry, f"{path}: annotation {i}") for i, entry in enumerate(entries)]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> HandSample:
        """Read one sample.

        Raises:
            IndexError: if there is none of that index.
            OSError: if its picture is missing or broken.
        """
        label = self._labels[index]
        try:
            image = load_image(self.folder / label["file"])
        except ValueError as error:
            raise OSError(str(error)) from None
        hand = label["hand"]
        pixels = np.zeros((2, 21, 2), np.float32)
        joints = np.zeros((2, 21, 3), np.float32)
        visible = np.zeros((2, 21), bool)
        pixels[hand], joints[hand] = label["pixels"], label["joints"]
        edge = np.array([image.shape[1], image.shape[0]]) - 0.5
        visible[hand] = ((pixels[hand] >= -0.5) & (pixels[hand] <= edge)).all(axis=1)
        present = np.arange(2) == hand
        valid = np.repeat(present[:, None], 21, axis=1)
        return HandSample(
            image=image,
            joints_2d_px=pixels,
            joints_cam_mm=joints,
            valid=valid,
            visible=visible,
            present=present,
            camera=label["camera"],
            box_xyxy=box_of_points(pixels, valid),
            id=label["file"],
            kind="real",
        )


def _read_entry(entry: Any, where: str) -> dict[str, Any]:
    """Check one annotation and turn it into mm; `where` starts the messages."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {type(entry).__name__}; expected an object")
    keys = ("file", "hand", "joint_cam_cm", "keypoints_uv", "K_fx_fy_cx_cy_of_this_256x256_crop")
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    file, hand = entry["file"], entry["hand"]
    if (
        not isinstance(file, str)
        or not file
        or "\0" in file
        or Path(file).is_absolute()
        or ".." in Path(file).parts
    ):
        raise ValueError(f"{where}: file is {quote(file)}; expected a path inside the folder")
    if not isinstance(hand, str) or hand not in _HANDS:
        raise ValueError(f"{where}: hand is {quote(hand)}; expected 'left' or 'right'")
    joints = _numbers(entry["joint_cam_cm"], (21, 3), f"{where}: joint_cam_cm") * _CM
    if (joints[:, 2] <= 0).any():
        raise ValueError(f"{where}: joint_cam_cm has joints behind the camera")
    intrinsics = _numbers(entry[keys[-1]], (4,), f"{where}: {keys[-1]}")
    try:
        camera = Camera(*intrinsics.tolist())
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    pixels = _numbers(entry["keypoints_uv"], (21, 2), f"{where}: keypoints_uv")
    return {"file": file, "hand": _HANDS[hand], "joints": joints, "pixels": pixels, "camera": camera}


def _numbers(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A nested list of finite numbers as float64 of the given shape."""
    array = numbers(value, shape)
    if array is None:
        raise ValueError(f"{where}: expected numbers of shape {shape}")
    if not (np.abs(array) < _LARGEST).all():
        raise ValueError(f"{where}: expected finite numbers below {_LARGEST:g}")
    return array

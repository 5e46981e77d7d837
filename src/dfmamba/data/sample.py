"""One picture with its labels, as every data set of the package is read, and depth maps as pictures."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dfmamba.data.kinds import KINDS
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.camera import Camera, to_25d
from dfmamba.hands.skeleton import WRIST, joint_order
from dfmamba.io.images import decode_grey_16
from dfmamba.io.untrusted import read_bytes

DEPTH_UNIT_MM = 0.1
"""What one step of the 16-bit depth maps means that are written here; they reach to 6553.5 mm."""

HALF_RANGE_MM = 200.0
"""Depth on either side of the middle that keeps its value; farther points saturate."""


def encode_depth(depth_mm: np.ndarray, centre_mm: float | None = None) -> np.ndarray:
    """Grey picture of a depth map: near is bright, far is dark, nothing measured is black.

    Args:
        depth_mm: (H, W), mm along z; 0 or not finite where nothing was measured.
        centre_mm: depth that becomes middle grey; None takes the median of the measured points that lie
            within `HALF_RANGE_MM` * 2 of the nearest ones, which is the hand where it is the nearest thing.

    Returns:
        (H, W, 3) uint8, 1 to 255 where measured, all channels alike.

    Raises:
        ValueError: the map is not (H, W), or holds no measurement and no centre was given.
    """
    depth = np.asarray(depth_mm, dtype=np.float32)
    if depth.ndim != 2:
        raise ValueError(f"depth map has shape {depth.shape}; expected (H, W)")
    measured = np.isfinite(depth) & (depth > 0)
    if centre_mm is None:
        if not measured.any():
            raise ValueError("the depth map holds no measurement; expected some values above 0")
        near = np.percentile(depth[measured], 1.0)
        centre_mm = float(np.median(depth[measured & (depth < near + 2 * HALF_RANGE_MM)]))
    grey = 128.0 - (np.where(measured, depth, 0.0) - centre_mm) * (127.0 / HALF_RANGE_MM)
    grey = np.where(measured, np.clip(np.rint(grey), 1, 255), 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def encode_depth_png(depth_mm: np.ndarray, unit_mm: float = DEPTH_UNIT_MM) -> bytes:
    """A depth map as 16-bit PNG; values that don't fit, such as not finite ones, become 0: not measured.

    Args:
        depth_mm: (H, W) mm along z.
        unit_mm: mm a step.
    """
    steps = np.rint(np.asarray(depth_mm, np.float64) / unit_mm)
    usable = (steps > 0) & (steps <= 65535)
    memory = io.BytesIO()
    Image.fromarray(np.where(usable, steps, 0).astype(np.uint16)).save(memory, "PNG")
    return memory.getvalue()


def decode_depth_png(content: bytes, unit_mm: float, name: str) -> np.ndarray:
    """As `load_depth_png`, of the bytes of a file; error messages start with `name`."""
    return decode_grey_16(content, name).astype(np.float32) * np.float32(unit_mm)


def load_depth_png(path: Path, unit_mm: float) -> np.ndarray:
    """Reads a depth map from a 16-bit grey PNG.

    Returns:
        (H, W) float32, mm along z, 0 where nothing was measured.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: it is no 16-bit grey PNG, too large or damaged; the message names it.
    """
    return decode_depth_png(read_bytes(path), unit_mm, str(path))


RIGHT, LEFT = 0, 1
"""Index of each hand in arrays of two hands."""


@dataclass(frozen=True)
class HandSample:
    """A picture, the joints of up to two hands, and what else is known of the scene.

    Pixels have their centres at integers: a picture of width W covers [-0.5, W - 0.5]. The camera frame
    has x right, y down, z forward. Two hands are ordered right, left (anatomical, of the picture as it is);
    joints are in OpenPose order (`dfmamba.hands.skeleton.JOINT_NAMES`), J = 21, unless `order` names another.
    An absent hand holds zeros and is nowhere valid.

    Attributes:
        image: (H, W, 3) uint8 RGB; None for a sample that has depth only.
        joints_2d_px: (2, J, 2) float32, pixels of `image`.
        joints_cam_mm: (2, J, 3) float32, mm, camera frame.
        valid: (2, J) bool, a label exists.
        visible: (2, J) bool, the joint's own surface is seen, inside the picture.
        present: (2,) bool, the hand is in the picture.
        camera: intrinsics of `image`; None where unknown.
        box_xyxy: (4,) float32, x0, y0, x1, y1: the labelled box, or that of the pixels of all valid joints
            where the source labels none; zeros without any.
        mask: (H, W) uint8: 0 background, 1 right hand and forearm, 2 left, 3 object, 4 other; or None.
        depth_mm: (H, W) float32, mm along z, 0 where nothing was measured; or None.
        centre_mm: (3,) float32, mm, camera frame: where a depth framework cuts its crop around, as found by
            another method; or None.
        depth_px: (2, J) float32, of a sample without joints in millimetres, whose `joints_cam_mm` are zeros:
            depth relative to the hand's wrist in pixels, the third coordinate of 2.5D joints
            (`dfmamba.hands.camera.to_25d`), nan where unknown. None where `joints_cam_mm` labels the joints.
        id: name of the sample within its data set.
        kind: one of `dfmamba.data.kinds.KINDS`.
        order: name of the joints' order in `dfmamba.hands.skeleton.JOINT_ORDERS`. Only the joints of NYU,
            which have no counterparts in OpenPose's order, keep their own ("nyu14").

    Raises:
        ValueError: if a shape, the picture's dtype, `kind` or `order` is wrong, a valid joint is not finite,
            or an absent hand has valid joints.
    """

    image: np.ndarray | None
    joints_2d_px: np.ndarray
    joints_cam_mm: np.ndarray
    valid: np.ndarray
    visible: np.ndarray
    present: np.ndarray
    camera: Camera | None
    box_xyxy: np.ndarray
    mask: np.ndarray | None = None
    depth_mm: np.ndarray | None = None
    centre_mm: np.ndarray | None = None
    depth_px: np.ndarray | None = None
    id: str = ""
    kind: str = "single"
    order: str = "openpose"

    def __post_init__(self) -> None:
        joints = len(joint_order(self.order).joints)
        label: tuple[str, tuple[int, ...], type]
        for label in (
            ("joints_2d_px", (2, joints, 2), np.float32),
            ("joints_cam_mm", (2, joints, 3), np.float32),
            ("valid", (2, joints), np.bool_),
            ("visible", (2, joints), np.bool_),
            ("present", (2,), np.bool_),
            ("box_xyxy", (4,), np.float32),
        ):
            self._check(*label)
        for name, channels, dtype in (
            ("image", 3, np.uint8),
            ("mask", None, np.uint8),
            ("depth_mm", None, np.float32),
        ):
            self._check_picture(name, channels, dtype)
        if self.depth_px is not None:
            self._check("depth_px", (2, joints), np.float32)
        if self.centre_mm is not None:
            self._check("centre_mm", (3,), np.float32)
            if not np.isfinite(self.centre_mm).all() or not self.centre_mm[2] > 0:
                raise ValueError(
                    f"centre_mm of sample {self.id!r} is {self.centre_mm}; expected finite x, y, z with z > 0"
                )
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        if self.valid[~self.present].any():
            raise ValueError(
                "a hand that is not present has valid joints; mark it present or its joints invalid"
            )
        for name in ("joints_2d_px", "joints_cam_mm"):
            if not np.isfinite(getattr(self, name)[self.valid]).all():
                raise ValueError(f"{name} of sample {self.id!r} has valid joints that are not finite")

    def _check(self, name: str, shape: tuple[int, ...], dtype: type) -> None:
        array: np.ndarray = np.asarray(getattr(self, name), dtype=dtype)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
        object.__setattr__(self, name, array)

    def _check_picture(self, name: str, channels: int | None, dtype: type) -> None:
        array = getattr(self, name)
        if array is None:
            return
        expected = "(H, W)" if channels is None else f"(H, W, {channels})"
        wrong = not isinstance(array, np.ndarray) or array.dtype != dtype
        if wrong or array.ndim != (2 if channels is None else 3) or 0 in array.shape:
            raise ValueError(
                f"{name} is {_describe(array)}; expected a {np.dtype(dtype).name} array of shape {expected}"
            )
        if channels is not None and array.shape[2] != channels:
            raise ValueError(f"{name} has shape {array.shape}; expected {expected}")
        if self.size is not None and array.shape[:2] != self.size[::-1]:
            raise ValueError(f"{name} is {array.shape[:2]} pixels high and wide; expected {self.size[::-1]}")

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the picture (or mask, or depth); None without any of them."""
        for array in (self.image, self.mask, self.depth_mm):
            if array is not None:
                return array.shape[1], array.shape[0]
        return None

    @property
    def joints_25d(self) -> tuple[np.ndarray, np.ndarray]:
        """The joints in 2.5D, as far as they are known.

        Returns:
            (2, J, 3) float32 u, v, d in pixels, zeros where not valid or of unknown depth, and (2, J) bool,
            the joints whose depth d is labelled.
        """
        if self.depth_px is not None:
            depth = self.depth_px.astype(np.float64)
            known = self.valid & np.isfinite(depth)
        elif self.camera is None:
            depth, known = np.zeros(self.valid.shape), np.zeros_like(self.valid)
        else:
            depth = to_25d(self.joints_cam_mm.astype(np.float64), self.camera)[..., 2]
            known = self.valid & self.valid[:, WRIST, None]
        joints = np.concatenate((self.joints_2d_px, np.where(known, depth, 0.0)[..., None]), axis=-1)
        return np.where(self.valid[..., None], joints, 0.0).astype(np.float32), known

    def require_mm(self, what: str) -> None:
        """Refuses a sample whose joints aren't labelled in millimetres.

        Args:
            what: needs them, for the message.

        Raises:
            ValueError: it is labelled in pixels only.
        """
        if self.depth_px is not None:
            raise ValueError(f"sample {self.id!r} is labelled in pixels only; {what} needs millimetres")

    def box_of(self, hand: int) -> np.ndarray:
        """Box x0, y0, x1, y1 (float32, pixels) of one hand's valid joints; zeros without any.

        Args:
            hand: 0 right, 1 left.

        Raises:
            ValueError: if `hand` is neither 0 nor 1.
        """
        if hand not in (RIGHT, LEFT):
            raise ValueError(f"hand is {hand!r}; expected 0 (right) or 1 (left)")
        return box_of_points(self.joints_2d_px[hand], self.valid[hand])

    def replace(self, **changes: Any) -> HandSample:
        """A copy with some attributes changed (checked again)."""
        return dataclasses.replace(self, **changes)


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__

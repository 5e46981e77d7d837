"""From the 2.5D joints of a crop to joints of the picture, in pixels and in millimetres."""

from __future__ import annotations

import numpy as np

from dfmamba.hands.affine import FARTHEST_PX
from dfmamba.hands.camera import Intrinsics, from_25d, from_25d_weak, scale_to_reference
from dfmamba.hands.crop import Affine
from dfmamba.hands.skeleton import REFERENCE_BONES_MM
from dfmamba.text import quote

HAND_MARGIN = 0.1
"""A hand's box is that of its joints, wider by this share of its longer side on each side."""


def joints_to_picture(joints_25d_crop: np.ndarray, affine: Affine) -> np.ndarray:
    """Carry 2.5D joints from the crop to the picture.

    Depth is in pixels at the root, so it grows with the picture like u and v.

    Args:
        joints_25d_crop: (..., 3) u, v, d in pixels of the crop.
        affine: from the picture's pixels to the crop's; a similarity, mirrored or not.

    Returns:
        (..., 3) float64 u, v, d in pixels of the picture.
    """
    joints = np.asarray(joints_25d_crop, dtype=np.float64)
    pixels = affine.inverse().apply(joints[..., :2])
    return np.concatenate([pixels, joints[..., 2:] / affine.scale], axis=-1)


def lift_joints(joints_25d: np.ndarray, camera: Intrinsics | None) -> np.ndarray:
    """Joints in millimetres, of the size of the reference hand.

    Args:
        joints_25d: (21, 3) u, v, d in pixels of the picture.
        camera: its intrinsics. With them the joints are unprojected, and the wrist's depth is the one at
            which the bones best match the reference hand's. Without them the projection counts as parallel.

    Returns:
        (21, 3) mm: in the camera frame with a camera, relative to the wrist without.
    """
    if camera is None:
        joints = from_25d_weak(joints_25d)
        joints = joints - joints[0]
    else:
        joints = from_25d(joints_25d, camera, 1.0)
    return joints * scale_to_reference(joints, REFERENCE_BONES_MM)


def hand_box(joints_2d_px: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Box (4,) xyxy of a hand's joints with `HAND_MARGIN`, clipped to a picture of this width and height."""
    low, high = joints_2d_px.min(axis=0), joints_2d_px.max(axis=0)
    margin = HAND_MARGIN * float((high - low).max())
    width, height = size
    limit = np.array([width - 0.5, height - 0.5])
    return np.concatenate([np.clip(low - margin, -0.5, limit), np.clip(high + margin, -0.5, limit)])


def mirror_picture(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) from right to left, as a copy."""
    return np.ascontiguousarray(picture[:, ::-1])


def mirror_points(points_px: np.ndarray, width: int) -> np.ndarray:
    """Points (..., 2) of a picture of this width, on the mirrored picture."""
    mirrored = np.array(points_px, dtype=np.float64)
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored


def mirror_box(box_xyxy: np.ndarray, width: int) -> np.ndarray:
    """A box (4,) of a picture of this width, on the mirrored picture."""
    x0, y0, x1, y1 = box_xyxy
    return np.array([width - 1 - x1, y0, width - 1 - x0, y1], dtype=np.float64)


def check_box(box_xyxy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A box as (4,) float64.

    Raises:
        ValueError: if it is not four finite numbers, is empty, or lies outside a picture of this size.
    """
    try:
        box = np.array(box_xyxy, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        box = np.array([])
    if box.shape != (4,) or not np.isfinite(box).all():
        raise ValueError(f"box: expected four finite numbers x0, y0, x1, y1, got {quote(box_xyxy)}")
    if np.abs(box).max() > FARTHEST_PX:
        raise ValueError(f"box: expected at most {FARTHEST_PX:g} pixels, got {quote(box_xyxy)}")
    x0, y0, x1, y1 = box.tolist()
    text = f"{x0:g},{y0:g},{x1:g},{y1:g}"
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"box {text} is empty: expected x0 < x1 and y0 < y1")
    width, height = size
    if x1 <= -0.5 or y1 <= -0.5 or x0 >= width - 0.5 or y0 >= height - 0.5:
        raise ValueError(f"box {text} lies outside the picture of {width} x {height} pixels")
    return box

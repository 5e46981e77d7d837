"""Labels that need the rendered picture: which joints are seen."""

from __future__ import annotations

import numpy as np

_PER_FINGER = [[25.0, 22.0, 14.0, 10.0], *[[22.0, 14.0, 12.0, 10.0]] * 4]
FLESH_MM = np.array([30.0, *np.ravel(_PER_FINGER)], dtype=np.float32)
"""(21,) mm that a joint may lie below its own skin: wrist 30, CMC 25, MCP 22, PIP and IP 14, DIP 12, tip
10."""


def visible_joints(
    joints_2d_px: np.ndarray,
    joints_cam_mm: np.ndarray,
    present: np.ndarray,
    depth_mm: np.ndarray,
    instance: np.ndarray,
) -> np.ndarray:
    """Which joints' own surface is seen, inside the picture.

    A joint is visible where the surface at its pixel belongs to the same hand and is at most the thickness
    of the flesh in front of it. Where its pixel shows the background (the joint lies just outside of the
    outline), one of the eight neighbours may do instead.

    Args:
        joints_2d_px: (2, 21, 2) pixels, pixel centres at integers; right then left hand.
        joints_cam_mm: (2, 21, 3) mm, camera frame.
        present: (2,) bool.
        depth_mm: (H, W) z of the surface, 0 = nothing.
        instance: (H, W) 0 background, 1 right hand, 2 left hand, others anything else.

    Returns:
        (2, 21) bool.
    """
    height, width = instance.shape
    u, v = joints_2d_px[..., 0], joints_2d_px[..., 1]
    inside = (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
    column = np.floor(np.clip(u, -1, width) + 0.5).astype(int)
    row = np.floor(np.clip(v, -1, height) + 0.5).astype(int)
    label = np.array([[1], [2]])

    def own(dx: int, dy: int) -> np.ndarray:
        x, y = np.clip(column + dx, 0, width - 1), np.clip(row + dy, 0, height - 1)
        return (instance[y, x] == label) & (joints_cam_mm[..., 2] - depth_mm[y, x] <= FLESH_MM)

    seen = own(0, 0)
    nearby = np.any([own(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)], axis=0)
    outline = instance[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)] == 0
    return inside & np.asarray(present, dtype=bool)[:, None] & (seen | (outline & nearby))

"""Depth maps as pictures, so that one network takes photographs and depth alike."""

from __future__ import annotations

import numpy as np

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

"""Depth maps on disk, and as pictures, so that one network takes photographs and depth alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

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

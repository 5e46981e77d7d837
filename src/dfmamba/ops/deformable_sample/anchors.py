"""The regular grid of anchors from which deformable sampling starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EVEN_COUNTS = (4, 16)


def _side(count: int) -> int:
    side = math.isqrt(count) if count > 0 else 0
    if side * side != count or (side % 2 == 0 and count not in _EVEN_COUNTS):
        raise ValueError(f"got {count} anchors, expected an odd number squared (1, 9, 25, ...), 4 or 16")
    return side


def anchor_grid(count: int) -> Tensor:
    """Anchors of the centred sqrt(K) x sqrt(K) grid with a spacing of one pixel, row by row.

    Args:
        count: number K of anchors: the square of an odd number, or 4 or 16 (half-integer positions).

    Returns:
        (K, 2) float32, each (dy, dx) in pixels.

    Raises:
        ValueError: for any other number.
    """
    side = _side(count)
    axis = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(count, 2)


def centre_index(count: int) -> int:
    """Index in `anchor_grid` of the anchor at (0, 0).

    Raises:
        ValueError: if the grid has no such anchor (4, 16) or does not exist.
    """
    if _side(count) % 2 == 0:
        raise ValueError(f"a grid of {count} anchors has none at its centre; use 1, 9, 25, ...")
    return count // 2

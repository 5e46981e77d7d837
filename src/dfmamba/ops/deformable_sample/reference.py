"""Deformable sampling as its definition reads, one anchor and one corner after the other, and its anchors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dfmamba.ops.backend import wide_dtype

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


def deformable_sample_reference(
    x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor
) -> Tensor:
    """Sample a map around every pixel; arguments and result as in `dfmamba.ops.deformable_sample`."""
    wide = wide_dtype(x, offsets, weights, anchors)
    batch, channels, height, width = x.shape
    table = x.to(wide).flatten(2)
    rows = torch.arange(height, dtype=wide, device=x.device)[:, None]
    columns = torch.arange(width, dtype=wide, device=x.device)[None, :]
    total = torch.zeros(batch, channels, height, width, dtype=wide, device=x.device)
    for k in range(anchors.shape[0]):
        y = (rows + anchors[k, 0].to(wide)).expand(batch, channels, height, width)
        x_position = (columns + anchors[k, 1].to(wide)).expand(batch, channels, height, width)
        if offsets is not None:
            moved = offsets[:, :, k].to(wide).repeat_interleave(channels // offsets.shape[1], dim=1)
            y, x_position = y + moved[:, :, 0], x_position + moved[:, :, 1]
        top, left = y.detach().floor(), x_position.detach().floor()
        down, right = y - top, x_position - left
        sampled = torch.zeros_like(total)
        for row, row_share in ((top, 1 - down), (top + 1, down)):
            for column, column_share in ((left, 1 - right), (left + 1, right)):
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                index = torch.where(inside, row * width + column, 0.0).long()
                value = table.gather(2, index.flatten(2)).view_as(total)
                sampled = sampled + torch.where(inside, row_share * column_share * value, 0.0)
        if weights.dim() == 2:
            total = total + weights[:, k].to(wide)[:, None, None] * sampled
        else:
            factor = weights[:, :, k].to(wide).repeat_interleave(channels // weights.shape[1], dim=1)
            total = total + factor * sampled
    return total.to(x.dtype)

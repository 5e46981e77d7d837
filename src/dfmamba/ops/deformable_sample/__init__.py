"""Deformable sampling: a weighted sum of bilinear samples around every pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dfmamba.ops.backend import current_backend
from dfmamba.ops.deformable_sample.anchors import anchor_grid, centre_index
from dfmamba.ops.deformable_sample.operator import sample
from dfmamba.ops.deformable_sample.reference import deformable_sample_reference

__all__ = ["anchor_grid", "centre_index", "deformable_sample", "deformable_sample_reference"]


def _fail(name: str, tensor: Tensor, expected: str) -> None:
    raise ValueError(f"deformable_sample: {name} has shape {tuple(tensor.shape)}, expected {expected}")


def _check(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> None:
    for name, tensor in (("x", x), ("offsets", offsets), ("weights", weights), ("anchors", anchors)):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"deformable_sample: {name} is {tensor.dtype}, expected a floating-point tensor")
    if x.dim() != 4 or 0 in x.shape:
        _fail("x", x, "(batch, C, H, W), none of them 0")
    batch, channels, height, width = x.shape
    if anchors.dim() != 2 or anchors.shape[0] == 0 or anchors.shape[1] != 2:
        _fail("anchors", anchors, "(K, 2), K > 0")
    count = anchors.shape[0]
    groups = [1]
    if offsets is not None:
        if offsets.dim() != 6 or offsets.shape != (batch, offsets.shape[1], count, 2, height, width):
            _fail("offsets", offsets, f"({batch}, groups, {count}, 2, {height}, {width})")
        groups.append(offsets.shape[1])
    if weights.dim() == 5:
        if weights.shape != (batch, weights.shape[1], count, height, width):
            _fail("weights", weights, f"({batch}, groups, {count}, {height}, {width})")
        groups.append(weights.shape[1])
    elif weights.shape != (channels, count):
        either = f"({channels}, {count}) or ({batch}, groups, {count}, {height}, {width})"
        _fail("weights", weights, either)
    if 0 in groups or channels % math.lcm(*groups):
        raise ValueError(
            f"deformable_sample: {channels} channels cannot be divided into {groups[1:]} groups "
            "(of offsets, of weights); choose numbers whose least common multiple divides the channels"
        )


def deformable_sample(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    """Weighted sum of K bilinear samples around every pixel, zero outside the map.

    ``out[c, p] = sum_k weights[c, k, p] * x[c](p + anchors[k] + offsets[k, p])``, where a pixel outside the
    map counts as 0, as in deformable convolution (Zhu et al., 2019) with one group per channel. At
    whole-number positions the derivative is the one towards larger coordinates. Computed in float32 (float64
    if an operand is float64), whatever the autocast state. Differentiable once in every operand.

    Args:
        x: feature map, (batch, C, H, W).
        offsets: displacements (dy, dx) in pixels added to the anchors, (batch, groups, K, 2, H, W), every
            group for C / groups neighbouring channels; None for none.
        weights: per channel, (C, K), or per pixel, (batch, groups, K, H, W).
        anchors: displacements (dy, dx) in pixels, (K, 2); see `anchor_grid`.

    Returns:
        (batch, C, H, W) in x's dtype, channels-last in memory.

    Raises:
        ValueError: if shapes do not fit each other, or groups do not divide the channels.
    """
    _check(x, offsets, weights, anchors)
    backend = current_backend()
    if backend == "reference":
        with torch.autocast(x.device.type, enabled=False):
            return deformable_sample_reference(x, offsets, weights, anchors)
    if backend == "export":
        from dfmamba.ops.deformable_sample.export import deformable_sample_export

        return deformable_sample_export(x, offsets, weights, anchors)
    return sample(x, offsets, weights, anchors)

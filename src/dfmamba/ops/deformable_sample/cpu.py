"""Fast deformable sampling in plain PyTorch.

Sampling is a product with a sparse matrix: row t holds the bilinear weights of the 4 K map pixels that output
pixel t reads. On small maps that matrix is filled in and handed to a dense matrix product, whose backward is
two more of them; on larger maps a weighted `embedding_bag` reads only the rows needed. Weights that differ
per channel but not per pixel do not fit into such a matrix: for them `embedding_bag` reads from K copies of
the map, each scaled by one anchor's weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Largest maps for which the dense product is the faster one, with and without a backward pass (measured).
_DENSE_PIXELS_TRAINING = 256
_DENSE_PIXELS_INFERENCE = 64


class _Corners(torch.autograd.Function):
    """Flat index and weight of the four pixels around each position; weight 0 outside the map.

    At whole-number positions the derivative is the one towards larger coordinates, as in torchvision.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, factor: Tensor | None, height: int, width: int, axis: int
    ) -> tuple[Tensor, Tensor]:
        sides = []
        for position, size in ((y, height), (x, width)):
            low = position.floor()
            part = position - low
            near = ((low >= 0) & (low <= size - 1)).to(part.dtype)
            far = ((low >= -1) & (low <= size - 2)).to(part.dtype)
            # A position that is not a number must not become a wild index; its weight stays not a number.
            index = torch.nan_to_num(low).clamp_(-1, size - 1).long()
            sides.append((index.clamp(min=0), (index + 1).clamp_(max=size - 1), near, far, part))
        (top, bottom, top_in, bottom_in, down), (left, right, left_in, right_in, along) = sides
        weight_top, weight_bottom = (1 - down) * top_in, down * bottom_in
        weight_left, weight_right = (1 - along) * left_in, along * right_in
        top, bottom = top * width, bottom * width
        index = torch.stack((top + left, top + right, bottom + left, bottom + right), dim=axis)
        if factor is None:
            scaled_top, scaled_bottom = weight_top, weight_bottom
        else:
            scaled_top, scaled_bottom = weight_top * factor, weight_bottom * factor
        weight = torch.stack(
            (
                scaled_top * weight_left,
                scaled_top * weight_right,
                scaled_bottom * weight_left,
                scaled_bottom * weight_right,
            ),
            dim=axis,
        )
        ctx.axis = axis
        ctx.save_for_backward(
            top_in, bottom_in, left_in, right_in, weight_top, weight_bottom, weight_left, weight_right, factor
        )
        ctx.mark_non_differentiable(index)
        return index, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        top_in, bottom_in, left_in, right_in, top, bottom, left, right, factor = ctx.saved_tensors
        top_left, top_right, bottom_left, bottom_right = grad.unbind(ctx.axis)
        grad_top = (top_left * left).addcmul_(top_right, right)
        grad_bottom = (bottom_left * left).addcmul_(bottom_right, right)
        grad_left = (top_left * top).addcmul_(bottom_left, bottom)
        grad_right = (top_right * top).addcmul_(bottom_right, bottom)
        grad_y = (grad_bottom * bottom_in).addcmul_(grad_top, top_in, value=-1)
        grad_x = (grad_right * right_in).addcmul_(grad_left, left_in, value=-1)
        grad_factor = None
        if factor is not None:
            grad_factor = (grad_top * top).addcmul_(grad_bottom, bottom)
            grad_y, grad_x = grad_y.mul_(factor), grad_x.mul_(factor)
        return grad_y, grad_x, grad_factor, None, None, None


def _positions(
    x: Tensor, offsets: Tensor | None, anchors: Tensor, batch: int, groups: int, pixel_axis: int
) -> tuple[Tensor, Tensor]:
    """Rows and columns to read, (batch, groups, K, H W), or (batch, H W, groups, K) if `pixel_axis` is 1."""
    height, width = x.shape[2:]
    count = anchors.shape[0]
    here = torch.arange(height * width, device=x.device)
    rows, columns = (here // width).to(x.dtype), (here % width).to(x.dtype)
    result = []
    for axis, own in ((0, rows), (1, columns)):
        if pixel_axis == 1:
            position = own[:, None, None] + anchors[:, axis]
            moved = None if offsets is None else offsets[:, :, :, axis].flatten(3).permute(0, 3, 1, 2)
            shape = (batch, height * width, groups, count)
        else:
            position = own + anchors[:, axis, None]
            moved = None if offsets is None else offsets[:, :, :, axis].flatten(3)
            shape = (batch, groups, count, height * width)
        result.append((position if moved is None else position + moved).expand(shape))
    return result[0], result[1]


def _dense(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    pixels, count, per_group = height * width, anchors.shape[0], channels // groups
    rows, columns = _positions(x, offsets, anchors, batch, groups, pixel_axis=3)
    factor = weights.flatten(3).expand(batch, groups, count, pixels)
    index, weight = _Corners.apply(rows, columns, factor, height, width, 2)
    spread = (batch * groups, 4 * count, pixels)
    matrix = x.new_zeros(batch * groups, pixels, pixels)
    matrix = matrix.scatter_add(1, index.view(spread), weight.view(spread))
    table = x.reshape(batch * groups, per_group, pixels)
    if groups == 1:
        sampled = torch.bmm(matrix.transpose(1, 2), table.transpose(1, 2))
        return sampled.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return torch.bmm(table, matrix).view(batch, channels, height, width)


def _sparse(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    pixels, count, per_group = height * width, anchors.shape[0], channels // groups
    rows, columns = _positions(x, offsets, anchors, batch, groups, pixel_axis=1)
    factor = None
    if weights.dim() == 5:
        factor = weights.flatten(3).permute(0, 3, 1, 2).expand(batch, pixels, groups, count)
    index, weight = _Corners.apply(rows, columns, factor, height, width, 3)
    table = x.flatten(2).transpose(1, 2)
    copies = 1
    if factor is None:
        copies = count
        table = table.unsqueeze(1) * weights.t()[:, None]
        index = index + torch.arange(count, device=x.device) * pixels
    first = torch.arange(batch, device=x.device)[:, None, None, None, None] * (copies * pixels)
    index = index + first
    if groups > 1:
        index = index * groups + torch.arange(groups, device=x.device)[:, None, None]
    bags = batch * pixels * groups
    sampled = F.embedding_bag(
        index.reshape(bags, -1),
        table.reshape(batch * copies * pixels * groups, per_group),
        per_sample_weights=weight.reshape(bags, -1),
        mode="sum",
    )
    return sampled.view(batch, height, width, channels).permute(0, 3, 1, 2)


def deformable_sample_cpu(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    """Sample checked operands that share one dtype (float32 or float64)."""
    groups = 1 if offsets is None else offsets.shape[1]
    if weights.dim() == 5:
        groups = math.lcm(groups, weights.shape[1])
        if weights.shape[1] not in (1, groups):
            weights = weights.repeat_interleave(groups // weights.shape[1], dim=1)
    if offsets is not None and offsets.shape[1] not in (1, groups):
        offsets = offsets.repeat_interleave(groups // offsets.shape[1], dim=1)
    needs_grad = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, offsets, weights, anchors)
    )
    limit = _DENSE_PIXELS_TRAINING if needs_grad else _DENSE_PIXELS_INFERENCE
    run = _dense if weights.dim() == 5 and x.shape[2] * x.shape[3] <= limit else _sparse
    with torch.autocast(x.device.type, enabled=False):
        return run(x, offsets, weights, anchors, groups)

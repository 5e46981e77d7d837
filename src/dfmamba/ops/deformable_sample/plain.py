"""Deformable sampling in plain PyTorch, with a hand-written backward pass: the twin of the C kernels.

Sampling is a product with a sparse matrix: row t holds the bilinear weights of the 4 K map pixels that output
pixel t reads. On small maps that matrix is filled in and handed to a dense matrix product, whose backward is
two more of them; on larger maps a weighted `embedding_bag` reads only the rows needed, and the backward pass
goes through anchors and corners one by one. Weights that differ per channel but not per pixel do not fit into
such a matrix: for them `embedding_bag` reads from K copies of the map, each scaled by one anchor's weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dfmamba.ops.backend import common_groups, gather_groups, spread_groups

# Largest maps for which the dense product is the faster one, forward and backward (measured).
_DENSE_PIXELS_FORWARD = 64
_DENSE_PIXELS_BACKWARD = 256


class _Corners(NamedTuple):
    """The four pixels around each position, (4, batch, groups, K, H W): weights are 0 outside the map.

    At whole-number positions the derivative is the one towards larger coordinates, as in torchvision.
    """

    pixel: Tensor
    weight: Tensor
    down: Tensor
    along: Tensor


def _sides(position: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Indices of the neighbours before and after, whether they lie inside, and the share of the latter."""
    low = position.floor()
    part = position - low
    near = ((low >= 0) & (low <= size - 1)).to(part.dtype)
    far = ((low >= -1) & (low <= size - 2)).to(part.dtype)
    # A position that is not a number must not become a wild index; its weight stays not a number.
    index = torch.nan_to_num(low).clamp_(-1, size - 1).long()
    return (index.clamp(min=0), (index + 1).clamp_(max=size - 1)), (near, far), part


def _corners(rows: Tensor, columns: Tensor, height: int, width: int, slopes: bool = False) -> _Corners:
    (top, bottom), (top_in, bottom_in), down = _sides(rows, height)
    (left, right), (left_in, right_in), along = _sides(columns, width)
    top, bottom = top * width, bottom * width
    y = torch.stack(((1 - down) * top_in, down * bottom_in)).unsqueeze(1)
    x = torch.stack(((1 - along) * left_in, along * right_in)).unsqueeze(0)
    pixel = torch.stack((top + left, top + right, bottom + left, bottom + right))
    weight = (y * x).flatten(0, 1)
    if not slopes:
        return _Corners(pixel, weight, weight, weight)
    slope_y = torch.stack((-top_in, bottom_in)).unsqueeze(1)
    slope_x = torch.stack((-left_in, right_in)).unsqueeze(0)
    return _Corners(pixel, weight, (slope_y * x).flatten(0, 1), (y * slope_x).flatten(0, 1))


class _Problem:
    """Positions and weights per group of channels, with the map's two axes as one."""

    def __init__(self, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> None:
        self.batch, self.channels, self.height, self.width = x.shape
        self.pixels, self.count = self.height * self.width, anchors.shape[0]
        self.groups = common_groups(offsets, weights)
        self.per_group = self.channels // self.groups
        self.table = x.flatten(2)
        self.factor = spread_groups(weights, self.groups) if weights.dim() == 5 else None
        here = torch.arange(self.pixels, device=x.device)
        moved = None if offsets is None else spread_groups(offsets, self.groups)
        shape = (self.batch, self.groups, self.count, self.pixels)
        positions = []
        for axis, own in ((0, here // self.width), (1, here % self.width)):
            position = own.to(x.dtype) + anchors[:, axis, None]
            positions.append((position if moved is None else position + moved[:, :, :, axis]).expand(shape))
        self.rows, self.columns = positions

    def corners(self, slopes: bool = False) -> _Corners:
        return _corners(self.rows, self.columns, self.height, self.width, slopes)

    def as_map(self, rows: Tensor) -> Tensor:
        """(batch, H W, C) as (batch, C, H, W)."""
        return rows.reshape(self.batch, self.height, self.width, self.channels).permute(0, 3, 1, 2)

    def by_group(self, x: Tensor) -> Tensor:
        """(batch, C, H W) -> (batch groups, C / groups, H W)."""
        return x.reshape(self.batch * self.groups, self.per_group, self.pixels)

    def matrix(self, corners: _Corners) -> Tensor:
        """(batch groups, pixel read, pixel written)."""
        assert self.factor is not None
        spread = (self.batch * self.groups, 4 * self.count, self.pixels)
        index = corners.pixel.permute(1, 2, 0, 3, 4).reshape(spread)
        weight = (corners.weight * self.factor).permute(1, 2, 0, 3, 4).reshape(spread)
        empty = self.table.new_zeros(self.batch * self.groups, self.pixels, self.pixels)
        return empty.scatter_add_(1, index, weight)


def _dense(p: _Problem) -> Tensor:
    matrix, table = p.matrix(p.corners()), p.by_group(p.table)
    if p.groups == 1:
        return p.as_map(torch.bmm(matrix.transpose(1, 2), table.transpose(1, 2)))
    return torch.bmm(table, matrix).view(p.batch, p.channels, p.height, p.width)


def _sparse(p: _Problem, weights: Tensor) -> Tensor:
    index, weight, _, _ = p.corners()
    table, copies = p.table.transpose(1, 2), 1
    device = table.device
    if p.factor is None:
        copies = p.count
        table = table.unsqueeze(1) * weights.t()[:, None]
        index = index + torch.arange(p.count, device=device)[:, None] * p.pixels
    else:
        weight = weight * p.factor
    index = index + torch.arange(p.batch, device=device)[:, None, None, None] * (copies * p.pixels)
    if p.groups > 1:
        index = index * p.groups + torch.arange(p.groups, device=device)[:, None, None]
    bags = p.batch * p.pixels * p.groups
    sampled = F.embedding_bag(
        index.permute(1, 4, 2, 0, 3).reshape(bags, -1),
        table.reshape(p.batch * copies * p.pixels * p.groups, p.per_group),
        per_sample_weights=weight.permute(1, 4, 2, 0, 3).reshape(bags, -1),
        mode="sum",
    )
    return p.as_map(sampled)


def forward(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    """(batch, C, H, W) for checked operands that share one dtype (float32 or float64)."""
    p = _Problem(x, offsets, weights, anchors)
    if p.factor is not None and p.pixels <= _DENSE_PIXELS_FORWARD:
        return _dense(p)
    return _sparse(p, weights)


def backward(
    grad: Tensor, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of x, offsets (None for none), weights and anchors."""
    p = _Problem(x, offsets, weights, anchors)
    if p.factor is not None and p.pixels <= _DENSE_PIXELS_BACKWARD:
        grad_x, position, grad_weights = _dense_backward(p, grad)
    else:
        grad_x, position, grad_weights = _looped_backward(p, grad, weights)
    grad_offsets = None if offsets is None else gather_groups(position, offsets)
    if p.factor is not None:
        grad_weights = gather_groups(grad_weights, weights)
    return grad_x, grad_offsets, grad_weights, position.sum((0, 1, 4))


def _dense_backward(p: _Problem, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    assert p.factor is not None
    corners = p.corners(slopes=True)
    incoming, table = p.by_group(grad.flatten(2)), p.by_group(p.table)
    grad_x = torch.bmm(incoming, p.matrix(corners).transpose(1, 2)).view(grad.shape)
    products = torch.bmm(table.transpose(1, 2), incoming)
    index = corners.pixel.permute(1, 2, 0, 3, 4)
    dots = products.gather(1, index.reshape(p.batch * p.groups, -1, p.pixels)).view(index.shape)
    dots = dots.permute(2, 0, 1, 3, 4)
    position = torch.stack(((corners.down * dots).sum(0), (corners.along * dots).sum(0)), dim=3)
    return grad_x, position * p.factor.unsqueeze(3), (corners.weight * dots).sum(0)


def _looped_backward(p: _Problem, grad: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    corners = p.corners(slopes=True)
    shape = (p.batch, p.groups, p.per_group, p.pixels)
    incoming, table = grad.flatten(2).reshape(shape), p.table.reshape(shape)
    grad_x = torch.zeros_like(table)
    position, result = [], []
    for k in range(p.count):
        factor = weights[:, k].view(p.groups, p.per_group, 1) if p.factor is None else p.factor[:, :, k, None]
        pull = incoming * factor
        value = torch.zeros_like(table) if p.factor is None else torch.zeros_like(p.rows[:, :, k])
        down, along = torch.zeros_like(p.rows[:, :, k]), torch.zeros_like(p.rows[:, :, k])
        for pixel, weight, slope_y, slope_x in zip(*(c[:, :, :, k] for c in corners), strict=True):
            index = pixel.unsqueeze(2).expand(shape)
            read = table.gather(3, index)
            grad_x.scatter_add_(3, index, pull * weight.unsqueeze(2))
            dot = (pull * read).sum(2)
            down.addcmul_(dot, slope_y)
            along.addcmul_(dot, slope_x)
            if p.factor is None:
                value.addcmul_(read, weight.unsqueeze(2))
            else:
                value.addcmul_((incoming * read).sum(2), weight)
        position.append(torch.stack((down, along), dim=2))
        result.append((incoming * value).sum((0, 3)).flatten() if p.factor is None else value)
    axis = 1 if p.factor is None else 2
    return grad_x.view(grad.shape), torch.stack(position, dim=2), torch.stack(result, dim=axis)

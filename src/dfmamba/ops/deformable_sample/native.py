"""Deformable sampling on the C kernels: arranges the operands and makes room for the results.

The structures mirror ``ops/native/kernels.h``.
"""

from __future__ import annotations

from ctypes import Structure, c_int64, c_void_p

import torch
from torch import Tensor

from dfmamba.ops import native
from dfmamba.ops.deformable_sample.groups import common_groups, gather_groups, spread_groups


class _Field(Structure):
    _fields_ = (("at", c_void_p), *((n, c_int64) for n in ("batch", "group", "anchor", "axis", "pixel")))


class _Sample(Structure):
    _fields_ = (
        *((n, c_int64) for n in ("batch", "height", "width", "channels", "groups", "anchors", "threads")),
        ("x", c_void_p),
        ("offsets", _Field),
        ("weights", _Field),
        ("fixed", c_void_p),
        ("grid", c_void_p),
    )


class _Gradient(Structure):
    _fields_ = tuple((n, c_void_p) for n in ("grad", "x", "position", "weights", "fixed"))


def _by_pixel(x: Tensor) -> Tensor:
    """(batch, C, H, W) as dense (batch, H W, C)."""
    return x.float().flatten(2).transpose(1, 2).contiguous()


def _field(x: Tensor | None) -> _Field:
    if x is None:
        return _Field(None, 0, 0, 0, 0, 0)
    batch, group, anchor, *axis, pixel = x.stride()
    return _Field(x.data_ptr(), batch, group, anchor, axis[0] if axis else 0, pixel)


class _Problem:
    """The operands as the kernels want them, kept alive beside the structure that points to them."""

    def __init__(self, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> None:
        self.batch, self.channels, self.height, self.width = x.shape
        self.pixels, self.anchors = self.height * self.width, anchors.shape[0]
        self.groups = common_groups(offsets, weights)
        self.x = _by_pixel(x)
        self.offsets = None if offsets is None else spread_groups(offsets.float(), self.groups)
        dynamic = weights.dim() == 5
        self.weights = spread_groups(weights.float(), self.groups) if dynamic else None
        self.fixed = None if dynamic else weights.float().t().contiguous()
        self.grid = anchors.float().contiguous()
        self.structure = _Sample(
            self.batch,
            self.height,
            self.width,
            self.channels,
            self.groups,
            self.anchors,
            torch.get_num_threads(),
            self.x.data_ptr(),
            _field(self.offsets),
            _field(self.weights),
            native.pointer(self.fixed),
            self.grid.data_ptr(),
        )

    def as_map(self, rows: Tensor) -> Tensor:
        """(batch, H W, C) as (batch, C, H, W), channels-last in memory."""
        return rows.view(self.batch, self.height, self.width, self.channels).permute(0, 3, 1, 2)


def forward(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    """(batch, C, H, W) in float32, channels-last in memory."""
    p = _Problem(x, offsets, weights, anchors)
    y = torch.empty(p.batch, p.pixels, p.channels)
    native.compute("dfmamba_sample_forward", p.structure, c_void_p(y.data_ptr()))
    return p.as_map(y)


def backward(
    grad: Tensor, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of x, offsets (None for none), weights and anchors, in float32."""
    p = _Problem(x, offsets, weights, anchors)
    incoming = _by_pixel(grad)
    grad_x = torch.zeros(p.batch, p.pixels, p.channels)
    position = torch.empty(p.batch, p.groups, p.anchors, 2, p.pixels)
    dynamic = torch.empty(p.batch, p.groups, p.anchors, p.pixels) if p.fixed is None else None
    fixed = None if p.fixed is None else torch.zeros(p.batch, p.anchors, p.channels)
    gradient = _Gradient(*(native.pointer(t) for t in (incoming, grad_x, position, dynamic, fixed)))
    native.compute("dfmamba_sample_backward", p.structure, gradient)
    grad_offsets = None if offsets is None else gather_groups(position, offsets)
    if fixed is not None:
        grad_weights = fixed.sum(0).t()
    else:
        assert dynamic is not None
        grad_weights = gather_groups(dynamic, weights)
    return p.as_map(grad_x), grad_offsets, grad_weights, position.sum((0, 1, 4))

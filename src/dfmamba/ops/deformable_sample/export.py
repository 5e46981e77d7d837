"""Deformable sampling in operators that exporters know.

Three forms. "dense": on small maps the bilinear weights of a position are the product of a hat function
``relu(1 - |distance|)`` of the rows and one of the columns, so two matrix products sample the map, without a
single gather. "deform_conv": torchvision's `deform_conv2d`, ONNX's DeformConv from opset 19. "grid_sample":
for runtimes without DeformConv; several times slower in onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dfmamba.ops.backend import wide_dtype

FORMS = ("auto", "basic", "dense", "deform_conv", "grid_sample")

DENSE_PIXELS = 256
"""Most pixels times groups for which the dense form is the faster one (measured in onnxruntime)."""

_form: ContextVar[str] = ContextVar("dfmamba_sampling_form", default="auto")


@contextmanager
def sampling_form(name: str) -> Iterator[None]:
    """Choose the form of the enclosed exported sampling.

    Args:
        name: "auto" (dense on small maps with weights per pixel, else deform_conv), "basic" (the same, with
            grid_sample instead of deform_conv), or one form for all: "dense", "deform_conv", "grid_sample".
            Weights per channel have no dense form; with "dense" they take grid_sample.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in FORMS:
        raise ValueError(f"unknown form of sampling {name!r}; choose one of {', '.join(FORMS)}")
    token = _form.set(name)
    try:
        yield
    finally:
        _form.reset(token)


def _grid(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel in raster order, each (H W)."""
    here = torch.arange(height * width, device=like.device)
    rows = torch.div(here, width, rounding_mode="floor")
    return rows.to(like.dtype), (here - rows * width).to(like.dtype)


def _positions(x: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns to read, each (batch, G, H W, K)."""
    rows, columns = _grid(x.shape[2], x.shape[3], x)
    moved = offsets.flatten(4).permute(0, 1, 3, 4, 2)
    start_rows, start_columns = rows[:, None] + anchors[:, 0], columns[:, None] + anchors[:, 1]
    return moved[:, :, 0] + start_rows, moved[:, :, 1] + start_columns


def _dense(x: Tensor, offsets: Tensor, weights: Tensor, anchors: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    groups, pixels = offsets.shape[1], height * width
    rows, columns = _positions(x, offsets, anchors)
    down = torch.arange(height, device=x.device).to(x.dtype)
    along = torch.arange(width, device=x.device).to(x.dtype)
    row_hats = F.relu(1 - (rows[..., None, :] - down[:, None]).abs())  # (batch, G, H W, H, K)
    row_hats = row_hats * weights.flatten(3).transpose(2, 3)[:, :, :, None]
    column_hats = F.relu(1 - (columns[..., None] - along).abs())  # (batch, G, H W, K, W)
    matrix = torch.matmul(row_hats, column_hats).reshape(batch, groups, pixels, pixels)
    table = x.reshape(batch, groups, channels // groups, pixels)
    return torch.matmul(table, matrix.transpose(2, 3)).reshape(batch, channels, height, width)


def _deform_conv(x: Tensor, offsets: Tensor, weights: Tensor, anchors: Tensor) -> Tensor:
    try:
        from torchvision.ops import deform_conv2d
    except ImportError as error:
        raise ImportError(
            "exporting deformable sampling as DeformConv needs torchvision; "
            "install dfmamba[export], or export with basic operators"
        ) from error
    batch, channels, height, width = x.shape
    groups, count = offsets.shape[1], anchors.shape[0]
    # A kernel of one row with dilation 2 is centred for any K; where its taps lie is taken off the anchors.
    taps = torch.arange(1 - count, count, 2, device=x.device).to(x.dtype)
    start = anchors - torch.stack((torch.zeros_like(taps), taps), dim=-1)
    moved = (offsets + start[:, :, None, None]).reshape(batch, groups * count * 2, height, width)
    if weights.dim() == 2:
        kernel, mask = weights.reshape(channels, 1, 1, count), None
    else:
        kernel = torch.ones(channels, 1, 1, count, dtype=x.dtype, device=x.device)
        mask = weights.reshape(batch, groups * count, height, width)
    return deform_conv2d(x, moved, kernel, padding=(0, count - 1), dilation=(1, 2), mask=mask)


def _grid_sample(x: Tensor, offsets: Tensor, weights: Tensor, anchors: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    groups, count = offsets.shape[1], anchors.shape[0]
    rows, columns = _positions(x, offsets, anchors)
    places = torch.stack(((2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1), dim=-1)
    maps = x.reshape(batch * groups, channels // groups, height, width)
    places = places.reshape(batch * groups, height * width, count, 2)
    values = F.grid_sample(maps, places, "bilinear", "zeros", align_corners=False)
    if weights.dim() == 2:
        values = values.reshape(batch, channels, height * width, count) * weights[:, None]
    else:
        values = values * weights.flatten(3).transpose(2, 3).reshape(batch * groups, 1, height * width, count)
    return values.sum(-1).reshape(batch, channels, height, width)


def _repeat_groups(fields: Tensor, groups: int) -> Tensor:
    """Fields (batch, g, ...) for `groups` groups, a multiple of g."""
    own = fields.shape[1]
    if own == groups:
        return fields
    repeated = fields[:, :, None].expand(-1, -1, groups // own, *fields.shape[2:])
    return repeated.flatten(1, 2)


def deformable_sample_export(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    """Deformable sampling for exporters; as `dfmamba.ops.deformable_sample`, operands already checked.

    The batch may be symbolic; height and width are numbers.

    Args:
        x: (batch, C, H, W).
        offsets: (batch, groups, K, 2, H, W), or None.
        weights: (C, K) or (batch, groups, K, H, W).
        anchors: (K, 2).

    Returns:
        (batch, C, H, W) in x's dtype.

    Raises:
        ImportError: if the form is deform_conv and torchvision is missing.
    """
    given = x.dtype
    wide = wide_dtype(x, offsets, weights, anchors)
    x, weights, anchors = x.to(wide), weights.to(wide), anchors.to(wide)
    batch, _, height, width = x.shape
    if offsets is None:
        offsets = x.new_zeros(batch, 1, anchors.shape[0], 2, height, width)
    offsets = offsets.to(wide)
    per_pixel = weights.dim() == 5
    groups = math.lcm(offsets.shape[1], weights.shape[1] if per_pixel else 1)
    offsets = _repeat_groups(offsets, groups)
    if per_pixel:
        weights = _repeat_groups(weights, groups)

    form = _form.get()
    if form in ("auto", "basic"):
        small = per_pixel and height * width * groups <= DENSE_PIXELS
        form = "dense" if small else "deform_conv" if form == "auto" else "grid_sample"
    if form == "dense" and not per_pixel:
        form = "grid_sample"
    run = {"dense": _dense, "deform_conv": _deform_conv, "grid_sample": _grid_sample}[form]
    return run(x, offsets, weights, anchors).to(given)

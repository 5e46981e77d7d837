"""Deformable sampling as Triton kernels, forward and backward, for operands on a GPU.

A program computes a tile (pixel, channel) of one group of channels: positions and bilinear shares are found
once per pixel, then the four corners of every anchor are read for all channels of the tile. Equations and the
rule for derivatives at whole-number positions: `ops/README.md`.

Operands are those of `dfmamba.ops.deformable_sample` in float32, bfloat16 or float16, any strides; float64
is a `ValueError`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from dfmamba.ops.triton_common import (
    INTERPRETED,
    configurations,
    device_of,
    fitting,
    load_tile,
    new_like,
    refuse_double,
    store_tile,
    strides,
    warp_counts,
)

PIXELS = 32
"""Pixels of a tile."""
_WIDEST = 64


@triton.jit
def split(position, size):
    """First of the two neighbouring cells, the share of the second one, and which of the two lie inside."""
    low = tl.floor(position)
    near = (low >= 0) & (low <= size - 1)
    far = (low >= -1) & (low <= size - 2)
    # Only a cell that can be read may become an integer: others may be too large, or not numbers.
    cell = tl.where(near | far, low, 0.0).to(tl.int32)
    return cell, position - low, near, far


@triton.jit
def position_of(offsets, anchors, i_batch, i_group, k, row, column, o_b, o_g, o_k, o_a, o_h, o_w, in_map):
    """Row and column, (pixel,), that anchor k reads."""
    y = row + tl.load(anchors + 2 * k).to(tl.float32)
    x = column + tl.load(anchors + 2 * k + 1).to(tl.float32)
    if offsets is not None:
        place = offsets + i_batch * o_b + i_group * o_g + k * o_k + row * o_h + column * o_w
        y += tl.load(place, mask=in_map, other=0.0).to(tl.float32)
        x += tl.load(place + o_a, mask=in_map, other=0.0).to(tl.float32)
    return y, x


@triton.jit
def sample_tile(
    image, offsets, weights, anchors, i_batch, i_o, i_w, t, d, in_map, in_group, height, width,
    x_b, x_d, x_h, x_w, o_b, o_g, o_k, o_a, o_h, o_w, w_b, w_g, w_k, w_h, w_w,
    COUNT: tl.constexpr, STATIC: tl.constexpr, PIXELS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Weighted sum of samples, (pixel, channel) float32. STATIC weights have their strides in w_b and w_k."""
    row, column = t // width, t % width
    total = tl.zeros((PIXELS, BLOCK_D), tl.float32)
    source = image + i_batch * x_b + d[None, :] * x_d
    for k in range(COUNT):
        y, x = position_of(
            offsets, anchors, i_batch, i_o, k, row, column, o_b, o_g, o_k, o_a, o_h, o_w, in_map
        )
        top, down, top_in, bottom_in = split(y, height)
        left, right, left_in, right_in = split(x, width)
        place = source + (top * x_h + left * x_w)[:, None]
        mask = in_map[:, None] & in_group[None, :]
        v_00 = tl.load(place, mask=mask & (top_in & left_in)[:, None], other=0.0).to(tl.float32)
        v_01 = tl.load(place + x_w, mask=mask & (top_in & right_in)[:, None], other=0.0).to(tl.float32)
        v_10 = tl.load(place + x_h, mask=mask & (bottom_in & left_in)[:, None], other=0.0).to(tl.float32)
        v_11 = tl.load(place + x_h + x_w, mask=mask & (bottom_in & right_in)[:, None], other=0.0).to(
            tl.float32
        )
        if STATIC:
            scale = tl.load(weights + d * w_b + k * w_k, mask=in_group, other=0.0).to(tl.float32)[None, :]
            upper = v_00 * (1.0 - right)[:, None] + v_01 * right[:, None]
            lower = v_10 * (1.0 - right)[:, None] + v_11 * right[:, None]
            total += scale * (upper * (1.0 - down)[:, None] + lower * down[:, None])
        else:
            factor = weights + i_batch * w_b + i_w * w_g + k * w_k + row * w_h + column * w_w
            scale = tl.load(factor, mask=in_map, other=0.0).to(tl.float32)
            upper, lower = scale * (1.0 - down), scale * down
            total += v_00 * (upper * (1.0 - right))[:, None] + v_01 * (upper * right)[:, None]
            total += v_10 * (lower * (1.0 - right))[:, None] + v_11 * (lower * right)[:, None]
    return total


@triton.autotune(
    configurations((8, 1), (32, 4), (64, 4), (128, 8), interpreted=4, block="BLOCK_D"),
    key=["channels_of_group", "COUNT", "STATIC"],
    prune_configs_by={"early_config_prune": fitting("BLOCK_D", "PIXELS", "channels_of_group")},
)
@triton.jit
def _forward_kernel(
    image, offsets, weights, anchors, out, height, width, channels_of_group, per_o, per_w,
    x_b, x_d, x_h, x_w, o_b, o_g, o_k, o_a, o_h, o_w, w_b, w_g, w_k, w_h, w_w, y_b, y_d, y_t,
    COUNT: tl.constexpr, STATIC: tl.constexpr, RESIDUAL: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tiles, blocks = tl.cdiv(height * width, PIXELS), tl.cdiv(channels_of_group, BLOCK_D)
    i_batch, i_group = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(1) // blocks
    t = tl.program_id(0) % tiles * PIXELS + tl.arange(0, PIXELS)
    of_group = tl.program_id(1) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    in_map, in_group, d = (
        t < height * width,
        of_group < channels_of_group,
        i_group * channels_of_group + of_group,
    )
    inside = in_map[:, None] & in_group[None, :]
    total = sample_tile(
        image, offsets, weights, anchors, i_batch, i_group // per_o, i_group // per_w, t, d, in_map, in_group,
        height, width, x_b, x_d, x_h, x_w, o_b, o_g, o_k, o_a, o_h, o_w, w_b, w_g, w_k, w_h, w_w,
        COUNT, STATIC, PIXELS, BLOCK_D,
    )  # fmt: skip
    if RESIDUAL:
        place = (t // width * x_h + t % width * x_w)[:, None] + d[None, :] * x_d
        total += tl.load(image + i_batch * x_b + place, mask=inside, other=0.0).to(tl.float32)
    store_tile(out, total, i_batch, t, d, y_b, y_d, y_t, inside)


@triton.jit
def _add(place, value, mask):
    tl.atomic_add(place, value, mask=mask, sem="relaxed")


@triton.autotune(
    warp_counts(4, 8),
    key=["channels_of_group", "COUNT", "STATIC", "BLOCK_D"],
    reset_to_zero=["grad_image"],
)
@triton.jit
def _backward_kernel(
    grad, image, offsets, weights, anchors, grad_image, part_pixel, part_weight,
    height, width, channels, channels_of_group, per_o, per_w,
    g_b, g_d, g_t, x_b, x_d, x_h, x_w, o_b, o_g, o_k, o_a, o_h, o_w, w_b, w_g, w_k, w_h, w_w,
    gx_b, gx_d, gx_h, gx_w,
    COUNT: tl.constexpr, STATIC: tl.constexpr, PIXELS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Partial sums: dy, dx, weight (batch, blocks, K, 3, pixels); STATIC weights (batch, tiles, K, C)."""
    pixels = height * width
    tiles, blocks = tl.cdiv(pixels, PIXELS), tl.cdiv(channels_of_group, BLOCK_D)
    i_batch, i_tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    i_group = tl.program_id(1) // blocks
    t = i_tile * PIXELS + tl.arange(0, PIXELS)
    of_group = tl.program_id(1) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    in_map, in_group, d = t < pixels, of_group < channels_of_group, i_group * channels_of_group + of_group
    mask = in_map[:, None] & in_group[None, :]
    row, column = t // width, t % width
    incoming = load_tile(grad, i_batch, t, d, g_b, g_d, g_t, mask)
    source = image + i_batch * x_b + d[None, :] * x_d
    target = grad_image + i_batch * gx_b + d[None, :] * gx_d
    part = part_pixel + (i_batch * tl.num_programs(1) + tl.program_id(1)) * COUNT * 3 * pixels + t
    for k in range(COUNT):
        y, x = position_of(
            offsets, anchors, i_batch, i_group // per_o, k, row, column, o_b, o_g, o_k, o_a, o_h, o_w, in_map
        )
        top, down, top_in, bottom_in = split(y, height)
        left, right, left_in, right_in = split(x, width)
        up, near = 1.0 - down, 1.0 - right
        place = source + (top * x_h + left * x_w)[:, None]
        m_00, m_01 = mask & (top_in & left_in)[:, None], mask & (top_in & right_in)[:, None]
        m_10, m_11 = mask & (bottom_in & left_in)[:, None], mask & (bottom_in & right_in)[:, None]
        v_00 = tl.load(place, mask=m_00, other=0.0).to(tl.float32)
        v_01 = tl.load(place + x_w, mask=m_01, other=0.0).to(tl.float32)
        v_10 = tl.load(place + x_h, mask=m_10, other=0.0).to(tl.float32)
        v_11 = tl.load(place + x_h + x_w, mask=m_11, other=0.0).to(tl.float32)
        if STATIC:
            scale = tl.load(weights + d * w_b + k * w_k, mask=in_group, other=0.0).to(tl.float32)
            sample = (v_00 * near[:, None] + v_01 * right[:, None]) * up[:, None]
            sample += (v_10 * near[:, None] + v_11 * right[:, None]) * down[:, None]
            where = part_weight + ((i_batch * tiles + i_tile) * COUNT + k) * channels + d
            tl.store(where, tl.sum(incoming * sample, axis=0), mask=in_group)
            spread = incoming * scale[None, :]
            factor = tl.full((PIXELS,), 1.0, tl.float32)
        else:
            where = weights + i_batch * w_b + (i_group // per_w) * w_g + k * w_k + row * w_h + column * w_w
            factor = tl.load(where, mask=in_map, other=0.0).to(tl.float32)
            spread = incoming
        s_00, s_01 = tl.sum(spread * v_00, axis=1), tl.sum(spread * v_01, axis=1)
        s_10, s_11 = tl.sum(spread * v_10, axis=1), tl.sum(spread * v_11, axis=1)
        own = part + k * 3 * pixels
        tl.store(own, factor * (near * (s_10 - s_00) + right * (s_11 - s_01)), mask=in_map)
        tl.store(own + pixels, factor * (up * (s_01 - s_00) + down * (s_11 - s_10)), mask=in_map)
        tl.store(
            own + 2 * pixels,
            up * (near * s_00 + right * s_01) + down * (near * s_10 + right * s_11),
            mask=in_map,
        )
        place = target + (top * gx_h + left * gx_w)[:, None]
        _add(place, spread * (factor * up * near)[:, None], m_00)
        _add(place + gx_w, spread * (factor * up * right)[:, None], m_01)
        _add(place + gx_h, spread * (factor * down * near)[:, None], m_10)
        _add(place + gx_h + gx_w, spread * (factor * down * right)[:, None], m_11)


def group_counts(offsets: Tensor | None, weights: Tensor) -> tuple[int, int]:
    """Groups of channels with offsets, and with weights, of their own."""
    return 1 if offsets is None else offsets.shape[1], weights.shape[1] if weights.dim() == 5 else 1


def field_strides(offsets: Tensor | None, weights: Tensor) -> tuple[int, ...]:
    """Strides of offsets and weights as the kernels take them."""
    if weights.dim() == 5:
        return *strides(offsets, 6), *weights.stride()
    return *strides(offsets, 6), weights.stride(0), 0, weights.stride(1), 0, 0


def deformable_sample_forward(
    x: Tensor,
    offsets: Tensor | None,
    weights: Tensor,
    anchors: Tensor,
    residual: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Weighted sum of bilinear samples; operands as in the module.

    Args:
        x: feature map, (batch, C, H, W).
        offsets: (batch, groups, K, 2, H, W) or None.
        weights: (C, K) or (batch, groups, K, H, W).
        anchors: (K, 2).
        residual: add x.
        dtype: of the result; None for that of x.

    Returns:
        (batch, C, H, W).
    """
    batch, channels, height, width = x.shape
    refuse_double(x=x, offsets=offsets, weights=weights, anchors=anchors)
    per_offset, per_weight = group_counts(offsets, weights)
    groups = math.lcm(per_offset, per_weight)
    out = new_like(x, dtype)

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        blocks = triton.cdiv(channels // groups, meta["BLOCK_D"])
        return batch * triton.cdiv(height * width, PIXELS), groups * blocks

    with device_of(x):
        _forward_kernel[grid](
            x, offsets, weights, anchors.contiguous(), out, height, width, channels // groups,
            groups // per_offset, groups // per_weight, *x.stride(), *field_strides(offsets, weights),
            *out.flatten(2).stride(),
            COUNT=anchors.shape[0], STATIC=weights.dim() == 2, RESIDUAL=residual, PIXELS=PIXELS,
        )  # fmt: skip
    return out


def deformable_sample_backward(
    grad: Tensor,
    x: Tensor,
    offsets: Tensor | None,
    weights: Tensor,
    anchors: Tensor,
    residual: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of x, offsets (None for None), weights and anchors, each in its operand's dtype.

    The gradient of x is summed by atomic additions in float32: its last bits differ from run to run.

    Args:
        grad: gradient of the result, (batch, C, H, W), float32 or half precision.
        x, offsets, weights, anchors, residual: as in the forward pass.
    """
    batch, channels, height, width = x.shape
    pixels, count = height * width, anchors.shape[0]
    per_offset, per_weight = group_counts(offsets, weights)
    groups = math.lcm(per_offset, per_weight)
    block = 4 if INTERPRETED else min(_WIDEST, max(8, triton.next_power_of_2(channels // groups)))
    blocks, tiles = groups * triton.cdiv(channels // groups, block), triton.cdiv(pixels, PIXELS)
    static = weights.dim() == 2
    grad_x = new_like(x, torch.float32).zero_()
    part = x.new_empty((batch, blocks, count, 3, pixels), dtype=torch.float32)
    part_weight = x.new_empty((batch, tiles, count, channels), dtype=torch.float32) if static else None
    flat = grad.flatten(2)
    with device_of(x):
        _backward_kernel[(batch * tiles, blocks)](
            flat, x, offsets, weights, anchors.contiguous(), grad_x, part, part_weight, height, width,
            channels, channels // groups, groups // per_offset, groups // per_weight,
            *flat.stride(), *x.stride(), *field_strides(offsets, weights), *grad_x.stride(),
            COUNT=count, STATIC=static, PIXELS=PIXELS, BLOCK_D=block,
        )  # fmt: skip
    if residual:
        grad_x += grad
    moved = part[:, :, :, :2]
    grad_anchors = moved.sum((0, 1, 4)).to(anchors.dtype)
    grad_offsets = None
    if offsets is not None:
        grad_offsets = moved.unflatten(1, (per_offset, -1)).sum(2).view(offsets.shape).to(offsets.dtype)
    if part_weight is not None:
        grad_weights = part_weight.sum((0, 1)).t()
    else:
        grad_weights = part[:, :, :, 2].unflatten(1, (per_weight, -1)).sum(2).view(weights.shape)
    return grad_x.to(x.dtype), grad_offsets, grad_weights.to(weights.dtype), grad_anchors

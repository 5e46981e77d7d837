"""Deformable selective scan as one Triton kernel: gather, residual, discretisation, scan, skip and gate.

A sequence that fits into one chunk (`triton_common.LONGEST_TILE`) takes one launch, and neither the samples
nor the states reach memory. Of a longer one the first launch samples each chunk, stores the sampled map once
in float32 and finds what the chunk makes of a zero state; the rest is the selective scan's. The backward pass
recomputes the sampled map, once, and then runs the two operators' backward kernels.

Operands are those of `dfmamba.ops.deformable_selective_scan` in float32, bfloat16 or float16, any strides.
B and C must depend on the step. Anything else is a `ValueError`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dfmamba.ops.deformable_sample.triton_kernels import (
    deformable_sample_backward,
    deformable_sample_forward,
    field_strides,
    group_counts,
    sample_tile,
)
from dfmamba.ops.selective_scan.triton_kernels import carry, finish_scan, selective_scan_backward
from dfmamba.ops.triton_common import (
    ScanOperands,
    ScanPlan,
    configurations,
    device_of,
    fitting,
    load_steps,
    new_like,
    refuse_double,
    scan_tile,
    store_ends,
    store_tile,
    where_am_i,
)


@triton.autotune(
    configurations((8, 1), (8, 4), (16, 4), (32, 4), (32, 8), interpreted=4, block="BLOCK_D"),
    key=["width", "STEPS", "STATES", "COUNT", "STATIC"],
    prune_configs_by={"early_config_prune": fitting("BLOCK_D", "STEPS")},
)
@triton.jit
def _forward_kernel(
    image, offsets, weights, anchors, u, delta, A, B, C, D, z, delta_bias, y, last, ends, totals,
    chunks, length, channels, width, per_b, per_c, rows, columns, per_o, per_w,
    u_b, u_d, u_t, s_b, s_d, s_t, b_b, b_g, b_n, b_t, c_b, c_g, c_n, c_t, z_b, z_d, z_t, y_b, y_d, y_t,
    x_b, x_d, x_h, x_w, o_b, o_g, o_k, o_a, o_h, o_w, w_b, w_g, w_k, w_h, w_w,
    RESIDUAL: tl.constexpr, COUNT: tl.constexpr, STATIC: tl.constexpr,
    SOFTPLUS: tl.constexpr, STATES: tl.constexpr, STEPS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """With `ends` this is the first launch of several and stores u; else it computes y and the last state."""
    i_batch, i_chunk, i_group, t, d, in_time, in_group = where_am_i(
        chunks, length, width, tl.cdiv(width, BLOCK_D), STEPS, BLOCK_D
    )
    inside = in_time[:, None] & in_group[None, :]
    x = sample_tile(
        image, offsets, weights, anchors, i_batch, i_group // per_o, i_group // per_w, t, d, in_time,
        in_group, rows, columns, x_b, x_d, x_h, x_w, o_b, o_g, o_k, o_a, o_h, o_w, w_b, w_g, w_k, w_h, w_w,
        COUNT, STATIC, STEPS, BLOCK_D,
    )  # fmt: skip
    if RESIDUAL:
        place = (t // columns * x_h + t % columns * x_w)[:, None] + d[None, :] * x_d
        x += tl.load(image + i_batch * x_b + place, mask=inside, other=0.0).to(tl.float32)
    step, _ = load_steps(delta, delta_bias, i_batch, t, d, s_b, s_d, s_t, inside, in_group, SOFTPLUS)
    if ends is not None:
        store_tile(u, x, i_batch, t, d, u_b, u_d, u_t, inside)
        store_ends(
            x, step, A, B, ends, totals, i_batch, i_chunk, chunks, i_group // per_b, t, d, channels, in_time,
            in_group, b_b, b_g, b_n, b_t, STATES, STEPS,
        )  # fmt: skip
    else:
        scan_tile(
            x, step, A, B, C, D, z, y, last, None, i_batch, i_chunk, chunks, i_group // per_b,
            i_group // per_c, t, d, channels, in_time, in_group, inside, b_b, b_g, b_n, b_t, c_b, c_g,
            c_n, c_t, z_b, z_d, z_t, y_b, y_d, y_t, STATES, STEPS,
        )  # fmt: skip


def deformable_selective_scan_forward(
    x: Tensor,
    offsets: Tensor | None,
    weights: Tensor,
    anchors: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    residual: bool,
) -> tuple[Tensor, Tensor]:
    """Deformable sampling (plus x with `residual`), then a selective scan; operands as the module says.

    Returns:
        y (batch, C, H, W) in x's dtype and the last state (batch, C, N) in float32.
    """
    refuse_double(x=x, offsets=offsets, weights=weights, anchors=anchors)
    y = new_like(x)
    flat = y.flatten(2)
    gate = None if z is None else z.flatten(2)
    # u is only read for its shape and strides where one chunk holds the sequence.
    operands = ScanOperands.prepared(flat, delta.flatten(2), A, B, C, D, gate, delta_bias)
    counts = group_counts(offsets, weights)
    plan = ScanPlan.of(operands, delta_softplus, *counts)
    last = x.new_empty((plan.batch, plan.channels, plan.states), dtype=torch.float32)
    ends = totals = None
    if plan.chunks > 1:
        operands = operands._replace(u=new_like(flat, torch.float32))
        ends, totals = plan.boundaries(x)
    with device_of(x):
        _forward_kernel[plan.grid](
            x, offsets, weights, anchors.contiguous(), *operands, flat, last, ends, totals,
            *plan.sizes(operands), *x.shape[2:], *(plan.groups // count for count in counts),
            *operands.strides(), *flat.stride(), *x.stride(), *field_strides(offsets, weights),
            RESIDUAL=residual, COUNT=anchors.shape[0], STATIC=weights.dim() == 2,
            SOFTPLUS=plan.softplus, STATES=plan.states, STEPS=plan.steps,
        )  # fmt: skip
        if ends is not None and totals is not None:
            last = finish_scan(plan, operands, flat, carry(plan, ends, totals, operands.A))
    return y, last


def deformable_selective_scan_backward(
    grad_y: Tensor,
    x: Tensor,
    offsets: Tensor | None,
    weights: Tensor,
    anchors: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    residual: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, offsets, weights, anchors, delta, A, B, C, D, z, delta_bias; None for None.

    Each has its operand's shape and dtype.

    Args:
        grad_y: gradient of y, (batch, C, H, W).
        x, ...: operands of the forward pass.
    """
    mixed = deformable_sample_forward(x, offsets, weights, anchors, residual, torch.float32)
    gate = None if z is None else z.flatten(2)
    grad_mixed, grad_delta, grad_a, grad_b, grad_c, grad_d, grad_z, grad_bias = selective_scan_backward(
        grad_y.flatten(2),
        None,
        mixed.flatten(2),
        delta.flatten(2),
        A,
        B,
        C,
        D,
        gate,
        delta_bias,
        delta_softplus,
    )
    assert grad_mixed is not None
    assert grad_delta is not None
    grads = deformable_sample_backward(grad_mixed.view_as(x), x, offsets, weights, anchors, residual)
    grad_z = None if z is None or grad_z is None else grad_z.view(z.shape)
    return *grads, grad_delta.view(delta.shape), grad_a, grad_b, grad_c, grad_d, grad_z, grad_bias

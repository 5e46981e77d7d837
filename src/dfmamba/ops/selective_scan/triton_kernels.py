"""Selective scan as Triton kernels, forward and backward, for operands on a GPU.

A program holds one chunk of the sequence for a block of channels as a tile (step, channel) and solves the
recurrence in it with an associative scan, one state after the other, so neither states nor decays reach
memory. A sequence that fits into one chunk takes one launch. A longer one takes three, parallel over chunks:
what each chunk makes of a zero state (`_ends_kernel`), the state that enters each chunk (`_carry_kernel`) and
the result (`_forward_kernel`). The backward pass does the same in both directions of time and recomputes the
states of a chunk from the one that enters it. Equations: `ops/README.md`; the scan over pairs (decay, added
state) is that of Blelloch (1990) as used by S5 (Smith et al. 2023).

Operands are those of `dfmamba.ops.selective_scan` in float32, bfloat16 or float16, any strides. B and C must
depend on the step. Anything else is a `ValueError`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dfmamba.ops.triton_common import (
    ScanOperands,
    ScanPlan,
    compose,
    configurations,
    device_of,
    fitting,
    load_row,
    load_steps,
    load_tile,
    new_like,
    scan_tile,
    sigmoid,
    store_ends,
    store_tile,
    strides,
    warp_counts,
    warps_for,
    where_am_i,
)


@triton.autotune(
    configurations((8, 1), (8, 4), (16, 4), (32, 4), (32, 8), interpreted=4, block="BLOCK_D"),
    key=["width", "STEPS", "STATES"],
    prune_configs_by={"early_config_prune": fitting("BLOCK_D", "STEPS")},
)
@triton.jit
def _forward_kernel(
    u, delta, A, B, C, D, z, delta_bias, y, last, entering, chunks, length, channels, width, per_b, per_c,
    u_b, u_d, u_t, s_b, s_d, s_t, b_b, b_g, b_n, b_t, c_b, c_g, c_n, c_t, z_b, z_d, z_t, y_b, y_d, y_t,
    SOFTPLUS: tl.constexpr, STATES: tl.constexpr, STEPS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    i_batch, i_chunk, i_group, t, d, in_time, in_group = where_am_i(
        chunks, length, width, tl.cdiv(width, BLOCK_D), STEPS, BLOCK_D
    )
    inside = in_time[:, None] & in_group[None, :]
    x = load_tile(u, i_batch, t, d, u_b, u_d, u_t, inside)
    step, _ = load_steps(delta, delta_bias, i_batch, t, d, s_b, s_d, s_t, inside, in_group, SOFTPLUS)
    scan_tile(
        x, step, A, B, C, D, z, y, last, entering, i_batch, i_chunk, chunks, i_group // per_b,
        i_group // per_c, t, d, channels, in_time, in_group, inside, b_b, b_g, b_n, b_t, c_b, c_g, c_n, c_t,
        z_b, z_d, z_t, y_b, y_d, y_t, STATES, STEPS,
    )  # fmt: skip


@triton.jit
def _ends_kernel(
    u, delta, A, B, C, D, z, delta_bias, grad_y, ends, starts, totals,
    chunks, length, channels, width, per_b, per_c,
    u_b, u_d, u_t, s_b, s_d, s_t, b_b, b_g, b_n, b_t, c_b, c_g, c_n, c_t, z_b, z_d, z_t, g_b, g_d, g_t,
    SOFTPLUS: tl.constexpr, STATES: tl.constexpr, STEPS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """With `grad_y` also what a chunk's outputs alone send to the state before it, (batch, chunks, D, N)."""
    i_batch, i_chunk, i_group, t, d, in_time, in_group = where_am_i(
        chunks, length, width, tl.cdiv(width, BLOCK_D), STEPS, BLOCK_D
    )
    inside = in_time[:, None] & in_group[None, :]
    x = load_tile(u, i_batch, t, d, u_b, u_d, u_t, inside)
    step, _ = load_steps(delta, delta_bias, i_batch, t, d, s_b, s_d, s_t, inside, in_group, SOFTPLUS)
    store_ends(
        x, step, A, B, ends, totals, i_batch, i_chunk, chunks, i_group // per_b, t, d, channels, in_time,
        in_group, b_b, b_g, b_n, b_t, STATES, STEPS,
    )  # fmt: skip
    if grad_y is not None:
        incoming = load_tile(grad_y, i_batch, t, d, g_b, g_d, g_t, inside)
        if z is not None:
            gate = load_tile(z, i_batch, t, d, z_b, z_d, z_t, inside)
            incoming *= gate * sigmoid(gate)
        first = tl.arange(0, STEPS)[:, None] == 0
        row = (i_batch * chunks + i_chunk) * channels + d
        for n in range(STATES):
            rate = tl.load(A + d * STATES + n, mask=in_group, other=0.0).to(tl.float32)
            c_row = load_row(C, i_batch, i_group // per_c, n, t, c_b, c_g, c_n, c_t, in_time)
            decay = tl.exp(step * rate[None, :])
            _, back = tl.associative_scan(
                (decay, decay * c_row[:, None] * incoming), axis=0, combine_fn=compose, reverse=True
            )
            tl.store(starts + row * STATES + n, tl.sum(tl.where(first, back, 0.0), axis=0), mask=in_group)


@triton.jit
def _carry_kernel(
    ends, totals, A, last, out, chunks, channels,
    BACKWARD: tl.constexpr, STATES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """State that enters each chunk, from its start, or from its end if BACKWARD (beginning with `last`)."""
    i_batch = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < channels * STATES
    rate = tl.load(A + place, mask=inside, other=0.0).to(tl.float32)
    state = tl.zeros_like(rate)
    if last is not None:
        state += tl.load(last + i_batch * channels * STATES + place, mask=inside, other=0.0).to(tl.float32)
    for i in range(chunks):
        i_chunk = i
        if BACKWARD:
            i_chunk = chunks - 1 - i
        row = (i_batch * chunks + i_chunk) * channels
        total = tl.load(totals + row + place // STATES, mask=inside, other=0.0)
        added = tl.load(ends + row * STATES + place, mask=inside, other=0.0)
        tl.store(out + row * STATES + place, state, mask=inside)
        state = tl.exp(rate * total) * state + added


@triton.autotune(
    warp_counts(1, 4, 8),
    key=["width", "STEPS", "STATES", "BLOCK_D"],
    prune_configs_by={"early_config_prune": fitting("BLOCK_D", "STEPS", largest_share=8)},
)
@triton.jit
def _backward_kernel(
    grad_y, u, delta, A, B, C, D, z, delta_bias, entering, later,
    grad_u, grad_delta, grad_z, part_a, part_b, part_c, part_d, part_bias,
    chunks, length, channels, width, per_b, per_c,
    g_b, g_d, g_t, u_b, u_d, u_t, s_b, s_d, s_t, b_b, b_g, b_n, b_t, c_b, c_g, c_n, c_t, z_b, z_d, z_t,
    gu_b, gu_d, gu_t, gs_b, gs_d, gs_t, gz_b, gz_d, gz_t,
    SOFTPLUS: tl.constexpr, STATES: tl.constexpr, STEPS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    i_batch, i_chunk, i_group, t, d, in_time, in_group = where_am_i(
        chunks, length, width, tl.cdiv(width, BLOCK_D), STEPS, BLOCK_D
    )
    i_b, i_c = i_group // per_b, i_group // per_c
    inside = in_time[:, None] & in_group[None, :]
    i_row = tl.arange(0, STEPS)
    x = load_tile(u, i_batch, t, d, u_b, u_d, u_t, inside)
    step, raw = load_steps(delta, delta_bias, i_batch, t, d, s_b, s_d, s_t, inside, in_group, SOFTPLUS)
    # The neighbouring steps, within the chunk: a step of 0 with nothing added passes a state on.
    has_before = (i_row > 0) & (t <= length)
    has_after = (i_row < STEPS - 1) & (t + 1 < length)
    before = has_before[:, None] & in_group[None, :]
    after = has_after[:, None] & in_group[None, :]
    x_before = load_tile(u, i_batch, t - 1, d, u_b, u_d, u_t, before)
    step_before, _ = load_steps(
        delta, delta_bias, i_batch, t - 1, d, s_b, s_d, s_t, before, in_group, SOFTPLUS
    )
    step_after, _ = load_steps(delta, delta_bias, i_batch, t + 1, d, s_b, s_d, s_t, after, in_group, SOFTPLUS)
    incoming = load_tile(grad_y, i_batch, t, d, g_b, g_d, g_t, inside)
    slope = incoming
    if z is not None:
        gate = load_tile(z, i_batch, t, d, z_b, z_d, z_t, inside)
        open_share = sigmoid(gate)
        slope = incoming * open_share * (1.0 + gate * (1.0 - open_share))
        incoming *= gate * open_share

    value, scaled, grad_step = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    row = (i_batch * chunks + i_chunk) * channels + d
    part = (i_batch * tl.num_programs(1) + tl.program_id(1)) * STATES * length
    for n in range(STATES):
        rate = tl.load(A + d * STATES + n, mask=in_group, other=0.0).to(tl.float32)[None, :]
        b_row = load_row(B, i_batch, i_b, n, t, b_b, b_g, b_n, b_t, in_time)[:, None]
        c_row = load_row(C, i_batch, i_c, n, t, c_b, c_g, c_n, c_t, in_time)[:, None]
        b_before = load_row(B, i_batch, i_b, n, t - 1, b_b, b_g, b_n, b_t, has_before)[:, None]
        running, h_before = tl.associative_scan(
            (tl.exp(step_before * rate), step_before * x_before * b_before), axis=0, combine_fn=compose
        )
        if entering is not None:
            h_before += running * tl.load(entering + row * STATES + n, mask=in_group, other=0.0)[None, :]
        running, g = tl.associative_scan(
            (tl.exp(step_after * rate), c_row * incoming), axis=0, combine_fn=compose, reverse=True
        )
        if later is not None:
            g += running * tl.load(later + row * STATES + n, mask=in_group, other=0.0).to(tl.float32)[None, :]
        kept = tl.exp(step * rate) * h_before
        h = kept + step * x * b_row
        value += h * c_row
        scaled += g * b_row
        grad_step += g * kept * rate
        tl.store(part_a + row * STATES + n, tl.sum(g * kept * step, axis=0), mask=in_group)
        tl.store(part_b + part + n * length + t, tl.sum(g * step * x, axis=1), mask=in_time)
        tl.store(part_c + part + n * length + t, tl.sum(h * incoming, axis=1), mask=in_time)

    grad_x = scaled * step
    if D is not None:
        skip = tl.load(D + d, mask=in_group, other=0.0).to(tl.float32)[None, :]
        value += skip * x
        grad_x += skip * incoming
        tl.store(part_d + row, tl.sum(incoming * x, axis=0), mask=in_group)
    store_tile(grad_u, grad_x, i_batch, t, d, gu_b, gu_d, gu_t, inside)
    grad_step += scaled * x
    if SOFTPLUS:
        grad_step *= sigmoid(raw)
    grad_step = tl.where(inside, grad_step, 0.0)
    store_tile(grad_delta, grad_step, i_batch, t, d, gs_b, gs_d, gs_t, inside)
    if delta_bias is not None:
        tl.store(part_bias + row, tl.sum(grad_step, axis=0), mask=in_group)
    if z is not None:
        store_tile(grad_z, slope * value, i_batch, t, d, gz_b, gz_d, gz_t, inside)


def carry(
    plan: ScanPlan,
    ends: Tensor,
    totals: Tensor,
    A: Tensor,
    last: Tensor | None = None,
    backward: bool = False,
) -> Tensor:
    """States that enter the chunks, (batch, chunks, D, N) float32; see `_carry_kernel`."""
    out = torch.empty_like(ends)
    grid = (plan.batch, triton.cdiv(plan.channels * plan.states, 128))
    _carry_kernel[grid](
        ends,
        totals,
        A,
        last,
        out,
        plan.chunks,
        plan.channels,
        BACKWARD=backward,
        STATES=plan.states,
        BLOCK=128,
    )
    return out


def _boundaries(
    plan: ScanPlan, operands: ScanOperands, grad_y: Tensor | None = None, grad_last: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """What enters every chunk from its start and, with `grad_y`, from its end; None for zeros."""
    if plan.chunks == 1:
        return None, grad_last
    ends, totals = plan.boundaries(operands.u)
    starts = None if grad_y is None else torch.empty_like(ends)
    _ends_kernel[plan.grid({"BLOCK_D": plan.block})](
        *operands, grad_y, ends, starts, totals, *plan.sizes(operands), *operands.strides(),
        *strides(grad_y, 3),
        SOFTPLUS=plan.softplus, STATES=plan.states, STEPS=plan.steps, BLOCK_D=plan.block,
        num_warps=warps_for(plan.steps * plan.block),
    )  # fmt: skip
    entering = carry(plan, ends, totals, operands.A)
    return entering, None if starts is None else carry(
        plan, starts, totals, operands.A, grad_last, backward=True
    )


def finish_scan(plan: ScanPlan, operands: ScanOperands, y: Tensor, entering: Tensor | None) -> Tensor:
    """Writes y (batch, D, L), given what enters each chunk; returns the last state, (batch, D, N) float32."""
    last = y.new_empty((plan.batch, plan.channels, plan.states), dtype=torch.float32)
    _forward_kernel[plan.grid](
        *operands, y, last, entering, *plan.sizes(operands), *operands.strides(), *y.stride(),
        SOFTPLUS=plan.softplus, STATES=plan.states, STEPS=plan.steps,
    )  # fmt: skip
    return last


def selective_scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Selective scan; operands as the module says.

    Returns:
        y (batch, D, L) in u's dtype and the last state (batch, D, N) in float32.
    """
    operands = ScanOperands.prepared(u, delta, A, B, C, D, z, delta_bias)
    plan = ScanPlan.of(operands, delta_softplus)
    y = new_like(u)
    with device_of(u):
        entering, _ = _boundaries(plan, operands)
        return y, finish_scan(plan, operands, y, entering)


def selective_scan_backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z and delta_bias, each in its operand's dtype; None for None.

    Sums over channels, steps and the batch are partial sums per program, added by PyTorch: the same operands
    give the same bits.

    Args:
        grad_y: gradient of y, (batch, D, L).
        grad_last: gradient of the last state, (batch, D, N), or None for zero.
        u, ...: operands of the forward pass.
    """
    operands = ScanOperands.prepared(u, delta, A, B, C, D, z, delta_bias)
    plan = ScanPlan.of(operands, delta_softplus)
    grad_u, grad_delta, grad_z = new_like(u), new_like(delta), None if z is None else new_like(z)
    part_a, part_d = plan.boundaries(u)
    part_bias = torch.empty_like(part_d)
    part_b = u.new_empty((plan.batch, plan.blocks, plan.states, plan.length), dtype=torch.float32)
    part_c = torch.empty_like(part_b)
    with device_of(u):
        entering, later = _boundaries(
            plan, operands, grad_y, None if grad_last is None else grad_last.contiguous()
        )
        _backward_kernel[plan.grid({"BLOCK_D": plan.block})](
            grad_y, *operands, entering, later,
            grad_u, grad_delta, grad_z, part_a, part_b, part_c, part_d, part_bias,
            *plan.sizes(operands), *grad_y.stride(), *operands.strides(),
            *grad_u.stride(), *grad_delta.stride(), *strides(grad_z, 3),
            SOFTPLUS=plan.softplus, STATES=plan.states, STEPS=plan.steps, BLOCK_D=plan.block,
        )  # fmt: skip
    return (
        grad_u,
        grad_delta,
        part_a.sum((0, 1)).to(A.dtype),
        _over_blocks(part_b, B),
        _over_blocks(part_c, C),
        None if D is None else part_d.sum((0, 1)).to(D.dtype),
        grad_z,
        None if delta_bias is None else part_bias.sum((0, 1)).to(delta_bias.dtype),
    )


def _over_blocks(partial: Tensor, matrix: Tensor) -> Tensor:
    """Sum of (batch, blocks, N, L) over the blocks of each group of B or C."""
    groups = matrix.shape[1] if matrix.dim() == 4 else 1
    return partial.unflatten(1, (groups, -1)).sum(2).view(matrix.shape).to(matrix.dtype)

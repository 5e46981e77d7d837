"""What the Triton kernels of the operators share: functions on tiles, block sizes and launches."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of a tile where blocks are not tuned, among others in the backward pass, which holds many tiles.
_FIXED_TILE = 2048
LONGEST_TILE = 256
"""Sequences up to this length are one chunk."""
CHUNK = 128
"""Steps of a chunk of longer ones."""


@triton.jit
def load_tile(pointer, i_batch, t, d, stride_batch, stride_channel, stride_step, inside):
    """Float32 tile (step, channel) of a (batch, channel, step) tensor; 0 where not `inside`."""
    place = pointer + i_batch * stride_batch + t[:, None] * stride_step + d[None, :] * stride_channel
    return tl.load(place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_tile(pointer, value, i_batch, t, d, stride_batch, stride_channel, stride_step, inside):
    """Inverse of `load_tile`, in the tensor's dtype."""
    place = pointer + i_batch * stride_batch + t[:, None] * stride_step + d[None, :] * stride_channel
    tl.store(place, value.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow on either side."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def softplus(x):
    """log(1 + exp(x)) to full relative precision, also where exp(x) is far below 1."""
    small = tl.exp(-tl.abs(x))
    rounded = 1.0 + small
    # log(1 + small) is that of the rounded sum, corrected by how much the rounding changed it.
    change = tl.where(rounded == 1.0, 1.0, rounded - 1.0)
    log = tl.where(rounded == 1.0, small, tl.log(rounded) * (small / change))
    return tl.maximum(x, 0.0) + log


@triton.jit
def compose(decay_1, state_1, decay_2, state_2):
    """Two stretches of a linear recurrence, the earlier one first, as one."""
    return decay_1 * decay_2, decay_2 * state_1 + state_2


@triton.jit
def load_steps(delta, delta_bias, i_batch, t, d, s_b, s_d, s_t, inside, in_group, SOFTPLUS: tl.constexpr):
    """Step sizes (0 outside, which leaves a state as it is) and what softplus was applied to."""
    raw = load_tile(delta, i_batch, t, d, s_b, s_d, s_t, inside)
    if delta_bias is not None:
        raw += tl.load(delta_bias + d, mask=in_group, other=0.0).to(tl.float32)[None, :]
    step = raw
    if SOFTPLUS:
        step = softplus(raw)
    return tl.where(inside, step, 0.0), raw


@triton.jit
def load_row(matrix, i_batch, i_group, n, t, s_b, s_g, s_n, s_t, in_time):
    """State n of B or C at the steps t."""
    place = matrix + i_batch * s_b + i_group * s_g + n * s_n + t * s_t
    return tl.load(place, mask=in_time, other=0.0).to(tl.float32)


@triton.jit
def scan_tile(
    x, step, A, B, C, D, z, y, last, entering, i_batch, i_chunk, chunks, i_b, i_c, t, d, channels, in_time,
    in_group, inside, b_b, b_g, b_n, b_t, c_b, c_g, c_n, c_t, z_b, z_d, z_t, y_b, y_d, y_t,
    STATES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Scans a tile, applies skip and gate, and stores y and, from the last chunk, the last state."""
    value = tl.zeros_like(x)
    if D is not None:
        value += tl.load(D + d, mask=in_group, other=0.0).to(tl.float32)[None, :] * x
    final = tl.arange(0, STEPS)[:, None] == STEPS - 1
    for n in range(STATES):
        rate = tl.load(A + d * STATES + n, mask=in_group, other=0.0).to(tl.float32)
        b_row = load_row(B, i_batch, i_b, n, t, b_b, b_g, b_n, b_t, in_time)
        c_row = load_row(C, i_batch, i_c, n, t, c_b, c_g, c_n, c_t, in_time)
        running, h = tl.associative_scan(
            (tl.exp(step * rate[None, :]), step * x * b_row[:, None]), axis=0, combine_fn=compose
        )
        if entering is not None:
            place = entering + ((i_batch * chunks + i_chunk) * channels + d) * STATES + n
            h += running * tl.load(place, mask=in_group, other=0.0)[None, :]
        value += h * c_row[:, None]
        if i_chunk == chunks - 1:
            place = last + (i_batch * channels + d) * STATES + n
            tl.store(place, tl.sum(tl.where(final, h, 0.0), axis=0), mask=in_group)
    if z is not None:
        gate = load_tile(z, i_batch, t, d, z_b, z_d, z_t, inside)
        value *= gate * sigmoid(gate)
    store_tile(y, value, i_batch, t, d, y_b, y_d, y_t, inside)


@triton.jit
def store_ends(
    x, step, A, B, ends, totals, i_batch, i_chunk, chunks, i_b, t, d, channels, in_time, in_group,
    b_b, b_g, b_n, b_t, STATES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Stores what a chunk makes of a zero state, (batch, chunks, D, N), and its sum of steps, without N."""
    final = tl.arange(0, STEPS)[:, None] == STEPS - 1
    row = (i_batch * chunks + i_chunk) * channels + d
    tl.store(totals + row, tl.sum(step, axis=0), mask=in_group)
    for n in range(STATES):
        rate = tl.load(A + d * STATES + n, mask=in_group, other=0.0).to(tl.float32)
        b_row = load_row(B, i_batch, i_b, n, t, b_b, b_g, b_n, b_t, in_time)
        _, h = tl.associative_scan(
            (tl.exp(step * rate[None, :]), step * x * b_row[:, None]), axis=0, combine_fn=compose
        )
        tl.store(ends + row * STATES + n, tl.sum(tl.where(final, h, 0.0), axis=0), mask=in_group)


@triton.jit
def where_am_i(chunks, length, width, blocks, STEPS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Batch, chunk, group, steps, channels and masks of this program."""
    i_batch = (tl.program_id(0) // chunks).to(tl.int64)
    i_chunk = tl.program_id(0) % chunks
    i_group = tl.program_id(1) // blocks
    t = i_chunk * STEPS + tl.arange(0, STEPS)
    of_group = tl.program_id(1) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    return i_batch, i_chunk, i_group, t, i_group * width + of_group, t < length, of_group < width


INTERPRETED = not isinstance(sigmoid, triton.JITFunction)
"""Whether kernels run in Triton's interpreter (``TRITON_INTERPRET=1`` before the first import of triton)."""


def configurations(*choices: tuple[int, int], interpreted: int, block: str) -> list[triton.Config]:
    """Candidates for `triton.autotune`: pairs (size of `block`, warps).

    The interpreter cannot time, so it gets one candidate, of the size `interpreted`: small, so that small
    shapes need several programs.
    """
    if INTERPRETED:
        return [triton.Config({block: interpreted})]
    return [triton.Config({block: size}, num_warps=warps) for size, warps in choices]


def warp_counts(*counts: int) -> list[triton.Config]:
    """Candidates for `triton.autotune` where only the number of warps is free."""
    return [triton.Config({}, num_warps=warps) for warps in (counts[:1] if INTERPRETED else counts)]


def fitting(block: str, other: str, width: str = "width", largest_share: int = 32) -> Any:
    """Pruning rule for `triton.autotune`: blocks no wider than a group, tiles of a sensible size.

    Args:
        block: name of a tile's size along channels, tuned or given.
        other: name of its size along steps or pixels.
        width: name of the argument with the number of channels of a group.
        largest_share: elements of a tile that a thread can hold in registers. It always holds at least one of
            its own.
    """

    def prune(configs: list[triton.Config], arguments: dict[str, Any], **meta: Any) -> list[triton.Config]:
        known = {**arguments, **meta}
        widest = triton.next_power_of_2(known[width])

        def fits(config: triton.Config) -> bool:
            size = config.kwargs.get(block, known.get(block))
            share = size * known[other] / (32 * config.num_warps)
            return size <= max(widest, 8) and 1 <= share <= largest_share

        return [config for config in configs if fits(config)] or configs[:1]

    return prune


def warps_for(elements: int) -> int:
    """Warps for a tile of that many elements: about eight elements a thread, 1 to 8 warps."""
    return max(1, min(8, elements // 256))


def device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes the tensor's GPU the current one, which is where Triton launches; nothing on a CPU."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def new_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Empty (batch, C, ...) tensor like x, channels-last if its channels are adjacent, else contiguous."""
    if x.stride(1) == 1:
        batch, channels, *places = x.shape
        return x.new_empty((batch, *places, channels), dtype=dtype).movedim(-1, 1)
    return x.new_empty(x.shape, dtype=dtype)


def refuse_double(**operands: Tensor | None) -> None:
    """Raises `ValueError` for float64, which the kernels would round to float32."""
    for name, operand in operands.items():
        if operand is not None and operand.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(
                f"{name} is {operand.dtype}, but the Triton kernels take float32, bfloat16 and float16; "
                "use the backend 'torch'"
            )


def strides(tensor: Tensor | None, axes: int) -> tuple[int, ...]:
    """Strides of a tensor, zeros for None."""
    return (0,) * axes if tensor is None else tensor.stride()


class ScanOperands(NamedTuple):
    """Operands of a scan as the kernels take them: B and C (batch, groups, N, L), parameters contiguous."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None

    @classmethod
    def prepared(
        cls,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
    ) -> ScanOperands:
        """From operands shaped as in `dfmamba.ops.selective_scan`.

        Raises:
            ValueError: if B or C does not depend on the step, or an operand is float64.
        """
        refuse_double(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
        for name, matrix in (("B", B), ("C", C)):
            if matrix.dim() == 2:
                raise ValueError(
                    f"{name} has shape {tuple(matrix.shape)}, but the Triton kernels take one that depends "
                    "on the step, (batch, N, L) or (batch, groups, N, L); use the backend 'torch'"
                )
        B, C = (m.unsqueeze(1) if m.dim() == 3 else m for m in (B, C))
        D, delta_bias = (None if p is None else p.contiguous() for p in (D, delta_bias))
        return cls(u, delta, A.contiguous(), B, C, D, z, delta_bias)

    def strides(self) -> tuple[int, ...]:
        """Strides in the order that the kernels expect."""
        five = (self.u, self.delta, self.B, self.C, self.z)
        axes = (3, 3, 4, 4, 3)
        return tuple(s for tensor, count in zip(five, axes, strict=True) for s in strides(tensor, count))


@dataclass(frozen=True)
class ScanPlan:
    """Sizes of a scan and how it is cut: groups x blocks of channels, chunks of `steps` steps.

    A group is a run of `width` channels that share every operand with groups of its own.
    """

    batch: int
    channels: int
    length: int
    states: int
    groups: int
    steps: int
    softplus: bool

    @classmethod
    def of(cls, operands: ScanOperands, softplus: bool, *group_counts: int) -> ScanPlan:
        """Plan for a scan whose other operands, if any, have these numbers of groups."""
        groups = math.lcm(operands.B.shape[1], operands.C.shape[1], *group_counts)
        batch, channels, length = operands.u.shape
        steps = max(4, triton.next_power_of_2(length)) if length <= LONGEST_TILE else CHUNK
        return cls(batch, channels, length, operands.A.shape[1], groups, steps, softplus)

    @property
    def width(self) -> int:
        return self.channels // self.groups

    @property
    def chunks(self) -> int:
        return triton.cdiv(self.length, self.steps)

    @property
    def block(self) -> int:
        """Channels of a tile, where they are not tuned."""
        if INTERPRETED:
            return 4
        return min(max(8, triton.next_power_of_2(self.width)), max(8, min(64, _FIXED_TILE // self.steps)))

    @property
    def blocks(self) -> int:
        """Blocks of `block` channels, of all groups."""
        return self.groups * triton.cdiv(self.width, self.block)

    def grid(self, meta: dict[str, int]) -> tuple[int, int]:
        return self.batch * self.chunks, self.groups * triton.cdiv(self.width, meta["BLOCK_D"])

    def sizes(self, operands: ScanOperands) -> tuple[int, ...]:
        """Arguments of the kernels: chunks, length, channels, width, and groups per group of B and of C."""
        per_b, per_c = (self.groups // matrix.shape[1] for matrix in (operands.B, operands.C))
        return self.chunks, self.length, self.channels, self.width, per_b, per_c

    def boundaries(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Empty float32 tensors (batch, chunks, D, N) and (batch, chunks, D)."""
        shape = (self.batch, self.chunks, self.channels)
        return like.new_empty((*shape, self.states), dtype=torch.float32), like.new_empty(
            shape, dtype=torch.float32
        )

"""Selective scan in plain PyTorch, with a hand-written backward pass: the twin of the C kernels.

The sequence is worked through in blocks of time steps small enough for the processor's cache. Inside a block
all tensors are laid out as (time, batch, group, state, channel), so that a step of the recurrence is one
fused multiply-add over contiguous memory and sums over states need no product in memory. Where steps are
small, many pieces of the sequence advance together (`recurrence`). Without gradients no more than one block
of states is kept.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Below this many elements a step costs more to call than to compute (measured, float32), if there are enough
# steps to cut into pieces.
SMALL_STEP_ELEMENTS = 4096
SHORTEST_CUT = 48


def piece_length(steps: int) -> int:
    """Length T of the pieces for which 2 T + steps // T + steps % T, the number of calls, is smallest."""
    root = math.isqrt(steps)
    around = range(max(1, root // 2), root + 2)
    return min(around, key=lambda t: 2 * t + steps // t + steps % t)


def recur(a: Tensor, h: Tensor, first: Tensor, scratch: Tensor, reverse: bool = False) -> None:
    """Solve ``h[t] += a[t] * h[t - 1]`` in place along the first axis.

    Args:
        a: decays, (steps, ...), all in [0, 1] for a stable recurrence.
        h: on entry what each step adds, (steps, ...); on return the states.
        first: state that enters the first step, (...).
        scratch: overwritten, (steps, ...).
        reverse: run ``h[t] += a[t] * h[t + 1]`` from the last step to the first instead.
    """
    steps = h.shape[0]
    done, rest = first, slice(0, steps)
    if first.numel() < SMALL_STEP_ELEMENTS and steps >= SHORTEST_CUT:
        piece = piece_length(steps)
        covered = steps - steps % piece
        start = steps - covered if reverse else 0
        body = slice(start, start + covered)
        _recur_in_pieces(a[body], h[body], first, scratch[body], piece, reverse)
        done = h[start] if reverse else h[covered - 1]
        rest = slice(0, start) if reverse else slice(covered, steps)
    remaining = tuple(zip(a[rest].unbind(0), h[rest].unbind(0), strict=True))
    for decay, state in reversed(remaining) if reverse else remaining:
        done = state.addcmul_(decay, done)


def _recur_in_pieces(a: Tensor, h: Tensor, first: Tensor, scratch: Tensor, piece: int, reverse: bool) -> None:
    """`recur` for a whole number of pieces of `piece` steps, which advance together.

    Every piece starts from zero and keeps the running product of its decays; then the states are carried from
    piece to piece, and what enters a piece is added to all its steps, times the running product. The products
    stay in [0, 1], unlike the exponentials of cumulated sums, which overflow.
    """
    count = h.shape[0] // piece
    grouped, running = h.unflatten(0, (count, piece)), scratch.unflatten(0, (count, piece))
    decays = a.unflatten(0, (count, piece)).unbind(1)
    states, products = grouped.unbind(1), running.unbind(1)
    order = range(piece - 1, -1, -1) if reverse else range(piece)
    before = order[0]
    products[before].copy_(decays[before])
    for t in order[1:]:
        states[t].addcmul_(decays[t], states[before])
        torch.mul(decays[t], products[before], out=products[t])
        before = t
    ends, end_products = states[before].unbind(0), products[before].unbind(0)
    entering = torch.empty_like(states[before])
    rows = entering.unbind(0)
    turn = range(count - 1, -1, -1) if reverse else range(count)
    rows[turn[0]].copy_(first)
    for s, following in pairwise(turn):
        torch.addcmul(ends[s], end_products[s], rows[s], out=rows[following])
    grouped.addcmul_(running, entering.unsqueeze(1))


# Elements of one (batch, D, N) state times the steps of a block: 1 MiB in float32 (measured, not sharp).
BLOCK_ELEMENTS = 1 << 18


def _time_first(x: Tensor) -> Tensor:
    """(batch, D, L) as (L, batch, D) with contiguous channels; copies only if the channels are strided."""
    batch, channels, length = x.shape
    if x.stride(1) == 1:
        return x.permute(2, 0, 1)
    # A two-dimensional transpose is the one that PyTorch does block by block.
    return x.reshape(batch * channels, length).t().contiguous().view(length, batch, channels)


class _Problem:
    """The operands in working layout: G groups of W = D / G channels, time first, states before channels."""

    def __init__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> None:
        self.batch, self.channels, self.length = u.shape
        self.states = A.shape[1]
        self.groups = max((m.shape[1] for m in (B, C) if m.dim() == 4), default=1)
        self.width = self.channels // self.groups
        self.u = self.sequence(u)
        raw = self.sequence(delta)
        if delta_bias is not None:
            raw = raw + delta_bias.reshape(self.groups, self.width)
        self.raw = raw if delta_softplus else None
        self.dt = F.softplus(raw) if delta_softplus else raw
        self.decay = self.constant(A)
        self.b, self.c = self.matrix(B), self.matrix(C)
        self.constant_b, self.constant_c = B.dim() == 2, C.dim() == 2
        self.skip = None if D is None else D.reshape(self.groups, self.width)
        self.z = None if z is None else self.sequence(z)
        self.block = min(self.length, max(1, BLOCK_ELEMENTS // (self.batch * self.channels * self.states)))

    def sequence(self, x: Tensor) -> Tensor:
        """(batch, D, L) -> (L, batch, G, W)."""
        return _time_first(x).unflatten(2, (self.groups, self.width))

    def constant(self, x: Tensor) -> Tensor:
        """(D, N) -> (G, N, W)."""
        return x.reshape(self.groups, self.width, self.states).transpose(1, 2).contiguous()

    def matrix(self, x: Tensor) -> Tensor:
        """B or C in a form that broadcasts to (L, batch, G, N, W)."""
        if x.dim() == 2:
            return self.constant(x).expand(self.length, 1, -1, -1, -1)
        if x.dim() == 3:
            x = x.unsqueeze(1)
        return x.permute(3, 0, 1, 2).contiguous().unsqueeze(-1).expand(-1, -1, self.groups, -1, -1)

    def shape(self, steps: int) -> tuple[int, ...]:
        return steps, self.batch, self.groups, self.states, self.width

    def decays(self, now: slice, out: Tensor) -> Tensor:
        return torch.mul(self.dt[now].unsqueeze(-2), self.decay, out=out).exp_()

    def over_states(self, x: Tensor, weights: Tensor) -> Tensor:
        """Sum over n of ``x[..., n, :] * weights[..., n, :]``."""
        total = x[..., 0, :] * weights[..., 0, :]
        for n in range(1, self.states):
            total.addcmul_(x[..., n, :], weights[..., n, :])
        return total

    def per_channel(self, x: Tensor) -> Tensor:
        """(..., G, N, W) -> (..., D, N), never a view."""
        moved = x.transpose(-1, -2).clone(memory_format=torch.contiguous_format)
        return moved.view(*x.shape[:-3], self.channels, self.states)

    def matrix_gradient(self, x: Tensor, like: Tensor) -> Tensor:
        """Undo `matrix`: sum over what was broadcast and bring to the shape of B or C."""
        if like.dim() == 2:
            return self.per_channel(x)
        x = x.squeeze(-1)
        if like.dim() == 3 or like.shape[1] != self.groups:
            x = x.sum(2, keepdim=True)
        return x.permute(1, 2, 3, 0).reshape(like.shape)


class _Result:
    """A (batch, D, L) result in the memory order of u, written block by block in working layout."""

    def __init__(self, p: _Problem, u: Tensor) -> None:
        self.channels_last = u.stride(1) == 1
        rows = (p.batch, p.length) if self.channels_last else (p.length, p.batch)
        store = u.new_empty(*rows, p.channels)
        self.store = store.transpose(0, 1) if self.channels_last else store
        self.blocks = self.store.unflatten(2, (p.groups, p.width))

    def finished(self) -> Tensor:
        if self.channels_last:
            return self.store.permute(1, 2, 0)
        length, batch, channels = self.store.shape
        return self.store.view(length, batch * channels).t().contiguous().view(batch, channels, length)


def _forward(p: _Problem, u: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """y (batch, D, L), the last state (batch, D, N) and, with `keep`, zero and all states (L + 1, ...)."""
    y = _Result(p, u)
    block = p.shape(p.block)
    decay_store, scratch = u.new_empty(block), u.new_empty(block)
    state_store = u.new_empty(p.shape(p.length + 1)) if keep else u.new_empty(block)
    before = u.new_zeros(block[1:])
    if keep:
        state_store[0].zero_()
    for start in range(0, p.length, p.block):
        stop = min(p.length, start + p.block)
        now, steps = slice(start, stop), stop - start
        dt, x = p.dt[now], p.u[now]
        h = state_store[start + 1 : stop + 1] if keep else state_store[:steps]
        a = p.decays(now, out=decay_store[:steps])
        torch.mul((dt * x).unsqueeze(-2), p.b[now], out=h)
        recur(a, h, before, scratch)
        before = h[-1] if keep else h[-1].clone()
        value = p.over_states(h, p.c[now])
        if p.skip is not None:
            value.addcmul_(x, p.skip)
        if p.z is None:
            y.blocks[now].copy_(value)
        else:
            torch.mul(value, F.silu(p.z[now]), out=y.blocks[now])
    return y.finished(), p.per_channel(before), state_store if keep else None


def _backward(
    p: _Problem,
    history: Tensor,
    operands: tuple[Tensor | None, ...],
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor | None, ...]:
    u, _, _, B, C, D, z, delta_bias = operands
    assert u is not None
    assert B is not None
    assert C is not None
    incoming = p.sequence(grad_y)
    grad_u, grad_dt, grad_z = _Result(p, u), _Result(p, u), _Result(p, u)
    grad_a = torch.zeros_like(p.decay)
    grad_skip = torch.zeros_like(p.decay[:, 0])
    rows = (*p.shape(p.length)[:-1], 1)
    grad_b = torch.zeros_like(p.decay) if p.constant_b else u.new_empty(rows)
    grad_c = torch.zeros_like(p.decay) if p.constant_c else u.new_empty(rows)
    a_store, g_store, work_store = (u.new_empty(p.shape(p.block)) for _ in range(3))
    # What reaches the block's last state from later steps.
    later = grad_last.reshape(p.batch, p.groups, p.width, p.states).transpose(2, 3)

    for stop in range(p.length, 0, -p.block):
        start = max(0, stop - p.block)
        now, steps = slice(start, stop), stop - start
        dt, x, b, c, g_y = p.dt[now], p.u[now], p.b[now], p.c[now], incoming[now]
        h_before, h = history[start:stop], history[start + 1 : stop + 1]
        a, g, work = p.decays(now, out=a_store[:steps]), g_store[:steps], work_store[:steps]
        if p.z is not None:
            gate = torch.sigmoid(p.z[now])
            value = p.over_states(h, c)
            if p.skip is not None:
                value.addcmul_(x, p.skip)
            slope = (1 - gate).mul_(p.z[now]).add_(1).mul_(gate)
            torch.mul(value.mul_(g_y), slope, out=grad_z.blocks[now])
            g_y = gate.mul_(p.z[now]).mul_(g_y)

        # g[t] = dLoss/dh[t] = C[t] g_y[t] + a[t + 1] g[t + 1]
        torch.mul(g_y.unsqueeze(-2), c, out=g)
        g[-1].add_(later)
        recur(a[1:], g[:-1], g[-1], work, reverse=True)
        later = a[0] * g[0]

        torch.mul(h, g_y.unsqueeze(-2), out=work)
        if p.constant_c:
            grad_c.add_(work.sum((0, 1)))
        else:
            torch.sum(work, dim=-1, keepdim=True, out=grad_c[now])
        torch.mul(g, (dt * x).unsqueeze(-2), out=work)
        if p.constant_b:
            grad_b.add_(work.sum((0, 1)))
        else:
            torch.sum(work, dim=-1, keepdim=True, out=grad_b[now])

        g_scaled = p.over_states(g, b)
        g_x = g_scaled * dt
        if p.skip is not None:
            g_x.addcmul_(g_y, p.skip)
            grad_skip.add_((g_y * x).sum((0, 1)))
        grad_u.blocks[now].copy_(g_x)

        through_decay = g.mul_(a).mul_(h_before)
        g_dt = g_scaled.mul_(x)
        for n in range(p.states):
            g_dt.addcmul_(through_decay[..., n, :], p.decay[:, n])
        if p.raw is None:
            grad_dt.blocks[now].copy_(g_dt)
        else:
            torch.mul(g_dt, torch.sigmoid(p.raw[now]), out=grad_dt.blocks[now])
        grad_a.add_(through_decay.mul_(dt.unsqueeze(-2)).sum((0, 1)))

    grad_delta = grad_dt.finished()
    return (
        grad_u.finished(),
        grad_delta,
        p.per_channel(grad_a),
        p.matrix_gradient(grad_b, B),
        p.matrix_gradient(grad_c, C),
        None if D is None else grad_skip.reshape(-1),
        None if z is None else grad_z.finished(),
        None if delta_bias is None else grad_delta.sum((0, 2)),
    )


def forward(*operands: Any) -> tuple[Tensor, Tensor]:
    """y (batch, D, L) and last state (batch, D, N) for checked operands of one dtype, float32 or float64."""
    y, last, _ = _forward(_Problem(*operands), operands[0], keep=False)
    return y, last


def backward(
    grad_y: Tensor,
    grad_last: Tensor,
    *operands: Any,
) -> tuple[Tensor | None, ...]:
    """Gradients of the eight tensors, None for those that were None; the states are computed again."""
    problem = _Problem(*operands)
    _, _, history = _forward(problem, operands[0], keep=True)
    assert history is not None
    return _backward(problem, history, operands[:8], grad_y, grad_last)

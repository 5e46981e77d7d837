"""Selective scan on the C kernels: arranges the operands, makes room for the results, sums partial gradients.

The structures mirror ``ops/native/kernels.h``.
"""

from __future__ import annotations

from ctypes import Structure, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from dfmamba.ops import native
from dfmamba.ops.selective_scan.memory import empty_like_sequence

LANES = 16


class _Rows(Structure):
    _fields_ = (("at", c_void_p), ("batch", c_int64), ("channel", c_int64), ("step", c_int64))


class _Matrix(Structure):
    _fields_ = (("at", c_void_p), *((n, c_int64) for n in ("batch", "group", "state", "step")))


class _Scan(Structure):
    _fields_ = (
        *((n, c_int64) for n in ("batch", "length", "channels", "states", "groups", "softplus", "threads")),
        ("u", _Rows),
        ("delta", _Rows),
        ("z", _Rows),
        ("B", _Matrix),
        ("C", _Matrix),
        ("A", c_void_p),
        ("D", c_void_p),
        ("bias", c_void_p),
    )


class _Result(Structure):
    _fields_ = (("y", _Rows), ("last", c_void_p))


class _Gradient(Structure):
    _fields_ = (
        *((n, _Rows) for n in ("grad_y", "u", "delta", "z")),
        *((n, c_void_p) for n in ("grad_last", "A", "D", "bias", "B", "C")),
        ("parts", c_int64),
    )


def _rows(x: Tensor | None) -> _Rows:
    return _Rows(None, 0, 0, 0) if x is None else _Rows(x.data_ptr(), *x.stride())


def _by_group(x: Tensor, groups: int) -> Tensor:
    """B or C as (batch, groups, N, L) with the states of a step next to each other.

    Steps that lie a power of two apart, as in a contiguous (batch, N, L), would all fall on one cache line.
    """
    x = x.float()
    x = x.unsqueeze(1) if x.dim() == 3 else x
    if x.stride(2) != 1:
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    return x.expand(-1, groups, -1, -1)


def _matrix(x: Tensor) -> _Matrix:
    return _Matrix(x.data_ptr(), *x.stride())


class _Problem:
    """The operands as the kernel wants them, kept alive beside the structure that points to them."""

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
        self.groups = max(m.shape[1] if m.dim() == 4 else 1 for m in (B, C))
        self.blocks = -(-self.channels // self.groups // LANES)
        self.u, self.delta, self.z = u.float(), delta.float(), None if z is None else z.float()
        self.matrices = _by_group(B, self.groups), _by_group(C, self.groups)
        constants = A, D, delta_bias
        self.constants = [None if t is None else t.float().contiguous() for t in constants]
        self.structure = _Scan(
            self.batch,
            self.length,
            self.channels,
            self.states,
            self.groups,
            int(delta_softplus),
            torch.get_num_threads(),
            _rows(self.u),
            _rows(self.delta),
            _rows(self.z),
            _matrix(self.matrices[0]),
            _matrix(self.matrices[1]),
            *(native.pointer(t) for t in self.constants),
        )


def forward(*operands: Any) -> tuple[Tensor, Tensor]:
    """y (batch, D, L), in memory as u, and last state (batch, D, N), both float32; operands as `_Problem`."""
    p = _Problem(*operands)
    y = empty_like_sequence(operands[0], torch.float32)
    last = torch.empty(p.batch, p.channels, p.states)
    result = _Result(_rows(y), last.data_ptr())
    native.compute("dfmamba_scan_forward", p.structure, result, c_int64(p.blocks))
    return y, last


def backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    *operands: Any,
) -> tuple[Tensor | None, ...]:
    """Gradients of the eight tensors, float32; None for those that were None."""
    p = _Problem(*operands)
    u, delta, _, B, C, D, z, delta_bias, _ = operands
    items = p.batch * p.groups
    parts = min(p.blocks, max(1, -(-4 * torch.get_num_threads() // items)))
    incoming = grad_y.float()
    beyond = None if grad_last is None else grad_last.float().contiguous()
    grad_u, grad_delta = (empty_like_sequence(t, torch.float32) for t in (u, delta))
    grad_z = None if z is None else empty_like_sequence(z, torch.float32)
    grad_A = torch.empty(p.batch, p.channels, p.states)
    grad_D, grad_bias = torch.empty(p.batch, p.channels), torch.empty(p.batch, p.channels)
    matrices = torch.empty(2, parts, p.batch, p.groups, p.length, p.states)
    gradient = _Gradient(
        *(_rows(t) for t in (incoming, grad_u, grad_delta, grad_z)),
        *(native.pointer(t) for t in (beyond, grad_A, grad_D, grad_bias, *matrices)),
        parts,
    )
    native.compute("dfmamba_scan_backward", p.structure, gradient)
    grad_B, grad_C = (
        _shaped(m.sum(0).transpose(2, 3), like) for m, like in zip(matrices, (B, C), strict=True)
    )
    return (
        grad_u,
        grad_delta,
        grad_A.sum(0),
        grad_B,
        grad_C,
        None if D is None else grad_D.sum(0),
        grad_z,
        None if delta_bias is None else grad_bias.sum(0),
    )


def _shaped(gradient: Tensor, like: Tensor) -> Tensor:
    """(batch, G, N, L) in the shape of B or C: groups that shared it are summed."""
    if like.dim() == 3:
        return gradient.sum(1)
    return gradient if like.shape[1] == gradient.shape[1] else gradient.sum(1, keepdim=True)

"""Selective scan (the S6 recurrence of Mamba)."""

from __future__ import annotations

import torch
from torch import Tensor

from dfmamba.ops.backend import current_backend
from dfmamba.ops.selective_scan.operator import scan
from dfmamba.ops.selective_scan.reference import selective_scan_reference

__all__ = ["selective_scan", "selective_scan_reference"]


def _expect(name: str, tensor: Tensor | None, *shapes: tuple[int, ...]) -> None:
    if tensor is not None and tuple(tensor.shape) not in shapes:
        wanted = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"selective_scan: {name} has shape {tuple(tensor.shape)}, expected {wanted}")


def _check_matrix(name: str, tensor: Tensor, batch: int, channels: int, states: int, length: int) -> None:
    shape = tuple(tensor.shape)
    if len(shape) == 4:
        groups = shape[1]
        if groups < 1 or channels % groups:
            raise ValueError(
                f"selective_scan: {name} has {groups} groups (shape {shape}), "
                f"expected a divisor of the {channels} channels"
            )
        _expect(name, tensor, (batch, groups, states, length))
    else:
        _expect(name, tensor, (batch, states, length), (channels, states))


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    for name, tensor in zip(names, (u, delta, A, B, C, D, z, delta_bias), strict=True):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"selective_scan: {name} is {tensor.dtype}, expected real floating point")
    if u.dim() != 3 or 0 in u.shape:
        raise ValueError(f"selective_scan: u has shape {tuple(u.shape)}, expected (batch, D, L), none 0")
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ValueError(f"selective_scan: A has shape {tuple(A.shape)}, expected ({channels}, N) with N > 0")
    states = A.shape[1]
    _expect("delta", delta, (batch, channels, length))
    _expect("z", z, (batch, channels, length))
    _expect("D", D, (channels,))
    _expect("delta_bias", delta_bias, (channels,))
    _check_matrix("B", B, batch, channels, states, length)
    _check_matrix("C", C, batch, channels, states, length)
    if B.dim() == 4 and C.dim() == 4 and B.shape[1] != C.shape[1] and 1 not in (B.shape[1], C.shape[1]):
        raise ValueError(
            f"selective_scan: B has {B.shape[1]} groups and C {C.shape[1]}, expected the same number (or 1)"
        )


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Input-dependent linear recurrence along the last axis, per channel d with N states.

    With ``s = delta + delta_bias`` (through softplus if asked) and h = 0 before the first step::

        h[t] = exp(s[t] A) h[t-1] + s[t] B[t] u[t]
        y[t] = (<C[t], h[t]> + D u[t]) * silu(z[t])

    Arguments, meaning and result follow ``selective_scan_fn`` of mamba-ssm (Gu & Dao, 2024) for real A.
    Computed in float32 (float64 if an operand is float64), whatever the autocast state. The memory order of
    the result follows u: contiguous, or channels-last if the channels of u are contiguous (fewer copies).
    Differentiable once in every operand.

    Args:
        u: input, (batch, D, L).
        delta: step sizes, (batch, D, L).
        A: decay rates, (D, N), real; negative for a stable recurrence.
        B: input matrix, (batch, N, L), (batch, G, N, L) with G groups of D / G channels each, or the same at
            every step, (D, N).
        C: output matrix, shapes as B.
        D: skip weight, (D,).
        z: gate, (batch, D, L).
        delta_bias: added to delta, (D,).
        delta_softplus: apply softplus to delta (after the bias).
        return_last_state: also return h after the last step.

    Returns:
        y (batch, D, L) in u's dtype, or (y, last state (batch, D, N) in the dtype of the computation).

    Raises:
        ValueError: if an operand is complex or of the wrong shape.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    backend = current_backend()
    if backend == "reference":
        with torch.autocast(u.device.type, enabled=False):
            return selective_scan_reference(
                u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
            )
    if backend == "export":
        from dfmamba.ops.selective_scan.export import selective_scan_export

        y, last = selective_scan_export(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    else:
        y, last = scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return (y, last) if return_last_state else y

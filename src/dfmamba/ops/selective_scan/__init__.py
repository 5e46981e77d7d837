"""Selective scan (the S6 recurrence of Mamba): the public function and the operator under it.

``torch.ops.dfmamba.selective_scan`` and ``..._backward`` take checked operands and the name of the backend in
force; which implementation runs is decided when they run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfmamba.ops import native
from dfmamba.ops.backend import (
    arranged,
    check_operands,
    chosen,
    current_backend,
    empty_like_sequence,
    followed,
    register,
    wide_dtype,
)
from dfmamba.ops.selective_scan import plain
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
    check_operands("selective_scan", u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    if u.dim() != 3 or 0 in u.shape[1:]:
        raise ValueError(
            f"selective_scan: u has shape {tuple(u.shape)}, expected (batch, D, L) with D and L above 0"
        )
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


_OPERANDS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, str backend"
)


_SEQUENCES = (0, 1, 6)
"""Places of u, delta and z, whose memory order their gradients follow."""


def _run(operands: tuple[Any, ...], *gradients: Tensor) -> tuple[Any, ...]:
    """Forward without gradients, else backward, with operands as the implementation wants them."""
    operands, backend = operands[:-1], operands[-1]
    per_step = operands[3].dim() > 2 and operands[4].dim() > 2
    name = chosen(backend, operands[:8], per_step)
    forward: Any
    backward: Any
    if name == "native":
        forward, backward = native.scan_forward, native.scan_backward
    elif name == "triton":
        from dfmamba.ops.selective_scan import triton_kernels

        forward, backward = triton_kernels.selective_scan_forward, triton_kernels.selective_scan_backward
    else:
        forward, backward = plain.forward, plain.backward
        wide = wide_dtype(*operands)
        operands = tuple(t.to(wide) if isinstance(t, Tensor) else t for t in operands)
        gradients = tuple(g.to(wide) for g in gradients)
    with torch.autocast(operands[0].device.type, enabled=False):
        return backward(*gradients, *operands) if gradients else forward(*operands)


def _scan(*operands: Any) -> tuple[Tensor, Tensor]:
    if not operands[0].shape[0]:
        return _fake_scan(*operands)
    y, last = _run(operands)
    return arranged(y, operands[0]), last.contiguous()


def _fake_scan(*operands: Any) -> tuple[Tensor, Tensor]:
    u, A = operands[0], operands[2]
    return empty_like_sequence(u), u.new_empty(u.shape[0], *A.shape, dtype=wide_dtype(*operands))


def _backward(grad_y: Tensor, grad_last: Tensor, *operands: Any) -> tuple[Tensor, ...]:
    """Gradients in the dtypes of their operands; one without elements where there was no operand."""
    if not operands[0].shape[0]:
        return tuple(gradient.zero_() for gradient in _fake_backward(grad_y, grad_last, *operands))
    found = _run(operands, grad_y, grad_last)
    return tuple(
        grad_y.new_empty(0)
        if operand is None
        else arranged(gradient, operand)
        if index in _SEQUENCES
        else gradient.to(operand.dtype).contiguous()
        for index, (gradient, operand) in enumerate(zip(found, operands[:8], strict=True))
    )


def _fake_backward(grad_y: Tensor, grad_last: Tensor, *operands: Any) -> tuple[Tensor, ...]:
    return tuple(
        grad_y.new_empty(0)
        if operand is None
        else empty_like_sequence(operand)
        if index in _SEQUENCES
        else operand.new_empty(operand.shape)
        for index, operand in enumerate(operands[:8])
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.switches = inputs[8:]


def _differentiate(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Any, ...]:
    operands = ctx.saved_tensors
    found = scan_backward(grad_y, grad_last, *operands, *ctx.switches)
    return (*(None if t is None else g for t, g in zip(operands, found, strict=True)), None, None)


_EIGHT = ", ".join(["Tensor"] * 8)

scan_backward = register(
    f"selective_scan_backward(Tensor grad_y, Tensor grad_last, {_OPERANDS}) -> ({_EIGHT})",
    _backward,
    _fake_backward,
)
scan = register(
    f"selective_scan({_OPERANDS}) -> (Tensor y, Tensor last)", _scan, _fake_scan, _differentiate, _keep
)
"""y (batch, D, L) as u, last state (batch, D, N) in float32 or float64."""


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
    Differentiable once in every operand, by the backend that ran the forward pass. Under the transforms of
    `torch.func` and forward-mode differentiation the definition runs instead: slow, and differentiable at
    will. A batch may be empty.

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
        ValueError: if an operand is complex, on another device than the others, or of the wrong shape.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    backend = current_backend()
    if backend == "reference" or followed():
        with torch.autocast(u.device.type, enabled=False):
            return selective_scan_reference(
                u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
            )
    if backend == "export":
        from dfmamba.ops.selective_scan.export import selective_scan_export

        y, last = selective_scan_export(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    else:
        y, last = scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, backend)
    return (y, last) if return_last_state else y

"""The selective scan as a PyTorch operator: opaque to `torch.compile` and `torch.export`, with its gradient.

``torch.ops.dfmamba.selective_scan`` and ``..._backward`` take checked operands; which implementation runs is
decided when they run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfmamba.ops.backend import chosen
from dfmamba.ops.precision import wide_dtype
from dfmamba.ops.registration import register
from dfmamba.ops.selective_scan import native, plain
from dfmamba.ops.selective_scan.memory import arranged, empty_like_sequence

_OPERANDS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus"
)


_SEQUENCES = (0, 1, 6)
"""Places of u, delta and z, whose memory order their gradients follow."""


def _run(operands: tuple[Any, ...], *gradients: Tensor) -> tuple[Any, ...]:
    """Forward without gradients, else backward, with operands as the implementation wants them."""
    per_step = operands[3].dim() > 2 and operands[4].dim() > 2
    name = chosen(operands[:8], per_step)
    forward: Any
    backward: Any
    if name == "native":
        forward, backward = native.forward, native.backward
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
    y, last = _run(operands)
    return arranged(y, operands[0]), last.contiguous()


def _fake_scan(*operands: Any) -> tuple[Tensor, Tensor]:
    u, A = operands[0], operands[2]
    return empty_like_sequence(u), u.new_empty(u.shape[0], *A.shape, dtype=wide_dtype(*operands))


def _backward(grad_y: Tensor, grad_last: Tensor, *operands: Any) -> tuple[Tensor, ...]:
    """Gradients in the dtypes of their operands; one without elements where there was no operand."""
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
    ctx.delta_softplus = inputs[8]


def _differentiate(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Any, ...]:
    operands = ctx.saved_tensors
    found = scan_backward(grad_y, grad_last, *operands, ctx.delta_softplus)
    return (*(None if t is None else g for t, g in zip(operands, found, strict=True)), None)


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

"""Sampling and scan in one kernel as a PyTorch operator, for the GPU: the K samples never reach memory.

``torch.ops.dfmamba.deformable_selective_scan`` and ``..._backward`` take operands that the two operators
would take, with step and gate as (batch, C, H W).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dfmamba.ops.backend import register
from dfmamba.ops.deformable_selective_scan import triton_kernels

_OPERANDS = (
    "Tensor x, Tensor? offsets, Tensor weights, Tensor anchors, Tensor delta, Tensor A, Tensor B, Tensor C, "
    "Tensor? D, Tensor? z, Tensor? delta_bias, bool delta_softplus, bool residual"
)
_TENSORS = 11


def _dense(x: Tensor) -> Tensor:
    """Memory order of every result: channels next to each other for maps and sequences, else contiguous."""
    return x.contiguous() if x.dim() in (1, 2) else x.movedim(1, -1).contiguous().movedim(-1, 1)


def _empty(like: Tensor) -> Tensor:
    if like.dim() in (1, 2):
        return like.new_empty(like.shape)
    batch, channels, *rest = like.shape
    return like.new_empty(batch, *rest, channels).movedim(-1, 1)


def _fused(*operands: Any) -> Tensor:
    if not operands[0].shape[0]:
        return _empty(operands[0])
    y, _ = triton_kernels.deformable_selective_scan_forward(*operands)
    x = operands[0]
    return _dense(y.reshape(x.shape).to(x.dtype))


def _fake_fused(*operands: Any) -> Tensor:
    return _empty(operands[0])


def _backward(grad_y: Tensor, *operands: Any) -> tuple[Tensor, ...]:
    """Gradients in the dtypes of their operands; one without elements where there was no operand."""
    if not operands[0].shape[0]:
        return tuple(gradient.zero_() for gradient in _fake_backward(grad_y, *operands))
    found: tuple[Any, ...] = triton_kernels.deformable_selective_scan_backward(grad_y, *operands)
    return tuple(
        grad_y.new_empty(0) if operand is None else _dense(gradient.reshape(operand.shape).to(operand.dtype))
        for gradient, operand in zip(found, operands[:_TENSORS], strict=True)
    )


def _fake_backward(grad_y: Tensor, *operands: Any) -> tuple[Tensor, ...]:
    return tuple(
        grad_y.new_empty(0) if operand is None else _empty(operand) for operand in operands[:_TENSORS]
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:_TENSORS])
    ctx.switches = inputs[_TENSORS:]


def _differentiate(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    operands = ctx.saved_tensors
    found = fused_backward(grad_y, *operands, *ctx.switches)
    return (*(None if t is None else g for t, g in zip(operands, found, strict=True)), None, None)


fused_backward = register(
    f"deformable_selective_scan_backward(Tensor grad_y, {_OPERANDS}) -> ({', '.join(['Tensor'] * _TENSORS)})",
    _backward,
    _fake_backward,
)
fused = register(
    f"deformable_selective_scan({_OPERANDS}) -> Tensor", _fused, _fake_fused, _differentiate, _keep
)
"""(batch, C, H, W) in x's dtype, channels-last in memory."""

"""Deformable state-space modelling (DSSM): deformable sampling, then a selective scan in raster order.

Where both can run on a GPU and nothing comes between them, one kernel does both, and the K samples never
reach memory: ``torch.ops.dfmamba.deformable_selective_scan`` and ``..._backward``, with step and gate as
(batch, C, H W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dfmamba.ops.backend import chosen, current_backend, followed, register, use_backend
from dfmamba.ops.deformable_sample import deformable_sample
from dfmamba.ops.selective_scan import selective_scan

__all__ = ["deformable_selective_scan", "deformable_selective_scan_reference"]


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
    from dfmamba.ops.deformable_selective_scan import triton_kernels

    if not operands[0].shape[0]:
        return _empty(operands[0])
    y, _ = triton_kernels.deformable_selective_scan_forward(*operands)
    x = operands[0]
    return _dense(y.reshape(x.shape).to(x.dtype))


def _fake_fused(*operands: Any) -> Tensor:
    return _empty(operands[0])


def _backward(grad_y: Tensor, *operands: Any) -> tuple[Tensor, ...]:
    """Gradients in the dtypes of their operands; one without elements where there was no operand."""
    from dfmamba.ops.deformable_selective_scan import triton_kernels

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


def _sequence(name: str, tensor: Tensor, x: Tensor) -> Tensor:
    if tensor.shape == x.shape:
        return tensor.flatten(2)
    batch, channels, height, width = x.shape
    if tensor.shape != (batch, channels, height * width):
        raise ValueError(
            f"deformable_selective_scan: {name} has shape {tuple(tensor.shape)}, "
            f"expected {tuple(x.shape)} or {(batch, channels, height * width)}"
        )
    return tensor


def _fuses(*operands: Tensor | None) -> bool:
    """Whether one kernel does both; the two operators check what it would not take."""
    B, C = operands[6], operands[7]
    backend = current_backend()
    if backend not in ("auto", "triton") or B is None or C is None or followed():
        return False
    return chosen(backend, operands, B.dim() > 2 and C.dim() > 2) == "triton"


def deformable_selective_scan(
    x: Tensor,
    offsets: Tensor | None,
    weights: Tensor,
    anchors: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    residual: bool = False,
    between: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Sample the map around every pixel, then scan the result row by row.

    Args:
        x: feature map, (batch, C, H, W).
        offsets: as in `dfmamba.ops.deformable_sample`.
        weights: as in `dfmamba.ops.deformable_sample`.
        anchors: as in `dfmamba.ops.deformable_sample`.
        delta: step sizes, (batch, C, H, W) or (batch, C, H W).
        A: decay rates, (C, N).
        B: input matrix, as in `dfmamba.ops.selective_scan` with L = H W.
        C: output matrix, as B.
        D: skip weight, (C,).
        z: gate, shape as delta.
        delta_bias: added to delta, (C,).
        delta_softplus: apply softplus to delta (after the bias).
        residual: scan ``x + sampled`` instead of the sampled map.
        between: applied to the map (batch, C, H, W) that is to be scanned, for instance a norm over channels;
            must keep its shape.

    Returns:
        (batch, C, H, W) in x's dtype.

    Raises:
        ValueError: if shapes do not fit each other.
    """
    if between is None and _fuses(x, offsets, weights, anchors, delta, A, B, C, D, z, delta_bias):
        return fused(
            x,
            offsets,
            weights,
            anchors,
            _sequence("delta", delta, x),
            A,
            B,
            C,
            D,
            None if z is None else _sequence("z", z, x),
            delta_bias,
            delta_softplus,
            residual,
        )
    mixed = deformable_sample(x, offsets, weights, anchors)
    if residual:
        mixed = x + mixed
    if between is not None:
        mixed = between(mixed)
        if mixed.shape != x.shape:
            raise ValueError(
                f"deformable_selective_scan: between returned shape {tuple(mixed.shape)}, "
                f"expected {tuple(x.shape)}"
            )
    y = selective_scan(
        mixed.flatten(2),
        _sequence("delta", delta, x),
        A,
        B,
        C,
        D,
        None if z is None else _sequence("z", z, x),
        delta_bias,
        delta_softplus,
    )
    assert isinstance(y, Tensor)
    return y.to(x.dtype).unflatten(2, x.shape[2:])


def deformable_selective_scan_reference(
    x: Tensor,
    offsets: Tensor | None,
    weights: Tensor,
    anchors: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    residual: bool = False,
    between: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """`deformable_selective_scan` on the two references."""
    with use_backend("reference"):
        return deformable_selective_scan(
            x, offsets, weights, anchors, delta, A, B, C, D, z, delta_bias, delta_softplus, residual, between
        )

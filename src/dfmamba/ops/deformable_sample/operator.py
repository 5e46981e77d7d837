"""Deformable sampling as a PyTorch operator: opaque to `torch.compile` and `torch.export`, with its gradient.

``torch.ops.dfmamba.deformable_sample`` and ``..._backward`` take checked operands; which implementation runs
is decided when they run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfmamba.ops.backend import chosen
from dfmamba.ops.deformable_sample import native, plain
from dfmamba.ops.precision import wide_dtype
from dfmamba.ops.registration import register

_OPERANDS = "Tensor x, Tensor? offsets, Tensor weights, Tensor anchors"


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _empty_map(like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return like.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def _run(operands: tuple[Any, ...], *gradient: Tensor) -> Any:
    """Forward without a gradient, else backward, with operands as the implementation wants them."""
    name = chosen(operands)
    forward: Any
    backward: Any
    if name == "native":
        forward, backward = native.forward, native.backward
    elif name == "triton":
        from dfmamba.ops.deformable_sample import triton_kernels

        forward = triton_kernels.deformable_sample_forward
        backward = triton_kernels.deformable_sample_backward
    else:
        forward, backward = plain.forward, plain.backward
        wide = wide_dtype(*operands)
        operands = tuple(None if t is None else t.to(wide) for t in operands)
        gradient = tuple(g.to(wide) for g in gradient)
    with torch.autocast(operands[2].device.type, enabled=False):
        return backward(*gradient, *operands) if gradient else forward(*operands)


def _sample(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    return _channels_last(_run((x, offsets, weights, anchors)).to(x.dtype))


def _fake_sample(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    return _empty_map(x)


def _backward(
    grad: Tensor, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients in the dtypes of their operands; that of absent offsets has no elements."""
    found = _run((x, offsets, weights, anchors), grad)
    moved = grad.new_empty(0) if offsets is None else found[1].to(offsets.dtype).contiguous()
    return (
        _channels_last(found[0].to(x.dtype)),
        moved,
        found[2].to(weights.dtype).contiguous(),
        found[3].to(anchors.dtype).contiguous(),
    )


def _fake_backward(
    grad: Tensor, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    moved = grad.new_empty(0) if offsets is None else offsets.new_empty(offsets.shape)
    return _empty_map(x), moved, weights.new_empty(weights.shape), anchors.new_empty(anchors.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, offsets, weights, anchors = ctx.saved_tensors
    found = sample_backward(grad, x, offsets, weights, anchors)
    return found[0], None if offsets is None else found[1], found[2], found[3]


sample_backward = register(
    f"deformable_sample_backward(Tensor grad, {_OPERANDS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)
sample = register(f"deformable_sample({_OPERANDS}) -> Tensor", _sample, _fake_sample, _differentiate, _keep)
"""(batch, C, H, W) in x's dtype, channels-last in memory."""

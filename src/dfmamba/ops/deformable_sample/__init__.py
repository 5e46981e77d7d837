"""Deformable sampling (weighted bilinear samples around every pixel): the public function and the operator.

``torch.ops.dfmamba.deformable_sample`` and ``..._backward`` take checked operands and the name of the backend
in force; which implementation runs is decided when they run.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dfmamba.ops import native
from dfmamba.ops.backend import check_operands, chosen, current_backend, followed, register, wide_dtype
from dfmamba.ops.deformable_sample import plain
from dfmamba.ops.deformable_sample.reference import anchor_grid, centre_index, deformable_sample_reference

__all__ = ["anchor_grid", "centre_index", "deformable_sample", "deformable_sample_reference"]


def _fail(name: str, tensor: Tensor, expected: str) -> None:
    raise ValueError(f"deformable_sample: {name} has shape {tuple(tensor.shape)}, expected {expected}")


def _check(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> None:
    check_operands("deformable_sample", x=x, offsets=offsets, weights=weights, anchors=anchors)
    if x.dim() != 4 or 0 in x.shape[1:]:
        _fail("x", x, "(batch, C, H, W) with C, H and W above 0")
    batch, channels, height, width = x.shape
    if anchors.dim() != 2 or anchors.shape[0] == 0 or anchors.shape[1] != 2:
        _fail("anchors", anchors, "(K, 2), K > 0")
    count = anchors.shape[0]
    groups = [1]
    if offsets is not None:
        if offsets.dim() != 6 or offsets.shape != (batch, offsets.shape[1], count, 2, height, width):
            _fail("offsets", offsets, f"({batch}, groups, {count}, 2, {height}, {width})")
        groups.append(offsets.shape[1])
    if weights.dim() == 5:
        if weights.shape != (batch, weights.shape[1], count, height, width):
            _fail("weights", weights, f"({batch}, groups, {count}, {height}, {width})")
        groups.append(weights.shape[1])
    elif weights.shape != (channels, count):
        either = f"({channels}, {count}) or ({batch}, groups, {count}, {height}, {width})"
        _fail("weights", weights, either)
    if 0 in groups or channels % math.lcm(*groups):
        raise ValueError(
            f"deformable_sample: {channels} channels cannot be divided into {groups[1:]} groups "
            "(of offsets, of weights); choose numbers whose least common multiple divides the channels"
        )


_OPERANDS = "Tensor x, Tensor? offsets, Tensor weights, Tensor anchors, str backend"


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _empty_map(like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return like.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def _run(operands: tuple[Any, ...], *gradient: Tensor) -> Any:
    """Forward without a gradient, else backward, with operands as the implementation wants them."""
    operands, backend = operands[:-1], operands[-1]
    name = chosen(backend, operands)
    forward: Any
    backward: Any
    if name == "native":
        forward, backward = native.sample_forward, native.sample_backward
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


def _sample(x: Tensor, *others: Any) -> Tensor:
    if not x.shape[0]:
        return _empty_map(x)
    return _channels_last(_run((x, *others)).to(x.dtype))


def _fake_sample(x: Tensor, *_: Any) -> Tensor:
    return _empty_map(x)


def _backward(
    grad: Tensor, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients in the dtypes of their operands; that of absent offsets has no elements."""
    if not x.shape[0]:
        empty = _fake_backward(grad, x, offsets, weights, anchors, backend)
        return empty[0], empty[1], empty[2].zero_(), empty[3].zero_()
    found = _run((x, offsets, weights, anchors, backend), grad)
    moved = grad.new_empty(0) if offsets is None else found[1].to(offsets.dtype).contiguous()
    return (
        _channels_last(found[0].to(x.dtype)),
        moved,
        found[2].to(weights.dtype).contiguous(),
        found[3].to(anchors.dtype).contiguous(),
    )


def _fake_backward(
    grad: Tensor, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    moved = grad.new_empty(0) if offsets is None else offsets.new_empty(offsets.shape)
    return _empty_map(x), moved, weights.new_empty(weights.shape), anchors.new_empty(anchors.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.backend = inputs[4]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, offsets, weights, anchors = ctx.saved_tensors
    found = sample_backward(grad, x, offsets, weights, anchors, ctx.backend)
    return found[0], None if offsets is None else found[1], found[2], found[3], None


sample_backward = register(
    f"deformable_sample_backward(Tensor grad, {_OPERANDS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)
sample = register(f"deformable_sample({_OPERANDS}) -> Tensor", _sample, _fake_sample, _differentiate, _keep)
"""(batch, C, H, W) in x's dtype, channels-last in memory."""


def deformable_sample(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    """Weighted sum of K bilinear samples around every pixel, zero outside the map.

    ``out[c, p] = sum_k weights[c, k, p] * x[c](p + anchors[k] + offsets[k, p])``, where a pixel outside the
    map counts as 0, as in deformable convolution (Zhu et al., 2019) with one group per channel. At
    whole-number positions the derivative is the one towards larger coordinates. Computed in float32 (float64
    if an operand is float64), whatever the autocast state. Differentiable once in every operand, by the
    backend that ran the forward pass; under the transforms of `torch.func` and forward-mode differentiation
    the definition runs instead. A batch may be empty.

    Args:
        x: feature map, (batch, C, H, W).
        offsets: displacements (dy, dx) in pixels added to the anchors, (batch, groups, K, 2, H, W), every
            group for C / groups neighbouring channels; None for none.
        weights: per channel, (C, K), or per pixel, (batch, groups, K, H, W).
        anchors: displacements (dy, dx) in pixels, (K, 2); see `anchor_grid`.

    Returns:
        (batch, C, H, W) in x's dtype, channels-last in memory.

    Raises:
        ValueError: if shapes or devices do not fit each other, or groups do not divide the channels.
    """
    _check(x, offsets, weights, anchors)
    backend = current_backend()
    if backend == "reference" or followed():
        with torch.autocast(x.device.type, enabled=False):
            return deformable_sample_reference(x, offsets, weights, anchors)
    if backend == "export":
        from dfmamba.ops.deformable_sample.export import deformable_sample_export

        return deformable_sample_export(x, offsets, weights, anchors)
    return sample(x, offsets, weights, anchors, backend)

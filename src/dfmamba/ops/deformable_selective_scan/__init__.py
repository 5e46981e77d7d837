"""Deformable state-space modelling (DSSM): deformable sampling, then a selective scan in raster order."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dfmamba.ops.backend import chosen, current_backend, followed, use_backend
from dfmamba.ops.deformable_sample import deformable_sample
from dfmamba.ops.selective_scan import selective_scan

__all__ = ["deformable_selective_scan", "deformable_selective_scan_reference"]


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
        from dfmamba.ops.deformable_selective_scan.operator import fused

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

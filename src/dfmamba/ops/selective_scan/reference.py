"""The selective scan as its definition reads: one step of the recurrence after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dfmamba.ops.backend import wide_dtype


def selective_scan_reference(
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
    """Selective scan, step by step; arguments and result as in `dfmamba.ops.selective_scan`."""
    wide = wide_dtype(u, delta, A, B, C, D, z, delta_bias)
    channels = u.shape[1]
    x, step, decay = u.to(wide), delta.to(wide), A.to(wide)
    if delta_bias is not None:
        step = step + delta_bias.to(wide)[:, None]
    if delta_softplus:
        step = F.softplus(step)

    def per_channel(matrix: Tensor) -> Tensor:
        """Bring B or C to (batch or 1, D, N, L or 1)."""
        matrix = matrix.to(wide)
        if matrix.dim() == 2:
            return matrix[None, :, :, None]
        if matrix.dim() == 3:
            matrix = matrix[:, None]
        return matrix.repeat_interleave(channels // matrix.shape[1], dim=1)

    b, c = per_channel(B), per_channel(C)
    state = x.new_zeros(*x.shape[:2], A.shape[1])
    outputs = []
    for t in range(x.shape[2]):
        b_t, c_t = b[..., t if b.shape[-1] > 1 else 0], c[..., t if c.shape[-1] > 1 else 0]
        dt = step[:, :, t, None]
        state = torch.exp(dt * decay) * state + dt * b_t * x[:, :, t, None]
        outputs.append((state * c_t).sum(-1))
    y = torch.stack(outputs, dim=2)
    if D is not None:
        y = y + D.to(wide)[:, None] * x
    if z is not None:
        y = y * F.silu(z.to(wide))
    y = y.to(u.dtype)
    return (y, state) if return_last_state else y

"""Groups of channels that share offsets or weights."""

from __future__ import annotations

import math

from torch import Tensor


def common_groups(offsets: Tensor | None, weights: Tensor) -> int:
    """Into how many groups the channels fall when offsets and weights have groups of their own."""
    counts = [t.shape[1] for t in (offsets, weights) if t is not None and t.dim() > 2]
    return math.lcm(*counts) if counts else 1


def spread_groups(x: Tensor, groups: int) -> Tensor:
    """Offsets or weights (batch, own groups, ..., H, W) as (batch, groups, ..., H W)."""
    flat = x.flatten(-2)
    if flat.shape[1] in (1, groups):
        return flat.expand(-1, groups, *flat.shape[2:])
    return flat.repeat_interleave(groups // flat.shape[1], dim=1)


def gather_groups(gradient: Tensor, like: Tensor) -> Tensor:
    """Gradient of `spread_groups`: (batch, groups, ..., H W) in the shape of offsets or weights."""
    shared = gradient.shape[1] // like.shape[1]
    if shared > 1:
        gradient = gradient.unflatten(1, (like.shape[1], shared)).sum(2)
    return gradient.reshape(like.shape)

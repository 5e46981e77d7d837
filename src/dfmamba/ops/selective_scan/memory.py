"""Memory order of (batch, D, L) results: they follow an operand."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_adjacent(x: Tensor) -> bool:
    """Whether the channels of a (batch, D, L) tensor are next to each other in memory."""
    return x.stride(1) == 1 and x.shape[2] > 1


def empty_like_sequence(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Room for a result of an operand's shape and memory order: channels adjacent, else contiguous."""
    batch, channels, length = like.shape
    if channels_adjacent(like):
        return like.new_empty(batch, length, channels, dtype=dtype).transpose(1, 2)
    return like.new_empty(batch, channels, length, dtype=dtype)


def arranged(x: Tensor, like: Tensor) -> Tensor:
    """A result in the dtype and memory order of an operand."""
    x = x.to(like.dtype)
    if channels_adjacent(like):
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    return x.contiguous()

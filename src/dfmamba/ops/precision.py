"""The precision in which the operators compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def wide_dtype(*operands: Any) -> torch.dtype:
    """float64 if one of the tensors among the operands has it, else float32."""
    double = any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in operands)
    return torch.float64 if double else torch.float32

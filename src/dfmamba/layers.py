"""Layers that backbones and heads share, and the form of a network for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextvars import ContextVar
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

NormFactory = Callable[[int], nn.Module]

DRAWING: ContextVar[bool] = ContextVar("DRAWING", default=True)
"""Whether networks of ours that are built draw their weights; not where a file's are about to be loaded."""


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_exporting() or not x.is_contiguous(memory_format=torch.channels_last):
        return F.conv2d(x, weight, bias)
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


torch.fx.wrap("_pointwise")  # one step of a graph that torch.fx traces


class Pointwise(nn.Conv2d):
    """1x1 convolution, computed as a matrix product wherever the memory order allows.

    Same parameters, results and names of weights as ``nn.Conv2d(in_chs, out_chs, 1)``. On small maps, where
    most of a hand network's layers are, convolution libraries are slow at it: the backward pass of 192 -> 384
    channels on 3x3 cells takes ten times as long as the two matrix products that it consists of.

    Args:
        in_chs: channels of the input.
        out_chs: channels of the output.
        bias: add a learned constant.
    """

    def __init__(self, in_chs: int, out_chs: int, bias: bool = True) -> None:
        super().__init__(in_chs, out_chs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return _pointwise(x, self.weight, self.bias)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an NCHW map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS: dict[str, NormFactory] = {
    "batch": nn.BatchNorm2d,
    "layer": LayerNorm2d,
}


class DropPath(nn.Module):
    """Drops the whole residual branch of a sample with probability `p` while training (stochastic depth)."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"drop path probability must lie in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0.0 or not self.training:
            return x
        keep = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.p)
        return x * keep / (1.0 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


Module = TypeVar("Module", bound=nn.Module)


def fuse(module: Module) -> Module:
    """A copy for inference: batch norms folded into the convolutions before them, constants computed once.

    Outputs agree with those of the module in evaluation mode to rounding. The copy can't be trained, and its
    weights don't load into the module it came from: save that one.

    Args:
        module: any network of this package, or part of one.

    Returns:
        A new module in evaluation mode, without gradients.
    """
    fused = copy.deepcopy(module).eval().requires_grad_(False)
    for part in list(fused.modules()):
        if isinstance(part, nn.Sequential):
            _fold_norms(part)
        freeze = getattr(part, "freeze_constants", None)
        if freeze is not None:
            freeze()
    return fused


def _fold_norms(layers: nn.Sequential) -> None:
    for name, after in pairwise(list(layers._modules)):
        conv, norm = layers._modules[name], layers._modules[after]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers._modules[name] = fuse_conv_bn_eval(conv, norm)
            layers._modules[after] = nn.Identity()

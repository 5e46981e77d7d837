"""The inference form of a network: fewer operations, the same outputs."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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

"""Batch norm over the samples of all processes, so that training doesn't depend on how many there are.

torch.nn.SyncBatchNorm is for GPUs only; this one works wherever the process group does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose mean and variance are those of the batches of all processes together.

    Shape: (B, C, H, W); each process has as many samples as the others.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = dist.get_world_size() * x.numel() / x.shape[1]
        mean = _SumOfAll.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _SumOfAll.apply(centred.square().sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        result = centred * scale[:, None, None]
        if self.affine:
            result = result + self.bias[:, None, None]
        return result.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _SumOfAll(torch.autograd.Function):
    """The sum over all processes; each process's gradient is the sum of theirs, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def synchronise(model: nn.Module) -> None:
    """Turns the batch norms of a model into `SyncBatchNorm2d`, with their weights and statistics."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d

"""Several processes that train together, started by `torchrun`: averaged gradients, or divided weights.

Gradients are averaged in one buffer that is laid out alike in every step. DistributedDataParallel regroups
its buffers after the first step that it runs, which can change the order of summation among three or more
processes, so that a resumed run would differ in the last bits.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: its number, 0 for the one that validates and writes.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls, device: str) -> Ranks:
        """Joins the group that torchrun set up; alone where there is none.

        With device "cuda", each process of a node takes the GPU of its number there.
        """
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), world)

    @property
    def first(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    def average_gradients(self, module: nn.Module, flag: bool = False) -> bool:
        """Replaces each gradient by its mean over the group; those of divided weights are means already.

        Args:
            module: whose parameters have a gradient in all processes or in none.
            flag: a wish to stop.

        Returns:
            Whether any process of the group raised its flag.
        """
        if self.world == 1:
            return flag
        parameters = [p for p in module.parameters() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None and not _divided(p)]
        device = parameters[0].device
        flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor([float(flag)], device=device)])
        dist.all_reduce(flat)
        if gradients:
            means = (flat[:-1] / self.world).split([g.numel() for g in gradients])
            torch._foreach_copy_(gradients, [m.view(g.shape) for m, g in zip(means, gradients, strict=True)])
        return bool(flat[-1] > 0)

    def divide(self, model: Module) -> Module:
        """Divides the weights of a model among the processes, block by block (FSDP2).

        Each block of the backbone is gathered while it computes and released afterwards. Running statistics
        stay whole. A single process keeps everything.

        Args:
            model: with stages of blocks as `backbone.stages`; without them it is divided as one piece.
        """
        if self.world == 1:
            return model
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # The losses never write into the output, which is what it warns of.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        mesh = init_device_mesh(next(model.parameters()).device.type, (self.world,))
        for stage in getattr(getattr(model, "backbone", None), "stages", ()):
            for block in stage.children():
                fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def agree(self, number: int) -> bool:
        """Whether all processes call this with the same number."""
        if self.world == 1:
            return True
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        numbers = torch.tensor([number, -number], device=device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return bool(numbers[0] == -numbers[1])

    def share_of(self, batch_size: int) -> int:
        """Pictures of this process in a batch.

        Raises:
            ValueError: the batch can't be divided evenly.
        """
        if batch_size % self.world:
            raise ValueError(f"batch_size {batch_size} can't be divided among {self.world} processes")
        return batch_size // self.world


def _divided(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    part: Any = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; all processes must call if it is divided."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the device of another one, divided and laid out in memory as that is.

    Fused optimisers take for granted that moments lie in memory as their parameter does.
    """
    if not _divided(other):
        return torch.empty_like(other, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
    tensor = tensor.to(other.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


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

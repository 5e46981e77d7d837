"""Data parallelism by averaging gradients, for `torchrun --nproc-per-node N`.

On a CPU with few cores, N processes of one thread each train faster than one process of N threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
        """Joins the group that torchrun set up; alone where there is none."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), world)

    @property
    def first(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    def average_gradients(self, module: nn.Module, flag: bool = False) -> bool:
        """Replaces each gradient by its mean over the group.

        Args:
            module: whose parameters all have a gradient.
            flag: a wish to stop.

        Returns:
            Whether any process of the group raised its flag.
        """
        if self.world == 1:
            return flag
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = _flatten([*gradients, torch.tensor([float(flag)], device=gradients[0].device)])
        dist.all_reduce(flat)
        flat /= self.world
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view(gradient.shape))
            start += gradient.numel()
        return bool(flat[-1] > 0)

    def share_of(self, batch_size: int) -> int:
        """Pictures of this process in a batch.

        Raises:
            ValueError: the batch can't be divided evenly.
        """
        if batch_size % self.world:
            raise ValueError(f"batch_size {batch_size} can't be divided among {self.world} processes")
        return batch_size // self.world


def _flatten(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])

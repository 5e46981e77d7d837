"""What a backbone gives out: which stages' maps, what is known of them, and how the last one is pooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: x.mean((2, 3)),
    "max": lambda x: x.amax((2, 3)),
    "avgmax": lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2,
    "catavgmax": lambda x: torch.cat((x.mean((2, 3)), x.amax((2, 3))), dim=1),
    "": lambda x: x,
}
"""Global poolings of a map (B, C, H, W): to (B, C), to (B, 2 C), or none."""


def chosen_maps(indices: int | Sequence[int] | None, count: int, name: str) -> list[int]:
    """The chosen ones of `count` maps, in order: all for None, the last n for n, else the listed ones."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 1 <= indices <= count:
            raise ValueError(f"{name} as one number takes that many last maps, 1 to {count}, got {indices}")
        return list(range(count - indices, count))
    taken = sorted({i + count if i < 0 else i for i in indices})
    if not taken or taken[0] < 0 or taken[-1] >= count:
        raise ValueError(f"{name} must lie in 0..{count - 1}, got {tuple(indices)}")
    return taken


class GlobalPool(nn.Module):
    """One of `POOLS` as a layer."""

    def __init__(self, pool_type: str = "avg") -> None:
        super().__init__()
        if pool_type not in POOLS:
            raise ValueError(f"global_pool must be one of {tuple(POOLS)}, got {pool_type!r}")
        self.pool_type = pool_type
        self.factor = 2 if pool_type == "catavgmax" else 1

    def forward(self, x: Tensor) -> Tensor:
        return POOLS[self.pool_type](x)


class FeatureInfo:
    """What is known of each stage, and which stages' maps a feature backbone returns, by timm's names.

    `idx` of the methods is a stage or a list of them; None stands for the returned ones.
    """

    def __init__(self, info: Sequence[Mapping[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = [{"index": i, **entry} for i, entry in enumerate(info)]
        self.out_indices = tuple(out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """One value of a stage, or a list of them."""
        chosen = self.get_dicts((key,), idx)
        return chosen[key] if isinstance(idx, int) else [entry[key] for entry in chosen]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """The entry of a stage, or a list of them, with all keys or some."""
        if isinstance(idx, int):
            return {key: self.info[idx][key] for key in keys or self.info[idx]}
        return [self.get_dicts(keys, i) for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of each map."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Stride of each map."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Module that makes each map."""
        return self.get("module", idx)

    def __getitem__(self, stage: int) -> dict[str, Any]:
        return self.info[stage]

    def __len__(self) -> int:
        return len(self.info)

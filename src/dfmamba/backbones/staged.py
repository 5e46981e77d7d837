"""What the peers share: a stem and four stages, whose maps are given out as our own backbone gives its."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfmamba.backbones.dfmamba import DSSM
from dfmamba.backbones.features import (
    MOST_BLOCKS,
    STRIDES,
    FeatureInfo,
    checked_image,
    chosen_maps,
    depth_rates,
)
from dfmamba.layers import DRAWING, LayerNorm2d, Pointwise
from dfmamba.settings import with_overrides

torch.fx.wrap("checked_image")


@dataclass(frozen=True, kw_only=True)
class StagedConfig:
    """What defines a peer, whatever its blocks are.

    Attributes:
        dims: channels of the four stages.
        depths: blocks of the four stages.
        expand: inner width of the state-space layers relative to their input.
        ffn_ratio: width of the FFN after each of them.
        in_chans: channels of the picture.
        drop_path_rate: stochastic depth of the last block; earlier ones grow linearly from 0.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    expand: float
    ffn_ratio: float = 4.0
    in_chans: int = 3
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dims", "depths"):
            values = tuple(getattr(self, name))
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} needs four entries of at least 1, got {values}")
            object.__setattr__(self, name, values)
        if sum(self.depths) > MOST_BLOCKS:
            raise ValueError(f"depths are {self.depths}; at most {MOST_BLOCKS} blocks are possible")
        if self.in_chans < 1:
            raise ValueError(f"in_chans must be positive, got {self.in_chans}")
        for name in ("expand", "ffn_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate must lie in [0, 1), got {self.drop_path_rate}")

    def with_overrides(self, **overrides: Any) -> Self:
        """A changed copy.

        Raises:
            ValueError: an override is no field of the configuration, or unusable.
        """
        return with_overrides(self, overrides)


class StagedFeatures(nn.Module):
    """A stem and stages as a feature extractor: returns the maps of `out_indices`, finest first.

    Each map goes through a layer norm of its own, as in the papers' detectors.

    Args:
        config: the architecture.
        out_indices: stages (-1 is the last one), or a number of last stages. Stages after the last chosen one
            aren't kept.
        stem: from the picture to a quarter of its size and `dims[0]` channels.
        down: makes the layer between two stages, of their channels.
        block: makes a block of a number of channels and a rate of stochastic depth.

    Shape: (B, in_chans, H, W) with H and W at least 32. Sizes that the strides don't divide are rounded up at
    each stage.
    """

    def __init__(
        self,
        config: StagedConfig,
        out_indices: int | Sequence[int],
        stem: nn.Module,
        down: Callable[[int, int], nn.Module],
        block: Callable[[int, float], nn.Module],
    ) -> None:
        super().__init__()
        self.config = config
        self.out_indices = tuple(chosen_maps(out_indices, len(STRIDES), "out_indices"))
        info = [
            {"num_chs": dim, "reduction": stride, "module": f"stages.{i}"}
            for i, (dim, stride) in enumerate(zip(config.dims, STRIDES, strict=True))
        ]
        self.feature_info = FeatureInfo(info, self.out_indices)
        self.grad_checkpointing = False
        rates = iter(depth_rates(config.drop_path_rate, sum(config.depths)))
        self.stem = stem
        self.downs = nn.ModuleList([nn.Identity()])
        self.stages = nn.ModuleList()
        for i in range(self.out_indices[-1] + 1):
            dim = config.dims[i]
            if i:
                self.downs.append(down(config.dims[i - 1], dim))
            self.stages.append(nn.Sequential(*(block(dim, next(rates)) for _ in range(config.depths[i]))))
        self.norms = nn.ModuleDict({str(i): LayerNorm2d(config.dims[i]) for i in self.out_indices})
        for module in self.stages.modules():
            if isinstance(module, Pointwise) and DRAWING.get():
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory: recompute each block in the backward pass."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay."""
        kept = {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if isinstance(module, DSSM)
            for name in module.no_weight_decay()
        }
        return kept & {name for name, _ in self.named_parameters()}

    def forward(self, x: Tensor) -> list[Tensor]:
        x = checked_image(x, self.config.in_chans)
        # Channels next to each other: the order that norms, projections and the scan work in.
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        maps = []
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = down(x)
            for block in stage.children():
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            maps.append(x)
        return [norm(maps[int(stage)]) for stage, norm in self.norms.items()]

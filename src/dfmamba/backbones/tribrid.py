"""The tribrid backbone of DF-Mamba: convolution, DSSM(+FFN) and gated convolution blocks in four stages.

Source: DF-Mamba (arXiv 2512.02727), Fig. 4. Feature strides are 4, 8, 16 and 32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfmamba.backbones.blocks import ConvBlock, ConvNorm, GatedConvBlock, MambaMixer, MixerBlock
from dfmamba.backbones.dssm import DSSMConfig
from dfmamba.layers import NORMS

STRIDES = (4, 8, 16, 32)
BLOCKS = ("conv", "gated", "dssm", "mamba", "none")
"""Names a stage may list: "dssm" scans at deformable positions, "mamba" in plain raster order."""


@dataclass(frozen=True)
class TribridConfig:
    """Everything that defines a tribrid backbone.

    Attributes:
        dims: channels of the four stages.
        stages: block names of each stage, in order.
        stem_dim: channels between the two strided convolutions of the stem.
        in_chans: channels of the picture.
        scan: switches of the state-space layers.
        deformable: False turns every deformable scan into the plain one.
        num_anchors: K of the deformable scan.
        replaced: block name -> block name, applied to all stages (the paper's block ablations).
        expand: inner width of the Mamba mixers relative to their input.
        ffn_ratio: width of the FFN after each mixer; 0 leaves it out.
        gated_expand: width of the gated convolution blocks.
        gated_kernel: depthwise kernel of the gated convolution blocks.
        drop_path_rate: stochastic depth of the last block; earlier ones grow linearly from 0.
        norm: norm of the convolution blocks, "batch" or "layer".
        mixer_norm: norm of the gated and state-space blocks. With "batch" nothing bounds a single token, and
            step, input and output maps multiply its outliers up to a useless network: keep "layer".
    """

    dims: tuple[int, int, int, int]
    stages: tuple[tuple[str, ...], ...]
    stem_dim: int = 32
    in_chans: int = 3
    scan: DSSMConfig = field(default_factory=DSSMConfig)
    deformable: bool = True
    num_anchors: int = 9
    replaced: Mapping[str, str] = field(default_factory=dict)
    expand: float = 1.0
    ffn_ratio: float = 3.0
    gated_expand: float = 8 / 3
    gated_kernel: int = 7
    drop_path_rate: float = 0.0
    norm: str = "batch"
    mixer_norm: str = "layer"

    def __post_init__(self) -> None:
        if len(self.dims) != 4 or len(self.stages) != 4:
            raise ValueError(f"dims and stages need four entries, got {self.dims} and {self.stages}")
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "stages", tuple(tuple(stage) for stage in self.stages))
        if isinstance(self.scan, Mapping):
            object.__setattr__(self, "scan", DSSMConfig(**self.scan))
        names = [name for stage in self.stages for name in stage]
        for name in [*names, *self.replaced, *self.replaced.values()]:
            if name not in BLOCKS:
                raise ValueError(f"unknown block {name!r}; known: {', '.join(BLOCKS)}")
        for norm in (self.norm, self.mixer_norm):
            if norm not in NORMS:
                raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
        if self.in_chans < 1:
            raise ValueError(f"in_chans must be at least 1, got {self.in_chans}")

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(sum(self.replaced.get(n, n) != "none" for n in stage) for stage in self.stages)

    def with_overrides(self, **overrides: Any) -> TribridConfig:
        """A changed copy; unknown names are an error.

        Raises:
            ValueError: an override is no field of the configuration.
        """
        known = [f.name for f in fields(self)]
        unknown = sorted(set(overrides) - set(known))
        if unknown:
            raise ValueError(f"unknown backbone argument {unknown[0]!r}; known: {', '.join(known)}")
        return replace(self, **overrides)


class Tribrid(nn.Module):
    """DF-Mamba's backbone.

    Args:
        config: the architecture.
        num_classes: size of a linear classifier on the pooled last map; 0 for none.

    Shape: (B, in_chans, H, W) with H and W at least 32. Sizes that the strides don't divide are rounded up
    at each stage, as strided convolutions do.
    """

    def __init__(self, config: TribridConfig, num_classes: int = 0) -> None:
        super().__init__()
        self.config = config
        self.num_features = config.dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": stride, "module": f"stages.{i}"}
            for i, (dim, stride) in enumerate(zip(config.dims, STRIDES, strict=True))
        ]
        self.grad_checkpointing = False
        norm, mixer_norm = NORMS[config.norm], NORMS[config.mixer_norm]
        scan = replace(
            config.scan,
            deformable=config.scan.deformable and config.deformable,
            num_anchors=config.num_anchors,
        )
        rates = iter(torch.linspace(0.0, config.drop_path_rate, max(1, sum(config.depths))).tolist())

        def block(name: str, dim: int) -> nn.Module:
            rate = next(rates)
            if name == "conv":
                return ConvBlock(dim, rate, norm)
            if name == "gated":
                return GatedConvBlock(dim, config.gated_expand, config.gated_kernel, rate, mixer_norm)
            here = replace(scan, deformable=scan.deformable and name == "dssm")
            mixer = MambaMixer(dim, here, config.expand, norm=mixer_norm)
            return MixerBlock(dim, mixer, config.ffn_ratio, rate, mixer_norm)

        self.stem = nn.Sequential(
            ConvNorm(config.in_chans, config.stem_dim, stride=2, norm=norm, act=True),
            ConvNorm(config.stem_dim, config.dims[0], stride=2, norm=norm, act=True),
        )
        self.downs = nn.ModuleList([nn.Identity()])
        self.stages = nn.ModuleList()
        for i, names in enumerate(config.stages):
            if i:
                self.downs.append(ConvNorm(config.dims[i - 1], config.dims[i], stride=2, norm=norm))
            kept = [config.replaced.get(n, n) for n in names]
            self.stages.append(nn.Sequential(*(block(n, config.dims[i]) for n in kept if n != "none")))
        self.norm = mixer_norm(self.num_features)
        self.init_weights()
        self.reset_classifier(num_classes)

    def init_weights(self) -> None:
        """Truncated normal 1x1 convolutions, Kaiming others; state-space layers keep their own start."""
        own = {
            id(p) for m in self.modules() if type(m).__name__ in ("DSSM", "DeformableSampler")
            for p in m.parameters()
        }  # fmt: skip
        for module in self.modules():
            if not isinstance(module, nn.Conv2d) or id(module.weight) in own:
                continue
            if module.kernel_size == (1, 1):
                nn.init.trunc_normal_(module.weight, std=0.02 if self.num_features > 256 else 0.05)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out" if module.groups == 1 else "fan_in")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory: recompute each block in the backward pass."""
        self.grad_checkpointing = enable

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the classifier; 0 removes it."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The classifier, an identity where there is none."""
        return self.head

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay."""
        return {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if type(module).__name__ == "DSSM"
            for name in module.no_weight_decay()
        }

    def _stage(self, i: int, x: Tensor) -> Tensor:
        x = self.downs[i](x)
        if self.grad_checkpointing and torch.is_grad_enabled():
            for block in self.stages[i].children():
                x = checkpoint(block, x, use_reentrant=False)
            return x
        return self.stages[i](x)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> list[Tensor]:
        """Maps of the chosen stages (all four by default), finest first.

        Raises:
            ValueError: the picture is smaller than 32 pixels or has the wrong number of channels.
        """
        wanted = range(4) if indices is None else indices
        self._check(x)
        x = self.stem(x)
        maps = []
        for i in range(max(wanted) + 1):
            x = self._stage(i, x)
            if i in wanted:
                maps.append(self.norm(x) if i == 3 else x)
        return maps

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.config.in_chans or min(x.shape[2:]) < 32:
            raise ValueError(
                f"expected a picture (B, {self.config.in_chans}, H, W) with H and W at least 32, "
                f"got {tuple(x.shape)}"
            )

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (B, num_features, H/32, W/32)."""
        return self.forward_intermediates(x, (3,))[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features, or class scores where there is a classifier."""
        x = x.mean((2, 3))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class FeatureInfo:
    """Channels and strides of the maps that a feature backbone returns, as timm names them."""

    def __init__(self, info: Sequence[Mapping[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = [dict(info[i]) for i in out_indices]
        self.out_indices = tuple(out_indices)

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [i["num_chs"] for i in self.info]

    def reduction(self) -> list[int]:
        """Stride of each map."""
        return [i["reduction"] for i in self.info]

    def module_name(self) -> list[str]:
        """Module that makes each map."""
        return [i["module"] for i in self.info]

    def __len__(self) -> int:
        return len(self.info)


class TribridFeatures(Tribrid):
    """The tribrid backbone as a feature extractor: returns the maps of `out_indices`, finest first."""

    def __init__(self, config: TribridConfig, out_indices: Sequence[int] = (0, 1, 2, 3)) -> None:
        self.out_indices = tuple(i + 4 if i < 0 else i for i in out_indices)
        if not self.out_indices or any(not 0 <= i < 4 for i in self.out_indices):
            raise ValueError(f"out_indices must lie in 0..3, got {tuple(out_indices)}")
        super().__init__(config)
        self.feature_info: Any = FeatureInfo(self.feature_info, self.out_indices)
        if max(self.out_indices) < 3:
            del self.stages[max(self.out_indices) + 1 :]
            del self.downs[max(self.out_indices) + 1 :]
            self.norm = nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        return self.forward_intermediates(x, self.out_indices)

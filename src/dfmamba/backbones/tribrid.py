"""The tribrid backbone of DF-Mamba: convolution, DSSM(+FFN) and gated convolution blocks in four stages.

Source: DF-Mamba (arXiv 2512.02727), Fig. 4. Feature strides are 4, 8, 16 and 32. Methods that timm's
models have too take the same arguments and return the same things.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfmamba.backbones.blocks import ConvBlock, ConvNorm, GatedConvBlock, MambaMixer, MixerBlock, VimMixer
from dfmamba.backbones.dssm import DSSM, DeformableSampler, DSSMConfig
from dfmamba.backbones.features import FeatureInfo, GlobalPool, chosen_maps
from dfmamba.backbones.overrides import with_overrides
from dfmamba.fuse import fuse
from dfmamba.layers import NORMS

STRIDES = (4, 8, 16, 32)
BLOCKS = ("conv", "gated", "dssm", "mamba", "vim", "none")
"""Names a stage may list: "dssm" scans at deformable positions, "mamba" in plain raster order, "vim" so from
either end."""


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
        return with_overrides(self, overrides)


class Tribrid(nn.Module):
    """DF-Mamba's backbone.

    Args:
        config: the architecture.
        num_classes: size of a linear classifier on the pooled last map; 0 for none.
        drop_rate: dropout before the classifier.
        global_pool: one of `POOLS`; with "" the classifier is a 1x1 convolution.

    Shape: (B, in_chans, H, W) with H and W at least 32. Sizes that the strides don't divide are rounded up
    at each stage, as strided convolutions do.
    """

    def __init__(
        self, config: TribridConfig, num_classes: int = 0, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        self.config = config
        self.in_chans = config.in_chans
        self.drop_rate = drop_rate
        self.num_features = config.dims[-1]
        self.feature_info: Any = [
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
            mixer: nn.Module
            if name == "vim":
                mixer = VimMixer(dim, here, config.expand)
            else:
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
        self.head_drop = nn.Dropout(drop_rate)
        self.init_weights()
        self.reset_classifier(num_classes, global_pool)

    def init_weights(self) -> None:
        """Truncated normal 1x1 convolutions, Kaiming others; state-space layers keep their own start."""
        own = {
            id(p) for m in self.modules() if isinstance(m, DSSM | DeformableSampler) for p in m.parameters()
        }
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

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 removes it. `global_pool=None` keeps the pooling."""
        if global_pool is not None:
            self.global_pool = GlobalPool(global_pool)
        self.num_classes = num_classes
        self.head_hidden_size = self.num_features * self.global_pool.factor
        head: nn.Module = nn.Identity()
        if num_classes > 0 and self.global_pool.pool_type:
            head = nn.Linear(self.head_hidden_size, num_classes)
        elif num_classes > 0:
            head = nn.Conv2d(self.head_hidden_size, num_classes, 1)
        like = next(self.parameters())
        self.head = head.to(like.device, like.dtype).train(self.training)

    def get_classifier(self) -> nn.Module:
        """The classifier, an identity where there is none."""
        return self.head

    def fuse(self) -> Tribrid:
        """A faster copy for inference, with the same outputs; see `dfmamba.fuse.fuse`."""
        return fuse(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group the parameters from input to output: by block, or by stage if `coarse`."""
        # timm: a number after a pattern ends the group's key, and 99999 joins the group before.
        fine = [(r"^downs\.(\d+)", (0,)), (r"^stages\.(\d+)\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^stem", "blocks": r"^(?:downs|stages)\.(\d+)" if coarse else fine}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay."""
        return {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if isinstance(module, DSSM)
            for name in module.no_weight_decay()
        }

    def _stage(self, i: int, x: Tensor) -> Tensor:
        x = self.downs[i](x)
        if self.grad_checkpointing and torch.is_grad_enabled():
            for block in self.stages[i].children():
                x = checkpoint(block, x, use_reentrant=False)
            return x
        return self.stages[i](x)

    def _run(self, x: Tensor, wanted: Collection[int], last: int, norm: bool) -> tuple[Tensor, list[Tensor]]:
        """Stages up to `last`: the final map (normed if it is the network's last) and the wanted ones."""
        self._check(x)
        # Channels next to each other: the order that norms, projections and the scan work in.
        final = x = self.stem(x.contiguous(memory_format=torch.channels_last))
        maps = []
        for i in range(last + 1):
            x = self._stage(i, x)
            final = self.norm(x) if i == len(self.stages) - 1 else x
            if i in wanted:
                maps.append(final if norm else x)
        return final, maps

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of the chosen stages beside the last one.

        Args:
            x: pictures (B, in_chans, H, W).
            indices: all stages if None, the last n for a number n, else a list (-1 is the last one).
            norm: apply the final norm to the last stage's map, as `forward_features` does.
            stop_early: don't run the stages after the last chosen one.
            output_fmt: "NCHW".
            intermediates_only: leave the first result out (and the stages that only it needs).

        Returns:
            The final map, (B, num_features, H/32, W/32) or that of the stage it stopped at, and the chosen
            maps, finest first.

        Raises:
            ValueError: a picture below 32 pixels or of other channels; an unusable index or format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted = chosen_maps(indices, len(self.stages), "indices")
        last = wanted[-1] if stop_early or intermediates_only else len(self.stages) - 1
        final, maps = self._run(x, wanted, last, norm)
        return maps if intermediates_only else (final, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Deletes what the chosen maps don't need; norm and classifier always go with the last stage.

        Takes the indices of `forward_intermediates`; returns them counted from the first stage, in order.
        """
        taken = chosen_maps(indices, len(self.stages), "indices")
        end = taken[-1] + 1
        shorter = end < len(self.stages)
        if prune_norm or shorter:
            self.norm = nn.Identity()
        if shorter:
            del self.stages[end:]
            del self.downs[end:]
            self.num_features = self.feature_info[taken[-1]]["num_chs"]
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return taken

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.config.in_chans or min(x.shape[2:]) < 32:
            raise ValueError(
                f"expected a picture (B, {self.config.in_chans}, H, W) with H and W at least 32, "
                f"got {tuple(x.shape)}"
            )

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (B, num_features, H/32, W/32)."""
        return self._run(x, (), len(self.stages) - 1, True)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Class scores (B, num_classes) of a last map, or the classifier's input (B, head_hidden_size)."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class TribridFeatures(Tribrid):
    """The tribrid backbone as a feature extractor: returns the maps of `out_indices`, finest first.

    Args:
        config: the architecture.
        out_indices: stages (-1 is the last one), or a number of last stages. Stages after the last chosen one
            aren't kept. The map of the network's last stage is normed.
    """

    def __init__(self, config: TribridConfig, out_indices: int | Sequence[int] = (0, 1, 2, 3)) -> None:
        self.out_indices = tuple(chosen_maps(out_indices, 4, "out_indices"))
        super().__init__(config)
        self.feature_info = FeatureInfo(self.feature_info, self.out_indices)
        self.prune_intermediate_layers(self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        return self._run(x, self.out_indices, self.out_indices[-1], True)[1]

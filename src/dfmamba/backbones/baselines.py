"""The paper's baseline backbones, built by timm behind the interface of our own.

ResNet-50, ConvNeXt-T, ViT-S/16 and Swin-T give one map at each of the strides 4, 8, 16 and 32. timm comes
with the extra `baselines`. Weights are random, or read from a local safetensors file; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from dfmamba.backbones.features import (
    STRIDES,
    FeatureInfo,
    checked_image,
    chosen_maps,
    for_channels,
    read_weights,
    require_finite,
)
from dfmamba.layers import LayerNorm2d
from dfmamba.settings import with_overrides

VIT_PATCH = 16


@dataclass(frozen=True)
class BaselineConfig:
    """Everything that defines a baseline backbone.

    Attributes:
        timm_name: of `timm.create_model`; also the layout of files of weights.
        in_chans: channels of the picture.
        drop_path_rate: stochastic depth of the last block; earlier ones grow linearly from 0.
        body: other arguments of `timm.create_model`, for networks of another size, such as `depths` and
            `dims`.
    """

    timm_name: str
    in_chans: int = 3
    drop_path_rate: float = 0.0
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.in_chans < 1:
            raise ValueError(f"in_chans must be at least 1, got {self.in_chans}")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate must lie in [0, 1), got {self.drop_path_rate}")

    def with_overrides(self, **overrides: Any) -> Self:
        """A changed copy.

        Raises:
            ValueError: an override is no field of the configuration, or unusable.
        """
        return with_overrides(self, overrides, fixed=("timm_name",))

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `timm.create_model`."""
        return {**self.body, "in_chans": self.in_chans, "drop_path_rate": self.drop_path_rate}


@dataclass(frozen=True)
class ResNetConfig(BaselineConfig):
    """ResNet with what A2J-Transformer's release changes in it.

    Attributes:
        output_stride: 32, or 16 for "DC5": the last stage is dilated and its map has stride 16.
        frozen_norm: batch norm with constant statistics, scale and shift, all of them buffers. For weights
            from a file: with random ones there is nothing worth freezing.
        frozen_stages: leading parts that aren't trained: 0 none, 1 the stem, 2 stem and first stage, to 5.
    """

    output_stride: int = 32
    frozen_norm: bool = False
    frozen_stages: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_stride not in (16, 32):
            raise ValueError(f"output_stride must be 16 or 32, got {self.output_stride}")
        if not 0 <= self.frozen_stages <= 5:
            raise ValueError(f"frozen_stages must lie in 0..5, got {self.frozen_stages}")

    @property
    def arguments(self) -> dict[str, Any]:
        return {**super().arguments, "output_stride": self.output_stride}


@dataclass(frozen=True)
class ViTConfig(BaselineConfig):
    """Plain vision transformer; its position code is resampled to the grid of any input."""

    @property
    def arguments(self) -> dict[str, Any]:
        return {**super().arguments, "dynamic_img_size": True, "dynamic_img_pad": False}


@dataclass(frozen=True)
class SwinConfig(BaselineConfig):
    """Swin transformer with windows of 7, which pad maps that they don't divide."""

    @property
    def arguments(self) -> dict[str, Any]:
        return {**super().arguments, "strict_img_size": False, "always_partition": True}


BASELINES: dict[str, BaselineConfig] = {
    "resnet50": ResNetConfig("resnet50"),
    "convnext_tiny": BaselineConfig("convnext_tiny"),
    "vit_small": ViTConfig("vit_small_patch16_224"),
    "swin_tiny": SwinConfig("swin_tiny_patch4_window7_224"),
}


def create_baseline(config: BaselineConfig, out_indices: int | Sequence[int] = (0, 1, 2, 3)) -> Baseline:
    """Builds a feature backbone with random weights.

    Raises:
        ImportError: timm is missing.
        ValueError: unusable indices.
    """
    if isinstance(config, ViTConfig):
        return SimplePyramid(config, out_indices)
    return Baseline(config, out_indices)


def _timm_model(config: BaselineConfig) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"{config.timm_name} is built by timm: pip install 'dfmamba[baselines]'") from error
    return timm.create_model(config.timm_name, pretrained=False, num_classes=0, **config.arguments)


class Baseline(nn.Module):
    """A network of four stages as a feature extractor: returns the maps of `out_indices`, finest first.

    Maps of ConvNeXt and Swin go through a layer norm of their own, as in those papers' detectors.

    Args:
        config: the architecture.
        out_indices: stages (-1 is the last one), or a number of last stages. Stages after the last chosen one
            aren't kept.

    Shape: (B, in_chans, H, W) with H and W at least 32. A side that 32 doesn't divide is padded with zeros at
    the right or bottom, so that cell i of a map of stride s covers the pixels from s i on, whatever the size.
    """

    feature_info: FeatureInfo

    def __init__(self, config: BaselineConfig, out_indices: int | Sequence[int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.config = config
        self.out_indices = tuple(chosen_maps(out_indices, 4, "out_indices"))
        self.body = _timm_model(config)
        self._arrange()

    def _arrange(self) -> None:
        """Keeps of `body` what the maps need, and adds what they lack."""
        resnet = isinstance(self.config, ResNetConfig)
        first = int(resnet)  # to timm, a ResNet's stem is a stage
        info = self.body.feature_info[first:]
        self._taken = [index + first for index in self.out_indices]
        self.body.prune_intermediate_layers(self._taken, prune_norm=True)
        self._describe([int(entry["num_chs"]) for entry in info], [int(entry["reduction"]) for entry in info])
        channels = self.feature_info.channels()
        self.norms = nn.ModuleList(nn.Identity() if resnet else LayerNorm2d(width) for width in channels)
        if isinstance(self.config, ResNetConfig):
            self._freeze(self.config)

    def _describe(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        info = [
            {"num_chs": width, "reduction": stride, "module": f"stage{i}"}
            for i, (width, stride) in enumerate(zip(channels, strides, strict=True))
        ]
        self.feature_info = FeatureInfo(info, self.out_indices)

    def _freeze(self, config: ResNetConfig) -> None:
        parts = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
        for name in (name for part in parts[: config.frozen_stages] for name in part):
            getattr(self.body, name).requires_grad_(False)
        if config.frozen_norm:
            from timm.layers import freeze_batch_norm_2d

            self.body = freeze_batch_norm_2d(self.body)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.body.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay: position codes and class tokens."""
        named = set(getattr(self.body, "no_weight_decay", set)())
        return {f"body.{name}" for name, _ in self.body.named_parameters() if name in named}

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body.forward_intermediates(
            self._padded(x), indices=self._taken, stop_early=True, intermediates_only=True
        )
        return [norm(picture) for norm, picture in zip(self.norms, maps, strict=True)]

    def _padded(self, x: Tensor) -> Tensor:
        x = checked_image(x, self.config.in_chans)
        bottom, right = (-side % STRIDES[-1] for side in x.shape[2:])
        return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


class SimplePyramid(Baseline):
    """A plain vision transformer and the simple feature pyramid of ViTDet (Li et al., ECCV 2022).

    All maps come from the last one, of stride 16, after its norm: stride 32 by max pooling, 8 by one
    transposed convolution that halves the channels, 4 by two. ViTDet's 1x1 and 3x3 convolutions after each
    are left to the head. Strides 8, 16 and 32 cost 0.30 M parameters, stride 4 another 0.37 M.
    """

    def _arrange(self) -> None:
        dim = int(self.body.embed_dim)
        self._describe((dim // 4, dim // 2, dim, dim), STRIDES)
        levels = {
            0: lambda: nn.Sequential(
                nn.ConvTranspose2d(dim, dim // 2, 2, 2),
                LayerNorm2d(dim // 2),
                nn.GELU(),
                nn.ConvTranspose2d(dim // 2, dim // 4, 2, 2),
            ),
            1: lambda: nn.ConvTranspose2d(dim, dim // 2, 2, 2),
            2: nn.Identity,
            3: lambda: nn.MaxPool2d(2),
        }
        self.levels = nn.ModuleList(levels[index]() for index in self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self._padded(x)
        tokens = self.body.forward_features(x)[:, self.body.num_prefix_tokens :]
        size = (x.shape[2] // VIT_PATCH, x.shape[3] // VIT_PATCH)
        picture = tokens.transpose(1, 2).unflatten(2, size)
        return [level(picture) for level in self.levels]


def load_baseline_weights(backbone: Baseline, path: str | Path) -> None:
    """Fills in a baseline's weights from a safetensors file with timm's names, such as ImageNet's.

    Classifiers and stages that the backbone lacks are ignored; a pyramid and the norms of maps keep what they
    have. Position codes are resampled to the backbone's grid, and the first convolution is adapted to other
    than three channels.

    Raises:
        OSError: no such file.
        ValueError: the file is damaged, or of another network.
    """
    path = Path(path)
    found = read_weights(path)
    own = backbone.body.state_dict()
    state = fitted(found, own, backbone)
    needed = {name: value for name, value in own.items() if not name.endswith("num_batches_tracked")}
    wrong = [n for n, value in needed.items() if n not in state or state[n].shape != value.shape]
    if wrong:
        raise ValueError(
            f"{path}: weights of another network than {backbone.config.timm_name}: {len(wrong)} tensors "
            f"missing or of another shape (first: {wrong[0]})"
        )
    require_finite(state, [name for name in own if name in state], path)
    backbone.body.load_state_dict({name: state.get(name, value) for name, value in own.items()})


def fitted(found: Mapping[str, Tensor], own: Mapping[str, Tensor], backbone: Any) -> dict[str, Tensor]:
    """The file's tensors with position code and first convolution in the backbone's shape."""
    state = dict(found)
    kernel = next((name for name, value in own.items() if value.ndim == 4), "")
    chans = backbone.config.in_chans
    if kernel in state and state[kernel].ndim == 4 and state[kernel].shape[1] == 3 != chans:
        state[kernel] = for_channels(state[kernel], chans)
    code = "pos_embed"
    if code in own and code in state and state[code].ndim == 3 and state[code].shape != own[code].shape:
        from timm.layers import resample_abs_pos_embed

        side = round((own[code].shape[1] - backbone.body.num_prefix_tokens) ** 0.5)
        old_side = round((state[code].shape[1] - backbone.body.num_prefix_tokens) ** 0.5)
        if old_side**2 == state[code].shape[1] - backbone.body.num_prefix_tokens:
            state[code] = resample_abs_pos_embed(
                state[code], [side, side], num_prefix_tokens=backbone.body.num_prefix_tokens
            )
    return state

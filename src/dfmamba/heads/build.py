"""The anchor-to-joint head, and the table of all heads: from settings to a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from dfmamba.heads.anchors import HandPoseOutput, HeadConfig
from dfmamba.heads.dense import DenseDecoder
from dfmamba.heads.detector import DetectorConfig, DetectorHead
from dfmamba.heads.detnet import DetNetConfig, DetNetHead


class AnchorToJoint(nn.Module):
    """Feature maps to two hands in 2.5D, by anchors that vote for joints.

    `config.num_layers = 0` gives the light dense head, more layers the deformable transformer of
    A2J-Transformer (Jiang et al., CVPR 2023). Both give the same `HandPoseOutput`.

    Args:
        feature_channels: channels of the backbone's maps, finest first.
        feature_strides: their strides in pixels of the crop.
        config: settings; None takes the defaults.

    Raises:
        ValueError: if the lists do not belong together or do not suit the configuration.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        feature_strides: Sequence[int],
        config: HeadConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or HeadConfig()
        if not feature_channels or len(feature_channels) != len(feature_strides):
            raise ValueError(
                f"got {len(feature_channels)} feature channels and {len(feature_strides)} strides; "
                "give one of each per feature map"
            )
        count = len(feature_channels)
        self.num_features = count
        self.levels = tuple(range(count)) if config.feature_levels is None else config.feature_levels
        if any(not -count <= level < count for level in self.levels):
            raise ValueError(f"feature_levels {self.levels} reach outside the {count} maps of the backbone")
        self.channels = tuple(int(feature_channels[level]) for level in self.levels)
        self.strides = tuple(int(feature_strides[level]) for level in self.levels)
        if list(self.strides) != sorted(self.strides):
            raise ValueError(f"feature strides {self.strides} must not decrease; list the finest map first")
        self.decoder: nn.Module
        if config.num_layers == 0:
            self.decoder = DenseDecoder(self.channels, self.strides, config)
        else:
            from dfmamba.heads.transformer import TransformerDecoder

            self.decoder = TransformerDecoder(self.channels, self.strides, config)

    def forward(self, features: Sequence[Tensor]) -> HandPoseOutput:
        """Estimate both hands.

        Args:
            features: the backbone's maps (B, C, H, W), all of them, finest first.

        Raises:
            ValueError: if their number or channels are not those given at construction.
        """
        if len(features) != self.num_features:
            raise ValueError(f"got {len(features)} feature maps, expected {self.num_features}")
        chosen = [features[level] for level in self.levels]
        found = tuple(feature.shape[1] for feature in chosen)
        if found != self.channels:
            raise ValueError(f"feature maps have {found} channels, expected {self.channels}")
        return self.decoder(chosen)


AnyHeadConfig: TypeAlias = HeadConfig | DetNetConfig | DetectorConfig

HEADS: dict[str, tuple[type[Any], Callable[..., nn.Module]]] = {
    "anchor": (HeadConfig, AnchorToJoint),
    "detector": (DetectorConfig, DetectorHead),
    "detnet": (DetNetConfig, DetNetHead),
}
"""Kinds of heads, as configurations name them: class of the settings, and what makes the head of the channels
and strides of a backbone's maps and of settings."""


def register_head(kind: str, settings: type[Any], build: Callable[..., nn.Module]) -> None:
    """Gives a head from outside the package a kind, in this process.

    Args:
        kind: what configurations call it.
        settings: a dataclass with `image_size`, with `from_dict` (of plain values without "kind") and
            `to_dict` (with it).
        build: of channels and strides of the backbone's maps, finest first, and settings, gives the head.

    Raises:
        ValueError: there is a head of this kind, or of these settings.
    """
    if kind in HEADS or settings in [known for known, _ in HEADS.values()]:
        raise ValueError(f"there is a head of kind {kind!r} or with {settings.__name__} already")
    HEADS[kind] = (settings, build)


def head_config(values: Mapping[str, Any]) -> AnyHeadConfig:
    """Settings from plain values, as a configuration's `to_dict` gives them; "kind" names other heads.

    Raises:
        ValueError: unknown kind or setting, or an unusable value.
    """
    kind = values.get("kind", "anchor")
    if kind not in HEADS:
        raise ValueError(f"unknown kind of head {kind!r}; known: {', '.join(sorted(HEADS))}")
    return HEADS[kind][0].from_dict({name: value for name, value in values.items() if name != "kind"})


def build_head(
    feature_channels: Sequence[int], feature_strides: Sequence[int], config: AnyHeadConfig
) -> nn.Module:
    """The head of a configuration, for the maps of a backbone (finest first).

    Raises:
        ValueError: the maps don't suit the configuration, or there is no head with such settings.
    """
    for settings, build in HEADS.values():
        if type(config) is settings:
            return build(feature_channels, feature_strides, config)
    raise ValueError(f"no head has settings of the kind {type(config).__name__}")

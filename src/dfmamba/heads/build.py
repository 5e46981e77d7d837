"""From a head's settings to the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from .config import HeadConfig
from .head import AnchorToJoint

if TYPE_CHECKING:
    from .detector import DetectorConfig
    from .detnet import DetNetConfig

AnyHeadConfig: TypeAlias = "HeadConfig | DetNetConfig | DetectorConfig"


def head_config(values: Mapping[str, Any]) -> AnyHeadConfig:
    """Settings from plain values, as a configuration's `to_dict` gives them; "kind" names other heads.

    Raises:
        ValueError: unknown kind or setting, or an unusable value.
    """
    kind = values.get("kind", "anchor")
    rest = {name: value for name, value in values.items() if name != "kind"}
    if kind == "anchor":
        return HeadConfig.from_dict(rest)
    if kind == "detnet":
        from .detnet import DetNetConfig

        return DetNetConfig.from_dict(rest)
    if kind == "detector":
        from .detector import DetectorConfig

        return DetectorConfig.from_dict(rest)
    raise ValueError(f"unknown kind of head {kind!r}; known: anchor, detector, detnet")


def build_head(
    feature_channels: Sequence[int], feature_strides: Sequence[int], config: AnyHeadConfig
) -> nn.Module:
    """The head of a configuration, for the maps of a backbone (finest first).

    Raises:
        ValueError: the maps don't suit the configuration.
    """
    if isinstance(config, HeadConfig):
        return AnchorToJoint(feature_channels, feature_strides, config)
    from .detector import DetectorConfig, DetectorHead

    if isinstance(config, DetectorConfig):
        return DetectorHead(feature_channels, feature_strides, config)
    from .detnet import DetNetHead

    return DetNetHead(feature_channels, feature_strides, config)

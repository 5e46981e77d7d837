"""Backbones: picture in, feature maps out. They know nothing of hands."""

from dfmamba.backbones.registry import (
    BACKBONES,
    backbone_config,
    create_backbone,
    list_backbones,
    register_backbone,
)
from dfmamba.backbones.tribrid import Tribrid, TribridConfig, TribridFeatures

__all__ = [
    "BACKBONES",
    "Tribrid",
    "TribridConfig",
    "TribridFeatures",
    "backbone_config",
    "create_backbone",
    "list_backbones",
    "register_backbone",
]

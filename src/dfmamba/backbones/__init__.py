"""Backbones: image in, feature maps out. They know nothing of hands."""

from dfmamba.backbones.dfmamba import BACKBONES, DSSMConfig, Tribrid, TribridConfig, TribridFeatures
from dfmamba.backbones.registry import (
    backbone_config,
    create_backbone,
    list_backbones,
    register_backbone,
)

__all__ = [
    "BACKBONES",
    "DSSMConfig",
    "Tribrid",
    "TribridConfig",
    "TribridFeatures",
    "backbone_config",
    "create_backbone",
    "list_backbones",
    "register_backbone",
]

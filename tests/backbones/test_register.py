"""Backbones from outside the package, by name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from dfmamba.backbones import (
    backbone_config,
    create_backbone,
    list_backbones,
    register_backbone,
    registry,
)
from dfmamba.backbones.features import FeatureInfo
from dfmamba.heads import HeadConfig
from dfmamba.models import HandPoseModel, ModelConfig


@dataclass(frozen=True)
class PatchesConfig:
    in_chans: int = 3
    width: int = 8


class Patches(nn.Module):
    """One map of stride 8."""

    def __init__(self, config: PatchesConfig) -> None:
        super().__init__()
        self.embed = nn.Conv2d(config.in_chans, config.width, 8, 8)
        self.feature_info = FeatureInfo([{"num_chs": config.width, "reduction": 8, "module": "embed"}], (0,))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.embed(x)]


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> None:
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    register_backbone("patches", PatchesConfig(), lambda config, out_indices: Patches(config))


def test_it_is_found_built_and_changed_by_name() -> None:
    assert "patches" in list_backbones()
    assert backbone_config("patches", width=12).width == 12
    backbone = create_backbone("patches", features_only=True, in_chans=1, width=12)
    assert backbone(torch.zeros(1, 1, 32, 32))[0].shape == (1, 12, 4, 4)
    with pytest.raises(ValueError, match="depth"):
        create_backbone("patches", features_only=True, depth=3)


def test_a_pose_model_takes_it() -> None:
    head = HeadConfig(image_size=64, num_layers=0, dim=16, anchor_stride=8)
    model = HandPoseModel(ModelConfig("own", "patches", out_indices=(0,), head=head)).eval()
    assert model(torch.zeros(1, 3, 64, 64)).joints_25d.shape == (1, 2, 21, 3)


def test_names_of_the_package_and_odd_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="one of the package"):
        register_backbone("dfmamba_nano", PatchesConfig(), lambda config, out_indices: Patches(config))
    with pytest.raises(ValueError, match="in_chans"):
        register_backbone("odd", 3, lambda config, out_indices: Patches(config))

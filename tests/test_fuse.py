"""The inference form of a network gives the same outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfmamba import create_backbone, load
from dfmamba.layers import fuse


def with_statistics(module: nn.Module) -> nn.Module:
    """Batch norms as training leaves them, not as they start."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(part.bias, generator=generator)
    return module.eval()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_backbone(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = with_statistics(create_backbone("dfmamba_nano", features_only=True))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fused = fuse(model)
    x = torch.randn(2, 3, 64, 96).contiguous(memory_format=memory_format)
    with torch.no_grad():
        for one, other in zip(model(x), fused(x), strict=True):
            assert (one - other).abs().max() < 1e-4 * one.abs().max()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_pose_model_keeps_its_joints() -> None:
    model = load("nano")
    fused = model.fuse()
    x = torch.rand(2, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        one, other = model(x), fused(x)
    assert (one.joints_25d - other.joints_25d).abs().max() < 1e-3  # pixels
    assert (one.present_logits - other.present_logits).abs().max() < 1e-4


def test_norms_that_do_not_follow_a_convolution_stay() -> None:
    layers = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)).eval()
    fused = fuse(layers)
    assert isinstance(fused[2], nn.BatchNorm2d)
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(layers(x), fused(x))

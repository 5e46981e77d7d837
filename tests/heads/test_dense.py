"""The dense head against a slow version, and its properties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dfmamba.heads import AnchorToJoint, HeadConfig, LossConfig, pose_loss
from dfmamba.heads.build import DenseDecoder, SeparableBlock

CONFIG = HeadConfig(image_size=64, num_layers=0, dim=16, anchor_stride=8)


def maps(channels: Sequence[int], strides: Sequence[int], size: int = 64, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    return [
        torch.randn(batch, width, size // stride, size // stride, generator=generator)
        for width, stride in zip(channels, strides, strict=True)
    ]


def lively(head: nn.Module) -> nn.Module:
    """Replace all that starts small or at rest, so that no term hides."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in [*head.named_parameters(), *head.named_buffers()]:
            if "running_var" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point() and not name.endswith(("anchors", "offset_scale")):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return head


@pytest.mark.parametrize(
    ("channels", "strides", "levels"),
    [
        ((6, 9, 12), (8, 16, 32), None),
        ((4, 6, 9, 12), (4, 8, 16, 32), None),
        ((4, 6, 9, 12), (4, 8, 16, 32), (1, 2)),
        ((5, 7, 9, 9), (8, 16, 32, 32), None),
        ((5,), (8,), None),
    ],
)
def test_shapes(channels: tuple[int, ...], strides: tuple[int, ...], levels: tuple[int, ...] | None) -> None:
    config = HeadConfig(image_size=64, num_layers=0, dim=16, anchor_stride=8, feature_levels=levels)
    output = AnchorToJoint(channels, strides, config)(maps(channels, strides))
    assert output.joints_25d.shape == (2, 2, 21, 3)
    assert output.joint_logits.shape == (2, 2, 21)
    assert output.present_logits.shape == (2, 2)
    assert len(output.layers) == 1
    assert output.layers[0].joints_25d is output.joints_25d
    assert output.layers[0].anchors_25d.shape == (2, 2, 21, 3)
    assert torch.equal(output.joints_25d[:, :, 0, 2], torch.zeros(2, 2))


def test_starts_in_the_middle_of_the_picture() -> None:
    torch.manual_seed(0)
    channels, strides = (64, 160, 256), (8, 16, 32)
    config = HeadConfig(image_size=128, num_layers=0, dim=96, anchor_stride=8)
    joints = AnchorToJoint(channels, strides, config)(maps(channels, strides, 128)).joints_25d
    assert (joints[..., :2] - 63.5).abs().max() < 16
    assert joints[..., 2].abs().max() < 16


def slow_dense(decoder: DenseDecoder, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The dense decoder with explicit pooling, enlarging and sums."""
    config = decoder.config
    pooled = features[-1].flatten(2).sum(dim=-1) / features[-1][0, 0].numel()
    levels = []
    for level, feature in enumerate(features):
        step = decoder.pooling[level]
        parts = [feature[:, :, row::step, column::step] for row in range(step) for column in range(step)]
        levels.append(decoder.laterals[level](torch.stack(parts).mean(dim=0)))
    x = levels[-1] + decoder.context(pooled)[:, :, None, None]
    for level in reversed(range(len(features) - 1)):
        factor = levels[level].shape[-1] // x.shape[-1]
        x = x.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3) + levels[level]
        merge = decoder.merges[level]
        assert isinstance(merge, SeparableBlock)
        x = merge.layers(x).clamp(min=0)
    for mixer in decoder.mixers:
        assert isinstance(mixer, SeparableBlock)
        x = (x + mixer.layers(x)).clamp(min=0)
    votes = decoder.votes(x)
    batch, _, height, width = votes.shape
    joints = torch.zeros(batch, decoder.joints, 3, dtype=votes.dtype)
    centroids, logits = torch.zeros_like(joints), torch.zeros(batch, decoder.joints, dtype=votes.dtype)
    for sample in range(batch):
        for joint in range(decoder.joints):
            kinds = [votes[sample, kind * decoder.joints + joint] for kind in range(5)]
            total = kinds[3].exp().sum()
            for row in range(height):
                for column in range(width):
                    weight = kinds[3][row, column].exp() / total
                    half = (config.anchor_stride - 1) / 2
                    anchor = torch.tensor(
                        [column * config.anchor_stride + half, row * config.anchor_stride + half, 0.0]
                    )
                    offset = torch.stack([kind[row, column] for kind in kinds[:3]])
                    joints[sample, joint] += weight * (anchor + offset * 2 * config.anchor_stride)
                    centroids[sample, joint] += weight * anchor
                    logits[sample, joint] += weight * kinds[4][row, column]
    present = decoder.presence(torch.cat((pooled, x.mean(dim=(2, 3))), dim=1))
    return joints, centroids, logits, present


@torch.no_grad()
def test_equals_the_slow_version() -> None:
    config = HeadConfig(image_size=32, num_layers=0, dim=8, anchor_stride=8, num_joints=3)
    channels, strides = (3, 4, 5, 6), (4, 8, 16, 32)
    head = AnchorToJoint(channels, strides, config)
    decoder = head.decoder
    assert isinstance(decoder, DenseDecoder)
    lively(head).eval().double()
    features = [feature.double() for feature in maps(channels, strides, 32)]
    output = head(features)
    joints, centroids, logits, present = slow_dense(decoder, features)
    joints = joints.unflatten(1, (2, 3))
    joints[..., 2] -= joints[:, :, :1, 2].clone()
    torch.testing.assert_close(output.joints_25d, joints)
    torch.testing.assert_close(output.layers[0].anchors_25d, centroids.unflatten(1, (2, 3)))
    torch.testing.assert_close(output.joint_logits, logits.unflatten(1, (2, 3)))
    torch.testing.assert_close(output.present_logits, present)


def test_gradients_reach_all_parameters() -> None:
    channels, strides = (4, 6, 9, 12), (4, 8, 16, 32)
    head = lively(AnchorToJoint(channels, strides, CONFIG))
    features = [feature.requires_grad_() for feature in maps(channels, strides, batch=3)]
    target = {
        "joints_25d": torch.rand(3, 2, 21, 3) * 64,
        "valid": torch.ones(3, 2, 21, dtype=torch.bool),
        "present": torch.ones(3, 2, dtype=torch.bool),
        "box_size_px": torch.full((3, 2), 50.0),
    }
    pose_loss(head(features), target, LossConfig(image_size=64))["total"].backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert all(feature.grad is not None and feature.grad.abs().sum() > 0 for feature in features)


def test_confidence_does_not_move_the_search() -> None:
    head = lively(AnchorToJoint((6, 9), (8, 16), CONFIG))
    votes = head.decoder.votes  # type: ignore[union-attr]
    head(maps((6, 9), (8, 16))).joint_logits.sum().backward()
    moved = votes.weight.grad.unflatten(0, (5, 42)).abs().sum(dim=(1, 2, 3, 4))  # type: ignore[union-attr, operator]
    assert moved[:4].tolist() == [0.0] * 4
    assert moved[4] > 0


@torch.no_grad()
def test_batch_norms_can_be_folded() -> None:
    channels, strides = (6, 9, 12), (8, 16, 32)
    head = lively(AnchorToJoint(channels, strides, CONFIG)).eval()
    features = maps(channels, strides)
    before = head(features)
    folded = 0
    for module in list(head.modules()):
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                conv, norm = module[index], module[index + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[index], module[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
                    folded += 1
    assert folded == 3 + 2 * 2 + 2 * 2
    assert not any(isinstance(module, nn.BatchNorm2d) for module in head.modules())
    after = head(features)
    torch.testing.assert_close(after.joints_25d, before.joints_25d, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(after.present_logits, before.present_logits, rtol=1e-4, atol=1e-4)


def test_other_input_sizes_extend_the_grid() -> None:
    channels, strides = (6, 9), (8, 16)
    head = AnchorToJoint(channels, strides, CONFIG).eval()
    output = head(maps(channels, strides, size=96))
    assert (output.layers[0].anchors_25d[..., :2] - 47.5).abs().max() < 8


def test_half_precision_keeps_pixels() -> None:
    channels, strides = (6, 9), (8, 16)
    head = AnchorToJoint(channels, strides, CONFIG).eval()
    features = maps(channels, strides)
    with torch.no_grad():
        exact = head(features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = head(features)
    assert rough.joints_25d.dtype == torch.float32
    assert (rough.joints_25d - exact.joints_25d).abs().max() < 0.1


def test_cost_of_the_nano_head() -> None:
    channels, strides = (64, 160, 256), (8, 16, 32)
    config = HeadConfig(image_size=128, num_layers=0, dim=96, anchor_stride=8)
    head = AnchorToJoint(channels, strides, config)
    assert sum(parameter.numel() for parameter in head.parameters()) == 134_260
    cells = {8: 256, 16: 64, 32: 16}
    macs = 0

    def count(module: nn.Module, _: object, result: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            macs += module.weight[0].numel() * module.out_channels * result.shape[-1] * result.shape[-2]
        elif isinstance(module, nn.Linear):
            macs += module.weight.numel()

    for module in head.modules():
        module.register_forward_hook(count)
    head.eval()(maps(channels, strides, 128, batch=1))
    block = 96 * 9 + 96 * 96
    expected = 96 * (64 * cells[8] + 160 * cells[16] + 256 * cells[32])  # laterals
    expected += block * (cells[16] + 3 * cells[8]) + 96 * 210 * cells[8]  # merges, mixers, votes
    expected += 256 * 96 + (256 + 96) * 2  # context, presence
    assert macs == expected
    assert macs < 17e6


@pytest.mark.parametrize(
    ("channels", "strides", "message"),
    [
        ((4, 8), (8,), "one of each per feature map"),
        ((), (), "one of each per feature map"),
        ((4, 8), (16, 8), "must not decrease"),
        ((4, 8), (16, 32), "finest feature map has stride 16"),
        ((4, 8), (3, 8), "not a multiple"),
    ],
)
def test_unsuitable_maps_are_refused(
    channels: tuple[int, ...], strides: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AnchorToJoint(channels, strides, CONFIG)


def test_wrong_features_are_refused() -> None:
    head = AnchorToJoint((6, 9), (8, 16), CONFIG)
    with pytest.raises(ValueError, match="got 1 feature maps, expected 2"):
        head(maps((6,), (8,)))
    with pytest.raises(ValueError, match=r"\(6, 8\) channels, expected \(6, 9\)"):
        head(maps((6, 8), (8, 16)))
    with pytest.raises(ValueError, match="reach outside the 2 maps"):
        AnchorToJoint((6, 9), (8, 16), HeadConfig(num_layers=0, anchor_stride=8, feature_levels=(2,)))

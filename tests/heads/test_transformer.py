"""The transformer head: sizes, parameters, positions and gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dfmamba.heads import AnchorToJoint, HeadConfig, LossConfig, pose_loss
from dfmamba.heads.transformer import TransformerDecoder, sine_code

SMALL = HeadConfig(
    image_size=64, num_layers=2, dim=32, heads=2, points=2, ffn=48, dropout=0.0, anchor_stride=16
)


def maps(channels: Sequence[int], strides: Sequence[int], size: int = 64, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    return [
        torch.randn(batch, width, size // stride, size // stride, generator=generator)
        for width, stride in zip(channels, strides, strict=True)
    ]


def small_head(channels: Sequence[int] = (6, 9), strides: Sequence[int] = (8, 16)) -> AnchorToJoint:
    """A small head whose zero-initialised layers have been moved."""
    torch.manual_seed(0)
    head = AnchorToJoint(channels, strides, SMALL)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return head


@pytest.mark.parametrize(
    ("channels", "strides", "levels", "extra"),
    [
        ((6, 9, 12), (8, 16, 16), None, True),
        ((4, 6, 9, 12), (8, 16, 32, 32), None, False),
        ((4, 6, 9, 12), (4, 8, 16, 32), (1, 2, 3), True),
        ((7,), (16,), None, False),
    ],
)
def test_shapes(
    channels: tuple[int, ...], strides: tuple[int, ...], levels: tuple[int, ...] | None, extra: bool
) -> None:
    values = {**SMALL.to_dict(), "feature_levels": levels, "extra_level": extra}
    head = AnchorToJoint(channels, strides, HeadConfig.from_dict(values))
    output = head(maps(channels, strides))
    assert output.joints_25d.shape == (2, 2, 21, 3)
    assert output.joint_logits.shape == (2, 2, 21)
    assert output.present_logits.shape == (2, 2)
    assert len(output.layers) == 2
    for layer in output.layers:
        assert layer.joints_25d.shape == layer.anchors_25d.shape == (2, 2, 21, 3)
    assert output.layers[-1].joints_25d is output.joints_25d
    assert torch.equal(output.joints_25d[:, :, 0, 2], torch.zeros(2, 2))


def count_by_part(channels: Sequence[int], strides: Sequence[int], config: HeadConfig) -> Counter[str]:
    counts: Counter[str] = Counter()
    with torch.device("meta"):
        decoder = TransformerDecoder(channels, strides, config)
    for name, parameter in decoder.named_parameters():
        counts[name.split(".")[0]] += parameter.numel()
    return counts


def test_parameters_with_resnet_maps() -> None:
    """Section 4 of the specification, less its unused box heads, plus our confidence and presence."""
    counts = count_by_part((512, 1024, 2048), (8, 16, 16), HeadConfig())

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    d, ffn, joints = 256, 1024, 42
    projections = sum(linear(width, d) + 2 * d for width in (512, 1024, 2048))
    deformable = linear(d, 8 * 4 * 4 * 2) + linear(d, 8 * 4 * 4) + 2 * linear(d, d)
    feed = linear(d, ffn) + linear(ffn, d)
    assert counts == {
        "projections": projections,
        "extra": 2048 * 9 * d + d + 2 * d,
        "level_codes": 4 * d,
        "content": 768 * d,
        "position": linear(384, d) + linear(d, d),
        "position_scale": 2 * linear(d, d),
        "encoder": 6 * (deformable + feed + 2 * 2 * d),
        "decoder": 6 * (4 * linear(d, d) + deformable + feed + 3 * 2 * d),
        "offset_votes": 6 * (2 * linear(d, d) + linear(d, 3 * joints)),
        "weight_votes": 6 * (2 * linear(d, d) + linear(d, joints)),
        "confidence": linear(d, joints),
        "presence": linear(2 * d, 2),
    }
    ours = counts["confidence"] + counts["presence"]
    unused_boxes = 6 * (2 * linear(d, d) + linear(d, 2))
    assert round((counts.total() - ours + unused_boxes) / 1e6, 2) == 19.43


def test_parameters_with_four_maps() -> None:
    config = HeadConfig(extra_level=False)
    counts = count_by_part((160, 320, 640, 640), (8, 16, 32, 32), config)
    unused_boxes = 6 * (2 * (256 * 256 + 256) + 256 * 2 + 2)
    published = counts.total() - counts["confidence"] - counts["presence"] + unused_boxes
    assert round(published / 1e6, 2) == 14.24


def test_gradients_reach_all_parameters() -> None:
    head = small_head()
    features = [feature.requires_grad_() for feature in maps((6, 9), (8, 16))]
    target = {
        "joints_25d": torch.rand(2, 2, 21, 3) * 64,
        "valid": torch.ones(2, 2, 21, dtype=torch.bool),
        "present": torch.ones(2, 2, dtype=torch.bool),
        "box_size_px": torch.full((2, 2), 50.0),
    }
    pose_loss(head(features), target, LossConfig(image_size=64))["total"].backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert all(feature.grad is not None and feature.grad.abs().sum() > 0 for feature in features)


def test_joints_start_at_the_anchors() -> None:
    head = AnchorToJoint((6, 9), (8, 16), SMALL)
    output = head(maps((6, 9), (8, 16)))
    for layer in output.layers:
        torch.testing.assert_close(layer.joints_25d[..., :2], layer.anchors_25d[..., :2])


def test_anchors_are_constants() -> None:
    head = AnchorToJoint((6, 9), (8, 16), SMALL)
    assert not any("anchors" in name for name, _ in head.named_parameters())
    assert "decoder.anchors" in dict(head.named_buffers())
    assert not any("anchors" in name for name in head.state_dict())


def quirky_head(**quirks: object) -> TransformerDecoder:
    torch.manual_seed(0)
    config = HeadConfig.from_dict({**SMALL.to_dict(), **quirks})
    decoder = AnchorToJoint((6, 9), (8, 16), config).decoder
    assert isinstance(decoder, TransformerDecoder)
    return decoder


def test_released_box_heads_are_idle() -> None:
    decoder = quirky_head(box_heads=True)
    output = decoder(maps((6, 9), (8, 16)))
    total = output.joint_logits.sum() + output.present_logits.sum()
    (total + sum(layer.joints_25d.sum() for layer in output.layers)).backward()
    idle = {name.split(".")[0] for name, p in decoder.named_parameters() if p.grad is None}
    assert idle == {"box_heads"}
    plain = quirky_head()
    plain.load_state_dict(decoder.state_dict(), strict=False)
    torch.testing.assert_close(plain(maps((6, 9), (8, 16))).joints_25d, output.joints_25d)


def test_released_offset_bias() -> None:
    """-2 extents of the crop for all outputs of the first layer but the first two."""
    decoder = quirky_head(offset_bias=-2.0)
    layers = decoder(maps((6, 9), (8, 16))).layers
    moved = (layers[0].joints_25d - layers[0].anchors_25d)[..., :2].flatten(1, 2)
    torch.testing.assert_close(moved[:, 0], torch.zeros(2, 2), rtol=0, atol=1e-3)
    torch.testing.assert_close(moved[:, 1:], torch.full((2, 41, 2), -2.0 * 64), rtol=0, atol=1e-2)
    torch.testing.assert_close(layers[1].joints_25d[..., :2], layers[1].anchors_25d[..., :2])


def test_released_anchors_move_by_the_first_layer() -> None:
    decoder = quirky_head(learned_anchors=True)
    assert "anchors" in dict(decoder.named_parameters())
    assert "anchors" in decoder.state_dict()
    fixed = quirky_head()
    torch.testing.assert_close(decoder.anchors.detach(), fixed.anchors, rtol=0, atol=0)
    fixed.load_state_dict({k: v for k, v in decoder.state_dict().items() if k != "anchors"})
    layers = decoder(maps((6, 9), (8, 16))).layers
    expected = fixed(maps((6, 9), (8, 16))).layers
    for ours, theirs in zip(layers, expected, strict=True):
        torch.testing.assert_close(ours.joints_25d, theirs.joints_25d)
    (first,) = torch.autograd.grad(layers[0].anchors_25d.sum(), decoder.anchors, retain_graph=True)
    assert first.abs().sum() > 0
    seen: list[Tensor] = []
    for layer in decoder.decoder:
        layer.attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))  # type: ignore[union-attr]
    decoder(maps((6, 9), (8, 16)))
    assert [reference.requires_grad for reference in seen] == [True, False]


@torch.no_grad()
def test_order_of_anchors_is_irrelevant() -> None:
    head = small_head().eval()
    features = maps((6, 9), (8, 16))
    before = head(features)
    decoder = head.decoder
    assert isinstance(decoder, TransformerDecoder)
    order = torch.randperm(len(decoder.anchors), generator=torch.Generator().manual_seed(4))
    decoder.anchors.copy_(decoder.anchors[order].clone())
    decoder.content.copy_(decoder.content[order].clone())
    after = head(features)
    torch.testing.assert_close(after.joints_25d, before.joints_25d, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(after.joint_logits, before.joint_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.present_logits, before.present_logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_other_and_odd_input_sizes() -> None:
    head = small_head().eval()
    for height, width in ((9, 7), (12, 12)):
        generator = torch.Generator().manual_seed(width)
        features = [
            torch.randn(1, 6, height, width, generator=generator),
            torch.randn(1, 9, (height + 1) // 2, (width + 1) // 2, generator=generator),
        ]
        output = head(features)
        assert torch.isfinite(output.joints_25d).all()


@torch.no_grad()
def test_reference_points_use_the_true_size() -> None:
    """With a 176-pixel crop the last of 11 anchors looks at the last cells, not at 247 / 256 of the map."""
    config = HeadConfig.from_dict({**SMALL.to_dict(), "image_size": 176, "num_joints": 14})
    decoder = TransformerDecoder((6, 9), (8, 16), config)
    seen: list[Tensor] = []
    decoder.decoder[0].attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))  # type: ignore[union-attr]
    output = decoder(maps((6, 9), (8, 16), size=176, batch=1))
    assert output.joints_25d.shape == (1, 2, 14, 3)
    assert seen[0].shape == (11 * 11 * 3, 2)
    torch.testing.assert_close(seen[0][0], torch.tensor([8.0, 8.0]) / 176)
    torch.testing.assert_close(seen[0][-1], torch.tensor([168.0, 168.0]) / 176)


def test_sine_code() -> None:
    code = sine_code(torch.tensor([[0.0, 0.25]], dtype=torch.float64), 4)
    phase = torch.tensor(0.5 * torch.pi, dtype=torch.float64)
    slow = phase / 100.0
    expected = [0.0, 1.0, 0.0, 1.0, phase.sin(), phase.cos(), slow.sin(), slow.cos()]
    torch.testing.assert_close(code, torch.tensor([expected], dtype=torch.float64))


@torch.no_grad()
def test_millimetre_depth_is_a_rescaled_pixel_depth() -> None:
    values = SMALL.to_dict()
    pixels = small_head().eval()
    millimetres = AnchorToJoint((6, 9), (8, 16), HeadConfig.from_dict({**values, "depth_unit": "mm"})).eval()
    millimetres.load_state_dict(pixels.state_dict())
    features = maps((6, 9), (8, 16))
    first, second = pixels(features).joints_25d, millimetres(features).joints_25d
    torch.testing.assert_close(first[..., :2], second[..., :2])
    torch.testing.assert_close(first[..., 2] * (400.0 / 64.0), second[..., 2], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_half_precision_runs() -> None:
    head = small_head().eval()
    features = maps((6, 9), (8, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = head(features)
    assert rough.joints_25d.dtype == torch.float32
    exact = head(features)
    assert (rough.joints_25d - exact.joints_25d).abs().median() < 2.0

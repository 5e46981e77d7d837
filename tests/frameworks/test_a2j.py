"""A2J-Transformer as a framework: exact inverses, validity, loss, parameters, learning."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfmamba.data.sample import HandSample
from dfmamba.fixtures import synthetic_hands
from dfmamba.frameworks import Example, framework_from_dict
from dfmamba.frameworks.a2j import A2J, PUBLISHED_HEAD
from dfmamba.frameworks.internet import Augmentation
from dfmamba.hands.camera import Camera
from dfmamba.hands.crop import flip_sample
from dfmamba.heads import AnchorToJoint, HandPoseOutput, HeadConfig, LayerOutput
from dfmamba.metrics import HandMetrics
from dfmamba.models import HandPoseModel, ModelConfig, count_parameters

QUICK = settings(deadline=None, max_examples=40)
SMALL = HeadConfig(
    image_size=64,
    num_layers=1,
    dim=32,
    heads=2,
    points=2,
    ffn=64,
    dropout=0.0,
    depth_unit="mm",
    root_joint=None,
)


@pytest.fixture(scope="module")
def hands() -> list[HandSample]:
    """Four rendered samples, two of them with two hands."""
    return [*synthetic_hands("two", 2, 11, 96), *synthetic_hands("single", 2, 12, 96)]


def batch(examples: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
    target = {name: torch.stack([e.target[name] for e in examples]) for name in examples[0].target}
    return torch.stack([e.picture for e in examples]), target


def perfect(target: dict[str, Tensor]) -> HandPoseOutput:
    joints = target["joints_25d"]
    return HandPoseOutput(
        joints, torch.zeros(joints.shape[:-1]), torch.zeros(joints.shape[:2]), (LayerOutput(joints, joints),)
    )


@pytest.mark.parametrize("size", [64, 256])
def test_a_perfect_output_gives_the_sample(hands: list[HandSample], size: int) -> None:
    framework = A2J(head=HeadConfig.from_dict({**PUBLISHED_HEAD.to_dict(), "image_size": size}))
    pictures, target = batch([framework.example(sample, None) for sample in hands])
    assert pictures.shape == (4, 3, size, size)
    assert 0 <= pictures.min() < pictures.max() <= 1
    found = framework.joints_cam_mm(perfect(target), target).numpy()
    for joints, sample in zip(found, hands, strict=True):
        np.testing.assert_allclose(joints[sample.valid], sample.joints_cam_mm[sample.valid], atol=0.02)


@QUICK
@given(
    data=st.data(),
    x0=st.floats(-20, 60),
    y0=st.floats(-20, 60),
    width=st.floats(5, 120),
    height=st.floats(5, 120),
    seed=st.none() | st.integers(0, 1000),
)
def test_the_target_is_exact_for_any_box_and_draw(
    data: st.DataObject,
    hands: list[HandSample],
    x0: float,
    y0: float,
    width: float,
    height: float,
    seed: int | None,
) -> None:
    sample = data.draw(st.sampled_from(hands))
    sample = sample.replace(box_xyxy=np.array([x0, y0, x0 + width, y0 + height], np.float32))
    flip = float(data.draw(st.booleans()))
    framework = A2J(head=SMALL, augmentation=Augmentation(flip=flip))
    rng = None if seed is None else np.random.default_rng(seed)
    _, target = batch([framework.example(sample, rng)])
    truth = flip_sample(sample) if flip and seed is not None else sample
    found = framework.joints_cam_mm(perfect(target), target)[0].numpy()
    np.testing.assert_allclose(found[truth.valid], truth.joints_cam_mm[truth.valid], atol=0.1)
    np.testing.assert_array_equal(target["present"][0].numpy(), truth.present)


def test_flips_swap_the_hands(hands: list[HandSample]) -> None:
    framework = A2J(head=SMALL, augmentation=Augmentation(0, 0, 0, 0, 1.0, 0))
    for sample in hands:
        still = framework.example(sample, None)
        mirrored = framework.example(sample, np.random.default_rng(0))
        torch.testing.assert_close(mirrored.target["present"], still.target["present"].flip(0))
        torch.testing.assert_close(mirrored.target["valid"], still.target["valid"].flip(0))
        torch.testing.assert_close(mirrored.picture.flip(-1), still.picture, rtol=0, atol=0.02)
        before, after = still.target["joints_25d"].flip(0), mirrored.target["joints_25d"]
        there = torch.from_numpy(sample.valid[::-1].copy())
        torch.testing.assert_close((63 - after[..., 0])[there], before[..., 0][there], rtol=0, atol=1e-3)
        torch.testing.assert_close(after[..., 1:][there], before[..., 1:][there], rtol=0, atol=1e-3)


def test_the_same_draw_gives_the_same_example(hands: list[HandSample]) -> None:
    first, second = (A2J(head=SMALL).example(hands[0], np.random.default_rng(9)) for _ in range(2))
    box = hands[0].box_xyxy.copy()
    torch.testing.assert_close(first.picture, second.picture, rtol=0, atol=0)
    torch.testing.assert_close(first.target, second.target, rtol=0, atol=0)
    np.testing.assert_array_equal(hands[0].box_xyxy, box)


def test_validity_of_the_loss(hands: list[HandSample]) -> None:
    sample = hands[0]
    assert sample.present.all()
    framework = A2J(head=SMALL)
    valid = sample.valid.copy()
    valid[1, 0] = False
    target = framework.example(sample.replace(valid=valid), None).target
    assert not target["valid"][1].any()
    assert target["valid"][0].any()
    joints = sample.joints_cam_mm.copy()
    joints[0, 5, 2] = joints[0, 0, 2] + 200.5
    assert not framework.example(sample.replace(joints_cam_mm=joints), None).target["valid"][0, 5]
    x, y = sample.joints_2d_px[0, 12]
    elsewhere = np.array([x + 1, y + 1, x + 30, y + 30], np.float32)
    cut = A2J(head=SMALL, box_factor=1.0).example(sample.replace(box_xyxy=elsewhere), None).target
    assert not cut["valid"][0, 12]
    assert cut["present"].all()


def test_black_pictures_count_in_evaluation_only(hands: list[HandSample]) -> None:
    framework = A2J(head=SMALL, augmentation=Augmentation(0, 0, 0, 0, 0, 0.2))
    assert hands[0].image is not None
    dark = hands[0].replace(image=np.full_like(hands[0].image, 10))
    grey = hands[0].replace(image=np.full_like(hands[0].image, 12))
    for seed in range(5):
        assert not framework.example(dark, np.random.default_rng(seed)).target["valid"].any()
        assert framework.example(grey, np.random.default_rng(seed)).target["valid"].any()
    assert framework.example(dark, None).target["valid"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "no picture"),
        ({"camera": None}, "no camera"),
        ({"box_xyxy": np.zeros(4, np.float32)}, "can't be cropped"),
    ],
)
def test_unusable_samples_are_refused(
    hands: list[HandSample], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        A2J(head=SMALL).example(hands[0].replace(**changes), None)


def test_other_joint_orders_are_refused() -> None:
    empty = np.zeros((2, 14, 3), np.float32)
    nyu = HandSample(
        image=np.zeros((8, 8, 3), np.uint8),
        joints_2d_px=empty[..., :2],
        joints_cam_mm=empty,
        valid=empty[..., 0] > 0,
        visible=empty[..., 0] > 0,
        present=np.zeros(2, bool),
        camera=Camera(100, 100, 4, 4),
        box_xyxy=np.array([0, 0, 4, 4], np.float32),
        order="nyu14",
    )
    with pytest.raises(ValueError, match="nyu14"):
        A2J(head=SMALL).example(nyu, None)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"head": HeadConfig()}, "framework a2j has"),
        ({"head": HeadConfig(depth_unit="mm", num_joints=14)}, "14 joints"),
        ({"head": HeadConfig(depth_unit="mm", root_joint=9)}, "root joint 9"),
        ({"box_factor": 0.0}, "box_factor"),
        ({"anchor_tau": "both"}, "anchor_tau"),
        ({"anchor_target": "box"}, "anchor_target"),
        ({"augmentation": {"zoom": 2}}, "zoom"),
    ],
)
def test_unusable_settings_are_refused(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        A2J(**settings_)  # type: ignore[arg-type]


def test_settings_survive_json() -> None:
    framework = A2J(head=SMALL, augmentation=Augmentation(flip=0.0), anchor_tau="paper", black_level=-1.0)
    assert framework_from_dict(json.loads(json.dumps(framework.to_dict()))) == framework
    config = framework.model_config("dfmamba_test")
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.head == SMALL
    assert again.framework is not None
    assert framework_from_dict(again.framework) == framework
    assert (again.input_scale, again.input_shift) == (1.0, 0.0)


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown backbone 'resnet51'"):
        A2J().model_config("resnet51")
    with pytest.raises(ValueError, match="unknown backbone argument 'colour'"):
        A2J().model_config("resnet50", colour=3)


def test_published_network() -> None:
    """Layers, anchors and loss as a2j_transformer.md has them."""
    head = A2J().head
    assert (head.image_size, head.num_layers, head.dim, head.anchor_stride) == (256, 6, 256, 16)
    bins = [(depth + 200) / 400 * 256 for depth in head.depths]
    assert bins == pytest.approx([63.5, 127.5, 191.5])
    loss = A2J().loss_config
    assert (loss.joint, loss.anchor, loss.confidence, loss.presence) == (3, 1, 0, 0)
    assert (loss.tau_xy, loss.tau_z, loss.anchor_tau_z) == (1, 3, 1)
    assert A2J(anchor_tau="paper").loss_config.anchor_tau_z == 3


def smooth(x: Tensor, t: float) -> Tensor:
    return torch.where(x.abs() < t, x**2 / (2 * t), x.abs() - t / 2)


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_loss_is_the_published_sum(hands: list[HandSample], variant: str) -> None:
    framework = A2J(head=SMALL, anchor_tau=variant)  # type: ignore[arg-type]
    _, target = batch([framework.example(sample, None) for sample in hands])
    rng = torch.Generator().manual_seed(0)
    joints, anchors = (
        (target["joints_25d"] + 5 * torch.randn(4, 2, 21, 3, generator=rng)).requires_grad_()
        for _ in range(2)
    )
    output = HandPoseOutput(
        joints, torch.zeros(4, 2, 21), torch.zeros(4, 2), (LayerOutput(joints, anchors),) * 2
    )
    terms = framework.loss(output, target)
    scale = torch.tensor([256 / 64, 256 / 64, 256 / 400])
    expected = torch.zeros(())
    for i in range(4):
        keep = target["valid"][i]
        off, around = (((x[i] - target["joints_25d"][i]) * scale)[keep] for x in (joints, anchors))
        joint = (0.5 * smooth(off[:, :2], 1)).sum() + smooth(off[:, 2], 3).sum()
        anchor = smooth(around[:, :2], 1).sum() + smooth(around[:, 2], 1 if variant == "code" else 3).sum()
        expected = expected + (3 * joint + anchor) / max(3 * int(keep.sum()), 1) / 4
    torch.testing.assert_close(terms["total"], expected, rtol=1e-4, atol=1e-4)
    for got, want in zip(
        torch.autograd.grad(terms["total"], (joints, anchors)),
        torch.autograd.grad(expected, (joints, anchors)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


RESNET = {"output_stride": 16, "frozen_norm": True, "frozen_stages": 2}


def test_published_parameters_with_resnet() -> None:
    """42.89 M, of which 0.22 M frozen, in the parts of a2j_transformer.md section 4."""
    with torch.device("meta"):
        model = HandPoseModel(A2J.as_released().model_config("resnet50", **RESNET))
    total = count_parameters(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert total == pytest.approx(42.9e6, rel=0.01)
    assert trained == pytest.approx(42.66e6, rel=0.001)
    assert isinstance(model.head, AnchorToJoint)
    parts = {
        name: count_parameters(module) / 1e6
        for name, module in [("backbone", model.backbone), *model.head.decoder.named_children()]
    }
    assert parts["backbone"] == pytest.approx(23.45, abs=0.01)
    assert parts["projections"] + parts["extra"] == pytest.approx(5.64, abs=0.01)
    assert parts["encoder"] == pytest.approx(4.54, abs=0.01)
    assert parts["decoder"] == pytest.approx(6.12, abs=0.01)
    assert parts["position"] + parts["position_scale"] == pytest.approx(0.30, abs=0.01)
    assert parts["offset_votes"] == pytest.approx(0.98, abs=0.01)
    assert parts["weight_votes"] == pytest.approx(0.85, abs=0.01)
    assert parts["box_heads"] == pytest.approx(0.79, abs=0.01)


@torch.no_grad()
def test_tokens_of_the_published_levels() -> None:
    with torch.device("meta"):
        model = HandPoseModel(A2J().model_config("resnet50", **RESNET)).eval()
        features = model.backbone(torch.zeros(1, 3, 256, 256))
        tokens, *_, shapes = model.head.decoder.tokenize(features)  # type: ignore[operator,union-attr]
    assert shapes == [(32, 32), (16, 16), (16, 16), (8, 8)]
    assert tokens.shape[1] == 1600


def test_parameters_with_dfmamba_tiny() -> None:
    assert count_parameters(HandPoseModel(A2J().model_config("dfmamba_tiny"))) <= 42e6


@pytest.mark.parametrize("backbone", ["dfmamba_test", "convnext_tiny", "vit_small", "swin_tiny"])
@torch.no_grad()
def test_any_backbone_gives_joints(hands: list[HandSample], backbone: str) -> None:
    framework = A2J(head=SMALL)
    model = HandPoseModel(framework.model_config(backbone)).eval()
    assert model.backbone.feature_info.reduction() == [8, 16, 32]  # type: ignore[operator,union-attr]
    pictures, target = batch([framework.example(sample, None) for sample in hands[:2]])
    joints = framework.joints_cam_mm(model(pictures), target)
    assert joints.shape == (2, 2, 21, 3)
    assert torch.isfinite(joints).all()


def training(
    framework: A2J, backbone: str, samples: list[HandSample], rates: list[float], size: int
) -> Iterator[tuple[HandPoseModel, float]]:
    """Steps of Adam on a fixed set without augmentation: the model and its loss after each."""
    pictures, target = batch([framework.example(sample, None) for sample in samples])
    torch.manual_seed(0)
    model = HandPoseModel(framework.model_config(backbone)).train()
    optimizer = torch.optim.Adam(model.parameters())
    draw = torch.Generator().manual_seed(0)
    for rate in rates:
        some = torch.randperm(len(samples), generator=draw)[:size]
        losses = framework.loss(model(pictures[some]), {k: v[some] for k, v in target.items()})
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        yield model, float(losses["total"].detach())


def test_the_loss_falls(hands: list[HandSample]) -> None:
    losses = [loss for _, loss in training(A2J(head=SMALL), "dfmamba_test", hands, [3e-3] * 16, 4)]
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.slow
def test_overfits_32_samples_to_two_millimetres() -> None:
    samples = [*synthetic_hands("two", 16, 5, 96), *synthetic_hands("single", 16, 6, 96)]
    head = HeadConfig.from_dict({**SMALL.to_dict(), "dim": 64, "heads": 4, "points": 4, "ffn": 128})
    framework = A2J(head=head)
    pictures, target = batch([framework.example(sample, None) for sample in samples])
    truth = np.stack([sample.joints_cam_mm for sample in samples])
    valid = np.stack([sample.valid for sample in samples])
    error = np.inf
    rates = [1e-3 * min(1.0, (i + 1) / 50) * (1 + np.cos(np.pi * i / 600)) for i in range(600)]
    for step, (model, _) in enumerate(training(framework, "dfmamba_nano", samples, rates, 16)):
        if step % 50 == 49:
            with torch.no_grad():
                found = framework.joints_cam_mm(model.eval()(pictures), target)
            model.train()
            figures = HandMetrics()
            figures.update(found.numpy(), truth, valid)
            error = figures.compute()["mpjpe_mm"]
        if error < 2.0:
            return
    assert error < 2.0

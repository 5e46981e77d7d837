"""The depth framework: crop, target, augmentation, read-out, loss, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfmamba.data.readers.nyu import CAMERA
from dfmamba.data.registry import open_dataset
from dfmamba.data.sample import HandSample
from dfmamba.fixtures import write_fixture
from dfmamba.frameworks import Example, framework_from_dict
from dfmamba.frameworks.a2j_depth import A2JDepth, Change, DepthAugmentation, crop_map
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.camera import Camera
from dfmamba.heads import HandPoseOutput, HeadConfig, LossConfig, pose_loss
from dfmamba.heads.config import LayerOutput
from dfmamba.io.joint_files import read_joint_file, write_joint_file
from dfmamba.metrics.depth_benchmarks import DEPTH_BENCHMARKS, score_depth
from dfmamba.models import HandPoseModel, ModelConfig

SMALL: dict[str, Any] = {
    "image_size": 96, "num_layers": 1, "dim": 64, "ffn": 128, "points": 2, "heads": 4, "dropout": 0.0
}  # fmt: skip


def dotted_hand(seed: int, place: tuple[float, float, float] = (60.0, -30.0, 720.0)) -> HandSample:
    """Fourteen disks of skin, each 4 mm before its joint, in front of a wall at 1500 mm."""
    rng = np.random.default_rng(seed)
    hand = rng.uniform(-75, 75, (14, 3)) + place
    hand = hand[np.argsort(-hand[:, 2])]
    pixels = CAMERA.project(hand)
    depth = np.full((480, 640), 1500.0, np.float32)
    rows, columns = np.mgrid[0:480, 0:640]
    for (u, v), z in zip(pixels, hand[:, 2], strict=True):
        depth[(columns - u) ** 2 + (rows - v) ** 2 < 25] = z - 4
    both, both_px = np.zeros((2, 14, 3)), np.zeros((2, 14, 2))
    both[0], both_px[0] = hand, pixels
    valid = np.repeat([[True], [False]], 14, axis=1)
    return HandSample(
        image=None, joints_2d_px=both_px, joints_cam_mm=both, valid=valid, visible=valid,
        present=np.array([True, False]), camera=CAMERA, box_xyxy=box_of_points(pixels),
        depth_mm=depth, id=f"dots-{seed}", kind="depth", order="nyu14",
        centre_mm=hand.mean(axis=0) + rng.uniform(-10, 10, 3),
    )  # fmt: skip


def stacked(examples: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
    target = {name: torch.stack([e.target[name] for e in examples]) for name in examples[0].target}
    return torch.stack([e.picture for e in examples]), target


def perfect(target: dict[str, Tensor]) -> HandPoseOutput:
    joints = target["joints_25d"]
    logits = torch.zeros(joints.shape[:3])
    return HandPoseOutput(joints, logits, logits[..., 0], (LayerOutput(joints, joints),))


@pytest.mark.parametrize("augmented", [False, True])
def test_read_out_of_the_target_is_the_sample(augmented: bool) -> None:
    samples = [dotted_hand(i, (80.0 * i - 160, 20.0 * i, 650.0 + 50 * i)) for i in range(5)]
    framework = A2JDepth()
    rngs = [np.random.default_rng(i) if augmented else None for i in range(5)]
    _, target = stacked([framework.example(s, rng) for s, rng in zip(samples, rngs, strict=True)])
    joints = framework.joints_cam_mm(perfect(target), target)
    assert joints.shape == (5, 2, 14, 3)
    truth = torch.from_numpy(np.stack([sample.joints_cam_mm for sample in samples]))
    assert torch.allclose(joints, truth, atol=2e-2 if augmented else 2e-3)


def test_predictions_go_to_the_community_s_text_format(tmp_path: Path) -> None:
    samples = [dotted_hand(i) for i in range(3)]
    framework, benchmark = A2JDepth(), DEPTH_BENCHMARKS["nyu"]
    _, target = stacked([framework.example(sample, None) for sample in samples])
    target["joints_25d"] = target["joints_25d"] + torch.tensor([0.0, 0.0, 7.0])
    uvd = benchmark.from_mm(framework.joints_cam_mm(perfect(target), target)[:, 0].numpy())
    write_joint_file(tmp_path / "out.txt", uvd)
    again = read_joint_file(tmp_path / "out.txt", 14)
    assert np.abs(again - uvd).max() < 5.1e-4
    truth = benchmark.from_mm(np.stack([sample.joints_cam_mm[0] for sample in samples]))
    error = score_depth(benchmark, again, truth)["mean_error_mm"]
    assert 7.0 < error < 7.2  # along the viewing rays, a little more than along z
    for wrong, reason in (
        (np.zeros((0, 14, 3)), "at least one"),
        (np.zeros((2, 42)), "expected"),
        (np.where(np.arange(6).reshape(2, 1, 3) == 4, np.nan, 1.0), "frame 1"),
    ):
        with pytest.raises(ValueError, match=reason):
            write_joint_file(tmp_path / "wrong.txt", wrong)
    assert not (tmp_path / "wrong.txt").exists()


def at(picture: Tensor, pixels: Tensor) -> Tensor:
    """Values (n,) of a (1, S, S) picture at the nearest pixels (n, 2)."""
    column, row = pixels.round().long().T
    return picture[0, row, column]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("augmented", [False, True])
def test_picture_and_joints_belong_together(seed: int, augmented: bool) -> None:
    framework = A2JDepth(augmentation=DepthAugmentation(noise=0.0))
    rng = np.random.default_rng(seed) if augmented else None
    picture, target = framework.example(dotted_hand(seed), rng)
    joints, zoom = target["joints_25d"][0], float(target["zoom"])
    inside = ((joints[:, :2] >= 0) & (joints[:, :2] <= 175)).all(dim=1)
    assert inside.sum() >= 8
    below = joints[inside, 2] - at(picture, joints[inside, :2])
    # The last disks lie over earlier ones; what is seen is 4 mm before the joint, or nearer.
    assert torch.isclose(below, torch.tensor(4.0 * zoom), atol=1e-2).sum() >= inside.sum() - 5
    assert (below > 3.9 * zoom).all()


def test_crop_and_values_are_as_published() -> None:
    sample = dotted_hand(1)
    framework = A2JDepth()
    picture, target = framework.example(sample, None)
    assert picture.shape == (1, 192, 192)
    assert picture.dtype == torch.float32
    assert not picture[:, 176:].any()
    assert not picture[:, :, 176:].any()
    assert not picture[0, :8, :8].any()  # the wall is farther than 150 mm: background
    assert picture.abs().max() < 150
    # 220 mm at the centre's depth are 176 pixels.
    camera, centre = sample.camera, sample.centre_mm
    assert camera is not None
    assert centre is not None
    corners = camera.project(centre + np.array([[-110.0, -110.0, 0.0], [110.0, 110.0, 0.0]]))
    back = target["crop_to_picture"].numpy()
    edges = np.array([[-0.5, -0.5], [175.5, 175.5]]) @ back[:, :2].T + back[:, 2]
    assert np.allclose(edges, corners, atol=1e-3)
    assert np.allclose(target["joints_25d"][0, :, 2], sample.joints_cam_mm[0, :, 2] - centre[2], atol=1e-3)
    config = framework.model_config("dfmamba_test")
    background = config.input_shift
    assert background == pytest.approx(0.66877532 / 28.32958208)
    assert config.input_scale * 50 + config.input_shift == pytest.approx((50 + 0.66877532) / 28.32958208)


def test_depth_beyond_the_range_and_holes_are_background() -> None:
    sample = dotted_hand(2)
    assert sample.depth_mm is not None
    assert sample.centre_mm is not None
    z = float(sample.centre_mm[2])
    depth = np.zeros_like(sample.depth_mm)
    for i, value in enumerate((0.0, z - 150.5, z - 149.5, z, z + 149.5, z + 150.5)):
        depth[:, 270 + 20 * i : 290 + 20 * i] = value
    picture = A2JDepth().example(sample.replace(depth_mm=depth), None).picture
    values = np.unique(picture.numpy().round(1)).tolist()
    assert values == [-149.5, 0.0, 149.5]


def test_what_is_not_usable_is_refused() -> None:
    sample, framework = dotted_hand(0), A2JDepth()
    nobody = np.zeros((2, 14), bool)
    for changes, reason in (
        ({"depth_mm": None}, "has no depth map"),
        ({"camera": None}, "has no camera"),
        ({"valid": nobody, "visible": nobody}, "has no hand"),
    ):
        with pytest.raises(ValueError, match=rf"'dots-0' {reason}"):
            framework.example(sample.replace(**changes), None)
    other = sample.replace(
        order="openpose", joints_2d_px=np.zeros((2, 21, 2)), joints_cam_mm=np.zeros((2, 21, 3)),
        valid=np.zeros((2, 21), bool), visible=np.zeros((2, 21), bool),
    )  # fmt: skip
    with pytest.raises(ValueError, match="'openpose'; expected 'nyu14'"):
        framework.example(other, None)
    with pytest.raises(ValueError, match="too small"):
        framework.example(sample.replace(centre_mm=np.array([0.0, 0.0, 1e6])), None)


def test_without_a_centre_the_labelled_joints_give_it() -> None:
    sample = dotted_hand(3)
    valid = sample.valid.copy()
    valid[0, 5:] = False
    target = A2JDepth().example(sample.replace(centre_mm=None, valid=valid, visible=valid), None).target
    assert float(target["centre_z_mm"]) == pytest.approx(sample.joints_cam_mm[0, :5, 2].mean(), abs=1e-3)
    assert torch.equal(target["valid"], torch.from_numpy(valid[:1]))
    assert not target["joints_25d"][0, 5:].any()


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-3.2, 3.2), st.floats(0.5, 1.5), st.tuples(*[st.integers(-5, 4)] * 4),
    st.floats(-150, 150), st.floats(450, 1500),
)  # fmt: skip
def test_crop_map(angle: float, scale: float, edges: tuple[float, ...], x: float, z: float) -> None:
    """Middle to middle; corners of the box turned and scaled about it; back again exactly."""
    camera, centre = Camera(588.03, 587.07, 320, 240), np.array([x, -0.5 * x, z])
    edges_px = (float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3]))
    affine = crop_map(centre, camera, 110.0, 176, Change(edges_px, angle, scale))
    low, high = (camera.project(centre + side * np.array([110.0, 110.0, 0.0])) for side in (-1, 1))
    low, high = low + edges[:2], high + edges[2:]
    middle = (low + high) / 2
    assert np.allclose(affine.apply(middle), 87.5)
    right = affine.apply(np.array([high[0], middle[1]])) - 87.5
    down = affine.apply(np.array([middle[0], high[1]])) - 87.5
    assert np.allclose(right, 88 * scale * np.array([np.cos(angle), np.sin(angle)]))
    assert np.allclose(down, 88 * scale * np.array([-np.sin(angle), np.cos(angle)]))
    assert np.allclose(affine.inverse().apply(affine.apply(low)), low, atol=1e-6)


def test_augmentation_varies_within_its_limits() -> None:
    framework, sample = A2JDepth(), dotted_hand(4)
    targets = [framework.example(sample, np.random.default_rng(i)).target for i in range(60)]
    zooms = np.array([float(target["zoom"]) for target in targets])
    assert zooms.min() >= 0.5
    assert zooms.max() <= 1.5
    assert zooms.std() > 0.2
    linear = np.stack([target["crop_to_picture"].numpy()[:, :2] for target in targets])
    angles = np.degrees(np.arctan2(-linear[:, 0, 1], linear[:, 0, 0]))
    assert angles.max() > 90
    assert angles.min() < -90
    still = A2JDepth(augmentation=DepthAugmentation(0, 0, 0.0, 0.0))
    assert torch.equal(
        still.example(sample, np.random.default_rng(0)).picture, framework.example(sample, None).picture
    )
    again = framework.example(sample, np.random.default_rng(7))
    assert torch.equal(again.picture, framework.example(sample, np.random.default_rng(7)).picture)


def test_noise_is_added_in_one_rectangle() -> None:
    sample = dotted_hand(5)
    noisy = A2JDepth(augmentation=DepthAugmentation(0, 0, 0.0, 1.0))
    plain = noisy.example(sample, None).picture
    shares = []
    for seed in range(20):
        change = noisy.example(sample, np.random.default_rng(seed)).picture - plain
        rows, columns = (torch.nonzero(change[0].any(dim=1 - axis)).ravel() for axis in (0, 1))
        box = change[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box != 0).float().mean() > 0.98
        assert rows[-1] < 176
        assert columns[-1] < 176
        assert 0.85 < box.std() / noisy.std_mm < 1.15
        shares.append(box.numel() / 176**2)
    assert 0.005 < min(shares) < max(shares) < 0.42


def test_loss_counts_in_pixels_and_mm() -> None:
    framework = A2JDepth(anchor_target="prediction")
    _, target = stacked([framework.example(dotted_hand(i), None) for i in range(2)])
    off = torch.tensor([4.0, -6.0, 10.0])
    layers = (LayerOutput(target["joints_25d"] + off, target["joints_25d"] + off + 5.0),)
    output = perfect(target)._replace(joints_25d=target["joints_25d"] + off, layers=layers)
    terms = framework.loss(output, target)
    joint = (0.5 * (3.5 + 5.5) + (10 - 1.5)) / 3
    anchor = (4.5 + 4.5 + 4.5) / 3
    assert float(terms["joint"]) == pytest.approx(joint, rel=1e-4)
    assert float(terms["anchor"]) == pytest.approx(anchor, rel=1e-4)
    assert float(terms["total"]) == pytest.approx(3 * joint + anchor, rel=1e-4)
    paper = replace(framework, anchor_tau="paper").loss(output, target)
    assert float(paper["anchor"]) == pytest.approx((4.5 + 4.5 + 3.5) / 3, rel=1e-4)
    assert float(framework.loss(perfect(target), target)["total"]) == 0
    assert float(pose_loss(output, target, LossConfig(image_size=176))["joint"]) != pytest.approx(joint)


def test_settings_round_trip_and_are_checked() -> None:
    framework = A2JDepth(head=HeadConfig.from_dict({**A2JDepth().head.to_dict(), **SMALL}), channels=3)
    plain = json.loads(json.dumps(framework.to_dict()))
    assert framework_from_dict(plain) == framework
    assert framework_from_dict({"name": "a2j_depth", "head": SMALL, "channels": 3}) == framework
    for values, reason in (
        ({"head": {"num_joints": 21}}, "it needs 1, 14, 'mm' and None"),
        ({"std_mm": 0.0}, "std_mm is 0.0"),
        ({"channels": 2}, "use 1 or 3"),
        ({"anchor_tau": "both"}, "use 'code' or 'paper'"),
        ({"anchor_target": "both"}, "anchor_target"),
        ({"augmentation": {"scale": 1.5}}, "scale is 1.5"),
        ({"augmentation": {"flip": 0.5}}, "unknown augmentation setting 'flip'"),
        ({"half": 1.0}, "unknown setting 'half'"),
    ):
        with pytest.raises(ValueError, match=reason):
            framework_from_dict({"name": "a2j_depth", **values})


def test_the_network_has_the_published_anchors_and_sees_the_padded_crop() -> None:
    framework = framework_from_dict({"name": "a2j_depth", "head": {"num_layers": 1, "dim": 32, "ffn": 32}})
    config = framework.model_config("dfmamba_test")
    plain = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.from_dict(plain).head == framework.head
    assert framework_from_dict(plain["framework"]) == framework
    assert config.in_chans == 1
    model = HandPoseModel(config).eval()
    anchors = model.get_buffer("head.decoder.anchors")
    assert anchors.shape == (363, 3)
    assert sorted(set(anchors[:, 0].tolist())) == [7.5 + 16 * i for i in range(11)]
    assert sorted(set(anchors[:, 2].tolist())) == [-75.0, 0.0, 75.0]
    pictures, target = stacked([framework.example(dotted_hand(i), None) for i in range(2)])
    with torch.no_grad():
        maps = model.backbone(pictures)
        output = model(pictures)
    assert [tuple(level.shape[-2:]) for level in maps] == [(24, 24), (12, 12), (6, 6)]
    assert output.joints_25d.shape == (2, 1, 14, 3)
    assert framework.joints_cam_mm(output, target).isfinite().all()
    three = A2JDepth(channels=3, multiple=1).example(dotted_hand(0), None).picture
    assert three.shape == (3, 176, 176)
    assert torch.equal(three[0], three[2])
    assert torch.equal(three[:1], pictures[0][:, :176, :176])


def train(framework: A2JDepth, model: HandPoseModel, pictures: Tensor, target: dict[str, Tensor], steps: int,
          lr: float, batch: int) -> list[float]:  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    losses = []
    model.train()
    for _ in range(steps):
        pick = torch.randperm(len(pictures), generator=generator)[:batch]
        loss = framework.loss(model(pictures[pick]), {name: v[pick] for name, v in target.items()})["total"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def test_loss_falls() -> None:
    framework = A2JDepth(head=HeadConfig.from_dict({**A2JDepth().head.to_dict(), **SMALL}))
    pictures, target = stacked([framework.example(dotted_hand(i), None) for i in range(2)])
    torch.manual_seed(0)
    model = HandPoseModel(framework.model_config("dfmamba_nano"))
    losses = train(framework, model, pictures, target, 8, 3e-3, 2)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_overfits_32_samples_to_2_mm(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_fixture("nyu", tmp_path / "nyu", count=32, seed=0)
    samples = list(open_dataset("nyu", tmp_path / "nyu", "train"))
    framework = A2JDepth(head=HeadConfig.from_dict({**A2JDepth().head.to_dict(), **SMALL, "image_size": 64}))
    pictures, target = stacked([framework.example(sample, None) for sample in samples])
    torch.manual_seed(0)
    model = HandPoseModel(framework.model_config("dfmamba_nano"))
    train(framework, model, pictures, target, 400, 2e-3, 16)
    with torch.no_grad():
        joints = framework.joints_cam_mm(model.eval()(pictures), target)[:, 0]
    truth = torch.from_numpy(np.stack([sample.joints_cam_mm[0] for sample in samples]))
    assert (joints - truth).norm(dim=-1).mean() < 2.0

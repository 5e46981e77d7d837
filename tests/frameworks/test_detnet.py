"""The regression framework: crops, targets, read-out, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfmamba.data.sample import LEFT, RIGHT, HandSample
from dfmamba.fixtures import synthetic_hands
from dfmamba.frameworks import Example, framework_from_dict
from dfmamba.frameworks.detnet import KNUCKLE, REFERENCE_MM, DetNet
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import PARENTS
from dfmamba.heads.detnet import DetNetOutput, heat_maps
from dfmamba.metrics import HandMetrics, root_scale_aligned
from dfmamba.models import HandPoseModel, ModelConfig, count_parameters

STILL = DetNet(brightness=0, contrast=0, saturation=0, hue=0, blur_px=0)
"""Jitter of the crop only."""

DOTS = [0, 12, 4]
"""Wrist, middle and thumb tip, which `drawn` shows in red, green and blue."""


@pytest.fixture(scope="module")
def hands() -> list[HandSample]:
    pytest.importorskip("warp")
    samples = list(synthetic_hands("single", 8, seed=3, size=96))
    assert {int(sample.present.argmax()) for sample in samples} == {RIGHT, LEFT}
    return samples


def drawn(joints_mm: np.ndarray, hand: int, camera: Camera, size: tuple[int, int]) -> HandSample:
    """A hand as three soft dots; `joints_mm` (21, 3) in the camera."""
    pixels = camera.project(joints_mm)
    y, x = np.mgrid[: size[1], : size[0]]
    channels = [np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8) for u, v in pixels[DOTS]]
    both_2d, both_3d, valid = np.zeros((2, 21, 2)), np.zeros((2, 21, 3)), np.zeros((2, 21), bool)
    both_2d[hand], both_3d[hand], valid[hand] = pixels, joints_mm, True
    return HandSample(
        image=np.round(255 * np.stack(channels, -1)).astype(np.uint8),
        joints_2d_px=both_2d,
        joints_cam_mm=both_3d,
        valid=valid,
        visible=valid,
        present=valid.any(1),
        camera=camera,
        box_xyxy=np.concatenate([pixels.min(0), pixels.max(0)]).astype(np.float32),
        id="drawn",
    )


def far_hand(seed: int, spread: float = 60.0) -> np.ndarray:
    """Joints (21, 3) mm around (0, 0, 20 m): so far that their pixels are proportional to x and y."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-spread, spread, (21, 3)) + np.array([0, 0, 20_000])


def centroids(picture: Tensor) -> np.ndarray:
    """(3, 2) pixel of the dot in each channel."""
    y, x = torch.meshgrid(torch.arange(picture.shape[1]), torch.arange(picture.shape[2]), indexing="ij")
    weights = picture.double() / picture.double().sum((1, 2), keepdim=True)
    return torch.stack([(weights * x).sum((1, 2)), (weights * y).sum((1, 2))], -1).numpy()


def perfect(example: Example, size: int = 32) -> DetNetOutput:
    """The maps that a faultless network gives."""
    target = example.target
    maps = [target[name][:, :, None, None].expand(-1, -1, size, size)[None] for name in ("delta", "location")]
    return DetNetOutput(heat_maps(target["cell"], size)[None], *maps)


def batch(examples: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
    pictures = torch.stack([example.picture for example in examples])
    return pictures, {name: torch.stack([e.target[name] for e in examples]) for name in examples[0].target}


@pytest.mark.parametrize("root", [0, 9])
def test_perfect_maps_give_the_exact_sample(hands: list[HandSample], root: int) -> None:
    framework = DetNet(root=root)
    for sample in hands:
        example = framework.example(sample, None)
        output, target = perfect(example), batch([example])[1]
        assert framework.loss(output, target)["total"].item() == 0
        location = torch.full((1, 21, 3, 32, 32), 1e3)  # only where the heat is, it counts
        for joint, (column, row) in enumerate(example.target["cell"].tolist()):
            location[0, joint, :, row, column] = example.target["location"][joint]
        for maps in (output, output._replace(location=location)):
            joints = framework.joints_cam_mm(maps, target)
            assert joints.shape == (1, 2, 21, 3)
            np.testing.assert_allclose(joints[0].numpy(), sample.joints_cam_mm, atol=1e-3)


def test_scale_of_the_read_out(hands: list[HandSample]) -> None:
    """As section 6 of the protocol says, and unscaled with the length of a mean hand."""
    _, target = batch([STILL.example(sample, None) for sample in hands])
    generator = torch.Generator().manual_seed(0)
    heat = torch.rand(len(hands), 21, 32, 32, generator=generator)
    maps = torch.randn(len(hands), 21, 3, 1, 1, generator=generator).expand(-1, -1, -1, 32, 32)
    output = DetNetOutput(heat, maps, maps)
    found = STILL.joints_cam_mm(output, target)
    free = replace(STILL, scale="reference").joints_cam_mm(output, target)
    for i, sample in enumerate(hands):
        hand = int(sample.present.argmax())
        truth = sample.joints_cam_mm[hand].astype(np.float64)
        estimate = maps[i, ..., 0, 0].double().numpy() * ((-1, 1, 1) if hand == LEFT else (1, 1, 1))
        expected = root_scale_aligned(estimate, truth, bone=(0, 9)).numpy()
        np.testing.assert_allclose(found[i, hand].numpy(), expected, rtol=1e-4, atol=1e-2)
        assert not found[i, 1 - hand].any()
        bone = free[i, hand, KNUCKLE] - free[i, hand, 0]
        assert bone.norm().item() == pytest.approx(REFERENCE_MM, rel=1e-3)
        np.testing.assert_allclose(free[i, hand, 0].numpy(), truth[0], rtol=1e-5)
    assert REFERENCE_MM == 77.0
    assert STILL.GIVEN == DetNet.GIVEN
    assert "length" in STILL.GIVEN
    assert "length" not in replace(STILL, scale="reference").GIVEN
    assert "labelled box" in replace(STILL, box="labelled").GIVEN


@pytest.mark.parametrize("root", [0, 9])
@pytest.mark.parametrize("hand", [RIGHT, LEFT])
def test_targets(hands: list[HandSample], root: int, hand: int) -> None:
    sample = next(sample for sample in hands if sample.present[hand])
    valid = sample.valid.copy()
    valid[hand, [2, 20]] = False
    sample = sample.replace(valid=valid)
    target = DetNet(root=root).example(sample, None).target
    joints = sample.joints_cam_mm[hand].astype(np.float64) * ((-1, 1, 1) if hand == LEFT else (1, 1, 1))
    bone = np.linalg.norm(joints[9] - joints[0])
    assert target["bone_mm"].item() == pytest.approx(bone, rel=1e-6)
    assert bool(target["left"]) == (hand == LEFT)
    np.testing.assert_array_equal(target["wrist_mm"].numpy(), sample.joints_cam_mm[hand, 0])
    assert target["labelled"].tolist() == valid[hand].tolist()
    for joint, parent in enumerate(PARENTS):
        if not valid[hand, joint]:
            assert not target["has_delta"][joint]
            continue
        expected = (joints[joint] - joints[root]) / bone
        np.testing.assert_allclose(target["location"][joint].numpy(), expected, atol=1e-5)
        if parent < 0:
            assert target["has_delta"][joint]
            assert not target["delta"][joint].any()
        elif not valid[hand, parent]:
            assert not target["has_delta"][joint]
        else:
            step = joints[joint] - joints[parent]
            np.testing.assert_allclose(target["delta"][joint].numpy(), step / np.linalg.norm(step), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), hand=st.sampled_from([RIGHT, LEFT]))
def test_jitter_keeps_picture_and_joints_together(seed: int, hand: int) -> None:
    """Wrist, middle and thumb tip drawn as dots: the dots lie in their cells, and as the 3D joints say."""
    camera = Camera(15_000.0, 15_000.0, 90.0, 60.0)
    sample = drawn(far_hand(seed), hand, camera, (180, 130))
    example = STILL.example(sample, np.random.default_rng(seed))
    target = example.target
    cells = target["cell"][DOTS].numpy()
    assume(((cells > 3) & (cells < 28)).all())
    found = centroids(example.picture)
    # Resampled dots of 8 bits: a few tenths of a pixel.
    assert (np.abs((found + 0.5) / 4 - (cells + 0.5)) <= 0.5 + 0.1).all()
    pixels = (found - found[0])[1:].ravel()
    plane = (target["location"][DOTS, :2] - target["location"][0, :2])[1:].double().numpy().ravel()
    scale = pixels @ plane / (plane @ plane)
    np.testing.assert_allclose(pixels, scale * plane, atol=0.6)
    assert scale > 0


@pytest.mark.parametrize("hand", [RIGHT, LEFT])
def test_mirroring_and_cropping_are_exact(hand: int) -> None:
    """One pixel of the picture is here four pixels of the crop, one cell of the maps."""
    joints = far_hand(11, spread=8.0)
    sample = drawn(joints, hand, Camera(20_000.0, 20_000.0, 40.0, 30.0), (81, 60))
    extent = np.ptp(sample.joints_2d_px[hand], axis=0).max()
    example = replace(STILL, factor=32.0 / extent).example(sample, None)
    pixels = sample.joints_2d_px[hand].astype(np.float64)
    if hand == LEFT:
        pixels[:, 0] = 80 - pixels[:, 0]
    centre = np.floor((pixels.min(0) + pixels.max(0)) / 2)
    expected = (pixels - centre + 16) * 4 - 0.5
    assert (example.target["cell"].numpy() == np.floor((expected + 0.5) / 4)).all()
    np.testing.assert_allclose(centroids(example.picture), expected[DOTS], atol=0.3)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.floats(-300, 300), min_size=42, max_size=42),
    hand=st.sampled_from([RIGHT, LEFT]),
    box=st.sampled_from(["joints", "labelled"]),
    factor=st.floats(1.0, 3.0),
    flat=st.booleans(),
)
def test_any_box(numbers: list[float], hand: int, box: Any, factor: float, flat: bool) -> None:
    """All joints lie in the crop, whatever it is built on, or the sample is refused by name."""
    pixels = np.array(numbers, np.float32).reshape(21, 2) * (0 if flat else 1) + np.float32(40)
    base = drawn(far_hand(0), hand, Camera(15_000.0, 15_000.0, 40.0, 40.0), (80, 80))
    both = np.zeros((2, 21, 2), np.float32)
    both[hand] = pixels
    low, high = pixels.min(0), pixels.max(0)
    sample = base.replace(joints_2d_px=both, box_xyxy=np.concatenate([low, high]))
    framework = replace(STILL, box=box, factor=factor, integer_centre=False)
    if not (high - low).max() > 0:
        with pytest.raises(ValueError, match="sample 'drawn'"):
            framework.example(sample, None)
        return
    example = framework.example(sample, None)
    assert example.picture.shape == (3, 128, 128)
    cells = example.target["cell"]
    assert ((cells >= -1) & (cells <= 32)).all()  # the edge itself, rounded
    if (high - low).max() > 1:
        extent = (cells.amax(0) - cells.amin(0)).max().item()
        assert extent == pytest.approx(32 / factor, abs=1.01)


def test_centre_and_smallest_side() -> None:
    sample = drawn(far_hand(2), RIGHT, Camera(15_000.0, 15_000.0, 40.3, 40.4), (80, 80))
    plain = STILL._crop_box(sample)
    centre = (sample.box_xyxy[:2] + sample.box_xyxy[2:]) / 2
    np.testing.assert_allclose((plain[:2] + plain[2:]) / 2, np.floor(centre), atol=1e-4)
    side = 2 * (sample.box_xyxy[2:] - sample.box_xyxy[:2]).max()
    np.testing.assert_allclose(plain[2:] - plain[:2], side, rtol=1e-5)
    large = replace(STILL, least_px=500, integer_centre=False)._crop_box(sample)
    np.testing.assert_allclose(large, [*(centre - 250), *(centre + 250)], rtol=1e-5)


def test_published_jitter() -> None:
    rng = np.random.default_rng(0)
    boxes = np.stack([STILL._jittered(np.array([10.0, 20, 110, 120]), rng) for _ in range(4000)])
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0]
    np.testing.assert_allclose(centres.min(0), [50, 60], atol=0.2)
    np.testing.assert_allclose(centres.max(0), [70, 80], atol=0.2)
    np.testing.assert_allclose(centres.std(0), 20 / 12**0.5, rtol=0.03)
    assert sides.min() == pytest.approx(90)
    assert sides.max() == pytest.approx(110)
    # A normal number is clipped at one standard deviation in 31.7 % of all cases.
    assert np.isin(sides.round(6), [90, 110]).mean() == pytest.approx(0.317, abs=0.03)


def test_colours_change_only_as_told(hands: list[HandSample]) -> None:
    image = hands[0].image
    assert image is not None
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(STILL._recoloured(image, rng), image)
    for changed in ("brightness", "contrast", "saturation", "hue", "blur_px"):
        found = replace(STILL, **{changed: 0.5})._recoloured(image, rng)
        assert (found.dtype, found.shape) == (np.uint8, image.shape)
        assert (found != image).any(), changed


def test_same_seed_same_example(hands: list[HandSample]) -> None:
    one, same, other = (DetNet().example(hands[0], np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.picture, same.picture)
    assert all(torch.equal(one.target[name], same.target[name]) for name in one.target)
    assert not torch.equal(one.picture, other.picture)


def test_unusable_samples(hands: list[HandSample]) -> None:
    sample = hands[0]
    hand = int(sample.present.argmax())

    def without(joint: int) -> HandSample:
        valid = sample.valid.copy()
        valid[hand, joint] = False
        return sample.replace(valid=valid)

    joints = sample.joints_cam_mm.copy()
    joints[hand, 9] = joints[hand, 0]
    none = sample.valid & False
    corner = drawn(far_hand(0), hand, Camera(15_000.0, 15_000.0, 40.0, 40.0), (80, 80))
    for wrong, message in (
        (sample.replace(image=None), "no picture"),
        (sample.replace(present=np.array([True, True])), "not exactly one hand"),
        (sample.replace(present=np.array([False, False]), valid=none), "not exactly one hand"),
        (without(0), "wrist or of the middle knuckle"),
        (without(9), "wrist or of the middle knuckle"),
        (sample.replace(joints_cam_mm=joints), "one point"),
    ):
        with pytest.raises(ValueError, match=f"sample '{sample.id}': .*{message}"):
            DetNet().example(wrong, None)
    oblong = corner.replace(camera=Camera(15_000.0, 14_000.0, 40.0, 40.0))
    with pytest.raises(ValueError, match="sample 'drawn': can't be cropped"):
        DetNet().example(oblong, np.random.default_rng(0))
    box = np.array([500, 500, 510, 510], np.float32)
    with pytest.raises(ValueError, match="no joint lies in the crop"):
        DetNet(box="labelled").example(corner.replace(box_xyxy=box), None)
    nyu = HandSample(
        np.zeros((9, 9, 3), np.uint8), np.zeros((2, 14, 2)), np.zeros((2, 14, 3)), none[:, :14], none[:, :14],
        np.array([True, False]), None, np.zeros(4), order="nyu14",
    )  # fmt: skip
    with pytest.raises(ValueError, match="'nyu14'"):
        DetNet().example(nyu, None)


def test_unusable_settings() -> None:
    for name, value in (
        ("image_size", 126), ("factor", 0.0), ("root", 4), ("box", "mask"), ("scale", "mean"), ("zoom", 1.0),
        ("hue", 0.6), ("rotation_deg", -1.0), ("heat_weight", -1.0), ("loss_form", "mean"),
    ):  # fmt: skip
        values: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=str(value)):
            DetNet(**values)


def test_settings_and_model_as_plain_values() -> None:
    framework = DetNet(image_size=64, width=8, factor=1.75, root=9, scale="reference")
    config = framework.model_config("dfmamba_test", drop_path_rate=0.1)
    read = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert read.framework is not None
    assert framework_from_dict(read.framework) == framework
    assert (config.input_scale, config.input_shift, config.image_size) == (1.0, -0.5, 64)
    with pytest.raises(ValueError, match="unknown setting 'sharp'"):
        framework_from_dict({**framework.to_dict(), "sharp": 1})
    with pytest.raises(ValueError, match="unknown backbone"):
        framework.model_config("resnet5000")
    output = HandPoseModel(read).eval()(torch.zeros(2, 3, 64, 64))
    assert output.location.shape == (2, 21, 3, 16, 16)


def test_published_size_on_resnet50() -> None:
    """23.51 M + neck and heads = 36.06 M."""
    pytest.importorskip("timm")
    with torch.device("meta"):
        model = HandPoseModel(DetNet().model_config("resnet50"))
    assert count_parameters(model.backbone) == 23_508_032
    assert count_parameters(model) == 36_059_859


def test_published_figures_against_their_definition() -> None:
    """Wrist and bone aligned, 15 thresholds from 20 to 50 mm, per joint first, the wrist counted."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 60, (12, 21, 3))
    estimate = 1.3 * (truth + rng.normal(0, 25, truth.shape)) + 100
    metrics = HandMetrics()
    metrics.update(estimate, truth)
    values = metrics.compute()
    errors = np.empty((12, 21))
    for i in range(12):
        bone = np.linalg.norm(truth[i, 9] - truth[i, 0]) / np.linalg.norm(estimate[i, 9] - estimate[i, 0])
        aligned = truth[i, 0] + bone * (estimate[i] - estimate[i, 0])
        errors[i] = np.linalg.norm(aligned - truth[i], axis=-1)
    assert values["mpjpe_bone_scaled_mm"] == pytest.approx(errors.mean())
    shares = np.stack([(errors <= threshold).mean(0) for threshold in np.linspace(20, 50, 15)])
    area = ((shares[1:] + shares[:-1]) / 2).mean(0)
    assert values["auc_bone_scaled_20_50"] == pytest.approx(area.mean())


def train(
    model: HandPoseModel, framework: DetNet, examples: list[Example], steps: int, lr: float
) -> list[float]:
    """Full batches without augmentation; the losses."""
    pictures, target = batch(examples)
    optimizer = torch.optim.Adam(model.train().parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        loss = framework.loss(model(pictures), target)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def test_loss_falls(hands: list[HandSample]) -> None:
    torch.manual_seed(0)
    framework = DetNet(image_size=64, width=16)
    model = HandPoseModel(framework.model_config("dfmamba_test"))
    losses = train(model, framework, [framework.example(sample, None) for sample in hands], 20, 1e-2)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.slow
def test_learns_32_samples_by_heart() -> None:
    pytest.importorskip("warp")
    torch.manual_seed(0)
    samples = list(synthetic_hands("single", 32, seed=5, size=128))
    framework = DetNet(image_size=64, width=64)
    model = HandPoseModel(framework.model_config("dfmamba_nano"))
    examples = [framework.example(sample, None) for sample in samples]
    train(model, framework, examples, 600, 2e-3)
    pictures, target = batch(examples)
    with torch.no_grad():
        found = framework.joints_cam_mm(model.eval()(pictures), target)
    present = torch.from_numpy(np.stack([sample.present for sample in samples]))
    truth = torch.from_numpy(np.stack([sample.joints_cam_mm for sample in samples]))
    metrics = HandMetrics()
    metrics.update(found[present], truth[present])
    assert metrics.compute()["mpjpe_bone_scaled_mm"] < 2.0

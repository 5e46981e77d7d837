"""InterNet's crop, augmentation and target: geometry, validity rules, pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.data.sample import HandSample
from dfmamba.frameworks.internet import (
    Augmentation,
    Change,
    crop_map,
    crop_picture,
    draw_change,
    target_25d,
    trainable,
    wrist_masked,
)
from dfmamba.hands.affine import Affine, box_of_points
from dfmamba.hands.camera import Camera
from dfmamba.hands.crop import flip_sample

QUICK = settings(deadline=None, max_examples=60)
CAMERA = Camera(410.0, 400.0, 66.0, 40.0)
WIDTH, HEIGHT = 130, 90


def sample(seed: int = 0, hands: tuple[bool, bool] = (True, True)) -> HandSample:
    """Two hands of random joints about 700 mm away on a noise picture."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform(-40, 40, (2, 21, 3)) + np.array([[[-30, 5, 700]], [[35, 0, 720]]])
    valid = np.repeat(np.array(hands)[:, None], 21, axis=1)
    joints = np.where(valid[..., None], joints, 0.0)
    pixels = np.where(valid[..., None], CAMERA.project(joints), 0.0)
    x0, y0, x1, y1 = box_of_points(pixels, valid)
    return HandSample(
        image=rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
        joints_2d_px=pixels.astype(np.float32),
        joints_cam_mm=joints.astype(np.float32),
        valid=valid,
        visible=valid,
        present=np.array(hands),
        camera=CAMERA,
        box_xyxy=np.array([x0 - 3, y0 - 1, x1 + 2, y1 + 5], np.float32),
        id="made",
    )


boxes = st.tuples(st.floats(-50, 200), st.floats(-50, 200), st.floats(0.5, 300), st.floats(0.5, 300)).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]])
)
changes = st.builds(
    Change,
    shift=st.tuples(st.floats(-0.15, 0.15), st.floats(-0.15, 0.15)),
    scale=st.floats(0.75, 1.25),
    rotation_rad=st.floats(-1.6, 1.6),
)


@QUICK
@given(box=boxes, change=changes, size=st.integers(16, 256))
def test_the_map_is_the_three_point_map_up_to_half_a_pixel(
    box: np.ndarray, change: Change, size: int
) -> None:
    """Centre, and the two points half a side away along the turned axes, of datasets.md section 0."""
    affine = crop_map(box, size, 1.25, change)
    side = 1.25 * max(box[2] - box[0], box[3] - box[1])
    centre = (box[:2] + box[2:]) / 2 + side * np.array(change.shift)
    cos, sin = np.cos(change.rotation_rad), np.sin(change.rotation_rad)
    half = side * change.scale / 2
    source = np.array([centre, centre + half * np.array([-sin, cos]), centre + half * np.array([cos, sin])])
    wanted = np.array([[size / 2, size / 2], [size / 2, size], [size, size / 2]]) - 0.5
    np.testing.assert_allclose(affine.apply(source), wanted, atol=1e-6)
    np.testing.assert_allclose(affine.inverse().apply(wanted), source, atol=1e-6)


@QUICK
@given(seed=st.integers(0, 20), change=changes, mirror=st.booleans())
def test_target_and_map_are_inverses(seed: int, change: Change, mirror: bool) -> None:
    given_sample = sample(seed)
    if mirror:
        given_sample = flip_sample(given_sample)
    affine = crop_map(given_sample.box_xyxy, 256, 1.25, change)
    target = target_25d(given_sample, affine).astype(np.float64)
    assert given_sample.camera is not None
    z = target[..., 2] + given_sample.joints_cam_mm[:, :1, 2]
    back = given_sample.camera.unproject(affine.inverse().apply(target[..., :2]), z)
    np.testing.assert_allclose(back, given_sample.joints_cam_mm, atol=1e-2)


def test_empty_box_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        crop_map(np.array([3.0, 4.0, 3.0, 4.0]), 64, 1.25, Change())


@pytest.mark.parametrize("hands", [(True, True), (True, False), (False, True)])
def test_flip_is_an_involution_that_swaps_the_hands(hands: tuple[bool, bool]) -> None:
    before = sample(3, hands)
    once = flip_sample(before)
    assert once.present.tolist() == list(hands)[::-1]
    x0, _, x1, _ = before.box_xyxy
    np.testing.assert_allclose(once.box_xyxy[[0, 2]], [WIDTH - 1 - x1, WIDTH - 1 - x0])
    np.testing.assert_allclose(
        once.joints_2d_px[1, :, 0][before.valid[0]],
        WIDTH - 1 - before.joints_2d_px[0, :, 0][before.valid[0]],
        atol=1e-4,
    )
    twice = flip_sample(once)
    assert before.image is not None
    assert twice.image is not None
    np.testing.assert_array_equal(twice.image, before.image)
    np.testing.assert_allclose(twice.joints_2d_px, before.joints_2d_px, atol=1e-4)
    np.testing.assert_allclose(twice.joints_cam_mm, before.joints_cam_mm)
    np.testing.assert_allclose(twice.box_xyxy, before.box_xyxy, atol=1e-4)
    np.testing.assert_array_equal(twice.valid, before.valid)
    assert twice.camera == before.camera


def test_draws_keep_to_the_published_numbers() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_change(Augmentation(), rng) for _ in range(4000)]
    shifts = np.array([c.shift for c in drawn])
    scales = np.array([c.scale for c in drawn])
    angles = np.rad2deg([c.rotation_rad for c in drawn])
    colours = np.array([c.colour for c in drawn])
    assert np.abs(shifts).max() <= 0.15
    assert shifts.std() == pytest.approx(0.3 / np.sqrt(12), rel=0.05)
    assert (scales.min(), scales.max()) == (0.75, 1.25)  # 32 % of the draws are cut at one standard deviation
    assert np.isin(scales, (0.75, 1.25)).mean() == pytest.approx(0.317, abs=0.03)
    assert np.abs(angles).max() == pytest.approx(90.0)
    assert (angles != 0).mean() == pytest.approx(0.6, abs=0.03)
    assert angles[angles != 0].std() == pytest.approx(45 * 0.96, rel=0.05)
    assert np.mean([c.flip for c in drawn]) == pytest.approx(0.5, abs=0.03)
    assert (colours.min() >= 0.8) & (colours.max() <= 1.2)
    assert colours.std() == pytest.approx(0.4 / np.sqrt(12), rel=0.05)


def test_nothing_is_drawn_from_zeros() -> None:
    still = Augmentation(0, 0, 0, 0, 0, 0)
    assert draw_change(still, np.random.default_rng(0)) == Change()


@pytest.mark.parametrize(
    "values", [{"flip": 1.5}, {"scale": -0.1}, {"scale": 1.0}, {"rotation_deg": float("nan")}, {"zoom": 1}]
)
def test_bad_ranges_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(values))}"):
        Augmentation.from_dict(values)


def test_picture_and_joints_move_together() -> None:
    """A bright dot at a joint is found at the joint's place in the crop."""
    base = sample(5)
    joint = base.joints_2d_px[0, 7].round()
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[int(joint[1]) - 1 : int(joint[1]) + 2, int(joint[0]) - 1 : int(joint[0]) + 2] = 255
    for seed, mirror in ((0, False), (1, True), (2, True)):
        changed = base.replace(image=image)
        point = joint.astype(np.float64)
        change = draw_change(Augmentation(rotation_share=1.0), np.random.default_rng(seed))
        if mirror:
            changed, point = flip_sample(changed), np.array([WIDTH - 1 - joint[0], joint[1]])
        assert changed.image is not None
        affine = crop_map(changed.box_xyxy, 128, 1.25, change)
        crop = crop_picture(changed.image, affine, 128)
        total = crop[0].sum()
        ys, xs = np.mgrid[:128, :128]
        centre = np.array([(crop[0] * xs).sum(), (crop[0] * ys).sum()]) / total
        np.testing.assert_allclose(centre, affine.apply(point), atol=0.2)


def test_colours_are_scaled_and_cut() -> None:
    image = np.full((8, 8, 3), (100, 200, 50), np.uint8)
    crop = crop_picture(image, Affine.identity(), 8, (1.2, 1.3, 0.8))
    np.testing.assert_allclose(crop[:, 4, 4] * 255, [120, 255, 40], rtol=1e-5)
    assert crop.dtype == np.float32
    assert crop.shape == (3, 8, 8)


def test_outside_of_the_picture_is_black() -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    crop = crop_picture(image, crop_map(np.array([4.0, 4.0, 12.0, 12.0]), 16, 1.0, Change()), 16)
    assert crop[:, 12:].max() == 0
    assert crop[:, :5, :5].min() > 0.7


def test_validity_rules() -> None:
    joints = np.zeros((2, 21, 3))
    joints[..., :2] = 100.0
    valid = np.ones((2, 21), bool)
    expected = valid.copy()
    cases = [
        (1, (-0.6, 5.0, 0.0), False),
        (2, (-0.5, 255.49, 0.0), True),
        (3, (255.5, 5.0, 0.0), False),
        (4, (5.0, 256.0, 0.0), False),
        (5, (5.0, 5.0, -200.0), True),
        (6, (5.0, 5.0, -200.1), False),
        (7, (5.0, 5.0, 199.9), True),
        (8, (5.0, 5.0, 200.0), False),
    ]
    for joint, value, kept in cases:
        joints[0, joint] = value
        expected[0, joint] = kept
    valid[0, 9] = expected[0, 9] = False
    valid[1, 0] = False
    expected[1] = False
    np.testing.assert_array_equal(trainable(joints, valid, 256, 200.0), expected)
    counted = wrist_masked(valid)
    assert counted[0].sum() == 20
    assert not counted[1].any()
